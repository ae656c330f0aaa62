"""RoPE in config.json, in its two spellings: rope_theta + rope_scaling (before transformers 5), and rope_parameters."""

from __future__ import annotations

from typing import Any

from foundling.core.errors import FoundlingError
from foundling.models.config import RopeConfig
from foundling.models.families.fields import Fields


def rope_from_hf(hf: Fields, theta: float = 10000.0) -> RopeConfig:
    """The RoPE of a config; `theta` is the family's default.

    Raises:
        FoundlingError: for a scaling that is not supported.
    """
    scaling = dict(hf.take("rope_scaling", dict, {})) | dict(hf.take("rope_parameters", dict, {}))
    theta = float(scaling.pop("rope_theta", hf.take("rope_theta", float, theta)))
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    if kind != "default" or scaling:
        raise FoundlingError(f"{hf.where}: rope scaling {kind!r} {scaling} is not supported", "supported: default")
    return RopeConfig(theta=theta)


def rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
    """Both spellings, so that older readers find theirs."""
    return {"rope_theta": rope.theta, "rope_parameters": {"rope_type": "default", "rope_theta": rope.theta}}
