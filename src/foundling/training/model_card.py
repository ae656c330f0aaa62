"""A model card in the form that Hugging Face tools read: YAML header, then what it is, from what, how good, its limits.

After Mitchell et al. 2019, "Model cards for model reporting".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml


def model_card(
    title: str,
    summary: str,
    *,
    inputs: Mapping[str, str],
    recipe: Mapping[str, Any],
    results: Mapping[str, Mapping[str, float]],
    limits: Sequence[str],
    tags: Sequence[str] = ("text-generation",),
) -> str:
    """The card's Markdown.

    Args:
        inputs: what it was made from, by role.
        recipe: the stage's config.
        results: tables by caption: row name -> number.
        limits: one sentence each.
    """
    header = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["foundling", *tags]}
    parts = [f"---\n{yaml.safe_dump(header, sort_keys=False)}---", f"# {title}", summary, "## Made from"]
    parts.append("\n".join(f"- {role}: {what}" for role, what in inputs.items()))
    parts.append(
        "Foundling does not know the licences of the training text: `foundling lineage` names its sources, and their "
        "licences say what may be done with this model."
    )
    parts.append("## Results")
    parts += [_table(caption, rows) for caption, rows in results.items()]
    parts += ["## Limits", "\n".join(f"- {limit}" for limit in limits)]
    parts += ["## Recipe", f"```yaml\n{yaml.safe_dump(dict(recipe), sort_keys=True)}```"]
    return "\n\n".join(parts) + "\n"


def _table(caption: str, rows: Mapping[str, float]) -> str:
    lines = [f"| {name} | {value:.4f} |" for name, value in rows.items()]
    return "\n".join([f"| {caption} | |", "|---|---|", *lines])
