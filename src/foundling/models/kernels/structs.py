"""The C structures of `matmul.h`, `attention.h` and `decoder.c`, and the library that they go to."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

from torch import Tensor

from foundling.models.layers.recurrent_native import library

# Without -ffast-math: a NaN must stay one, and rounding by a large addend must not be optimised away.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-std=gnu11", "-shared", "-fPIC")
SOURCES = ("vector.h", "threads.h", "amx.h", "matmul.h", "tiles.h", "attention.h", "tile_attention.h", "decoder.c")
F32, BF16, INT8, INT4 = range(4)


class Matrix(Structure):
    """A weight matrix: dense where it lies, or packed integers."""

    _fields_ = [
        ("kind", c_int32), ("group", c_int32), ("scale_bf16", c_int32), ("unused", c_int32),
        ("n", c_int64), ("k", c_int64), ("data", c_void_p), ("bias", c_void_p),
    ]  # fmt: skip


class Inputs(Structure):
    """Work space for a product's inputs."""

    _fields_ = [
        ("values", c_void_p), ("codes", c_void_p), ("scales", c_void_p), ("zeros", c_void_p),
        ("k", c_int64), ("group", c_int32), ("kind", c_int32), ("pairs", c_void_p),
    ]  # fmt: skip


class Cache(Structure):
    """A layer's paged keys and values."""

    _fields_ = [("keys", c_void_p), ("values", c_void_p), ("bf16", c_int32)]


class Shape(Structure):
    """Heads of an attention layer."""

    _fields_ = [
        ("heads", c_int32), ("kv_heads", c_int32), ("head_dim", c_int32), ("block_size", c_int32), ("window", c_int32),
        ("scale", c_float),
    ]  # fmt: skip


class Layer(Structure):
    """One block."""

    _fields_ = [
        *((name, Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, c_void_p) for name in ("mixer_norm", "ffn_norm", "q_norm", "k_norm")),
        *((name, c_float) for name in ("mixer_eps", "ffn_eps", "qk_eps")),
        ("rope", c_int32), ("shape", Shape), ("cache", Cache),
    ]  # fmt: skip


class Pass(Structure):
    """One forward pass."""

    _fields_ = [
        ("layers", POINTER(Layer)), ("n_layers", c_int64), ("dim", c_int64), ("norm", c_void_p), ("eps", c_float),
        *((name, c_int64) for name in ("tokens", "max_blocks", "longest")),
        *((name, c_void_p) for name in ("x", "rows", "positions", "slots", "table", "rope")),
        *((name, Inputs) for name in ("wide", "mid", "inner")),
        ("qkv", c_void_p), ("gated", c_void_p), ("ld_qkv", c_int64), ("ld_gated", c_int64),
        ("scores", c_void_p), ("keys", c_void_p), ("thread_scores", c_int64), ("thread_keys", c_int64),
        ("runs", c_void_p), ("n_runs", c_int64), ("in_tiles", c_int32),
    ]  # fmt: skip


@cache
def compiled() -> ctypes.CDLL | None:
    """The kernels, compiled for this machine, or None where that cannot be done."""
    source = "\n".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in SOURCES)
    built = library(source, (*FLAGS, "-fopenmp")) or library(source, FLAGS)
    if built is not None:
        built.decoder_pass.argtypes = [POINTER(Pass), ctypes.c_int]
        built.decoder_pass.restype = None
        built.linear.argtypes = [POINTER(Matrix), POINTER(Inputs), c_int64, c_void_p, c_int64, ctypes.c_int]
        built.linear.restype = None
    return built


@cache
def tiles() -> bool:
    """Whether this CPU has tiles for bfloat16 products and the system lets us use them."""
    library = compiled()
    return library is not None and bool(library.tiles_allowed())


def address(x: Tensor | None) -> int | None:
    """Where a contiguous tensor's data lies; None stays None (NULL)."""
    assert x is None or x.is_contiguous()
    return None if x is None else x.data_ptr()
