"""How `foundling plan` asks and answers: the flags' types, and how a function that gives an `Answer` is a command."""

from __future__ import annotations

import functools
import inspect
import json as json_module
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.core.units import parse_count
from foundling.planning.answer import DAY_S, HOUR_S, Answer
from foundling.planning.subject import Subject, subject

WIDTH = 140  # columns, where there is no terminal to ask


def _number(_: Any, tokens: Sequence[Any]) -> float:
    return parse_count(tokens[0].value)


def _speed(_: Any, tokens: Sequence[Any]) -> float:
    """'60e12', '60T/s' or '5.2e18/day' -> FLOP/s."""
    number, _slash, per = str(tokens[0].value).partition("/")
    seconds = {"": 1.0, "s": 1.0, "hour": HOUR_S, "day": DAY_S}
    if per not in seconds:
        raise ValueError(f"{tokens[0].value} is no rate: write 60e12/s or 5.2e18/day")
    return parse_count(number) / seconds[per]


Count = Annotated[float, Parameter(converter=_number)]
OptionalCount = Annotated[float | None, Parameter(converter=_number, show_default=False)]
Speed = Annotated[float | None, Parameter(converter=_speed, help="FLOP/s of one device, e.g. 60e12 or 5.2e18/day")]
Hardware = Annotated[str, Parameter(help="a device (`foundling plan hardware`), or `this` machine")]
Precision = Annotated[str, Parameter(help="fp32 (no matrix units), tf32, bf16 or fp8")]
Price = Annotated[float | None, Parameter(help="paid for one device-hour, in any currency", show_default=False)]
Utilisation = Annotated[float | None, Parameter(help="share of the peak that is reached", show_default=False)]
LawSpec = Annotated[str, Parameter(help="besiroglu, hoffmann, muennighoff, or a law.json from `fit` or `scale`")]
Many = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]
Json = Annotated[bool, Parameter(help="one JSON document for machines", negative="")]


def answering(question: Callable[..., Answer]) -> Callable[..., None]:
    """A command with the question's flags and `--json`, that prints its answer."""
    signature = inspect.signature(question, eval_str=True)
    as_json = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)

    @functools.wraps(question)
    def command(*arguments: Any, json: bool = False, **flags: Any) -> None:
        show(question(*arguments, **flags), json)

    parameters = [*signature.parameters.values(), as_json]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def show(answer: Answer, as_json: bool) -> None:
    """Print an answer: figures, table, formula, assumptions, sources, warnings."""
    if as_json:
        print(json_module.dumps(answer.as_dict()))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(answer.title, style="bold")
    figures = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    for figure in answer.figures:
        figures.add_row("  " + figure.name, str(figure))
    console.print(figures)
    if answer.table is not None:
        table = Table(box=None, pad_edge=False)
        for column in answer.table[0]:
            table.add_column(column)
        for row in answer.table[1]:
            table.add_row(*row)
        console.print(table)
    parts = {"formula": answer.formulas, "assumes": answer.assumptions, "source": answer.sources}
    for name, lines in (parts | {"warning": answer.warnings, "plot": answer.plots}).items():
        for line in lines:
            console.print(f"  {name}: {line}", style="bold" if name == "warning" else "dim", soft_wrap=True)


def model_named(spec: str, store: str | None) -> Subject:
    """The model of a preset, a size such as 7B, a directory, life/stage or a key."""
    return subject(spec, Store(store))


def numbers(text: str, form: str, example: str, separator: str = ",") -> list[float]:
    """The numbers of a flag such as `7B,1.4T`.

    Args:
        form: what is expected, e.g. "PARAMETERS,TOKENS"; as many numbers as it has names.

    Raises:
        FoundlingError: one is no number, or there are more or fewer.
    """
    parts = text.split(separator)
    try:
        found = [parse_count(part) for part in parts]
    except ValueError:
        found = []
    if len(found) != len(form.split(separator)):
        raise FoundlingError(f"{text!r} is not {form}", f"e.g. {example}")
    return found
