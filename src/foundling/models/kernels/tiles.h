/* Products of bfloat16 with bfloat16 in the CPU's tiles (AMX): 16 x 16 results of 32 inputs an instruction.

The left factor's rows are tiles as they lie, 16 rows of 32; the right one's are arranged by pairs, each pair's 16 rows
side by side. For few tokens the weights stand left: they are read once, forward, and one token takes as long as 16, still
less than by `half_tile`, so that a step waits for memory alone. For many tokens the weights are arranged, 32 outputs at a
time, and the tokens stand left: sums then lie as the result does. Either way a token's sums have the same order, whatever
the other tokens are: what was in y first, then the inputs, 32 after 32, the bias last. */

#if HAVE_TILES
INLINE int tiled(const Matrix *w, const Inputs *in) { return in->pairs && w->kind == BF16 && w->k % TILE_INPUTS == 0; }

INLINE int tile_groups(int64_t tokens) { return (int)((tokens + LANES - 1) / LANES); }

/* The pairs of a group of 16 tokens. */
static void arrange_tokens(const Inputs *in, int64_t tokens, int group) {
    int64_t first = (int64_t)group * LANES;
    int some = tokens - first < LANES ? (int)(tokens - first) : LANES;
    arrange(half_codes(in, first), half_stride(in), some, in->k, (vec *)((uint16_t *)in->pairs + first * in->k));
}

/* What is in y (tokens, ldy) for 16 outputs becomes a tile of sums (outputs, tokens). */
INLINE void gather(float *sums, const float *y, int64_t ldy, int tokens) {
    vec rows[LANES];
    for (int t = 0; t < LANES; t++) rows[t] = t < tokens ? load(y + t * ldy) : (vec){0};
    transpose16(rows, (vec *)sums);
    STORED();
}

/* A tile of sums (outputs, tokens) into y (tokens, ldy). */
INLINE void spread(const float *sums, float *y, int64_t ldy, int tokens, const float *bias) {
    vec rows[LANES], columns[LANES];
    for (int r = 0; r < LANES; r++) rows[r] = load(sums + r * LANES);
    transpose16(rows, columns);
    for (int t = 0; t < tokens; t++) store(y + t * ldy, bias ? columns[t] + load(bias) : columns[t]);
}

/* Few tokens: one piece (48 outputs) of y (tokens, ldy) = x W^T + bias, or y += that, two groups of tokens at a time. */
static void few_tokens(const Matrix *w, const Inputs *in, int64_t begin, int64_t tokens, int piece, float *y, int64_t ldy,
                       int add) {
    (void)begin; /* always 0 */
    int64_t first = (int64_t)piece * PIECE * LANES, k = w->k, wide = k * LANES;
    int panels = w->n - first < PIECE * LANES ? (int)((w->n - first) / LANES) : PIECE;
    const uint16_t *rows = (const uint16_t *)w->data + first * k;
    float sums[2 * PIECE][LANES * LANES] __attribute__((aligned(64)));
#define MULTIPLY(A, B, C)                          \
    _tile_loadd(6, left, 2 * k);                   \
    _tile_dpbf16ps(A, 6, 7);                       \
    if (panels > 1) {                              \
        _tile_loadd(6, left + wide, 2 * k);        \
        _tile_dpbf16ps(B, 6, 7);                   \
    }                                              \
    if (panels > 2) {                              \
        _tile_loadd(6, left + 2 * wide, 2 * k);    \
        _tile_dpbf16ps(C, 6, 7);                   \
    }
    for (int group = 0; group < tile_groups(tokens); group += 2) {
        const uint16_t *pairs = (const uint16_t *)in->pairs + (int64_t)group * wide;
        int two = group + 1 < tile_groups(tokens), parts = (two ? 2 : 1) * PIECE;
        if (add) {
            for (int part = 0; part < parts; part++) {
                int64_t panel = part % PIECE, t = (group + part / PIECE) * LANES;
                int some = tokens - t < LANES ? (int)(tokens - t) : LANES;
                if (panel < panels) gather(sums[part], y + t * ldy + first + panel * LANES, ldy, some);
            }
            _tile_loadd(0, sums[0], 64); _tile_loadd(1, sums[1], 64); _tile_loadd(2, sums[2], 64);
            _tile_loadd(3, sums[3], 64); _tile_loadd(4, sums[4], 64); _tile_loadd(5, sums[5], 64);
        } else {
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);
        }
        for (int64_t i = 0; i < k; i += TILE_INPUTS) {
            const uint16_t *left = rows + i;
            _tile_loadd(7, pairs + i * LANES, 64);
            MULTIPLY(0, 1, 2)
            if (two) {
                _tile_loadd(7, pairs + wide + i * LANES, 64);
                MULTIPLY(3, 4, 5)
            }
        }
        _tile_stored(0, sums[0], 64); _tile_stored(1, sums[1], 64); _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64); _tile_stored(4, sums[4], 64); _tile_stored(5, sums[5], 64);
        for (int part = 0; part < parts; part++) {
            int64_t panel = part % PIECE, t = (group + part / PIECE) * LANES;
            int some = tokens - t < LANES ? (int)(tokens - t) : LANES;
            const float *bias = w->bias ? w->bias + first + panel * LANES : NULL;
            if (panel < panels) spread(sums[part], y + t * ldy + first + panel * LANES, ldy, some, bias);
        }
    }
