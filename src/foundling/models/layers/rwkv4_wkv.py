"""RWKV-4's weighted mean of the past, in parallel form and as a fused CPU kernel.

Equation 16: position t sees the values s < t with weight exp(k_s + (t - 1 - s) w) and its own with exp(u + k_t):

    y_t = softmax-weighted mean of {v_s, v_t}

So the past is two numbers per channel, which never overflow: the log of its total weight, L, and its mean, V:

    y_t = mix(V, v_t, sigmoid(u + k_t - L))          mix(a, b, p) = a + p (b - a)
    V'  = mix(V, v_t, sigmoid(k_t - L - w)),   L' = log(exp(L + w) + exp(k_t))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foundling.models.layers import gpu_kernels
from foundling.models.layers import recurrent_native as native

EMPTY = -1e30  # the log weight of nothing
CHUNK = 16
_pointer = native.pointer

SOURCE = (
    native.VECTORS
    + r"""
static inline vec magnitude(vec x) { return (vec)((ivec)x & 0x7fffffff); }
/* sigmoid(x) from e = exp(-|x|) */
static inline vec sigmoid_of(vec x, vec e) {
    ivec positive = x >= 0.0f;
    vec top = (vec)(((ivec)((vec){0} + 1.0f) & positive) | ((ivec)e & ~positive));
    return top / (1.0f + e);
}
/* log(1 + e) for e in [0, 1]: 2 atanh(e / (2 + e)) */
static inline vec log1p_unit(vec e) {
    vec z = e / (2.0f + e), q = z * z, p = q * 0.0769230769f + 0.0909090909f;
    p = p * q + 0.111111111f; p = p * q + 0.142857143f; p = p * q + 0.2f; p = p * q + 0.333333333f; p = p * q + 1.0f;
    return 2.0f * z * p;
}
static inline vec larger(vec a, vec b) { ivec m = a >= b; return (vec)(((ivec)a & m) | ((ivec)b & ~m)); }

