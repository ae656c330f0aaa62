"""The native kernels of a training step beside torch's operators: forward and backward in bfloat16, ms and error.

    python benchmarks/training_kernels.py [--rounds 9]

Contenders run in turn in the same process; medians. The error is the largest relative one of the result and its
gradients, ||x - exact|| / ||exact||, against the same function in float64. The last column is the best other way's time
over ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.core import hardware
from foundling.models.context import Context
from foundling.models.kernels import fused, muon
from foundling.models.layers.rope import rope_tables
from foundling.models.layers.rope_config import RopeConfig
from foundling.models.layers.short_attention import short_attention
from foundling.training.loss import softmax_and_log_z
from foundling.training.optimizers.muon import Muon

Kernel = Callable[..., Tensor]
ATTENTION = {  # rows, tokens, heads, key heads, width of a head
    "16 x 256, 4 heads of 32": (16, 256, 4, 4, 32),
    "16 x 256, 6 heads of 64": (16, 256, 6, 6, 64),
    "4 x 1024, 8 of 64, 2 for keys": (4, 1024, 8, 2, 64),
    "1 x 4096, 8 of 64, 2 for keys": (1, 4096, 8, 2, 64),
}


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def attention_ways(shape: tuple[int, int, int, int, int]) -> tuple[dict[str, Kernel], list[Tensor]]:
    rows, tokens, heads, kv_heads, width = shape
    inputs = [torch.randn(rows, tokens, n, width) for n in (heads, kv_heads, kv_heads)]
    ways: dict[str, Kernel] = {"ours": fused.attention, "exact": sdpa, "torch, fused": sdpa}
    if tokens <= 1024:
        ctx = Context.full(rows, tokens)
        ways["torch, batched products"] = lambda q, k, v: short_attention(q, k, v, None, ctx)
    return ways, inputs


def rotation() -> tuple[dict[str, Kernel], list[Tensor]]:
    ctx = Context.full(16, 256)

    def plain(x: Tensor) -> Tensor:
        cos, sin = rope_tables(RopeConfig(), 64, ctx, x.dtype)
        return torch.addcmul(x * cos, x.roll(32, -1), sin)

    ways: dict[str, Kernel] = {"ours": lambda x: fused.turn_heads(x, *rope_tables(RopeConfig(), 64, ctx, x.dtype))}
    return ways | {"exact": plain, "torch": plain}, [torch.randn(16, 256, 6, 64)]


def cross_entropy_ways() -> tuple[dict[str, Kernel], list[Tensor]]:
    targets, weights = torch.randint(4096, (4096,)), torch.ones(4096)

    @torch.no_grad()
    def composed(logits: Tensor) -> Tensor:
        probabilities, log_z = softmax_and_log_z(logits)
        probabilities.scatter_add_(-1, targets[:, None], torch.full_like(log_z, -1.0))
        return probabilities.to(logits.dtype)

    def exact(logits: Tensor) -> Tensor:
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(leaf, targets, reduction="sum"), leaf)[0]

    ways: dict[str, Kernel] = {"ours": lambda logits: fused.cross_entropy(logits, targets, weights, 0.0)[1]}
    return ways | {"exact": exact, "torch, composed": composed, "torch's own": exact}, [torch.randn(4096, 4096)]


def muon_ways() -> dict[str, Kernel]:
    """Muon's first step on float32 weights, with these gradients (matrices, rows, cols)."""

    def step(gradient: Tensor) -> Tensor:
        gradient = gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))
        weights = nn.Parameter(torch.zeros_like(gradient))
        weights.grad = gradient
        Muon([weights], dtype=torch.float64 if gradient.dtype == torch.float64 else torch.bfloat16).step()
        return weights.detach()

    def composed(gradient: Tensor) -> Tensor:
        with patch.object(muon, "suits", lambda *_: False):
            return step(gradient)

    return {"ours": step, "exact": step, "torch": composed}


def cases() -> dict[str, tuple[dict[str, Kernel], list[Tensor]]]:
    found = {f"attention, {name}": attention_ways(shape) for name, shape in ATTENTION.items()}
    norm: Kernel = lambda x, w: F.rms_norm(x, w.shape, w, 1e-6)  # noqa: E731
    gate: Kernel = lambda gate, up: F.silu(gate) * up  # noqa: E731
    ours: Kernel = lambda x, w: fused.rms_norm(x, w, 1e-6)  # noqa: E731
    found["RMSNorm, 4096 x 384"] = (
        {"ours": ours, "exact": norm, "torch": norm},
        [torch.randn(4096, 384), torch.ones(384)],
    )
    found["rotation, 6 heads of 64"] = rotation()
    wide = [torch.randn(4096, 1024), torch.randn(4096, 1024)]
    found["silu(gate) up, 4096 x 1024"] = {"ours": fused.silu_gate, "exact": gate, "torch": gate}, wide
    found["cross entropy, 4096 x 4096"] = cross_entropy_ways()
    found["Muon's step, 24 of 384 x 384"] = muon_ways(), [torch.randn(24, 384, 384)]
    found["Muon's step, 18 of 384 x 1024"] = muon_ways(), [torch.randn(18, 384, 1024)]
    return found


def run(way: Kernel, inputs: list[Tensor], grad: Tensor | None) -> tuple[list[Tensor], float]:
    """The result and the inputs' gradients, and the seconds that took."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    start = time.perf_counter()
    out = way(*leaves)
    results: list[Any] = [out.detach()]
    if out.requires_grad:
        results += torch.autograd.grad(out, leaves, out if grad is None else grad.to(out.dtype))
    return results, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"{hardware.describe()}; {torch.get_num_threads()} threads; tiles: {'yes' if fused.tiles() else 'no'}\n")
    print("| kernel | way | ms | error | other / ours |\n|---|---|---|---|---|")
    torch.manual_seed(0)
    for name, (ways, inputs) in cases().items():
        if name.startswith("attention") and not fused.tiles():
            continue
        halves = [x.bfloat16() for x in inputs]
        grad = torch.randn_like(run(ways["ours"], halves, None)[0][0])
        exact, _ = run(ways.pop("exact"), [x.double() for x in halves], grad)
        times: dict[str, list[float]] = {way: [] for way in ways}
        errors = {}
        for _ in range(rounds):
            for way, kernel in ways.items():
                results, seconds = run(kernel, halves, grad)
                times[way].append(seconds)
                errors[way] = max(float((a - b).norm() / b.norm()) for a, b in zip(results, exact, strict=True))
        medians = {way: statistics.median(taken) for way, taken in times.items()}
        best = min(taken for way, taken in medians.items() if way != "ours")
        for way, taken in medians.items():
            ratio = f"{best / taken:.1f}" if way == "ours" else ""
            print(f"| {name} | {way} | {taken * 1e3:.2f} | {errors[way]:.4f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
