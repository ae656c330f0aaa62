"""The stage `sft`: supervised fine-tuning. The one chat renderer says what the assistant must learn to say."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError
from foundling.core.hardware import device
from foundling.core.stages import Inputs
from foundling.models.build import build
from foundling.models.language_model import LanguageModel
from foundling.post_training.config import EXPRESSIONS, OWN_EXPRESSIONS, SFTConfig
from foundling.post_training.data import (
    Example,
    InvalidRow,
    as_example,
    existing_file,
    expression_examples,
    read_rows,
    sources,
)
from foundling.post_training.own_samples import right_answers, sample_answers, training_prompts
from foundling.post_training.packing import Encoded, PackedRows
from foundling.post_training.rewards import Prompted, as_prompted, is_prompted
from foundling.post_training.tuning import load_base, prepare, tune, tuned_card, write_tuned
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
    module, tokenizer = load_base(base)
    if config.init == "random":
        module = build(module.config, config.seed).to(device())
    skipped: Counter[str] = Counter()
    data = sources(config, inputs)
    examples, prompts = _given(config, data, skipped)
    if prompts:
        examples += _own_examples(config, prompts, module, tokenizer, draft)
    prepare(module, config)
    if not examples:
        left_out = f"skipped: {dict(skipped) or 'nothing'}"
        raise FoundlingError(f"there is no example in {', '.join(data)}", left_out)
    encoded, too_long = encode(examples, tokenizer, config)
    rows = PackedRows(encoded, config.context, tokenizer.pad_id, config.seed)
    steps = config.steps or max(1, round(rows.rows_in(config.epochs) / config.batch_size))
    resolved = config.model_copy(update={"steps": steps})
    objective = SupervisedFineTuning(rows, config.batch_size, config.noise)
    summary = tune(module, objective, resolved, base, draft, "sft", module.config)
    draft.metrics |= {"examples": len(encoded), "skipped": dict(skipped) | too_long}
    names = ", ".join(Path(entry).name for entry in data)
    start = "a base model" if config.init == "base" else "random weights (a control: the base gives only its shape)"
    card = tuned_card(
        "Fine-tuned language model",
        f"Fine-tuned from {start} on {len(encoded):,} examples of {names}. It answers chats.",
        resolved,
        inputs,
        {"Training loss (nats a token of the answers)": {"last steps": summary.loss}},
        ("It answers the kind of request it was trained on; elsewhere its answers are not to be relied on.",),
    )
    write_tuned(module, tokenizer, resolved, base, draft, card)


def _given(config: SFTConfig, data: Sequence[str], skipped: Counter[str]) -> tuple[list[Example], list[Prompted]]:
    """The examples of `data`, and the prompts for which the base's own right answers become examples.

    Raises:
        FoundlingError: a missing file, or a broken row (with `invalid: refuse`).
    """

    def convert(row: Any, where: str) -> Example | Prompted:
        return as_prompted(row, where) if is_prompted(row) else as_example(row, where)

    examples: list[Example] = []
    prompts: list[Prompted] = []
    for entry in data:
        if entry == EXPRESSIONS:
            examples += expression_examples(config.examples, config.seed)
        elif entry == OWN_EXPRESSIONS:
            prompts += training_prompts(config.examples, config.seed, "rejection")
        else:
            rows = read_rows(existing_file(Path(entry).expanduser()), convert, config.invalid, skipped)
            examples += [row for row in rows if isinstance(row, Example)]
            prompts += [row for row in rows if isinstance(row, Prompted)]
    return examples, prompts


def _own_examples(
    config: SFTConfig, prompts: Sequence[Prompted], module: LanguageModel, tokenizer: Tokenizer, draft: Draft
) -> list[Example]:
    """The base's own right answers."""
    saved = draft.scratch / "answers.jsonl"
    graded = sample_answers(module, tokenizer, prompts, config, saved)
    draft.metrics |= {"answers": len(graded), "answers_right": sum(a.passed for a in graded) / len(graded)}
    return right_answers(graded, config.keep, config.seed)


def encode(
    examples: Sequence[Example], tokenizer: Tokenizer, config: SFTConfig
) -> tuple[list[Encoded], dict[str, int]]:
    """Examples as tokens, and how many were cut or left out because they are longer than the context.

    Raises:
        FoundlingError: an example is too long, or the template cannot write it, and the policy is to refuse it, or
            none is left.
    """
    counts: Counter[str] = Counter()
    encoded = []
    for example in examples:
        one = None
        with InvalidRow(example.source, config.invalid, counts):
            rendered = render(tokenizer, example.messages, tools=example.tools or None)
            one = Encoded(rendered.ids, learned(example, rendered.loss_mask, config.turns), example.source)
        if one is None:
            continue
        parts = [one] if len(one.ids) <= config.context + 1 else _shortened(one, config, counts)
        for part in parts:
            if any(part.mask[1:]):
                encoded.append(part)
            else:
                counts["nothing in it is to be learned"] += 1
    if not encoded:
        raise FoundlingError(
            f"nothing is left to learn from in a context of {config.context} tokens", f"left out: {dict(counts)}"
        )
    return encoded, dict(counts)


def learned(example: Example, answered: Sequence[bool], turns: str) -> list[bool]:
    """The loss mask without the answers of weight 0 and, if only the last turn counts, without the others.

    A chat in which the model itself, a stronger one or a tool has spoken is evidence of what was said, not of what
    should be: learning those turns as if they were the expert's is self-delusion (Ortega et al. 2021, "Shaking the
    foundations", arXiv:2110.10819). Weight 0 masks them, and what the expert says after them is learned with them in
    sight: counterfactual teaching.
    """
    said = [message for message in example.messages if message["role"] == "assistant"]
    keep = [message.get("weight", 1) != 0 for message in said]
    if turns == "last":
        keep = [wanted and number == len(said) - 1 for number, wanted in enumerate(keep)]
    if all(keep):
        return list(answered)
    mask, turn, before = [], -1, False
    for inside in answered:
        turn += inside and not before
        mask.append(inside and turn < len(keep) and keep[turn])
        before = inside
    if turn + 1 != len(said):
        raise FoundlingError(
            f"{example.source}: the chat template does not keep the answers apart",
            "their weights cannot be told apart",
        )
    return mask


def _shortened(one: Encoded, config: SFTConfig, counts: Counter[str]) -> list[Encoded]:
    """What the policy makes of an example that is longer than the context."""
    if config.too_long == "refuse":
        what = f"{one.source} has {len(one.ids)} tokens, more than the context of {config.context}"
        raise FoundlingError(what, fix="Set a larger context, or too_long to 'skip', 'truncate' or 'split'")
    counts[f"longer than the context: {config.too_long}"] += 1
    if config.too_long == "skip":
        return []
    starts = range(0, len(one.ids) - 1, config.context) if config.too_long == "split" else [0]
    size = config.context + 1  # the last token of a part is the next one's first input
    return [Encoded(one.ids[at : at + size], one.mask[at : at + size], one.source) for at in starts]
