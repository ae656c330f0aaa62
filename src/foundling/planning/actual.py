"""After a life was run: every stage's plan beside what it took."""

from __future__ import annotations

from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError, nearest
from foundling.core.lives import lives
from foundling.core.units import human_bytes, human_time
from foundling.planning.answer import Answer, Figure


def actual(store: Store, name: str | None) -> Answer:
    """Plan against actual of a life's stages.

    Raises:
        FoundlingError: no such life, or one that has not been planned and run.
    """
    known = {life.name: life for life in sorted(lives(store), key=lambda life: life.updated)}
    if not known:
        raise FoundlingError(f"the store {str(store.root)!r} has no lives", "Run one first: foundling run quickstart")
    if name is not None and name not in known:
        raise FoundlingError(f"there is no life {name!r}", f"lives: {', '.join(known)}", nearest(name, known))
    life = known[name] if name is not None else list(known.values())[-1]
    artifacts = {stage: store.find(key) for stage, key in life.stages.items()}
    rows, planned, took = [], 0.0, 0.0
    for stage in life.plan.get("stages", []):
        made = artifacts.get(stage["name"])
        if made is None or not stage["seconds"]:
            continue
        seconds, peak = float(made.run["seconds"]), float(made.run["peak_memory_bytes"])
        planned, took = planned + stage["seconds"], took + seconds
        times = f"{seconds / stage['seconds']:.2f}"
        memory = human_bytes(stage["memory"]), human_bytes(peak), f"{peak / stage['memory']:.2f}"
        rows.append((stage["name"], human_time(stage["seconds"]), human_time(seconds), times, *memory))
    if not rows:
        raise FoundlingError(
            f"life {life.name!r} has nothing planned and run to compare", "", f"foundling run {life.name}"
        )
    return Answer(
        f"Plan against actual of {life.name}",
        [
            Figure("planned", planned, "s"),
            Figure("actual", took, "s"),
            Figure("actual over planned", took / planned, "times"),
        ],
        ["ratio = actual / planned"],
        ["the plan of the last `run` or `plan`; a stage's time is that of the run that made its artifact"],
        [f"manifests in {store.root}"],
        table=(("stage", "planned", "actual", "ratio", "planned memory", "actual peak", "ratio"), rows),
    )
