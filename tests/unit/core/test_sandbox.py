"""The sandbox against expressions that try to get out, to hang, to fill the memory, and to crash it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundling.core import sandbox_worker
from foundling.core.sandbox import Job, Limits, Result, Sandbox, count_reasons

INPUTS: dict[str, Any] = {"xs": [3, 2, -4], "words": ["b", "A", "ccc"], "s": "hello", "d": {"a": 1, "b": 3}, "n": 5}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


def _one(sandbox: Sandbox, expression: str) -> Result:
    return sandbox.evaluate([Job(expression, (INPUTS,))])[0]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("sum(x ** 2 for x in xs if x % 2 == 0)", 20),
        ("sorted(words, key=str.lower)", ["A", "b", "ccc"]),
        ("max(d, key=d.get)", "b"),
        ("{w: len(w) for w in words}", {"b": 1, "A": 1, "ccc": 3}),
        ("'-'.join(w.upper() for w in words)", "B-A-CCC"),
        ("list(zip(xs, words))", [(3, "b"), (2, "A"), (-4, "ccc")]),
        ("sorted(xs, key=lambda x: -x)[0] / 2", 1.5),
        ("{x for x in xs} | {9}", {3, 2, -4, 9}),
        ("f'{n}-{s}'", "5-hello"),
        ("[[y for y in range(x)] for x in xs if x > 0]", [[0, 1, 2], [0, 1]]),
    ],
)
def test_evaluates_ordinary_expressions(sandbox: Sandbox, expression: str, value: Any) -> None:
    """Guards against guards that break what they guard: scopes, keys, types through the pipe."""
    result = _one(sandbox, expression)
    assert result.values is not None, result
    assert (result.values[0], type(result.values[0])) == (value, type(value))


@pytest.mark.parametrize(
    "expression",
    [
        "().__class__.__bases__", "__import__('os')", "open('/etc/passwd')", "(lambda f: f(f))(lambda f: f(f))",
        "'{0.__class__}'.format(xs)", "[].append(1)", "xs.__len__()", "getattr(xs, 'pop')", "eval('1')",
        "_Add(1, 2)", "[__builtins__ for x in xs]", "'%9999999999d' % 3", "f'{n:99999999999}'", "print(1)",
        "(y := 3)", "[await x for x in xs]", "xs.sort", "sum([xs], [])", "map(str, xs)", "lambda: 1", "d.get",
    ],
)  # fmt: skip
def test_refuses_what_is_not_in_the_grammar(sandbox: Sandbox, expression: str) -> None:
    """Guards the allow-list: attributes, names of the guards themselves, anything that is not a plain value."""
    assert _one(sandbox, expression).reason in ("not allowed", "syntax", "error")
    assert _one(sandbox, expression).values is None


@pytest.mark.parametrize(
    "expression",
    [
        "9 ** 9 ** 9", "[0] * 10 ** 12", "'a' * 10 ** 12", "sum(range(10 ** 12))", "list(range(10 ** 7))",
        "[x for x in range(99999) for y in range(99999)]", "'a'.ljust(10 ** 10)", "('a' * 1000).replace('a', 'b' * 999)",  # noqa: E501
        "[b + b for a in [[1] * 999] for b in [a * 99] for c in [b * 99]]", "[i for i in range(60000)]",
        "[[[x * y for x in range(999)] for y in range(999)] for z in range(999)]",
        "(2 ** 4000) * (2 ** 4000)", "len([1 for x in zip(range(99999), range(99999)) for y in range(9)])",
        "max(map(lambda i: sum(j for j in range(9999)), range(9999)))",
    ],
)  # fmt: skip
def test_refuses_too_much_at_the_same_place_everywhere(sandbox: Sandbox, expression: str) -> None:
    """Guards against growth by counting, not by the clock: the reason must not depend on the machine's speed."""
    assert _one(sandbox, expression).reason == "too much"


def test_a_hang_and_a_crash_cost_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the net below the counting: a worker that hangs or dies is replaced, and the others get their answers."""
    with Sandbox(limits=Limits(cpu_s=0.3)) as sandbox:
        worker = sandbox._workers[0]
        sandbox.evaluate([Job("1", (INPUTS,))])
        assert worker.process is not None
        worker.process.kill()
        worker.process.wait()
        results = sandbox.evaluate([Job("n", (INPUTS,))] * 3)
        assert [r.values for r in results] == [(5,)] * 3
        monkeypatch.setattr(sandbox_worker, "__file__", str(_hanging_worker(monkeypatch)))
        worker.stop()
        results = sandbox.evaluate([Job("n", ({"n": i},)) for i in range(4)])
        assert [r.reason for r in results] == ["", "timeout", "crash", ""]
        assert count_reasons(results) == {"crash": 1, "timeout": 1}


def _hanging_worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker that hangs on the input 1 and dies on the input 2."""
    import tempfile
    from pathlib import Path

    text = "import sys, json\nfor line in sys.stdin:\n n = json.loads(line)[1][0]['dict'][0][1]\n"
    text += " while n == 1: pass\n if n == 2: sys.exit(3)\n print(json.dumps(['', '', [n]]), flush=True)\n"
    path = Path(tempfile.mkdtemp()) / "worker.py"
    path.write_text(text)
    return path


def test_several_workers_give_the_same_results() -> None:
    """Guards the order of results when jobs are dealt to several processes."""
    jobs = [Job(f"n + {i}", (INPUTS,)) for i in range(300)]
    with Sandbox(workers=3) as sandbox:
        assert [r.values for r in sandbox.evaluate(jobs)] == [(5 + i,) for i in range(300)]


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),  # noqa: E501
    max_leaves=8,
)  # fmt: skip


@given(plain)
def test_values_survive_the_pipe(value: Any) -> None:
    """Guards against a tuple that comes back as a list, or True as 1: grading compares types."""
    assert repr(sandbox_worker.decode(sandbox_worker.encode(value))) == repr(value)


@settings(max_examples=200)
@given(st.text(alphabet="xsn 0123456789+-*/%()[]{}.,:'=<>forinifelsetrupadlmb_", max_size=40))
def test_any_text_is_answered(source: str) -> None:
    """Guards against an answer that brings the worker down instead of failing on its own."""
    reason, _, values = sandbox_worker.run(source, [{"dict": [["xs", [1, 2]], ["n", 3], ["s", "ab"]]}])
    assert reason in ("", "syntax", "not allowed", "error", "too much")
    assert (values is None) == (reason != "")
