"""What we write as compressed-tensors, transformers reads: equal logits for every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from foundling.models.build import build
from foundling.models.checkpoint import load_module, save_module
from foundling.models.language_model import LanguageModel
from foundling.models.presets import preset
from foundling.models.quantized import Scheme
from foundling.models.rounding import quantize_linear, quantize_module

SCHEMES = {
    "int4 in groups": Scheme(bits=4, group_size=32),
    "int4 with zero points": Scheme(bits=4, group_size=64, symmetric=False),
    "int8 for each output": Scheme(bits=8, group_size=None),
    "int8 with int8 inputs": Scheme(bits=8, group_size=None, int8_inputs=True),
    "float8": Scheme(numbers="fp8", bits=8, group_size=None),
}


ZERO_POINTS, INT8_INPUTS = "int4 with zero points", "int8 with int8 inputs"


def test_transformers_reads_float8(tmp_path: Path) -> None:
    """Guards against a layout, a config field or a rounding that only we understand; the next ones, too."""
    _same_logits(_quantized(SCHEMES["float8"]), tmp_path)


@pytest.mark.parametrize("name", ["int4 in groups", "int8 for each output"])
def test_transformers_reads_integers(name: str, tmp_path: Path) -> None:
    _same_logits(_quantized(SCHEMES[name]), tmp_path)


def test_transformers_reads_zero_points(tmp_path: Path) -> None:
    """compressed-tensors 0.20 makes room for unpacked zero points unless it dequantizes while loading."""
    module = _quantized(SCHEMES[ZERO_POINTS]).float()
    _same_logits(module, tmp_path, quantization_config=CompressedTensorsConfig(dequantize=True))


def test_transformers_reads_int8_inputs(tmp_path: Path) -> None:
    """Layer by layer: a token's largest input lies on the edge between two codes by definition, so that the last bit
    of a sum decides how it is rounded, and logits cannot agree."""
    module = _quantized(SCHEMES[INT8_INPUTS])
    save_module(module, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = load_module(tmp_path)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        theirs(torch.arange(5).reshape(1, 5))  # decompresses
        for block, layer in zip(ours.blocks, theirs.model.layers, strict=True):
            pairs = [(block.mixer.q_proj, layer.self_attn.q_proj), (block.ffn.down, layer.mlp.down_proj)]
            for mine, other in pairs:
                x = torch.randn(2, 7, mine.in_features, generator=generator)
                torch.testing.assert_close(mine(x), other(x), atol=1e-6, rtol=1e-5)


def test_transformers_reads_mixed_precision(tmp_path: Path) -> None:
    """Guards against groups that name our layers instead of the files'."""
    module = _quantized(None)
    schemes = [scheme for name, scheme in SCHEMES.items() if name not in (ZERO_POINTS, INT8_INPUTS)]
    linear = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    for number, name in enumerate(linear[:-3]):
        module.set_submodule(name, quantize_linear(module.get_submodule(name), schemes[number % len(schemes)]))
    _same_logits(module, tmp_path)


def test_transformers_reads_normal_floats(tmp_path: Path) -> None:
    """bitsandbytes reads our weights bit for bit; what it computes with them in bf16 is its own affair."""
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes accelerate to compare nf4")
    save_module(_quantized(Scheme(numbers="nf4", bits=4, group_size=64)), tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cpu")
    ours = load_module(tmp_path)
    for block, layer in zip(ours.blocks, theirs.model.layers, strict=True):
        for mine, other in ((block.mixer.q_proj, layer.self_attn.q_proj), (block.ffn.down, layer.mlp.down_proj)):
            read = bitsandbytes.functional.dequantize_4bit(other.weight.data, other.weight.quant_state)
            assert torch.equal(read.float(), mine.dequantized(torch.float32))


def _quantized(scheme: Scheme | None) -> LanguageModel:
    module = build(preset("foundling-1m", vocab_size=64), seed=0, zero_outputs=False).eval()
    if scheme is not None:
        quantize_module(module, scheme)
    return module


def _same_logits(module: LanguageModel, path: Path, **options: Any) -> None:
    ids = torch.arange(24).reshape(1, 24)
    with torch.no_grad():
        expected = module(ids)
        save_module(module, path)
        torch.testing.assert_close(load_module(path)(ids), expected)
        theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
        torch.testing.assert_close(theirs(ids).logits, expected, atol=2e-5, rtol=2e-5)
