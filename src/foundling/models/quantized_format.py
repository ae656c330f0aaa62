"""The quantization_config of config.json, as compressed-tensors' `pack-quantized` format writes it."""

from __future__ import annotations

import re
from typing import Any

from foundling.core.errors import FoundlingError
from foundling.models.quantized import Scheme

_READ = {"quant_method": "compressed-tensors", "format": "pack-quantized", "kv_cache_scheme": None}


def schemes_to_hf(schemes: dict[str, Scheme], dense: list[str]) -> dict[str, Any]:
    """The quantization_config of a model.

    Args:
        schemes: scheme of each quantized layer, by its name in the files.
        dense: the linear layers that are not quantized.
    """
    groups: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        groups.setdefault(scheme, []).append(name)
    one = len(groups) == 1
    described = {
        f"group_{number}": scheme_to_hf(scheme, ["Linear"] if one else names)
        for number, (scheme, names) in enumerate(groups.items())
    }
    return {**_READ, "quantization_status": "compressed", "config_groups": described, "ignore": dense}


def schemes_from_hf(config: dict[str, Any], layers: list[str], where: str) -> dict[str, Scheme]:
    """The scheme of each of the quantized `layers` (names in the files).

    Raises:
        FoundlingError: naming the setting that is not supported, or a layer that no group covers.
    """
    for name, value in _READ.items():
        if config.get(name) != value:
            raise FoundlingError(f"{where}: quantization {name} {config.get(name)!r}", f"supported: {value!r}")
    groups = [(group["targets"], scheme_from_hf(group, where)) for group in config["config_groups"].values()]
    return {layer: _scheme_for(layer, groups, where) for layer in layers}


def _scheme_for(layer: str, groups: list[tuple[list[str], Scheme]], where: str) -> Scheme:
    for general in (False, True):  # a layer's own name goes before its class
        for targets, scheme in groups:
            if any(target == "Linear" if general else _matches(target, layer) for target in targets):
                return scheme
    raise FoundlingError(f"{where}: quantized layer {layer!r} is the target of no group of quantization_config")


def _matches(target: str, layer: str) -> bool:
    return re.match(target[3:], layer) is not None if target.startswith("re:") else target == layer


def scheme_to_hf(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    """A group of compressed-tensors' quantization_config."""
    weights = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": "channel" if scheme.group_size is None else "group",
        "group_size": scheme.group_size,
        "dynamic": False,
    }
    return {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None}


def scheme_from_hf(group: dict[str, Any], where: str) -> Scheme:
    """The scheme of one group of a quantization_config.

    Raises:
        FoundlingError: for anything but 4- or 8-bit integer weights with unquantized activations.
    """
    weights = group.get("weights") or {}
    wanted = {"type": "int", "dynamic": False}
    for name, value in wanted.items():
        if weights.get(name, value) != value:
            raise FoundlingError(f"{where}: quantized weights with {name} {weights[name]!r}", f"supported: {value!r}")
    for name in ("input_activations", "output_activations"):
        if group.get(name) is not None:
            raise FoundlingError(f"{where}: quantized {name.replace('_', ' ')} are not supported")
    if weights.get("strategy") not in ("group", "channel") or weights.get("num_bits") not in (4, 8):
        raise FoundlingError(
            f"{where}: weights of {weights.get('num_bits')} bits with strategy {weights.get('strategy')!r}",
            "supported: 4 or 8 bits, strategy 'group' or 'channel'",
        )
    size = weights.get("group_size") if weights["strategy"] == "group" else None
    return Scheme(bits=weights["num_bits"], group_size=size, symmetric=weights.get("symmetric", True))
