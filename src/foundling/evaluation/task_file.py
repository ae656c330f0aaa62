"""The YAML form of a task: data, template, request type, metric, version. Everything is checked before a model loads.

    name: arc-easy
    version: 1
    data: {file: eval/arc_easy.jsonl.gz}
    kind: choices
    prompt: "{{query}}\\nAnswer:"
    choices: choices
    answer: gold

`prompt`, `preamble` and `target` are Jinja templates over a row's fields; `choices`, `contexts`, `answer`, `slice`
and `id` are Jinja expressions. A field that a row does not have is an error that names the file and line.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml

from foundling.core.config import Config, canonical_json, option, parse
from foundling.core.errors import FoundlingError
from foundling.core.files import sha256_file
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.rows import Row, find_file, read_rows

_NEEDS = {
    "choices": ("answer",),
    "continuation": ("target",),
    "generate": ("answer",),
    "text": ("target",),
    "program": ("program",),
    "instructions": ("instructions", "arguments"),
    "refusal": ("harmful",),
    "conversation": ("turns",),
}
BUILT_IN = Path(__file__).parent / "tasks" / "files"


class Data(Config):
    """Where the rows come from."""

    file: str = option(help="a file beside the task file or under FOUNDLING_DATA; or its name in the hub repository")
    hub: str | None = option(None, "a data set repository of the Hugging Face hub")
    revision: str = option("main", "branch, tag or commit of the hub repository")
    where: dict[str, Any] = option({}, "use the rows whose fields have these values")


class Shots(Config):
    """Worked examples before the question."""

    count: int = option(0, "how many", ge=0)
    data: Data | None = option(None, "where they come from; null: the first rows of the data, then left out")
    same: str | None = option(None, "a field in which they equal the question, such as its subject")


class Extract(Config):
    """How an answer is read out of generated text."""

    pattern: str | None = option(None, "regular expression; null: the whole text")
    take: Literal["first", "last"] = option("first", "which match")
    match: Literal[
        "exact", "numeric", "f1", "contains", "bleu", "chrf", "rouge-1", "rouge-2", "rouge-l", "supported"
    ] = option(
        "exact", "how it is compared with the truth; supported: share of its sentences found in the accepted texts"
    )
    ignore: tuple[str, ...] = option((), "regular expressions removed from both before comparing")
    ignore_case: bool = option(False, "compare in lower case")


class TaskFile(Config):
    """A task."""

    name: str = option(help="what `--tasks` calls it", pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = option(help="raised when a change makes scores incomparable", ge=1)
    about: str = option("", "one line: what it measures, its paper and licence")
    data: Data = option(help="the rows")
    kind: Literal[
        "choices", "continuation", "generate", "text", "program", "instructions", "refusal", "conversation"
    ] = option(
        help="choices: which continuation is likeliest; continuation: how likely is one, and is it greedy; "
        "generate: text that is matched with the truth; text: bits per byte of whole texts; program: code that is run; "
        "instructions: verifiable ones (IFEval); refusal: is the request declined; conversation: for judges"
    )
    preamble: str = option("", "template put once before everything")
    prompt: str = option("", "template of the question")
    choices: str | tuple[str, ...] | None = option(None, "expression for the list of choices, or the list itself")
    contexts: str | None = option(None, "expression for a list of prompts, where the choice is between contexts")
    target: str | None = option(None, "template of the right continuation, answer or text")
    answer: str | None = option(
        None, "expression: index of the right choice, or a list of indices; for `generate`: accepted answers"
    )
    answerable: str | None = option(
        None, "of `generate`: expression, whether the question has an answer; if not, saying so is right"
    )
    paraphrase: str | None = option(None, "template of the question in other words, for `perturb`")
    delimiter: str = option(" ", "between a prompt and its answer")
    separator: str = option("\n\n", "between worked examples")
    shots: Shots = option(Shots(), "worked examples")
    metrics: tuple[Literal["acc", "acc_norm", "acc_bytes", "acc_mutual_info", "mass", "brier"], ...] = option(
        ("acc",), "of `choices`: acc_norm per character, acc_bytes per byte, mass on all right answers (MC2)"
    )
    extract: dict[str, Extract] = option({"exact": Extract()}, "of `generate`: metric name -> how to read an answer")
    program: str | None = option(None, "of `program`: template over the row and `reply`; passes if it runs to its end")
    instructions: str | None = option(None, "of `instructions`: expression for the list of their names")
    arguments: str | None = option(None, "of `instructions`: expression for the list of their arguments")
    turns: str | None = option(None, "of `conversation`: expression for the list of the user's turns")
    harmful: str | None = option(None, "of `refusal`: expression, whether the request should be declined")
    higher_is_better: bool = option(True, "false where `acc` counts what a model should not do")
    stop: tuple[str, ...] = option((), "strings that end a generated answer")
    max_tokens: int = option(256, "longest generated answer", gt=0)
    slice: str | None = option(None, "expression that groups items in the breakdown")
    id: str | None = option(None, "expression that names an item; null: its number")

    def check(self, where: str) -> None:
        """Refuse a file whose parts do not go together."""
        for field in _NEEDS[self.kind]:
            if getattr(self, field) is None:
                raise FoundlingError(f"{where}: a task of kind {self.kind!r} needs `{field}`")
        if self.kind == "choices" and (self.choices is None) == (self.contexts is None):
            raise FoundlingError(f"{where}: give either `choices` or `contexts`")
        if self.contexts is not None and self.target is None:
            raise FoundlingError(f"{where}: `contexts` needs `target`, the text that follows each of them")


def read_task_file(name_or_path: str) -> tuple[TaskFile, Path]:
    """A task file by path, or one of ours by name; and the folder it lies in.

    Raises:
        FoundlingError: not found, not YAML, an unknown field, or fields that do not go together.
    """
    path = BUILT_IN / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path).expanduser()
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FoundlingError(f"task file {name_or_path!r} cannot be read", str(error)) from None
    except yaml.YAMLError as error:
        raise FoundlingError(f"{path} is not YAML", " ".join(str(error).split())) from None
    if not isinstance(data, dict):
        raise FoundlingError(f"{path} holds {type(data).__name__}", "a task is a mapping of fields")
    task = parse(TaskFile, data, str(path))
    task.check(str(path))
    return task, path.parent


def built_in_tasks() -> list[str]:
    """Names of the tasks that ship with the package."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def outside(config: EvaluateConfig) -> dict[str, str]:
    """Content hashes of the task files, data and classes that a config names: they are part of the evaluation's key."""
    hashes = {}
    for name in config.tasks:
        if name in built_in_tasks() or name.endswith((".yaml", ".yml")):
            spec, folder = read_task_file(name)
            sources = [spec.data, *([spec.shots.data] if spec.shots.data else [])]
            hashes[name] = hashlib.sha256(canonical_json(spec.model_dump(mode="json")).encode()).hexdigest()
            hashes |= {f"{name}:{data.file}": sha256_file(data_path(data, folder)) for data in sources}
        elif ":" in name:
            hashes[name] = sha256_file(Path(inspect.getfile(task_class(name))))
    return hashes


