"""Turns a task file and its rows into prompts with worked examples, checking every row on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from foundling.core.errors import FoundlingError
from foundling.evaluation.requests import Messages
from foundling.evaluation.rows import Row
from foundling.evaluation.task import Item
from foundling.evaluation.task_file import TaskFile, rows_of
from foundling.evaluation.templates import evaluate, render

Exchange = tuple[str, str]  # a worked example: question, answer


@dataclass(frozen=True)
class Question:
    """One row, ready to be asked: worked examples and the question itself."""

    row: Row
    preamble: str
    shots: tuple[Exchange, ...]
    prompt: str

    def text(self, spec: TaskFile, prompt: str | None = None) -> str:
        """Everything before the answer as plain text (lm-eval's layout). `prompt` replaces the question's own."""
        shots = "".join(question + spec.delimiter + answer + spec.separator for question, answer in self.shots)
        return self.preamble + shots + (self.prompt if prompt is None else prompt)

    def messages(self, prompt: str | None = None) -> Messages:
        """The same as a conversation: the preamble is the system message, examples are earlier turns."""
        turns = [("system", self.preamble.strip())] if self.preamble.strip() else []
        for question, answer in self.shots:
            turns += [("user", question), ("assistant", answer)]
        return (*turns, ("user", self.prompt if prompt is None else prompt))


def questions(spec: TaskFile, folder: Path, answer_of: Callable[[Row], str]) -> list[tuple[Item, Question]]:
    """Items and questions of a task file, in the data's order.

    Args:
        answer_of: the right answer of a row, for worked examples.

    Raises:
        FoundlingError: naming the row that lacks a column, or has no worked examples.
    """
    rows = rows_of(spec.data, folder)
    pools: dict[str, tuple[Exchange, ...]] = {}
    if spec.shots.count:
        examples = rows_of(spec.shots.data, folder) if spec.shots.data else rows
        pools, used = _pools(spec, examples, answer_of)
        rows = [row for row in rows if row.where not in used]  # what is shown is not asked
        if not rows:
            raise FoundlingError(f"task {spec.name!r} has no rows left", f"all {len(used)} are worked examples")
    made, seen = [], set()
    for number, row in enumerate(rows):
        name = str(evaluate(spec.id, row)) if spec.id else str(number)
        if name in seen:
            raise FoundlingError(f"{row.where}: the id {name!r} is that of an earlier row")
        seen.add(name)
        group = str(evaluate(spec.slice, row)) if spec.slice else ""
        shots = _shots_for(spec, pools, row)
        preamble = render(spec.preamble, row) if spec.preamble else ""
        made.append((Item(name, None, group), Question(row, preamble, shots, render(spec.prompt, row))))
    return made


def _pools(
    spec: TaskFile, examples: Sequence[Row], answer_of: Callable[[Row], str]
) -> tuple[dict[str, tuple[Exchange, ...]], set[str]]:
    """Worked examples by the value of `shots.same` ("" for all), at most `shots.count` of each; and their rows."""
    pools: dict[str, tuple[Exchange, ...]] = {}
    used = set()
    for row in examples:
        key = _group(spec, row)
        if len(pools.get(key, ())) < spec.shots.count:
            pools[key] = (*pools.get(key, ()), (render(spec.prompt, row), answer_of(row)))
            used.add(row.where)
    return pools, used


def _group(spec: TaskFile, row: Row) -> str:
    return str(evaluate(f"row[{spec.shots.same!r}]", row)) if spec.shots.same else ""


def _shots_for(spec: TaskFile, pools: dict[str, tuple[Exchange, ...]], row: Row) -> tuple[Exchange, ...]:
    if spec.shots.count == 0:
        return ()
    key = _group(spec, row)
    shots = pools.get(key, ())
    if len(shots) < spec.shots.count:
        group = f" with {spec.shots.same} {key!r}" if spec.shots.same else ""
        what = f"{row.where}: task {spec.name!r} wants {spec.shots.count} worked examples{group}"
        raise FoundlingError(what, f"its data has {len(shots)}", "Give fewer `shots`")
    return shots
