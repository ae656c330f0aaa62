"""`foundling compress --target`: try ways of compressing a model, keep those that nothing beats, choose one."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundling.compression.config import CompressConfig
from foundling.core import progress
from foundling.core.artifacts import Artifact, Store
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.core.stages import run_stage
from foundling.core.units import human_bytes
from foundling.evaluation.compare import Comparison, compare
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.scores import read_outcomes, read_results
from foundling.evaluation.tasks.registry import make_tasks
from foundling.models.families.translate import read_config
from foundling.pipeline import STAGES
from foundling.studies.compress_config import CompressSearchConfig, Target, parse_target
from foundling.studies.compress_page import write_page

# In the order in which they are tried: cheap and safe ones first. Those with a gptq need calibration text.
WAYS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4": {"bits": 4},
    "int4 gptq": {"bits": 4, "method": "gptq"},
    "int4 gptq, groups of 64": {"bits": 4, "method": "gptq", "group_size": 64},
    "int8, 20% fewer channels": {"bits": 8, "shrink": {"channels": 0.2}},
    "int4 gptq, 20% fewer channels": {"bits": 4, "method": "gptq", "shrink": {"channels": 0.2}},
    "int4 gptq, one layer fewer": {"bits": 4, "method": "gptq", "shrink": {"layers": 1}},
}
MIXED = "int4 and int8, as large as allowed"


@dataclass(frozen=True)
class Candidate:
    """One way and what it gave; speeds in tokens a second, quality as a share of the original's."""

    name: str
    artifact: Artifact
    size: int
    quality: dict[str, float]
    decode: float
    prefill: float
    speedup: float

    def value(self, target: Target) -> float:
        """The property that a target bounds."""
        return {"size": float(self.size), "decode": self.speedup, "quality": self.quality["value"]}[target.property]

    def meets(self, targets: Sequence[Target]) -> bool:
        """Whether it is good enough in everything."""
        return all(target.met(self.value(target)) for target in targets)


@dataclass(frozen=True)
class Answers:
    """How the chosen model's answers differ from the original's: the scores, and on how many items the two differ."""

    scores: Comparison
    changed: int


@dataclass(frozen=True)
class Search:
    """All that was tried: `frontier` names those that no other beats in size, speed and quality at once."""

    candidates: tuple[Candidate, ...]
    frontier: tuple[str, ...]
    skipped: dict[str, str]
    chosen: Candidate | None
    answers: tuple[Answers, ...]

    def __str__(self) -> str:
        """A table, the choice, and why others were not tried."""
        lines = [f"{'way':34} {'size':>9} {'quality':>9}  {'95% interval':18} {'decode':>8} {'faster':>7}"]
        for c in self.candidates:
            mark = "*" if c.name in self.frontier else " "
            interval = f"[{c.quality['low']:.2%}, {c.quality['high']:.2%}]"
            lines.append(
                f"{mark} {c.name:32} {human_bytes(c.size):>9} {c.quality['value']:9.2%}  {interval:18} "
                f"{c.decode:6.0f}/s {c.speedup:6.2f}x"
            )
        lines += [f"  {name:32} not tried: {why}" for name, why in self.skipped.items()]
        if self.chosen is not None:
            lines += ["", f"Chosen: {self.chosen.name}"]
        return "\n".join(lines)


def search(
    store: Store, model: Artifact, corpus: Artifact | None, config: CompressSearchConfig, shared: dict[str, Any]
) -> Search:
    """Try the ways in order within the time budget, write the page, and choose.

    Args:
        corpus: calibration and held-out text; None: the files in `shared["text"]`.
        shared: fields of CompressConfig that hold for every way (keep, text, ...).

    Raises:
        FoundlingError: a target or a task is not understood, or no way meets all of them (the page is written).
    """
    targets = [parse_target(text) for text in config.target]
    if not read_config(model.path).left_to_right:
        what = "a target weighs speed and predictions of a model that continues texts, and this one does not"
        raise FoundlingError(what, fix="Choose --bits yourself")
    if config.tasks:
        for task in make_tasks(_evaluation(config), corpus):  # what it lacks is refused before the work, not after it
            task.items()
    begin, read = time.monotonic(), {} if corpus is None else {"corpus": corpus}
    inputs = {"model": model, **read}
    found: list[Candidate] = []
    skipped: dict[str, str] = {}
    ways = _ways(targets)
    with progress.task("compress", len(ways), "ways") as bar:
        for name, fields in ways.items():
            if found and time.monotonic() - begin > config.budget_s:
                skipped[name] = f"the budget of {config.budget_s:g} s is used up"
                continue
            try:
                way = parse(CompressConfig, shared | fields, f"way {name!r}")
                artifact, _ = run_stage(store, STAGES["compress"], way, inputs)
                found.append(_candidate(name, artifact))
            except FoundlingError as error:
                skipped[name] = str(error)
            bar.advance()
    if not found:
        raise FoundlingError("no way of compressing suits this model", next(iter(skipped.values()), ""))
    good = [candidate for candidate in found if candidate.meets(targets)]
    chosen = max(good, key=lambda c: (c.quality["value"], -c.size)) if good else None
    answers = _answers(store, model, read, chosen, config) if chosen and config.tasks else ()
    result = Search(tuple(found), _frontier(found), skipped, chosen, answers)
    write_page(result, model, config, Path(config.page))
    if chosen is None:
        raise _unmet(targets, found, config.page)
    return result


