"""The quantization_config of config.json, as compressed-tensors writes it, and for nf4 as bitsandbytes does."""

from __future__ import annotations

import re
from typing import Any

from foundling.core.errors import FoundlingError
from foundling.models.quantized import Scheme

PACKED, INT8, FLOAT = "pack-quantized", "int-quantized", "float-quantized"
MIXED = "mixed-precision"  # each group says its own format
FORMATS = (PACKED, INT8, FLOAT, "naive-quantized", MIXED)
INT8_INPUTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
NF4_CONFIG = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def schemes_to_hf(schemes: dict[str, Scheme], dense: list[str]) -> dict[str, Any]:
    """The quantization_config of a model.

    Args:
        schemes: scheme of each quantized layer, by its name in the files.
        dense: the linear layers that are not quantized.

    Raises:
        FoundlingError: nf4 beside other formats, which no file layout has.
    """
    if any(scheme.numbers == "nf4" for scheme in schemes.values()):
        if len(set(schemes.values())) > 1:
            raise FoundlingError("layers in nf4 and in other formats do not go into one model directory")
        return {**NF4_CONFIG, "bnb_4bit_use_double_quant": False, "llm_int8_skip_modules": dense}
    groups: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        groups.setdefault(scheme, []).append(name)
    one = len(groups) == 1
    described = {
        f"group_{number}": scheme_to_hf(scheme, ["Linear"] if one else names)
        for number, (scheme, names) in enumerate(groups.items())
    }
    formats = {group["format"] for group in described.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else MIXED,
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        "config_groups": described,
        "ignore": dense,
    }


def schemes_from_hf(config: dict[str, Any], layers: list[str], where: str) -> dict[str, Scheme]:
    """The scheme of each of the quantized `layers` (names in the files).

    Raises:
        FoundlingError: naming the setting that is not supported, or a layer that no group covers.
    """
    method = config.get("quant_method")
    if method == "bitsandbytes":
        _require(config, NF4_CONFIG | {"bnb_4bit_use_double_quant": False}, where)
        return dict.fromkeys(layers, Scheme(numbers="nf4", bits=4, group_size=64))
    _require(config, {"quant_method": "compressed-tensors", "kv_cache_scheme": None}, where)
    if config.get("format") not in FORMATS:
        raise FoundlingError(
            f"{where}: quantization format {config.get('format')!r}", f"supported: {', '.join(FORMATS)}"
        )
    groups = [(group["targets"], scheme_from_hf(group, where)) for group in config["config_groups"].values()]
    return {layer: _scheme_for(layer, groups, where) for layer in layers}


def _require(config: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    for name, value in wanted.items():
        if config.get(name, value if value in (None, False) else None) != value:
            raise FoundlingError(f"{where}: quantization {name} {config.get(name)!r}", f"supported: {value!r}")


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
        "type": "float" if scheme.numbers == "fp8" else "int",
        "symmetric": scheme.symmetric,
        "strategy": "channel" if scheme.group_size is None else "group",
        "group_size": scheme.group_size,
        "dynamic": False,
    }
    layout = FLOAT if scheme.numbers == "fp8" else INT8 if scheme.int8_inputs else PACKED
    inputs = INT8_INPUTS if scheme.int8_inputs else None
    return {
        "targets": targets, "weights": weights, "input_activations": inputs, "output_activations": None,
        "format": layout,
    }  # fmt: skip


def scheme_from_hf(group: dict[str, Any], where: str) -> Scheme:
    """The scheme of one group of a quantization_config.

    Raises:
        FoundlingError: for anything but 4- or 8-bit integer or float8 weights, and inputs as they are or int8.
    """
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    if weights.get("dynamic", False) or group.get("output_activations") is not None:
        raise FoundlingError(f"{where}: dynamic weights or quantized output activations are not supported")
    if inputs is not None and any(inputs.get(name) != value for name, value in INT8_INPUTS.items()):
        raise FoundlingError(f"{where}: quantized input activations {inputs}", f"supported: {INT8_INPUTS}")
    if weights.get("strategy") not in ("group", "channel") or (kind, bits) not in (
        ("int", 4),
        ("int", 8),
        ("float", 8),
    ):
        raise FoundlingError(
            f"{where}: {kind} weights of {bits} bits with strategy {weights.get('strategy')!r}",
            "supported: int of 4 or 8 bits, float of 8 bits; strategy 'group' or 'channel'",
        )
    return Scheme(
        numbers="fp8" if kind == "float" else "int",
        bits=4 if bits == 4 else 8,
        group_size=weights.get("group_size") if weights["strategy"] == "group" else None,
        symmetric=weights.get("symmetric", True),
        int8_inputs=inputs is not None,
    )
