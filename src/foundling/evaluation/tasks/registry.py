"""Tasks by name."""

from __future__ import annotations

from collections.abc import Callable

from foundling.core.artifacts import Artifact
from foundling.core.errors import FoundlingError, nearest
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.documents import Documents
from foundling.evaluation.task import Evaluable


def make_tasks(config: EvaluateConfig, corpus: Artifact | None) -> list[Evaluable]:
    """The tasks that the config names, in its order.

    Raises:
        FoundlingError: no task of that name, or the same one twice.
    """
    documents = Documents(corpus)
    made = []
    for name in config.tasks:
        if name not in _BUILT_IN:
            raise FoundlingError(f"no task is called {name!r}", nearest(name, _BUILT_IN) or ", ".join(_BUILT_IN))
        made.append(_BUILT_IN[name](config, documents))
    names = [task.task.name for task in made]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise FoundlingError(f"the task {doubled!r} is given twice")
    return made


def _bits_per_byte(config: EvaluateConfig, documents: Documents) -> Evaluable:
    from foundling.evaluation.tasks.bits_per_byte import BitsPerByte

    return BitsPerByte(config.bits_per_byte, documents, config.seed)


def _syntax(config: EvaluateConfig, documents: Documents) -> Evaluable:
    from foundling.evaluation.tasks.syntax import Syntax

    return Syntax(config.syntax, documents, config.seed)


def _expressions(config: EvaluateConfig, documents: Documents) -> Evaluable:
    from foundling.evaluation.tasks.answering_expressions import AnsweringExpressions

    return AnsweringExpressions(config.expressions, config.seed)


_BUILT_IN: dict[str, Callable[[EvaluateConfig, Documents], Evaluable]] = {
    "bits-per-byte": _bits_per_byte,
    "syntax": _syntax,
    "expressions": _expressions,
}
