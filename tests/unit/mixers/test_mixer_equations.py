"""Each mixer against a float64 loop over time written from its paper's equations, one document at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tests.unit.mixers.mixer_cases import CASES, inputs, make
from torch import Tensor, nn

from foundling.models.context import Context

Weights = dict[str, Tensor]
TIME = 37  # neither a multiple of any chunk nor shorter than one


def mamba(p: Weights, x: Tensor, name: str) -> Tensor:
    """arXiv:2312.00752, algorithm 2 and section 3.4, for one document x (time, dim)."""
    config = CASES[name]
    u, gate = (x @ p["in_proj.weight"].T).chunk(2, -1)
    u = F.silu(slow_conv(u, p["conv1d.weight"][:, 0], p["conv1d.bias"]))
    dt, b, c = (u @ p["x_proj.weight"].T).split([config.dt_rank, config.state, config.state], -1)
    if config.inner_norm_eps is not None:
        dt, b, c = (rms(part, p[f"{key}_norm.weight"], 1e-6) for part, key in ((dt, "dt"), (b, "b"), (c, "c")))
    dt = torch.log1p(torch.exp(dt @ p["dt_proj.weight"].T + p["dt_proj.bias"]))
    a, h, out = -p["A_log"].exp(), torch.zeros(config.inner, config.state, dtype=x.dtype), []
    for t in range(len(x)):
        h = (dt[t][:, None] * a).exp() * h + (dt[t] * u[t])[:, None] * b[t]
        out.append((h @ c[t] + p["D"] * u[t]) * F.silu(gate[t]))
    return torch.stack(out) @ p["out_proj.weight"].T


def mamba2(p: Weights, x: Tensor, name: str) -> Tensor:
    """arXiv:2405.21060, equation 1 with A a scalar times the identity in each head."""
    g = CASES[name]
    inner, shared = g.n_heads * g.head_dim, g.n_groups * g.state
    z, xbc, dt = (x @ p["in_proj.weight"].T).split([inner, inner + 2 * shared, g.n_heads], -1)
    xbc = F.silu(slow_conv(xbc, p["conv1d.weight"][:, 0], p["conv1d.bias"]))
    dt, a, out = F.softplus(dt + p["dt_bias"]), -p["A_log"].exp(), []
    h = torch.zeros(g.n_heads, g.head_dim, g.state, dtype=x.dtype)
    for t in range(len(x)):
        u, b, c = xbc[t].split([inner, shared, shared])
        u, b, c = u.view(g.n_heads, -1), b.view(g.n_groups, -1), c.view(g.n_groups, -1)
        rows = []
        for head in range(g.n_heads):
            group = head // (g.n_heads // g.n_groups)
            h[head] = (dt[t, head] * a[head]).exp() * h[head] + dt[t, head] * torch.outer(u[head], b[group])
            rows.append(h[head] @ c[group] + p["D"][head] * u[head])
        gated = (torch.cat(rows) * F.silu(z[t])).view(g.n_groups, -1)
        out.append(torch.cat([rms(part, torch.ones(()), 1e-5) for part in gated]) * p["norm.weight"])
    return torch.stack(out) @ p["out_proj.weight"].T


def s4(p: Weights, x: Tensor, name: str) -> Tensor:
    """Zero-order hold (arXiv:2206.11893, equation 4) or bilinear (arXiv:2111.00396, equation 3), as matrices."""
    y = torch.stack([space(p, "space.", channel, x[:, channel], name) for channel in range(x.shape[1])], -1)
    y = F.gelu(y + p["D"] * x) @ p["out_proj.weight"].T + p["out_proj.bias"]
    value, gate = y.chunk(2, -1)
    return value * gate.sigmoid()


def space(p: Weights, prefix: str, channel: int, u: Tensor, name: str) -> Tensor:
    """One channel of a state space, u (time,), with its dense matrices over both members of each conjugate pair."""
    part = {key.removeprefix(prefix): value[channel] for key, value in p.items() if key.startswith(prefix)}
    both = lambda z: torch.cat([z, z.conj()])  # noqa: E731
    a = torch.diag(both(torch.complex(-part["log_decay"].exp(), part["frequency"])))
    c, dt, one = both(torch.view_as_complex(part["C"])), part["log_dt"].exp(), torch.eye(len(a), dtype=torch.complex128)
    if name == "s4_dplr":
        low, b = both(torch.view_as_complex(part["P"])), both(torch.view_as_complex(part["B"]))
        a = a - torch.outer(low, low.conj())
        inverse = torch.linalg.inv(one - dt / 2 * a)
        a_bar, b_bar = inverse @ (one + dt / 2 * a), inverse @ (dt * b)
    else:
        a_bar = torch.matrix_exp(dt * a)
        b_bar = torch.linalg.inv(a) @ (a_bar - one) @ torch.ones(len(a), dtype=torch.complex128)
    h, out = torch.zeros(len(a), dtype=torch.complex128), []
    for value in u:
        h = a_bar @ h + b_bar * value
        out.append((c @ h).real)
    return torch.stack(out)


def h3(p: Weights, x: Tensor, name: str) -> Tensor:
    """arXiv:2212.14052, algorithm 1, each entry of the keys' and values' outer product through its head's space."""
    q, k, v = (x @ p[f"{key}_proj.weight"].T for key in "qkv")
    k = slow_conv(k, p["shift.weight"][:, 0], None)
    size, out = CASES[name].head_dim, torch.zeros_like(x)
    for head in range(x.shape[1] // size):
        for i in range(size):
            for j in range(size):
                met = k[:, head * size + i] * v[:, head * size + j]
                y = space(p, "space.", head, met, name) + p["D"][head] * met
                out[:, head * size + j] += q[:, head * size + i] * y
    return out @ p["out_proj.weight"].T


def rwkv4(p: Weights, x: Tensor, name: str) -> Tensor:
    """arXiv:2305.13048, equations 11-16, the sums written out."""
    before = F.pad(x[:-1], (0, 0, 1, 0))
    k, v, r = (mixed(p, key, x, before) @ p[f"{key}_proj.weight"].T for key in "kvr")
    w, u, out = p["decay"].exp(), p["bonus"], []
    for t in range(len(x)):
        weights = [torch.exp(-(t - 1 - s) * w + k[s]) for s in range(t)] + [torch.exp(u + k[t])]
        mean = sum(weight * v[s] for s, weight in enumerate(weights)) / sum(weights)
        out.append(r[t].sigmoid() * mean)
    return torch.stack(out) @ p["out_proj.weight"].T


def rwkv4_channel(p: Weights, x: Tensor, name: str) -> Tensor:
    """arXiv:2305.13048, equations 17-19."""
    before = F.pad(x[:-1], (0, 0, 1, 0))
    k = (mixed(p, "k", x, before) @ p["k_proj.weight"].T).clamp(min=0) ** 2
    return (mixed(p, "r", x, before) @ p["r_proj.weight"].T).sigmoid() * (k @ p["down.weight"].T)


def rwkv7(p: Weights, x: Tensor, name: str) -> Tensor:
    """arXiv:2503.14456, section 4, a first layer (no value residual)."""
    before, size = F.pad(x[:-1], (0, 0, 1, 0)), CASES[name].head_dim
    xr, xw, xk, xv, xa, xg = (mixed(p, key, x, before) for key in "rwkvag")
    r, k, v = xr @ p["r_proj.weight"].T, xk @ p["k_proj.weight"].T, xv @ p["v_proj.weight"].T
    low = lambda key, z, act: act(z @ p[f"{key}.reduce.weight"].T) @ p[f"{key}.expand.weight"].T  # noqa: E731
    w = torch.exp(-math.exp(-0.5) * (p["decay.expand.bias"] + low("decay", xw, torch.tanh)).sigmoid())
    a = (p["rate.expand.bias"] + low("rate", xa, lambda z: z)).sigmoid()
    g, kappa = low("gate", xg, torch.sigmoid), k * p["removal"]
    k = k * (1 + (a - 1) * p["replacement"])
    out = torch.zeros_like(x)
    for head in range(x.shape[1] // size):
        part, state = slice(head * size, (head + 1) * size), torch.zeros(size, size, dtype=x.dtype)
        for t in range(len(x)):
            removal = kappa[t, part] / kappa[t, part].norm()
            change = torch.diag(w[t, part]) - torch.outer(removal, a[t, part] * removal)
            state = state @ change + torch.outer(v[t, part], k[t, part])
            y = state @ r[t, part]
            y = (y - y.mean()) / (y.var(correction=0) + 1e-5 * size).sqrt()
            y = y * p["head_norm"][0, part] + p["head_norm"][1, part]
            out[t, part] = y + (r[t, part] * k[t, part] * p["bonus"][part]).sum() * v[t, part]
    return (out * g) @ p["out_proj.weight"].T


def lstm(p: Weights, x: Tensor, name: str) -> Tensor:
    """Hochreiter & Schmidhuber 1997 with a forget gate (Gers et al. 2000)."""
    h = c = torch.zeros(CASES[name].hidden, dtype=x.dtype)
    out = []
    for token in x:
        gates = p["cell.weight_ih_l0"] @ token + p["cell.weight_hh_l0"] @ h
        i, f, g, o = (gates + p["cell.bias_ih_l0"] + p["cell.bias_hh_l0"]).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out) @ p["out_proj.weight"].T


def gru(p: Weights, x: Tensor, name: str) -> Tensor:
    """Cho et al. 2014, the reset gate after the recurrent product."""
    h, out = torch.zeros(CASES[name].hidden, dtype=x.dtype), []
    for token in x:
        xr, xz, xn = (p["cell.weight_ih_l0"] @ token + p["cell.bias_ih_l0"]).chunk(3)
        hr, hz, hn = (p["cell.weight_hh_l0"] @ h + p["cell.bias_hh_l0"]).chunk(3)
        r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
        h = (1 - z) * (xn + r * hn).tanh() + z * h
        out.append(h)
    return torch.stack(out) @ p["out_proj.weight"].T


def slow_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.zeros_like(x) if bias is None else bias.expand_as(x).clone()
    for t in range(len(x)):
        for back in range(min(weight.shape[1], t + 1)):
            out[t] = out[t] + weight[:, -1 - back] * x[t - back]
    return out


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def mixed(p: Weights, key: str, x: Tensor, before: Tensor) -> Tensor:
    weight = p[f"shift_{key}.weight"]
    return x * weight + before * (1 - weight)


LOOPS = {
    "mamba": mamba,
    "mamba_jamba": mamba,
    "mamba2": mamba2,
    "s4d": s4,
    "s4_dplr": s4,
    "h3": h3,
    "h3_heads": h3,
    "rwkv4": rwkv4,
    "rwkv4_channel": rwkv4_channel,
    "rwkv7": rwkv7,
    "lstm": lstm,
    "gru": gru,
    "gru_fused": gru,
}


def expected(mixer: nn.Module, x: Tensor, name: str) -> Tensor:
    weights = {key: part.detach().double() for key, part in mixer.named_parameters()}
    return torch.stack([LOOPS[name](weights, row.double(), name) for row in x])


@pytest.mark.parametrize(
    ("name", "native"), [(name, True) for name in CASES] + [(name, False) for name in ("mamba", "mamba_jamba", "rwkv4")]
)
def test_mixer_computes_its_papers_equations(name: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against any wrong term: the loop shares no code with the mixer and runs in float64."""
    if not native:
        monkeypatch.setattr("foundling.models.layers.recurrent_native.library", lambda source: None)
    mixer, x = make(name), inputs(2, TIME)
    with torch.no_grad():
        y = mixer(x, Context.full(2, TIME))
    reference = expected(mixer, x, name)
    assert (y - reference).abs().max() < 1e-5 * max(1.0, float(reference.abs().max()))
