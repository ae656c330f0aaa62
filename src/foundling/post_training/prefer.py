"""The stage `prefer`: from pairs of answers, given or graded from its own, to a model that prefers the better."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import torch

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.models.language_model import LanguageModel
from foundling.post_training.config import EXPRESSIONS, PreferConfig
from foundling.post_training.own_samples import graded_pairs, sample_answers, training_items
from foundling.post_training.pairs import EncodedPair, Pair, encode_pairs, read_pairs
from foundling.post_training.preferring import (
    REFERENCE_FREE,
    KahnemanTversky,
    PreferenceOptimization,
    mismatched,
    reference_logprobs,
)
from foundling.post_training.tuning import load_base, tune, tuned_card, write_tuned
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.objective import Objective

PAIRS = "preferences.jsonl"


def build_preferred(config: PreferConfig, inputs: Inputs, draft: Draft) -> None:
    """Tune the base model on preferences and write it as a Hugging Face directory.

    Raises:
        FoundlingError: rows that are no pairs, a task on which every answer is right or every one wrong, no pair left.
    """
    base = inputs["base"]
    module, tokenizer = load_base(base, config)
    counts: Counter[str] = Counter()
    given = read_pairs([entry for entry in config.data if entry != EXPRESSIONS], config.invalid, counts)
    own = _own_pairs(config, module, tokenizer, draft) if EXPRESSIONS in config.data else []
    encoded = encode_pairs(given, tokenizer, config.context, config.too_long, counts)
    encoded += encode_pairs(own, tokenizer, config.context, "skip", counts)  # nobody wrote them: leave out, and count
    if not encoded:
        raise FoundlingError("there is no pair to learn from", f"left out: {dict(counts) or 'nothing'}")
    examples = 2 * len(encoded) if config.method == "kto" else len(encoded)
    steps = config.steps or max(1, round(examples * config.epochs / config.batch_size))
    resolved = config.model_copy(update={"steps": steps})
    objective = _objective(resolved, module, encoded, tokenizer, draft)
    summary = tune(module, objective, resolved, base, draft, "prefer")
    draft.metrics |= {"pairs": len(encoded), "skipped": dict(counts), **summary.metrics}
    learned = {one.chosen.source for one in encoded}
    _write_pairs([pair for pair in (*given, *own) if pair.source in learned], draft)
    card = tuned_card(
        "Preference-tuned language model",
        f"Tuned with {config.method.upper()} on {len(encoded):,} pairs of answers, listed in `{PAIRS}`.",
        resolved,
        inputs,
        {"Training": {"loss, last steps": summary.loss}},
        ("It has learned what these pairs prefer; what it says elsewhere may have become worse.",),
    )
    write_tuned(module, tokenizer, resolved, base, draft, card)


def _own_pairs(config: PreferConfig, module: LanguageModel, tokenizer: Tokenizer, draft: Draft) -> list[Pair]:
    """Pairs of the model's own answers to the task, graded by running them."""
    items = training_items(config.examples, config.seed, "prefer")
    graded = sample_answers(
        module, tokenizer, items, config.samples, config.temperature, config.max_tokens, config.seed,
        draft.scratch / "answers.jsonl",
    )  # fmt: skip
    own = graded_pairs(graded, config.pairs_per_prompt, config.seed)
    share = sum(answer.passed for answer in graded) / len(graded)
    draft.metrics |= {"answers": len(graded), "answers_right": share}
    if not own:
        what = f"{share:.0%} of the model's own answers are right: no prompt has both a right and a wrong one"
        raise FoundlingError(what, fix="Sample more answers, or raise the temperature")
    return own


def _objective(
    config: PreferConfig, module: LanguageModel, encoded: Sequence[EncodedPair], tokenizer: Tokenizer, draft: Draft
) -> Objective:
    saved = draft.scratch / "reference.safetensors"
    pad = tokenizer.pad_id
    if config.method == "kto":
        answers = [(one, one.mask.index(True)) for pair in encoded for one in (pair.chosen, pair.rejected)]
        groups = mismatched(answers)
        reference = reference_logprobs(module, groups, config, pad, saved)
        desirable = torch.tensor([True, False]).repeat(len(encoded))
        return KahnemanTversky(groups, desirable, reference, config, pad)
    pairs = [(pair.chosen, pair.rejected) for pair in encoded]
    if config.method in REFERENCE_FREE:
        return PreferenceOptimization(pairs, torch.zeros(len(pairs), 2), config, pad)
    return PreferenceOptimization(pairs, reference_logprobs(module, pairs, config, pad, saved), config, pad)


def _write_pairs(pairs: Sequence[Pair], draft: Draft) -> None:
    """What the model learned from, to be looked at."""
    with (draft.path / PAIRS).open("w", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps(asdict(pair), ensure_ascii=False) + "\n")
