"""The comparison of designs: equal sizes, constant states, resumable, complete."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.models.build import build
from foundling.models.cost import state_bytes
from foundling.studies import architectures
from foundling.studies.architectures_designs import design, matched
from foundling.studies.architectures_speed import decoding
from foundling.studies.config import ARCHITECTURES, CompareArchitecturesConfig

CONSTANT = ("mamba", "mamba2", "rwkv4", "rwkv7", "h3", "s4", "lstm")


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("equal", ["parameters", "flops"])
def test_designs_are_the_same_size(name: str, equal: str) -> None:
    """Guards against a comparison that one design wins by being larger."""
    config = matched(name, equal, 3_000_000, 4, 2048, 256)
    reference = matched("mha", equal, 3_000_000, 4, 2048, 256)
    if equal == "parameters":
        assert config.n_parameters(embeddings=False) == pytest.approx(3_000_000, rel=0.15)
    else:
        own, other = (c.flops_per_token(256) - 2 * c.vocab_size * c.dim for c in (config, reference))
        assert own == pytest.approx(other, rel=0.15)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_counted_state_is_the_allocated_one(name: str) -> None:
    """Guards against state bytes that are claimed but not true, the point of the comparison."""
    config = design(name, 64, 2 if name != "jamba" else 4, 100, 256)
    module = build(config, 0)
    slots, blocks = 1, 256 // 16
    allocated = 0
    for part in module.new_state(slots, blocks, 16, torch.float32, "cpu"):
        tensors = part if isinstance(part, tuple) else [t for t in vars(part).values() if hasattr(t, "nbytes")]
        allocated += sum(tensor.nbytes for tensor in tensors)
    assert state_bytes(config, 256, 4) == allocated
    assert (state_bytes(config, 256, 4) == state_bytes(config, 4096, 4)) == (name in CONSTANT)
    speeds = decoding(module, (32, 64), 2)
    assert [point["context"] for point in speeds] == [32, 64] and all(point["tokens_per_s"] > 0 for point in speeds)


def test_an_unknown_design_is_refused_with_the_nearest() -> None:
    """Guards against a traceback for a misspelt name."""
    with pytest.raises(FoundlingError, match="Did you mean 'mamba'"):
        design("mamab", 64, 2, 100, 256)


@pytest.fixture
def tokens(tmp_path: Path) -> Artifact:
    """A tokens artifact of a periodic text that is learnt at once."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    for split, documents in (("train", 40), ("validation", 4)):
        stream = np.tile(np.arange(33, dtype=np.uint16), documents)
        stream.tofile(folder / f"{split}.bin")
        np.save(folder / f"{split}.index.npy", np.arange(documents + 1) * 33)
        np.save(folder / f"{split}.bytes.npy", np.full(documents, 64))
    (folder / "tokens.json").write_text(
        json.dumps({"dtype": "uint16", "vocab_size": 48, "eot_id": 0, "splits": {"train": {}, "validation": {}}})
    )
    return Artifact(folder, {"key": "periodic", "kind": "tokens", "files": {}})


def test_a_comparison_goes_on_where_it_was_stopped(
    tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against trainings that are done again after an interruption, and against a report that lacks a design."""
    config = CompareArchitecturesConfig(
        architectures=("mha", "mamba", "lstm+mlp"), parameters=60_000, layers=1, steps=3, tuning_steps=2, seeds=2,
        batch_size=2, context=16, validation_tokens=60, decode_contexts=(32, 64), learning_rates=(0.01, 0.02),
    )  # fmt: skip
    draft = Draft(tmp_path / "path", tmp_path / "scratch", "key")
    draft.path.mkdir()
    original, stopped = architectures._train, []

    def stop_after_three(*arguments: object) -> dict[str, float]:
        stopped.append(1)
        if len(stopped) > 3:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(architectures, "_train", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        architectures.compare_architectures(config, Inputs({"tokens": tokens}), draft)
    first = (draft.scratch / "mha" / "seed-0" / "done.json").stat().st_mtime_ns
    monkeypatch.setattr(architectures, "_train", original)
    architectures.compare_architectures(config, Inputs({"tokens": tokens}), draft)
    assert (draft.scratch / "mha" / "seed-0" / "done.json").stat().st_mtime_ns == first
    results = json.loads((draft.path / "results.json").read_text())
    assert {found["name"] for found in results["designs"]} == set(config.architectures)
    for found in results["designs"]:
        score = found["bits_per_byte"]
        assert score["low"] <= score["mean"] <= score["high"] and len(score["values"]) == 2
    for file in ("report.md", "quality.png", "decoding.png", "state.png"):
        assert (draft.path / file).stat().st_size > 100
