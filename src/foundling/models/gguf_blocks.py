"""GGUF's quantized blocks as numbers: the common kinds in torch, which is fast, the rest by the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from torch import Tensor

Kind = gguf.GGMLQuantizationType
PLAIN = {Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
BLOCK = 32


def dequantize(data: Tensor, kind: Kind, shape: tuple[int, ...]) -> Tensor:
    """Stored bytes (uint8, one dimension) -> numbers of a shape: plain kinds in their dtype, the others float32.

    Raises:
        NotImplementedError: for a kind that cannot be read.
    """
    if kind in PLAIN:
        return data.view(PLAIN[kind]).view(shape)
    if kind in (Kind.Q8_0, Kind.Q4_0, Kind.Q4_1):
        return _simple(data, kind).view(shape)
    rows = data.numpy().reshape(int(np.prod(shape[:-1])), -1)
    return torch.from_numpy(np.array(gguf.dequantize(rows, kind), dtype=np.float32)).view(shape)


def _simple(data: Tensor, kind: Kind) -> Tensor:
    """Blocks of 32 with a float16 scale: codes of 8 bits, or of 4 with the first half in the low nibbles."""
    blocks = data.view(-1, gguf.GGML_QUANT_SIZES[kind][1])
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    if kind == Kind.Q8_0:
        return blocks[:, 2:].view(torch.int8).float() * scale
    start = 2 if kind == Kind.Q4_0 else 4
    codes = torch.cat((blocks[:, start:] & 15, blocks[:, start:] >> 4), dim=1).float()
    if kind == Kind.Q4_0:
        return (codes - 8) * scale
    return codes * scale + blocks[:, 2:4].contiguous().view(torch.float16).float()


def encode(codes: Tensor, scales: Tensor, zeros: Tensor | None, kind: Kind) -> Tensor:
    """Blocks (rows, bytes) uint8 of chosen signed codes (rows, columns), scales and zero points (rows, columns / 32).

    Q8_0 and Q4_0 store codes and scale; Q4_1 stores codes from 0, scale, and the value of code 0.
    """
    count = (codes.shape[0], codes.shape[1] // BLOCK)
    head = scales.to(torch.float16).reshape(-1, 1).view(torch.uint8)  # (blocks, 2)
    grouped = codes.reshape(-1, BLOCK)
    if kind == Kind.Q8_0:
        return torch.cat((head, grouped.view(torch.uint8)), dim=1).reshape(count[0], -1)
    unsigned = (grouped + 8).to(torch.uint8)
    nibbles = unsigned[:, : BLOCK // 2] | unsigned[:, BLOCK // 2 :] << 4
    if kind == Kind.Q4_1:
        assert zeros is not None
        least = -(zeros.float() + 8) * scales.float()
        head = torch.cat((head, least.to(torch.float16).reshape(-1, 1).view(torch.uint8)), dim=1)
    return torch.cat((head, nibbles), dim=1).reshape(count[0], -1)


def to_q6_k(weight: Tensor) -> Tensor:
    """Blocks (rows, bytes) uint8 of numbers (rows, columns): codes of 6 bits in groups of 16, whose scales of 8 bits
    share a float16 for each 256. The `gguf` package cannot write it; llama.cpp keeps embeddings in it."""
    grouped = weight.float().reshape(-1, 16, 16)  # (blocks, groups, weights)
    extreme = grouped.gather(2, grouped.abs().argmax(2, keepdim=True)).squeeze(2)
    scales = extreme / -32  # the codes reach from -32 to 31
    unit = (scales.abs().amax(1, keepdim=True) / 127).clamp_min(1e-8).to(torch.float16)
    steps = (scales / unit.float()).round().clamp(-128, 127)
    sizes = (steps * unit.float()).unsqueeze(2)
    codes = (grouped / sizes.where(sizes != 0, 1.0)).round().clamp(-32, 31).to(torch.int16) + 32
    quarters = codes.to(torch.uint8).view(-1, 2, 4, 32)  # each half of a block: four runs of 32
    low, high = quarters & 15, quarters >> 4
    nibbles = torch.cat((low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4), dim=2)
    twos = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    tail = (steps.to(torch.int8).view(torch.uint8), unit.view(torch.uint8))
    return torch.cat((nibbles.flatten(1), twos.flatten(1), *tail), dim=1).reshape(weight.shape[0], -1)
