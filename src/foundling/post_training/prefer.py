"""The stage `prefer`: from pairs of answers, given or graded from its own, to a model that prefers the better."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.models.language_model import LanguageModel
from foundling.post_training.config import EXPRESSIONS, PreferConfig
from foundling.post_training.data import existing_file, read_rows, sources
from foundling.post_training.labelled import Labelled, as_labelled, encode_labelled, is_labelled
from foundling.post_training.own_samples import graded_pairs, sample_answers, training_prompts
from foundling.post_training.packing import Encoded
from foundling.post_training.pairs import EncodedPair, Pair, as_pair, encode_pairs
from foundling.post_training.preferring import (
    REFERENCE_FREE,
    KahnemanTversky,
    PreferenceOptimization,
    mismatched,
    reference_logprobs,
)
from foundling.post_training.rewards import Prompted, as_prompted, is_prompted
from foundling.post_training.tuning import load_base, prepare, tune, tuned_card, write_tuned
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.objective import Objective

PAIRS = "preferences.jsonl"


def build_preferred(config: PreferConfig, inputs: Inputs, draft: Draft) -> None:
    """Tune the base model on preferences and write it as a Hugging Face directory.

    Raises:
        FoundlingError: rows that are no preferences, a task on which every answer is right or every one wrong,
            nothing left to learn from.
    """
    base = inputs["base"]
    module, tokenizer = load_base(base)
    counts: Counter[str] = Counter()
    rows, prompts = _given(config, sources(config, inputs), counts)
    own = _own_pairs(config, prompts, module, tokenizer, draft) if prompts else []
    prepare(module, config)
    pairs = [row for row in rows if isinstance(row, Pair)]
    encoded = encode_pairs(pairs, tokenizer, config.context, config.too_long, config.invalid, counts)
    encoded += encode_pairs(
        own, tokenizer, config.context, "skip", "skip", counts
    )  # nobody wrote them: leave out, and count
    judged = [row for row in rows if isinstance(row, Labelled)]
    labelled = encode_labelled(judged, tokenizer, config, counts)
    objective, examples = _objective(config, module, encoded, labelled, tokenizer, draft, counts)
    resolved = config.model_copy(update={"steps": config.steps or max(1, round(examples / config.batch_size))})
    summary = tune(module, objective, resolved, base, draft, "prefer", module.config)
    draft.metrics |= {"pairs": len(encoded), "judged": len(labelled[0]), "skipped": dict(counts), **summary.metrics}
    learned = {one.chosen.source for one in encoded} | {one.source for one in labelled[0]}
    _write_rows([row for row in (*rows, *own) if row.source in learned], draft)
    card = tuned_card(
        "Preference-tuned language model",
        f"Tuned with {config.method.upper()} on {len(learned):,} preferences, listed in `{PAIRS}`.",
        resolved,
        inputs,
        {"Training": {"loss, last steps": summary.loss}},
        ("It has learned what these answers prefer; what it says elsewhere may have become worse.",),
    )
    write_tuned(module, tokenizer, resolved, base, draft, card)


def _given(
    config: PreferConfig, data: Sequence[str], counts: Counter[str]
) -> tuple[list[Pair | Labelled], list[Prompted]]:
    """Pairs, and for KTO answers judged one by one; and the prompts for which the model makes pairs itself."""

    def convert(row: Any, where: str) -> Pair | Labelled | Prompted:
        if is_prompted(row):
            return as_prompted(row, where)
        if config.method == "kto" and is_labelled(row):
            return as_labelled(row, where)
        return as_pair(row, where)

    files = [existing_file(Path(entry).expanduser()) for entry in data if entry != EXPRESSIONS]
    found = [row for path in files for row in read_rows(path, convert, config.invalid, counts)]
    prompts = [row for row in found if isinstance(row, Prompted)]
    if EXPRESSIONS in data:
        prompts += training_prompts(config.examples, config.seed, "prefer")
    return [row for row in found if not isinstance(row, Prompted)], prompts


def _own_pairs(
    config: PreferConfig, prompts: Sequence[Prompted], module: LanguageModel, tokenizer: Tokenizer, draft: Draft
) -> list[Pair]:
    """Pairs of the model's own answers, graded by the prompts' verifiers."""
    graded = sample_answers(module, tokenizer, prompts, config, draft.scratch / "answers.jsonl")
    own = graded_pairs(graded, config.pairs_per_prompt, config.seed)
    share = sum(answer.passed for answer in graded) / len(graded)
    draft.metrics |= {"answers": len(graded), "answers_right": share}
    if not own:
        what = f"{share:.0%} of the model's own answers are right: no prompt has both a right and a wrong one"
        raise FoundlingError(what, fix="Sample more answers, or raise the temperature")
    return own


def _objective(
    config: PreferConfig,
    module: LanguageModel,
    pairs: Sequence[EncodedPair],
    labelled: tuple[list[Encoded], list[bool]],
    tokenizer: Tokenizer,
    draft: Draft,
    counts: Counter[str],
) -> tuple[Objective, float]:
    """The method on the data, and how many examples the epochs take."""
    saved = draft.scratch / "reference.safetensors"
    pad = tokenizer.pad_id
    if not pairs and not labelled[0]:
        raise FoundlingError("there is no preference to learn from", f"left out: {dict(counts) or 'nothing'}")
    if config.method == "kto":
        answers = labelled[0] + [one for pair in pairs for one in (pair.chosen, pair.rejected)]
        desirable = torch.tensor(labelled[1] + [True, False] * len(pairs))
        groups = mismatched([(one, list(one.mask).index(True)) for one in answers])
        reference = reference_logprobs(module, groups, config, pad, saved)
        return KahnemanTversky(groups, desirable, reference, config, pad), len(groups) * config.epochs
    both = [(pair.chosen, pair.rejected) for pair in pairs]
    free = config.method in REFERENCE_FREE
    scores = torch.zeros(len(both), 2) if free else reference_logprobs(module, both, config, pad, saved)
    return PreferenceOptimization(both, scores, config, pad), len(both) * config.epochs


def _write_rows(rows: Sequence[Pair | Labelled], draft: Draft) -> None:
    """What the model learned from, to be looked at."""
    with (draft.path / PAIRS).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
