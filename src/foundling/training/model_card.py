"""A model card in the form that Hugging Face tools read: YAML header, then what it is, from what, how good, its limits.

After Mitchell et al. 2019, "Model cards for model reporting".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from foundling.core.stages import Inputs

UNKNOWN = "Not known here: the model's own publisher says what it was trained on and under which licences."
SECTION = re.compile(r"^## Training text\n\n(.*?)\n\n## ", re.MULTILINE | re.DOTALL)
MOST_SOURCES, MOST_LICENCES = 40, 6


def model_card(
    title: str,
    summary: str,
    *,
    inputs: Inputs,
    more_inputs: Mapping[str, str] | None = None,
    recipe: Mapping[str, Any],
    results: Mapping[str, Mapping[str, float]],
    limits: Sequence[str],
    task: str = "text-generation",
) -> str:
    """The card's Markdown.

    Args:
        inputs: what it was made from, by role: named, and asked for the training text behind it.
        more_inputs: what else it was made from.
        recipe: the stage's config.
        results: tables by caption: row name -> number.
        limits: one sentence each.
        task: what the model is for, by the hub's names.
    """
    header = {"library_name": "transformers", "pipeline_tag": task, "tags": ["foundling", task]}
    parts = [f"---\n{yaml.safe_dump(header, sort_keys=False)}---", f"# {title}", summary, "## Made from"]
    made_from = {role: f"{artifact.kind} `{artifact.key}`" for role, artifact in inputs.items()} | dict(
        more_inputs or {}
    )
    parts.append("\n".join(f"- {role}: {what}" for role, what in made_from.items()))
    parts += ["## Training text", _training_text(inputs)]
    parts.append("## Results")
    parts += [_table(caption, rows) for caption, rows in results.items()]
    parts += ["## Limits", "\n".join(f"- {limit}" for limit in limits)]
    parts += ["## Recipe", f"```yaml\n{yaml.safe_dump(dict(recipe), sort_keys=True)}```"]
    return "\n\n".join(parts) + "\n"


def _training_text(inputs: Inputs) -> str:
    """The sources of the tokens it was trained on, and what the cards of the models it was made from say of theirs."""
    tokens = inputs.get("tokens")
    parts = [_of_tokens(tokens.path)] if tokens is not None else []
    for role in ("base", "teacher"):
        model = inputs.get(role)
        if model is not None:
            text = _of_model(model.path)
            parts.append(f"Of the {role}:\n\n{text}" if parts or role == "teacher" else text)
    return "\n\n".join(parts) or UNKNOWN


def _of_tokens(tokens: Path) -> str:
    """The sources of a tokens artifact as a table: their size and the licences that their documents name."""
    sources = json.loads((tokens / "tokens.json").read_text(encoding="utf-8")).get("sources", [])
    lines = [
        f"| {source['source']} | {source['documents']:,} | {source['bytes']:,} | {_licences(source['licences'])} |"
        for source in sources[:MOST_SOURCES]
    ]
    if len(sources) > MOST_SOURCES:
        rest = sources[MOST_SOURCES:]
        sums = (sum(source[name] for source in rest) for name in ("documents", "bytes"))
        lines.append(f"| {len(rest)} smaller sources | {' | '.join(f'{total:,}' for total in sums)} | see the corpus |")
    return "\n".join(["| source | documents | bytes | licences |", "|---|---|---|---|", *lines])


def _of_model(model: Path) -> str:
    """What the card of a model says of its training text."""
    card = model / "README.md"
    found = SECTION.search(card.read_text(encoding="utf-8")) if card.is_file() else None
    return found[1] if found else UNKNOWN


def _licences(names: Sequence[str]) -> str:
    shown = ", ".join(name.replace("|", "/") for name in names[:MOST_LICENCES])
    more = f" and {len(names) - MOST_LICENCES} more" if len(names) > MOST_LICENCES else ""
    return shown + more or "not said"


def _table(caption: str, rows: Mapping[str, float]) -> str:
    lines = [f"| {name} | {value:.4f} |" for name, value in rows.items()]
    return "\n".join([f"| {caption} | |", "|---|---|", *lines])
