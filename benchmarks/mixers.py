"""Training speed of every mixer: forward and backward, beside transformers' own and a compiled time loop.

    python benchmarks/mixers.py                       # ours and transformers', a few seconds each
    python benchmarks/mixers.py --compiled --time 64  # also the loop over time under torch.compile (minutes to compile)

Each contender runs the same shape in the same process, in turn; medians. The last column is ours over the fastest
other, which must be at most 1.3.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.core import hardware
from foundling.models.build import build
from foundling.models.config import ModelConfig
from foundling.models.context import Context
from foundling.models.families.foundling_patterns import blocks_of
from foundling.models.layers.s4_space import DiagonalSpace

KINDS = ("attention", "mamba", "mamba2", "s4", "s4_dplr", "h3", "rwkv4", "rwkv7", "lstm", "gru")
PARTS = {"s4_dplr": {"kind": "s4", "structure": "dplr", "state": 32}}
LAYERS = "foundling.models.layers."
sys.path[:] = [path for path in sys.path if Path(path) != Path(__file__).parent]  # kernels.py here is not `kernels`


def scan_loop(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, **_: object) -> tuple[Tensor, Tensor]:
    decay, entered = torch.exp(dt[..., None] * a), (dt * x)[..., None] * b[:, :, None]
    state, out = torch.zeros_like(decay[:, 0]), []
    for kept, new, read in zip(decay.unbind(1), entered.unbind(1), c.unbind(1), strict=True):
        state = kept * state + new
        out.append((state * read[:, None]).sum(-1))
    return torch.stack(out, 1), state


def ssd_loop(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int, **_: object) -> tuple[Tensor, Tensor]:
    share = x.shape[2] // b.shape[2]
    b, c = b.repeat_interleave(share, 2), c.repeat_interleave(share, 2)
    decay, dtx = torch.exp(dt * a)[..., None, None], (x * dt[..., None])
    state, out = torch.zeros_like(b[:, 0, :, :, None] * dtx[:, 0, :, None]), []
    for kept, new, row, read in zip(decay.unbind(1), dtx.unbind(1), b.unbind(1), c.unbind(1), strict=True):
        state = kept * state + row[..., None] * new[:, :, None]
        out.append((state * read[..., None]).sum(2))
    return torch.stack(out, 1), state


def wkv_loop(k: Tensor, v: Tensor, w: Tensor, u: Tensor, **_: object) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    num = den = torch.zeros_like(k[:, 0])
    top, out = torch.full_like(num, -1e30), []
    for key, value in zip(k.unbind(1), v.unbind(1), strict=True):
        peak = torch.maximum(top, u + key)
        old, new = (top - peak).exp(), (u + key - peak).exp()
        out.append((old * num + new * value) / (old * den + new))
        peak = torch.maximum(top + w, key)
        old, new = (top + w - peak).exp(), (key - peak).exp()
        num, den, top = old * num + new * value, old * den + new, peak
    return torch.stack(out, 1), (num, den)


def delta_loop(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor, chunk: int, **_: object
) -> tuple[Tensor, Tensor]:
    state, out = torch.zeros_like(v[:, 0, :, :, None] * k[:, 0, :, None]), []
    for t in range(r.shape[1]):
        hit = (state * alpha[:, t, :, None]).sum(-1)
        state = state * log_w[:, t, :, None].exp() + hit[..., None] * beta[:, t, :, None]
        state = state + v[:, t, ..., None] * k[:, t, :, None]
        out.append((state * r[:, t, :, None]).sum(-1))
    return torch.stack(out, 1), state


def space_loop(space: DiagonalSpace, u: Tensor, ctx: Context, state: object) -> Tensor:
    """S4's diagonal state space step by step, in real numbers, which torch.compile can fuse."""
    dt, decay = space.log_dt.exp()[:, None], -space.log_decay.exp()
    size, angle = (dt * decay).exp(), dt * space.frequency
    real, imag = size * angle.cos(), size * angle.sin()  # of A-bar; B-bar is (A-bar - 1) / A
    norm = decay.square() + space.frequency.square()
    b_real = ((real - 1) * decay + imag * space.frequency) / norm
    b_imag = (imag * decay - (real - 1) * space.frequency) / norm
    x = y = torch.zeros_like(u[:, 0, :, :, None] * real[:, None])  # (rows, channels, width, pairs)
    a_real, a_imag, b_real, b_imag, c_real, c_imag = (
        part[:, None] for part in (real, imag, b_real, b_imag, space.C[..., 0], space.C[..., 1])
    )
    out = []
    for now in u.unbind(1):
        x, y = a_real * x - a_imag * y + b_real * now[..., None], a_real * y + a_imag * x + b_imag * now[..., None]
        out.append(2 * (c_real * x - c_imag * y).sum(-1))
    return torch.stack(out, 1)


