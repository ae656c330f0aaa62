"""Mixed precision: which layers are worth more bits, by what their rounding alone does to the predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from foundling.compression.calibration import ROWS, embedded
from foundling.compression.rounding import search_scales
from foundling.core import progress
from foundling.core.errors import FoundlingError
from foundling.core.units import human_bytes
from foundling.models.context import Context
from foundling.models.language_model import LanguageModel
from foundling.models.quantized import Scheme, dequantize


def sensitivities(module: LanguageModel, tokens: Tensor, names: Sequence[str], scheme: Scheme) -> dict[str, float]:
    """KL(original || with this one layer rounded), nats a token, of every layer.

    What comes before a layer's block is computed once. A few rows are enough to rank the layers.
    """
    found: dict[str, float] = {}
    tokens = tokens[:ROWS]
    with torch.no_grad(), progress.task("sensitivity", total=len(names), unit="layers") as bar:
        hidden, contexts = embedded(module, tokens)
        reference = [torch.log_softmax(module(batch).float(), -1) for batch in tokens.split(ROWS)]
        for number, block in enumerate(module.blocks):
            for name in (name for name in names if name.startswith(f"blocks.{number}.")):
                layer = module.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                whole = layer.weight.data
                codes, scales, zeros = search_scales(whole, scheme)
                layer.weight.data = dequantize(codes, scales.float(), zeros).to(whole.dtype)
                found[name] = _divergence(module, number, hidden, contexts, reference)
                layer.weight.data = whole
                bar.advance()
            hidden = [block(x, ctx) for x, ctx in zip(hidden, contexts, strict=True)]
    return found


def choose(
    costs: Mapping[str, float], sizes: Mapping[str, int], low: Scheme, high: Scheme, room: int
) -> dict[str, Scheme]:
    """The scheme of each layer: all `low`, then `high` for those that lose most for their size, while there is room.

    Args:
        costs: what each layer loses by `low`.
        sizes: weights of each layer.
        room: bytes for all of them.

    Raises:
        FoundlingError: they do not fit even with `low` everywhere.
    """
    used = sum(layer_bytes(size, low) for size in sizes.values())
    if used > room:
        raise FoundlingError(
            f"max_bytes cannot be met: {low.bits} bits everywhere take {human_bytes(used)}",
            f"{human_bytes(max(room, 0))} are left for these layers beside what stays in 16 bits",
            "Allow more, or remove parts (shrink)",
        )
    chosen = dict.fromkeys(sizes, low)
    for name in sorted(costs, key=lambda name: costs[name] / sizes[name], reverse=True):
        more = layer_bytes(sizes[name], high) - layer_bytes(sizes[name], low)
        if used + more <= room:
            chosen[name], used = high, used + more
    return chosen


def layer_bytes(weights: int, scheme: Scheme) -> int:
    """Bytes of a layer's codes and scales (and zero points), for a grouped scheme."""
    groups = weights // (scheme.group_size or weights)
    return weights * scheme.bits // 8 + 2 * groups + (0 if scheme.symmetric else groups * scheme.bits // 8)


def _divergence(
    module: LanguageModel, first: int, hidden: list[Tensor], contexts: list[Context], reference: list[Tensor]
) -> float:
    total, count = 0.0, 0
    for x, ctx, p in zip(hidden, contexts, reference, strict=True):
        for block in list(module.blocks)[first:]:
            x = block(x, ctx)
        q = torch.log_softmax(module.head(x if module.norm is None else module.norm(x)).float(), -1)
        total += float((p.exp() * (p - q)).sum())
        count += p.shape[0] * p.shape[1]
    return total / count