/* One row. logs and means (T, D) receive the past that each position sees; state (2, D) is L then V, in and out. */
void wkv_forward(const float *k, const float *v, const float *w, const float *u, const uint8_t *reset,
        float *state, float *logs, float *means, float *y, int64_t T, int64_t D, int64_t d0, int64_t d1) {
    for (int64_t d = d0; d < d1; d += W) {
        int n = d1 - d < W ? d1 - d : W;
        vec L = load(state + d, n), V = load(state + D + d, n), wv = load(w + d, n), uv = load(u + d, n);
        for (int64_t t = 0; t < T; t++) {
            if (reset && reset[t]) { L = (vec){0} - 1e30f; V = (vec){0}; }
            vec kv = load(k + t * D + d, n), vv = load(v + t * D + d, n);
            if (logs) { store(logs + t * D + d, L, n); store(means + t * D + d, V, n); }
            vec x = uv + kv - L;
            store(y + t * D + d, V + sigmoid_of(x, vexp(-magnitude(x))) * (vv - V), n);
            L = L + wv; x = kv - L;
            vec e = vexp(-magnitude(x));
            V = V + sigmoid_of(x, e) * (vv - V);
            L = larger(L, kv) + log1p_unit(e);
        }
        store(state + d, L, n); store(state + D + d, V, n);
    }
}
/* g_state: in, the gradients of the last L and V; out, of the first. g_w and g_u (D) are written. */
void wkv_backward(const float *k, const float *v, const float *w, const float *u, const uint8_t *reset,
        const float *logs, const float *means, const float *g_y, float *g_state,
        float *g_k, float *g_v, float *g_w, float *g_u, int64_t T, int64_t D, int64_t d0, int64_t d1) {
    for (int64_t d = d0; d < d1; d += W) {
        int n = d1 - d < W ? d1 - d : W;
        vec gL = load(g_state + d, n), gV = load(g_state + D + d, n), gw = {0}, gu = {0};
        vec wv = load(w + d, n), uv = load(u + d, n);
        for (int64_t t = T - 1; t >= 0; t--) {
            vec kv = load(k + t * D + d, n), vv = load(v + t * D + d, n), gy = load(g_y + t * D + d, n);
            vec L = load(logs + t * D + d, n), gap = vv - load(means + t * D + d, n);
            vec x = uv + kv - L, now = sigmoid_of(x, vexp(-magnitude(x)));
            x = kv - L - wv;
            vec kept = sigmoid_of(x, vexp(-magnitude(x)));
            vec g_now = gy * gap * now * (1.0f - now), g_kept = gV * gap * kept * (1.0f - kept);
            vec past = gL * (1.0f - kept);
            store(g_v + t * D + d, gV * kept + gy * now, n);
            store(g_k + t * D + d, g_now + g_kept + gL * kept, n);
            gu += g_now;
            gw += past - g_kept;
            gV = gV * (1.0f - kept) + gy * (1.0f - now);
            gL = past - g_now - g_kept;
            if (reset && reset[t]) { gL = (vec){0}; gV = (vec){0}; }
        }
        store(g_state + d, gL, n); store(g_state + D + d, gV, n);
        store(g_w + d, gw, n); store(g_u + d, gu, n);
    }
}
"""
)


def wkv(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    *,
    resets: Tensor | None = None,
    initial: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The weighted mean above, with a fused kernel where there is one.

    Args:
        k: (rows, time, dim) log weights; v: (rows, time, dim) values.
        w: (dim,) negative, the log decay of a step; u: (dim,) what a token's own weight gains.
        resets: (rows, time) bool, True where the past is dropped before the token.
        initial: L and V, each (rows, dim); nothing if None.

    Returns:
        y (rows, time, dim) and the last L and V.
    """
    if initial is None:
        initial = (k.new_full((k.shape[0], k.shape[2]), EMPTY), k.new_zeros(k.shape[0], k.shape[2]))
    on_cpu = k.device.type == "cpu" and k.dtype == torch.float32
    if on_cpu and native.library(SOURCE) is not None:
        y, log, mean = _WKV.apply(k, v, w, u, resets, *initial)
        return y, (log, mean)
    fused = gpu_kernels.wkv_kernel(k, resets, initial)
    if fused is not None:
        return gpu_kernels.wkv(fused, k, v, w, u, initial)
    return chunked_wkv(k, v, w, u, resets, initial)


