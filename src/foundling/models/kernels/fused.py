"""Parts of a training step as native kernels on a CPU: passes over memory (`training.c`) and attention in tiles.

torch makes of each several operators, and in bfloat16 rounds between them. `suits` says whether tensors can go this
way; where they cannot (a GPU, a compiled graph, odd sizes, no C compiler) the callers use torch's operators.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from foundling.models.kernels.structs import FLAGS, address
from foundling.models.layers.recurrent_native import library

LANES = 16
CHUNK = 32  # of training_attention.c
LONGEST = 4096  # rows of attention: its work space grows with them
DTYPES = (torch.float32, torch.bfloat16)
KERNELS: dict[str, tuple[Any, ...]] = {  # how many addresses each takes, and its sizes
    "rms_norm_rows": (3, c_int64, c_int64, c_float, c_int),
    "rms_norm_gradient": (5, c_int64, c_int64, c_float, c_int, c_int),
    "turn_heads": (4, c_int64, c_int64, c_int64, c_float, c_int, c_int),
    "silu_gate": (3, c_int64, c_int, c_int),
    "silu_gate_gradient": (5, c_int64, c_int, c_int),
    "cross_entropy": (6, c_int64, c_int64, c_float, c_int, c_int),
    "muon_momentum": (4, c_int64, c_int64, c_float, c_int),
    "muon_apply": (2, c_int64, c_int64, c_float, c_float, c_int),
    "muon_orthogonal": (4, c_int64, c_int64, c_int64, c_int64, c_int, c_int),
}


@cache
def compiled() -> ctypes.CDLL | None:
    """The kernels, compiled for this machine, or None where that cannot be done."""
    names = ("vector.h", "amx.h", "pointwise.c", "training.c", "training_attention.c", "muon.c")
    source = "\n".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in names)
    built = library(source, (*FLAGS, "-fopenmp")) or library(source, FLAGS)
    if built is not None:
        for name, (pointers, *sizes) in KERNELS.items():
            function = getattr(built, name, None)  # those in tiles are only where there are some
            if function is not None:
                function.argtypes, function.restype = [*repeat(c_void_p, pointers), *sizes], None
    return built


@cache
def tiles() -> bool:
    """Whether this CPU has tiles for bfloat16 products, and the system lets us use them."""
    library = compiled()
    if library is None or not library.tiles_allowed():
        return False
    library.attention_work.argtypes, library.attention_work.restype = [c_int64, c_int64], c_int64
    for function in (library.attention_forward, library.attention_backward):
        function.argtypes, function.restype = [POINTER(_Attention), c_int], None
    return True


def suits(*tensors: Tensor) -> bool:
    """Whether a pass over these tensors, which are of one kind, can be native."""
    first = tensors[0]
    return (
        first.device.type == "cpu"
        and first.dtype in DTYPES
        and first.numel() > 0
        and not torch.compiler.is_compiling()
        and all(type(x) in (Tensor, nn.Parameter) and x.dtype == first.dtype and x.is_contiguous() for x in tensors)
        and compiled() is not None
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., dim) / rms(x) * weight (dim,); dim is a multiple of 16."""
    out: Tensor = _RMSNorm.apply(x, weight, eps)
    return out


