"""The verbs that say how good models are: evaluate, compare, judge."""

from __future__ import annotations

import inspect
import json as json_module
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from foundling.cli.flags import config_data, flag_parameters, with_parameters
from foundling.cli.stages import port_and_output_flags, run_standalone
from foundling.core import progress
from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError, nearest
from foundling.core.lives import artifact_of, last_of_kind, lives
from foundling.evaluation.config import EvaluateConfig
from foundling.inference.remote import is_url
from foundling.pipeline import STAGES
from foundling.releases.summary import print_scores

StorePath = Annotated[str | None, Parameter(help="where artifacts are kept (default: ./runs, or FOUNDLING_STORE)")]


def _evaluate(models: tuple[str, ...] = (), html: Path | None = None, json: bool | None = None, **flags: Any) -> None:
    """Score models one after the other; each result is an artifact of its own."""
    stage = STAGES["evaluate"]
    fields = flag_parameters(EvaluateConfig)
    own = {name: flags.pop(name) for name in list(flags) if name in fields}
    config = config_data(EvaluateConfig, own)
    if not models and "url" not in config:
        key = last_of_kind(Store(flags.get("store")), "model", compressed=True)
        if key is None:
            raise FoundlingError("there is no model to score: the store has none", fix="Name a model, a path or a URL")
        models = (key,)
    found: dict[str, Artifact] = {}
    names: list[str] = []
    name = flags.pop("name", None) or "evaluate"
    for model in models or (config["url"],):
        asked = {**config, "url": model} if is_url(model) else config
        ports: dict[str, Any] = {} if is_url(model) else {"model": model}
        own_name = name if len(models) < 2 else f"{name}-{_slug(model)}"
        names.append(f"{own_name}/evaluate")
        progress.set_quiet(bool(json))
        found[model] = run_standalone(stage, asked, name=own_name, quiet=True, **ports, **flags)
    if html is not None:
        from foundling.evaluation.report import write_report

        write_report(found, html)
    if json:
        rows = [{"model": m, "key": a.key, "path": str(a.path), "metrics": a.metrics} for m, a in found.items()]
        print(json_module.dumps(rows[0] if len(rows) == 1 else rows))
        return
    for model, artifact in found.items():
        if len(found) > 1:
            progress.console.print(model)
        print_scores(artifact)
        print(artifact.path)
    if len(found) > 1:
        progress.console.print(f"foundling compare {' '.join(names[:2])}")


def compare(first: str, second: str, *, html: Path | None = None, store: StorePath = None, json: bool = False) -> None:
    """Compare two evaluations, item by item: better, worse or cannot tell.

    Args:
        first: an evaluation: a path, life/stage or key.
        second: another evaluation of the same items.
        html: also write a page about both: scores, slices, win rates, every answer.
    """
    from foundling.evaluation.compare import compare as compare_evaluations

    found = {spec: _evaluation(Store(store), spec) for spec in (first, second)}
    rows = compare_evaluations(*found.values()) if len(found) == 2 else []
    if not rows:
        raise FoundlingError(f"{first!r} is compared with itself", fix="Name two evaluations")
    if html is not None:
        from foundling.evaluation.report import write_report

        write_report(found, html)
    if json:
        print(json_module.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        print(row)


def judge(
    *evaluations: str,
    by: str | None = None,
    votes: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")] = None,
    length_control: bool = True,
    html: Path | None = None,
    store: StorePath = None,
    json: bool = False,
) -> None:
    """Who gives the better answers? By a judge model, a reward model, or people's votes.

    Args:
        evaluations: two or more that hold answers to the same prompts, such as of the task mt-bench.
        by: the judge: a model, a URL, or a reward model.
        votes: files of votes (the playground's, `foundling serve --votes FILE`), in place of a judge or to check one
            against: several files are several labellers.
        length_control: take out what judges give to longer answers.
        html: also write a page: ratings, every pair and verdict.
    """
    from foundling.evaluation.judging import judge_evaluations

    home = Store(store)
    answers = {spec: _evaluation(home, spec) for spec in evaluations}
    found = judge_evaluations(answers, by, votes or [], length_control, home)
    if html is not None:
        found.write_page(html)
    print(json_module.dumps(found.as_dict()) if json else found)


def _evaluation(store: Store, spec: str) -> Artifact:
    artifact = artifact_of(store, spec, "evaluation")
    if artifact is None:
        named = [f"{life.name}/{stage}" for life in lives(store) for stage in life.stages if stage.startswith("eval")]
        what = nearest(spec, named) or f"the newest are {', '.join(named[-5:]) or 'none'}"
        raise FoundlingError(f"there is no evaluation {spec!r} in {str(store.root)!r}", what)
    return artifact


def _slug(model: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[-40:] or "model"


def _parameters() -> list[inspect.Parameter]:
    models = inspect.Parameter(
        "models",
        inspect.Parameter.VAR_POSITIONAL,
        annotation=Annotated[str, Parameter(help="paths, life/stages, keys, hub ids or URLs (default: the newest)")],
    )
    page = inspect.Parameter(
        "html",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, Parameter(help="also write a page about all of them", show_default=False)],
    )
    return [models, *flag_parameters(EvaluateConfig).values(), *port_and_output_flags("evaluate"), page]


evaluate = with_parameters(_evaluate, _parameters())