def state_after(k: Tensor, v: Tensor, w: Tensor, lengths: Tensor, initial: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """L and V after each row's first `lengths` (rows,) tokens; `k` of the others is EMPTY. Arguments as of `wkv`.

    Not what `wkv` leaves after all of them: there padding has decayed the state, by up to 20 a step,
    and a sum that has come to -40,000 does not find back.
    """
    age = (lengths[:, None] - 1 - torch.arange(k.shape[1], device=k.device)).clamp_min(0)
    logs = torch.cat([(initial[0] + lengths[:, None] * w)[:, None], k + age[..., None] * w], 1)  # (rows, 1 + time, dim)
    return logs.logsumexp(1), (logs.softmax(1) * torch.cat([initial[1][:, None], v], 1)).sum(1)


def chunked_wkv(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, resets: Tensor | None, initial: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`wkv` in plain torch operations: a softmax over the sources inside each chunk and what is carried into it."""
    rows, time, dim = k.shape
    length = min(CHUNK, time)
    padding = -time % length
    k_c = F.pad(k, (0, 0, 0, padding), value=EMPTY).view(rows, -1, length, dim)
    v_c = F.pad(v, (0, 0, 0, padding)).view(rows, -1, length, dim)
    starts = k.new_zeros(rows, time, dtype=torch.bool) if resets is None else resets
    document = F.pad(starts, (0, padding)).view(rows, -1, length).cumsum(-1)  # 0 until the chunk's first reset
    step = torch.arange(length, device=k.device)

    in_last = (document == document[..., -1:])[..., None]
    own = (k_c + (length - 1 - step)[:, None] * w).masked_fill(~in_last, EMPTY)
    own_log, own_mean = own.logsumexp(2), (own.softmax(2) * v_c).sum(2)  # (rows, chunks, dim)
    untouched = (document[..., -1] == 0)[..., None]
    logs, means = [], []
    log, mean = initial
    for chunk in range(k_c.shape[1]):
        logs.append(log)
        means.append(mean)
        log = torch.where(untouched[:, chunk], log + length * w, EMPTY)
        mean = mean + (own_log[:, chunk] - log).sigmoid() * (own_mean[:, chunk] - mean)
        log = torch.logaddexp(log, own_log[:, chunk])

    distance = step[:, None] - 1 - step  # (target, source)
    weights = k_c[:, :, None] + torch.where(distance[..., None] < 0, u, distance[..., None] * w)
    seen = (step[:, None] >= step) & (document[..., :, None] == document[..., None, :])
    weights = weights.masked_fill(~seen[..., None], EMPTY)  # (rows, chunks, target, source, dim)
    carried = torch.stack(logs, 1)[:, :, None] + step[:, None] * w
    carried = carried.masked_fill((document != 0)[..., None], EMPTY)
    share = torch.cat([carried[:, :, :, None], weights], 3).softmax(3)
    y = share[:, :, :, 0] * torch.stack(means, 1)[:, :, None] + (share[:, :, :, 1:] * v_c[:, :, None]).sum(3)
    return y.view(rows, -1, dim)[:, :time], (log - padding * w, mean)


class _WKV(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, k: Tensor, v: Tensor, w: Tensor, u: Tensor, resets: Tensor | None, log: Tensor, mean: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        k, v, w, u = (part.contiguous() for part in (k, v, w, u))
        reset = None if resets is None else resets.to(torch.uint8).contiguous()
        state, y = torch.stack([log, mean], 1), torch.empty_like(k)
        keep = any(ctx.needs_input_grad)
        logs, means = (torch.empty_like(k), torch.empty_like(k)) if keep else (None, None)
        tasks = []
        for row, low, high in native.shares(k.shape[0], k.shape[2]):
            parts = (
                native.row_pointers(row, k, v),
                (_pointer(w), _pointer(u)),
                native.row_pointers(row, reset, state, logs, means, y),
            )
            tasks.append((*parts[0], *parts[1], *parts[2], *native.sizes(*k.shape[1:], low, high)))
        native.run_tasks(native.built(SOURCE).wkv_forward, tasks)
        ctx.save_for_backward(k, v, w, u, reset, logs, means)
        return y, state[:, 0], state[:, 1]

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_log: Tensor, g_mean: Tensor) -> tuple[Tensor | None, ...]:
        k, v, w, u, reset, logs, means = ctx.saved_tensors
        g_y, g_state = g_y.contiguous(), torch.stack([g_log, g_mean], 1)
        g_k, g_v = torch.empty_like(k), torch.empty_like(v)
        g_w, g_u = (k.new_empty(k.shape[0], k.shape[2]) for _ in range(2))
        tasks = []
        for row, low, high in native.shares(k.shape[0], k.shape[2]):
            inputs = (
                *native.row_pointers(row, k, v),
                _pointer(w),
                _pointer(u),
                *native.row_pointers(row, reset, logs, means, g_y),
            )
            outputs = native.row_pointers(row, g_state, g_k, g_v, g_w, g_u)
            tasks.append((*inputs, *outputs, *native.sizes(*k.shape[1:], low, high)))
        native.run_tasks(native.built(SOURCE).wkv_backward, tasks)
        return g_k, g_v, g_w.sum(0), g_u.sum(0), None, g_state[:, 0], g_state[:, 1]
