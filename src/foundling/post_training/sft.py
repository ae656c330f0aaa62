"""The stage `sft`: supervised fine-tuning. The one chat renderer says what the assistant must learn to say."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.models.build import build
from foundling.models.language_model import LanguageModel
from foundling.post_training.config import OWN_EXPRESSIONS, SFTConfig
from foundling.post_training.data import Example, read_examples
from foundling.post_training.own_samples import right_answers, sample_answers, training_items
from foundling.post_training.packing import Encoded, PackedRows
from foundling.post_training.tuning import load_base, tune, tuned_card, write_tuned
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum


class SupervisedFineTuning:
    """Cross entropy of the assistant's tokens, given everything before them (Ouyang et al. 2022, arXiv:2203.02155)."""

    def __init__(self, rows: PackedRows, batch_size: int, noise: float = 0.0) -> None:
        self.rows, self.batch_size, self.noise = rows, batch_size, noise

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Packed rows number step·batch_size and following."""
        return self.rows.batch(step * self.batch_size, self.batch_size)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed over the assistant's tokens, in nats; the count is their number."""
        with noisy_embeddings(model, self.noise):
            return next_token_loss(model, batch)


@contextlib.contextmanager
def noisy_embeddings(model: Any, alpha: float) -> Iterator[None]:
    """Add uniform noise of size α/√(length · dim) to the embeddings while training in the block.

    Jain et al. 2023, "NEFTune", arXiv:2310.05914, algorithm 1.
    """

    def add(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        if not model.training:
            return embedded
        size = alpha / math.sqrt(embedded.shape[1] * embedded.shape[2])
        return embedded + torch.empty_like(embedded).uniform_(-size, size)

    if alpha == 0:
        yield
        return
    hook = model.embedding.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def build_sft(config: SFTConfig, inputs: Inputs, draft: Draft) -> None:
    """Fine-tune the base model on chats and write it as a Hugging Face directory.

    Raises:
        FoundlingError: rows that are no chats, examples longer than the context, or what the loop refuses.
    """
    base = inputs["base"]
    module, tokenizer = load_base(base, config)
    if config.init == "random":
        module = build(module.config, config.seed)
    examples, skipped = read_examples(config)
    if OWN_EXPRESSIONS in config.data:
        examples += _own_examples(config, module, tokenizer, draft)
    if not examples:
        raise FoundlingError(f"there is no example in {', '.join(config.data)}", f"skipped: {skipped or 'nothing'}")
    encoded, too_long = encode(examples, tokenizer, config)
    rows = PackedRows(encoded, config.context, tokenizer.pad_id, config.seed)
    steps = config.steps or max(1, round(rows.rows_in(config.epochs) / config.batch_size))
    resolved = config.model_copy(update={"steps": steps})
    objective = SupervisedFineTuning(rows, config.batch_size, config.noise)
    summary = tune(module, objective, resolved, base, draft, "sft", module.config)
    draft.metrics |= {"examples": len(encoded), "skipped": skipped | too_long}
    start = "a base model" if config.init == "base" else "random weights (a control: the base gives only its shape)"
    card = tuned_card(
        "Fine-tuned language model",
        f"Fine-tuned from {start} on {len(encoded):,} examples of {', '.join(config.data)}. It answers chats.",
        resolved,
        inputs,
        {"Training loss (nats a token of the answers)": {"last steps": summary.loss}},
        ("It answers the kind of request it was trained on; elsewhere its answers are not to be relied on.",),
    )
    write_tuned(module, tokenizer, resolved, base, draft, card)


def _own_examples(config: SFTConfig, module: LanguageModel, tokenizer: Tokenizer, draft: Draft) -> list[Example]:
    """The base's own right answers to the task."""
    items = training_items(config.examples, config.seed, "rejection")
    saved = draft.scratch / "answers.jsonl"
    graded = sample_answers(module, tokenizer, items, config.samples, 1.0, config.max_tokens, config.seed, saved)
    draft.metrics |= {"answers": len(graded), "answers_right": sum(a.passed for a in graded) / len(graded)}
    return right_answers(graded, config.keep, config.seed)


def encode(
    examples: Sequence[Example], tokenizer: Tokenizer, config: SFTConfig
) -> tuple[list[Encoded], dict[str, int]]:
    """Examples as tokens, and how many were cut or left out because they are longer than the context.

    Raises:
        FoundlingError: an example is too long and the policy is to refuse, or none is left.
    """
    counts: Counter[str] = Counter()
    encoded = []
    for example in examples:
        rendered = render(tokenizer, example.messages, tools=example.tools or None)
        ids, mask = rendered.ids, rendered.loss_mask
        if len(ids) > config.context + 1:
            if config.too_long == "refuse":
                what = f"{example.source} has {len(ids)} tokens, more than the context of {config.context}"
                raise FoundlingError(what, fix="Set a larger context, or too_long to 'skip' or 'truncate'")
            counts[f"longer than the context: {config.too_long}"] += 1
            ids, mask = ids[: config.context + 1], mask[: config.context + 1]
            if config.too_long == "skip" or not any(mask[1:]):  # nothing to learn is left of it
                continue
        encoded.append(Encoded(ids, mask, example.source))
    if not encoded:
        raise FoundlingError(f"no example fits in a context of {config.context} tokens")
    return encoded, dict(counts)
