"""Merging: the arithmetic, and what does not fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foundling.compression.merge import build
from foundling.compression.merge_config import MergeConfig
from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.inference.model import load
from foundling.models.build import build as fresh
from foundling.models.checkpoint import load_module, save_module
from foundling.models.language_model import LanguageModel
from foundling.models.presets import preset


def merge(where: Path, inputs: dict[str, Path], **fields: Any) -> Path:
    draft = Draft(where / "files", where / "scratch", "0" * 16)
    draft.path.mkdir(parents=True)
    build(MergeConfig(**fields), Inputs({k: Artifact.outside(v, "model") for k, v in inputs.items()}), draft)
    return draft.path


@pytest.fixture(scope="module")
def tuned(module: LanguageModel, directory: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models that differ from the base by +0.01 and -0.03 everywhere."""
    paths = []
    for change in (0.01, -0.03):
        path = tmp_path_factory.mktemp("tuned")
        other = load_module(directory)
        for parameter in other.parameters():
            parameter.data += change
        save_module(other, path)
        load(directory).tokenizer.save(path)
        paths.append(path)
    return paths


def test_average_and_task_arithmetic(module: LanguageModel, directory: Path, tuned: list[Path], tmp_path: Path) -> None:
    """Guards against a base that is counted twice, and weights that go to the wrong model."""
    given = {"model_01": tuned[0], "model_02": tuned[1]}
    cases: list[tuple[dict[str, Path], dict[str, Any], float]] = [
        (given, {}, -0.01),
        (given, {"weights": (0.75, 0.25)}, 0.0),
        (given | {"base": directory}, {"method": "arithmetic"}, -0.02),
        (given | {"base": directory}, {"method": "arithmetic", "weights": (1.0, 0.5)}, -0.005),
    ]
    for number, (inputs, fields, change) in enumerate(cases):
        merged = load(merge(tmp_path / str(number), inputs, **fields))
        for name, value in merged.module.state_dict().items():
            torch.testing.assert_close(value, module.state_dict()[name] + change, atol=1e-6, rtol=1e-5)
    assert merged.generate("import", max_tokens=2, ignore_eos=True).tokens


def test_what_does_not_fit_is_named(directory: Path, tuned: list[Path], tmp_path: Path) -> None:
    save_module(fresh(preset("foundling-1m", vocab_size=300), 0), tmp_path / "wider")
    pair = {"model_01": tuned[0], "model_02": tuned[1]}
    cases: list[tuple[dict[str, Path], dict[str, Any], str]] = [
        ({"model_01": tuned[0]}, {}, "nothing to merge"),
        (pair, {"method": "arithmetic"}, "needs base"),
        (pair | {"base": directory}, {}, "takes no base"),
        (pair, {"weights": (1.0,)}, "1 weights were given for 2 models"),
        ({"model_01": tuned[0], "model_02": tmp_path / "wider"}, {}, "has another shape"),
    ]
    for number, (inputs, fields, message) in enumerate(cases):
        with pytest.raises(FoundlingError, match=message):
            merge(tmp_path / str(number), inputs, **fields)
        assert not list((tmp_path / str(number) / "files").iterdir())
