"""Integer weights: layout, arithmetic, kernels and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foundling.core.errors import FoundlingError
from foundling.models.build import build
from foundling.models.checkpoint import load_module, save_module
from foundling.models.packing import pack, unpack
from foundling.models.presets import preset
from foundling.models.quantized import Scheme
from foundling.models.rounding import quantize_linear, quantize_module

SCHEMES = [
    Scheme(bits=8, group_size=None),
    Scheme(bits=8, group_size=32),
    Scheme(bits=4, group_size=32),
    Scheme(bits=4, group_size=None, symmetric=False),
    Scheme(bits=8, group_size=64, symmetric=False),
]
OTHERS = [
    Scheme(bits=8, group_size=None, int8_inputs=True),
    Scheme(numbers="fp8", bits=8, group_size=None),
    Scheme(numbers="nf4", bits=4, group_size=64),
]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([4, 8]), st.integers(1, 5), st.integers(1, 40), st.integers(0, 1000))
def test_packing_round_trips(bits: int, rows: int, columns: int, seed: int) -> None:
    half = 1 << (bits - 1)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-half, half, (rows, columns), dtype=torch.int8, generator=generator)
    packed = pack(codes, bits)
    assert packed.dtype == torch.int32 and packed.shape == (rows, -(-columns * bits // 32))
    assert torch.equal(unpack(packed, bits, columns), codes)


def test_layout_is_compressed_tensors() -> None:
    """Written down from the format: code + 8 in nibbles, first code lowest. A wrong order still round-trips."""
    codes = torch.tensor([[-8, -7, 0, 7, 1, 2, 3, 4]], dtype=torch.int8)
    assert pack(codes, 4).view(torch.uint8).tolist() == [[0x10, 0xF8, 0xA9, 0xCB]]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_error_is_at_most_half_a_step(scheme: Scheme) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 48)
    layer = quantize_linear(linear, scheme)
    steps = layer.weight_scale.repeat_interleave(128 // layer.weight_scale.shape[1], dim=1)
    assert ((layer.weight - linear.weight).abs() <= steps * (0.5 if scheme.symmetric else 1.0) + 1e-7).all()
    x = torch.randn(3, 5, 128)
    expected = nn.functional.linear(x, layer.weight, linear.bias)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_kernels_equal_the_reference(scheme: Scheme, rows: int) -> None:
    """The integer kernels (few rows, bfloat16) and the dequantized product must be the same function."""
    torch.manual_seed(0)
    layer = quantize_linear(nn.Linear(256, 64).bfloat16(), scheme)
    x = torch.randn(1, rows, 256).bfloat16()
    expected = x.double() @ layer.weight.double().T + layer.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, atol=0.02, rtol=0.02)


def test_groups_must_divide() -> None:
    with pytest.raises(FoundlingError, match="does not divide"):
        quantize_linear(nn.Linear(48, 8), Scheme(bits=4, group_size=32))


@pytest.mark.parametrize("scheme", [*SCHEMES[:4], *OTHERS], ids=str)
def test_quantized_directory_round_trips(scheme: Scheme, tmp_path: Path) -> None:
    module = build(preset("foundling-1m", vocab_size=64), seed=0, zero_outputs=False)
    ids = torch.arange(20).reshape(1, 20)
    with torch.no_grad():
        dense = module(ids)
        assert len(quantize_module(module, scheme)) == 5 * 7
        expected = module(ids)
        assert 0 < (expected - dense).abs().max() < dense.abs().max()
        save_module(module, tmp_path)
        torch.testing.assert_close(load_module(tmp_path)(ids), expected)
