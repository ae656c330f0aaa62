"""GGUF's names for architectures, hyperparameters and tensors, translated from and to config.json. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from foundling.core.errors import FoundlingError
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig
from foundling.models.layers.rope_config import LinearScaling, RopeConfig
from foundling.models.tensor_rules import Rule, redundant, same

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # our family -> theirs
MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # theirs -> model_type
NAMES = {
    "embedding": "token_embd",
    "blocks.{i}.mixer_norm": "blk.{i}.attn_norm",
    "blocks.{i}.mixer.v_proj": "blk.{i}.attn_v",
    "blocks.{i}.mixer.o_proj": "blk.{i}.attn_output",
    "blocks.{i}.mixer.q_norm": "blk.{i}.attn_q_norm",
    "blocks.{i}.mixer.k_norm": "blk.{i}.attn_k_norm",
    "blocks.{i}.ffn_norm": "blk.{i}.ffn_norm",
    "blocks.{i}.ffn.gate": "blk.{i}.ffn_gate",
    "blocks.{i}.ffn.up": "blk.{i}.ffn_up",
    "blocks.{i}.ffn.down": "blk.{i}.ffn_down",
    "norm": "output_norm",
    "output": "output",
}
Get = Callable[..., Any]  # get(key) or get(key, default): the value of a metadata field


def config_from_gguf(get: Get, tensors: set[str], where: str) -> dict[str, Any]:
    """The config.json that a GGUF file's metadata stands for.

    Raises:
        FoundlingError: for an architecture or a rope scaling that is not supported.
    """
    arch = get("general.architecture")
    if arch not in MODEL_TYPES or get(f"{arch}.expert_count", 0):
        kind = f"{arch} with experts" if arch in MODEL_TYPES else repr(arch)
        raise FoundlingError(
            f"{where}: GGUF architecture {kind} is not supported", f"supported: {', '.join(MODEL_TYPES)}"
        )
    if "rope_freqs.weight" in tensors or get(f"{arch}.rope.scaling.type", "none") not in ("none", "linear"):
        raise FoundlingError(f"{where}: its rope scaling is not supported", "supported: none, linear")
    dim, heads = get(f"{arch}.embedding_length"), get(f"{arch}.attention.head_count")
    config = {
        "model_type": MODEL_TYPES[arch],
        "vocab_size": get(f"{arch}.vocab_size", len(get("tokenizer.ggml.tokens"))),
        "hidden_size": dim,
        "num_hidden_layers": get(f"{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get(f"{arch}.attention.head_count_kv", heads),
        "head_dim": get(f"{arch}.attention.key_length", dim // heads),
        "intermediate_size": get(f"{arch}.feed_forward_length"),
        "max_position_embeddings": get(f"{arch}.context_length"),
        "rms_norm_eps": get(f"{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": get(f"{arch}.rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors and arch != "qwen2",
    }
    if arch == "qwen2":
        del config["attention_bias"]
    if get(f"{arch}.rope.scaling.type", "none") == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": get(f"{arch}.rope.scaling.factor")}
    for token in ("bos", "eos"):
        config[f"{token}_token_id"] = get(f"tokenizer.ggml.{token}_token_id", None)
    config["pad_token_id"] = get("tokenizer.ggml.padding_token_id", None)
    return config


def config_to_gguf(config: ModelConfig) -> tuple[str, dict[str, int | float | str]]:
    """GGUF's architecture and hyperparameters (without the architecture's prefix).

    Raises:
        FoundlingError: for a family, or a feature of it, that GGUF's architecture does not have.
    """
    arch = ARCHITECTURES.get(config.family)
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    if arch is None or not config.llama_shaped:
        raise FoundlingError(
            f"{config.family} models cannot be written as GGUF", f"supported: {', '.join(ARCHITECTURES)}"
        )
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig) and mixer.rope is not None
    windowed = any(block.mixer.window for block in config.blocks if isinstance(block.mixer, AttentionConfig))
    if windowed or not isinstance(mixer.rope.scaling, LinearScaling | None):
        what = "a sliding window" if windowed else "this rope scaling"
        raise FoundlingError(f"a {config.family} model with {what} cannot be written as GGUF")
    return arch, {
        "context_length": config.max_positions,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": ffn.hidden,
        "attention.head_count": mixer.n_heads,
        "attention.head_count_kv": mixer.n_kv_heads,
        "attention.key_length": mixer.head_dim,
        "attention.value_length": mixer.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm.eps,
        "rope.dimension_count": mixer.head_dim,
        "vocab_size": config.vocab_size,
        **_rope(mixer.rope),
    }


def gguf_rules(config: ModelConfig) -> list[Rule]:
    """The names; GGUF's llama lays queries and keys out for neighbouring RoPE pairs."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, AttentionConfig)
    rules = [same(ours, theirs) for ours, theirs in NAMES.items()]
    for name, heads in (("q", mixer.n_heads), ("k", mixer.n_kv_heads)):
        ours, theirs = f"blocks.{{i}}.mixer.{name}_proj", f"blk.{{i}}.attn_{name}"
        rules.append(
            _interleaved(ours, theirs, heads) if ARCHITECTURES[config.family] == "llama" else same(ours, theirs)
        )
    return [*rules, redundant("rope_freqs.weight")]


def _interleaved(ours: str, theirs: str, heads: int) -> Rule:
    """Their rows alternate between the two halves of our heads."""

    def read(tensors: Sequence[Tensor], shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
        return [tensors[0].unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)]

    def write(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensors[0].unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)]

    return Rule((ours,), (theirs,), read, write)


def _rope(rope: RopeConfig) -> dict[str, int | float | str]:
    fields: dict[str, int | float | str] = {"rope.freq_base": rope.theta}
    if isinstance(rope.scaling, LinearScaling):
        fields |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.scaling.factor}
    return fields
