"""Linear time-invariant state spaces: as a convolution kernel for training and as a recurrence for decoding.

Both kinds are x' = A x + B u, y = C x per channel, with a step size of the channel's own. `DiagonalSpace` is S4D
(Gu et al. 2022, arXiv:2206.11893), discretised by zero-order hold; `LowRankSpace` is S4 (Gu et al. 2021,
arXiv:2111.00396), A = diag(l) - P P*, discretised bilinearly. Complex numbers come in conjugate pairs, of which one is
kept. Parameters and states are stored as real tensors with a last dimension of (real, imaginary).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

DT_RANGE = (0.001, 0.1)


class DiagonalSpace(nn.Module):
    """S4D-Lin: A_n = -1/2 + i pi n at first, B = 1."""

    EXACT = ("log_dt", "log_decay", "frequency", "C")

    def __init__(self, channels: int, state: int) -> None:
        super().__init__()
        pairs = state // 2
        self.state_shape: tuple[int, ...] = (channels, pairs, 2)
        self.log_dt = nn.Parameter(torch.empty(channels))
        self.log_decay = nn.Parameter(torch.empty(channels, pairs))
        self.frequency = nn.Parameter(torch.empty(channels, pairs))
        self.C = nn.Parameter(torch.empty(channels, pairs, 2))

    def init_weights(self, generator: torch.Generator) -> None:
        """S4D-Lin (section 4.3) and step sizes log-uniform in DT_RANGE."""
        init_log_dt(self.log_dt, generator)
        nn.init.constant_(self.log_decay, math.log(0.5))
        self.frequency.copy_((math.pi * torch.arange(self.frequency.shape[1])).expand_as(self.frequency))
        nn.init.normal_(self.C, std=0.5**0.5, generator=generator)

    def _discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """log of A-bar, B-bar and C, complex (channels, pairs): exp(dt A), (exp(dt A) - 1) / A."""
        a = torch.complex(-self.log_decay.float().exp(), self.frequency.float())
        log_a = a * self.log_dt.float().exp()[:, None]
        return log_a, torch.expm1(log_a) / a, as_complex(self.C)

    def kernel(self, length: int) -> Tensor:
        """(channels, length): 2 Re sum_n C_n B_n A_n^l.

        With l = i * step + j the powers are A^(i step) A^j: a real matrix product over n, and few exponentials.
        """
        log_a, b, c = self._discrete()
        step = math.isqrt(length - 1) + 1
        coarse = torch.view_as_real((b * c)[..., None] * powers(step * log_a, -(-length // step)))
        fine = torch.view_as_real(powers(log_a, step))
        left = torch.cat([coarse[..., 0], -coarse[..., 1]], 1)  # (channels, 2 pairs, length / step)
        right = torch.cat([fine[..., 0], fine[..., 1]], 1)  # (channels, 2 pairs, step)
        return 2 * (left.mT @ right).flatten(1)[:, :length]

    def resume(self, u: Tensor, before: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Go on from a state.

        Args:
            u: (rows, time, channels, width): `width` inputs of each channel go through the same dynamics.
            before: (rows, width, channels, pairs, 2).
            lengths: (rows,) how many of the inputs count; later ones leave the state alone.

        Returns:
            y, shaped like u, and the state after `lengths` inputs, shaped like before.
        """
        log_a, b, c = self._discrete()
        time, start = u.shape[1], as_complex(before)
        table = powers(log_a, time + 1)  # (channels, pairs, time + 1)
        y = causal_fft_conv(u, self.kernel(time))
        y = y + 2 * torch.einsum("cnt,rwcn->rtcw", c[..., None] * table[..., 1:], start).real
        recent = latest_first(u, lengths).to(b.dtype)
        kept = table.permute(2, 0, 1)[lengths][:, None]  # (rows, 1, channels, pairs)
        after = kept * start + torch.einsum("cnt,rtcw->rwcn", b[..., None] * table[..., :-1], recent)
        return y, torch.view_as_real(after)


