"""Task files and their rows: what is wrong is named, by file and line, before any model is there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.evaluation.config import EvaluateConfig, SamplesConfig
from foundling.evaluation.matching import extract, matches, number, token_f1
from foundling.evaluation.requests import Answer, Generate, GenerateAnswer, Loglikelihood, LoglikelihoodAnswer
from foundling.evaluation.task_file import Extract, built_in_tasks, outside, read_task_file
from foundling.evaluation.tasks.refusal import refuses
from foundling.evaluation.tasks.registry import make_tasks, task_names

DATA = os.environ.get("FOUNDLING_DATA")
ROWS = [{"q": "one?", "options": ["a", "b"], "gold": 0}, {"q": "two?", "options": ["c", "d"], "gold": 1}]
SPEC = {
    "name": "mine",
    "version": 1,
    "data": {"file": "rows.jsonl"},
    "kind": "choices",
    "prompt": "{{q}}",
    "choices": "options",
    "answer": "gold",
}
HUB: dict[str, list[dict[str, Any]]] = {
    "copa": [
        {"premise": "The cup broke.", "choice1": "It fell.", "choice2": "I drank.", "question": "cause", "label": 0},
        {"premise": "It rained. ", "choice1": "I sang.", "choice2": "I got wet.", "question": "effect", "label": 1},
    ],
    "cnn-dailymail": [{"article": "A dog ran home.", "highlights": "Dog runs .\nIt is home .", "id": "1"}],
}


def write(folder: Path, spec: dict[str, Any], rows: Sequence[Any] = ROWS) -> str:
    """A task file and its rows; returns the file's path."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "mine.yaml"
    path.write_text(json.dumps(spec))  # JSON is YAML
    return str(path)


def load(path: str, **changes: Any) -> Any:
    """The task of a file, with its items made."""
    [task] = make_tasks(EvaluateConfig(tasks=(path,), **changes), None)
    task.items()
    return task


BROKEN: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]], list[Any], str]] = [
    ("unknown field", lambda s: {**s, "promt": "x"}, ROWS, r"unknown field 'promt'.*prompt"),
    ("missing field", lambda s: {k: v for k, v in s.items() if k != "version"}, ROWS, "'version' is missing"),
    ("wrong kind", lambda s: {**s, "kind": "choice"}, ROWS, "kind"),
    ("no answer", lambda s: {k: v for k, v in s.items() if k != "answer"}, ROWS, "needs `answer`"),
    ("missing column", lambda s: {**s, "prompt": "{{question}}"}, ROWS, r"rows.jsonl:1.*question"),
    ("missing column in the middle", lambda s: s, [ROWS[0], {"q": "x", "gold": 0}], r"rows.jsonl:2.*options"),
    ("broken line", lambda s: s, [ROWS[0], '{"q": '], r"rows.jsonl:2 is not JSON"),
    ("not an object", lambda s: s, ["[1]"], r"rows.jsonl:1 holds list"),
    ("no rows", lambda s: s, [""], "holds no rows"),
    ("empty choices", lambda s: s, [{**ROWS[0], "options": []}], r"rows.jsonl:1 has 0 choices"),
    ("one choice", lambda s: s, [{**ROWS[0], "options": ["a"]}], r"rows.jsonl:1 has 1 choices"),
    ("blank choice", lambda s: s, [ROWS[1], {**ROWS[0], "options": ["a", " "]}], r"rows.jsonl:2: choice 1 is empty"),
    ("choices of numbers", lambda s: s, [{**ROWS[0], "options": [1, 2]}], r"rows.jsonl:1: the choices are \[1, 2\]"),
    (
        "answer out of range",
        lambda s: s,
        [ROWS[0], {**ROWS[1], "gold": 2}],
        r"rows.jsonl:2: the answer 2 is out",
    ),
    ("negative answer", lambda s: s, [{**ROWS[0], "gold": -1}], r"rows.jsonl:1: the answer -1"),
    ("unknown answer", lambda s: s, [{**ROWS[0], "gold": "z"}], r"rows.jsonl:1: the answer 'z'"),
    ("no file", lambda s: {**s, "data": {"file": "row.jsonl"}}, ROWS, r"'row.jsonl' is not in.*rows.jsonl"),
    ("nothing selected", lambda s: {**s, "data": {"file": "rows.jsonl", "where": {"q": "x"}}}, ROWS, "no row of"),
    ("bad where", lambda s: {**s, "data": {"file": "rows.jsonl", "where": {"z": 1}}}, ROWS, "no column 'z'"),
    ("bad template", lambda s: {**s, "prompt": "{{q"}, ROWS, "template"),
    ("too many shots", lambda s: {**s, "shots": {"count": 5}}, ROWS, "no rows left"),
    ("same id twice", lambda s: {**s, "id": "'x'"}, ROWS, r"rows.jsonl:2: the id 'x'"),
]


