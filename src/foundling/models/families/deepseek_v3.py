"""DeepSeek-V3 and R1 (arXiv:2412.19437): V2 with sigmoid scores, balanced by a bias instead of a loss."""

from __future__ import annotations

from typing import Any

from foundling.models.config import MLAConfig, ModelConfig, MoEConfig
from foundling.models.families.deepseek_v2 import deepseek, deepseek_to_hf, experts, latent_attention
from foundling.models.families.deepseek_v2 import rules as rules
from foundling.models.families.fields import Fields

ARCHITECTURE = "DeepseekV3ForCausalLM"


def from_hf(hf: Fields) -> ModelConfig:
    """Translate a DeepseekV3Config."""
    hf.expect("topk_method", "noaux_tc")
    hf.expect("scoring_func", "sigmoid")
    hf.expect("num_mtp_layers", 0, 1)  # the layers that predict further tokens are not part of the decoder
    hf.expect("num_nextn_predict_layers", 0, 1)
    ffn = MoEConfig(
        **experts(hf, n_experts=256, n_shared=1, scale=2.5, width=2048),
        n_groups=hf.take("n_group", int, 8),
        top_groups=hf.take("topk_group", int, 4),
        normalize=hf.take("norm_topk_prob", bool, True),
        scores="sigmoid",
        correction_bias=True,
    )
    interleaved = hf.take("rope_interleave", bool, True)
    mixer = latent_attention(hf, interleaved=interleaved, positions=4096)
    return deepseek(hf, "deepseek_v3", mixer, ffn, first_dense=3, positions=4096)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of a DeepseekV3Config."""
    mixer, ffn = config.blocks[0].mixer, config.blocks[-1].ffn
    assert isinstance(mixer, MLAConfig) and isinstance(ffn, MoEConfig)
    groups = {"n_group": ffn.n_groups, "topk_group": ffn.top_groups}
    return deepseek_to_hf(config) | groups | {"rope_interleave": mixer.rope.interleaved}
