/* y = x W^T for a few kinds of weights.

Dense weights are used where they lie, (n, k) row by row. Integer weights are packed in panels of 16 outputs: for each
group of k inputs first the codes, then the 16 scales, so that a product reads memory once, forward. Inside a group 64
bytes hold 4 inputs (8 bits) or 8 inputs (4 bits: low nibbles, then high ones) of each of the 16 outputs.
The result of a token does not depend on which or how many tokens are computed with it: sums of codes are exact, and
all other sums have one order. */

enum { F32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

typedef struct {
    int32_t kind, group, scale_bf16, unused; /* group: inputs per scale; integer kinds only */
    int64_t n, k;
    const void *data;
    const float *bias; /* or NULL */
} Matrix;

/* Inputs of a product, in the form that the weights' kind wants: float32 for F32, bfloat16 where the CPU multiplies
   that, and for integer weights int8 with a scale per group. */
typedef struct {
    float *values;  /* (tokens, k) */
    void *codes;    /* (tokens, k) int8, or bfloat16 `half_stride` apart */
    float *scales;  /* (tokens, groups) */
    int32_t *zeros; /* (tokens, groups): minus the group's sum of codes, as weights' codes are ZERO(bits) too high */
    int64_t k;
    int32_t group, kind;
    void *pairs; /* (tokens rounded up to 16, k) bfloat16 for `tiles.h`, or NULL: not to be used in this pass */
} Inputs;

#ifdef __AVX512BF16__
#define HALF_INPUTS 1 /* products of bfloat16 with bfloat16, summed in float32 */
#else
#define HALF_INPUTS 0
#endif

/* Whether inputs are used as bfloat16, in `codes`. */
INLINE int halves(const Inputs *in) { return in->kind == BF16 && HALF_INPUTS; }

/* From one token's bfloat16 codes to the next's. Multiples of 1024 bytes are avoided: they fall on few lines of a cache. */
INLINE int64_t half_stride(const Inputs *in) { return in->k % 512 ? in->k : in->k + 32; }

INLINE uint16_t *half_codes(const Inputs *in, int64_t token) { return (uint16_t *)in->codes + token * half_stride(in); }

INLINE int groups_of(const Inputs *in) { return (int)(in->k / in->group); }

/* int8 codes of a group of values: the largest magnitude becomes 127. Returns their sum. */
INLINE int32_t round_group(const float *x, int8_t *q, int group, float *scale) {
    ivec most = {0}; /* magnitudes compare as integers, and there NaN is the largest: it ends up in the scale */
    for (int i = 0; i < group; i += LANES) {
        ivec size = (ivec)load(x + i) & 0x7fffffff, greater = size > most;
        most = (size & greater) | (most & ~greater);
    }
    int32_t top = ilargest(most);
    float largest_size;
    memcpy(&largest_size, &top, 4);
    *scale = largest_size / 127.0f;
    float inverse = largest_size > 0 ? 127.0f / largest_size : 0.0f;
    ivec total = {0};
    for (int i = 0; i < group; i += LANES) {
        ivec code = (ivec)(load(x + i) * inverse + ROUNDER) - (ivec)splat(ROUNDER);
        total += code;
#ifdef __AVX512F__
        _mm_storeu_si128((__m128i *)(q + i), _mm512_cvtsepi32_epi8((__m512i)code));
#else
        for (int j = 0; j < LANES; j++) q[i + j] = (int8_t)code[j];
#endif
    }
    return isum(total);
}

/* Bring one token's values into the form that the product wants. */
static void prepare_token(Inputs *in, int64_t token) {
    const float *x = in->values + token * in->k;
    if (halves(in)) {
        for (int64_t i = 0; i < in->k; i += LANES) store_bf16(half_codes(in, token) + i, load(x + i));
    } else if (in->kind >= INT8) {
        int groups = groups_of(in);
        for (int g = 0; g < groups; g++) {
            int64_t at = token * groups + g, first = (int64_t)g * in->group;
            int8_t *q = (int8_t *)in->codes + token * in->k + first;
            in->zeros[at] = -round_group(x + first, q, in->group, in->scales + at);
        }
    }
}

/* acc[i] += sum over j < 4 of w[4i + j] * a[j], with unsigned w and signed a */
INLINE ivec dot4(ivec acc, ivec w, int32_t a) {
#if defined(__AVX512VNNI__)
    return (ivec)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(a));
#else
    for (int j = 0; j < 4; j++) acc += ((w >> (8 * j)) & 0xff) * (int32_t)(int8_t)(a >> (8 * j));
    return acc;
#endif
}

#define ZERO(bits) (1 << ((bits) - 1)) /* the weights' code for zero */

