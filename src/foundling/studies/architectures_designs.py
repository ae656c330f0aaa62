"""The designs that are compared, at a size chosen so that parameters or FLOPs are equal. No torch here."""

from __future__ import annotations

from foundling.core.config import Config
from foundling.core.errors import FoundlingError, nearest
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig, RopeConfig
from foundling.models.families.foundling_patterns import blocks_of
from foundling.studies.config import ARCHITECTURES

GRAIN = 16  # widths are multiples of it
HEADS = 8  # of attention at every width, so that sharing keys and values among four means the same
WIDEST = 4096

# what stands for one layer (attention + feed-forward) of the transformer
LAYERS = {
    "mha": "mha+mlp",
    "gqa": "gqa+mlp",
    "mqa": "mqa+mlp",
    "moe": "mha+moe",
    "mamba": "mamba mamba",
    "mamba2": "mamba2 mamba2",
    "rwkv4": "rwkv4 rwkv4_channel",
    "rwkv7": "rwkv7+mlp",
    "h3": "h3+mlp",
    "s4": "s4+mlp",
    "lstm": "lstm+mlp",
}
JAMBA = ("mamba+mlp", "mamba+moe", "mha+mlp", "mamba+moe")  # four layers of Jamba's mixture


def design(name: str, dim: int, layers: int, vocab_size: int, max_positions: int) -> ModelConfig:
    """A design at a width.

    Raises:
        FoundlingError: an unknown name, or a pattern that cannot be read.
    """
    if name == "jamba":
        pattern = " ".join(JAMBA[i % len(JAMBA)] for i in range(layers))
    elif name in LAYERS:
        pattern = " ".join([LAYERS[name]] * layers)
    elif "+" in name or " " in name:
        pattern = " ".join([name] * layers)
    else:
        raise FoundlingError(
            f"architecture {name!r} is not known",
            f"known: {', '.join(ARCHITECTURES)}, or a pattern such as 'mamba+mlp attention+mlp'",
            nearest(name, ARCHITECTURES),
        )
    return ModelConfig(
        family="foundling",
        vocab_size=vocab_size,
        dim=dim,
        blocks=blocks_of(pattern, dim, _parts(dim)),
        norm=NormConfig(eps=1e-6),
        tie_embeddings=True,
        max_positions=max_positions,
    )


def matched(name: str, equal: str, parameters: int, layers: int, vocab_size: int, context: int) -> ModelConfig:
    """The design at the width whose parameters or FLOPs come closest to the reference's.

    Args:
        equal: "parameters": outside the embeddings; "flops": of training on a token, where the reference is `mha` with
            that many parameters.
    """

    def size(config: ModelConfig) -> float:
        if equal == "parameters":
            return config.n_parameters(embeddings=False)
        return config.flops_per_token(context) - 2.0 * vocab_size * config.dim

    goal: float = parameters
    if equal == "flops":
        goal = size(matched("mha", "parameters", parameters, layers, vocab_size, context))
    best = min(
        (design(name, dim, layers, vocab_size, context) for dim in _widths(name, layers, vocab_size, size, goal)),
        key=lambda config: abs(size(config) - goal),
    )
    if abs(size(best) - goal) > 0.2 * goal:
        raise FoundlingError(f"no width of {name!r} comes near {goal:.3g} {equal}", fix="Ask for larger models")
    return best


def _widths(name: str, layers: int, vocab_size: int, size, goal: float) -> list[int]:  # type: ignore[no-untyped-def]
    """The widest width below the goal and the next one."""
    low, high = 1, WIDEST // GRAIN
    while low < high:
        middle = (low + high + 1) // 2
        if size(design(name, middle * GRAIN, layers, vocab_size, 1)) <= goal:
            low = middle
        else:
            high = middle - 1
    return [low * GRAIN, (low + 1) * GRAIN]


def _parts(dim: int) -> dict[str, Config]:
    hidden = round(8 * dim / 3 / GRAIN) * GRAIN

    def attention(kv_heads: int) -> AttentionConfig:
        return AttentionConfig(
            n_heads=HEADS, n_kv_heads=kv_heads, head_dim=dim // HEADS, rope=RopeConfig(), qk_norm=NormConfig(eps=1e-6)
        )

    return {
        "mha": attention(HEADS),
        "gqa": attention(HEADS // 4),
        "mqa": attention(1),
        "mlp": MLPConfig(hidden=hidden),
        "moe": MoEConfig(
            n_experts=4, top_k=1, hidden=max(GRAIN, hidden // 2 // GRAIN * GRAIN), shared_hidden=hidden // 2,
            scores="sigmoid", balance_weight=0.01,
        ),
    }  # fmt: skip
