"""Does the model write Python? The share of sampled continuations of held-out files that still parse."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from foundling.core.rng import seed_for
from foundling.evaluation.config import SyntaxConfig
from foundling.evaluation.documents import Documents
from foundling.evaluation.requests import Answer, Generate, GenerateAnswer, Request
from foundling.evaluation.task import Item, Metric, Outcome, Reference, Task

# Python's own flag for "may go on", which `codeop` uses for the interactive prompt; not in the type stubs.
_ALLOW_INCOMPLETE = 0x4000


@dataclass(frozen=True)
class Syntax:
    """Items are the first lines of Python files; an answer counts if prompt + answer begins some valid program."""

    config: SyntaxConfig
    documents: Documents
    seed: int

    @property
    def task(self) -> Task:
        """Name, metrics, settings."""
        return Task("syntax", 1, (Metric("parses"),), self.config.model_dump(mode="json"))

    @cached_property
    def files(self) -> list[tuple[str, str, str, str]]:
        """(id, source, prompt, rest) of the files to continue: their own beginning parses and goes on long enough."""
        found = []
        for document in self.documents.shuffled("syntax", self.seed):
            lines = document.text.splitlines(keepends=True)
            prompt = "".join(lines[: self.config.prompt_lines])
            rest = "".join(lines[self.config.prompt_lines : 2 * self.config.prompt_lines])
            if rest.strip() and prompt.strip() and begins_program(prompt + rest):
                found.append((document.id, document.source, prompt, rest))
            if len(found) == self.config.items:
                break
        return found

    def items(self) -> Sequence[Item]:
        """The beginnings of the chosen files."""
        return [Item(id, prompt, source) for id, source, prompt, _ in self.files]

    def requests(self, item: Item) -> Sequence[Request]:
        """One sampled continuation."""
        seed = seed_for(self.seed, "syntax", item.id)
        length, temperature = self.config.max_tokens, self.config.temperature
        return [Generate(item.data, length, temperature=temperature, seed=seed, begins_document=True)]

    def grade(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]]) -> list[Outcome]:
        """1 where the continuation parses."""
        outcomes = []
        for item, (answer,) in zip(items, answers, strict=True):
            assert isinstance(answer, GenerateAnswer)
            text, reason = answer.texts[0], answer.finish_reasons[0]
            good = continues(item.data, text, cut=reason == "length")
            flags = ("empty answer",) if not text.strip() else ()
            sample = {"prompt": item.data, "answer": text, "finish_reason": reason}
            outcomes.append(Outcome(item.id, {"parses": float(good)}, sample, item.slice, flags))
        return outcomes

    def references(self, items: Sequence[Item]) -> dict[str, list[Reference]]:
        """What lines of another file score as a continuation: much Python parses wherever it stands."""
        files = self.files[: len(items)]
        if not files:
            return {}
        others = [*files[1:], files[0]]
        hits = [continues(mine[2], other[3], cut=True) for mine, other in zip(files, others, strict=True)]
        return {"parses": [Reference("lines of another file", sum(hits) / len(hits))]}


def continues(prompt: str, answer: str, *, cut: bool) -> bool:
    """Whether `answer` says something and prompt + answer can begin a valid program.

    Args:
        cut: the answer ended because it was long enough; its last, unfinished line is left out.
    """
    if cut and "\n" in answer:
        answer = answer[: answer.rindex("\n") + 1]
    return bool(answer.strip()) and begins_program(prompt + answer)


def begins_program(text: str) -> bool:
    """Whether `text` parses as Python, or would if more followed (an open bracket, string or block)."""
    try:
        with warnings.catch_warnings(action="ignore"):  # odd escapes and the like are not errors
            compile(text, "<answer>", "exec", flags=ast.PyCF_ONLY_AST | _ALLOW_INCOMPLETE)
    except SyntaxError as error:
        return error.msg == "incomplete input"
    except (ValueError, MemoryError, RecursionError):  # null bytes, nesting too deep for the parser
        return False
    return True
