"""GRU over whole documents as a fused CPU kernel (float32), forward and backward.

torch hands LSTM to oneDNN but steps through a GRU operator by operator. Here the inputs' projections are one matrix
product before, the weights' gradients one after, and only the recurrence itself is in the loop over time:

    r, z = sigmoid(inside + across)     n = tanh(inside_n + r * across_n)     h' = (1 - z) n + z h
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.models.layers import recurrent_native as native

PANEL = 32  # columns of the recurrent matrix that are packed together
ROWS = 4  # rows of the batch that share a reading of it
_pointer = native.pointer

SOURCE = (
    native.VECTORS
    + r"""
#include <stdlib.h>
#define ROWS 4
static inline vec sigmoid(vec x) {
    vec e = vexp((vec)((ivec)x | (int32_t)0x80000000));
    ivec positive = x >= 0.0f;
    vec top = (vec)(((ivec)((vec){0} + 1.0f) & positive) | ((ivec)e & ~positive));
    return top / (1.0f + e);
}
/* out (ROWS, M) += in (ROWS, K) times panels (M / 32, K, 32) */
static inline void multiply(const float *in, const float *panels, float *out, int64_t K, int64_t M) {
    for (int64_t j = 0; j < M; j += 2 * W, panels += K * 2 * W) {
        vec acc[ROWS][2];
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < 2; i++) acc[r][i] = load(out + r * M + j + i * W, W);
        for (int64_t k = 0; k < K; k++) {
            vec left = load(panels + k * 2 * W, W), right = load(panels + k * 2 * W + W, W);
            for (int r = 0; r < ROWS; r++) {
                acc[r][0] += in[r * K + k] * left;
                acc[r][1] += in[r * K + k] * right;
            }
        }
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < 2; i++) store(out + r * M + j + i * W, acc[r][i], W);
    }
}
/* Rows [r0, r1). inside, gates (rows, T, 3H); y, across_n (rows, T, H). */
void gru_forward(const float *inside, const float *panels, const float *bias, const uint8_t *reset,
        float *y, float *gates, float *across_n, int64_t T, int64_t H, int64_t r0, int64_t r1) {
    float *h = calloc(ROWS * H, 4), *across = malloc(ROWS * 3 * H * 4);
    for (int64_t t = 0; t < T; t++) {
        for (int64_t r = r0; r < r1; r++) {
            if (reset && reset[r * T + t]) memset(h + (r - r0) * H, 0, H * 4);
        }
        for (int r = 0; r < ROWS; r++) memcpy(across + r * 3 * H, bias, 3 * H * 4);
        multiply(h, panels, across, H, 3 * H);
        for (int64_t r = r0; r < r1; r++) {
            const float *in = inside + (r * T + t) * 3 * H, *a = across + (r - r0) * 3 * H;
            float *g = gates + (r * T + t) * 3 * H, *own = h + (r - r0) * H;
            for (int64_t d = 0; d < H; d += W) {
                vec reset_gate = sigmoid(load(in + d, W) + load(a + d, W));
                vec update = sigmoid(load(in + H + d, W) + load(a + H + d, W));
                vec carried = load(a + 2 * H + d, W);
                vec fresh = 2.0f * sigmoid(2.0f * (load(in + 2 * H + d, W) + reset_gate * carried)) - 1.0f;
                vec next = fresh + update * (load(own + d, W) - fresh);
                store(g + d, reset_gate, W); store(g + H + d, update, W); store(g + 2 * H + d, fresh, W);
                store(across_n + (r * T + t) * H + d, carried, W);
                store(own + d, next, W); store(y + (r * T + t) * H + d, next, W);
            }
        }
    }
    free(h); free(across);
}
/* panels: of W (3H, H). g_inside (rows, T, 3H); g_across_n (rows, T, H): as g_inside's last third, before the gate. */
void gru_backward(const float *panels, const uint8_t *reset, const float *y, const float *gates, const float *across_n,
        const float *g_y, float *g_inside, float *g_across_n, int64_t T, int64_t H, int64_t r0, int64_t r1) {
    float *carry = calloc(ROWS * H, 4), *g = calloc(ROWS * 3 * H, 4);
    for (int64_t t = T - 1; t >= 0; t--) {
        for (int64_t r = r0; r < r1; r++) {
            int64_t at = r * T + t;
            int fresh_start = t == 0 || (reset && reset[at]);
            float *own = carry + (r - r0) * H, *ga = g + (r - r0) * 3 * H, *gi = g_inside + at * 3 * H;
            for (int64_t d = 0; d < H; d += W) {
                vec gate = load(gates + at * 3 * H + d, W), update = load(gates + at * 3 * H + H + d, W);
                vec fresh = load(gates + at * 3 * H + 2 * H + d, W), gh = load(g_y + at * H + d, W) + load(own + d, W);
                vec before = {0};
                if (!fresh_start) before = load(y + (at - 1) * H + d, W);
                vec gn = gh * (1.0f - update) * (1.0f - fresh * fresh);
                vec gz = gh * (before - fresh) * update * (1.0f - update);
                vec gr = gn * load(across_n + at * H + d, W) * gate * (1.0f - gate);
                store(gi + d, gr, W); store(gi + H + d, gz, W); store(gi + 2 * H + d, gn, W);
                store(ga + d, gr, W); store(ga + H + d, gz, W); store(ga + 2 * H + d, gn * gate, W);
                store(g_across_n + at * H + d, gn * gate, W);
                store(own + d, gh * update, W);
            }
        }
        multiply(g, panels, carry, 3 * H, H);
        for (int64_t r = r0; r < r1; r++)
            if (reset && reset[r * T + t]) memset(carry + (r - r0) * H, 0, H * 4);
    }
    free(carry); free(g);
}
"""
)


def suits(cell: nn.GRU, x: Tensor) -> bool:
    """Whether the kernel can run this cell on x (rows, time, dim)."""
    fits = cell.hidden_size % PANEL == 0 and x.device.type == "cpu" and x.dtype == torch.float32
    return fits and not torch.is_autocast_enabled("cpu") and native.library(SOURCE) is not None


def run(cell: nn.GRU, x: Tensor, resets: Tensor | None) -> Tensor:
    """The cell over x (rows, time, dim) from zero states, dropped where `resets` (rows, time): (rows, time, hidden)."""
    weights = dict(cell.named_parameters())
    inside = F.linear(x, weights["weight_ih_l0"], weights["bias_ih_l0"])
    y: Tensor = _GRU.apply(inside, weights["weight_hh_l0"], weights["bias_hh_l0"], resets)
    return y


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inside: Tensor, weight: Tensor, bias: Tensor, resets: Tensor | None) -> Tensor:
        inside, bias = inside.contiguous(), bias.contiguous()
        reset = None if resets is None else resets.to(torch.uint8).contiguous()
        rows, time, width = inside.shape
        y, gates = inside.new_empty(rows, time, width // 3), torch.empty_like(inside)
        across_n = torch.empty_like(y)
        packed = _panels(weight.t())
        fixed = [_pointer(part) for part in (inside, packed, bias, reset, y, gates, across_n)]
        native.run_tasks(native.built(SOURCE).gru_forward, _tasks(fixed, rows, time, width // 3))
        ctx.save_for_backward(weight, reset, y, gates, across_n)
        return y

    @staticmethod
    def backward(ctx: Any, g_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, reset, y, gates, across_n = ctx.saved_tensors
        rows, time, hidden = y.shape
        g_y, packed = g_y.contiguous(), _panels(weight)
        g_inside, g_across = torch.empty_like(gates), torch.empty_like(y)
        fixed = [_pointer(part) for part in (packed, reset, y, gates, across_n, g_y, g_inside, g_across)]
        native.run_tasks(native.built(SOURCE).gru_backward, _tasks(fixed, rows, time, hidden))
        before = F.pad(y[:, :-1], (0, 0, 1, 0))
        if reset is not None:
            before = before.masked_fill(reset.bool()[..., None], 0.0)
        across = torch.cat([g_inside[..., : 2 * hidden], g_across], -1).flatten(0, 1)
        return g_inside, across.t() @ before.flatten(0, 1), across.sum(0), None


def _panels(matrix: Tensor) -> Tensor:
    """(k, m) -> (m / PANEL, k, PANEL), contiguous."""
    return matrix.detach().unflatten(1, (-1, PANEL)).transpose(0, 1).contiguous()


def _tasks(fixed: list[Any], rows: int, time: int, hidden: int) -> list[tuple[Any, ...]]:
    size = min(ROWS, -(-rows // torch.get_num_threads()))
    return [(*fixed, *native.sizes(time, hidden, first, min(first + size, rows))) for first in range(0, rows, size)]
