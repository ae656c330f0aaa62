"""DeepSeek-V2 (arXiv:2405.04434): multi-head latent attention, fine-grained experts beside shared ones."""

from __future__ import annotations

from typing import Any

from foundling.models.config import BlockConfig, MLAConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig
from foundling.models.families.decoder import LLAMA_NAMES, decoder, named
from foundling.models.families.fields import Fields, token_fields
from foundling.models.families.qwen3_moe import expert_rules
from foundling.models.families.rope_fields import rope_from_hf, rope_to_hf
from foundling.models.layers.rope_config import YarnScaling, yarn_mscale
from foundling.models.tensor_rules import Rule, same

ARCHITECTURE = "DeepseekV2ForCausalLM"
ATTENTION, MLP = "model.layers.{i}.self_attn", "model.layers.{i}.mlp"
NAMES = LLAMA_NAMES | {
    "blocks.{i}.mixer.q_down": f"{ATTENTION}.q_a_proj",
    "blocks.{i}.mixer.q_norm": f"{ATTENTION}.q_a_layernorm",
    "blocks.{i}.mixer.kv_down": f"{ATTENTION}.kv_a_proj_with_mqa",
    "blocks.{i}.mixer.kv_norm": f"{ATTENTION}.kv_a_layernorm",
    "blocks.{i}.mixer.kv_up": f"{ATTENTION}.kv_b_proj",
    "blocks.{i}.ffn.correction_bias": f"{MLP}.gate.e_score_correction_bias",
    "blocks.{i}.ffn.shared.gate": f"{MLP}.shared_experts.gate_proj",
    "blocks.{i}.ffn.shared.up": f"{MLP}.shared_experts.up_proj",
    "blocks.{i}.ffn.shared.down": f"{MLP}.shared_experts.down_proj",
}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a DeepseekV2Config."""
    method = hf.take("topk_method", str, "greedy")
    hf.expect("topk_method", "greedy", "group_limited_greedy")
    hf.expect("norm_topk_prob", False)
    hf.expect("scoring_func", "softmax")
    hf.expect("mlp_bias", False)
    grouped = method == "group_limited_greedy"
    ffn = MoEConfig(
        **experts(hf, n_experts=64, n_shared=2, scale=1.0, width=1407),
        n_groups=hf.take("n_group", int, None) if grouped else None,
        top_groups=hf.take("topk_group", int, None) if grouped else None,
    )
    hf.skip("n_group", "topk_group")  # greedy choice does not look at groups
    return deepseek(hf, "deepseek_v2", latent_attention(hf, interleaved=True, positions=2048), ffn, 0, 2048)


def deepseek(
    hf: Fields, family: str, mixer: MLAConfig, ffn: MoEConfig, first_dense: int, positions: int
) -> ModelConfig:
    """A stack whose first layers are dense; `first_dense` and `positions` are the family's defaults."""
    hf.expect("hidden_act", "silu")
    hf.expect("moe_layer_freq", 1)
    dense = BlockConfig(mixer=mixer, ffn=MLPConfig(hidden=hf.take("intermediate_size", int, 11008)))
    n_dense, n_layers = hf.take("first_k_dense_replace", int, first_dense), hf.take("num_hidden_layers", int)
    blocks = [dense] * n_dense + [BlockConfig(mixer=mixer, ffn=ffn)] * (n_layers - n_dense)
    return decoder(hf, family, blocks, NormConfig(eps=hf.take("rms_norm_eps", float, 1e-6)), positions=positions)


def latent_attention(hf: Fields, *, interleaved: bool, positions: int) -> MLAConfig:
    """The attention; YaRN's mscale_all_dim also scales the logits."""
    rope = rope_from_hf(hf, positions=positions, interleaved=interleaved)
    nope_dim, rope_dim = hf.take("qk_nope_head_dim", int, 128), hf.take("qk_rope_head_dim", int, 64)
    scale = None
    if isinstance(rope.scaling, YarnScaling) and rope.scaling.mscale_all_dim:
        scale = (nope_dim + rope_dim) ** -0.5 * yarn_mscale(rope.scaling.factor, rope.scaling.mscale_all_dim) ** 2
    hf.skip("head_dim", "qk_head_dim", "num_key_value_heads")  # follow from the others
    return MLAConfig(
        n_heads=hf.take("num_attention_heads", int),
        q_rank=hf.take("q_lora_rank", int, None if "q_lora_rank" in hf.data else 1536),
        kv_rank=hf.take("kv_lora_rank", int, 512),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        v_dim=hf.take("v_head_dim", int, 128),
        rope=rope,
        bias=hf.take("attention_bias", bool, False),
        scale=scale,
    )


def experts(hf: Fields, *, n_experts: int, n_shared: int, scale: float, width: int) -> dict[str, Any]:
    """The experts' sizes; the arguments are the family's defaults."""
    hidden = hf.take("moe_intermediate_size", int, width)
    hf.skip("ep_size", "seq_aux", "n_routed_experts", "num_local_experts")
    return {
        "n_experts": hf.take("n_routed_experts", int, hf.take("num_local_experts", int, n_experts)),
        "top_k": hf.take("num_experts_per_tok", int),
        "hidden": hidden,
        "shared_hidden": hf.take("n_shared_experts", int, n_shared) * hidden or None,
        "scale": hf.take("routed_scaling_factor", float, scale),
        "balance_weight": hf.take("aux_loss_alpha", float, 0.0),
    }


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a DeepseekV2Config."""
    ffn = config.blocks[-1].ffn
    assert isinstance(ffn, MoEConfig)
    groups = {"n_group": ffn.n_groups, "topk_group": ffn.top_groups}
    return deepseek_to_hf(config) | {"topk_method": "group_limited_greedy" if ffn.n_groups else "greedy", **groups}


def deepseek_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields that V2 and V3 share."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[-1].ffn
    assert isinstance(mixer, MLAConfig) and isinstance(ffn, MoEConfig)
    dense = [block.ffn.hidden for block in config.blocks if isinstance(block.ffn, MLPConfig)]
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "num_key_value_heads": mixer.n_heads,
        "q_lora_rank": mixer.q_rank,
        "kv_lora_rank": mixer.kv_rank,
        "qk_nope_head_dim": mixer.nope_dim,
        "qk_rope_head_dim": mixer.rope_dim,
        "v_head_dim": mixer.v_dim,
        "attention_bias": mixer.bias,
        "hidden_act": "silu",
        "first_k_dense_replace": len(dense),
        "intermediate_size": dense[0] if dense else ffn.hidden,
        "n_routed_experts": ffn.n_experts,
        "num_experts_per_tok": ffn.top_k,
        "moe_intermediate_size": ffn.hidden,
        "n_shared_experts": (ffn.shared_hidden or 0) // ffn.hidden,
        "routed_scaling_factor": ffn.scale,
        "norm_topk_prob": ffn.normalize,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        **rope_to_hf(mixer.rope),
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """The names of latent attention and of the experts; queries without a latent are projected by q_proj."""
    mixer = config.blocks[0].mixer
    assert isinstance(mixer, MLAConfig)
    q_up = same("blocks.{i}.mixer.q_up", f"{ATTENTION}.{'q_b_proj' if mixer.q_rank else 'q_proj'}")
    return [*named(NAMES, config), q_up, *expert_rules(config)]