def _ways(targets: Sequence[Target]) -> dict[str, dict[str, Any]]:
    rooms = [int(target.bound) for target in targets if target.property == "size"]
    mixed = {MIXED: {"bits": 4, "method": "gptq", "max_bytes": min(rooms)}} if rooms else {}
    first, *rest = WAYS.items()
    return dict([first]) | mixed | dict(rest)


def _candidate(name: str, artifact: Artifact) -> Candidate:
    metrics = artifact.metrics
    if "quality" not in metrics:
        raise FoundlingError("there is no held-out text to measure the quality on", "", "Set compare_bytes above 0")
    speeds = json.loads(artifact.file("timings.json").read_text())
    own, before = speeds["compressed"], speeds["original"]
    speedup = own["decode"] / before["decode"]
    return Candidate(name, artifact, metrics["bytes"], metrics["quality"], own["decode"], own["prefill"], speedup)


def _frontier(found: Sequence[Candidate]) -> tuple[str, ...]:
    """Names of those that no other equals or beats in size, quality and speed at once."""

    def beaten(a: Candidate) -> bool:
        mine = (-a.size, a.quality["value"], a.decode)
        others = ((-b.size, b.quality["value"], b.decode) for b in found if b is not a)
        return any(all(x >= y for x, y in zip(other, mine, strict=True)) and other != mine for other in others)

    return tuple(candidate.name for candidate in found if not beaten(candidate))


def _answers(
    store: Store, model: Artifact, read: dict[str, Artifact], chosen: Candidate, config: CompressSearchConfig
) -> tuple[Answers, ...]:
    """The chosen model's answers against the original's, item by item; what lost most first."""
    evaluate, stage = _evaluation(config), STAGES["evaluate"]
    original, _ = run_stage(store, stage, evaluate, {"model": model, **read})
    compared, _ = run_stage(store, stage, evaluate, {"model": chosen.artifact, **read})
    before, after = read_outcomes(original), read_outcomes(compared)

    def changed(task: str, metric: str) -> int:
        pairs = ((o.metrics.get(metric), after[task][i].metrics.get(metric)) for i, o in before[task].items())
        return sum(x != y for x, y in pairs)

    found = [Answers(scores, changed(scores.task, scores.metric)) for scores in compare(original, compared)]
    metrics = read_results(original)["tasks"]

    def gain(answers: Answers) -> float:
        scores = answers.scores
        return scores.difference * (1 if metrics[scores.task]["metrics"][scores.metric]["higher_is_better"] else -1)

    return tuple(sorted(found, key=gain))


def _evaluation(config: CompressSearchConfig) -> EvaluateConfig:
    return parse(EvaluateConfig, {"tasks": list(config.tasks), "limit": config.items}, "evaluate")


def _unmet(targets: Sequence[Target], found: Sequence[Candidate], page: str) -> FoundlingError:
    best = []
    for target in targets:
        order = min if target.property == "size" else max
        one = order(found, key=lambda c, target=target: c.value(target))  # type: ignore[misc]
        shown = human_bytes(one.size) if target.property == "size" else f"{one.value(target):.4g}"
        best.append(f"{target.property} comes to {shown} at best ({one.name})")
    names = " and ".join(repr(target.text) for target in targets)
    return FoundlingError(f"no way meets {names}", "; ".join(best), f"Ease a target, or look at {page}")
