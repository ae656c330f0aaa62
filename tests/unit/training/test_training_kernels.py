"""The layers' hand-written backward passes against torch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foundling.models.config import AttentionConfig, NormConfig
from foundling.models.context import Context
from foundling.models.kernels import fused
from foundling.models.layers.attention import Attention
from foundling.models.layers.masks import key_ranges, self_mask
from foundling.models.layers.norm import Norm
from foundling.models.layers.rope import rope_tables, rotate
from foundling.models.layers.rope_config import RopeConfig
from foundling.models.layers.short_attention import short_attention

TOLERANCE = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (8e-3, 1e-3)}  # relative, absolute: bfloat16 has 8 bits
Kernel = Callable[..., Tensor]


def agree(ours: Kernel, theirs: Kernel, inputs: list[Tensor], absolute: float | None = None) -> None:
    """The native pass of float32 or bfloat16 inputs, and its gradients, against torch's in float64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, wanted = ours(*leaves), theirs(*exact)
    assert out.grad_fn is not None and out.grad_fn.name().startswith("_"), "torch's operators were used"
    grad = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    relative, usual = TOLERANCE[out.dtype]
    pairs = zip(torch.autograd.grad(out, leaves, grad), torch.autograd.grad(wanted, exact, grad.double()), strict=True)
    for a, b in ((out, wanted), *pairs):
        scale = max(1.0, float(b.detach().abs().max()))
        torch.testing.assert_close(a.double(), b, rtol=relative, atol=(absolute or usual) * scale)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The kernels' two dtypes; without a C compiler there are no kernels."""
    if fused.compiled() is None:
        pytest.skip("no C compiler, so no native kernels")
    torch.manual_seed(0)
    chosen: torch.dtype = request.param
    return chosen


@pytest.mark.parametrize("shape", [(3, 5, 32), (2, 7, 4, 16), (70, 144)])
def test_rms_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A wrong term in the backward pass trains, only worse; nor may threads add to each other's sums."""
    norm = Norm(shape[-1], NormConfig(eps=1e-2))  # large enough to be seen
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[-1]).to(dtype)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(norm, {"weight": weight}, (x,))
        return out

    agree(ours, lambda x, w: F.rms_norm(x, w.shape, w, 1e-2), [x, weight])


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rotary_positions(dtype: torch.dtype, fraction: float) -> None:
    """Turned heads, whole or in part, and the gradient turned back."""
    config, ctx = RopeConfig(fraction=fraction), Context.full(2, 9)
    x = torch.randn(2, 9, 3, 64).to(dtype)
    tables = rope_tables(config, 64, ctx, dtype)
    width = tables[0].shape[-1]

    def plain(x: Tensor) -> Tensor:
        cos, sin = (table.double() for table in tables)
        turned = x[..., :width] * cos + x[..., :width].roll(width // 2, -1) * sin
        return torch.cat((turned, x[..., width:]), -1)

    if fraction == 1:
        agree(lambda x: rotate(x, *tables), plain, [x])
    else:  # a part of each head is not contiguous, and torch turns it
        torch.testing.assert_close(
            rotate(x.requires_grad_(), *tables).double(), plain(x.double()), rtol=8e-3, atol=2e-2
        )


def test_gated_feed_forward(dtype: torch.dtype) -> None:
    """silu(gate) up at sizes from none to where the exponential ends."""
    gate = torch.linspace(-100, 100, 5 * 32).view(5, 32).to(dtype)
    agree(fused.silu_gate, lambda gate, up: F.silu(gate) * up, [gate, torch.randn(5, 32).to(dtype)])


@pytest.mark.parametrize("vocab", [5, 16, 333])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_cross_entropy(dtype: torch.dtype, vocab: int, z_loss: float) -> None:
    """The last logits of an odd vocabulary, a target in the last place, z-loss and weights."""
    logits, weights = (torch.randn(40, vocab) * 5).to(dtype), torch.rand(40)
    targets = torch.randint(vocab, (40,))
    targets[0] = vocab - 1
    loss, gradient = fused.cross_entropy(logits, targets, weights, z_loss)
    exact = logits.double().requires_grad_()
    log_z = exact.logsumexp(-1)
    losses = F.cross_entropy(exact, targets, reduction="none") + z_loss * log_z**2
    wanted = (losses * weights.double()).sum()
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)
    relative, absolute = TOLERANCE[dtype]
    (exact_gradient,) = torch.autograd.grad(wanted, exact)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=relative, atol=absolute)


