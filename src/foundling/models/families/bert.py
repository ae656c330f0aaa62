"""BERT (arXiv:1810.04805): a bidirectional encoder with learned positions and a norm after each residual sum."""

from __future__ import annotations

from typing import Any

from foundling.models.config import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    HeadConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
)
from foundling.models.families.decoder import ACTIVATIONS, named_activation
from foundling.models.families.fields import Fields, token_fields
from foundling.models.tensor_rules import Rule, redundant, same

ARCHITECTURE = "BertForMaskedLM"
NAMES = {
    "embedding": "embeddings.word_embeddings",
    "inputs.positions": "embeddings.position_embeddings",
    "inputs.types": "embeddings.token_type_embeddings",
    "inputs.norm": "embeddings.LayerNorm",
    "blocks.{i}.mixer.q_proj": "encoder.layer.{i}.attention.self.query",
    "blocks.{i}.mixer.k_proj": "encoder.layer.{i}.attention.self.key",
    "blocks.{i}.mixer.v_proj": "encoder.layer.{i}.attention.self.value",
    "blocks.{i}.mixer.o_proj": "encoder.layer.{i}.attention.output.dense",
    "blocks.{i}.mixer_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "blocks.{i}.ffn.up": "encoder.layer.{i}.intermediate.dense",
    "blocks.{i}.ffn.down": "encoder.layer.{i}.output.dense",
    "blocks.{i}.ffn_norm": "encoder.layer.{i}.output.LayerNorm",
    "pooler": "pooler.dense",
}
HEAD = {
    "transform.dense": "cls.predictions.transform.dense",
    "transform.norm": "cls.predictions.transform.LayerNorm",
    "output_bias": "cls.predictions",
}
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
UNUSED_HEAD = [
    f"cls.{layer}.{kind}" for layer in ("predictions.decoder", "seq_relationship") for kind in ("weight", "bias")
]


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a BertConfig."""
    return bert(hf, "bert", offset=0, types=2)


def bert(hf: Fields, family: str, offset: int, types: int) -> ModelConfig:
    """BERT or RoBERTa. `offset`: the table's row of the first position; `types`: the default number of token types."""
    dim, n_heads = hf.take("hidden_size", int, 768), hf.take("num_attention_heads", int, 12)
    hf.expect("position_embedding_type", "absolute")
    hf.expect("is_decoder", False)
    hf.expect("add_cross_attention", False)
    hf.expect("tie_word_embeddings", True)
    hf.skip("attention_probs_dropout_prob")
    activation = hf.choice("hidden_act", ACTIVATIONS, "gelu")
    mixer = AttentionConfig(
        n_heads=n_heads, n_kv_heads=n_heads, head_dim=dim // n_heads, qkv_bias=True, out_bias=True, causal=False
    )
    hidden = hf.take("intermediate_size", int, 3072)
    ffn = MLPConfig(hidden=hidden, activation=activation, gated=False, bias=True)
    bare = hf.head == "none"
    head = HeadConfig(kind="none", pooler=True) if bare else HeadConfig(kind="mlm", bias=True, activation=activation)
    kinds = hf.take("type_vocab_size", int, types)
    return ModelConfig(
        family=family,
        vocab_size=hf.take("vocab_size", int),
        dim=dim,
        blocks=(BlockConfig(mixer=mixer, ffn=ffn, norms="after"),) * hf.take("num_hidden_layers", int, 12),
        norm=NormConfig(kind="layer", bias=True, eps=hf.take("layer_norm_eps", float, 1e-12)),
        final_norm=False,
        embedding=EmbeddingConfig(positions="learned", position_offset=offset, token_types=kinds, norm=True),
        head=head,
        tie_embeddings=True,
        max_positions=hf.take("max_position_embeddings", int, 512) - offset,
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a BertConfig or RobertaConfig."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "intermediate_size": ffn.hidden,
        "hidden_act": named_activation(ffn.activation, "gelu_new"),
        "max_position_embeddings": config.max_positions + config.embedding.position_offset,
        "type_vocab_size": config.embedding.token_types,
        "layer_norm_eps": config.norm.eps,
        "tie_word_embeddings": True,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """A bare model has no prefix and no head."""
    return encoder_rules(config, "bert", HEAD, UNUSED_HEAD)


def encoder_rules(config: ModelConfig, prefix: str, head: dict[str, str], unused: list[str]) -> list[Rule]:
    """The names under a prefix that only models with a head have, the head's, and what files may carry beside."""
    start = "" if config.head.kind == "none" else f"{prefix}."
    body = [same(ours, start + theirs) for ours, theirs in NAMES.items()]
    extra = [redundant(start + name) for name in UNUSED] + [redundant(name) for name in unused]
    return body + [same(ours, theirs) for ours, theirs in head.items()] + extra