def task_class(reference: str) -> Any:
    """The class that "package.module:Class" names, on Python's path.

    Raises:
        FoundlingError: it cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        fix = "Give module:Class, with the module on PYTHONPATH"
        raise FoundlingError(f"the task class {reference!r} cannot be imported", str(error), fix) from None


def data_path(data: Data, folder: Path) -> Path:
    """The local file of a data source; one of the hub is `FOUNDLING_DATA/<hub>/<file>`, or else downloaded."""
    if data.hub is None:
        return find_file(data.file, folder)
    with suppress(FoundlingError):
        return find_file(f"{data.hub}/{data.file}", folder)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(data.hub, data.file, repo_type="dataset", revision=data.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        what = f"{data.file!r} of the hub data set {data.hub!r} cannot be had"
        fix = f"Where there is no network, put the file at FOUNDLING_DATA/{data.hub}/{data.file}"
        raise FoundlingError(what, str(error).splitlines()[0], fix) from None


def rows_of(data: Data, folder: Path) -> list[Row]:
    """The rows that a data source selects. Raises FoundlingError if a `where` field is missing or nothing is left."""
    path = data_path(data, folder)
    rows = read_rows(path)
    for field in data.where:
        missing = next((row for row in rows if field not in row.fields), None)
        if missing is not None:
            raise FoundlingError(f"{missing.where} has no column {field!r}", f"it has {', '.join(missing.fields)}")
    chosen = [row for row in rows if all(row.fields[k] == v for k, v in data.where.items())]
    if not chosen:
        raise FoundlingError(f"no row of {path} has {data.where}")
    return chosen
