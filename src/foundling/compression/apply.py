"""Compressing a model's layers in place: block after block, each read, measured, pruned and rounded in its turn."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from foundling.compression.awq import scale_block
from foundling.compression.calibration import Moments, walk
from foundling.compression.config import CompressConfig
from foundling.compression.pruning import pruned
from foundling.compression.rounding import search_scales
from foundling.compression.second_order import gptq, output_error
from foundling.compression.sensitivity import choose, sensitivities
from foundling.core import progress
from foundling.core.errors import FoundlingError, nearest
from foundling.core.memory import freed_memory_returned
from foundling.models.language_model import LanguageModel
from foundling.models.layers.block import Block
from foundling.models.quantized import QuantizedLinear, Scheme, from_codes, group_size
from foundling.models.quantized_bytes import byte_linear
from foundling.models.rounding import quantize_linear

STORED = torch.bfloat16  # of everything that is not quantized


class Read(Protocol):
    """Brings the tensors under a prefix into memory (`checkpoint.Parts.read`)."""

    def __call__(self, prefix: str, dtype: torch.dtype = torch.float32) -> None:
        """Read what is not there yet."""


def nothing_to_read(prefix: str, dtype: torch.dtype = torch.float32) -> None:
    """For a model that is in memory."""


@dataclass
class LayerReport:
    """What was done to a layer, and what its own error is: not that of the layers before it.

    Attributes:
        bits: of a weight, 16 where it is not quantized.
        weight_error: ||W - W'|| / ||W||.
        output_error: the same of the outputs on the calibration text; None without one.
        dead_inputs: inputs that were zero on all of the calibration text.
        zeros: share of the weights that pruning removed.
    """

    layer: str
    shape: tuple[int, int]
    bits: int
    weight_error: float
    output_error: float | None = None
    dead_inputs: int = 0
    zeros: float = 0.0


@freed_memory_returned()
def compress_module(
    module: LanguageModel, config: CompressConfig, tokens: Tensor | None = None, read: Read = nothing_to_read
) -> list[LayerReport]:
    """Compress the linear layers of `module` in place, and round everything else to bfloat16.

    Args:
        tokens: (rows, time) calibration text, for the methods that need it.
        read: brings the module's tensors into memory, block by block.

    Raises:
        FoundlingError: a pattern in `keep` matches no layer, no layer is left, the model is already quantized, a weight
            is no number, or the method does not suit the model.
    """
    chosen = chosen_layers(module, config)
    schemes = schemes_for(module, config, chosen, tokens)
    reports: list[LayerReport] = []
    with progress.task("compress", total=len(chosen), unit="layers") as bar:

        def treat(number: int, block: Block, moments: dict[str, Moments]) -> None:
            prefix = f"blocks.{number}."
            require_numbers(block, prefix)
            inside = [name.removeprefix(prefix) for name in chosen if name.startswith(prefix)]
            if config.method == "awq" and inside:
                scale_block(block, moments, cast(Scheme, schemes[prefix + inside[0]]))
            for name in inside:
                reports.append(_treat(block, name, prefix, schemes[prefix + name], config, moments.get(name)))
                bar.advance()

        if tokens is None:
            for number in range(len(module.blocks)):
                read(f"blocks.{number}.")
                treat(number, cast(Block, module.blocks[number]), {})
                _store(module.blocks[number])
        else:
            walk(module, tokens, read, treat, _store)
        outside = [name for name in chosen if not name.startswith("blocks.")]
        for name in outside:
            read(f"{name}.")
        read("", STORED)
        require_numbers(module, "")
        for name in outside:
            reports.append(_treat(module, name, "", schemes[name], config, None))
            bar.advance()
    _store(module)
    return reports


def chosen_layers(module: LanguageModel, config: CompressConfig) -> list[str]:
    """The linear layers to compress, by name."""
    linear = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    if any(isinstance(part, QuantizedLinear) for part in module.modules()):
        raise FoundlingError("the model is already quantized", "its original weights are gone", "Compress the original")
    # A tied head is the embedding's matrix and no layer of its own.
    wanted = [pattern for pattern in config.keep if pattern != "output" or "output" in linear]
    for pattern in wanted:
        if not fnmatch.filter(linear, pattern):
            raise FoundlingError(f"`keep` names {pattern!r}, which is no linear layer", nearest(pattern, linear))
    chosen = [name for name in linear if not any(fnmatch.fnmatch(name, pattern) for pattern in wanted)]
    if not chosen:
        raise FoundlingError("no layer is left to compress", f"`keep` matches all {len(linear)}")
    return chosen


def left_alone(module: LanguageModel) -> dict[str, int]:
    """Matrices that are no linear layers and so stay in 16 bits, with their number of weights: experts, embeddings."""
    linear = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    return {name: p.numel() for name, p in module.named_parameters() if p.dim() > 1 and name not in linear}


def scheme_of(config: CompressConfig, bits: int) -> Scheme | None:
    """The config's scheme with 4 or 8 bits; None for 16."""
    if bits == 16:
        return None
    return Scheme(
        numbers=config.numbers,
        bits=4 if bits == 4 else 8,
        group_size=config.group_size,
        symmetric=config.symmetric,
        int8_inputs=config.int8_inputs,
    )


