/* Passes over memory of a training step, forward and backward, that torch makes of several operators each.

Numbers are float32 or bfloat16, computed in float32 and rounded once. Sums over rows are kept by each thread apart. */

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

INLINE vec get_some(const void *p, int64_t at, int count, float rest, int bf16) {
    if (count >= LANES) return get(p, at, bf16);
    vec v = splat(rest);
    for (int i = 0; i < count; i++) {
        uint32_t bits = bf16 ? (uint32_t)((const uint16_t *)p)[at + i] << 16 : ((const uint32_t *)p)[at + i];
        memcpy((float *)&v + i, &bits, sizeof bits);
    }
    return v;
}

INLINE void put_some(void *p, int64_t at, vec v, int count, int bf16) {
    if (count >= LANES) {
        put(p, at, v, bf16);
        return;
    }
    char whole[4 * LANES];
    int size = bf16 ? 2 : 4;
    put(whole, 0, v, bf16);
    memcpy((char *)p + at * size, whole, (size_t)count * size);
}

/* --- RMSNorm: y = x / rms(x) * w, so with n = x / rms(x): dw = sum g n, dx = (g w - n mean(g w n)) / rms(x) --- */

INLINE void norm_gradient(const void *x, const float *weight, const void *g, void *g_x, float *g_weight, int64_t at,
                          int64_t dim, float eps, int bf16) {
    vec squares = {0}, products = {0};
    for (int64_t i = 0; i < dim; i += LANES) {
        vec v = get(x, at + i, bf16);
        squares = fma16(v, v, squares);
        products = fma16(v, get(g, at + i, bf16) * load(weight + i), products);
    }
    float scale = 1.0f / sqrtf(sum(squares) / (float)dim + eps), mean = sum(products) * scale * scale / (float)dim;
    for (int64_t i = 0; i < dim; i += LANES) {
        vec v = get(x, at + i, bf16), gradient = get(g, at + i, bf16);
        store(g_weight + i, fma16(gradient, v * scale, load(g_weight + i)));
        put(g_x, at + i, (gradient * load(weight + i) - v * mean) * scale, bf16);
    }
}

/* g_weight (threads, dim), zero before, receives each thread's sum. */
void rms_norm_gradient(const void *x, const float *weight, const void *g, void *g_x, float *g_weight, int64_t rows,
                       int64_t dim, float eps, int bf16, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *own = g_weight + THREAD * dim;
        if (bf16) norm_gradient(x, weight, g, g_x, own, r * dim, dim, eps, 1);
        else norm_gradient(x, weight, g, g_x, own, r * dim, dim, eps, 0);
    }
}

/* --- rotary positions: pairs (x_i, x_{i + width / 2}) turned by their angle, or back with sign -1 --- */

INLINE void turn(const void *x, const void *cosine, const void *sine, void *y, int64_t at, int64_t token, int64_t width,
                 float sign, int bf16) {
    int64_t half = width / 2;
    for (int64_t i = 0; i < half; i += LANES) {
        vec a = get(x, at + i, bf16), b = get(x, at + half + i, bf16);
        vec first = get(sine, token + i, bf16) * sign, second = get(sine, token + half + i, bf16) * sign;
        put(y, at + i, fma16(a, get(cosine, token + i, bf16), b * first), bf16);
        put(y, at + half + i, fma16(b, get(cosine, token + half + i, bf16), a * second), bf16);
    }
}

/* x and y (tokens, heads, width), cosines and signed sines (tokens, width). */
void turn_heads(const void *x, const void *cosine, const void *sine, void *y, int64_t tokens, int64_t heads,
                int64_t width, float sign, int bf16, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++) {
            int64_t at = (t * heads + h) * width;
            if (bf16) turn(x, cosine, sine, y, at, t * width, width, sign, 1);
            else turn(x, cosine, sine, y, at, t * width, width, sign, 0);
        }
}

/* --- gated feed-forward: y = silu(gate) up --- */

INLINE void gated(const void *gate, const void *up, void *y, int64_t i, int bf16) {
    put(y, i, silu(get(gate, i, bf16)) * get(up, i, bf16), bf16);
}

INLINE void gated_back(const void *gate, const void *up, const void *g, void *g_gate, void *g_up, int64_t i, int bf16) {
    vec x = get(gate, i, bf16), gradient = get(g, i, bf16), s = 1.0f / (1.0f + vexp(-x)), value = x * s;
    put(g_up, i, gradient * value, bf16);
    put(g_gate, i, gradient * get(up, i, bf16) * (s + value * (1.0f - s)), bf16);
}

/* `count` numbers each, a multiple of 16. */
void silu_gate(const void *gate, const void *up, void *y, int64_t count, int bf16, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i += LANES) {
        if (bf16) gated(gate, up, y, i, 1);
        else gated(gate, up, y, i, 0);
    }
}

void silu_gate_gradient(const void *gate, const void *up, const void *g, void *g_gate, void *g_up, int64_t count,
                        int bf16, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i += LANES) {
        if (bf16) gated_back(gate, up, g, g_gate, g_up, i, 1);
        else gated_back(gate, up, g, g_gate, g_up, i, 0);
    }
}

/* --- cross entropy: loss = weight (log Z - logit of the target + z log² Z), and its gradient --- */

INLINE float row_loss(const void *logits, void *gradient, int64_t at, int64_t target, float weight, float z, float *exps,
                      int64_t vocab, int bf16) {
    vec most = splat(-INFINITY), total = {0};
    for (int64_t j = 0; j < vocab; j += LANES)
        most = vmax(most, get_some(logits, at + j, (int)(vocab - j), -INFINITY, bf16));
    float largest_logit = largest(most);
    for (int64_t j = 0; j < vocab; j += LANES) {
        vec e = vexp(get_some(logits, at + j, (int)(vocab - j), -INFINITY, bf16) - largest_logit);
        store(exps + j, e);
        total += e;
    }
    float log_z = largest_logit + logf(sum(total)), factor = weight * (1.0f + 2.0f * z * log_z) / sum(total);
    float picked = get_some(logits, at + target, 1, 0.0f, bf16)[0];
    for (int64_t j = 0; j < vocab; j += LANES)
        put_some(gradient, at + j, load(exps + j) * factor, (int)(vocab - j), bf16);
    put_some(gradient, at + target, splat(exps[target] * factor - weight), 1, bf16);
    return weight * (log_z - picked + z * log_z * log_z);
}

/* logits and gradient (rows, vocab); losses (rows); exps (threads, vocab rounded up to 16) is work space. */
void cross_entropy(const void *logits, const int64_t *targets, const float *weights, void *gradient, float *losses,
                   float *exps, int64_t rows, int64_t vocab, float z, int bf16, int threads) {
    (void)threads;
    int64_t width = (vocab + LANES - 1) / LANES * LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *own = exps + THREAD * width;
        if (bf16) losses[r] = row_loss(logits, gradient, r * vocab, targets[r], weights[r], z, own, vocab, 1);
        else losses[r] = row_loss(logits, gradient, r * vocab, targets[r], weights[r], z, own, vocab, 0);
    }
}
