"""The stage in every format and with every method: the result is a model that loads, serves and says what was lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foundling.compression.compress import build
from foundling.compression.config import CompressConfig
from foundling.core.artifacts import Artifact, Draft
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.inference.model import load
from foundling.models.checkpoint import load_module, save_module
from foundling.models.language_model import LanguageModel
from foundling.models.quantized import QuantizedLinear

WAYS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4 gptq": {"bits": 4, "method": "gptq"},
    "int4 awq with zero points": {"bits": 4, "method": "awq", "symmetric": False},
    "int8 for each output, int8 inputs": {"int8_inputs": True},
    "float8": {"numbers": "fp8"},
    "nf4": {"numbers": "nf4"},
    "mixed": {"bits": 4, "max_bytes": 900_000},
    "q8_0": {"bits": 8, "format": "gguf"},
    "q4_0 by gptq": {"bits": 4, "method": "gptq", "format": "gguf"},
    "q4_1": {"bits": 4, "symmetric": False, "format": "gguf"},
    "2:4 and int4": {"bits": 4, "method": "gptq", "prune": {"pattern": "2:4"}},
    "wanda": {"bits": 16, "prune": {"method": "wanda", "sparsity": 0.3}},
    "narrower": {"bits": 16, "shrink": {"heads": 1, "channels": 0.25, "layers": 1}},
}


@pytest.fixture(autouse=True)
def _no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding takes most of the stage's time, and is tested with the stage's report."""
    monkeypatch.setattr(
        "foundling.compression.compress.speed", lambda module, tokenizer: {"decode": 1.0, "prefill": 1.0}
    )


def run(directory: Path, corpus: Artifact | None, where: Path, **fields: Any) -> Path:
    draft = Draft(where / "files", where / "scratch", "0" * 16)
    for path in (draft.path, draft.scratch):
        path.mkdir(parents=True)
    inputs = {"model": Artifact.outside(directory, "model")} | ({"corpus": corpus} if corpus else {})
    small = {"compare_bytes": 1000, "calibration_rows": 4, "calibration_length": 48}
    build(parse(CompressConfig, small | fields, "compress"), Inputs(inputs), draft)
    return draft.path


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_result_is_a_model(
    way: dict[str, Any], module: LanguageModel, directory: Path, corpus: Artifact, tmp_path: Path
) -> None:
    """Guards against a format that is written but not read, or read as other numbers."""
    path = run(directory, corpus, tmp_path, **way)
    report = json.loads((path / "compression.json").read_text())
    assert report["bytes"] == sum(f.stat().st_size for f in path.iterdir() if f.suffix in (".safetensors", ".gguf"))
    assert report["ratio"] > 1.5 and report["layers"]
    loaded = load_module(path)
    ids = torch.arange(40).reshape(1, 40)
    with torch.no_grad():
        once = loaded(ids)
        save_module(loaded, tmp_path / "again")
        torch.testing.assert_close(load_module(tmp_path / "again")(ids), once, rtol=0, atol=0)
        if "shrink" not in way and "prune" not in way:
            assert 0 < (once - module(ids)).abs().max() < module(ids).abs().max()
            assert report["kl_bits_per_token"]["value"] < 0.3
    model = load(path)
    model.tokenizer.save(tmp_path / "again")
    texts = [one.generate("import", max_tokens=3, ignore_eos=True).text for one in (model, load(tmp_path / "again"))]
    assert texts[0] == texts[1]


def test_gguf_keeps_the_chosen_codes(directory: Path, corpus: Artifact, tmp_path: Path) -> None:
    """Guards against a file that rounds anew what GPTQ has chosen: both formats must hold the same weights."""
    way = {"bits": 4, "method": "gptq"}
    packed = load_module(run(directory, corpus, tmp_path / "a", **way))
    single = load_module(run(directory, corpus, tmp_path / "b", **way, format="gguf"))
    for name, layer in packed.named_modules():
        if isinstance(layer, QuantizedLinear):
            torch.testing.assert_close(single.get_submodule(name).weight, layer.weight, rtol=0, atol=0)


def test_mixed_precision_spends_the_bytes_it_is_given(directory: Path, corpus: Artifact, tmp_path: Path) -> None:
    sizes = []
    for number, room in enumerate((900_000, 1_200_000)):
        path = run(directory, corpus, tmp_path / str(number), bits=4, max_bytes=room)
        sizes.append((path / "model.safetensors").stat().st_size)
        assert room * 0.85 < sizes[-1] < room + 40_000  # the header of the file comes on top
    assert sizes[0] < sizes[1]
    with pytest.raises(FoundlingError, match="cannot be met: 4 bits everywhere take"):
        run(directory, corpus, tmp_path / "small", bits=4, max_bytes=100_000)


def test_narrower_models_have_ordinary_shapes(directory: Path, corpus: Artifact, tmp_path: Path) -> None:
    """Guards against a smaller model whose config.json still says the old sizes."""
    path = run(directory, corpus, tmp_path, bits=16, shrink={"heads": 1, "channels": 0.25, "layers": 1})
    said = json.loads((path / "config.json").read_text())
    assert (said["num_key_value_heads"], said["num_attention_heads"], said["head_dim"]) == (1, 2, 32)
    assert (said["intermediate_size"], said["num_hidden_layers"]) == (288, 4)


def test_what_cannot_be_done_is_named(module: LanguageModel, directory: Path, corpus: Artifact, tmp_path: Path) -> None:
    """Each of them before anything is written."""
    text = tmp_path / "short.txt"
    text.write_text("import os\n")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"bits": 4, "method": "gptq", "text": [str(text)]}, "the calibration text has 11 tokens, less than one row"),
        ({"bits": 16, "shrink": {"heads": 2}}, "2 key/value heads cannot be removed from block 0"),
        ({"bits": 16, "shrink": {"layers": 5}}, "5 layers cannot be removed of 5"),
        ({"bits": 16, "shrink": {"experts": 1}}, "1 experts cannot be removed from block 0"),
        ({"bits": 4, "group_size": 48}, "group_size 48 does not divide"),
        ({"numbers": "nf4", "bits": 8}, "bits 8 does not go with numbers 'nf4', for which it is 4"),
        ({"bits": 4, "method": "gptq", "numbers": "fp8"}, "bits 4 does not go with numbers .fp8."),
    ]
    for number, (fields, message) in enumerate(cases):
        with pytest.raises(FoundlingError, match=message):
            run(directory, corpus, tmp_path / str(number), **fields)
        assert not list((tmp_path / str(number)).glob("files/*.safetensors"))
    with pytest.raises(FoundlingError, match="needs calibration text"):
        run(directory, None, tmp_path / "none", bits=4, method="awq")
    broken = load_module(directory)
    broken.blocks[2].ffn.up.weight.data[3, 4] = torch.nan
    save_module(broken, tmp_path / "broken")
    load(directory).tokenizer.save(tmp_path / "broken")
    with pytest.raises(FoundlingError, match=r"blocks\.2\.ffn\.up\.weight hold NaN"):
        run(tmp_path / "broken", corpus, tmp_path / "nan", bits=4)
    assert not list((tmp_path / "nan" / "files").iterdir())
