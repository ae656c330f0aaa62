"""Stacks written as patterns: "mamba+mlp mamba+mlp attention+mlp" is three blocks, each mixer+feed-forward.

A block without "+" has no feed-forward. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foundling.core.config import Config
from foundling.core.errors import FoundlingError, nearest
from foundling.models import config as model_config
from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, RopeConfig
from foundling.models.layers.recurrent_config import (
    H3Config,
    Mamba2Config,
    MambaConfig,
    RecurrentConfig,
    RWKV4ChannelConfig,
    RWKV4Config,
    RWKV7Config,
    S4Config,
)

Parts = Mapping[str, Config | Mapping[str, Any]]


def usual_part(kind: str, dim: int) -> Config | None:
    """A mixer or feed-forward of the size that its paper or practice gives it at width `dim`; None if unknown."""
    head = next(size for size in (64, 48, 32, 16, 8, 4, 2, 1) if dim % size == 0)
    makers = {
        "attention": lambda: AttentionConfig(
            n_heads=dim // head, n_kv_heads=dim // head, head_dim=head, rope=RopeConfig()
        ),
        "mlp": lambda: MLPConfig(hidden=math.ceil(8 * dim / 3 / 32) * 32),
        "mamba": lambda: MambaConfig(inner=2 * dim, dt_rank=math.ceil(dim / 16)),
        "mamba2": lambda: Mamba2Config(n_heads=2 * dim // head, head_dim=head, state=64),
        "s4": S4Config,
        "h3": H3Config,
        "rwkv4": lambda: RWKV4Config(inner=dim),
        "rwkv4_channel": lambda: RWKV4ChannelConfig(hidden=4 * dim),
        "rwkv7": lambda: RWKV7Config(head_dim=head),
        "lstm": lambda: RecurrentConfig(cell="lstm", hidden=dim),
        "gru": lambda: RecurrentConfig(cell="gru", hidden=dim),
    }
    return makers[kind]() if kind in makers else None


def blocks_of(
    pattern: str, dim: int, parts: Parts | None = None, *, repeat: int = 1, where: str = "pattern"
) -> tuple[BlockConfig, ...]:
    """The blocks of a pattern.

    Args:
        parts: the parts' configs by the name that the pattern uses; the rest are `usual_part`s.
        repeat: how often the whole pattern follows itself.

    Raises:
        FoundlingError: naming the block that cannot be read, or the part that is unknown or wrong.
    """
    given = parts or {}
    blocks = []
    for block in pattern.split():
        mixer, plus, ffn = block.partition("+")
        if not mixer or (plus and not ffn) or "+" in ffn:
            raise FoundlingError(f"{where}: block {block!r} of the pattern", "expected: mixer or mixer+feed-forward")
        made = _part(mixer, "mixer", dim, given, where), _part(ffn, "ffn", dim, given, where) if ffn else None
        blocks.append(BlockConfig(mixer=made[0], ffn=made[1]))
    if not blocks or repeat < 1:
        raise FoundlingError(f"{where}: the pattern {pattern!r} times {repeat} has no block")
    return tuple(blocks) * repeat


def pattern_of(blocks: Sequence[BlockConfig]) -> tuple[str, int, dict[str, dict[str, Any]]]:
    """The shortest pattern, how often it repeats, and its parts: `blocks_of` undone."""
    parts: dict[str, dict[str, Any]] = {}
    names = []
    for block in blocks:
        mixer = _name_of(block.mixer, parts)
        names.append(mixer if block.ffn is None else f"{mixer}+{_name_of(block.ffn, parts)}")
    period = next(size for size in range(1, len(names) + 1) if names == names[:size] * (len(names) // size))
    return " ".join(names[:period]), len(names) // period, parts


def _name_of(part: Config, parts: dict[str, dict[str, Any]]) -> str:
    data = part.model_dump(mode="json")
    number = 1
    while True:
        name = data["kind"] if number == 1 else f"{data['kind']}_{number}"
        if parts.setdefault(name, data) == data:
            return name
        number += 1


def _part(name: str, role: str, dim: int, given: Parts, where: str) -> Any:
    value: Any = given.get(name, usual_part(name, dim))
    if value is None:
        kinds = ("attention", "mamba", "mamba2", "s4", "h3", "rwkv4", "rwkv4_channel", "rwkv7", "lstm", "gru", "mlp")
        raise FoundlingError(
            f"{where}: part {name!r} of the pattern is not described in `parts`",
            f"known without a description: {', '.join(kinds)}",
            nearest(name, [*kinds, *given]),
        )
    union: Any = model_config.MixerConfig if role == "mixer" else model_config.FeedForwardConfig
    try:
        return TypeAdapter(union).validate_python(value.model_dump() if isinstance(value, Config) else value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(key) for key in first["loc"])
        raise FoundlingError(f"{where}: part {name!r} as a {role}: {field}", str(first["msg"])) from None
