"""Which way the planner prices attention: the one that training takes."""

from __future__ import annotations

import pytest

from foundling.core.hardware import Rates
from foundling.models.presets import preset
from foundling.planning import step_time
from foundling.training.config import PretrainConfig

RATES = Rates(bandwidth=2e10, fp32=2e11, bf16=2e12, threads=2, device="cpu")


def way(model: str, **options: object) -> tuple[str, float]:
    """The kind of work that attention is planned as, and its seconds with the factor."""
    config = PretrainConfig.model_validate({"batch_size": 4, "context": 256} | options)
    shape = preset(model, vocab_size=4096) if model.startswith("foundling") else preset(model)
    work = vars(step_time.step_work(shape, config, RATES))
    found = {name: work[name] * getattr(step_time.FACTORS, name) for name in ("tiles", "attention", "fused")}
    (name,) = (name for name, seconds in found.items() if seconds)
    return name, found[name]


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("foundling-3m", {}, "tiles"),
        ("foundling-3m", {"context": 1024}, "tiles"),
        ("foundling-3m", {"context": 250}, "attention"),
        ("foundling-3m", {"context": 1000}, "fused"),
        ("foundling-3m", {"context": 8192}, "fused"),
        ("foundling-3m", {"precision": "fp32"}, "attention"),
        ("deepseek-v2-lite", {}, "attention"),
    ],
)
def test_with_tiles(model: str, options: dict[str, object], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that tiles do not take, and attention that is not `Attention`, are not priced as if in tiles."""
    monkeypatch.setattr(step_time, "has_tiles", lambda: True)
    assert way(model, **options)[0] == expected


def test_a_machine_without_tiles_pays_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain products in bfloat16 take several times as long as tiles (benchmarks/training_kernels.py)."""
    monkeypatch.setattr(step_time, "has_tiles", lambda: True)
    _, in_tiles = way("foundling-3m")
    monkeypatch.setattr(step_time, "has_tiles", lambda: False)
    name, plain = way("foundling-3m")
    assert name == "attention" and plain > 3 * in_tiles
