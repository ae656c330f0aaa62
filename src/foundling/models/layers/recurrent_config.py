"""The recurrent mixers as data. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from foundling.core.config import Config, option


class MambaConfig(Config):
    """Mamba's selective state space (Gu & Dao 2023, arXiv:2312.00752)."""

    kind: Literal["mamba"] = "mamba"
    inner: int = option(help="channels of the state space, usually twice the width of the model", gt=0)
    state: int = option(16, "state entries per channel", gt=0, le=256)
    conv: int = option(4, "width of the short convolution", gt=0)
    dt_rank: int = option(help="rank of the step size's projection, usually width / 16", gt=0)
    conv_bias: bool = option(True, "bias of the short convolution")
    proj_bias: bool = option(False, "biases of the input and output projections")
    inner_norm_eps: float | None = option(None, "RMS norms of step size, B and C with this epsilon (Jamba)")


class Mamba2Config(Config):
    """Mamba-2's state space dual (Dao & Gu 2024, arXiv:2405.21060): one decay per head, computed as matrices."""

    kind: Literal["mamba2"] = "mamba2"
    n_heads: int = option(help="heads, each with its own decay", gt=0)
    head_dim: int = option(64, "channels of a head", gt=0)
    state: int = option(128, "state entries per channel", gt=0)
    n_groups: int = option(1, "groups of heads that share B and C", gt=0)
    conv: int = option(4, "width of the short convolution", gt=0)
    chunk: int = option(64, "tokens of a chunk in the training form", gt=0)
    conv_bias: bool = option(True, "bias of the short convolution")
    proj_bias: bool = option(False, "biases of the input and output projections")
    norm_eps: float = option(1e-5, "epsilon of the gated norm before the output projection", gt=0)
    dt_min: float = option(0.0, "lower limit of the step size", ge=0)
    dt_max: float | None = option(None, "upper limit of the step size; null for none")


class S4Config(Config):
    """Structured state space: diagonal (S4D, arXiv:2206.11893) or diagonal plus low rank (S4, arXiv:2111.00396)."""

    kind: Literal["s4"] = "s4"
    structure: Literal["diagonal", "dplr"] = option("diagonal", "diagonal: S4D-Lin; dplr: S4 with HiPPO-LegS")
    state: int = option(64, "real state entries per channel (half as many complex ones)", gt=1)
    activation: Literal["gelu", "none"] = option("gelu", "between the state space and the output projection")
    gated: bool = option(True, "gated linear unit as the output projection")


class H3Config(Config):
    """Hungry Hungry Hippos: a shift and a diagonal state space between gates (Fu et al. 2022, arXiv:2212.14052)."""

    kind: Literal["h3"] = "h3"
    head_dim: int = option(1, "channels of a head: keys and values meet as head_dim x head_dim products", gt=0)
    shift: int = option(4, "length of the shift state space", gt=0)
    state: int = option(64, "real state entries of the diagonal state space", gt=1)


class RWKV4Config(Config):
    """RWKV-4's time mixing: exponentially decaying attention without queries (Peng et al. 2023, arXiv:2305.13048)."""

    kind: Literal["rwkv4"] = "rwkv4"
    inner: int = option(help="channels of keys, values and receptance", gt=0)


class RWKV4ChannelConfig(Config):
    """RWKV-4's channel mixing: a gated squared-ReLU layer that sees the previous token too, so it has a state."""

    kind: Literal["rwkv4_channel"] = "rwkv4_channel"
    hidden: int = option(help="width of the inner layer", gt=0)


class RWKV7Config(Config):
    """RWKV-7's time mixing: a matrix state under a generalised delta rule (Peng et al. 2025, arXiv:2503.14456)."""

    kind: Literal["rwkv7"] = "rwkv7"
    head_dim: int = option(64, "channels of a head", gt=0)
    decay_rank: int = option(32, "rank of the decay's projection", gt=0)
    rate_rank: int = option(32, "rank of the in-context learning rate's projection", gt=0)
    gate_rank: int = option(64, "rank of the output gate's projection", gt=0)
    value_rank: int | None = option(None, "mix in the first layer's values through this rank; null in the first layer")
    chunk: int = option(16, "tokens of a chunk in the training form", gt=0, le=16)


class RecurrentConfig(Config):
    """LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014) as a mixer, projected back to the model's width."""

    kind: Literal["recurrent"] = "recurrent"
    cell: Literal["lstm", "gru"] = option("lstm", "which cell")
    hidden: int = option(help="width of the cell", gt=0)


RecurrentMixerConfig = (
    MambaConfig | Mamba2Config | S4Config | H3Config | RWKV4Config | RWKV4ChannelConfig | RWKV7Config | RecurrentConfig
)
