"""A verb for every stage: its config's fields and its inputs as flags, on the user's own files or on artifacts.

An input that is not given is made from `--data` where the stage reads text, and is else the newest one in the store;
a model's held-out text is that of the corpus it was made from.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter

from foundling.cli.flags import config_data, flag_parameters, with_parameters
from foundling.cli.lives import print_plan
from foundling.core import hardware, progress
from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError
from foundling.core.lives import ancestors, key_of, last_of_kind
from foundling.core.stages import Node, Stage
from foundling.pipeline import STAGES, announce, open_life, resolve, run_life
from foundling.planning.choose import choose_sizes
from foundling.planning.estimate import plan_life
from foundling.recipes.recipe import Recipe, check_recipe
from foundling.releases.summary import print_scores

MADE_BY = {"corpus": "corpus", "tokenizer": "tokenizer", "tokens": "tokenize"}  # port -> the stage that can make it
TRAINS = {"pretrain", "sft", "prefer", "reward", "reinforce"}  # verbs that begin with their plan
MODEL_FIRST = {"evaluate", "compress"}  # verbs whose first argument is the model


def stage_command(verb: str) -> Callable[..., None]:
    """The function behind a stage's verb, with one flag per config field and per input."""
    stage = STAGES[verb]
    fields = flag_parameters(stage.config_type)

    def command(**flags: Any) -> None:
        own = {name: flags.pop(name) for name in list(flags) if name in fields}
        run_standalone(stage, config_data(stage.config_type, own), **flags)

    parameters = [_model_argument()] if verb in MODEL_FIRST else []
    parameters += list(fields.values())
    if "corpus" in _reachable(stage) and "data" not in fields and verb not in MODEL_FIRST:
        parameters.append(_flag("data", list[str], "text files (.txt, .md, .py, .jsonl, .parquet) to start from"))
    return with_parameters(command, parameters + port_and_output_flags(verb))


def port_and_output_flags(verb: str) -> list[inspect.Parameter]:
    """Flags for a stage's inputs (but the model that comes first), and for where and how its result is shown."""
    ports = [
        (port, wanted) for port, wanted in STAGES[verb].ports.items() if verb not in MODEL_FIRST or port != "model"
    ]
    return [
        *(_flag(port, str, f"{wanted.help}: a path, life/stage or key") for port, wanted in ports),
        _flag("name", str, f"the name to keep the result under (default: {verb})"),
        _flag("store", str, "where artifacts are kept (default: ./runs, or FOUNDLING_STORE)"),
        _flag("json", bool, "print one JSON document instead of text"),
    ]


def run_standalone(
    stage: Stage,
    config: dict[str, Any],
    *,
    data: list[str] | None = None,
    name: str | None = None,
    store: str | None = None,
    json: bool | None = None,
    quiet: bool = False,
    **ports: str | None,
) -> Artifact:
    """Run one stage, and before it those that make its inputs from `data`. Shows the result, unless `quiet`."""
    home = Store(store)
    if not quiet:
        progress.set_quiet(bool(json))
    stages: dict[str, Any] = {}
    _add_stage(stages, stage, config, {k: v for k, v in ports.items() if v}, data, home)
    recipe = choose_sizes(check_recipe({"name": name or stage.verb, "stages": stages}, stage.verb), home, {})[0]
    _plan(recipe, home, show=not json)
    results: list[Artifact] = []

    def done(node: Node, artifact: Artifact, reused: bool) -> None:
        results.append(artifact)
        announce(node, artifact, reused)

    run_life(recipe, home, open_life(recipe, home), done)
    if not quiet:
        _show(results[-1], bool(json))
    return results[-1]


def _plan(recipe: Recipe, store: Store, *, show: bool) -> None:
    """Show what training will take before it begins; refuse what cannot fit."""
    if not any(spec.stage in TRAINS for spec in recipe.stages.values()):
        return
    rates = hardware.remembered(store.root / "machine.json")
    the_plan = plan_life(recipe.name, resolve(recipe, store), store, rates)
    if show:
        print_plan(the_plan)
    the_plan.refuse_if_too_large()


def _add_stage(
    stages: dict[str, Any],
    stage: Stage,
    config: dict[str, Any],
    given: dict[str, str],
    data: list[str] | None,
    store: Store,
) -> None:
    inputs = {port: key_of(store, spec) or spec for port, spec in given.items()}  # a life may be called like a stage
    for port, wanted in stage.ports.items():
        if port in inputs or port == "*":
            continue
        if data and port in MADE_BY:
            maker = STAGES[MADE_BY[port]]
            if maker.verb not in stages:
                own = {"data": data} if maker.verb == "corpus" else {}
                _add_stage(stages, maker, own, {}, data, store)
            inputs[port] = maker.verb
        elif wanted.required:
            key = last_of_kind(store, wanted.kinds[0], compressed=False)
            if key is None:
                fix = f"Give --data FILES, or --{port} with a path, life/stage or key"
                raise FoundlingError(f"{stage.verb} needs {wanted.help} and the store has none", fix=fix)
            inputs[port] = key
        elif wanted.kinds == ("corpus",) and (corpus := corpus_of(inputs.get("model"), store)):
            inputs[port] = corpus
    stages[stage.verb] = {"stage": stage.verb, "inputs": inputs, **config}


def corpus_of(model: str | None, store: Store) -> str | None:
    """The key of the corpus that a model of the store was made from."""
    made_from = ancestors(store, model).values() if model else ()
    return next((artifact.key for artifact in made_from if artifact.kind == "corpus"), None)


def _show(artifact: Artifact, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"key": artifact.key, "path": str(artifact.path), "metrics": artifact.metrics}))
        return
    if artifact.kind == "evaluation":
        print_scores(artifact)
    for name, value in artifact.metrics.items():
        if isinstance(value, (int, float, str)):
            progress.console.print(f"    {name}: {value:.4g}" if isinstance(value, float) else f"    {name}: {value}")
    print(artifact.path)


def _reachable(stage: Stage) -> set[str]:
    found = set(stage.ports)
    for port in stage.ports:
        if port in MADE_BY:
            found |= _reachable(STAGES[MADE_BY[port]])
    return found


def _flag(name: str, kind: Any, help: str) -> inspect.Parameter:
    many = kind == list[str]
    extra = Parameter(
        name=f"--{name}", help=help, consume_multiple=True if many else None, negative="", show_default=False
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, extra]
    )


def _model_argument() -> inspect.Parameter:
    extra = Parameter(help="the model: a path, life/stage, key or hub id (default: the newest)", show_default=False)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter("model", kind, default=None, annotation=Annotated[str | None, extra])


def __getattr__(name: str) -> Callable[..., None]:
    """`foundling.cli.stages.pretrain` is the command of the stage `pretrain`."""
    verb = name.replace("_", "-")
    if verb in STAGES:
        return stage_command(verb)
    raise AttributeError(name)
