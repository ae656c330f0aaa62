"""What the recurrent mixers cost, as the fields of `cost.PartCost`. No torch.

As everywhere, a FLOP is counted in matrix products only: the scans, short convolutions and Fourier transforms of these
mixers are element-wise and small beside their projections.
"""

from __future__ import annotations

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

Numbers = dict[str, int]


def mamba(config: MambaConfig, dim: int) -> Numbers:
    """Projections in and out, the selection's low-rank projections, the scan's state."""
    selection = config.dt_rank + 2 * config.state
    weights = dim * 2 * config.inner + config.inner * selection + config.dt_rank * config.inner + config.inner * dim
    extra = config.inner * (config.conv + config.state + 2 + config.conv_bias)  # filter, A, D, step sizes' bias
    extra += (2 * config.inner + dim) * config.proj_bias + (0 if config.inner_norm_eps is None else selection)
    state = config.inner * (config.conv - 1 + config.state)
    return _numbers(weights, extra, state, activations=dim + 8 * config.inner + selection)


def mamba2(config: Mamba2Config, dim: int) -> Numbers:
    """As Mamba, and the matrix products of the chunks."""
    inner, shared = config.n_heads * config.head_dim, 2 * config.n_groups * config.state
    width = 2 * inner + shared + config.n_heads
    weights = dim * width + inner * dim
    extra = (inner + shared) * (config.conv + config.conv_bias) + 3 * config.n_heads + inner
    extra += (width + dim) * config.proj_bias
    chunk = config.chunk * (config.n_groups * config.state + inner) + 2 * config.state * inner
    state = (inner + shared) * (config.conv - 1) + inner * config.state
    activations = dim + 8 * inner + 3 * shared + 2 * config.chunk * config.n_heads
    return _numbers(weights, extra, state, activations, products=chunk)


def s4(config: S4Config, dim: int) -> Numbers:
    """The output projection and a state space per channel."""
    pairs, out = config.state // 2, dim * (2 if config.gated else 1)
    space = dim * (1 + pairs * (8 if config.structure == "dplr" else 4))
    return _numbers(dim * out, out + dim + space, dim * 2 * pairs, activations=6 * dim + out)


def h3(config: H3Config, dim: int) -> Numbers:
    """Four projections, a shift per channel and a state space per head."""
    heads, pairs = dim // config.head_dim, config.state // 2
    extra = dim * config.shift + heads * (2 + 4 * pairs)
    state = dim * (config.shift - 1) + dim * config.head_dim * 2 * pairs
    return _numbers(4 * dim * dim, extra, state, activations=dim * (6 + 4 * config.head_dim))


def rwkv4(config: RWKV4Config, dim: int) -> Numbers:
    """Three projections in, one out."""
    return _numbers(
        4 * dim * config.inner, 3 * dim + 2 * config.inner, dim + 2 * config.inner, 7 * dim + 7 * config.inner
    )


def rwkv4_channel(config: RWKV4ChannelConfig, dim: int) -> Numbers:
    """A gated squared-ReLU layer."""
    return _numbers(2 * dim * config.hidden + dim * dim, 2 * dim, dim, 6 * dim + 2 * config.hidden)


def rwkv7(config: RWKV7Config, dim: int) -> Numbers:
    """Four projections, the low-rank ones, and the matrix products of the chunks."""
    ranks = config.decay_rank + config.rate_rank + config.gate_rank + (config.value_rank or 0)
    biases = 2 + (config.value_rank is not None)
    size, chunk = config.head_dim, config.chunk
    products = dim * (8 * chunk + 4 * size + size * size // chunk)
    state = dim + dim * size
    return _numbers(4 * dim * dim + 2 * dim * ranks, dim * (11 + biases), state, 30 * dim, products)


def recurrent(config: RecurrentConfig, dim: int) -> Numbers:
    """The cell's gates and the output projection."""
    gates, parts = (4, 2) if config.cell == "lstm" else (3, 1)
    weights = gates * config.hidden * (dim + config.hidden) + config.hidden * dim
    activations = dim + (gates + 3) * config.hidden
    return _numbers(weights, 2 * gates * config.hidden, parts * config.hidden, activations)


def _numbers(weights: int, extra: int, state: int, activations: int, products: int = 0) -> Numbers:
    return {
        "parameters": weights + extra,
        "active": weights + extra,
        "matmul_weights": weights + products,
        "state_values": state,
        "activations": activations,
    }


COSTS = {
    "mamba": mamba,
    "mamba2": mamba2,
    "s4": s4,
    "h3": h3,
    "rwkv4": rwkv4,
    "rwkv4_channel": rwkv4_channel,
    "rwkv7": rwkv7,
    "recurrent": recurrent,
}
