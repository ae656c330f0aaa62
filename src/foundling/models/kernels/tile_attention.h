/* Attention of `attention.h` in tiles, over a cache of bfloat16: sixteen queries stand side by side, one a lane.

Keys and values come in blocks of 128 positions, counted from the row's beginning; after each block sums and the largest
score so far are brought up to date (Dao et al. 2022, arXiv:2205.14135). A block that a query may not see changes nothing
for it, so that a token's result is the same in every batch here too, as long as all numbers are finite. Weights are rounded
to bfloat16, as the queries are. */

#if HAVE_TILES
#define KEYS 128       /* positions of a block */
#define CHUNK 32       /* positions that one instruction sums over */
#define TILES 4        /* at most: groups of sixteen queries that share a block's transposed values */
#define WIDEST 256     /* most dimensions of a head */
#define UNSEEN -1e30f  /* the largest score of none yet; a hidden position's is twice that, so that its weight is zero */

typedef struct {
    vec most, total;
    ivec position; /* of each query */
} Softmax;

/* Values of positions [begin, begin + 128): tiles (32 positions, 16 dims) of 16 dims x 16 pairs of positions. */
static void arrange_values(const Piece *p, int64_t begin, int64_t from, int64_t to, vec *values) {
    int64_t width = p->shape->head_dim, row = p->shape->kv_heads * width, head = p->kv_head * width;
    const uint16_t *pool = (const uint16_t *)p->cache->values + head;
    for (int64_t c = (from - begin) / CHUNK; c * CHUNK < to - begin; c++) {
        const uint16_t *at[CHUNK];
        for (int i = 0; i < CHUNK; i++) {
            int64_t j = begin + c * CHUNK + i;
            at[i] = j >= from && j < to ? pool + slot_of(p, j) * row : NULL;
        }
        for (int64_t d = 0; d < width; d += LANES) {
            vec pairs[LANES];
            for (int i = 0; i < LANES; i++) {
                uvec low = at[2 * i] ? __builtin_convertvector(*(const hvec_u *)(at[2 * i] + d), uvec) : (uvec){0};
                uvec high = at[2 * i + 1] ? __builtin_convertvector(*(const hvec_u *)(at[2 * i + 1] + d), uvec) : (uvec){0};
                pairs[i] = (vec)(low | high << 16);
            }
            transpose16(pairs, values + c * width + d);
        }
    }
    STORED();
}

/* Scores of sixteen queries and the 16 positions from `begin + 16 * tile` on, four such tiles at a time. */
static void score_tiles(const Piece *p, int64_t begin, int64_t from, int64_t to, const vec *queries, vec *scores) {
    int64_t width = p->shape->head_dim, row = p->shape->kv_heads * width, head = p->kv_head * width;
    for (int64_t first = (from - begin) / (4 * LANES) * 4; first * LANES < to - begin; first += 4) {
        const uint16_t *keys[4];
        for (int i = 0; i < 4; i++) {
            int64_t j = begin + (first + i) * LANES;
            keys[i] = j + LANES > from && j < to ? (const uint16_t *)p->cache->keys + slot_of(p, j) * row + head : NULL;
        }
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
#define SCORE(I)                                       \
    if (keys[I]) {                                     \
        _tile_loadd(4, keys[I] + d, 2 * row);          \
        _tile_dpbf16ps(I, 4, 5);                       \
    }
        for (int64_t d = 0; d < width; d += TILE_INPUTS) {
            _tile_loadd(5, queries + d / 2, 64);
            SCORE(0) SCORE(1) SCORE(2) SCORE(3)
        }
#undef SCORE
        vec *out = scores + first * LANES;
        _tile_stored(0, out, 64); _tile_stored(1, out + LANES, 64);
        _tile_stored(2, out + 2 * LANES, 64); _tile_stored(3, out + 3 * LANES, 64);
    }
}

/* Scores of positions [first, last), from `begin` on, become weights as pairs of bfloat16, in the same place; returns what
   earlier sums must be multiplied by. */
static vec weigh(const Piece *p, Softmax *s, int64_t begin, int64_t first, int64_t last, vec *scores) {
    int64_t window = p->shape->window, newest = p->positions[p->tokens - 1];
    vec scale = splat(p->shape->scale * 1.44269504f), most = s->most;
    if (begin + last > p->positions[0] + 1 || (window && newest - window >= begin + first))
        for (int64_t j = first; j < last; j++) {
            ivec back = s->position - (int32_t)(begin + j), seen = back >= 0;
            if (window) seen &= back < (int32_t)window;
            scores[j] = (vec)(((ivec)scores[j] & seen) | ((ivec)splat(2 * UNSEEN) & ~seen));
        }
    for (int64_t j = first; j < last; j++) most = vmax(most, scores[j]);
    vec top = most * scale, before = power_of_two((s->most - most) * scale), total = s->total * before;
    for (int64_t j = first; j < last; j += 2) {
        vec a = power_of_two(fma16(scores[j], scale, -top)), b = power_of_two(fma16(scores[j + 1], scale, -top));
        total += a + b;
        scores[j / 2] = interleaved(a, b);
    }
    STORED();
    s->most = most;
    s->total = total;
    return before;
}

