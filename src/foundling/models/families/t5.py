"""T5 and Flan-T5 (arXiv:1910.10683, 2210.11416): an encoder-decoder with relative position biases."""

from __future__ import annotations

from typing import Any

from foundling.models.config import (
    AttentionConfig,
    BlockConfig,
    EncoderConfig,
    HeadConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    RelativeBiasConfig,
)
from foundling.models.families.fields import Fields, token_fields
from foundling.models.tensor_rules import Rule, redundant, same

ARCHITECTURE = "T5ForConditionalGeneration"
FEED_FORWARDS = {"relu": ("relu", False), "gated-gelu": ("gelu_tanh", True), "gated-silu": ("silu", True)}
PROJECTIONS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a T5Config. Version 1.1 (and Flan) has a head of its own and does not scale the decoder's output."""
    dim, n_heads = hf.take("d_model", int, 512), hf.take("num_heads", int, 8)
    hf.skip("dense_act_fn", "is_gated_act", "n_positions", "output_past", "decoder_start_token_id")
    activation, gated = hf.choice("feed_forward_proj", FEED_FORWARDS, "relu")
    shape = {"n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": hf.take("d_kv", int, 64)}
    ffn = MLPConfig(hidden=hf.take("d_ff", int, 2048), activation=activation, gated=gated)
    own, cross = AttentionConfig(**shape, scale=1.0, relative_bias=True), AttentionConfig(**shape, scale=1.0)
    both = AttentionConfig(**shape, scale=1.0, relative_bias=True, causal=False)
    bias = RelativeBiasConfig(
        buckets=hf.take("relative_attention_num_buckets", int, 32),
        max_distance=hf.take("relative_attention_max_distance", int, 128),
    )
    tied = hf.take("scale_decoder_outputs", bool, hf.take("tie_word_embeddings", bool, True))
    n_layers = hf.take("num_layers", int, 6)
    n_decoder = hf.take("num_decoder_layers", int, n_layers)
    return ModelConfig(
        family="t5",
        vocab_size=hf.take("vocab_size", int, 32128),
        dim=dim,
        blocks=(BlockConfig(mixer=own, cross=cross, ffn=ffn),) * n_decoder,
        relative_bias=bias,
        encoder=EncoderConfig(blocks=(BlockConfig(mixer=both, ffn=ffn),) * n_layers, relative_bias=bias),
        norm=NormConfig(eps=hf.take("layer_norm_epsilon", float, 1e-6)),
        head=HeadConfig(scale=dim**-0.5 if tied else 1.0),
        tie_embeddings=tied,
        max_positions=512,
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a T5Config."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig)
    assert config.encoder is not None and config.relative_bias is not None
    kind = next(name for name, parts in FEED_FORWARDS.items() if parts == (ffn.activation, ffn.gated))
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.dim,
        "d_kv": mixer.head_dim,
        "d_ff": ffn.hidden,
        "num_heads": mixer.n_heads,
        "num_layers": len(config.encoder.blocks),
        "num_decoder_layers": config.n_layers,
        "feed_forward_proj": kind,
        "relative_attention_num_buckets": config.relative_bias.buckets,
        "relative_attention_max_distance": config.relative_bias.max_distance,
        "layer_norm_epsilon": config.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        "is_encoder_decoder": True,
        "decoder_start_token_id": config.pad_token_id,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Layers are lists: self attention, then cross attention in the decoder, then the feed-forward."""
    ffn = config.blocks[0].ffn
    assert isinstance(ffn, MLPConfig)
    own = [*_stack("", "decoder", True, ffn.gated), *_stack("encoder.", "encoder", False, ffn.gated)]
    repeated = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    repeated += ["lm_head.weight"] if config.tie_embeddings else []
    head = [same("embedding", "shared"), same("output", "lm_head")]
    return own + head + [redundant(name) for name in repeated]


def _stack(ours: str, theirs: str, cross: bool, gated: bool) -> list[Rule]:
    block, layer = f"{ours}blocks.{{i}}", f"{theirs}.block.{{i}}.layer"
    last = 2 if cross else 1
    names = {
        f"{ours}norm": f"{theirs}.final_layer_norm",
        f"{ours}relative_bias": f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias",
        f"{block}.mixer_norm": f"{layer}.0.layer_norm",
        f"{block}.cross_norm": f"{layer}.1.layer_norm",
        f"{block}.ffn_norm": f"{layer}.{last}.layer_norm",
        f"{block}.ffn.gate": f"{layer}.{last}.DenseReluDense.wi_0",
        f"{block}.ffn.up": f"{layer}.{last}.DenseReluDense.{'wi_1' if gated else 'wi'}",
        f"{block}.ffn.down": f"{layer}.{last}.DenseReluDense.wo",
    }
    names |= {f"{block}.mixer.{a}": f"{layer}.0.SelfAttention.{b}" for a, b in PROJECTIONS.items()}
    names |= {f"{block}.cross.{a}": f"{layer}.1.EncDecAttention.{b}" for a, b in PROJECTIONS.items()}
    return [same(*pair) for pair in names.items()]
