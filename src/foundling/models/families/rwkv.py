"""RWKV-4 (arXiv:2305.13048): time mixing and channel mixing in turn, which are two blocks of ours."""

from __future__ import annotations

from typing import Any

from foundling.models.config import BlockConfig, EmbeddingConfig, ModelConfig, NormConfig
from foundling.models.families.fields import Fields, token_fields
from foundling.models.layers.recurrent_config import RWKV4ChannelConfig, RWKV4Config
from foundling.models.tensor_rules import Rule, same

ARCHITECTURE = "RwkvForCausalLM"
TIME = {"decay": "time_decay", "bonus": "time_first", "k_proj": "key", "v_proj": "value", "r_proj": "receptance"}
TIME |= {"out_proj": "output"}
CHANNEL = {"k_proj": "key", "r_proj": "receptance", "down": "value"}
SHIFTS = {"shift_k.weight": "time_mix_key", "shift_v.weight": "time_mix_value", "shift_r.weight": "time_mix_receptance"}


def from_hf(hf: Fields) -> ModelConfig:
    """Translate an RwkvConfig."""
    dim = hf.take("hidden_size", int)
    hf.expect("layer_norm_epsilon", 1e-5)  # the last norm has this one whatever the field says
    hf.skip("rescale_every")  # keeps fp16 in range and is undone in the weights
    norm = NormConfig(kind="layer", eps=1e-5, bias=True)
    time = BlockConfig(mixer=RWKV4Config(inner=hf.take("attention_hidden_size", int, dim)))
    channel = BlockConfig(mixer=RWKV4ChannelConfig(hidden=hf.take("intermediate_size", int, 4 * dim)))
    return ModelConfig(
        family="rwkv",
        vocab_size=hf.take("vocab_size", int),
        dim=dim,
        blocks=(time, channel) * hf.take("num_hidden_layers", int),
        norm=norm,
        embedding=EmbeddingConfig(norm=True),
        tie_embeddings=hf.take("tie_word_embeddings", bool, False),
        max_positions=hf.take("context_length", int, 1024),
        **hf.tokens(),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The fields of an RwkvConfig."""
    time, channel = config.blocks[0].mixer, config.blocks[1].mixer
    assert isinstance(time, RWKV4Config) and isinstance(channel, RWKV4ChannelConfig)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers // 2,
        "attention_hidden_size": time.inner,
        "intermediate_size": channel.hidden,
        "layer_norm_epsilon": config.norm.eps,
        "context_length": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
        **token_fields(config.bos_token_id, config.eos_token_id, config.pad_token_id),
    }


def rules(config: ModelConfig) -> list[Rule]:
    """Block 2i is layer i's attention, block 2i + 1 its feed_forward; their mixing weights are (1, 1, dim)."""
    names = {"embedding": "rwkv.embeddings", "inputs.norm": "rwkv.blocks.0.pre_ln", "norm": "rwkv.ln_out"}
    names |= {"output": "head"}
    shifts: dict[str, str] = {}
    for i in range(config.n_layers):
        layer, part = f"rwkv.blocks.{i // 2}", ("attention", "feed_forward")[i % 2]
        names[f"blocks.{i}.mixer_norm"] = f"{layer}.ln{i % 2 + 1}"
        for ours, theirs in (TIME, CHANNEL)[i % 2].items():
            names[f"blocks.{i}.mixer.{ours}"] = f"{layer}.{part}.{theirs}"
        for ours, theirs in SHIFTS.items():
            shifts[f"blocks.{i}.mixer.{ours}"] = f"{layer}.{part}.{theirs}"
    return [same(ours, theirs) for ours, theirs in names.items()] + [_shift(*pair) for pair in shifts.items()]


def _shift(ours: str, theirs: str) -> Rule:
    return Rule(
        (ours,),
        (theirs,),
        lambda tensors, shapes: [tensors[0].reshape(-1)],
        lambda tensors: [tensors[0].reshape(1, 1, -1)],
    )
