"""Every answer of every item, to look through: pages of a hundred, and those on which models differ by themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from foundling.core.report import Page, code, details
from foundling.evaluation.task import Outcome, Value

PER_PAGE = 100


def write_samples(task: str, models: Mapping[str, Mapping[str, Outcome]], folder: Path) -> Markup:
    """Write the pages of one task into `folder`; returns a line of links to them.

    Args:
        models: name -> item id -> outcome.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = list(dict.fromkeys(item for outcomes in models.values() for item in outcomes))
    differing = [item for item in ids if _differs([o[item] for o in models.values() if item in o])]
    sets = {"all": ids}
    if len(models) > 1:
        sets["where models differ"] = differing
    wrong = [item for item in ids if any(_is_wrong(o[item]) for o in models.values() if item in o)]
    if 0 < len(wrong) < len(ids):
        sets["with a 0"] = wrong
    flagged = [item for item in ids if any(o[item].flags for o in models.values() if item in o)]
    if 0 < len(flagged) < len(ids):
        sets["flagged"] = flagged
    lines = []
    for name, chosen in sets.items():
        links = _write_set(f"{task}: {name}", f"{task}-{name.replace(' ', '-')}", chosen, models, folder)
        shown = Markup(" ").join(_link(f"{folder.name}/{file}", label) for label, file in links) or Markup("none")
        lines.append(Markup("<p><b>{}</b> {} ({}): {}</p>").format(task, name, len(chosen), shown))
    return Markup("").join(lines)


def _write_set(
    title: str, stem: str, ids: Sequence[str], models: Mapping[str, Mapping[str, Outcome]], folder: Path
) -> list[tuple[str, str]]:
    parts = [ids[at : at + PER_PAGE] for at in range(0, len(ids), PER_PAGE)]
    files = [f"{stem}-{number}.html" for number in range(1, len(parts) + 1)]
    labels = [f"{n * PER_PAGE + 1}-{n * PER_PAGE + len(part)}" for n, part in enumerate(parts)]
    for number, (part, file) in enumerate(zip(parts, files, strict=True)):
        page = Page(title, f"items {labels[number]} of {len(ids)}")
        near = [(label, other) for label, other in zip(labels, files, strict=True) if other != file]
        page.section("Items", *(_item(item, models) for item in part))
        if near:
            page.section("Other pages", Markup(" ").join(_link(other, label) for label, other in near))
        page.write(folder / file)
    return list(zip(labels, files, strict=True))


def _item(item: str, models: Mapping[str, Mapping[str, Outcome]]) -> Markup:
    found = {name: outcomes[item] for name, outcomes in models.items() if item in outcomes}
    first = next(iter(found.values()))
    scores = "; ".join(f"{name}: {_scores(outcome.metrics)}" for name, outcome in found.items())
    blocks = [
        code(f"{name}\n{json.dumps(_shown(outcome), indent=1, ensure_ascii=False)}") for name, outcome in found.items()
    ]
    return details(f"{item}{f' [{first.slice}]' if first.slice else ''} {scores}", *blocks)


def _shown(outcome: Outcome) -> dict[str, Any]:
    read, written = outcome.tokens
    cost = {"tokens read": read, "tokens written": written}
    return {**outcome.sample, "metrics": outcome.metrics, "flags": list(outcome.flags), **cost}


def _scores(metrics: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in list(metrics.items())[:3])


def _number(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float | int) else f"{value[0]:.4g}/{value[1]:.4g}"


def _differs(outcomes: Sequence[Outcome]) -> bool:
    return any(outcome.metrics != outcomes[0].metrics for outcome in outcomes)


def _is_wrong(outcome: Outcome) -> bool:
    return next(iter(outcome.metrics.values()), None) == 0.0


def _link(target: str, label: str) -> Markup:
    return Markup('<a href="{}">{}</a>').format(target, label)