class CellLoop(nn.Module):
    """LSTM or GRU written out."""

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.cell, self.gates = cell, cell.weight_hh_l0.shape[0] // cell.hidden_size

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        inside = F.linear(x, self.cell.weight_ih_l0, self.cell.bias_ih_l0)
        h = c = torch.zeros_like(inside[:, 0, : self.cell.hidden_size])
        out = []
        for gates in inside.unbind(1):
            across = F.linear(h, self.cell.weight_hh_l0, self.cell.bias_hh_l0)
            if self.gates == 4:
                i, f, g, o = (gates + across).chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                (xr, xz, xn), (hr, hz, hn) = gates.chunk(3, -1), across.chunk(3, -1)
                z = (xz + hz).sigmoid()
                h = (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * h
            out.append(h)
        return torch.stack(out, 1), None


LOOPS = {
    "mamba": ("mamba", "selective_scan", scan_loop),
    "mamba2": ("mamba2", "ssd", ssd_loop),
    "rwkv4": ("rwkv4", "wkv", wkv_loop),
    "rwkv7": ("rwkv7", "delta_rule", delta_loop),
    "s4": ("s4", "run_space", space_loop),
    "h3": ("h3", "run_space", space_loop),
}


@contextlib.contextmanager
def replaced(kind: str) -> Iterator[None]:
    """The mixer's core as a plain loop over time."""
    module_name, name, loop = LOOPS[kind]
    module = importlib.import_module(LAYERS + module_name)
    original = getattr(module, name)
    setattr(module, name, loop)
    try:
        yield
    finally:
        setattr(module, name, original)


def ours(kind: str, dim: int) -> nn.Module:
    blocks = blocks_of(kind, dim, PARTS)
    config = ModelConfig(family="foundling", vocab_size=8, dim=dim, blocks=blocks)
    return build(config, 0, zero_outputs=False).blocks[0].mixer


def theirs(kind: str, dim: int) -> Callable[[Tensor], Tensor] | None:
    """transformers' mixer of the same size, if it has one."""
    if kind == "attention":
        from transformers.models.llama.modeling_llama import LlamaAttention, LlamaConfig, LlamaRotaryEmbedding

        like = ours(kind, dim).config
        sizes = {"num_attention_heads": like.n_heads, "num_key_value_heads": like.n_kv_heads, "head_dim": like.head_dim}
        config = LlamaConfig(hidden_size=dim, attn_implementation="sdpa", **sizes)
        attention, rotary = LlamaAttention(config, 0).train(), LlamaRotaryEmbedding(config)
        return lambda x: attention(x, rotary(x, torch.arange(x.shape[1])[None]), None)[0]
    if kind == "mamba":
        from transformers.models.mamba.modeling_mamba import MambaConfig, MambaMixer

        return MambaMixer(MambaConfig(hidden_size=dim, num_hidden_layers=1), 0).train()
    if kind == "mamba2":
        from transformers.models.mamba2.modeling_mamba2 import Mamba2Config, Mamba2Mixer

        shape = {"num_heads": 2 * dim // 64, "head_dim": 64, "state_size": 64, "n_groups": 1}
        return Mamba2Mixer(Mamba2Config(hidden_size=dim, num_hidden_layers=1, **shape), 0).train()
    if kind == "rwkv4":
        from transformers.models.rwkv.modeling_rwkv import RwkvConfig, RwkvSelfAttention

        module = RwkvSelfAttention(RwkvConfig(hidden_size=dim, num_hidden_layers=1), 0).train()
        for part in module.parameters():
            nn.init.normal_(part, std=0.05)
        return lambda x: module(x)[0]
    return None


def naive(kind: str, dim: int) -> Callable[[Tensor, Context], Tensor] | None:
    module = ours(kind, dim)
    if kind in ("lstm", "gru"):
        module.cell = CellLoop(module.cell)
    elif kind not in LOOPS:
        return None  # attention is no loop; of s4_dplr, complex arithmetic, which torch.compile does not compile
    return torch.compile(module)


def timed(step: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    step().sum().backward()
    return 1000 * (time.perf_counter() - began)


def measure(kind: str, shape: tuple[int, int, int], repeats: int, compiled: bool) -> dict[str, float]:
    rows, length, dim = shape
    x = torch.randn(*shape, requires_grad=True)
    mixer, reference, loop = ours(kind, dim), theirs(kind, dim), naive(kind, dim) if compiled else None
    contenders = {"ours": lambda: mixer(x, Context.full(rows, length))}
    if reference is not None:
        contenders["transformers"] = lambda: reference(x)
    if loop is not None:
        contenders["compiled loop"] = lambda: loop(x, Context.full(rows, length))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 2):
        for name, step in contenders.items():
            with replaced(kind) if name == "compiled loop" and kind in LOOPS else contextlib.nullcontext():
                elapsed = timed(step)
            if turn > 1:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--time", type=int, default=256)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    rates = hardware.measure()
    print(
        f"{options.rows} x {options.time} tokens of width {options.dim}, {torch.get_num_threads()} threads, torch ",
        end="",
    )
    print(f"{torch.__version__}; forward + backward in ms, and the projections' share of the fp32 rate")
    for kind in options.kinds:
        shape = (options.rows, options.time, options.dim)
        found = measure(kind, shape, options.repeats, options.compiled)
        weights = sum(part.weight.numel() for part in ours(kind, options.dim).modules() if isinstance(part, nn.Linear))
        share = 6 * weights * options.rows * options.time / (found["ours"] / 1000) / rates.fp32
        others = [value for name, value in found.items() if name != "ours"]
        ratio = f"{found['ours'] / min(others):5.2f}x" if others else "no other"
        listed = "  ".join(f"{name} {value:8.2f}" for name, value in found.items())
        print(f"{kind:8} {listed}  ({share:4.0%})  {ratio}", flush=True)


if __name__ == "__main__":
    main()
