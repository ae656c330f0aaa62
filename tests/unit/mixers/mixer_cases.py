"""Small mixers of every kind, and contexts to run them in, shared by the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundling.models.build import build
from foundling.models.config import BlockConfig, MixerConfig, ModelConfig
from foundling.models.context import CacheView, Context
from foundling.models.layers.recurrent_config import (
    H3Config,
    Mamba2Config,
    MambaConfig,
    RecurrentConfig,
    RWKV4ChannelConfig,
    RWKV4Config,
    RWKV7Config,
    S4Config,
)

DIM = 24
CASES: dict[str, MixerConfig] = {
    "mamba": MambaConfig(inner=40, state=5, dt_rank=3),
    "mamba_jamba": MambaConfig(inner=48, state=16, dt_rank=3, conv=3, inner_norm_eps=1e-6),
    "mamba2": Mamba2Config(n_heads=4, head_dim=12, state=6, n_groups=2, chunk=4),
    "s4d": S4Config(state=6),
    "s4_dplr": S4Config(structure="dplr", state=6),
    "h3": H3Config(state=6),
    "h3_heads": H3Config(state=6, head_dim=4, shift=6),
    "rwkv4": RWKV4Config(inner=32),
    "rwkv4_channel": RWKV4ChannelConfig(hidden=40),
    "rwkv7": RWKV7Config(head_dim=8, decay_rank=4, rate_rank=4, gate_rank=4, chunk=4),
    "lstm": RecurrentConfig(cell="lstm", hidden=20),
    "gru": RecurrentConfig(cell="gru", hidden=20),
    "gru_fused": RecurrentConfig(cell="gru", hidden=32),
}


def make(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """The mixer of CASES[name] with every parameter moved off its special starting value, ready to be compared."""
    config = ModelConfig(family="foundling", vocab_size=4, dim=DIM, blocks=(BlockConfig(mixer=CASES[name]),))
    mixer = build(config, seed, zero_outputs=False).blocks[0].mixer
    assert isinstance(mixer, nn.Module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in mixer.parameters():
            part.add_(torch.randn(part.shape, generator=generator) * 0.05)
    return mixer.to(dtype)


def inputs(rows: int, time: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """(rows, time, DIM) standard normal."""
    return torch.randn(rows, time, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def cached(lengths: list[int], new_lengths: list[int], slots: list[int], time: int) -> Context:
    """The context of a cached call: `lengths` tokens before, `new_lengths` of `time` are valid, state in `slots`."""
    rows = len(slots)
    before = torch.tensor(lengths)
    view = CacheView(
        write_slots=torch.zeros(rows, time, dtype=torch.int64),
        block_table=torch.zeros(rows, 1, dtype=torch.int64),
        lengths=before,
        new_lengths=torch.tensor(new_lengths),
        state_slots=torch.tensor(slots),
    )
    return Context(before[:, None] + torch.arange(time), cache=view)
