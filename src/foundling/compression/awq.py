"""AWQ: make the inputs that matter most easier to round (Lin et al. 2023, arXiv:2306.00978).

Input channel c of some layers is divided by s_c in the operation before them, and their weights multiplied by it: the
model is the same, but a larger weight loses less to rounding. s = (mean |x|)^α, with the α of twenty whose layers'
outputs change least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from foundling.compression.calibration import Moments
from foundling.compression.second_order import output_error
from foundling.core.errors import FoundlingError
from foundling.models.config import AttentionConfig, MLPConfig
from foundling.models.layers.block import Block
from foundling.models.layers.norm import Norm
from foundling.models.quantized import Scheme, dequantize
from foundling.models.rounding import round_to_nearest

GRID = 20


@dataclass(frozen=True)
class Group:
    """Layers that share their inputs, and what makes these inputs: a norm, or a layer whose outputs they are."""

    before: nn.Module
    layers: tuple[str, ...]
    repeat: int = 1  # heads that read the same value head
    width: int = 0  # of a head


def scale_block(block: Block, moments: dict[str, Moments], scheme: Scheme) -> None:
    """Move scales between the parts of a block, in place, and rescale its `moments` with them.

    Raises:
        FoundlingError: a block in which nothing before a layer can take the scale.
    """
    for group in _groups(block):
        layers = [cast(nn.Linear, block.get_submodule(name)) for name in group.layers]
        weights = [layer.weight.detach() for layer in layers]
        moment = moments[group.layers[0]]
        scales = _shared(best_scales(weights, moment, scheme), group)
        for layer in layers:
            layer.weight.data = layer.weight * scales
        _divide(group, scales)
        for name in group.layers:
            moments[name] = moment.divided(scales)


def best_scales(weights: Sequence[Tensor], moment: Moments, scheme: Scheme) -> Tensor:
    """(in,) the scales with which rounding the `weights` (each (out, in)) to nearest changes their outputs least."""
    size = moment.mean_abs.clamp_min(1e-4)
    best, least = torch.ones_like(size), torch.inf
    for step in range(GRID):
        scales = size.pow(step / GRID).clamp_min(1e-4)
        scales = scales / (scales.max() * scales.min()).sqrt()
        error = sum(_rounding_error(weight, scales, moment.gram, scheme) for weight in weights)
        if error < least:
            best, least = scales, error
    return best


def _rounding_error(weight: Tensor, scales: Tensor, gram: Tensor, scheme: Scheme) -> float:
    codes, steps, zeros = round_to_nearest(weight.float() * scales, scheme)
    return output_error(dequantize(codes, steps.float(), zeros) / scales - weight.float(), gram)


def _groups(block: Block) -> list[Group]:
    attention, mlp = block.config.mixer, block.config.ffn
    plain = block.config.norms == "pre" and not block.config.parallel and block.config.mixer_norm
    if not plain or not isinstance(attention, AttentionConfig) or not isinstance(mlp, MLPConfig) or block.cross:
        raise FoundlingError(
            "AWQ does not know this kind of block",
            "it needs attention and a plain feed-forward, each after a norm of its own",
            "Use method 'gptq'",
        )
    value, up = block.get_submodule("mixer.v_proj"), block.get_submodule("ffn.up")
    assert isinstance(block.mixer_norm, Norm) and isinstance(block.ffn_norm, Norm)
    first = ("ffn.gate", "ffn.up") if mlp.gated else ("ffn.up",)
    groups = [
        Group(block.mixer_norm, ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj")),
        Group(value, ("mixer.o_proj",), attention.n_heads // attention.n_kv_heads, attention.head_dim),
        Group(block.ffn_norm, first),
    ]
    # Without a gate an activation stands between up and down, through which only relu would pass a scale.
    return [*groups, Group(up, ("ffn.down",))] if mlp.gated else groups


def _shared(scales: Tensor, group: Group) -> Tensor:
    """Scales that are the same for all heads that read one value head."""
    if group.repeat == 1:
        return scales
    heads = scales.view(-1, group.repeat, group.width)
    return heads.log().mean(1, keepdim=True).exp().expand_as(heads).flatten()


def _divide(group: Group, scales: Tensor) -> None:
    before = group.before
    if isinstance(before, Norm):
        offset = 1.0 if before.config.unit_offset else 0.0
        before.weight.data = (before.weight + offset) / scales - offset
        if before.bias is not None:
            before.bias.data = before.bias / scales
        return
    assert isinstance(before, nn.Linear)
    own = scales.view(-1, group.repeat, group.width)[:, 0].flatten() if group.repeat > 1 else scales
    before.weight.data = before.weight / own.unsqueeze(1)
    if before.bias is not None:
        before.bias.data = before.bias / own
