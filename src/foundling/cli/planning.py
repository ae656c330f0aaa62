"""`foundling plan`: a recipe's plan, and one command for each question of size, time, memory and money.

Every answer prints its formula and what it assumes; `--json` gives the same to machines. No weight is allocated.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Group, Parameter

from foundling.cli import planning_laws, planning_money, planning_sizes
from foundling.cli.lives import Overrides, StorePath, run
from foundling.cli.planning_answers import answering
from foundling.core.errors import FoundlingError, nearest

QUESTIONS = {
    Group("Sizes and time", sort_key=1): (
        planning_sizes.memory,
        planning_sizes.cache,
        planning_sizes.experts,
        planning_sizes.compute,
        planning_sizes.units,
        planning_sizes.train,
        planning_sizes.hardware,
        planning_sizes.actual,
    ),
    Group("Money", sort_key=2): (
        planning_money.labels,
        planning_money.tokens,
        planning_money.last_mile,
        planning_money.serving,
        planning_money.buy,
    ),
    Group("Scaling laws", sort_key=3): (
        planning_laws.fit,
        planning_laws.optimal,
        planning_laws.overtrain,
        planning_laws.repeat,
        planning_laws.ceilings,
    ),
}

app = App(
    name="plan",
    help="What a recipe would cost here (`foundling plan RECIPE`), and one command for each question.\n\n"
    "Numbers may be written 7B, 1.4T or 3.14e23; a MODEL is a preset, a size such as 7B, a directory or life/stage.",
)
for group, questions in QUESTIONS.items():
    for question in questions:
        app.command(answering(question), group=group)


@app.default
def plan(
    recipe: str = "quickstart",
    *more: Annotated[str, Parameter(show=False)],
    overrides: Overrides = None,
    replan: bool = False,
    store: StorePath = None,
    json: bool = False,
) -> None:
    """What a recipe would cost on this machine, without running it."""
    if more:
        known = [name for name in app if not name.startswith("-")]
        raise FoundlingError(f"there is no question {recipe!r}", "see `foundling plan --help`", nearest(recipe, known))
    run(recipe, overrides=overrides, plan=True, replan=replan, store=store, json=json)
