"""Rows of prompts and answers to learn on: the teacher's, written once, or the student's own, written as it learns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundling.compression.distill_config import EXPRESSIONS, DistillConfig
from foundling.core.errors import FoundlingError
from foundling.core.files import read_jsonl
from foundling.core.rng import numpy_rng, seed_for
from foundling.evaluation.tasks.expressions.items import generate, messages
from foundling.inference.engine import BLOCK_SIZE, Engine, Request, SamplingParams
from foundling.inference.remote import RemoteModel, RemoteRequest
from foundling.models.language_model import LanguageModel
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch

Chat = list[dict[str, Any]]


class Answers:
    """Batch n: prompts drawn by (seed, n), with answers of the teacher or, for a share of the steps, of the student.

    Args:
        written: the teacher's answer (ids with their end) to each prompt.
    """

    def __init__(
        self, chats: Sequence[Chat], written: Sequence[list[int]], tokenizer: Tokenizer, config: DistillConfig
    ) -> None:
        self.config, self.tokenizer, self.written = config, tokenizer, written
        rendered = [render(tokenizer, chat, add_generation_prompt=True) for chat in chats]
        self.prompts, self.stop_ids = [one.ids for one in rendered], rendered[0].stop_ids
        self.engine: Engine | None = None

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Rows of prompt and answer, padded on the right; answers are what is scored."""
        rng = numpy_rng(self.config.seed, "prompts", step)
        chosen = rng.choice(
            len(self.prompts), self.config.batch_size, replace=len(self.prompts) < self.config.batch_size
        )
        if rng.random() < self.config.on_policy:
            assert isinstance(model, LanguageModel)
            answers = self._sampled(model, [self.prompts[int(i)] for i in chosen], step)
        else:
            answers = [self.written[int(i)] for i in chosen]
        rows = [(self.prompts[int(i)], answer) for i, answer in zip(chosen, answers, strict=True)]
        return padded(rows, self.config.context, self.tokenizer.pad_id)

    def _sampled(self, model: LanguageModel, prompts: list[list[int]], step: int) -> list[list[int]]:
        if self.engine is None:
            room = self.config.batch_size * (self.config.context + BLOCK_SIZE)
            self.engine = Engine(model, self.tokenizer, max_batch=self.config.batch_size, max_tokens_in_cache=room)
        self.engine.weights_changed()
        params = _sampling(self.config, self.stop_ids)
        requests = [
            Request(ids, replace(params, seed=seed_for(self.config.seed, "answers", step, row)))
            for row, ids in enumerate(prompts)
        ]
        return [list(completion.tokens) for completion in self.engine.generate(requests)]


def read_chats(config: DistillConfig) -> list[Chat]:
    """The prompts: each a list of messages that ends with the user's.

    Raises:
        FoundlingError: a missing file, or a row that is no chat.
    """
    chats: list[Chat] = []
    for entry in config.prompts:
        if entry == EXPRESSIONS:
            chats += [messages(item) for item in generate("train", config.examples, config.seed)]
            continue
        path = Path(entry).expanduser()
        if not path.is_file():
            raise FoundlingError(f"prompts {entry!r} is no file", f"and no task: there is {EXPRESSIONS!r}")
        for number, row in enumerate(read_jsonl(path), 1):
            chat = row.get("messages") or row.get("prompt") if isinstance(row, dict) else None
            if not isinstance(chat, list) or not all(isinstance(m, dict) and "content" in m for m in chat):
                raise FoundlingError(
                    f"{path}, line {number} is no chat", "a row has `messages`: [{role, content}, ...]"
                )
            while chat and chat[-1].get("role") == "assistant":
                chat = chat[:-1]
            if chat:
                chats.append(chat)
    if not chats:
        raise FoundlingError("there is no prompt", f"in {', '.join(config.prompts)}")
    return chats


def teacher_answers(
    teacher: LanguageModel | RemoteModel,
    tokenizer: Tokenizer,
    chats: Sequence[Chat],
    config: DistillConfig,
    saved: Path,
) -> list[list[int]]:
    """The teacher's sampled answer to each prompt, ids with the token that ends it; kept in a file, made once."""
    if saved.exists():
        kept: list[list[int]] = json.loads(saved.read_text())
        return kept
    rendered = [render(tokenizer, chat, add_generation_prompt=True) for chat in chats]
    params = _sampling(config, rendered[0].stop_ids)
    if isinstance(teacher, RemoteModel):
        spoken = replace(params, stop_ids=())
        asked = [RemoteRequest(chat, replace(spoken, seed=i)) for i, chat in enumerate(chats)]
        end = list(rendered[0].stop_ids)[:1]
        done = teacher.engine.generate(asked)
        answers = [tokenizer.encode(one.text) + (end if one.finish_reason == "stop" else []) for one in done]
    else:
        engine = Engine(teacher, tokenizer, max_batch=64)
        seeds = [seed_for(config.seed, "teacher", i) for i in range(len(chats))]
        requests = [Request(one.ids, replace(params, seed=seed)) for one, seed in zip(rendered, seeds, strict=True)]
        answers = [list(one.tokens) for one in engine.generate(requests)]
    partial = saved.with_suffix(".tmp")
    partial.write_text(json.dumps(answers))
    partial.replace(saved)
    return answers


def padded(rows: Sequence[tuple[list[int], list[int]]], context: int, pad: int) -> Batch:
    """(prompt, answer) rows as a batch whose answers are scored, cut at `context`."""
    whole = [[*prompt, *answer][: context + 1] for prompt, answer in rows]
    shape = (len(rows), max(len(row) for row in whole) - 1)
    tokens, targets, mask = torch.full(shape, pad), torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
    for r, (row, (prompt, _)) in enumerate(zip(whole, rows, strict=True)):
        tokens[r, : len(row) - 1], targets[r, : len(row) - 1] = _pair(row)
        mask[r, len(prompt) - 1 : len(row) - 1] = 1.0
    return Batch(tokens, targets, mask)


def _pair(row: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(row[:-1]), torch.tensor(row[1:])


def _sampling(config: DistillConfig, stop_ids: Any) -> SamplingParams:
    return SamplingParams(max_tokens=config.max_tokens, temperature=config.answer_temperature, stop_ids=stop_ids)
