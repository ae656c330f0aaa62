"""The small stacks that the probes compare: one mixer each, with the same feed-forward."""

from __future__ import annotations

from foundling.core.config import Config
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig
from foundling.models.families.foundling_patterns import blocks_of

HEAD = 16


def probe_model(design: str, dim: int, layers: int, vocab_size: int, max_positions: int) -> ModelConfig:
    """A stack of `layers` times the design's mixer, each with a feed-forward of twice the width."""
    pattern = {"attention": "rope+mlp", "rwkv4": "rwkv4 rwkv4_channel"}.get(design, f"{design}+mlp")
    heads = dim // HEAD

    def attention(rope: RopeConfig | None, alibi: bool = False) -> AttentionConfig:
        return AttentionConfig(n_heads=heads, n_kv_heads=heads, head_dim=HEAD, rope=rope, alibi=alibi)

    parts: dict[str, Config] = {
        "rope": attention(RopeConfig()),
        "alibi": attention(None, alibi=True),
        "no-positions": attention(None),
        "mlp": MLPConfig(hidden=2 * dim),
    }
    return ModelConfig(
        family="foundling",
        vocab_size=vocab_size,
        dim=dim,
        blocks=blocks_of(pattern, dim, parts, repeat=layers),
        norm=NormConfig(eps=1e-6),
        max_positions=max_positions,
    )
