"""From a config to an objective, and what each needs of the tokenizer and the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foundling.core.errors import FoundlingError
from foundling.models.config import AttentionConfig, ModelConfig
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.config import ObjectiveName, PretrainConfig
from foundling.training.objective import Objective
from foundling.training.objectives.causal import Causal
from foundling.training.objectives.fill_in_the_middle import SENTINELS, FillInTheMiddle
from foundling.training.objectives.masked import MASK, Masked
from foundling.training.objectives.masked_diffusion import MaskedDiffusion
from foundling.training.objectives.prefix_lm import PrefixLM
from foundling.training.objectives.span_corruption import SpanCorruption, sentinel_names, ul2_denoisers
from foundling.training.token_files import TokenSplit

UL2_MODES = ("<|denoise_regular|>", "<|denoise_extreme|>", "<|denoise_sequential|>")
BOTH_WAYS = ("masked", "masked_diffusion")  # every token sees the whole row


def special_tokens(config: PretrainConfig, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The tokens that the objective needs in the vocabulary; a mask that the tokenizer has is taken."""
    own = tokenizer.config.get("mask_token") or MASK
    mask = own["content"] if isinstance(own, dict) else str(own)
    spans = sentinel_names(1 + config.context // 4)
    needs: dict[ObjectiveName, tuple[str, ...]] = {
        "fill_in_the_middle": SENTINELS,
        "masked": (mask,),
        "masked_diffusion": (mask,),
        "span_corruption": spans,
        "ul2": (*UL2_MODES, *spans),
    }
    return needs.get(config.objective, ())


def with_special_tokens(tokenizer: Tokenizer, names: tuple[str, ...]) -> Tokenizer:
    """A tokenizer that has these control tokens; those it lacks get the next free ids."""
    missing = [name for name in names if tokenizer.id_of(name) is None]
    if not missing:
        return tokenizer
    tokenizer.fast.add_special_tokens(missing)
    return Tokenizer(tokenizer.fast, tokenizer.config | ({"mask_token": MASK} if MASK in missing else {}))


def seeing_both_ways(model: ModelConfig) -> ModelConfig:
    """The same architecture with attention in both directions, as an encoder; kept as a `foundling` model.

    Raises:
        FoundlingError: a layer that is not attention.
    """
    blocks = []
    for number, block in enumerate(model.blocks):
        if not isinstance(block.mixer, AttentionConfig):
            what = f"this objective needs a model that sees both ways, and layer {number} is {block.mixer.kind}"
            raise FoundlingError(what, "only attention can look both ways", "Choose a preset of attention alone")
        blocks.append(block.model_copy(update={"mixer": block.mixer.model_copy(update={"causal": False})}))
    return model.model_copy(update={"family": "foundling", "blocks": tuple(blocks)})


def build_objective(config: PretrainConfig, split: TokenSplit, tokenizer: Tokenizer) -> Objective:
    """The objective that the config names, on a split of tokens."""
    ids = tuple(tokenizer.special_tokens[name] for name in special_tokens(config, tokenizer))
    common = (split, config.context, config.batch_size, config.seed)
    makers: dict[ObjectiveName, Callable[[], Objective]] = {
        "causal": lambda: Causal(
            *common, best_fit=config.packing == "best_fit", document_mask=config.document_mask, z_loss=config.z_loss
        ),
        "prefix_lm": lambda: PrefixLM(*common, z_loss=config.z_loss),
        "fill_in_the_middle": lambda: FillInTheMiddle(
            *common, sentinels=(ids[0], ids[1], ids[2]), rate=config.fill_in_rate, z_loss=config.z_loss
        ),
        "masked": lambda: Masked(
            *common,
            mask_id=ids[0],
            rate=config.mask_rate,
            begins_word=word_starts(tokenizer) if config.whole_words else None,
        ),
        "masked_diffusion": lambda: MaskedDiffusion(*common, mask_id=ids[0]),
        "span_corruption": lambda: SpanCorruption(*common, sentinels=ids),
        "ul2": lambda: SpanCorruption(*common, sentinels=ids[3:], denoisers=ul2_denoisers((ids[0], ids[1], ids[2]))),
    }
    return makers[config.objective]()


def word_starts(tokenizer: Tokenizer) -> np.ndarray:  # type: ignore[type-arg]
    """(vocab,) bool: the token begins with a space, a line break or other character that no word contains."""
    first = [tokenizer.token_bytes(i)[:1] for i in range(tokenizer.vocab_size)]
    return np.array([not (byte.isalnum() or byte >= b"\x80") for byte in first])
