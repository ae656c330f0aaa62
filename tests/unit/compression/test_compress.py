"""Choosing codes, the stage, and that its result serves like any model."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from foundling.compression.apply import compress_module
from foundling.compression.compress import build
from foundling.compression.config import CompressConfig
from foundling.compression.fidelity import prediction_changes
from foundling.compression.rounding import search_scales
from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.inference.model import load
from foundling.models.checkpoint import save_module
from foundling.models.language_model import LanguageModel
from foundling.models.pooling import PoolingConfig, read_pooling, write_pooling
from foundling.models.quantized import Scheme, dequantize
from foundling.models.rounding import round_to_nearest
from foundling.training.preparation import both_ways


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_search_beats_nearest_in_every_group(bits: int, symmetric: bool) -> None:
    """Guards against a search that mixes up codes and scales of different candidates."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 128, generator=generator)
    weight[::7, ::11] *= 6  # outliers are what clipping is for
    scheme = Scheme(bits=bits, group_size=32, symmetric=symmetric)
    errors = []
    for codes, scales, zeros in (round_to_nearest(weight, scheme), search_scales(weight, scheme)):
        difference = dequantize(codes, scales.float(), zeros) - weight
        errors.append(difference.unflatten(1, (-1, 32)).square().sum(2))
    assert (errors[1] <= errors[0] + 1e-6).all()
    if bits == 4:
        assert errors[1].sum() < 0.97 * errors[0].sum()


def test_fewer_bits_cost_more(module: LanguageModel) -> None:
    """Guards against int4 and int8 being swapped, and a report that shows no loss at all."""
    documents = [list(range(3, 60)), list(range(50, 100))]
    found = {}
    for bits in (4, 8):
        smaller = copy.deepcopy(module)
        layers = compress_module(smaller, CompressConfig(bits=bits))
        assert len(layers) == 7 * module.config.n_layers
        found[bits] = prediction_changes(module, smaller.float(), documents)["kl_bits_per_token"].value
        assert all(0 < layer.weight_error < (0.15 if bits == 4 else 0.01) for layer in layers)
    assert 0 < found[8] < found[4] / 20
    same = prediction_changes(module, module, documents)
    assert same["kl_bits_per_token"].value == pytest.approx(0, abs=1e-6) and same["same_next_token"].value == 1


def test_stage_makes_a_model_that_serves(directory: Path, corpus: Artifact, tmp_path: Path) -> None:
    """Guards against a compressed model that the engine, the sampler or a second compression treats differently."""
    draft = Draft(tmp_path / "files", tmp_path / "scratch", "0" * 16)
    draft.path.mkdir()
    draft.scratch.mkdir()
    inputs = Inputs({"model": Artifact.outside(directory, "model"), "corpus": corpus})
    build(CompressConfig(bits=8, compare_bytes=2000), inputs, draft)
    report = json.loads((draft.path / "compression.json").read_text())
    assert 2 < report["ratio"] < 4 and 0 < report["kl_bits_per_token"]["value"] < 0.01
    assert "## Compression" in (draft.path / "README.md").read_text()
    compressed, original = load(draft.path), load(directory)
    assert compressed.score("import os\n", "import sys") == pytest.approx(
        original.score("import os\n", "import sys"), abs=0.2
    )
    assert compressed.generate("import", max_tokens=4, ignore_eos=True).finish_reason == "length"
    again = Inputs({"model": Artifact.outside(draft.path, "model")})
    with pytest.raises(FoundlingError, match="already quantized"):
        build(CompressConfig(), again, Draft(tmp_path / "again", tmp_path / "scratch", "1" * 16))


def test_an_encoder_keeps_how_it_embeds(
    module: LanguageModel, directory: Path, corpus: Artifact, tmp_path: Path
) -> None:
    """Guards embedding models: writing does not time them, and without its pooling a copy gives other vectors."""
    source = tmp_path / "encoder"
    shutil.copytree(directory, source)
    save_module(both_ways(copy.deepcopy(module)), source)
    pooling = PoolingConfig(mode="cls", max_tokens=20)
    write_pooling(source, pooling, module.config.dim)
    draft = Draft(tmp_path / "files", tmp_path / "scratch", "0" * 16)
    draft.path.mkdir()
    draft.scratch.mkdir()
    inputs = Inputs({"model": Artifact.outside(source, "model"), "corpus": corpus})
    build(CompressConfig(bits=8, compare_bytes=2000), inputs, draft)
    assert json.loads((draft.path / "compression.json").read_text())["cosine"] > 0.99
    assert read_pooling(draft.path) == pooling and draft.timings["decode_tokens_per_second"] == {}
    before, after = (load(path).embed(["import os", "a longer text than twenty"]) for path in (source, draft.path))
    assert ((before * after).sum(1) > 0.99).all()


def test_keep_is_checked(module: LanguageModel) -> None:
    """Guards against a misspelt layer name that is silently compressed."""
    with pytest.raises(FoundlingError, match=r"blocks\.0\.mixer\.q_proj"):
        compress_module(copy.deepcopy(module), CompressConfig(keep=("blocks.0.mixer.q_prj",)))
    with pytest.raises(FoundlingError, match="no layer is left"):
        compress_module(copy.deepcopy(module), CompressConfig(keep=("*",)))