class LowRankSpace(nn.Module):
    """S4: HiPPO-LegS as a diagonal plus low-rank matrix. `width` of `resume` as for DiagonalSpace."""

    EXACT = ("log_dt", "log_decay", "frequency", "P", "B", "C")

    def __init__(self, channels: int, state: int) -> None:
        super().__init__()
        pairs = state // 2
        self.state_shape: tuple[int, ...] = (channels, pairs, 2)
        self.log_dt = nn.Parameter(torch.empty(channels))
        self.log_decay = nn.Parameter(torch.empty(channels, pairs))
        self.frequency = nn.Parameter(torch.empty(channels, pairs))
        self.P = nn.Parameter(torch.empty(channels, pairs, 2))
        self.B = nn.Parameter(torch.empty(channels, pairs, 2))
        self.C = nn.Parameter(torch.empty(channels, pairs, 2))

    def init_weights(self, generator: torch.Generator) -> None:
        """HiPPO-LegS in normal plus low-rank form (appendix C.1), the same in every channel; C random."""
        init_log_dt(self.log_dt, generator)
        eigenvalues, p, b = hippo_legs(2 * self.log_decay.shape[1])
        self.log_decay.copy_((-eigenvalues.real).log().expand_as(self.log_decay))
        self.frequency.copy_(eigenvalues.imag.expand_as(self.frequency))
        self.P.copy_(torch.view_as_real(p).expand_as(self.P))
        self.B.copy_(torch.view_as_real(b).expand_as(self.B))
        nn.init.normal_(self.C, std=0.5**0.5, generator=generator)

    def _continuous(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Eigenvalues, P, B, C with both members of each pair (channels, state), and 2 / dt (channels, 1)."""
        half = torch.complex(-self.log_decay.float().exp(), self.frequency.float())
        parts = (half, as_complex(self.P), as_complex(self.B), as_complex(self.C))
        diagonal, p, b, c = (torch.cat([part, part.conj()], -1) for part in parts)
        return diagonal, p, b, c, 2 / self.log_dt.float().exp()[:, None]

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """A-bar (channels, state, state), B-bar and C (channels, state): the bilinear transform (equation 3)."""
        diagonal, p, b, c, rate = self._continuous()
        inner = 1 / (rate - diagonal)
        left, right = inner * p, inner * p.conj()
        left = left / (1 + (p.conj() * left).sum(-1, keepdim=True))
        inverse = torch.diag_embed(inner) - left[..., :, None] * right[..., None, :]  # of 2 / dt - A (Woodbury)
        b_bar = 2 * (inner * b - left * (right * b).sum(-1, keepdim=True))
        one = torch.eye(diagonal.shape[-1], dtype=inverse.dtype, device=inverse.device)
        return 2 * rate[..., None] * inverse - one, b_bar, c

    def kernel(self, length: int) -> Tensor:
        """(channels, length): C A^l B, through its generating function at the roots of unity (algorithm 1).

        The resolvent of a diagonal plus low-rank matrix needs four Cauchy products (Woodbury), each of them linear in
        state and length; the truncation to `length` enters through C (1 - A^length).
        """
        diagonal, p, b, c, rate = self._continuous()
        a_bar, _, _ = self.discrete()
        truncated = c - (c[:, None] @ torch.linalg.matrix_power(a_bar, length))[:, 0]
        angle = -2 * math.pi / length * torch.arange(length // 2 + 1, device=c.device)
        z = torch.polar(torch.ones_like(angle), angle)
        cauchy = 1 / (rate[..., None] * (1 - z) - diagonal[..., None] * (1 + z))  # (channels, state, frequencies)
        left = torch.stack([truncated, p.conj()], 1)[:, :, None]
        weights = (left * torch.stack([b, p], 1)[:, None]).flatten(1, 2)  # (channels, 4, state)
        cb, cp, pb, pp = (weights @ cauchy).unbind(1)
        response = 2 * (cb - (1 + z) * cp * pb / (1 + (1 + z) * pp))
        return torch.fft.irfft(response, n=length)

    def resume(self, u: Tensor, before: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `DiagonalSpace.resume`; powers of the dense A-bar come by doubling."""
        a, b, c = self.discrete()
        time, half = u.shape[1], as_complex(before)
        start = torch.cat([half, half.conj()], -1)  # (rows, width, channels, state)
        y = torch.einsum("ctn,rwcn->rtcw", krylov(a, c, time + 1)[:, 1:], start).real
        inputs = krylov(a.mT, b, time)  # (channels, time, state): A^k B
        y = y + causal_fft_conv(u, (inputs @ c[..., None])[..., 0].real)
        after = apply_power(a, start, lengths)
        after = after + torch.einsum("ctn,rtcw->rwcn", inputs, latest_first(u, lengths).to(b.dtype))
        return y, torch.view_as_real(after[..., : half.shape[-1]].resolve_conj())


def causal_fft_conv(u: Tensor, kernel: Tensor) -> Tensor:
    """y_t = sum_(s<=t) kernel_(t-s) u_s. u: (rows, time, channels, width) float32; kernel: (channels, time)."""
    time = u.shape[1]
    if time == 1:
        return u * kernel
    size = 2 * time
    spectrum = torch.fft.rfft(u.permute(0, 2, 3, 1), n=size) * torch.fft.rfft(kernel, n=size)[:, None]
    return torch.fft.irfft(spectrum, n=size)[..., :time].permute(0, 3, 1, 2)


def as_complex(x: Tensor) -> Tensor:
    """(..., 2) real -> (...) complex64, or complex128 for float64."""
    return torch.view_as_complex((x if x.dtype == torch.float64 else x.float()).contiguous())


def powers(log_a: Tensor, count: int) -> Tensor:
    """exp(k log_a), k = 0 ... count-1, as the last dimension."""
    return torch.exp(log_a[..., None] * torch.arange(count, device=log_a.device))


def krylov(a: Tensor, v: Tensor, count: int) -> Tensor:
    """The rows v, v A, v A^2, ..., count of them, in log2(count) products. a: (channels, n, n); v: (channels, n)."""
    rows = v[:, None]
    while rows.shape[1] < count:
        rows = torch.cat([rows, rows @ a], 1)
        a = a @ a
    return rows[:, :count]


def apply_power(a: Tensor, v: Tensor, exponents: Tensor) -> Tensor:
    """A^e v with an exponent for each row, bit by bit. a: (channels, n, n); v: (rows, width, channels, n)."""
    for bit in range(int(exponents.max()).bit_length()):
        taken = ((exponents >> bit) & 1).bool()[:, None, None, None]
        v = torch.where(taken, torch.einsum("cmn,rwcn->rwcm", a, v), v)
        a = a @ a
    return v


def latest_first(u: Tensor, lengths: Tensor) -> Tensor:
    """Entry k is the input k steps before the row's last valid one, zero before the call. u: (rows, time, ...)."""
    index = lengths[:, None] - 1 - torch.arange(u.shape[1], device=u.device)
    index = index.view(*index.shape, *[1] * (u.dim() - 2))
    return u.gather(1, index.clamp(min=0).expand_as(u)) * (index >= 0)


def init_log_dt(log_dt: Tensor, generator: torch.Generator) -> None:
    """Step sizes log-uniform in DT_RANGE."""
    low, high = (math.log(end) for end in DT_RANGE)
    nn.init.uniform_(log_dt, low, high, generator=generator)


def hippo_legs(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """HiPPO-LegS as diag(l) - P P*: l, P and B of one member of each conjugate pair, complex128 (n / 2,).

    A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it; A + P P^T with P_n = sqrt(n + 1/2) is normal.
    """
    index = torch.arange(n, dtype=torch.float64)
    root = (2 * index + 1).sqrt()
    a = -(root[:, None] * root).tril(-1) - torch.diag(index + 1)
    p = (index + 0.5).sqrt()
    skew = a + p[:, None] * p + 0.5 * torch.eye(n, dtype=torch.float64)
    frequencies, vectors = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    keep = frequencies > 0
    basis = vectors[:, keep].mH
    eigenvalues = torch.complex(torch.full_like(frequencies[keep], -0.5), frequencies[keep])
    return eigenvalues, basis @ p.to(basis.dtype), basis @ root.to(basis.dtype)
