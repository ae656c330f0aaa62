"""Verbs about a whole life: run and init; `plan` with a recipe is `run --plan`."""

from __future__ import annotations

import json as json_module
import re
import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from foundling.core import hardware, progress
from foundling.core.artifacts import Artifact, Store
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.core.lives import Life, read_life, write_life
from foundling.core.stages import Node, run_stage
from foundling.core.units import human_bytes, human_time
from foundling.pipeline import STAGES, announce, check_fields, open_life, resolve, run_life
from foundling.planning.choose import choose_sizes
from foundling.planning.estimate import LifePlan, plan_life
from foundling.recipes.recipe import BUILT_IN, Recipe, as_yaml, load_recipe, recipe_names
from foundling.releases.summary import print_end, print_models

Overrides = Annotated[
    list[str] | None,
    Parameter(name="--set", help="NAME.field=value, as often as needed", negative="", show_default=False),
]
StorePath = Annotated[str | None, Parameter(help="where artifacts are kept (default: ./runs, or FOUNDLING_STORE)")]


def run(
    recipe: str = "quickstart",
    *,
    overrides: Overrides = None,
    plan: bool = False,
    replan: bool = False,
    store: StorePath = None,
    json: bool = False,
) -> None:
    """Run a recipe: raw text to a served, measured model.

    Prints the plan, runs the stages that have no artifact yet, and ends with a summary and a report.

    Args:
        recipe: the name of a recipe that comes with the package, or a YAML file.
        plan: print the plan and stop.
        replan: choose sizes and steps again, instead of keeping what an earlier run chose.
        json: print one JSON document at the end instead of text.
    """
    progress.set_quiet(json)
    home = Store(store)
    loaded, life, the_plan = _prepare(recipe, overrides or [], home, replan)
    if not json:
        print_plan(the_plan)
    elif plan:
        print(json_module.dumps(the_plan.as_dict()))
    the_plan.refuse_if_too_large()
    if plan:
        return
    artifacts: dict[str, Artifact] = {}
    made: set[str] = set()

    def done(node: Node, artifact: Artifact, reused: bool) -> None:
        artifacts[node.name] = artifact
        made.update(() if reused else (node.name,))
        announce(node, artifact, reused)

    run_life(loaded, home, life, done)
    command = " ".join(["foundling run", shlex.quote(recipe), *(f"--set {shlex.quote(o)}" for o in overrides or ())])
    where = f" --store {shlex.quote(store)}" if store else ""
    artifacts["report"] = write_report(loaded, home, life, artifacts, command + where)
    if json:
        found = {name: {"key": a.key, "path": str(a.path), "metrics": a.metrics} for name, a in artifacts.items()}
        print(json_module.dumps({"life": loaded.name, "stages": found}))
    else:
        print_models(loaded.name, artifacts)
        print_end(artifacts, made, the_plan.seconds, command, where)


def init(path: Path = Path("recipe.yaml"), *, like: str = "quickstart", force: bool = False) -> None:
    """Write a commented recipe to start from.

    Args:
        path: the file to write.
        like: which of the package's recipes to start from.
        force: overwrite the file if it exists.
    """
    if path.exists() and not force:
        raise FoundlingError(f"{path} exists", fix="Give another name, or --force to overwrite it")
    source = BUILT_IN / f"{like}.yaml"
    if not source.is_file():
        load_recipe(like)  # raises, naming the nearest recipe
    text = source.read_text(encoding="utf-8")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "life"
    name = f"my-{name}" if name in recipe_names() else name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(f"name: {like}\n", f"name: {name}\n", 1), encoding="utf-8")
    print(f"Wrote {path}. Edit it, then: foundling run {path}")


def write_report(recipe: Recipe, store: Store, life: Life, artifacts: dict[str, Artifact], command: str) -> Artifact:
    """The life's HTML report, an artifact like any other. `command` is what was typed to make the life."""
    config = {"life": recipe.name, "recipe": as_yaml(recipe), "plan": life.plan, "command": command}
    stage = STAGES["report"]
    shown = {
        name: artifact for name, artifact in artifacts.items() if artifact.kind != "report"
    }  # studies have their own
    report, _ = run_stage(store, stage, parse(stage.config_type, config, "report"), shown)
    life.stages["report"] = report.key
    write_life(store, life)
    return report


def _prepare(recipe: str, overrides: list[str], store: Store, replan: bool) -> tuple[Recipe, Life, LifePlan]:
    loaded = load_recipe(recipe, overrides)
    check_fields(loaded)  # a mistyped field is refused at once, not after the machine is measured
    earlier = None if replan else read_life(store, loaded.name)
    rates = hardware.remembered(store.root / "machine.json")
    chosen, choices = choose_sizes(loaded, store, earlier.plan.get("choices", {}) if earlier else {}, rates)
    life = open_life(chosen, store)
    the_plan = plan_life(chosen.name, resolve(chosen, store), store, rates)
    life.plan = {"choices": choices, **the_plan.as_dict()}
    return chosen, life, the_plan


def print_plan(plan: LifePlan) -> None:
    """The plan as a table: what each stage reads and makes, and what it should cost here."""
    table = Table(title=f"Plan of {plan.name} on {plan.machine}", title_justify="left", box=None, pad_edge=False)
    for column in ("stage", "reads", "makes"):
        table.add_column(column)
    for column in ("time", "memory", "disk"):
        table.add_column(column, justify="right")
    for row in plan.stages:
        time = "reused" if row.reused else human_time(row.seconds)
        memory = "" if row.reused else human_bytes(row.memory)
        table.add_row(row.name, row.reads, row.makes, time, memory, human_bytes(row.disk))
    table.add_section()
    table.add_row("total", "", "", human_time(plan.seconds), human_bytes(plan.memory), human_bytes(plan.disk))
    progress.console.print(table)
