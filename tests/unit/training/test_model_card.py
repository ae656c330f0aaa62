"""A card must say whose text a model learnt, and every model made from it must go on saying so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from foundling.core.artifacts import Artifact
from foundling.core.stages import Inputs
from foundling.training.model_card import UNKNOWN, model_card

REST = {"recipe": {"steps": 1}, "results": {"Loss": {"this": 1.0}}, "limits": ("Small.",)}
SOURCES = [
    {"source": "standard-library", "documents": 12, "bytes": 34567, "licences": ["PSF-2.0"]},
    {"source": "mine", "documents": 1, "bytes": 89, "licences": []},
]


def model(path: Path, inputs: dict[str, Path]) -> str:
    path.mkdir()
    artifacts = {
        role: Artifact.outside(where, "tokens" if role == "tokens" else "model") for role, where in inputs.items()
    }
    card = model_card("A model", "It is one.", inputs=Inputs(artifacts), **REST)  # type: ignore[arg-type]
    (path / "README.md").write_text(card)
    return card


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "tokens.json").write_text(json.dumps({"sources": SOURCES}))
    return tmp_path / "tokens"


def test_sources_and_licences_are_inherited(tmp_path: Path, tokens: Path) -> None:
    """Fine-tuning twice must not lose the table; the header must be YAML that Hugging Face tools read."""
    base = model(tmp_path / "base", {"tokens": tokens})
    model(tmp_path / "tuned", {"base": tmp_path / "base"})
    again = model(tmp_path / "again", {"base": tmp_path / "tuned"})
    for card in (base, again):
        assert "| standard-library | 12 | 34,567 | PSF-2.0 |\n| mine | 1 | 89 | not said |" in card
        assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"


def test_continued_pretraining_names_both(tmp_path: Path, tokens: Path) -> None:
    """The new text and the base's; a model from elsewhere is said to be unknown."""
    model(tmp_path / "foreign", {})
    card = model(tmp_path / "continued", {"tokens": tokens, "base": tmp_path / "foreign"})
    assert "standard-library" in card and f"Of the base:\n\n{UNKNOWN}" in card
