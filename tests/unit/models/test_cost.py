"""The planner's numbers against counted ones."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foundling.models.build import build
from foundling.models.families.translate import config_from_hf
from foundling.models.language_model import LanguageModel
from foundling.models.presets import LADDER, PUBLISHED, TRANSFORMERS, preset, table

CONTEXT = 256


@pytest.mark.parametrize("name", [*LADDER, "llama-3-8b", "qwen3-0.6b", "gpt2", "pythia-160m", "mistral-7b"])
def test_parameters_and_flops_equal_a_counted_pass(name: str) -> None:
    config = preset(name, vocab_size=4096 if name in LADDER else None)
    with torch.device("meta"):
        module = LanguageModel(config)
    assert config.n_parameters() == sum(parameter.numel() for parameter in module.parameters())
    with FlopCounterMode(display=False) as counter:
        logits = module(torch.zeros(1, CONTEXT, dtype=torch.int64, device="meta"))
    assert config.flops_per_token(CONTEXT) * CONTEXT == pytest.approx(counter.get_total_flops(), rel=0.02)
    if name in LADDER:
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
        total = counter.get_total_flops() + backward.get_total_flops()
        assert config.flops_per_token(CONTEXT, training=True) * CONTEXT == pytest.approx(total, rel=0.05)


COUNTS = {  # as published, at the digits published
    "llama-2-7b": 6.74e9,
    "llama-2-13b": 13.0e9,
    "llama-2-70b": 69.0e9,
    "llama-3-8b": 8.03e9,
    "llama-3-70b": 70.6e9,
    "llama-3.1-405b": 406e9,
    "mistral-7b": 7.24e9,
    "mixtral-8x7b": 46.7e9,
    "mixtral-8x22b": 141e9,
    "qwen2.5-0.5b": 0.494e9,
    "qwen3-0.6b": 0.596e9,
    "qwen3-30b-a3b": 30.5e9,
    "qwen3-235b-a22b": 235e9,
    "deepseek-v3": 671e9,
    "deepseek-v2-lite": 15.7e9,
    "gpt2": 124e6,
    "gpt2-xl": 1.56e9,
    "gpt-3-175b": 175e9,
    "smollm2-135m": 135e6,
    "bert-base": 110e6,
    "t5-small": 60.5e6,
    "t5-base": 223e6,
    "olmoe-1b-7b": 6.92e9,
    "gemma-2-2b": 2.61e9,
    "phi-3-mini": 3.82e9,
}
ACTIVE = {"mixtral-8x7b": 12.9e9, "qwen3-30b-a3b": 3.3e9, "qwen3-235b-a22b": 22e9, "deepseek-v3": 37e9}
ACTIVE |= {"olmoe-1b-7b": 1.3e9}


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name: str) -> None:
    assert preset(name).n_parameters() == pytest.approx(COUNTS[name], rel=0.006)
    if name in ACTIVE:
        active = preset(name).n_parameters(active=True)
        assert active == pytest.approx(ACTIVE[name], rel=0.02)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_counts_equal_transformers(name: str) -> None:
    """Exactly, on the meta device: every tensor that the published architecture has is one of ours."""
    fields = dict(PUBLISHED[name])
    model_type = fields.pop("model_type")
    config = transformers.AutoConfig.for_model(model_type, **fields)
    layers = config.num_hidden_layers if model_type == "t5" else min(config.num_hidden_layers, 8)  # more take longer
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    auto = {"t5": "Seq2SeqLM", "bert": "MaskedLM", "roberta": "MaskedLM", "modernbert": "MaskedLM"}
    with torch.device("meta"):
        theirs = getattr(transformers, f"AutoModelFor{auto.get(model_type, 'CausalLM')}").from_config(config)
    key = {"gpt2": "n_layer", "t5": "num_layers"}.get(model_type, "num_hidden_layers")
    ours = config_from_hf(PUBLISHED[name] | {key: layers}, name)
    assert ours.n_parameters() == sum(p.numel() for p in theirs.parameters())


SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_key_value_heads": 2}
MLA = {"kv_lora_rank": 16, "q_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
V3 = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
UNUSUAL = {
    "qwen3_moe": SMALL | MOE,
    "deepseek_v3": SMALL | MLA | V3 | {"moe_intermediate_size": 24},
    "bert": SMALL,
    "modernbert": SMALL | {"pad_token_id": 0},
    "gemma2": SMALL | {"num_key_value_heads": 2, "head_dim": 16},
    "olmo2": SMALL | {"num_key_value_heads": 2},
    "t5": {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 4},
}


@pytest.mark.parametrize("model_type", UNUSUAL)
def test_unusual_parts_are_counted(model_type: str) -> None:
    """Experts, latents, encoders and both: a counted pass of a small model, parameters exact and FLOPs within 2%."""
    config = config_from_hf({"model_type": model_type} | UNUSUAL[model_type], model_type)
    module = build(config, seed=0)
    assert config.n_parameters() == sum(parameter.numel() for parameter in module.parameters())
    routed = config.n_parameters(active=True) < config.n_parameters()
    module.to("cpu" if routed else "meta")  # experts are chosen by values; fused attention is not counted
    ids = torch.zeros(1, 64, dtype=torch.int64, device="cpu" if routed else "meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        module(ids, encoder_tokens=ids if config.encoder else None)
    assert config.flops_per_token(64) * 64 == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_latent_attention_caches_little() -> None:
    """DeepSeek-V3 keeps 512 + 64 numbers a layer and token: 70 KB in bfloat16, where full heads would take 4 MB."""
    assert preset("deepseek-v3").kv_bytes_per_token() == 61 * (512 + 64) * 2


def test_cache_bytes() -> None:
    """Llama 3 8B in bfloat16: 32 layers x 2 x 8 heads x 128 x 2 bytes = 128 KiB a token."""
    assert preset("llama-3-8b").kv_bytes_per_token() == 128 * 1024


def test_the_table_has_every_preset() -> None:
    rows = {row["name"]: row for row in table()}
    assert set(rows) == set(PUBLISHED)
    assert rows["mixtral-8x7b"]["active"] < rows["mixtral-8x7b"]["parameters"] / 3