def turn_heads(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """`rope.rotate` of x (rows, time, heads, d) by tables (rows, time, 1, d); d is a multiple of 32."""
    out: Tensor = _TurnHeads.apply(x, cos, signed_sin)
    return out


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of one shape; a multiple of 16 numbers."""
    out: Tensor = _SiluGate.apply(gate, up)
    return out


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Σ weight · (log Z − logit of the target + z_loss · log² Z), float32, and its gradient in the logits' dtype.

    Args:
        logits: (n, vocab).
        targets: (n,) int64.
        weights: (n,).

    Raises:
        IndexError: a target that the vocabulary does not have.
    """
    rows, vocab = logits.shape
    assert targets.shape == weights.shape == (rows,)
    low, high = (int(edge) for edge in targets.aminmax())
    if low < 0 or high >= vocab:
        raise IndexError(f"target {low if low < 0 else high} is outside the vocabulary of {vocab} tokens")
    threads = torch.get_num_threads()
    gradient, losses, exps = torch.empty_like(logits), _floats(rows), _floats(threads, vocab + -vocab % LANES)
    call(
        "cross_entropy",
        (logits, targets.long().contiguous(), weights.float().contiguous(), gradient, losses, exps),
        rows,
        vocab,
        z_loss,
        _half(logits),
        threads,
    )
    return losses.sum(), gradient


def suits_attention(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether attention of q (rows, time, heads, d) to k and v (rows, time, kv_heads, d) can be native."""
    whole = q.shape[1] % CHUNK == 0 and q.shape[3] % CHUNK == 0 and q.shape[1] <= LONGEST and v.shape == k.shape
    return whole and q.shape[1] == k.shape[1] and q.dtype == torch.bfloat16 and suits(q, k, v) and tiles()


def attention(q: Tensor, k: Tensor, v: Tensor, first: Tensor | None = None, end: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d) v of the keys [first, end) of each query: see `suits_attention`; returns q's shape.

    Args:
        first: (rows or 1, time) int32; None: 0.
        end: (rows or 1, time) int32, after `first`; None: up to the query itself, which is causal.
    """
    first, end = (None if x is None else x.expand(q.shape[:2]).contiguous() for x in (first, end))
    out: Tensor = _RangeAttention.apply(q, k, v, first, end)
    return out


class _Attention(ctypes.Structure):
    """The struct of this name in training_attention.c."""

    _fields_ = [
        *((name, c_void_p) for name in ("q", "k", "v", "out", "g", "to", "g_q", "g_k", "g_v", "first", "end", "sums")),
        *((name, c_int64) for name in ("rows", "time", "heads", "kv_heads", "width")),
        ("scale", c_float),
        ("work", c_void_p),
        ("work_size", c_int64),
    ]


class _RangeAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, end: Tensor | None
    ) -> Tensor:
        rows, time, heads, _ = q.shape
        out, sums = torch.empty_like(q), _floats(rows, heads, time)
        _attend("attention_forward", q=q, k=k, v=v, first=first, end=end, to=out, sums=sums)
        ctx.save_for_backward(q, k, v, out, sums, first, end)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, sums, first, end = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        given = {"q": q, "k": k, "v": v, "out": out, "g": grad.contiguous(), "sums": sums}
        _attend("attention_backward", **given, first=first, end=end, g_q=grad_q, g_k=grad_k, g_v=grad_v)
        return grad_q, grad_k, grad_v, None, None


def _attend(name: str, *, q: Tensor, k: Tensor, **tensors: Tensor | None) -> None:
    library, threads = compiled(), torch.get_num_threads()
    assert library is not None
    rows, time, heads, width = q.shape
    need = library.attention_work(time, width)
    work = torch.empty(threads * need, dtype=torch.uint8, device="cpu")
    addresses = {field: address(x) for field, x in tensors.items()}
    call = _Attention(rows=rows, time=time, heads=heads, width=width, scale=width**-0.5, **addresses)
    call.q, call.k, call.kv_heads, call.work, call.work_size = address(q), address(k), k.shape[2], address(work), need
    getattr(library, name)(ctypes.byref(call), threads)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        scales, out = weight.float().contiguous(), torch.empty_like(x)
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        call("rms_norm_rows", (x, scales, out), x.numel() // x.shape[-1], x.shape[-1], eps, _half(x))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        threads, dim = torch.get_num_threads(), x.shape[-1]
        grad_x, sums = torch.empty_like(x), _floats(threads, dim).zero_()
        call(
            "rms_norm_gradient",
            (x, weight.float().contiguous(), grad.contiguous(), grad_x, sums),
            x.numel() // dim,
            dim,
            ctx.eps,
            _half(x),
            threads,
        )
        return grad_x, sums.sum(0).to(weight.dtype), None


class _TurnHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(cos, signed_sin)
        return _turned(x, cos, signed_sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, signed_sin = ctx.saved_tensors
        return _turned(grad.contiguous(), cos, signed_sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, signed_sin: Tensor, sign: float) -> Tensor:
    out = torch.empty_like(x)
    rows, time, heads, width = x.shape
    call("turn_heads", (x, cos, signed_sin, out), rows * time, heads, width, sign, _half(x), torch.get_num_threads())
    return out


class _SiluGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        call("silu_gate", (gate, up, out), gate.numel(), _half(gate), torch.get_num_threads())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        call(
            "silu_gate_gradient",
            (gate, up, grad.contiguous(), grad_gate, grad_up),
            gate.numel(),
            _half(gate),
            torch.get_num_threads(),
        )
        return grad_gate, grad_up


def call(name: str, tensors: tuple[Tensor, ...], *sizes: float) -> None:
    """Run the kernel of this name in `KERNELS`, which is known to be compiled."""
    getattr(compiled(), name)(*(x.data_ptr() for x in tensors), *sizes)


def _floats(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _half(x: Tensor) -> int:
    return int(x.dtype == torch.bfloat16)
