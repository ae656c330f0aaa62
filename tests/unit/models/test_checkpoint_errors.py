"""Model directories that are not what they should be are refused by name, never half-loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foundling.core.errors import FoundlingError
from foundling.models.build import build
from foundling.models.checkpoint import load_module, read_config, save_module
from foundling.models.presets import preset
from foundling.models.tensor_files import write_tensors


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_module(build(preset("foundling-1m", vocab_size=32), seed=0), path)
    return path


@pytest.fixture
def broken(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def edit_tensors(path: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(path / "model.safetensors")
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path / "model.safetensors")


def refused(path: Path) -> str:
    with pytest.raises(FoundlingError) as error:
        load_module(path)
    return str(error.value)


def test_round_trip_keeps_every_bit_and_dtype(saved: Path, tmp_path: Path) -> None:
    module = load_module(saved, dtype=torch.bfloat16)
    save_module(module, tmp_path / "again")
    again = load_module(tmp_path / "again", dtype=None)
    assert next(again.parameters()).dtype == torch.bfloat16
    for (name, a), (_, b) in zip(module.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_sharded_directory_loads_the_same(saved: Path, broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    write_tensors(tensors, broken, shard_bytes=1_000_000)
    shards = sorted(broken.glob("model-*.safetensors"))
    assert len(shards) > 2
    for (name, a), (_, b) in zip(
        load_module(saved).state_dict().items(), load_module(broken).state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    shards[1].unlink()
    assert shards[1].name in refused(broken)


def test_unknown_model_type_is_named_with_the_nearest(broken: Path) -> None:
    edit_config(broken, model_type="qwen4")
    assert "'qwen4'" in refused(broken) and "Did you mean 'qwen3'" in refused(broken)


@pytest.mark.parametrize(
    ("field", "value"),
    [("layer_types", ["chunked_attention"] * 5), ("hidden_act", "tanh"), ("logit_scale", 0.5), ("hidden_size", "64")],
)
def test_fields_that_change_the_mathematics_are_refused(broken: Path, field: str, value: object) -> None:
    edit_config(broken, **{field: value})
    assert f"'{field}'" in refused(broken) and repr(value) in refused(broken)


def test_unknown_rope_scaling_is_refused(broken: Path) -> None:
    edit_config(broken, rope_parameters={"rope_type": "spiral", "rope_theta": 1e4, "factor": 2.0})
    assert "spiral" in refused(broken)


def test_missing_unexpected_and_misshapen_tensors_are_named(saved: Path, tmp_path: Path, broken: Path) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    edit_tensors(broken, **{name: None})
    assert name in refused(broken) and "missing" in refused(broken)
    edit_tensors(broken, **{name: torch.zeros(3, 3)})
    assert name in refused(broken) and "(3, 3)" in refused(broken)
    edit_tensors(broken, **{name: load_file(saved / "model.safetensors")[name], "model.extra": torch.zeros(1)})
    assert "unexpected tensor 'model.extra'" in refused(broken)


def test_truncated_file_is_named(broken: Path) -> None:
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert str(file) in refused(broken) and "truncated" in refused(broken)


def test_pickles_are_refused(broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    assert "never read" in refused(broken)


def test_not_a_model_directory(tmp_path: Path) -> None:
    with pytest.raises(FoundlingError, match="does not exist"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(FoundlingError, match="not readable JSON"):
        read_config(tmp_path)


def test_saving_over_the_mapped_file_does_not_corrupt(broken: Path) -> None:
    """The loaded weights share the file's memory map: writing into that file in place would change them."""
    module = load_module(broken)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    save_module(module, broken)
    for name, tensor in load_module(broken).state_dict().items():
        assert torch.equal(tensor, before[name]), name