def schemes_for(
    module: LanguageModel, config: CompressConfig, chosen: list[str], tokens: Tensor | None
) -> Mapping[str, Scheme | None]:
    """The scheme of each layer: the same for all, or (max_bytes) by what each loses.

    Layers outside the blocks (a head that is not kept) take the lower bits.
    """
    low = scheme_of(config, config.bits)
    if low is not None:  # refused before any work is done
        for name in chosen:
            group_size(low, cast(nn.Linear, module.get_submodule(name)).in_features)
    if config.max_bytes is None:
        return dict.fromkeys(chosen, low)
    assert tokens is not None and low is not None
    high = Scheme(bits=8, group_size=config.group_size)
    costs = sensitivities(module, tokens, chosen, low)
    sizes = {name: cast(nn.Linear, module.get_submodule(name)).weight.numel() for name in chosen}
    every = sum(part.numel() for part in module.parameters()) - sum(sizes.values())
    if config.format == "gguf":  # embeddings in q6_k or q8_0
        rest = every * (210 / 256 if module.config.dim % 256 == 0 else 34 / 32)
    else:
        rest = every * STORED.itemsize
    return choose(costs, sizes, low, high, config.max_bytes - round(rest))


def require_numbers(part: nn.Module, prefix: str) -> None:
    """Raise a FoundlingError that names the first tensor with NaN or infinity."""
    for name, tensor in part.named_parameters():
        least, most = tensor.aminmax()  # both are NaN where one weight is; no copy, unlike isfinite
        if not bool((most - least).isfinite()):
            raise FoundlingError(
                f"the weights {prefix}{name} hold NaN or infinity", "nothing can be rounded to them", "Repair the model"
            )


def _treat(
    parent: nn.Module,
    name: str,
    prefix: str,
    scheme: Scheme | None,
    config: CompressConfig,
    moments: Moments | None,
) -> LayerReport:
    linear = cast(nn.Linear, parent.get_submodule(name))
    before = linear.weight.detach().float()
    if config.prune is not None:
        linear.weight.data = pruned(before, config.prune, moments, prefix + name)
    zeros = float((linear.weight == 0).float().mean()) if config.prune else 0.0
    if scheme is None:
        after = linear.weight.detach().to(STORED).float()
    else:
        layer = quantized(linear, scheme, config, moments)
        parent.set_submodule(name, layer)
        after = layer.dequantized(torch.float32)
    report = LayerReport(
        prefix + name, (before.shape[0], before.shape[1]), scheme.bits if scheme else 16, 0.0, zeros=zeros
    )
    report.weight_error = float(torch.linalg.norm(after - before) / torch.linalg.norm(before).clamp_min(1e-12))
    if moments is not None:
        whole = output_error(before, moments.gram)
        report.output_error = (output_error(after - before, moments.gram) / max(whole, 1e-12)) ** 0.5
        report.dead_inputs = moments.dead
    return report


def quantized(linear: nn.Linear, scheme: Scheme, config: CompressConfig, moments: Moments | None) -> QuantizedLinear:
    """A linear layer in a scheme, its codes chosen by the config's method (by searching where it was not measured)."""
    if config.method == "nearest" or scheme.numbers != "int":
        return quantize_linear(linear, scheme)
    if config.method == "gptq" and moments is not None:
        codes = gptq(linear.weight, moments.gram, scheme, act_order=config.act_order)
    else:
        importance = moments.gram.diagonal() if moments is not None else None
        codes = search_scales(linear.weight, scheme, importance)
    if scheme.int8_inputs:
        return byte_linear(codes[0], codes[1], linear.bias, scheme)
    return from_codes(*codes, linear.bias, scheme)


def _store(part: nn.Module) -> None:
    """Round what is left of a part to 16 bits. Scales and the like are buffers and stay as they are."""
    for parameter in part.parameters():
        parameter.data = parameter.data.to(STORED)


def to_json(report: LayerReport) -> dict[str, Any]:
    """As plain data."""
    return {name: value for name, value in vars(report).items() if value is not None}
