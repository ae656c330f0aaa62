"""The selective scan as one fused CPU kernel, forward and backward (float32).

As in Mamba's own CUDA kernel (section 3.3.2, appendix D) the (time, dim, state) tensors are never written to memory:
the forward pass keeps the state at every chunk's start, and the backward pass recomputes the states inside a chunk from
it. Sixteen channels make one vector; the loop over time is inside the C code, the state in registers and nearest cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foundling.models.layers import recurrent_native as native

CHUNK = 32
MAX_STATE = 256

SOURCE = (
    native.VECTORS
    + r"""
#define CHUNK 32
#define MAXN 256
/* One row, channels [d0, d1). a is (state, dim); starts (chunks, state, dim) receives the state before each chunk. */
static inline __attribute__((always_inline)) void forward_body(const float *x, const float *dt, const float *a,
        const float *b, const float *c, const uint8_t *reset, float *state, float *starts, float *y,
        int64_t T, int64_t D, int64_t d0, int64_t d1, int N) {
    for (int64_t d = d0; d < d1; d += W) {
        int n_d = d1 - d < W ? d1 - d : W;
        vec h[MAXN], av[MAXN];
        for (int n = 0; n < N; n++) { h[n] = load(state + n * D + d, n_d); av[n] = load(a + n * D + d, n_d); }
        for (int64_t t = 0; t < T; t++) {
            if (starts && t % CHUNK == 0)
                for (int n = 0; n < N; n++) store(starts + (t / CHUNK * N + n) * D + d, h[n], n_d);
            vec dtv = load(dt + t * D + d, n_d), xv = dtv * load(x + t * D + d, n_d), out = {0};
            float keep = reset && reset[t] ? 0.0f : 1.0f;
            for (int n = 0; n < N; n++) {
                h[n] = vexp(dtv * av[n]) * keep * h[n] + xv * b[t * N + n];
                out += h[n] * c[t * N + n];
            }
            store(y + t * D + d, out, n_d);
        }
        for (int n = 0; n < N; n++) store(state + n * D + d, h[n], n_d);
    }
}

/* g_state: in, the gradient of the last state; out, of the initial one. g_b and g_c (time, state) are added to. */
static inline __attribute__((always_inline)) void backward_body(const float *x, const float *dt, const float *a,
        const float *b, const float *c, const uint8_t *reset, const float *starts, const float *g_y, float *g_state,
        float *g_x, float *g_dt, float *g_a, float *g_b, float *g_c, vec *work,
        int64_t T, int64_t D, int64_t d0, int64_t d1, int N) {
    vec *hs = work, *decays = hs + (CHUNK + 1) * N, *gb = decays + CHUNK * N, *gc = gb + CHUNK * N;
    vec *carry = gc + CHUNK * N, *ga = carry + N * ((d1 - d0 + W - 1) / W);
    for (int64_t d = d0, i = 0; d < d1; d += W, i++)
        for (int n = 0; n < N; n++) {
            int n_d = d1 - d < W ? d1 - d : W;
            carry[i * N + n] = load(g_state + n * D + d, n_d);
            ga[i * N + n] = (vec){0};
        }
    for (int64_t first = (T - 1) / CHUNK * CHUNK; first >= 0; first -= CHUNK) {
        int64_t steps = T - first < CHUNK ? T - first : CHUNK;
        memset(gb, 0, sizeof(vec) * 2 * CHUNK * N);
        for (int64_t d = d0, i = 0; d < d1; d += W, i++) {
            int n_d = d1 - d < W ? d1 - d : W;
            for (int n = 0; n < N; n++) hs[n] = load(starts + (first / CHUNK * N + n) * D + d, n_d);
            for (int64_t s = 0; s < steps; s++) {
                int64_t t = first + s;
                vec dtv = load(dt + t * D + d, n_d), xv = dtv * load(x + t * D + d, n_d);
                float keep = reset && reset[t] ? 0.0f : 1.0f;
                for (int n = 0; n < N; n++) {
                    vec decay = vexp(dtv * load(a + n * D + d, n_d)) * keep;
                    decays[s * N + n] = decay;
                    hs[(s + 1) * N + n] = decay * hs[s * N + n] + xv * b[t * N + n];
                }
            }
            for (int64_t s = steps - 1; s >= 0; s--) {
                int64_t t = first + s;
                vec dtv = load(dt + t * D + d, n_d), xv = load(x + t * D + d, n_d), gy = load(g_y + t * D + d, n_d);
                vec entered = {0}, exponent = {0};
                for (int n = 0; n < N; n++) {
                    vec g = carry[i * N + n] + gy * c[t * N + n], decay = decays[s * N + n];
                    gc[s * N + n] += gy * hs[(s + 1) * N + n];
                    gb[s * N + n] += g * dtv * xv;
                    entered += g * b[t * N + n];
                    vec g_log = g * hs[s * N + n] * decay;
                    exponent += g_log * load(a + n * D + d, n_d);
                    ga[i * N + n] += g_log * dtv;
                    carry[i * N + n] = g * decay;
                }
                store(g_x + t * D + d, entered * dtv, n_d);
                store(g_dt + t * D + d, entered * xv + exponent, n_d);
            }
        }
        for (int64_t s = 0; s < steps; s++)
            for (int n = 0; n < N; n++) {
                g_b[(first + s) * N + n] = sum(gb[s * N + n]);
                g_c[(first + s) * N + n] = sum(gc[s * N + n]);
            }
    }
    for (int64_t d = d0, i = 0; d < d1; d += W, i++)
        for (int n = 0; n < N; n++) {
            int n_d = d1 - d < W ? d1 - d : W;
            store(g_state + n * D + d, carry[i * N + n], n_d);
            store(g_a + n * D + d, ga[i * N + n], n_d);
        }
}

