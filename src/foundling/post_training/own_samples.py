"""A model's own answers to a task's instructions, sampled by the engine and graded by the task's verifier."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from foundling.core import progress
from foundling.core.rng import numpy_rng, seed_for
from foundling.evaluation.tasks.expressions import Item, generate, grade, messages
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.models.language_model import LanguageModel
from foundling.post_training.data import Example
from foundling.post_training.pairs import Pair
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer

_BLOCK = 256  # instructions answered in one call


@dataclass(frozen=True)
class Graded:
    """One sampled answer and whether it is right."""

    instruction: str
    answer: str
    passed: bool
    source: str


def sample_answers(
    module: LanguageModel, tokenizer: Tokenizer, items: Sequence[Item], samples: int, temperature: float,
    max_tokens: int, seed: int, saved: Path,
) -> list[Graded]:  # fmt: skip
    """`samples` graded answers to each item; only whole answers count as right. Kept in a file, made once."""
    if saved.exists():
        return [Graded(**json.loads(line)) for line in saved.read_text(encoding="utf-8").splitlines()]
    engine = Engine(module, tokenizer, max_batch=256)
    found: list[Graded] = []
    with progress.task("own answers", len(items) * samples, "answers") as bar:
        for start in range(0, len(items), _BLOCK):
            part = items[start : start + _BLOCK]
            requests = [_request(tokenizer, item, samples, temperature, max_tokens, seed) for item in part]
            done = engine.generate(requests)
            repeated = [item for item in part for _ in range(samples)]
            outcomes = grade(repeated, [completion.text for completion in done])
            for item, completion, outcome in zip(repeated, done, outcomes, strict=True):
                whole = completion.finish_reason == "stop"
                found.append(Graded(item.instruction, completion.text, outcome.passed and whole, item.id))
            bar.advance(len(done), right=sum(g.passed for g in found) / len(found))
    partial = saved.with_suffix(".tmp")
    partial.write_text("".join(json.dumps(asdict(g)) + "\n" for g in found), encoding="utf-8")
    partial.replace(saved)
    return found


def graded_pairs(graded: Sequence[Graded], per_prompt: int, seed: int) -> list[Pair]:
    """Pairs of a right and a wrong answer to the same instruction, distinct in both, at most `per_prompt` each."""
    by_prompt: dict[str, list[Graded]] = {}
    for answer in graded:
        by_prompt.setdefault(answer.source, []).append(answer)
    pairs = []
    for source, answers in by_prompt.items():
        rng = numpy_rng(seed, "pairs", source)
        right = sorted({a.answer for a in answers if a.passed})
        wrong = sorted({a.answer for a in answers if not a.passed and a.answer.strip()})
        count = min(per_prompt, len(right) * len(wrong))
        ask = ({"role": "user", "content": answers[0].instruction},)
        for number in rng.permutation(len(right) * len(wrong))[:count]:
            good, bad = right[number // len(wrong)], wrong[number % len(wrong)]
            pairs.append(Pair(ask, (_answer(good),), (_answer(bad),), f"{source}#{number}"))
    return pairs


def right_answers(graded: Sequence[Graded], keep: int, seed: int) -> list[Example]:
    """At most `keep` different right answers to each instruction, as examples to learn from.

    Rejection sampling (Yuan et al. 2023, arXiv:2308.01825); repeated, it is expert iteration (Anthony et al. 2017).
    """
    by_prompt: dict[str, list[Graded]] = {}
    for answer in graded:
        by_prompt.setdefault(answer.source, []).append(answer)
    examples = []
    for source, answers in by_prompt.items():
        right = sorted({a.answer for a in answers if a.passed})
        order = numpy_rng(seed, "right", source).permutation(len(right))[:keep]
        ask = {"role": "user", "content": answers[0].instruction}
        examples += [Example((ask, _answer(right[int(i)])), f"{source}#{int(i)}") for i in order]
    return examples


def training_items(n: int, seed: int, use: str) -> list[Item]:
    """Instructions of the task's training split, others for each use."""
    return generate("train", n, seed_for(seed, use) % 1_000_000)


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _request(tokenizer: Tokenizer, item: Item, samples: int, temperature: float, max_tokens: int, seed: int) -> Request:
    prompt = render(tokenizer, messages(item), add_generation_prompt=True)
    own_seed = seed_for(seed, "answers", item.id)
    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, n=samples, seed=own_seed, stop_ids=prompt.stop_ids
    )
    return Request(prompt.ids, params)