@pytest.mark.parametrize("target", [-100, 16, 40_000_000])
def test_targets_outside_the_vocabulary_are_refused(dtype: torch.dtype, target: int) -> None:
    """C would read and write where it should not."""
    with pytest.raises(IndexError, match=f"target {target} is outside the vocabulary of 16"):
        fused.cross_entropy(torch.zeros(2, 16, dtype=dtype), torch.tensor([3, target]), torch.ones(2), 0.0)


def test_the_default_dtype_does_not_matter(dtype: torch.dtype) -> None:
    """Work spaces are float32 whatever a user has set."""
    logits, targets = torch.randn(3, 20).to(dtype), torch.tensor([1, 2, 3])
    wanted = fused.cross_entropy(logits, targets, torch.ones(3), 0.0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = fused.cross_entropy(logits, targets, torch.ones(3), 0.0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, wanted))


def test_a_second_derivative_is_refused(dtype: torch.dtype) -> None:
    """It would be wrong: the first one is computed outside autograd."""
    x = torch.randn(4, 16).to(dtype).requires_grad_()
    y = fused.rms_norm(x, torch.ones(16, dtype=dtype), 1e-6)
    (first,) = torch.autograd.grad((y**2).sum() + (x**3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (first**2).sum().backward()


def test_key_ranges_stay_inside_the_row() -> None:
    """A prefix longer than the row, a document that goes on from another row, positions shared by all rows."""
    config = AttentionConfig(n_heads=2, n_kv_heads=2, head_dim=32)
    long_prefix = Context.full(2, 64)
    long_prefix.prefix = torch.tensor([65, 100_000])
    index, segments = torch.arange(64), (torch.arange(64) > 40).long()
    goes_on = Context(index.expand(2, 64) + 100, segments.expand(2, 64))
    shared = Context(index[None], segments[None])
    q = torch.randn(2, 64, 2, 32).bfloat16().requires_grad_()
    for ctx in (long_prefix, goes_on, shared):
        ranges, mask = key_ranges(config, ctx), self_mask(config, ctx, torch.float32)
        assert ranges is not None and ranges[0] is not None and ranges[1] is not None and mask is not None
        assert (ranges[0] >= 0).all() and (ranges[1] <= 64).all()
        seen = (index >= ranges[0][..., None]) & (index < ranges[1][..., None])
        assert torch.equal(seen, mask[:, 0] == 0)
        if fused.tiles():
            out = fused.attention(q, q, q, *ranges)
            torch.testing.assert_close(out, short_attention(q, q, q, mask.bfloat16(), ctx), rtol=2e-2, atol=2e-2)


def test_not_a_number_is_passed_on(dtype: torch.dtype) -> None:
    """The loop stops on a loss that is not a number: no kernel may hide one."""
    logits = torch.zeros(2, 20, dtype=dtype)
    logits[1, 3] = torch.nan
    loss, gradient = fused.cross_entropy(logits, torch.zeros(2, dtype=torch.long), torch.ones(2), 0.0)
    assert loss.isnan() and gradient[1].isnan().all() and not gradient[0].isnan().any()
    gate = torch.full((16,), torch.nan, dtype=dtype)
    assert fused.silu_gate(gate, gate).isnan().all() and fused.rms_norm(gate, gate, 1e-6).isnan().all()


@pytest.mark.parametrize(
    "seen", ["causal", "all", "documents", "window", "prefix", "documents both ways", "prefix window"]
)
@pytest.mark.parametrize(("kv_heads", "time", "width"), [(4, 32, 32), (2, 160, 64), (1, 288, 96)])
def test_attention_in_tiles(kv_heads: int, time: int, width: int, seen: str) -> None:
    """The diagonal of chunks, blocks that end early, shared key heads, chunks of which nothing is seen, padding."""
    if not fused.tiles():
        pytest.skip("this CPU has no tiles for bfloat16 products (AMX)")
    torch.manual_seed(0)
    window = 40 if "window" in seen else None
    causal = seen != "all" and "both" not in seen
    config = AttentionConfig(n_heads=4, n_kv_heads=kv_heads, head_dim=width, window=window, causal=causal)
    ends = torch.tensor([[3, time // 3, time // 2 + 1], [time // 4, time // 4 + 1, time - 1], [time] * 3])
    segments = (torch.arange(time)[None, :, None] >= ends[:, None]).sum(-1)
    segments[0][segments[0] == 3] = -1
    ctx = Context.packed(segments) if "documents" in seen else Context.full(3, time)
    ctx.prefix = torch.tensor([1, time // 2, time - 3]) if "prefix" in seen else None
    mask, ranges = self_mask(config, ctx, torch.float64), key_ranges(config, ctx)
    assert ranges is not None
    q = torch.randn(3, time, 4, width)
    k, v = torch.randn(3, time, kv_heads, width), torch.randn(3, time, kv_heads, width)

    def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=True
        )
        return out.transpose(1, 2)

    inputs = [x.bfloat16() for x in (q, k, v)]
    assert fused.suits_attention(*inputs)
    # torch's own pass in bfloat16 is no nearer to the exact one: weights have 8 bits in both
    agree(lambda q, k, v: fused.attention(q, k, v, *ranges), exact, inputs, absolute=8e-3)


def test_attention_layers_take_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer in training gives what it gives without native kernels, for packed documents too."""
    if not fused.tiles():
        pytest.skip("this CPU has no tiles for bfloat16 products (AMX)")
    torch.manual_seed(0)
    layer = Attention(AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=32, rope=RopeConfig()), 64).bfloat16()
    x = torch.randn(2, 64, 64, dtype=torch.bfloat16, requires_grad=True)
    segments = (torch.arange(64) > 20).long().expand(2, 64)
    native = layer(x, Context.packed(segments))
    monkeypatch.setattr(fused, "compiled", lambda: None)
    plain = layer(x, Context.packed(segments))
    assert not torch.equal(native, plain)  # they are two ways indeed
    torch.testing.assert_close(native, plain, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("time", [7, 200])
def test_short_attention_equals_torch(kv_heads: int, masked: bool, time: int) -> None:
    """Stacking the query heads of a group must not mix up heads, rows or times; nor cut off keys that are seen."""
    rows, heads, dim = 3, 6, 4
    torch.manual_seed(0)
    q = torch.randn(rows, time, heads, dim, requires_grad=True)
    k, v = (torch.randn(rows, time, kv_heads, dim, requires_grad=True) for _ in range(2))
    visible = torch.ones(time, time).tril().bool().expand(rows, 1, time, time).clone()
    if masked:
        visible[1, :, 4:, :4] = False
        visible[:, :, 128:, :100] = False  # the second tile of queries looks at no key before 64
    bias = torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf) if masked else None

    def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True).transpose(1, 2)

    ours, theirs = short_attention(q, k, v, bias, Context.full(rows, time)), reference(q, k, v)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    grad = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(o, (q, k, v), grad) for o in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_cpu_without_tiles_has_the_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most CPUs have no tiles: a kernel that is not there must not take the others, or training itself, with it."""
    if not fused.tiles():
        pytest.skip("this CPU has none, so every test here is this one")
    monkeypatch.setattr(fused, "FLAGS", (*fused.FLAGS, "-mno-amx-bf16"))
    library = fused.compiled.__wrapped__()
    assert library is not None and not library.tiles_allowed() and library.silu_gate
