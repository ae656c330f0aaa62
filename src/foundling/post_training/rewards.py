"""What an answer is worth: a verifier's verdict, a reward model's score, and how "I don't know" is treated."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundling.core.errors import FoundlingError, nearest
from foundling.core.rng import seed_for
from foundling.evaluation.code_sandbox import ProgramLimits, run_programs
from foundling.evaluation.tasks import expressions
from foundling.evaluation.tasks.programs import code_of
from foundling.post_training.config import EXPRESSIONS, ReinforceConfig
from foundling.post_training.data import Message, as_messages, checked_messages, existing_file, read_rows

POOL = 20_000  # instructions of a task to draw from
SCHEMA_S = 1.0  # of one answer's validation
LIMITS = ProgramLimits(cpu_s=2, wall_s=8.0)  # of one answer's program


@dataclass(frozen=True)
class Prompted:
    """A prompt whose answers can be checked: by which verifier, with what data, and where it came from."""

    id: str
    messages: tuple[Message, ...]
    verifier: str
    data: Any


@dataclass(frozen=True)
class Judged:
    """Rewards of some answers, the share that a verifier passed for each, and reasons why others failed, counted."""

    rewards: list[float]
    passed: list[bool]
    reasons: Counter[str]


Score = Callable[[Sequence[Sequence[Message]]], list[float]]  # whole chats -> a reward model's scores


def task_prompts(n: int, seed: int) -> list[Prompted]:
    """Instructions of the expression task's training split."""
    items = expressions.generate("train", n, seed)
    return [Prompted(item.id, tuple(expressions.messages(item)), "expression", item) for item in items]


def read_prompts(config: ReinforceConfig, skipped: Counter[str]) -> list[Prompted]:
    """The prompts of `config.data`: rows {prompt, verifier, data}, or a task's instructions.

    Raises:
        FoundlingError: a row that cannot be verified (by file and line), or none at all.
    """
    prompts: list[Prompted] = []
    for entry in config.data:
        if entry == EXPRESSIONS:
            prompts += task_prompts(POOL, seed_for(config.seed, "reinforce") % 1000)
        else:
            path = existing_file(Path(entry).expanduser())
            prompts += read_rows(path, as_prompted, config.invalid, skipped)
    if len(prompts) < config.prompts:
        raise FoundlingError(f"there are {len(prompts)} prompts", f"a step takes {config.prompts}", "Lower `prompts`")
    return prompts


def is_prompted(row: Any) -> bool:
    """Whether a row is a prompt with a verifier rather than one with answers."""
    return isinstance(row, dict) and "verifier" in row


def as_prompted(row: Any, where: str) -> Prompted:
    """A row {prompt, verifier, data}. Raises FoundlingError, naming `where` and what is wrong."""
    missing = {"prompt", "verifier", "data"} - set(row if isinstance(row, dict) else ())
    if missing:
        raise FoundlingError(f"{where}: {min(missing)} is missing", "a row has `prompt`, `verifier` and `data`")
    if not isinstance(row["verifier"], str) or row["verifier"] not in VERIFIERS:
        hint = nearest(str(row["verifier"]), VERIFIERS)
        raise FoundlingError(f"{where}: unknown verifier {row['verifier']!r}", f"known: {', '.join(VERIFIERS)}", hint)
    prompt = as_messages(row["prompt"], "user")
    if not prompt:
        raise FoundlingError(f"{where}: the prompt is empty", "a prompt is a text or a list of messages")
    checked_messages([*prompt, {"role": "assistant", "content": "-"}], where)
    wanted = _NEEDS.get(row["verifier"])
    if wanted is None or not wanted[0](row["data"]):
        needs = wanted[1] if wanted else "it checks the items of the task `expressions` only"
        raise FoundlingError(f"{where}: the data of the verifier {row['verifier']!r} is {row['data']!r:.80}", needs)
    return Prompted(where, tuple(prompt), row["verifier"], row["data"])


def judge(prompts: Sequence[Prompted], answers: Sequence[str], config: ReinforceConfig, score: Score | None) -> Judged:
    """Rewards of one answer to each prompt.

    A verifier gives 1 for a right answer, `wrong_reward` for a wrong one and `unsure_reward` for one that says it does
    not know: with wrong < unsure < 1, guessing pays only above a certain confidence. With a reward model its score is
    the reward, plus `verified_weight` times what the verifier gives; with weight 0 the verdict is only logged.

    Raises:
        FoundlingError: a reward that is no number, naming the prompt.
    """
    verdicts = verify(prompts, answers)
    passed = [verdict == "passed" for verdict in verdicts]
    rewards = [_worth(p, a, config) for p, a in zip(passed, answers, strict=True)]
    if score is not None:
        chats = [[*p.messages, {"role": "assistant", "content": a}] for p, a in zip(prompts, answers, strict=True)]
        rewards = [s + config.verified_weight * r for s, r in zip(score(chats), rewards, strict=True)]
    for prompt, reward in zip(prompts, rewards, strict=True):
        if not math.isfinite(reward):
            raise FoundlingError(f"the reward of an answer to {prompt.id} is {reward}", "rewards are finite numbers")
    return Judged(rewards, passed, Counter(verdict for verdict in verdicts if verdict != "passed"))


