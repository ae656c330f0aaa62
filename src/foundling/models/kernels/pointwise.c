/* Passes over rows of many tokens that torch makes of several operators: each reads and writes memory once.

Rows are float32 or bfloat16, computed in float32 and rounded once. */

INLINE vec get(const void *p, int64_t at, int bf16) {
    return bf16 ? load_bf16((const uint16_t *)p + at) : load((const float *)p + at);
}

INLINE void put(void *p, int64_t at, vec v, int bf16) {
    if (bf16) store_bf16((uint16_t *)p + at, v);
    else store((float *)p + at, v);
}

INLINE void rms_norm_row(const void *x, const float *weight, void *y, int64_t at, int64_t dim, float eps, int bf16) {
    vec total = {0};
    for (int64_t i = 0; i < dim; i += LANES) {
        vec v = get(x, at + i, bf16);
        total = fma16(v, v, total);
    }
    float scale = 1.0f / sqrtf(sum(total) / (float)dim + eps);
    for (int64_t i = 0; i < dim; i += LANES) put(y, at + i, get(x, at + i, bf16) * scale * load(weight + i), bf16);
}

/* y (rows, dim) = x / rms(x) * weight; y may be x. */
void rms_norm_rows(const void *x, const float *weight, void *y, int64_t rows, int64_t dim, float eps, int bf16) {
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        if (bf16) rms_norm_row(x, weight, y, r * dim, dim, eps, 1);
        else rms_norm_row(x, weight, y, r * dim, dim, eps, 0);
    }
}

INLINE void rotate_row(void *x, const float *cosine, const float *sine, int64_t at, int64_t width, int bf16) {
    int64_t half = width / 2;
    for (int64_t i = 0; i < half; i += LANES) {
        vec a = get(x, at + i, bf16), b = get(x, at + half + i, bf16);
        put(x, at + i, a * load(cosine + i) + b * load(sine + i), bf16);
        put(x, at + half + i, b * load(cosine + half + i) + a * load(sine + half + i), bf16);
    }
}

/* Rotate every head of x (rows, heads, width) by its row's table (2, width): cosines, signed sines. */
void rotate_rows(void *x, const float *table, int64_t rows, int64_t heads, int64_t width, int bf16) {
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        const float *cosine = table + r * 2 * width, *sine = cosine + width;
        for (int64_t h = 0; h < heads; h++) {
            if (bf16) rotate_row(x, cosine, sine, (r * heads + h) * width, width, 1);
            else rotate_row(x, cosine, sine, (r * heads + h) * width, width, 0);
        }
    }
}

INLINE void silu_part(void *gate, const void *up, int64_t from, int64_t to, int bf16) {
    for (int64_t i = from; i < to; i += LANES) {
        vec g = get(gate, i, bf16);
        put(gate, i, silu(g) * get(up, i, bf16), bf16);
    }
}

/* gate = silu(gate) * up, (rows, width) each. */
void silu_product(void *gate, const void *up, int64_t rows, int64_t width, int bf16) {
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        if (bf16) silu_part(gate, up, r * width, (r + 1) * width, 1);
        else silu_part(gate, up, r * width, (r + 1) * width, 0);
    }
}