/* out (width, 16 queries) += the weighted values of chunks [first, last) */
static void add_values(const vec *values, const vec *weights, int64_t first, int64_t last, int64_t width, vec *out) {
    for (int64_t d = 0; d < width; d += 4 * LANES) {
        vec *sums = out + d;
        int four = width - d > 2 * LANES; /* else two: width is a multiple of 32 */
        _tile_loadd(0, sums, 64); _tile_loadd(1, sums + LANES, 64);
        if (four) { _tile_loadd(2, sums + 2 * LANES, 64); _tile_loadd(3, sums + 3 * LANES, 64); }
        for (int64_t c = first; c < last; c++) {
            const vec *left = values + c * width + d;
            _tile_loadd(5, weights + c * LANES, 64);
            _tile_loadd(4, left, 64);
            _tile_dpbf16ps(0, 4, 5);
            _tile_loadd(6, left + LANES, 64);
            _tile_dpbf16ps(1, 6, 5);
            if (four) {
                _tile_loadd(4, left + 2 * LANES, 64);
                _tile_dpbf16ps(2, 4, 5);
                _tile_loadd(6, left + 3 * LANES, 64);
                _tile_dpbf16ps(3, 6, 5);
            }
        }
        _tile_stored(0, sums, 64); _tile_stored(1, sums + LANES, 64);
        if (four) { _tile_stored(2, sums + 2 * LANES, 64); _tile_stored(3, sums + 3 * LANES, 64); }
    }
}

/* Queries 16 * group + lane of a piece, token by token: pairs for the tiles, and their positions. */
static void take_queries(const Piece *p, int group, vec *queries, Softmax *s) {
    uint16_t rows[LANES * WIDEST];
    int64_t width = p->shape->head_dim;
    int count = p->tokens * p->heads - group * LANES < LANES ? p->tokens * p->heads - group * LANES : LANES;
    *s = (Softmax){splat(UNSEEN), {0}, {0}};
    for (int lane = 0; lane < count; lane++) {
        int query = group * LANES + lane, token = query / p->heads;
        const float *q = p->q + token * p->ld + query % p->heads * width;
        for (int64_t d = 0; d < width; d += LANES) store_bf16(rows + lane * width + d, load(q + d));
        s->position[lane] = (int32_t)p->positions[token];
    }
    arrange(rows, width, count, width, queries);
}

/* At most 64 queries. work: 10 * head_dim vectors (TILE_WORK in decoder.py) */
static void attend_tiles(const Piece *p, vec *work) {
    int64_t width = p->shape->head_dim, window = p->shape->window, last = p->positions[p->tokens - 1] + 1;
    int64_t oldest = window && p->positions[0] + 1 > window ? p->positions[0] + 1 - window : 0;
    vec *values = work, *out = values + KEYS / CHUNK * width, *queries = out + TILES * width, scores[KEYS];
    Softmax state[TILES];
    int groups = tile_groups(p->tokens * p->heads);
    memset(out, 0, groups * width * sizeof(vec));
    for (int g = 0; g < groups; g++) take_queries(p, g, queries + g * width / 2, state + g);
    for (int64_t begin = oldest / KEYS * KEYS; begin < last; begin += KEYS) {
        int64_t from = begin > oldest ? begin : oldest, to = last < begin + KEYS ? last : begin + KEYS;
        int64_t first = (from - begin) / CHUNK, end = (to - begin + CHUNK - 1) / CHUNK;
        arrange_values(p, begin, from, to, values);
        for (int g = 0; g < groups; g++) {
            vec *sums = out + g * width;
            score_tiles(p, begin, from, to, queries + g * width / 2, scores);
            vec before = weigh(p, state + g, begin, first * CHUNK, end * CHUNK, scores);
            if (begin > oldest)
                for (int64_t d = 0; d < width; d++) sums[d] *= before;
            STORED();
            add_values(values, scores, first, end, width, sums);
        }
    }
    for (int g = 0; g < groups; g++) {
        vec inverse = 1.0f / state[g].total;
        for (int64_t d = 0; d < width; d += LANES) {
            vec rows[LANES], columns[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = out[g * width + d + i] * inverse;
            transpose16(rows, columns);
            for (int lane = 0; lane < LANES && g * LANES + lane < p->tokens * p->heads; lane++) {
                int query = g * LANES + lane, token = query / p->heads;
                int64_t at = query % p->heads * width + d;
                if (p->codes) store_bf16(p->codes + token * p->ld_codes + at, columns[lane]);
                else store(p->out + token * p->ld + at, columns[lane]);
            }
        }
    }
}

/* A run of neighbouring tokens, at most 64 queries at a time. */
static void attend_run(const Piece *run, vec *work) {
    int most = TILES * LANES / run->heads;
    for (int t = 0; t < run->tokens; t += most) {
        Piece p = *run;
        p.q += t * run->ld;
        p.out += t * run->ld;
        if (p.codes) p.codes += t * run->ld_codes;
        p.positions += t;
        p.tokens = run->tokens - t < most ? run->tokens - t : most;
        attend_tiles(&p, work);
    }
}
#else
static void attend_run(const Piece *run, vec *work) { (void)run, (void)work; }
#endif
