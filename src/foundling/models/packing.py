"""Integer codes of 4 or 8 bits in int32 words, as the `pack-quantized` format of compressed-tensors lays them out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pack(codes: Tensor, bits: int) -> Tensor:
    """Signed codes (rows, columns) int8 -> (rows, ceil(columns * bits / 32)) int32.

    Codes are stored plus 2^(bits-1), so unsigned; the first code takes the lowest bits of its word.
    """
    per_word = 32 // bits
    unsigned = codes.to(torch.int32) + (1 << (bits - 1))
    unsigned = F.pad(unsigned, (0, -codes.shape[1] % per_word)).unflatten(1, (-1, per_word))
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=codes.device)
    return (unsigned << shifts).sum(dim=2, dtype=torch.int32)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack`: (rows, words) int32 -> (rows, columns) int8."""
    stored = packed.contiguous().view(torch.uint8)  # little-endian bytes: for 8 bits, the codes themselves
    if bits == 4:
        stored = torch.stack((stored & 15, stored >> 4), dim=-1).flatten(1)
    return (stored[:, :columns].to(torch.int16) - (1 << (bits - 1))).to(torch.int8)
