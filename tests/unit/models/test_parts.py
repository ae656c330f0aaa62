"""Each part against an independent float64 loop written from its equations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.config import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    RelativeBiasConfig,
    RopeConfig,
)
from foundling.models.context import Context, Encoded
from foundling.models.layers.attention import Attention, CrossAttention
from foundling.models.layers.block import Block
from foundling.models.layers.embedding import sinusoids
from foundling.models.layers.masks import alibi_slopes
from foundling.models.layers.mlp import MLP
from foundling.models.layers.moe import MoE
from foundling.models.layers.norm import Norm
from foundling.models.layers.relative_bias import RelativeBias
from foundling.models.layers.rope import rope_tables, rotate
from foundling.models.layers.rope_config import YarnScaling
from foundling.models.routing import auxiliary_loss, statistics, update_correction_biases

DIM = 12


def filled(module: nn.Module) -> nn.Module:
    """Random float64 weights."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
    for name, buffer in module.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
    return module


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-6)


def slow_attention(
    layer: Attention, x: Tensor, sees, bias=lambda head, i, j: 0.0, source: Tensor | None = None
) -> Tensor:
    """One query, one head, one key at a time. sees(row, i, j): may token i see j?"""
    c = layer.config
    source = x if source is None else source
    out = torch.zeros(x.shape[0], x.shape[1], c.n_heads * c.head_dim, dtype=torch.float64)
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            for head in range(c.n_heads):
                kv = head * c.n_kv_heads // c.n_heads
                part, kv_part = (slice(h * c.head_dim, (h + 1) * c.head_dim) for h in (head, kv))
                q = layer.q_proj.weight[part] @ x[row, i]
                scores, values = [], []
                for j in range(source.shape[1]):
                    if sees(row, i, j):
                        score = q @ (layer.k_proj.weight[kv_part] @ source[row, j]) * (c.scale or c.head_dim**-0.5)
                        score = c.softcap * math.tanh(score / c.softcap) if c.softcap else score
                        scores.append(score + bias(head, i, j))
                        values.append(layer.v_proj.weight[kv_part] @ source[row, j])
                weights = torch.stack([torch.as_tensor(s) for s in scores]).softmax(0)
                out[row, i, part] = sum(w * v for w, v in zip(weights, values, strict=True))
    return out @ layer.o_proj.weight.T


SHAPE = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 4}
CASES = {
    "causal": (AttentionConfig(**SHAPE), lambda r, i, j: j <= i),
    "multi-query": (AttentionConfig(**SHAPE | {"n_kv_heads": 1}), lambda r, i, j: j <= i),
    "bidirectional": (AttentionConfig(**SHAPE, causal=False), lambda r, i, j: True),
    "window": (AttentionConfig(**SHAPE, window=3), lambda r, i, j: i - 3 < j <= i),
    "window both ways": (AttentionConfig(**SHAPE, window=3, causal=False), lambda r, i, j: abs(i - j) < 3),
    "softcap and scale": (AttentionConfig(**SHAPE, softcap=2.0, scale=0.9), lambda r, i, j: j <= i),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_attention(case: str) -> None:
    config, sees = CASES[case]
    layer, x = filled(Attention(config, DIM)), random(2, 7, DIM)
    close(layer(x, Context.full(2, 7)), slow_attention(layer, x, sees))
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 2, 2]])
    packed = slow_attention(layer, x, lambda r, i, j: sees(r, i, j) and segments[r, i] == segments[r, j])
    close(layer(x, Context.packed(segments)), packed)


def test_the_training_form_is_the_same_function() -> None:
    """With gradients, short rows take another way through the CPU: same outputs."""
    for config, _ in CASES.values():
        layer, x = filled(Attention(config, DIM)), random(2, 7, DIM)
        with torch.no_grad():
            expected = layer(x, Context.full(2, 7))
        close(layer(x, Context.full(2, 7)).detach(), expected)


@torch.no_grad()
def test_prefix_attention() -> None:
    layer, x, ctx = filled(Attention(AttentionConfig(**SHAPE), DIM)), random(2, 6, DIM), Context.full(2, 6)
    ctx.prefix = torch.tensor([3, 0])
    close(layer(x, ctx), slow_attention(layer, x, lambda r, i, j: j <= i or j < (3, 0)[r]))


