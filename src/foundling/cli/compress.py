"""The verbs `compress` (one way, or the best one that meets targets) and `merge`."""

from __future__ import annotations

import inspect
import json as json_module
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from foundling.cli.flags import config_data, flag_parameters, with_parameters
from foundling.cli.stages import corpus_of, run_standalone, stage_command
from foundling.core import progress
from foundling.core.artifacts import Artifact, Store
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.core.lives import artifact_of
from foundling.pipeline import STAGES, outside_input
from foundling.studies.compress_config import CompressSearchConfig

Weights = Annotated[list[float] | None, Parameter(help="one for each model", negative="", consume_multiple=True)]

_SEARCH = flag_parameters(CompressSearchConfig)
_STAGE = STAGES["compress"]


def _compress(**flags: Any) -> None:
    """Compress a model in the way that is said, or in the best way that meets every --target."""
    asked = {name: flags.pop(name) for name in list(flags) if name in _SEARCH}
    if not asked.get("target"):
        if asked:
            raise FoundlingError(f"--{next(iter(asked)).replace('_', '-')} goes with --target", "no target was given")
        fields = {name: flags.pop(name) for name in list(flags) if name in flag_parameters(_STAGE.config_type)}
        run_standalone(_STAGE, config_data(_STAGE.config_type, fields), **flags)
        return
    _search(
        Store(flags.get("store")),
        parse(CompressSearchConfig, config_data(CompressSearchConfig, asked), "compress"),
        flags,
    )


def _search(store: Store, config: CompressSearchConfig, flags: dict[str, Any]) -> None:
    from foundling.studies.compress_search import search

    as_json = bool(flags.get("json"))
    progress.set_quiet(as_json)
    model = _artifact(store, flags.get("model"), "model")
    spec = flags.get("corpus") or corpus_of(model.key, store)
    if spec is None and not flags.get("text"):
        what = "a search needs text to measure on"
        raise FoundlingError(what, "the model's life has no corpus", "Give --text FILES or --corpus")
    corpus = None if spec is None else _artifact(store, spec, "corpus")
    fields = {name: flags[name] for name in flags if name in flag_parameters(_STAGE.config_type)}
    result = search(store, model, corpus, config, config_data(_STAGE.config_type, fields))
    assert result.chosen is not None
    if as_json:
        chosen = {"way": result.chosen.name, "path": str(result.chosen.artifact.path), "page": config.page}
        print(json_module.dumps(chosen | {"frontier": result.frontier, "skipped": result.skipped}))
        return
    print(f"{result}\n{result.chosen.artifact.path}\nThe report: {config.page}")


def _artifact(store: Store, spec: str | None, kind: str) -> Artifact:
    if spec is not None:
        return outside_input(spec, kind, store, "compress")
    found = artifact_of(store, None, kind)
    assert found is not None
    return found


def _parameters() -> list[inspect.Parameter]:
    *own, name, store, json = inspect.signature(stage_command("compress")).parameters.values()
    return [*own, *_SEARCH.values(), name, store, json]


compress = with_parameters(_compress, _parameters())


def merge(
    models: Annotated[list[str], Parameter(help="the models to merge: paths, life/stage, keys")],
    *,
    base: Annotated[str | None, Parameter(help="what they began as, for arithmetic")] = None,
    method: Literal["average", "arithmetic"] = "average",
    weights: Annotated[
        list[float] | None, Parameter(help="one for each model", negative="", consume_multiple=True)
    ] = None,
    name: str | None = None,
    store: str | None = None,
    json: bool = False,
) -> None:
    """Join fine-tunes of one base: average their weights, or add up what each changed."""
    inputs: dict[str, Any] = {f"model_{number:02d}": spec for number, spec in enumerate(models, 1)}
    config = {"method": method, "weights": weights or []}
    run_standalone(STAGES["merge"], config, name=name, store=store, json=json, **inputs | {"base": base})
