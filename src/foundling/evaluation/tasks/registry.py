"""Tasks by name."""

from __future__ import annotations

from collections.abc import Callable

from foundling.core.artifacts import Artifact
from foundling.core.errors import FoundlingError, nearest
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.documents import Documents
from foundling.evaluation.jailbreaks import jailbroken
from foundling.evaluation.perturbations import perturbed
from foundling.evaluation.styles import styled
from foundling.evaluation.task import Evaluable
from foundling.evaluation.task_file import built_in_tasks, read_task_file, task_class
from foundling.evaluation.tasks.answering_expressions import AnsweringExpressions
from foundling.evaluation.tasks.bits_per_byte import BitsPerByte
from foundling.evaluation.tasks.canaries import Canaries
from foundling.evaluation.tasks.choices import Choices
from foundling.evaluation.tasks.continuation import Continuation, Texts
from foundling.evaluation.tasks.conversation import Conversation
from foundling.evaluation.tasks.generation import Generation
from foundling.evaluation.tasks.instruction_following import InstructionFollowing
from foundling.evaluation.tasks.memorisation import Memorisation
from foundling.evaluation.tasks.personal_data import PersonalData
from foundling.evaluation.tasks.programs import Programs
from foundling.evaluation.tasks.refusal import Refusal
from foundling.evaluation.tasks.snowball import Snowball
from foundling.evaluation.tasks.syntax import Syntax


def make_tasks(config: EvaluateConfig, corpus: Artifact | None) -> list[Evaluable]:
    """The tasks that the config names, in its order.

    Raises:
        FoundlingError: no task of that name, or the same one twice.
    """
    documents = Documents(corpus)
    made = _asked_again(config, [_named(config, documents, name) for name in config.tasks])
    names = [task.task.name for task in made]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise FoundlingError(f"the task {doubled!r} is given twice")
    return made


def task_names() -> list[str]:
    """Every task that has a name: those in Python and the task files that ship with the package."""
    return sorted([*_BUILT_IN, *built_in_tasks()])


def _named(config: EvaluateConfig, documents: Documents, name: str) -> Evaluable:
    if name in _BUILT_IN:
        return _BUILT_IN[name](config, documents)
    if name in built_in_tasks() or name.endswith((".yaml", ".yml")):
        return _from_file(config, name)
    if ":" in name:
        made: Evaluable = task_class(name)(config)
        return made
    names = task_names()
    raise FoundlingError(f"no task is called {name!r}", nearest(name, names) or ", ".join(names))


def _from_file(config: EvaluateConfig, name: str) -> Evaluable:
    spec, folder = read_task_file(name)
    if config.shots is not None:
        spec = spec.model_copy(update={"shots": spec.shots.model_copy(update={"count": config.shots})})
    sampled = (spec, folder, config.chat, config.samples, config.seed)
    match spec.kind:
        case "text":
            return Texts(spec, folder)
        case "program":
            return Programs(*sampled, config.programs)
        case "instructions":
            return InstructionFollowing(spec, folder, config.chat)
        case "refusal":
            return Refusal(spec, folder, config.chat)
        case "choices":
            return Choices(spec, folder, config.chat)
        case "continuation":
            return Continuation(spec, folder, config.chat)
        case "conversation":
            return Conversation(spec, folder, config.chat)
        case "generate":
            return Generation(*sampled)


def _asked_again(config: EvaluateConfig, tasks: list[Evaluable]) -> list[Evaluable]:
    """Tasks in the changed forms that the config asks for, in place of their plain ones.

    Raises:
        FoundlingError: a form that fits none of the tasks.
    """
    found: list[Evaluable] = []
    asked = {"perturb": config.perturb, "jailbreak": config.jailbreak, "styles": config.styles}
    unused = {name for name, value in {**asked, "snowball": config.snowball}.items() if value}
    for task in tasks:
        forms: dict[str, Evaluable] = {}
        if config.perturb and isinstance(task, (Choices, Generation)):
            forms["perturb"] = perturbed(task, config.seed)
        if config.jailbreak and isinstance(task, Refusal):
            forms["jailbreak"] = jailbroken(task, config.seed)
        if config.styles and isinstance(task, Generation):
            forms["styles"] = styled(task, config.seed)
        if config.snowball and isinstance(task, Choices) and task.spec.contexts is None:
            forms["snowball"] = Snowball(task, config.seed)
        unused -= forms.keys()
        found += list(forms.values()) or [task]
    if unused:
        names, form = ", ".join(task.task.name for task in tasks), min(unused)
        raise FoundlingError(f"--{form} fits none of the tasks", f"they are {names}", f"It is for {_FITS[form]}")
    return found


_FITS = {
    "perturb": "multiple choice and generated answers, such as arc-easy or triviaqa",
    "jailbreak": "requests to refuse, such as advbench",
    "styles": "generated answers, such as triviaqa",
    "snowball": "multiple choice with one prompt, such as arc-easy",
}


_BUILT_IN: dict[str, Callable[[EvaluateConfig, Documents], Evaluable]] = {
    "bits-per-byte": lambda config, documents: BitsPerByte(config.bits_per_byte, documents, config.seed),
    "syntax": lambda config, documents: Syntax(config.syntax, documents, config.seed),
    "expressions": lambda config, documents: AnsweringExpressions(config.expressions, config.seed),
    "memorisation": lambda config, documents: Memorisation(config.memorisation, documents, config.seed),
    "personal-data": lambda config, documents: PersonalData(config.personal_data, documents, config.seed),
    "canaries": lambda config, documents: Canaries(config.canaries),
}