def _worth(passed: bool, answer: str, config: ReinforceConfig) -> float:
    if passed:
        return 1.0
    unsure = any(phrase.lower() in answer.lower() for phrase in config.unsure)
    return config.unsure_reward if unsure else config.wrong_reward


def verify(prompts: Sequence[Prompted], answers: Sequence[str]) -> list[str]:
    """Each answer's verdict, "passed" or why not; answers of one verifier are checked together."""
    verdicts = [""] * len(prompts)
    for name in sorted({prompt.verifier for prompt in prompts}):
        mine = [i for i, prompt in enumerate(prompts) if prompt.verifier == name]
        found = VERIFIERS[name]([prompts[i].data for i in mine], [answers[i] for i in mine])
        for i, verdict in zip(mine, found, strict=True):
            verdicts[i] = verdict
    return verdicts


def _expression(items: Sequence[Any], answers: Sequence[str]) -> list[str]:
    return [outcome.verdict for outcome in expressions.grade(items, answers)]


def _exact(data: Sequence[Any], answers: Sequence[str]) -> list[str]:
    """The answer is one of the accepted texts, whatever the case and the blanks."""
    accepted = [[wanted] if isinstance(wanted, str) else list(wanted) for wanted in data]
    plain = [{_plain(text) for text in texts} for texts in accepted]
    return ["passed" if _plain(a) in texts else "wrong" for a, texts in zip(answers, plain, strict=True)]


def _contains(data: Sequence[Any], answers: Sequence[str]) -> list[str]:
    """The answer contains the text."""
    return ["passed" if _plain(str(d)) in _plain(a) else "wrong" for a, d in zip(answers, data, strict=True)]


def _schema(data: Sequence[Any], answers: Sequence[str]) -> list[str]:
    """The answer is JSON that a JSON Schema accepts."""
    validator = _validator()
    verdicts = []
    for schema, answer in zip(data, answers, strict=True):
        value = _json(answer)
        try:
            with _within(SCHEMA_S):
                fits = value is not _BROKEN and validator(schema).is_valid(value)
        except TimeoutError:
            verdicts.append("timeout")
            continue
        verdicts.append("passed" if fits else "not JSON" if value is _BROKEN else "wrong")
    return verdicts


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """TimeoutError if the block takes longer: a pattern may backtrack for ever. Only where signals can be had."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _python(data: Sequence[Any], answers: Sequence[str]) -> list[str]:
    """The answer's code and then the data, a program of assertions, run to their end in the sandbox."""
    programs = [f"{code_of(answer)}\n\n{tests}" for answer, tests in zip(answers, data, strict=True)]
    return ["passed" if result.passed else result.reason for result in run_programs(programs, LIMITS)]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _BROKEN


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .")


def _texts(data: Any) -> bool:
    return isinstance(data, str) or (isinstance(data, list) and all(isinstance(one, str) for one in data))


def _is_schema(data: Any) -> bool:
    validator = _validator()
    return isinstance(data, dict) and not any(validator(validator.META_SCHEMA).iter_errors(data))


def _validator() -> Any:
    try:
        from jsonschema import Draft202012Validator
    except ImportError:
        raise FoundlingError(
            "the verifier `schema` needs the package jsonschema", fix="pip install jsonschema"
        ) from None
    return Draft202012Validator


_BROKEN = object()
VERIFIERS: dict[str, Callable[[Sequence[Any], Sequence[str]], list[str]]] = {
    "expression": _expression,
    "exact": _exact,
    "contains": _contains,
    "schema": _schema,
    "python": _python,
}
_NEEDS: dict[str, tuple[Callable[[Any], bool], str]] = {  # of a row's data, by verifier
    "exact": (_texts, "it is the right answer, or a list of right answers"),
    "contains": (lambda data: isinstance(data, str), "it is the text that the answer must contain"),
    "schema": (_is_schema, "it is a JSON Schema"),
    "python": (lambda data: isinstance(data, str), "it is a program of assertions"),
}
