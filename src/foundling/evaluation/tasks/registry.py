"""Tasks by name."""

from __future__ import annotations

from collections.abc import Callable

from foundling.core.artifacts import Artifact
from foundling.core.errors import FoundlingError, nearest
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.documents import Documents
from foundling.evaluation.task import Evaluable
from foundling.evaluation.task_file import built_in_tasks, read_task_file


def make_tasks(config: EvaluateConfig, corpus: Artifact | None) -> list[Evaluable]:
    """The tasks that the config names, in its order.

    Raises:
        FoundlingError: no task of that name, or the same one twice.
    """
    documents = Documents(corpus)
    made = [
        _BUILT_IN[name](config, documents) if name in _BUILT_IN else _from_file(config, name) for name in config.tasks
    ]
    names = [task.task.name for task in made]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise FoundlingError(f"the task {doubled!r} is given twice")
    return made


def task_names() -> list[str]:
    """Every task that has a name: those in Python and the task files that ship with the package."""
    return sorted([*_BUILT_IN, *built_in_tasks()])


def _from_file(config: EvaluateConfig, name: str) -> Evaluable:
    if name not in built_in_tasks() and not name.endswith((".yaml", ".yml")):
        names = task_names()
        raise FoundlingError(f"no task is called {name!r}", nearest(name, names) or ", ".join(names))
    from foundling.evaluation.perturbed import Perturbed
    from foundling.evaluation.tasks.choices import Choices
    from foundling.evaluation.tasks.continuation import Continuation, Texts
    from foundling.evaluation.tasks.generation import Generation
    from foundling.evaluation.tasks.instruction_following import InstructionFollowing
    from foundling.evaluation.tasks.programs import Programs
    from foundling.evaluation.tasks.refusal import Refusal

    spec, folder = read_task_file(name)
    if config.shots is not None:
        spec = spec.model_copy(update={"shots": spec.shots.model_copy(update={"count": config.shots})})
    if spec.kind == "text":
        return Texts(spec, folder)
    if spec.kind == "program":
        return Programs(spec, folder, config.programs, config.seed, config.chat)
    if spec.kind == "instructions":
        return InstructionFollowing(spec, folder, config.chat)
    if spec.kind == "refusal":
        return Refusal(spec, folder, config.chat)
    if spec.kind == "choices":
        choices = Choices(spec, folder, config.chat)
        return Perturbed(choices, config.seed) if config.perturb else choices
    if spec.kind == "continuation":
        return Continuation(spec, folder, config.chat)
    return Generation(spec, folder, config.chat)


def _bits_per_byte(config: EvaluateConfig, documents: Documents) -> Evaluable:
    from foundling.evaluation.tasks.bits_per_byte import BitsPerByte

    return BitsPerByte(config.bits_per_byte, documents, config.seed)


def _syntax(config: EvaluateConfig, documents: Documents) -> Evaluable:
    from foundling.evaluation.tasks.syntax import Syntax

    return Syntax(config.syntax, documents, config.seed)


def _memorisation(config: EvaluateConfig, documents: Documents) -> Evaluable:
    from foundling.evaluation.tasks.memorisation import Memorisation

    return Memorisation(config.memorisation, documents, config.seed)


def _expressions(config: EvaluateConfig, documents: Documents) -> Evaluable:
    from foundling.evaluation.tasks.answering_expressions import AnsweringExpressions

    return AnsweringExpressions(config.expressions, config.seed)


_BUILT_IN: dict[str, Callable[[EvaluateConfig, Documents], Evaluable]] = {
    "bits-per-byte": _bits_per_byte,
    "syntax": _syntax,
    "expressions": _expressions,
    "memorisation": _memorisation,
}
