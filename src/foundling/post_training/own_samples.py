"""A model's own answers to prompts that can be verified, sampled by the engine and graded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from foundling.core import progress
from foundling.core.files import read_jsonl
from foundling.core.rng import numpy_rng, seed_for
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.models.language_model import LanguageModel
from foundling.post_training.acting import acting
from foundling.post_training.config import PairsConfig, SFTConfig
from foundling.post_training.data import Example, Message
from foundling.post_training.pairs import Pair
from foundling.post_training.rewards import Prompted, task_prompts, verify
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer

MOST_AT_ONCE = 256  # answers sampled together
_BLOCK = 256  # prompts answered in one call


@dataclass(frozen=True)
class Graded:
    """One sampled answer and whether it is right."""

    prompt: tuple[Message, ...]
    answer: str
    passed: bool
    source: str


def sample_answers(
    module: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompted],
    config: SFTConfig | PairsConfig,
    saved: Path,
) -> list[Graded]:
    """`config.samples` graded answers to each prompt; only whole answers count as right. Kept in a file, made once."""
    if saved.exists():
        return [Graded(**(row | {"prompt": tuple(row["prompt"])})) for row in read_jsonl(saved)]
    engine = Engine(acting(module, config.precision), tokenizer, max_batch=MOST_AT_ONCE)
    found: list[Graded] = []
    with progress.task("own answers", len(prompts) * config.samples, "answers") as bar:
        for start in range(0, len(prompts), _BLOCK):
            part = prompts[start : start + _BLOCK]
            requests = [_request(tokenizer, prompt, config) for prompt in part]
            done = engine.generate(requests)
            repeated = [prompt for prompt in part for _ in range(config.samples)]
            verdicts = verify(repeated, [completion.text for completion in done])
            for prompt, completion, verdict in zip(repeated, done, verdicts, strict=True):
                right = verdict == "passed" and completion.finish_reason == "stop"
                found.append(Graded(prompt.messages, completion.text, right, prompt.id))
            bar.advance(len(done), right=sum(g.passed for g in found) / len(found))
    partial = saved.with_suffix(".tmp")
    partial.write_text("".join(json.dumps(asdict(g)) + "\n" for g in found), encoding="utf-8")
    partial.replace(saved)
    return found


def graded_pairs(graded: Sequence[Graded], per_prompt: int, seed: int) -> list[Pair]:
    """Pairs of a right and a wrong answer to the same prompt, distinct in both, at most `per_prompt` each."""
    by_prompt: dict[str, list[Graded]] = {}
    for answer in graded:
        by_prompt.setdefault(answer.source, []).append(answer)
    pairs = []
    for source, answers in by_prompt.items():
        rng = numpy_rng(seed, "pairs", source)
        right = sorted({a.answer for a in answers if a.passed})
        wrong = sorted({a.answer for a in answers if not a.passed and a.answer.strip()})
        count = min(per_prompt, len(right) * len(wrong))
        for number in rng.permutation(len(right) * len(wrong))[:count]:
            good, bad = right[number // len(wrong)], wrong[number % len(wrong)]
            pairs.append(Pair(answers[0].prompt, (_answer(good),), (_answer(bad),), f"{source}#{number}"))
    return pairs


def right_answers(graded: Sequence[Graded], keep: int, seed: int) -> list[Example]:
    """At most `keep` different right answers to each prompt, as examples to learn from.

    Rejection sampling (Yuan et al. 2023, arXiv:2308.01825); repeated, it is expert iteration (Anthony et al. 2017).
    """
    by_prompt: dict[str, list[Graded]] = {}
    for answer in graded:
        by_prompt.setdefault(answer.source, []).append(answer)
    examples = []
    for source, answers in by_prompt.items():
        right = sorted({a.answer for a in answers if a.passed})
        order = numpy_rng(seed, "right", source).permutation(len(right))[:keep]
        examples += [Example((*answers[0].prompt, _answer(right[int(i)])), f"{source}#{int(i)}") for i in order]
    return examples


def training_prompts(n: int, seed: int, use: str) -> list[Prompted]:
    """Instructions of the expression task's training split, others for each use."""
    return task_prompts(n, seed_for(seed, use) % 1_000_000)


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _request(tokenizer: Tokenizer, prompt: Prompted, config: SFTConfig | PairsConfig) -> Request:
    rendered = render(tokenizer, prompt.messages, add_generation_prompt=True)
    params = SamplingParams(
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        n=config.samples,
        seed=seed_for(config.seed, "answers", prompt.id),
        stop_ids=rendered.stop_ids,
    )
    return Request(rendered.ids, params)
