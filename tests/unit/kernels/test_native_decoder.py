"""The native decoder against the module that it runs, and against itself in other batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig, uniform_blocks
from foundling.models.context import CacheView, Context
from foundling.models.kernels.decoder import linear, native
from foundling.models.kernels.panels import weight_of
from foundling.models.kernels.reference import integer_linear
from foundling.models.kernels.structs import compiled, tiles
from foundling.models.language_model import LanguageModel
from foundling.models.quantized import Scheme
from foundling.models.rounding import quantize_linear, quantize_module

pytestmark = pytest.mark.skipif(compiled() is None, reason="no C compiler here")
BLOCK = 16


def tiny(
    heads: int = 4,
    kv_heads: int = 2,
    dtype: torch.dtype = torch.float32,
    head_dim: int = 32,
    dim: int = 64,
    hidden: int = 96,
    mlp_bias: bool = False,
    vocab: int = 80,
    **attention: Any,
) -> LanguageModel:
    """A random model of two blocks whose weights are large enough for errors to show."""
    mixer = AttentionConfig(n_heads=heads, n_kv_heads=kv_heads, head_dim=head_dim, rope=RopeConfig(), **attention)
    blocks = uniform_blocks(2, mixer, MLPConfig(hidden=hidden, bias=mlp_bias))
    module = build(ModelConfig(family="qwen3", vocab_size=vocab, dim=dim, blocks=blocks, tie_embeddings=True), 0).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.1, generator=generator)
    return module.to(dtype)


Hidden = Callable[[Tensor, Context, list[Any]], Tensor]


def play(module: LanguageModel, hidden: Hidden, schedule: list[list[int]], tokens: Tensor) -> Tensor:
    """Hidden states (rows, time, dim) of tokens (rows, time), computed by pieces: schedule[step][row] new tokens."""
    rows, time = tokens.shape
    per_row = -(-time // BLOCK)
    state = module.new_state(rows + 1, 1 + rows * per_row, BLOCK, module.embedding.weight.dtype, "cpu")
    table = torch.arange(1, 1 + rows * per_row).view(rows, per_row)
    lengths, out = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, time, module.config.dim)
    for step in schedule:
        new = torch.tensor(step)
        inside = torch.arange(int(new.max()))
        positions = lengths[:, None] + torch.minimum(inside, (new[:, None] - 1).clamp_min(0))
        slots = table.gather(1, positions // BLOCK) * BLOCK + positions % BLOCK
        valid = inside < new[:, None]
        view = CacheView(torch.where(valid, slots, 0), table, lengths.clone(), new, torch.arange(1, rows + 1))
        with torch.no_grad():
            h = hidden(tokens.gather(1, positions), Context(positions, None, view), state).float()
        out[torch.arange(rows)[:, None].expand_as(positions)[valid], positions[valid]] = h[valid]
        lengths += new
    return out


TOKENS = torch.randint(0, 80, (3, 40), generator=torch.Generator().manual_seed(1))
WHOLE = [[40, 40, 40]]
PIECES = [[30, 17, 5], [7, 16, 30], [1, 1, 1], [1, 1, 1], [1, 5, 3]]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"qk_norm": NormConfig()},
    {"heads": 6, "kv_heads": 2, "qkv_bias": True, "out_bias": True},
    {"heads": 8, "kv_heads": 1},
    {"vocab": 93},
    {"heads": 3, "kv_heads": 3, "window": 9},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_equals_the_module_in_float32(variant: dict[str, Any]) -> None:
    """Guards every part of the pass: rotation, head norms, grouped heads, biases, windows, padding, the paged cache."""
    module = tiny(**variant)
    decoder = native(module)
    assert decoder is not None
    expected = play(module, module.hidden, PIECES, TOKENS)
    got = play(module, decoder.hidden, PIECES, TOKENS)
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(decoder.head(got), module.head(expected), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_as_near_to_float32_as_the_module_is() -> None:
    """Guards the half-precision products and cache: no worse than what PyTorch makes of the same weights."""
    module = tiny(dtype=torch.bfloat16)
    exact = module.to(torch.float32)
    truth = play(exact, exact.hidden, WHOLE, TOKENS)
    module = module.to(torch.bfloat16)
    decoder = native(module)
    assert decoder is not None
    theirs = (play(module, module.hidden, PIECES, TOKENS) - truth).abs().mean()
    ours = (play(module, decoder.hidden, PIECES, TOKENS) - truth).abs().mean()
    assert ours < 1.1 * theirs


@pytest.mark.skipif(not tiles(), reason="no tiles for bfloat16 here")
@pytest.mark.parametrize("rows", [1, 5, 16, 40, 64, 300])
@pytest.mark.parametrize("outputs", [16, 96, 112])
@pytest.mark.parametrize("inputs", [96, 1024])
def test_products_in_tiles(rows: int, outputs: int, inputs: int) -> None:
    """Guards every place of a tile: odd groups of tokens, pieces that are not full, sums over several tiles."""
    library, layer = compiled(), nn.Linear(inputs, outputs).bfloat16()
    weight = weight_of(layer)
    assert library is not None and weight is not None
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows))
    expected = x.bfloat16().double() @ layer.weight.double().T + layer.bias.double()
    got = linear(library, weight.struct, x, in_tiles=True)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(got, linear(library, weight.struct, x))  # the order of sums shows that tiles were used


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_a_token_does_not_depend_on_its_batch(bits: int) -> None:
    """Guards determinism to the bit: alone or together, whole prompts or pieces, on one thread or two."""
    module = tiny(heads=6, kv_heads=2, dtype=torch.bfloat16 if bits == 16 else torch.float32)
    if bits < 16:
        quantize_module(module, Scheme(bits=bits))  # type: ignore[arg-type]
    decoder = native(module)
    assert decoder is not None
    threads = torch.get_num_threads()
    together = play(module, decoder.hidden, WHOLE, TOKENS)
    assert torch.equal(play(module, decoder.hidden, PIECES, TOKENS), together)
    try:
        torch.set_num_threads(1)
        alone = torch.cat([play(module, decoder.hidden, [[1]] * 40, TOKENS[row : row + 1]) for row in range(3)])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)


LONG = torch.randint(0, 80, (2, 330), generator=torch.Generator().manual_seed(2))
LONG_PIECES = [[200, 17], [1, 150], [128, 1], [1, 162]]
LONG_VARIANTS: list[dict[str, Any]] = [
    {"heads": 6, "kv_heads": 2, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    {"heads": 3, "kv_heads": 3, "window": 140, "head_dim": 64},
    {"heads": 20, "kv_heads": 1, "window": 30, "head_dim": 96},  # more queries of a token than a tile has
    {"heads": 2, "kv_heads": 2, "dim": 1024, "hidden": 1040},  # more inputs than are taken at once
    {"heads": 7, "kv_heads": 1, "head_dim": 128, "dim": 80, "vocab": 93},  # inputs that are no whole tiles
    {"heads": 10, "kv_heads": 2, "head_dim": 256},
]


@pytest.mark.parametrize("variant", LONG_VARIANTS, ids=str)
def test_long_prompts(variant: dict[str, Any]) -> None:
    """Guards what only many tokens reach: arranged weights, blocks of keys, groups of threads; all to the bit."""
    module = tiny(**variant)
    truth = play(module, module.hidden, [[330, 330]], LONG)
    module = module.to(torch.bfloat16)
    decoder = native(module)
    assert decoder is not None
    together = play(module, decoder.hidden, [[330, 330]], LONG)
    theirs = (play(module, module.hidden, [[330, 330]], LONG) - truth).abs().mean()
    assert (together - truth).abs().mean() < 1.1 * theirs
    assert torch.equal(play(module, decoder.hidden, LONG_PIECES, LONG), together)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = [[1, 1]] * 330
        assert torch.equal(play(module, decoder.hidden, single, LONG), together)
        torch.set_num_threads(5)
        assert torch.equal(play(module, decoder.hidden, [[330, 330]], LONG), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [16, 32, 64, 192, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_integer_products(bits: Any, group: int | None, dtype: torch.dtype) -> None:
    """Guards the packing (every code in its lane, every scale at its group) for all tile shapes."""
    torch.manual_seed(0)
    layer = quantize_linear(nn.Linear(192, 112, dtype=dtype), Scheme(bits=bits, group_size=group))
    weight, library = weight_of(layer), compiled()
    assert weight is not None and library is not None
    for rows in (1, 2, 3, 7, 9):
        x = torch.randn(rows, 192) * torch.logspace(-3, 3, rows)[:, None]
        expected = integer_linear(x, layer)
        error = (linear(library, weight.struct, x) - expected).abs().amax(1) / expected.abs().amax(1)
        assert error.max() < 2e-6


def test_a_nan_stays_a_nan() -> None:
    """Guards against rounding that turns a broken activation into plausible numbers."""
    library = compiled()
    for layer in (quantize_linear(nn.Linear(64, 32), Scheme(bits=8)), nn.Linear(64, 32), nn.Linear(64, 32).bfloat16()):
        weight = weight_of(layer)
        assert weight is not None and library is not None
        x = torch.randn(3, 64)
        x[1, 5] = float("nan")
        y = linear(library, weight.struct, x)
        assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("values", [Scheme(bits=8, group_size=32), Scheme(bits=8, group_size=16), None], ids=str)
def test_layers_of_different_bits(values: Scheme | None) -> None:
    """Guards against reading one layer's inputs as another's weights want them, in a model of mixed precision."""
    module = tiny()
    layers = {"mixer": ("q_proj", "k_proj", "v_proj", "o_proj"), "ffn": ("gate", "up", "down")}
    for block in module.blocks:
        for part, names in ((getattr(block, key), names) for key, names in layers.items()):
            for name in names:
                scheme = values if name in {"v_proj", "up"} else Scheme(bits=4, group_size=32)
                if scheme:
                    setattr(part, name, quantize_linear(getattr(part, name), scheme))
    decoder = native(module)
    assert (decoder is not None) == (values is not None and values.group_size == 32)
    expected = play(module, module.hidden, WHOLE, TOKENS)
    got = play(module, (decoder or module).hidden, WHOLE, TOKENS)
    assert (got - expected).norm() < 0.1 * expected.norm(), "but for the rounding of inputs to 8 bits"


def test_what_it_does_not_know_is_left_to_the_module() -> None:
    """Guards against silently wrong numbers for architectures and weights that the kernels were not made for."""
    module = tiny()
    quantize_module(module, Scheme(bits=4, symmetric=False))
    assert native(module) is None
    blocks = uniform_blocks(
        1, AttentionConfig(n_heads=2, n_kv_heads=2, head_dim=32), MLPConfig(hidden=64, activation="relu")
    )
    assert native(build(ModelConfig(family="foundling", vocab_size=80, dim=64, blocks=blocks), 0)) is None
    module = tiny()
    module.blocks[0].ffn.up = nn.Sequential(module.blocks[0].ffn.up)  # such as an adapter around a layer
    assert native(module) is None
