"""Asks a task's items of a model, block by block, saving each finished block so that a broken-off run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from foundling.core import progress
from foundling.evaluation.requests import Answer, Answerer
from foundling.evaluation.scores import outcome_line, parse_outcome
from foundling.evaluation.task import Evaluable, Item, Outcome


def run_task(task: Evaluable, items: Sequence[Item], answerer: Answerer, block: int, saved: Path) -> list[Outcome]:
    """Ask and grade all items, block by block; blocks already in the file `saved` are read back, not asked again."""
    done = _read_whole_blocks(saved, items, block)
    with progress.task(task.task.name, total=len(items), unit="items") as bar, saved.open("a", encoding="utf-8") as log:
        bar.advance(len(done))
        for start in range(len(done), len(items), block):
            chosen = items[start : start + block]
            answerer.new_block()
            graded = task.grade(chosen, _ask(task, chosen, answerer))
            assert [o.id for o in graded] == [i.id for i in chosen], f"{task.task.name} graded other items"
            log.write("".join(outcome_line(task.task.name, outcome) for outcome in graded))
            log.flush()
            done += graded
            bar.advance(len(chosen))
    return done


def _ask(task: Evaluable, items: Sequence[Item], answerer: Answerer) -> list[Sequence[Answer]]:
    """The answers to each item's requests; all requests of the block go to the model in one call."""
    requests = [list(task.requests(item)) for item in items]
    answers = iter(answerer.answer([request for mine in requests for request in mine]))
    return [[next(answers) for _ in mine] for mine in requests]


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
