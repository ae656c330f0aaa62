"""Stacks written as patterns: "mamba+mlp mamba+mlp attention+mlp" is three blocks, each mixer+feed-forward.

A block without "+" has no feed-forward. "attention+mlp:post" is a block in the style `post`, which says what else is
special about it (the norms' places, cross attention, ...). No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foundling.core.config import Config, parse
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
    head, inner_head = _head(dim), _head(2 * dim)
    makers = {
        "attention": lambda: AttentionConfig(
            n_heads=dim // head, n_kv_heads=dim // head, head_dim=head, rope=RopeConfig()
        ),
        "mlp": lambda: MLPConfig(hidden=math.ceil(8 * dim / 3 / 32) * 32),
        "mamba": lambda: MambaConfig(inner=2 * dim, dt_rank=math.ceil(dim / 16)),
        "mamba2": lambda: Mamba2Config(n_heads=2 * dim // inner_head, head_dim=inner_head, state=64),
        "s4": S4Config,
        "h3": H3Config,
        "rwkv4": lambda: RWKV4Config(inner=dim),
        "rwkv4_channel": lambda: RWKV4ChannelConfig(hidden=4 * dim),
        "rwkv7": lambda: RWKV7Config(head_dim=_head(dim, at_least=1)),
        "lstm": lambda: RecurrentConfig(cell="lstm", hidden=dim),
        "gru": lambda: RecurrentConfig(cell="gru", hidden=dim),
    }
    return makers[kind]() if kind in makers else None


def _head(width: int, at_least: int = 4) -> int:
    """The largest usual head that divides the width into `at_least` heads, or into as many as there can be."""
    sizes = [size for size in (64, 48, 32, 16, 8, 4, 2, 1) if width % size == 0]
    return next((size for size in sizes if width // size >= at_least), sizes[-1])


def blocks_of(
    pattern: str,
    dim: int,
    parts: Parts | None = None,
    *,
    repeat: int = 1,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    where: str = "pattern",
) -> tuple[BlockConfig, ...]:
    """The blocks of a pattern.

    Args:
        parts: the parts' configs by the name that the pattern uses; the rest are `usual_part`s.
        repeat: how often the whole pattern follows itself.
        styles: further fields of BlockConfig by the name that the pattern uses after a colon.

    Raises:
        FoundlingError: naming the block that cannot be read, or the part that is unknown or wrong.
    """
    given = parts or {}
    blocks = []
    for block in pattern.split():
        what, colon, style = block.partition(":")
        mixer, plus, ffn = what.partition("+")
        if not mixer or (plus and not ffn) or "+" in ffn:
            raise FoundlingError(f"{where}: block {block!r} of the pattern", "expected: mixer or mixer+feed-forward")
        made = _part(mixer, "mixer", dim, given, where), _part(ffn, "ffn", dim, given, where) if ffn else None
        extra = _style(style, styles or {}, where) if colon else {}
        blocks.append(parse(BlockConfig, {"mixer": made[0], "ffn": made[1], **extra}, f"{where}: style {style!r}"))
    if not blocks or repeat < 1:
        raise FoundlingError(f"{where}: the pattern {pattern!r} times {repeat} has no block")
    return tuple(blocks) * repeat


def pattern_of(blocks: Sequence[BlockConfig]) -> dict[str, Any]:
    """The shortest `pattern`, how often it must `repeat`, its `parts` and its `styles`: `blocks_of` undone."""
    parts: dict[str, dict[str, Any]] = {}
    styles: dict[str, dict[str, Any]] = {}
    names = []
    for block in blocks:
        mixer, ffn = _name_of(block.mixer.kind, block.mixer.model_dump(mode="json"), parts), block.ffn
        name = mixer if ffn is None else f"{mixer}+{_name_of(ffn.kind, ffn.model_dump(mode='json'), parts)}"
        extra = block.model_dump(mode="json", exclude={"mixer", "ffn"}, exclude_defaults=True)
        names.append(f"{name}:{_name_of('style', extra, styles)}" if extra else name)
    period = next(size for size in range(1, len(names) + 1) if names == names[:size] * (len(names) // size))
    return {"pattern": " ".join(names[:period]), "repeat": len(names) // period, "parts": parts, "styles": styles}


def _name_of(stem: str, data: dict[str, Any], known: dict[str, dict[str, Any]]) -> str:
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}_{number}"
        if known.setdefault(name, data) == data:
            return name
        number += 1


def _style(name: str, styles: Mapping[str, Mapping[str, Any]], where: str) -> Mapping[str, Any]:
    if name not in styles:
        known = f"described: {', '.join(styles)}" if styles else ""
        raise FoundlingError(f"{where}: style {name!r} is not described in `styles`", known, nearest(name, styles))
    return styles[name]


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