@torch.no_grad()
@pytest.mark.parametrize("heads", [4, 6])
def test_alibi(heads: int) -> None:
    config = AttentionConfig(n_heads=heads, n_kv_heads=heads, head_dim=2, alibi=True)
    slopes = [2 ** (-8 * (i + 1) / 4) for i in range(4)] + [2 ** (-8 * (i + 1) / 8) for i in (0, 2)][: heads - 4]
    assert alibi_slopes(heads) == pytest.approx(slopes)
    layer, x = filled(Attention(config, DIM)), random(1, 6, DIM)
    close(
        layer(x, Context.full(1, 6)),
        slow_attention(layer, x, lambda r, i, j: j <= i, lambda h, i, j: slopes[h] * (j - i)),
    )


@torch.no_grad()
def test_cross_attention_sees_its_own_source() -> None:
    layer, x, source = filled(CrossAttention(AttentionConfig(**SHAPE), DIM)), random(2, 5, DIM), random(2, 8, DIM) + 1
    ctx = Context.full(2, 5)
    ctx.encoded = Encoded(source, torch.tensor([[0] * 8, [0] * 3 + [-1] * 5]))
    expected = slow_attention(layer, x, lambda r, i, j: j < (8, 3)[r], source=source)
    close(layer(x, ctx), expected)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_relative_bias_buckets(causal: bool) -> None:
    """T5's buckets, from the paper's description: exact up to a half, then logarithmic to max_distance."""
    table = RelativeBias(RelativeBiasConfig(buckets=8, max_distance=20), n_heads=3, causal=causal)
    table.weight.data = random(8, 3)
    index = torch.arange(30)
    bias = table.bias(index[:, None], index[None, :])[0]
    for i in range(30):
        for j in range(30):
            count, offset, distance = (8, 0, max(i - j, 0)) if causal else (4, 4 * (j > i), abs(i - j))
            bucket = distance
            if distance >= count // 2:
                ratio = math.log(distance / (count // 2)) / math.log(20 / (count // 2))
                bucket = min(count // 2 + int(ratio * (count - count // 2)), count - 1)
            assert torch.equal(bias[:, i, j], table.weight[offset + bucket]), (i, j)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rope_turns_pairs_by_position(interleaved: bool, fraction: float) -> None:
    config = RopeConfig(theta=100.0, fraction=fraction, interleaved=interleaved)
    x, ctx = random(1, 5, 2, 8), Context.full(1, 5)
    ours = rotate(x, *rope_tables(config, 8, ctx, torch.float64), interleaved)
    expected, width = x.clone(), int(8 * fraction)
    for position in range(5):
        for pair in range(width // 2):
            angle = position * 100.0 ** (-2 * pair / width)
            a, b = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + width // 2)
            old = x[0, position]
            expected[0, position, :, a] = old[:, a] * math.cos(angle) - old[:, b] * math.sin(angle)
            expected[0, position, :, b] = old[:, b] * math.cos(angle) + old[:, a] * math.sin(angle)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_yarn_amplitude() -> None:
    assert YarnScaling(factor=4.0, original=32).amplitude == pytest.approx(0.1 * math.log(4) + 1)
    assert YarnScaling(factor=0.5, original=32).amplitude == 1.0


def test_sinusoids() -> None:
    ours = sinusoids(torch.tensor([[0, 3]]), 6)
    for i in range(3):
        angle = 3 / 10000 ** (2 * i / 6)
        assert ours[0, 1, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert ours[0, 1, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


ACTIVATIONS = {
    "silu": lambda v: v / (1 + math.exp(-v)),
    "gelu": lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))),
    "gelu_tanh": lambda v: 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "relu": lambda v: max(v, 0.0),
    "relu2": lambda v: max(v, 0.0) ** 2,
}


def slow_gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, activation: str = "silu") -> Tensor:
    act = torch.tensor([ACTIVATIONS[activation](v) for v in (gate @ x).tolist()], dtype=torch.float64)
    return down @ (act * (up @ x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
@torch.no_grad()
def test_mlp(activation: str, gated: bool) -> None:
    layer = filled(MLP(MLPConfig(hidden=9, activation=activation, gated=gated, bias=not gated), DIM))
    x = random(1, 3, DIM)
    for i in range(3):
        token = x[0, i]
        if gated:
            expected = slow_gated(token, layer.gate.weight, layer.up.weight, layer.down.weight, activation)
        else:
            inner = (layer.up.weight @ token + layer.up.bias).tolist()
            act = torch.tensor([ACTIVATIONS[activation](v) for v in inner], dtype=torch.float64)
            expected = layer.down.weight @ act + layer.down.bias
        close(layer(x, Context.full(1, 3))[0, i], expected)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norm(kind: str) -> None:
    layer = filled(Norm(DIM, NormConfig(kind=kind, bias=kind == "layer", eps=1e-3, unit_offset=kind == "rms")))
    x = random(2, DIM)
    for row in range(2):
        values = x[row] - x[row].mean() if kind == "layer" else x[row]
        scale = layer.weight + 1 if kind == "rms" else layer.weight
        expected = values / math.sqrt((values**2).mean().item() + 1e-3) * scale
        expected = expected + layer.bias if kind == "layer" else expected
        close(layer(x)[row].detach(), expected.detach())


@pytest.mark.parametrize("norms", ["pre", "post", "sandwich", "after"])
@torch.no_grad()
def test_norm_places(norms: str) -> None:
    config = BlockConfig(mixer=AttentionConfig(**SHAPE), ffn=MLPConfig(hidden=8), norms=norms)
    block, x, ctx = filled(Block(config, DIM, NormConfig())), random(1, 4, DIM), Context.full(1, 4)

    def step(x: Tensor, f, before: nn.Module, after: nn.Module | None) -> Tensor:
        return {
            "pre": lambda: x + f(before(x)),
            "post": lambda: x + before(f(x)),
            "sandwich": lambda: x + after(f(before(x))),
            "after": lambda: before(x + f(x)),
        }[norms]()

    mixed = step(x, lambda v: block.mixer(v, ctx), block.mixer_norm, block.mixer_post_norm)
    close(block(x, ctx), step(mixed, lambda v: block.ffn(v, ctx), block.ffn_norm, block.ffn_post_norm))


MOES = {
    "softmax": MoEConfig(n_experts=5, top_k=2, hidden=6),
    "normalized": MoEConfig(n_experts=5, top_k=2, hidden=6, normalize=True, scale=1.7),
    "shared": MoEConfig(n_experts=4, top_k=1, hidden=6, shared_hidden=7),
    "sigmoid with bias": MoEConfig(n_experts=6, top_k=2, hidden=6, scores="sigmoid", correction_bias=True),
    "groups": MoEConfig(n_experts=6, top_k=2, hidden=6, n_groups=3, top_groups=2),
}


@pytest.mark.parametrize("case", MOES)
@torch.no_grad()
def test_moe(case: str) -> None:
    config = MOES[case]
    layer, x = filled(MoE(config, DIM)).eval(), random(2, 4, DIM)
    out = layer(x, Context.full(2, 4)).flatten(0, 1)
    for i, token in enumerate(x.flatten(0, 1)):
        logits = (layer.router.weight.float() @ token.float()).double()
        scores = logits.softmax(0) if config.scores == "softmax" else logits.sigmoid()
        ranked = (scores + (layer.correction_bias if config.correction_bias else 0)).tolist()
        allowed = range(config.n_experts)
        if config.n_groups:
            groups = [list(allowed)[g * 2 : g * 2 + 2] for g in range(config.n_groups)]
            groups = sorted(groups, key=lambda group: -max(ranked[e] for e in group))[: config.top_groups]
            allowed = [e for group in groups for e in group]
        chosen = sorted(allowed, key=lambda e: -ranked[e])[: config.top_k]
        total = scores[chosen].sum() if config.normalize else 1.0
        expected = torch.zeros(DIM, dtype=torch.float64)
        for e in chosen:
            expert = slow_gated(token, layer.experts.gate[e], layer.experts.up[e], layer.experts.down[e])
            expected += config.scale * scores[e] / total * expert
        if config.shared_hidden:
            expected += slow_gated(token, layer.shared.gate.weight, layer.shared.up.weight, layer.shared.down.weight)
        torch.testing.assert_close(out[i], expected, atol=1e-5, rtol=1e-5)


def test_moe_learns_in_whole_tiles() -> None:
    """Training rounds the experts' loads up: neither answers nor gradients may change, nor for an idle expert."""
    layer, x = filled(MoE(MOES["softmax"], DIM)).train(), (random(10, 9, DIM) + 1).requires_grad_()
    with torch.no_grad():
        layer.router.weight[0], layer.router.weight[1] = 1.0, -1.0  # all choose the first, none the second
    out = layer(x, Context.full(10, 9))
    tokens, experts = x.flatten(0, 1), layer.experts
    weights, chosen = (F.linear(tokens, layer.router.weight)).softmax(-1).topk(2)
    loads = torch.bincount(chosen.flatten(), minlength=5)
    assert loads.max() > 64 and loads.min() == 0, loads
    expected = torch.zeros_like(tokens)
    for e in range(5):
        hidden = F.silu(F.linear(tokens, experts.gate[e])) * F.linear(tokens, experts.up[e])
        share = (weights * (chosen == e)).sum(-1, keepdim=True)
        expected = expected + share * F.linear(hidden, experts.down[e])
    torch.testing.assert_close(out.flatten(0, 1), expected, atol=1e-5, rtol=1e-5)
    wanted = [x, *experts.parameters(), layer.router.weight]
    ours, theirs = (torch.autograd.grad(y.square().sum(), wanted) for y in (out, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_routing_losses_capacity_and_statistics() -> None:
    config = MoEConfig(n_experts=4, top_k=1, hidden=6, balance_weight=0.5, z_weight=0.1, capacity_factor=1.0)
    layer, x, ctx = filled(MoE(config, DIM)).train(), random(1, 8, DIM), Context.full(1, 8)
    out = layer(x, ctx)
    logits = (x[0].float() @ layer.router.weight.float().T).double()
    chosen, probabilities = logits.argmax(-1), logits.softmax(-1)
    share = torch.bincount(chosen, minlength=4) / 8
    balance = 4 * (share * probabilities.mean(0)).sum()
    z = (logits.logsumexp(-1) ** 2).mean()
    assert auxiliary_loss(ctx).item() == pytest.approx((0.5 * balance + 0.1 * z).item(), rel=1e-5)
    seen: dict[int, int] = {}
    for i, expert in enumerate(chosen.tolist()):  # capacity 1.0 * 8 / 4 = 2 tokens, in order
        seen[expert] = seen.get(expert, 0) + 1
        assert (out[0, i].abs().sum() == 0).item() == (seen[expert] > 2)
    dropped = sum(max(count - 2, 0) for count in seen.values())
    assert statistics(ctx)["dropped"] == pytest.approx(dropped / 8)
    assert statistics(ctx)["imbalance"] == pytest.approx(max(seen.values()) / 2)
    auxiliary_loss(ctx).backward()
    assert layer.router.weight.grad.abs().sum() > 0


def test_padding_is_not_routed_in_the_statistics() -> None:
    layer = filled(MoE(MoEConfig(n_experts=4, top_k=2, hidden=6), DIM))
    ctx = Context.packed(torch.tensor([[0, 0, 0, -1, -1]]))
    layer(random(1, 5, DIM), ctx)
    assert ctx.routing[0].counts.sum() == 6


def test_correction_bias_moves_towards_idle_experts() -> None:
    config = MoEConfig(n_experts=4, top_k=1, hidden=6, scores="sigmoid", correction_bias=True)
    layer, ctx = filled(MoE(config, DIM)), Context.full(1, 8)
    before = layer.correction_bias.clone()
    layer(random(1, 8, DIM), ctx)
    update_correction_biases(layer, ctx, rate=0.01)
    counts = ctx.routing[0].counts
    assert torch.allclose(layer.correction_bias - before, 0.01 * torch.sign(counts.mean() - counts).double())


def test_configs_round_trip_through_json() -> None:
    """Discriminated unions: a part read back is the part that was written."""
    blocks = (BlockConfig(mixer=AttentionConfig(**SHAPE, rope=RopeConfig()), ffn=MOES["groups"], norms="sandwich"),)
    config = ModelConfig(
        family="foundling", vocab_size=8, dim=DIM, blocks=blocks, embedding=EmbeddingConfig(positions="learned")
    )
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
