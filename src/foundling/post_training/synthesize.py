"""The stage `synthesize`: a model writes rows to learn from. Instructions, revisions, judged pairs, refusals.

rows.jsonl    what `sft`, `prefer` and `reward` take at their port `rows`, or as `--data`
README.md     the data card: where the rows come from, what was left out and why
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for
from foundling.core.stages import Inputs
from foundling.inference.model import load
from foundling.inference.remote import connect
from foundling.post_training.config import EXPRESSIONS, SynthesizeConfig
from foundling.post_training.data import ROWS, Message, existing_file, read_rows
from foundling.post_training.feedback import (
    PRINCIPLES,
    critique_and_revise,
    judged_pairs,
    rated,
    read_constitution,
)
from foundling.post_training.own_samples import training_prompts
from foundling.post_training.safety import is_refusal, refusal_rows
from foundling.post_training.synthesis import synthesise

VERDICT_TOKENS = 16
ABOUT = {
    "instructions": "Instructions that `{writer}` wrote from {n} seeds (Self-Instruct), each with its own answer.",
    "revisions": "Answers of `{writer}` to {n} prompts, criticised by `{judge}` by a constitution and revised.",
    "preferences": "Two answers of `{writer}` to each of {n} prompts; `{judge}`, asked in both orders, prefers one.",
    "refusals": "Refusals of harmful prompts among real answers to benign ones, from {n} rows.",
}


@dataclass(frozen=True)
class Seed:
    """What a row asks, and what it answers, if it does."""

    question: str
    answer: str | None


class Writer:
    """A model, here or behind a URL, as a function from chats to answers."""

    def __init__(self, model: Any, name: str, config: SynthesizeConfig) -> None:
        self.model, self.name, self.config = model, name, config

    def ask(self, chats: Sequence[Sequence[Message]], salt: int = 0, **options: float) -> list[str]:
        """One answer to each chat; "" where it failed. The same chats with another salt are sampled anew."""
        options = {"max_tokens": self.config.max_tokens, "temperature": self.config.temperature} | options
        seeds = [seed_for(self.config.seed, "synthesize", salt, number) for number in range(len(chats))]
        requests = [self.model.request(c, **options, seed=s) for c, s in zip(chats, seeds, strict=True)]
        return [done.text for done in self.model.engine.generate(requests)]

    def criticise(self, chats: Sequence[Sequence[Message]]) -> list[str]:
        """Greedy answers: a judgement should not depend on luck."""
        return self.ask(chats, temperature=0.0)

    def judge(self, chats: Sequence[Sequence[Message]]) -> list[str]:
        """The beginning of greedy answers: a letter or a number is asked for."""
        return self.ask(chats, temperature=0.0, max_tokens=VERDICT_TOKENS)


def build_dataset(config: SynthesizeConfig, inputs: Inputs, draft: Draft) -> None:
    """Make the rows and their card.

    Raises:
        FoundlingError: no model to write with, prompts or a constitution that cannot be read, no row left.
    """
    left_out: Counter[str] = Counter()
    rows, about = _refusals(config, left_out) if config.method == "refusals" else _written(config, inputs, left_out)
    seen: set[str] = set()
    kept = []
    for row in rows:
        line = json.dumps(row, ensure_ascii=False, sort_keys=True)
        if line in seen:
            left_out["the same row twice"] += 1
        else:
            seen.add(line)
            kept.append(line)
    if not kept:
        raise FoundlingError("no row is left", f"left out: {dict(left_out)}", "Another model or other prompts may do")
    draft.file(ROWS).write_text("\n".join(kept) + "\n", encoding="utf-8")
    draft.file("README.md").write_text(_card(about, len(kept), left_out), encoding="utf-8")
    draft.metrics |= {"rows": len(kept), "left_out": dict(left_out)}


def _written(config: SynthesizeConfig, inputs: Inputs, left_out: Counter[str]) -> tuple[list[dict[str, Any]], str]:
    """The rows of the methods that need a model, and what they are."""
    prompts = _prompts(config, left_out)
    writer = _writer(config.url, inputs.get("model"), config)
    if writer is None:
        raise FoundlingError("synthesize needs a model that writes", fix="Give --model, or --url of an OpenAI endpoint")
    judge = _writer(config.judge_url, inputs.get("judge"), config) or writer
    principles = read_constitution(Path(config.constitution).expanduser()) if config.constitution else PRINCIPLES
    if config.method == "instructions":
        made = synthesise(prompts, config.n, writer.ask, config.seed)
        rows, reasons = made.rows, made.left_out
    elif config.method == "revisions":
        revised, reasons = critique_and_revise(prompts, principles, writer.ask, judge.criticise)
        rows = [one.chat() for one in revised]
    else:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        both = list(zip(*(writer.ask(chats, salt, temperature=1.0) for salt in (1, 2)), strict=True))
        rows, reasons = judged_pairs(prompts, both, principles, judge.judge)
    left_out += reasons
    if config.min_score and config.method != "preferences":
        rows = rated(rows, config.min_score, judge.judge, left_out)
    return rows, ABOUT[config.method].format(writer=writer.name, judge=judge.name, n=len(prompts))


def _refusals(config: SynthesizeConfig, left_out: Counter[str]) -> tuple[list[dict[str, Any]], str]:
    """Harmful prompts (rows without an answer) refused, benign ones (rows with one) answered."""
    harmful: list[str] = []
    benign: list[tuple[str, str]] = []
    for row in _given(config, left_out):
        if row.answer is None:
            harmful.append(row.question)
        elif is_refusal(row.answer):
            left_out["a benign prompt is refused"] += 1
        else:
            benign.append((row.question, row.answer))
    rows = refusal_rows(harmful, benign, config.seed)
    return rows, ABOUT["refusals"].format(n=len(harmful) + len(benign))


def _writer(url: str, artifact: Artifact | None, config: SynthesizeConfig) -> Writer | None:
    if url:
        return Writer(connect(url), url, config)
    return None if artifact is None else Writer(load(artifact.path), artifact.key, config)


def _prompts(config: SynthesizeConfig, left_out: Counter[str]) -> list[str]:
    prompts = [row.question for row in _given(config, left_out)]
    if EXPRESSIONS in config.data:
        prompts += [one.messages[-1]["content"] for one in training_prompts(config.n, config.seed, "synthesize")]
    return list(dict.fromkeys(prompts))[: None if config.method == "instructions" else config.n]


def _given(config: SynthesizeConfig, left_out: Counter[str]) -> list[Seed]:
    files = [existing_file(Path(entry).expanduser()) for entry in config.data if entry != EXPRESSIONS]
    return [row for path in files for row in read_rows(path, seed_row, config.invalid, left_out)]


def seed_row(row: Any, where: str) -> Seed:
    """The question of a row (`prompt`, `instruction`, or the first user message of `messages`) and its answer, if any.

    Raises:
        FoundlingError: naming `where`: there is no question.
    """
    fields = row if isinstance(row, dict) else {}
    messages = fields.get("messages")
    turns = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    asked = [fields.get("prompt"), fields.get("instruction"), *_said(turns, "user")[:1]]
    question = next((text.strip() for text in asked if isinstance(text, str) and text.strip()), None)
    if question is None:
        raise FoundlingError(f"{where} holds no prompt", "a row has `prompt`, `instruction` or `messages`")
    answers = [fields.get("completion"), *_said(turns, "assistant")[:1]]
    return Seed(question, next((text for text in answers if isinstance(text, str) and text), None))


def _said(turns: Sequence[dict[str, Any]], role: str) -> list[Any]:
    return [turn.get("content") for turn in turns if turn.get("role") == role]


def _card(about: str, rows: int, left_out: Counter[str]) -> str:
    lines = [f"- {reason}: {count}" for reason, count in sorted(left_out.items())] or ["- nothing"]
    text = ["# Synthetic rows", "", about, "", f"{rows} rows, none of them read by a person.", "", "Left out:", ""]
    return "\n".join([*text, *lines, ""])