@pytest.mark.parametrize(("change", "rows", "message"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_broken_files_are_refused(change: Callable[..., Any], rows: list[Any], message: str, tmp_path: Path) -> None:
    """Guards against a mistake that is found after an hour of evaluation, or never."""
    with pytest.raises(FoundlingError, match=message):
        load(write(tmp_path, change(SPEC), rows))


def test_unknown_name_and_broken_yaml(tmp_path: Path) -> None:
    """Guards against tracebacks from the YAML parser and for misspelt names."""
    with pytest.raises(FoundlingError, match="Did you mean 'hellaswag'"):
        load("helaswag")
    (tmp_path / "x.yaml").write_text("a: [1")
    with pytest.raises(FoundlingError, match="is not YAML"):
        load(str(tmp_path / "x.yaml"))
    with pytest.raises(FoundlingError, match="cannot be read"):
        load(str(tmp_path / "none.yaml"))


def test_choices_are_asked_and_graded(tmp_path: Path) -> None:
    """Guards against grades that do not belong to the option that was likeliest by each normalisation."""
    spec = {**SPEC, "metrics": ["acc", "acc_norm", "mass", "brier"], "slice": "q"}
    task = load(write(tmp_path, spec, [{"q": "one?", "options": ["a", "bbbb"], "gold": 1}]))
    [item] = task.items()
    assert task.requests(item) == [Loglikelihood("one?", " a"), Loglikelihood("one?", " bbbb")]
    answers = [LoglikelihoodAnswer(-1.0, True, 1), LoglikelihoodAnswer(-2.0, False, 4)]
    [outcome] = task.grade([item], [answers])
    assert outcome.metrics["acc"] == 0.0 and outcome.metrics["acc_norm"] == 1.0
    assert outcome.metrics["mass"] == pytest.approx(0.2689, abs=1e-3) and outcome.slice == "one?"
    assert outcome.metrics["brier"] == pytest.approx(2 * 0.7311**2, abs=1e-3)


def test_shots_are_shown_and_not_asked(tmp_path: Path) -> None:
    """Guards against a question whose own answer is among its worked examples."""
    task = load(write(tmp_path, SPEC), shots=1)
    [item] = task.items()
    assert task.requests(item)[0] == Loglikelihood("one? a\n\ntwo?", " c")
    chat = load(write(tmp_path, SPEC), shots=1, chat=True)
    asked = chat.requests(chat.items()[0])[0]
    assert asked.context == (("user", "one?"), ("assistant", "a"), ("user", "two?"))


def test_extraction_and_matching() -> None:
    """Guards against numbers compared as text, the wrong match, and F1 on words with punctuation."""
    rule = Extract(pattern=r"-?[0-9][0-9,.]*", take="last", match="numeric")
    assert extract(rule, "first 3, then 1,234.50.") == "1,234.50."
    assert matches(rule, "1,234.50.", ["$1234.5"]) == 1.0 and matches(rule, "x", ["1"]) == 0.0
    assert extract(rule, "none") is None and number("1e999999999999") is None
    assert token_f1("The cat sat.", "a cat") == pytest.approx(2 / 3)
    assert matches(Extract(match="contains"), "It is Paris, of course", ["paris"]) == 1.0
    assert matches(Extract(match="contains"), "Parisian", ["paris"]) == 0.0


def test_generation_flags_what_it_cannot_read(tmp_path: Path) -> None:
    """Guards against missing answers that silently count as ordinary wrong ones."""
    spec = {**SPEC, "kind": "generate", "answer": "gold", "extract": {"digits": {"pattern": "[0-9]+"}}}
    task = load(write(tmp_path, {k: v for k, v in spec.items() if k != "choices"}))
    answers: list[list[Answer]] = [
        [GenerateAnswer(("no idea",), ("length",), 3, 3)],
        [GenerateAnswer(("1",), ("stop",), 3, 1)],
    ]
    first, second = task.grade(task.items(), answers)
    assert first.flags == ("digits: no answer found", "cut off") and first.metrics["digits"] == 0.0
    assert second.metrics["digits"] == 1.0 and not second.flags


def test_refusals() -> None:
    """Guards against a detector that finds refusals in help, or misses the usual ones."""
    assert refuses("I\u2019m sorry, but I can't assist with that.") and refuses("As an AI, I must decline.")
    assert not refuses("Sure! Use `kill -9 PID`. " + "x" * 300 + " I'm sorry") and not refuses("")
    assert not refuses("I cannot stress enough how easy this is: do it.")


def test_tasks_may_be_given_in_one_word() -> None:
    """Guards against `--tasks mmlu,gsm8k` taken for one task of that name."""
    assert EvaluateConfig(tasks=("mmlu, gsm8k", "boolq")).tasks == ("mmlu", "gsm8k", "boolq")
    assert parse(EvaluateConfig, {"tasks": "mmlu,boolq"}, "test").tasks == ("mmlu", "boolq")
    with pytest.raises(FoundlingError, match="tasks"):
        parse(EvaluateConfig, {"tasks": 3}, "test")


def test_a_task_file_is_part_of_the_key(tmp_path: Path) -> None:
    """Guards against reusing an evaluation after its questions or template changed."""
    config = EvaluateConfig(tasks=(write(tmp_path, SPEC),))
    first = outside(config)
    write(tmp_path, SPEC, [ROWS[0]])
    second = outside(config)
    write(tmp_path, {**SPEC, "prompt": "Q: {{q}}"}, [ROWS[0]])
    assert first != second != outside(config)
    assert outside(EvaluateConfig()) == {}


def test_built_in_files_are_valid() -> None:
    """Guards against a shipped task file that does not parse or is not named as its file."""
    assert len(built_in_tasks()) >= 25 and set(built_in_tasks()) < set(task_names())
    for name in built_in_tasks():
        assert read_task_file(name)[0].name == name


@pytest.mark.skipif(DATA is None, reason="FOUNDLING_DATA is not set")
@pytest.mark.parametrize("name", [name for name in built_in_tasks() if name not in {"mmlu", *HUB}])
def test_built_in_tasks_fit_their_data(name: str) -> None:
    """Guards against templates that do not fit the data's columns, and references that are not numbers."""
    task = load(name)
    assert len(task.items()) >= 80 and task.requests(task.items()[-1])
    assert all(0 <= r.value <= 10 for found in task.references(task.items()).values() for r in found)


def put_hub_file(name: str, folder: Path) -> None:
    """The file of a task of the hub, with our rows, in a folder for `FOUNDLING_DATA`."""
    import polars

    data = read_task_file(name)[0].data
    path = folder / str(data.hub) / data.file
    path.parent.mkdir(parents=True)
    polars.DataFrame(HUB[name]).write_parquet(path)


def test_hub_tasks_fit_their_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a template of a task of the hub that does not fit, and no word of where else a file may lie."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FOUNDLING_DATA", str(tmp_path))
    with pytest.raises(FoundlingError, match=r"put the file at FOUNDLING_DATA/aps/super_glue/copa/validation"):
        load("copa")
    for name in HUB:
        put_hub_file(name, tmp_path)
    copa, news = load("copa"), load("cnn-dailymail")
    assert [(r.context, r.continuation) for item in copa.items() for r in copa.requests(item)] == [
        ("The cup broke because", " it fell."),
        ("The cup broke because", " i drank."),
        ("It rained therefore", " i sang."),
        ("It rained therefore", " i got wet."),
    ]
    [item] = news.items()
    [request] = news.requests(item)
    assert request.prompt == "A dog ran home.\nTL;DR:"
    [same] = news.grade([item], [[GenerateAnswer((" Dog runs. It is home.",), ("stop",), 9, 7)]])
    assert same.metrics == {"rouge-1": 1.0, "rouge-2": 1.0, "rouge-l": 1.0}
    [part] = news.grade([item], [[GenerateAnswer((" Home is the dog",), ("stop",), 9, 4)]])
    assert part.metrics["rouge-1"] == pytest.approx(2 * 3 / (4 + 5)) and part.metrics["rouge-2"] == 0


@pytest.mark.skipif(DATA is None, reason="FOUNDLING_DATA is not set")
def test_programs_pass_with_the_reference_solution() -> None:
    """Guards against a program put together so that right solutions fail, and wrong ones pass."""
    from foundling.evaluation.code_sandbox import require_isolation
    from foundling.evaluation.tasks.programs import Programs

    try:
        require_isolation()
    except FoundlingError as error:
        pytest.skip(str(error))
    spec, folder = read_task_file("humaneval")
    task = Programs(spec, folder, samples=SamplesConfig(count=2, k=(1, 2)))
    items = task.items()[:12]
    right = [item.data[0].row.fields["canonical_solution"] for item in items]
    answers: list[list[Answer]] = [
        [GenerateAnswer((text,), ("stop",), 1, 1), GenerateAnswer((text, "    return None\n"), ("stop",) * 2, 1, 1)]
        for text in right
    ]
    assert isinstance(task.requests(items[0])[1], Generate)
    for outcome in task.grade(items, answers):
        assert outcome.metrics["pass"] == 1.0, outcome.sample
        assert outcome.metrics["pass@1"] == 0.5 and outcome.metrics["pass@2"] == 1.0
        assert outcome.metrics["pass^2"] == 0.0
