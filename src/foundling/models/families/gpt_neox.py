"""GPT-NeoX and Pythia (arXiv:2204.06745, 2304.01373): attention beside the feed-forward, RoPE on part of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, ModelConfig, NormConfig
from foundling.models.families.decoder import ACTIVATIONS, decoder, named_activation
from foundling.models.families.fields import Fields, token_fields
from foundling.models.families.rope_fields import rope_from_hf, rope_parameters
from foundling.models.tensor_rules import Rule, same

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ARCHITECTURE = "GPTNeoXForCausalLM"
NAMES = {
    "embedding": "gpt_neox.embed_in",
    "blocks.{i}.mixer_norm": "gpt_neox.layers.{i}.input_layernorm",
    "blocks.{i}.mixer.o_proj": "gpt_neox.layers.{i}.attention.dense",
    "blocks.{i}.ffn_norm": "gpt_neox.layers.{i}.post_attention_layernorm",
    "blocks.{i}.ffn.up": "gpt_neox.layers.{i}.mlp.dense_h_to_4h",
    "blocks.{i}.ffn.down": "gpt_neox.layers.{i}.mlp.dense_4h_to_h",
    "norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a GPTNeoXConfig."""
    bias = hf.take("attention_bias", bool, True)
    theta, fraction = hf.take("rotary_emb_base", float, 10000.0), hf.take("rotary_pct", float, 0.25)
    rope = rope_from_hf(hf, theta, fraction)
    dim, n_heads = hf.take("hidden_size", int), hf.take("num_attention_heads", int)
    shape = {"n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": dim // n_heads}
    mixer = AttentionConfig(**shape, rope=rope, qkv_bias=bias, out_bias=bias)
    activation = hf.choice("hidden_act", ACTIVATIONS, "gelu")
    ffn = MLPConfig(hidden=hf.take("intermediate_size", int), activation=activation, gated=False, bias=True)
    block = BlockConfig(mixer=mixer, ffn=ffn, parallel=hf.take("use_parallel_residual", bool, True))
    norm = NormConfig(kind="layer", bias=True, eps=hf.take("layer_norm_eps", float, 1e-5))
    return decoder(hf, "gpt_neox", (block,) * hf.take("num_hidden_layers", int), norm)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a GPTNeoXConfig."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig) and mixer.rope is not None
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": ffn.hidden,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "hidden_act": named_activation(ffn.activation, "gelu_new"),
        "max_position_embeddings": config.max_positions,
        "layer_norm_eps": config.norm.eps,
        "use_parallel_residual": config.blocks[0].parallel,
        "attention_bias": mixer.qkv_bias,
        "rotary_pct": mixer.rope.fraction,
        "rotary_emb_base": mixer.rope.theta,
        "rope_parameters": rope_parameters(mixer.rope) | {"partial_rotary_factor": mixer.rope.fraction},
        "tie_word_embeddings": config.tie_embeddings,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Queries, keys and values are one of their tensors, head by head: q, k, v of the first head, of the second..."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, AttentionConfig)
    n_heads, head_dim = mixer.n_heads, mixer.head_dim

    def read(tensors: Sequence[Tensor], shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
        if tensors[0].shape[0] != 3 * n_heads * head_dim:
            return [tensors[0]] * 3
        return [part.flatten(0, 1) for part in tensors[0].unflatten(0, (n_heads, 3, head_dim)).unbind(1)]

    def write(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        import torch

        parts = [tensor.unflatten(0, (n_heads, head_dim)) for tensor in tensors]
        return [torch.stack(parts, dim=1).flatten(0, 2)]

    qkv = tuple(f"blocks.{{i}}.mixer.{name}_proj" for name in "qkv")
    fused = Rule(qkv, ("gpt_neox.layers.{i}.attention.query_key_value",), read, write)
    return [*(same(ours, theirs) for ours, theirs in NAMES.items()), fused]
