"""Rows at the door: chats and prompt/completion pairs from JSONL or Parquet, or a task's generated examples.

Whatever comes in becomes `Example`s, once. A row that is no chat is refused by file and line, or skipped and counted.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from foundling.core.errors import FoundlingError
from foundling.core.files import sha256_file
from foundling.core.stages import Inputs
from foundling.post_training.config import EXPRESSIONS, OWN_EXPRESSIONS, Invalid, SynthesizeConfig
from foundling.post_training.importers import as_our_row

T = TypeVar("T")
ROWS = "rows.jsonl"  # of a data set that `synthesize` made
TASKS = {EXPRESSIONS, OWN_EXPRESSIONS}
ROLES = ("system", "user", "assistant", "tool")
Message = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A chat to learn from, and where it came from: "file:line" or the id of a task's item."""

    messages: tuple[Message, ...]
    source: str
    tools: tuple[dict[str, Any], ...] = ()


def sources(config: Any, inputs: Inputs) -> tuple[str, ...]:
    """What a stage learns from: the data set at its port `rows`, or else what its `data` names."""
    made = inputs.get("rows")
    return tuple(config.data) if made is None else (str(made.path / ROWS),)


def outside(config: Any) -> dict[str, str]:
    """What a config's `data` names: content hashes of files, versions of tasks. Part of the artifact's key."""
    from foundling.evaluation.tasks.expressions import VERSION

    paths = [Path(entry).expanduser() for entry in config.data if entry not in TASKS]
    hashes = {f"{number}:{path.name}": sha256_file(existing_file(path)) for number, path in enumerate(paths)}
    return hashes | ({EXPRESSIONS: f"version {VERSION}"} if TASKS & set(config.data) else {})


def outside_of_synthesis(config: SynthesizeConfig) -> dict[str, str]:
    """The same of `synthesize`, which may name a constitution too."""
    hashes = outside(config)
    if config.constitution:
        hashes["constitution"] = sha256_file(existing_file(Path(config.constitution).expanduser()))
    return hashes


def expression_examples(n: int, seed: int) -> list[Example]:
    """Worked examples of the expression task's training split."""
    from foundling.evaluation.tasks.expressions import generate, messages

    return [Example(tuple(messages(item, item.reference)), item.id) for item in generate("train", n, seed)]


def read_rows(path: Path, convert: Callable[[Any, str], T], invalid: Invalid, skipped: Counter[str]) -> list[T]:
    """Every row of a file in our form, then converted; what cannot be is refused by file and line, or counted."""
    found: list[T] = []
    for line, row in file_rows(path):
        where = f"{path.name}:{line}"
        with InvalidRow(where, invalid, skipped):
            if isinstance(row, FoundlingError):
                raise row
            found.append(convert(as_our_row(row, where), where))
    return found


@dataclass(frozen=True)
class InvalidRow:
    """A mistake in the block is one of the row at `where`: refused under its name, or counted under its reason."""

    where: str
    invalid: Invalid
    skipped: Counter[str]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, FoundlingError):
            return False
        if self.invalid == "skip":
            self.skipped[error.why or error.what.removeprefix(f"{self.where}: ")] += 1
            return True
        if self.where in error.what:
            return False
        raise FoundlingError(f"{self.where}: {error.what}", error.why, error.fix) from None


def as_example(row: Any, where: str) -> Example:
    """A row as an example: {"messages": [...]} in OpenAI's form, or {"prompt": ..., "completion": ...}.

    Raises:
        FoundlingError: naming `where` and what is wrong.
    """
    if not isinstance(row, dict):
        raise FoundlingError(f"{where} is not an object", "a row is {messages: [...]} or {prompt, completion}")
    if "messages" in row:
        tools = row.get("tools") or []
        if not _objects(tools):
            raise FoundlingError(f"{where}: `tools` is not a list of objects", "tools are OpenAI's {type, function}")
        return Example(checked_messages(row["messages"], where), where, tuple(tools))
    if "prompt" in row and "completion" in row:
        both = [*as_messages(row["prompt"], "user"), *as_messages(row["completion"], "assistant")]
        return Example(checked_messages(both, where), where)
    raise FoundlingError(
        f"{where} has the fields {', '.join(row)}", "a row has `messages`, or `prompt` and `completion`"
    )


def as_messages(value: Any, role: str) -> list[Message]:
    """Messages as they are, or a text as one message of a role; anything else is no message."""
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value.strip() else []
    return list(value) if isinstance(value, list) else []


def checked_messages(messages: Any, where: str) -> tuple[Message, ...]:
    """Messages with known roles, texts and at least one answer. Raises FoundlingError, naming `where`."""
    if not _objects(messages):
        raise FoundlingError(f"{where}: `messages` is not a list of objects", "messages are {role, content}")
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise FoundlingError(f"{where}: unknown role {role!r}", f"roles are {', '.join(ROLES)}")
        if not isinstance(content, str) and not message.get("tool_calls"):
            raise FoundlingError(f"{where}: the content of a {role} message is not text")
        if not _objects(message.get("tool_calls") or []):
            raise FoundlingError(f"{where}: `tool_calls` is not a list of objects", "calls are {type, function}")
        if message.get("weight", 1) not in (0, 1):
            raise FoundlingError(f"{where}: the weight {message['weight']!r}", "a message's weight is 0 or 1")
        if role == "assistant" and content is not None and not content.strip() and not message.get("tool_calls"):
            raise FoundlingError(f"{where}: an empty answer", "an assistant message has no content")
    if not any(message["role"] == "assistant" for message in messages):
        raise FoundlingError(f"{where}: no assistant message", "there is nothing to learn from it")
    return tuple(messages)


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def file_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, row) of a JSONL or Parquet file; a broken line comes as the FoundlingError that it is."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1)
        return
    name = path.name.removesuffix(".gz")
    if not name.endswith((".jsonl", ".ndjson")):
        known = "rows are read from .jsonl, .jsonl.gz or .parquet"
        raise FoundlingError(f"{path} has the ending {path.suffix!r}", known)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parsed(line, path, number)  # a broken line is yielded as its error: the policy decides


def _parsed(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return FoundlingError(f"{path.name}:{number} is not JSON", str(error))


def existing_file(path: Path) -> Path:
    """The path, if a file is there. Raises FoundlingError."""
    if not path.is_file():
        raise FoundlingError(f"there is no file {str(path)!r}", "`data` names files of rows, or the task `expressions`")
    return path