INLINE vec panel_scales(const uint8_t *p, int scale_bf16) {
    return scale_bf16 ? load_bf16((const uint16_t *)p) : load((const float *)p);
}

/* `tokens` x `panels` products of integer weights; y (tokens, ldy) gets 16 * panels columns. */
INLINE void int_tile(const Matrix *w, const Inputs *in, int64_t t0, int64_t p0, float *y, int64_t ldy, int add,
                     int tokens, int panels, int bits, int scale_bf16) {
    int groups = groups_of(in);
    int64_t code_bytes = (int64_t)in->group * LANES * bits / 8, step = code_bytes + (scale_bf16 ? 32 : 64);
    const uint8_t *base = (const uint8_t *)w->data + p0 * groups * step;
    vec out[4][3];
    for (int t = 0; t < tokens; t++)
        for (int p = 0; p < panels; p++) out[t][p] = (vec){0};
    for (int g = 0; g < groups; g++) {
        const uint8_t *at = base + g * step;
        ivec acc[4][3];
        for (int t = 0; t < tokens; t++)
            for (int p = 0; p < panels; p++) acc[t][p] = in->zeros[(t0 + t) * groups + g] * ZERO(bits) - (ivec){0};
        const int8_t *a = (const int8_t *)in->codes + t0 * in->k + (int64_t)g * in->group;
        for (int64_t i = 0; i < code_bytes; i += 64) {
            ivec codes[3];
            for (int p = 0; p < panels; p++) codes[p] = *(const ivec_u *)(at + p * groups * step + i);
            for (int half = 0; half < 8 / bits; half++) {
                for (int t = 0; t < tokens; t++) {
                    int32_t four;
                    memcpy(&four, a + t * in->k + i / (bits * 2) + half * 4, 4);
                    for (int p = 0; p < panels; p++) {
                        ivec c = bits == 8 ? codes[p] : (half ? codes[p] >> 4 : codes[p]) & 0x0f0f0f0f;
                        acc[t][p] = dot4(acc[t][p], c, four);
                    }
                }
            }
        }
        for (int p = 0; p < panels; p++) {
            vec s = panel_scales(at + p * groups * step + code_bytes, scale_bf16);
            for (int t = 0; t < tokens; t++) {
                vec sum = __builtin_convertvector(acc[t][p], vec);
                out[t][p] = fma16(sum * in->scales[(t0 + t) * groups + g], s, out[t][p]);
            }
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int p = 0; p < panels; p++) {
            float *to = y + t * ldy + p * LANES;
            store(to, add ? load(to) + out[t][p] : out[t][p]);
        }
}

/* A dense tile: `tokens` x `rows` dot products; the lanes are summed at the end. */
INLINE void half_tile(const Matrix *w, const Inputs *in, int64_t t0, int64_t r0, float *y, int64_t ldy, int add,
                      int tokens, int rows) {
#if HALF_INPUTS
    const uint16_t *x = half_codes(in, t0), *rows_at = (const uint16_t *)w->data + r0 * w->k;
    __m512 acc[4][4];
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < rows; r++) acc[t][r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < w->k; i += 2 * LANES) {
        __mmask32 some = w->k - i < 2 * LANES ? 0xffff : 0xffffffff;
        __m512bh v[4];
        for (int r = 0; r < rows; r++) v[r] = (__m512bh)_mm512_maskz_loadu_epi16(some, rows_at + r * w->k + i);
        for (int t = 0; t < tokens; t++) {
            __m512bh a = (__m512bh)_mm512_maskz_loadu_epi16(some, x + t * half_stride(in) + i);
            for (int r = 0; r < rows; r++) acc[t][r] = _mm512_dpbf16_ps(acc[t][r], a, v[r]);
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < rows; r++) {
            float s = sum((vec)acc[t][r]);
            y[t * ldy + r] = add ? y[t * ldy + r] + s : s;
        }
#else
    (void)w, (void)in, (void)t0, (void)r0, (void)y, (void)ldy, (void)add, (void)tokens, (void)rows;
#endif
}

INLINE void dense_tile(const Matrix *w, const Inputs *in, int64_t t0, int64_t r0, float *y, int64_t ldy, int add,
                       int tokens, int rows, int bf16) {
    const float *x = in->values + t0 * in->k;
    vec acc[4][4];
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < rows; r++) acc[t][r] = (vec){0};
    for (int64_t i = 0; i < w->k; i += LANES) {
        vec v[4];
        for (int r = 0; r < rows; r++)
            v[r] = bf16 ? load_bf16((const uint16_t *)w->data + (r0 + r) * w->k + i)
                        : load((const float *)w->data + (r0 + r) * w->k + i);
        for (int t = 0; t < tokens; t++) {
            vec a = load(x + t * in->k + i);
            for (int r = 0; r < rows; r++) acc[t][r] = fma16(a, v[r], acc[t][r]);
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < rows; r++) {
            float s = sum(acc[t][r]);
            y[t * ldy + r] = add ? y[t * ldy + r] + s : s;
        }
}

#define INT_TILES(bits, bf)                                                                    \
    switch (tokens * 4 + panels) {                                                             \
        case 1 * 4 + 3: int_tile(w, in, t, p, to, ldy, add, 1, 3, bits, bf); break;            \
        case 1 * 4 + 2: int_tile(w, in, t, p, to, ldy, add, 1, 2, bits, bf); break;            \
        case 1 * 4 + 1: int_tile(w, in, t, p, to, ldy, add, 1, 1, bits, bf); break;            \
        case 2 * 4 + 3: int_tile(w, in, t, p, to, ldy, add, 2, 3, bits, bf); break;            \
        case 2 * 4 + 2: int_tile(w, in, t, p, to, ldy, add, 2, 2, bits, bf); break;            \
        case 2 * 4 + 1: int_tile(w, in, t, p, to, ldy, add, 2, 1, bits, bf); break;            \
        case 4 * 4 + 3: int_tile(w, in, t, p, to, ldy, add, 4, 3, bits, bf); break;            \
        case 4 * 4 + 2: int_tile(w, in, t, p, to, ldy, add, 4, 2, bits, bf); break;            \
        case 4 * 4 + 1: int_tile(w, in, t, p, to, ldy, add, 4, 1, bits, bf); break;            \
    }

/* Panels [p, p + panels) of y for the tokens [t, t + tokens), tokens in {1, 2, 4}, panels in {1, 2, 3}. */
static void int_product(const Matrix *w, const Inputs *in, int64_t t, int tokens, int64_t p, int panels, float *to,
                        int64_t ldy, int add) {
    if (w->kind == INT8 && w->scale_bf16) INT_TILES(8, 1)
    else if (w->kind == INT8) INT_TILES(8, 0)
    else if (w->scale_bf16) INT_TILES(4, 1)
    else INT_TILES(4, 0)
}

static void dense_product(const Matrix *w, const Inputs *in, int64_t t, int tokens, int64_t r, int rows, float *to,
                          int64_t ldy, int add) {
    for (int i = 0; i < rows; i += 4) {
        int n = rows - i < 4 ? 1 : 4; /* a tile of four outputs, then single ones */
        for (int j = i; j < i + 4 && j < rows; j += n) {
            float *y = to + j;
#define DENSE(T, N)                                                                \
    (w->kind == BF16 && HALF_INPUTS ? half_tile(w, in, t, r + j, y, ldy, add, T, N) \
     : w->kind == BF16              ? dense_tile(w, in, t, r + j, y, ldy, add, T, N, 1) \
                                    : dense_tile(w, in, t, r + j, y, ldy, add, T, N, 0))
            if (n == 4) tokens == 4 ? DENSE(4, 4) : tokens == 2 ? DENSE(2, 4) : DENSE(1, 4);
            else tokens == 4 ? DENSE(4, 1) : tokens == 2 ? DENSE(2, 1) : DENSE(1, 1);
        }
    }
}

#define PIECE 3 /* panels handed out at once */
#define MANY 64 /* tokens from which on the weights are arranged for tiles, and tokens shared out among the threads */
#define ROWS 32 /* tokens that tiles take at once: inputs and results of many tokens have whole 32 rows */
#define SHARE 128 /* tokens for each of which, begun, there is a group: for fewer it is not worth arranging the weights */

INLINE int pieces_of(const Matrix *w, int panels) { return (int)((w->n + LANES * panels - 1) / (LANES * panels)); }

/* One piece (48 outputs) of y (tokens, ldy) = x W^T + bias, or y += that, for the tokens [t, end). */
static void product_piece(const Matrix *w, const Inputs *in, int64_t t, int64_t end, int piece, float *y, int64_t ldy,
                          int add) {
    int64_t first = (int64_t)piece * PIECE * LANES;
    int64_t rows = w->n - first < PIECE * LANES ? w->n - first : PIECE * LANES;
    while (t < end) {
        int some = end - t >= 4 ? 4 : end - t >= 2 ? 2 : 1;
        float *to = y + t * ldy + first;
        if (w->kind >= INT8) int_product(w, in, t, some, first / LANES, (int)((rows + LANES - 1) / LANES), to, ldy, add);
        else dense_product(w, in, t, some, first, (int)rows, to, ldy, add);
        if (w->bias)
            for (int i = 0; i < some; i++)
                for (int64_t r = 0; r < rows; r++) to[i * ldy + r] += w->bias[first + r];
        t += some;
    }
}
