"""RoPE in config.json, in its two spellings: rope_theta + rope_scaling (before transformers 5), and rope_parameters."""

from __future__ import annotations

import math
from typing import Any

from foundling.core.errors import FoundlingError, nearest
from foundling.models.families.fields import Fields
from foundling.models.layers.rope_config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeConfig,
    RopeScaling,
    YarnScaling,
)

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "su")
YARN = ("beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim")


def rope_from_hf(
    hf: Fields, theta: float = 10000.0, fraction: float = 1.0, positions: int = 2048, interleaved: bool = False
) -> RopeConfig:
    """The RoPE of a config; theta, fraction and positions are the family's defaults.

    Raises:
        FoundlingError: for a scaling, or a field of one, that is not supported.
    """
    given = dict(hf.take("rope_scaling", dict, {})) | dict(hf.take("rope_parameters", dict, {}))
    given.setdefault("rope_theta", hf.take("rope_theta", float, theta))
    given.setdefault("partial_rotary_factor", hf.take("partial_rotary_factor", float, fraction))
    original = hf.take("original_max_position_embeddings", int, None)
    return rope_of(given, hf.where, original, hf.take("max_position_embeddings", int, positions), interleaved)


def rope_of(
    given: dict[str, Any], where: str, original: int | None, positions: int, interleaved: bool = False
) -> RopeConfig:
    """The RoPE of one rope_parameters object.

    Args:
        original: the context of pretraining, where config.json says it outside of the object.
        positions: the longest sequence of the model.
    """
    given = {name: value for name, value in given.items() if value is not None}
    theta, fraction = given.pop("rope_theta", 10000.0), given.pop("partial_rotary_factor", 1.0)
    kind = given.pop("rope_type", given.pop("type", "default"))
    given.pop("type", None)
    if kind not in KINDS:
        raise FoundlingError(f"{where}: rope scaling {kind!r} is not supported", "", nearest(str(kind), KINDS))
    inner = given.pop("original_max_position_embeddings", None)
    scaling = _scaling(kind, given, original or inner or positions, positions)
    if given:
        raise FoundlingError(f"{where}: field {sorted(given)[0]!r} of rope scaling {kind!r} is not supported")
    return RopeConfig(theta=float(theta), fraction=float(fraction), interleaved=interleaved, scaling=scaling)


def rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
    """Both spellings, so that older readers find theirs."""
    parameters = rope_parameters(rope)
    old = {"rope_scaling": parameters} if rope.scaling else {}
    return {"rope_theta": rope.theta, "rope_parameters": parameters, **old}


def rope_parameters(rope: RopeConfig) -> dict[str, Any]:
    """The rope_parameters object of a RoPE."""
    scaling = rope.scaling
    base: dict[str, Any] = {"rope_type": scaling.kind if scaling else "default", "rope_theta": rope.theta}
    if rope.fraction != 1.0:
        base["partial_rotary_factor"] = rope.fraction
    if scaling is None:
        return base
    fields = scaling.model_dump(exclude={"kind"}, exclude_none=True)
    if "original" in fields:
        fields["original_max_position_embeddings"] = fields.pop("original")
    if isinstance(scaling, DynamicScaling):
        del fields["original_max_position_embeddings"]  # it is max_position_embeddings
    if isinstance(scaling, LongRopeScaling):
        fields["short_factor"] = list(fields.pop("short_factors"))
        fields["long_factor"] = list(fields.pop("long_factors"))
        fields["attention_factor"] = fields.pop("amplitude")
    return base | fields


def _scaling(kind: str, given: dict[str, Any], original: int, positions: int) -> RopeScaling | None:
    """Take the scaling's own fields out of `given`."""
    match kind:
        case "default":
            given.pop("factor", None)
            return None
        case "linear":
            return LinearScaling(factor=given.pop("factor"))
        case "dynamic":
            return DynamicScaling(factor=given.pop("factor"), original=positions)
        case "llama3":
            names = ("factor", "low_freq_factor", "high_freq_factor")
            return Llama3Scaling(original=original, **{name: given.pop(name) for name in names})
        case "yarn":
            fields = {name: given.pop(name) for name in YARN if name in given}
            return YarnScaling(factor=given.pop("factor", positions / original), original=original, **fields)
    factor = given.pop("factor", positions / original)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return LongRopeScaling(
        short_factors=tuple(given.pop("short_factor")),
        long_factors=tuple(given.pop("long_factor")),
        original=original,
        amplitude=given.pop("attention_factor", usual),
    )
