/* Products of bfloat16 with bfloat16 in the CPU's tiles (AMX): 16 outputs x 16 tokens x 32 inputs an instruction.

Weights are tiles as they lie, 16 rows of 32; inputs are arranged by pairs, each pair's 16 tokens side by side. One token
takes as long as 16, and still less than by `half_tile`: a step then waits for memory alone. A token's sums have the same
order whatever the other tokens are. */

#if defined(__AMX_BF16__) && defined(__linux__)
#define TILE_INPUTS 32

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) TileConfig;

/* Whether the system lets this process use them: it must be asked once. */
int tiles_allowed(void) {
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
}

/* All eight tiles at their full size; what other libraries had configured in this thread is put back by `tiles_end`. */
static void tiles_begin(TileConfig *before) {
    TileConfig full = {.palette = 1};
    for (int i = 0; i < 8; i++) full.rows[i] = 16, full.bytes[i] = 64;
    _tile_storeconfig(before);
    _tile_loadconfig(&full);
}

static void tiles_end(const TileConfig *before) {
    if (before->palette) _tile_loadconfig(before);
    else _tile_release();
}

INLINE int tiled(const Matrix *w, const Inputs *in) { return in->pairs && w->kind == BF16 && w->k % TILE_INPUTS == 0; }

INLINE int tile_groups(int64_t tokens) { return (int)((tokens + LANES - 1) / LANES); }

/* The pairs of a group of 16 tokens: (k / 2, 16) pairs; absent tokens are zeros. */
static void arrange(const Inputs *in, int64_t tokens, int group) {
    const uint16_t *codes = (const uint16_t *)in->codes + (int64_t)group * LANES * in->k;
    int some = tokens - group * LANES < LANES ? (int)(tokens - group * LANES) : LANES;
    vec *to = (vec *)((uint16_t *)in->pairs + (int64_t)group * LANES * in->k);
    for (int64_t i = 0; i < in->k; i += TILE_INPUTS, to += LANES) {
        vec rows[LANES];
        for (int t = 0; t < LANES; t++) rows[t] = t < some ? load((const float *)(codes + t * in->k + i)) : (vec){0};
        transpose16(rows, to);
    }
}

/* A tile of sums (outputs, tokens) into y (tokens, ldy). */
INLINE void spread(const float *sums, float *y, int64_t ldy, int tokens, int add, const float *bias) {
    vec rows[LANES], columns[LANES];
    for (int r = 0; r < LANES; r++) rows[r] = load(sums + r * LANES);
    transpose16(rows, columns);
    for (int t = 0; t < tokens; t++, y += ldy) {
        vec v = add ? load(y) + columns[t] : columns[t];
        store(y, bias ? v + load(bias) : v);
    }
}

/* One piece (48 outputs) of y (tokens, ldy) = x W^T + bias, or y += that: two groups of tokens at a time. */
static void tile_piece(const Matrix *w, const Inputs *in, int64_t tokens, int piece, float *y, int64_t ldy, int add) {
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
        int two = group + 1 < tile_groups(tokens);
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);
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
        for (int part = 0; part < (two ? 2 : 1) * PIECE; part++) {
            int64_t panel = part % PIECE, t = (group + part / PIECE) * LANES;
            int some = tokens - t < LANES ? (int)(tokens - t) : LANES;
            const float *bias = w->bias ? w->bias + first + panel * LANES : NULL;
            if (panel < panels) spread(sums[part], y + t * ldy + first + panel * LANES, ldy, some, add, bias);
        }
    }
#undef MULTIPLY
}

#else
typedef int TileConfig;
int tiles_allowed(void) { return 0; }
static void tiles_begin(TileConfig *before) { (void)before; }
static void tiles_end(const TileConfig *before) { (void)before; }
INLINE int tiled(const Matrix *w, const Inputs *in) { return 0 * (w->kind + in->kind); }
INLINE int tile_groups(int64_t tokens) { return (int)(tokens * 0); }
static void arrange(const Inputs *in, int64_t tokens, int group) { (void)in, (void)tokens, (void)group; }
static void tile_piece(const Matrix *w, const Inputs *in, int64_t tokens, int piece, float *y, int64_t ldy, int add) {
    product_piece(w, in, tokens, piece, y, ldy, add);
}
#endif
