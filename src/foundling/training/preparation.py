"""What a pretraining run is made of, built the same way in this process and in each of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from foundling.core.errors import FoundlingError
from foundling.models.build import build
from foundling.models.checkpoint import load_module
from foundling.models.language_model import LanguageModel, require_left_to_right
from foundling.models.presets import preset
from foundling.models.quantized import refuse_to_train_compressed
from foundling.tokenization.extend import grow
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.bits_per_byte import HeldOut
from foundling.training.config import PretrainConfig
from foundling.training.objective import Objective
from foundling.training.objectives.choices import (
    BOTH_WAYS,
    build_objective,
    seeing_both_ways,
    special_tokens,
    with_special_tokens,
)
from foundling.training.token_files import TokenSplit
from foundling.training.width import scale_head

PROBE = (
    "def probe(x):\n    return 'Grüße, 世界' + str(x ** 2)  # 1234567890\n"  # two tokenizers that agree on it are one
)
VALIDATION_BATCHES = 16


@dataclass
class Preparation:
    """Model, data and objective of a run. `tokenizer` has the control tokens that the objective needs."""

    module: LanguageModel
    tokenizer: Tokenizer
    train: TokenSplit
    held_out: HeldOut
    objective: Objective
    evaluate: Callable[[nn.Module], dict[str, float]]


def prepare(config: PretrainConfig, tokens: Path, base: Path | None) -> Preparation:
    """Read the tokens and make or load the model.

    Raises:
        FoundlingError: too little text, or a base model of another vocabulary.
    """
    of_tokens = Tokenizer.load(tokens)
    own = Tokenizer.load(base or tokens)
    tokenizer = with_special_tokens(own, special_tokens(config, own))
    train = TokenSplit(tokens, "train", planned_rows=config.steps * config.batch_size)
    validation = TokenSplit(tokens, "validation")
    module = start(config, base, of_tokens, tokenizer)
    held_out = HeldOut(validation, config.context, config.validation_tokens)
    evaluate = held_out.score
    if config.objective in BOTH_WAYS:
        evaluate = OwnLoss(build_objective(config, validation, tokenizer)).score
    return Preparation(module, tokenizer, train, held_out, build_objective(config, train, tokenizer), evaluate)


def start(config: PretrainConfig, base: Path | None, of_tokens: Tokenizer, tokenizer: Tokenizer) -> LanguageModel:
    """The model to train: a preset with random weights, or the base model, if its tokenizer made the tokens.

    A base model gets rows for control tokens that the objective needs, and sees both ways if the objective does.
    """
    if base is None:
        positions = max(2048, config.context)
        shape = preset(config.preset, vocab_size=tokenizer.vocab_size, max_positions=positions)
        if config.objective in BOTH_WAYS:
            shape = seeing_both_ways(shape)
        shape = shape.model_copy(update={"tie_embeddings": shape.tie_embeddings and not config.untie})
        ids = {"eos_token_id": tokenizer.eot_id, "pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id}
        module = build(shape.model_copy(update=ids), config.seed)
        scale_head(module, config.base_width)
        return module
    module = load_module(base)
    refuse_to_train_compressed(module)
    own = Tokenizer.load(base)
    if own.encode(PROBE) != of_tokens.encode(PROBE):
        what = "the tokens were made with another tokenizer than the base model's"
        raise FoundlingError(what, fix="Tokenize the corpus with the base as the `tokenizer` input")
    if config.objective not in BOTH_WAYS:
        require_left_to_right(module.config)
    elif module.config.head.kind not in ("lm", "mlm"):
        what = f"objective {config.objective!r} names hidden tokens, and this {module.config.family} base cannot"
        raise FoundlingError(what, "it has no head over the vocabulary", "Choose a base with a language model's head")
    if tokenizer.vocab_size > own.vocab_size:
        unlike_any: list[list[int]] = [[]] * (tokenizer.vocab_size - own.vocab_size)
        grow(module, tokenizer.vocab_size, own.vocab_size, unlike_any, "random", config.seed)
    return both_ways(module) if config.objective in BOTH_WAYS and module.config.causal else module


def both_ways(module: LanguageModel) -> LanguageModel:
    """The same weights (shared, not copied) with attention in both directions."""
    with torch.device("meta"):
        encoder = LanguageModel(seeing_both_ways(module.config))
    encoder.load_state_dict(module.state_dict(keep_vars=True), assign=True)
    return encoder.requires_grad_(True)


class OwnLoss:
    """An objective's own loss on held-out text, for objectives that give no likelihood of a text."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def score(self, module: nn.Module) -> dict[str, float]:
        """`loss`: the mean over some fixed batches."""
        where = next(module.parameters()).device
        batches = (self.objective.batch(step).to(where) for step in range(VALIDATION_BATCHES))
        with torch.no_grad():
            parts = [self.objective.loss(module, batch) for batch in batches]
        return {"loss": sum(float(part.total) for part in parts) / sum(float(part.count) for part in parts)}