#undef MULTIPLY
}

#define DEEP 768 /* inputs at once: 32 outputs' weights for them stay in the first cache */

/* Sixteen outputs of a matrix, and where they go. */
typedef struct {
    const uint16_t *weights;
    const float *bias; /* or NULL */
    float *y;
} Panel;

/* silu(gate) * up of 32 tokens becomes 16 inputs of the next product. Sums are two tiles each, (tokens, 16). */
static void gate_tokens(const Panel *p, const float *gate, const float *up, uint16_t *codes, int64_t ld) {
    vec shift = p[0].bias ? load(p[0].bias) : (vec){0}, other = p[1].bias ? load(p[1].bias) : (vec){0};
    for (int t = 0; t < ROWS; t++)
        store_bf16(codes + t * ld, silu(load(gate + t * LANES) + shift) * (load(up + t * LANES) + other));
}

/* Many tokens, [begin, end): one or two panels of y (tokens, ldy) = x W^T + bias, or y += that. With `gated`, the panels are a
   gate's and its values', y is only work space, and their product goes there instead. */
static void many_tokens(const Panel *p, int panels, const Inputs *in, int64_t begin, int64_t end, int64_t ldy, int add,
                        const Inputs *gated, int64_t column) {
    vec arranged[2][DEEP / 2];
    float sums[4][LANES * LANES] __attribute__((aligned(64))); /* panel 0: 32 tokens; panel 1 */
    int64_t k = in->k, ld = half_stride(in), blocks = (k + DEEP - 1) / DEEP;
    int64_t deep = (k / TILE_INPUTS + blocks - 1) / blocks * TILE_INPUTS;
    for (int64_t from = 0; from < k; from += deep) {
        int64_t some = k - from < deep ? k - from : deep;
        int start = from == 0 && !add, finish = gated && from + some == k;
        for (int i = 0; i < panels; i++) arrange(p[i].weights + from, k, LANES, some, arranged[i]);
        for (int64_t t = begin; t < end; t += ROWS) {
            const uint16_t *left = half_codes(in, t) + from, *lower = left + LANES * ld;
            float *y = p[0].y + t * ldy, *z = p[1].y + t * ldy;
            if (start) {
                _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
            } else {
                _tile_loadd(0, y, 4 * ldy); _tile_loadd(1, y + LANES * ldy, 4 * ldy);
                if (panels > 1) { _tile_loadd(2, z, 4 * ldy); _tile_loadd(3, z + LANES * ldy, 4 * ldy); }
            }
            for (int64_t i = 0; i < some; i += TILE_INPUTS) {
                _tile_loadd(4, left + i, 2 * ld);
                _tile_loadd(5, lower + i, 2 * ld);
                _tile_loadd(6, arranged[0] + i / 2, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 5, 6);
                if (panels > 1) {
                    _tile_loadd(7, arranged[1] + i / 2, 64);
                    _tile_dpbf16ps(2, 4, 7);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            if (finish) {
                _tile_stored(0, sums[0], 64); _tile_stored(1, sums[1], 64);
                _tile_stored(2, sums[2], 64); _tile_stored(3, sums[3], 64);
                gate_tokens(p, sums[0], sums[2], half_codes(gated, t) + column, half_stride(gated));
            } else {
                _tile_stored(0, y, 4 * ldy); _tile_stored(1, y + LANES * ldy, 4 * ldy);
                if (panels > 1) { _tile_stored(2, z, 4 * ldy); _tile_stored(3, z + LANES * ldy, 4 * ldy); }
            }
        }
    }
    for (int i = 0; !gated && i < panels; i++)
        for (int64_t t = begin; p[i].bias && t < end; t++) store(p[i].y + t * ldy, load(p[i].y + t * ldy) + load(p[i].bias));
}

static Panel panel_of(const Matrix *w, int64_t first, float *y) {
    return (Panel){(const uint16_t *)w->data + first * w->k, w->bias ? w->bias + first : NULL, y + first};
}

/* One piece (32 outputs) for many tokens, [begin, end), as `product_piece`. */
static void tile_columns(const Matrix *w, const Inputs *in, int64_t begin, int64_t end, int piece, float *y, int64_t ldy,
                         int add) {
    int64_t first = (int64_t)piece * 2 * LANES;
    int panels = w->n - first > LANES ? 2 : 1;
    Panel p[2] = {panel_of(w, first, y), panel_of(w, first + (panels - 1) * LANES, y)};
    many_tokens(p, panels, in, begin, end, ldy, add, NULL, 0);
}

/* One piece (32 columns, a cache line) of the codes of silu(x gate^T) * (x up^T) for tokens [begin, end). y: work space */
static void gated_columns(const Matrix *gate, const Matrix *up, const Inputs *in, int64_t begin, int64_t end, int piece,
                          float *y, int64_t ldy, const Inputs *out) {
    for (int64_t first = (int64_t)piece * 2 * LANES, i = 0; i < 2 && first < gate->n; i++, first += LANES) {
        Panel p[2] = {panel_of(gate, first, y), panel_of(up, first, y + gate->n)};
        many_tokens(p, 2, in, begin, end, ldy, 0, out, first);
    }
}

#else
typedef int TileConfig;
static void tiles_begin(TileConfig *before) { (void)before; }
static void tiles_end(const TileConfig *before) { (void)before; }
INLINE int tiled(const Matrix *w, const Inputs *in) { return 0 * (w->kind + in->kind); }
INLINE int tile_groups(int64_t tokens) { return (int)(tokens * 0); }
static void arrange_tokens(const Inputs *in, int64_t tokens, int group) { (void)in, (void)tokens, (void)group; }
static void few_tokens(const Matrix *w, const Inputs *in, int64_t begin, int64_t end, int piece, float *y, int64_t ldy,
                       int add) {
    product_piece(w, in, begin, end, piece, y, ldy, add);
}
#define tile_columns few_tokens
static void gated_columns(const Matrix *gate, const Matrix *up, const Inputs *in, int64_t begin, int64_t end, int piece,
                          float *y, int64_t ldy, const Inputs *out) {
    (void)gate, (void)up, (void)in, (void)begin, (void)end, (void)piece, (void)y, (void)ldy, (void)out;
}
#endif
