"""Published transformers, as the fields of their config.json that differ from the family's defaults."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
_KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


def _row(*values: int, **rest: Any) -> Row:
    """layers, width, heads, key/value heads, feed-forward width, vocabulary, context; then what else differs."""
    return dict(zip(_KEYS, values, strict=True)) | rest


def _gpt2(layers: int, dim: int, heads: int, vocab: int = 50257, context: int = 1024) -> Row:
    shape = {"n_layer": layers, "n_embd": dim, "n_head": heads, "vocab_size": vocab, "n_positions": context}
    return {"model_type": "gpt2"} | shape


def _pythia(layers: int, dim: int, heads: int, vocab: int = 50304) -> Row:
    shape = {
        "num_hidden_layers": layers,
        "hidden_size": dim,
        "num_attention_heads": heads,
        "intermediate_size": 4 * dim,
    }
    return {"model_type": "gpt_neox", "vocab_size": vocab, "max_position_embeddings": 2048} | shape


def _t5(layers: int, dim: int, heads: int, head_dim: int, hidden: int, **rest: Any) -> Row:
    shape = {"num_layers": layers, "d_model": dim, "num_heads": heads, "d_kv": head_dim, "d_ff": hidden}
    return {"model_type": "t5", "vocab_size": 32128} | shape | rest


def _bert(model_type: str, layers: int, dim: int, heads: int, hidden: int, **rest: Any) -> Row:
    shape = {"num_hidden_layers": layers, "hidden_size": dim, "num_attention_heads": heads, "intermediate_size": hidden}
    return {"model_type": model_type} | shape | rest


_TIED = {"tie_word_embeddings": True}
_LLAMA: Row = {"model_type": "llama", "rms_norm_eps": 1e-5}
_LLAMA_31: Row = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA_31 |= {"rope_type": "llama3", "rope_theta": 5e5}
_QWEN2: Row = {"model_type": "qwen2", "rope_theta": 1e6}
_QWEN3: Row = {"model_type": "qwen3", "rope_theta": 1e6, "head_dim": 128}
_QWEN3_MOE = _QWEN3 | {"model_type": "qwen3_moe", "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True}
_MIXTRAL: Row = {"model_type": "mixtral", "rope_theta": 1e6}
_GEMMA2: Row = {
    "model_type": "gemma2",
    "head_dim": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_GEMMA3: Row = {"model_type": "gemma3_text", "head_dim": 256, "sliding_window": 512}
_V2_LITE: Row = {"q_lora_rank": None, "n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408}
_V2_LITE |= {"first_k_dense_replace": 1}

PUBLISHED: dict[str, Row] = {
    "smollm2-135m": _LLAMA | _row(30, 576, 9, 3, 1536, 49152, 8192, rope_theta=1e5, **_TIED),
    "smollm2-360m": _LLAMA | _row(32, 960, 15, 5, 2560, 49152, 8192, rope_theta=1e5, **_TIED),
    "smollm2-1.7b": _LLAMA | _row(24, 2048, 32, 32, 8192, 49152, 8192, rope_theta=1.3e5, **_TIED),
    "llama-2-7b": _LLAMA | _row(32, 4096, 32, 32, 11008, 32000, 4096),
    "llama-2-13b": _LLAMA | _row(40, 5120, 40, 40, 13824, 32000, 4096),
    "llama-2-70b": _LLAMA | _row(80, 8192, 64, 8, 28672, 32000, 4096),
    "llama-3-8b": _LLAMA | _row(32, 4096, 32, 8, 14336, 128256, 8192, rope_theta=5e5),
    "llama-3-70b": _LLAMA | _row(80, 8192, 64, 8, 28672, 128256, 8192, rope_theta=5e5),
    "llama-3.1-8b": _LLAMA | _row(32, 4096, 32, 8, 14336, 128256, 131072, rope_parameters=_LLAMA_31),
    "llama-3.1-405b": _LLAMA | _row(126, 16384, 128, 8, 53248, 128256, 131072, rope_parameters=_LLAMA_31),
    "mistral-7b": {"model_type": "mistral"} | _row(32, 4096, 32, 8, 14336, 32000, 32768),
    "mixtral-8x7b": _MIXTRAL | _row(32, 4096, 32, 8, 14336, 32000, 32768),
    "mixtral-8x22b": _MIXTRAL | _row(56, 6144, 48, 8, 16384, 32000, 65536),
    "qwen2.5-0.5b": _QWEN2 | _row(24, 896, 14, 2, 4864, 151936, 32768, **_TIED),
    "qwen2.5-7b": _QWEN2 | _row(28, 3584, 28, 4, 18944, 152064, 131072),
    "qwen3-0.6b": _QWEN3 | _row(28, 1024, 16, 8, 3072, 151936, 40960, **_TIED),
    "qwen3-1.7b": _QWEN3 | _row(28, 2048, 16, 8, 6144, 151936, 40960, **_TIED),
    "qwen3-4b": _QWEN3 | _row(36, 2560, 32, 8, 9728, 151936, 40960, **_TIED),
    "qwen3-8b": _QWEN3 | _row(36, 4096, 32, 8, 12288, 151936, 40960),
    "qwen3-14b": _QWEN3 | _row(40, 5120, 40, 8, 17408, 151936, 40960),
    "qwen3-32b": _QWEN3 | _row(64, 5120, 64, 8, 25600, 151936, 40960),
    "qwen3-30b-a3b": _QWEN3_MOE | _row(48, 2048, 32, 4, 6144, 151936, 40960, moe_intermediate_size=768),
    "qwen3-235b-a22b": _QWEN3_MOE | _row(94, 4096, 64, 4, 12288, 151936, 40960, moe_intermediate_size=1536),
    "gemma-2-2b": _GEMMA2 | _row(26, 2304, 8, 4, 9216, 256000, 8192),
    "gemma-2-9b": _GEMMA2 | _row(42, 3584, 16, 8, 14336, 256000, 8192),
    "gemma-3-1b": _GEMMA3 | _row(26, 1152, 4, 1, 6912, 262144, 32768),
    "phi-3-mini": {"model_type": "phi3"} | _row(32, 3072, 32, 32, 8192, 32064, 4096),
    "olmo-2-7b": {"model_type": "olmo2", "rope_theta": 5e5} | _row(32, 4096, 32, 32, 11008, 100352, 4096),
    "olmoe-1b-7b": {"model_type": "olmoe"} | _row(16, 2048, 16, 16, 1024, 50304, 4096),
    "deepseek-v2-lite": {"model_type": "deepseek_v2"} | _row(27, 2048, 16, 16, 10944, 102400, 163840, **_V2_LITE),
    "deepseek-v3": {"model_type": "deepseek_v3"}
    | _row(61, 7168, 128, 128, 18432, 129280, 163840, num_experts_per_tok=8),
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "gpt-3-175b": _gpt2(96, 12288, 96, context=2048),
    "pythia-160m": _pythia(12, 768, 12),
    "pythia-1.4b": _pythia(24, 2048, 16),
    "pythia-12b": _pythia(36, 5120, 40, vocab=50688),
    "t5-small": _t5(6, 512, 8, 64, 2048),
    "t5-base": _t5(12, 768, 12, 64, 3072),
    "t5-large": _t5(24, 1024, 16, 64, 4096),
    "bert-base": _bert("bert", 12, 768, 12, 3072, vocab_size=30522),
    "bert-large": _bert("bert", 24, 1024, 16, 4096, vocab_size=30522),
    "roberta-base": _bert(
        "roberta", 12, 768, 12, 3072, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1
    ),
    "modernbert-base": _bert("modernbert", 22, 768, 12, 1152, vocab_size=50368),
    "modernbert-large": _bert("modernbert", 28, 1024, 16, 2624, vocab_size=50368),
}
