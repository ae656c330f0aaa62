"""Asks a task's items of a model, saving every answer as it comes, so that a broken-off run goes on where it was.

Items are asked in blocks. A block's answers are kept one by one in `NAME.answers.jsonl`; when it is complete it is
graded, its outcomes are appended to `NAME.samples.jsonl`, and the answers are let go.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from foundling.core import progress
from foundling.evaluation.requests import (
    Answer,
    Answerer,
    Request,
    answer_of,
    answer_row,
    read_and_written,
    request_key,
)
from foundling.evaluation.scores import outcome_line, parse_outcome
from foundling.evaluation.task import Evaluable, InTurns, Item, Outcome


def run_task(task: Evaluable, items: Sequence[Item], answerer: Answerer, block: int, saved: Path) -> list[Outcome]:
    """Ask and grade all items; what the files `saved` and beside it hold is read back, not asked again."""
    done = _read_whole_blocks(saved, items, block)
    journal = Journal(saved.with_suffix(".answers.jsonl"))
    with progress.task(task.task.name, total=len(items), unit="items") as bar, saved.open("a", encoding="utf-8") as log:
        bar.advance(len(done))
        for start in range(len(done), len(items), block):
            chosen = items[start : start + block]
            answerer.new_block()
            answers = _ask(task, chosen, answerer, journal)
            graded = [_with_cost(o, mine) for o, mine in zip(task.grade(chosen, answers), answers, strict=True)]
            assert [o.id for o in graded] == [i.id for i in chosen], f"{task.task.name} graded other items"
            log.write("".join(outcome_line(task.task.name, outcome) for outcome in graded))
            log.flush()
            journal.clear()
            done += graded
            bar.advance(len(chosen))
    return done


class Journal:
    """Answers that have come, by what was asked, in a file that survives a kill; a torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = [json.loads(line) for line in _whole_lines(path)]
        self.answers: dict[str, Answer] = {row["key"]: answer_of(row["answer"]) for row in rows}
        path.write_text("".join(self._line(key, answer) for key, answer in self.answers.items()), encoding="utf-8")

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer."""
        self.answers[key] = answer
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._line(key, answer))

    def clear(self) -> None:
        """Forget what has been graded."""
        self.answers = {}
        self.path.write_text("", encoding="utf-8")

    def _line(self, key: str, answer: Answer) -> str:
        return json.dumps({"key": key, "answer": answer_row(answer)}, ensure_ascii=False) + "\n"


def _ask(task: Evaluable, items: Sequence[Item], answerer: Answerer, journal: Journal) -> list[Sequence[Answer]]:
    """The answers to each item's requests; all requests of the block go to the model in one call (one per turn)."""
    answers = _answered([task.requests(item) for item in items], answerer, journal)
    while isinstance(task, InTurns):
        more = [task.next_requests(item, mine) for item, mine in zip(items, answers, strict=True)]
        if not any(more):
            break
        answers = [[*a, *b] for a, b in zip(answers, _answered(more, answerer, journal), strict=True)]
    return answers


def _answered(requests: Sequence[Sequence[Request]], answerer: Answerer, journal: Journal) -> list[Sequence[Answer]]:
    flat = [request for mine in requests for request in mine]
    keys = [request_key(request) for request in flat]
    known = frozenset(index for index, key in enumerate(keys) if key in journal.answers)
    if len(known) < len(flat):
        for index, answer in answerer.answer_each(flat, known):
            journal.add(keys[index], answer)
    found = iter(keys)
    return [[journal.answers[next(found)] for _ in mine] for mine in requests]


def _with_cost(outcome: Outcome, answers: Sequence[Answer]) -> Outcome:
    costs = [read_and_written(answer) for answer in answers]
    return replace(outcome, tokens=(sum(read for read, _ in costs), sum(written for _, written in costs)))


def _read_whole_blocks(saved: Path, items: Sequence[Item], block: int) -> list[Outcome]:
    """Outcomes of the finished blocks; a torn last block is cut off the file."""
    lines = list(_whole_lines(saved))
    keep = len(lines) if len(lines) == len(items) else len(lines) - len(lines) % block
    if saved.exists():
        with saved.open("rb+") as file:
            file.truncate(sum(len(line) for line in lines[:keep]))
    return [parse_outcome(line.decode())[1] for line in lines[:keep]]


def _whole_lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield line