void scan_forward(const float *x, const float *dt, const float *a, const float *b, const float *c,
        const uint8_t *reset, float *state, float *starts, float *y,
        int64_t T, int64_t D, int64_t d0, int64_t d1, int64_t N) {
    if (N == 16) forward_body(x, dt, a, b, c, reset, state, starts, y, T, D, d0, d1, 16);
    else forward_body(x, dt, a, b, c, reset, state, starts, y, T, D, d0, d1, (int)N);
}
void scan_backward(const float *x, const float *dt, const float *a, const float *b, const float *c,
        const uint8_t *reset, const float *starts, const float *g_y, float *g_state,
        float *g_x, float *g_dt, float *g_a, float *g_b, float *g_c, void *work,
        int64_t T, int64_t D, int64_t d0, int64_t d1, int64_t N) {
    vec *w = (vec *)(((uintptr_t)work + 63) / 64 * 64);
#define RUN(n) backward_body(x, dt, a, b, c, reset, starts, g_y, g_state, g_x, g_dt, g_a, g_b, g_c, w, T, D, d0, d1, n)
    if (N == 16) RUN(16); else RUN((int)N);
}
"""
)


def available() -> bool:
    """Whether the kernel could be built here."""
    return native.library(SOURCE) is not None


def scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, resets: Tensor | None, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`mamba_scan.selective_scan` for float32 CPU tensors; needs `available()`."""
    if a.shape[1] > MAX_STATE:
        raise ValueError(f"the selective scan kernel holds at most {MAX_STATE} states per channel, not {a.shape[1]}")
    if initial is None:
        initial = x.new_zeros(x.shape[0], x.shape[2], a.shape[1])
    return _Scan.apply(x, dt, a, b, c, resets, initial)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, resets: Tensor | None, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, dt, b, c = (part.contiguous() for part in (x, dt, b, c))
        a_t, state = a.t().contiguous(), initial.transpose(1, 2).contiguous().clone()
        reset = None if resets is None else resets.to(torch.uint8).contiguous()
        rows, time, dim = x.shape
        n, y = a.shape[1], torch.empty_like(x)
        starts = x.new_empty(rows, -(-time // CHUNK), n, dim) if any(ctx.needs_input_grad) else None
        tasks = []
        for row, low, high in native.shares(rows, dim):
            inputs = *native.row_pointers(row, x, dt), native.pointer(a_t), *native.row_pointers(row, b, c, reset)
            outputs = native.row_pointers(row, state, starts, y)
            tasks.append((*inputs, *outputs, *native.sizes(time, dim, low, high, n)))
        native.run_tasks(native.built(SOURCE).scan_forward, tasks)
        ctx.save_for_backward(x, dt, a_t, b, c, reset, starts)
        return y, state.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_last: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, dt, a_t, b, c, reset, starts = ctx.saved_tensors
        rows, time, dim = x.shape
        n, shares = a_t.shape[0], native.shares(rows, dim)
        g_y, g_state = g_y.contiguous(), g_last.transpose(1, 2).contiguous().clone()
        g_x, g_dt, g_a = torch.empty_like(x), torch.empty_like(x), x.new_empty(rows, n, dim)
        g_b, g_c = x.new_empty(len(shares), time, n), x.new_empty(len(shares), time, n)
        tasks, scratch = [], []
        for index, (row, low, high) in enumerate(shares):
            blocks = -(-(high - low) // native.LANES)
            scratch.append(x.new_empty(native.LANES * (n * (4 * CHUNK + 1 + 2 * blocks) + 1)))
            inputs = (
                *native.row_pointers(row, x, dt),
                native.pointer(a_t),
                *native.row_pointers(row, b, c, reset, starts),
            )
            outputs = *native.row_pointers(row, g_y, g_state, g_x, g_dt, g_a), *native.row_pointers(index, g_b, g_c)
            tasks.append((*inputs, *outputs, native.pointer(scratch[-1]), *native.sizes(time, dim, low, high, n)))
        native.run_tasks(native.built(SOURCE).scan_backward, tasks)
        g_b, g_c = (part.view(rows, -1, time, n).sum(1) for part in (g_b, g_c))
        return g_x, g_dt, g_a.sum(0).t(), g_b, g_c, None, g_state.transpose(1, 2)
