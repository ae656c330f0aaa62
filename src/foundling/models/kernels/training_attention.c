/* Attention of a training step in the CPU's tiles, forward and backward, for bfloat16: each query sees a range of keys.

The scores are never in memory as a whole (Dao et al. 2022, arXiv:2205.14135): the forward pass keeps of each query the
logarithm (base 2) of its exponentials' sum, and the backward pass computes them again from it. Queries stand side by side,
one a lane, so that their maxima and sums need no shuffles. Everything goes by chunks of 32 queries and 32 keys; `time`
and `width` (of a head) are multiples of 32. With p the softmax and g the gradient of the output o,
    dv = sum p g,  ds = p (g v - g o) scale,  dq = sum ds k,  dk = sum ds q. */

#if HAVE_TILES
#define CHUNK 32
#define BLOCK 128 /* queries whose weights are held at once in the backward pass */

typedef struct {
    const uint16_t *q, *k, *v, *out, *g; /* (rows, time, heads or kv_heads, width) */
    uint16_t *to, *g_q, *g_k, *g_v;      /* `to` is the forward pass's out */
    const int32_t *first, *end;          /* (rows, time): the keys that each query sees; NULL: from 0, up to itself */
    float *sums;                         /* (rows, heads, time): log2 of the sums of 2^(score scale log2 e) */
    int64_t rows, time, heads, kv_heads, width;
    float scale;
    char *work;
    int64_t work_size; /* of each thread, bytes */
} Attention;

INLINE vec pairs_of(const uint16_t *low, const uint16_t *high) {
    uvec a = __builtin_convertvector(*(const hvec_u *)low, uvec), b = __builtin_convertvector(*(const hvec_u *)high, uvec);
    return (vec)(a | b << 16);
}

/* Rows (time, ld) as right factors over time: of each chunk and 16 columns, 16 pairs of rows x 16 columns. */
static void pair_rows(const uint16_t *rows, int64_t ld, int64_t time, int64_t width, vec *to) {
    for (int64_t t = 0; t < time; t += CHUNK)
        for (int64_t d = 0; d < width; d += LANES)
            for (int i = 0; i < LANES; i++, to++) *to = pairs_of(rows + (t + 2 * i) * ld + d, rows + (t + 2 * i + 1) * ld + d);
    STORED();
}

/* Rows (time, ld) as left factors over time: of each chunk and 16 columns, 16 columns x 32 rows. */
static void turn_rows(const uint16_t *rows, int64_t ld, int64_t time, int64_t width, vec *to) {
    pair_rows(rows, ld, time, width, to);
    for (int64_t tile = 0; tile < time / CHUNK * (width / LANES); tile++, to += LANES) {
        vec from[LANES];
        memcpy(from, to, sizeof from);
        transpose16(from, to);
    }
    STORED();
}

/* Sums (width, 16 queries) times `factor` into rows of bfloat16, ld apart. */
static void put_queries(const vec *sums, vec factor, int64_t width, uint16_t *rows, int64_t ld) {
    for (int64_t d = 0; d < width; d += LANES) {
        vec from[LANES], to[LANES];
        for (int i = 0; i < LANES; i++) from[i] = sums[d + i] * factor;
        transpose16(from, to);
        for (int i = 0; i < LANES; i++) store_bf16(rows + i * ld + d, to[i]);
    }
}

/* 2 x 2 tiles of sums: left factors (two, `left` apart) and right ones (`right` apart) step by step; those that are rows as
   they lie have `ld` bytes between them. */
#define PRODUCT(left0, left1, ld, right0, right1)                          \
    _tile_loadd(4, left0, ld); _tile_loadd(6, right0, 64);                 \
    _tile_dpbf16ps(0, 4, 6);                                               \
    _tile_loadd(7, right1, 64);                                            \
    _tile_dpbf16ps(1, 4, 7);                                               \
    _tile_loadd(5, left1, ld);                                             \
    _tile_dpbf16ps(2, 5, 6);                                               \
    _tile_dpbf16ps(3, 5, 7);
#define ZERO() _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);

/* Products of the 32 rows at `rows` (ld apart) with two groups of 16 arranged queries: to[32 rows][2 groups]. */
static void score_chunk(const uint16_t *rows, int64_t ld, const vec *queries, int64_t width, vec *to) {
    const vec *second = queries + width / 2;
    ZERO()
    for (int64_t d = 0; d < width; d += CHUNK) {
        PRODUCT(rows + d, rows + 16 * ld + d, 2 * ld, queries + d / 2, second + d / 2)
    }
    _tile_stored(0, to, 128); _tile_stored(1, to + 1, 128);
    _tile_stored(2, to + 32, 128); _tile_stored(3, to + 33, 128);
}

typedef struct {
    const int32_t *first, *end; /* of a row; may be NULL */
    int64_t low, keys;          /* chunks of keys that some query of a chunk sees */
    int64_t from, until;        /* keys that all of its queries see */
} Seen;

/* Which of 16 queries from `query` on see a key. */
INLINE ivec sees(const Seen *s, int64_t query, int64_t key) {
    const ivec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ivec seen = s->end ? *(const ivec_u *)(s->end + query) > (int32_t)key : lane + (int32_t)(query - key) >= 0;
    return s->first ? seen & (*(const ivec_u *)(s->first + query) <= (int32_t)key) : seen;
}

/* What the 32 queries from `query` on see. */
static Seen seen_by(const Attention *a, int64_t row, int64_t query) {
    Seen s = {a->first ? a->first + row * a->time : NULL, a->end ? a->end + row * a->time : NULL, a->time, 0, 0, a->time};
    for (int64_t t = query; t < query + CHUNK; t++) {
        int64_t first = s.first && s.first[t] > 0 ? s.first[t] : 0, end = s.end ? s.end[t] : t + 1;
        if (end > a->time) end = a->time;
        s.low = first < s.low ? first : s.low;
        s.from = first > s.from ? first : s.from;
        s.until = end < s.until ? end : s.until;
        s.keys = end > s.keys ? end : s.keys;
    }
    s.low = s.low / CHUNK * CHUNK;
    s.keys = (s.keys + CHUNK - 1) / CHUNK * CHUNK;
    return s;
}

INLINE vec chosen(ivec where, vec a, vec b) { return (vec)(((ivec)a & where) | ((ivec)b & ~where)); }

/* Scores [keys][2 groups] of a chunk of queries become weights, pairs of keys (in place); tops and totals of each query. */
static void weigh_chunk(const Seen *s, vec *scores, int64_t query, float scale, vec *top, vec *total) {
    int64_t low = s->low, keys = s->keys;
    for (int g = 0; g < 2; g++) {
        vec most = splat(-INFINITY);
        for (int64_t j = low; j < keys; j++)
            if (j < s->from || j >= s->until)
                scores[2 * j + g] = chosen(sees(s, query + g * LANES, j), scores[2 * j + g], splat(-INFINITY));
        for (int64_t j = low; j < keys; j++) most = vmax(most, scores[2 * j + g]);
        top[g] = most * scale;
        total[g] = (vec){0};
        for (int64_t j = low; j < keys; j++) {
            scores[2 * j + g] = power_of_two(fma16(scores[2 * j + g], splat(scale), -top[g]));
            total[g] += scores[2 * j + g];
        }
    }
    for (int64_t c = low / CHUNK; c < keys / CHUNK; c++) { /* a chunk's 32 x 2 scores become 2 tiles of 16 pairs */
        vec *chunk = scores + c * 2 * CHUNK, tiles[2 * LANES];
        for (int g = 0; g < 2; g++)
            for (int i = 0; i < LANES; i++) tiles[g * LANES + i] = interleaved(chunk[4 * i + g], chunk[4 * i + 2 + g]);
        memcpy(chunk, tiles, sizeof tiles);
    }
    STORED();
}

/* Sums over chunks [0, chunks): left tiles (chunk, 16 columns) `turned`, right tiles 2 to a chunk, `stride` vectors apart:
   to (2 groups, width). */
static void sum_columns(const vec *turned, const vec *right, int64_t stride, int64_t chunks, int64_t width, vec *to) {
    for (int64_t d = 0; d < width; d += CHUNK) {
        ZERO()
        for (int64_t c = 0; c < chunks; c++) {
            const vec *left = turned + c * width + d, *tiles = right + c * stride;
            PRODUCT(left, left + LANES, 64, tiles, tiles + LANES)
        }
        _tile_stored(0, to + d, 64); _tile_stored(1, to + width + d, 64);
        _tile_stored(2, to + d + LANES, 64); _tile_stored(3, to + width + d + LANES, 64);
    }
}

static void forward_head(const Attention *a, int64_t row, int64_t head, vec *work) {
    int64_t kv_head = head / (a->heads / a->kv_heads), width = a->width;
    int64_t ld_q = a->heads * width, ld_k = a->kv_heads * width, key_at = row * a->time * ld_k + kv_head * width;
    const uint16_t *q = a->q + row * a->time * ld_q + head * width, *k = a->k + key_at;
    uint16_t *to = a->to + row * a->time * ld_q + head * width;
    float *sums = a->sums + (row * a->heads + head) * a->time, scale = a->scale * 1.44269504f;
    vec *values = work, *scores = values + a->time / CHUNK * width, *queries = scores + 2 * a->time, *out = queries + width;
    turn_rows(a->v + key_at, ld_k, a->time, width, values);
    for (int64_t t = 0; t < a->time; t += CHUNK) {
        vec top[2], total[2];
        Seen seen = seen_by(a, row, t);
        int64_t low = seen.low, chunks = (seen.keys - low) / CHUNK;
        arrange(q + t * ld_q, ld_q, LANES, width, queries);
        arrange(q + (t + LANES) * ld_q, ld_q, LANES, width, queries + width / 2);
        for (int64_t j = low; j < seen.keys; j += CHUNK) score_chunk(k + j * ld_k, ld_k, queries, width, scores + 2 * j);
        weigh_chunk(&seen, scores, t, scale, top, total);
        sum_columns(values + low / CHUNK * width, scores + 2 * low, 2 * CHUNK, chunks, width, out);
        for (int g = 0; g < 2; g++) {
            put_queries(out + g * width, 1.0f / total[g], width, to + (t + g * LANES) * ld_q, ld_q);
            for (int i = 0; i < LANES; i++) sums[t + g * LANES + i] = top[g][i] + log2f(total[g][i]);
        }
    }
}

typedef struct {
    vec *keys, *queries, *gradients, *query_pairs, *gradient_pairs; /* arranged: (time / 32, width) each */
    vec *weights, *changes, *change_pairs;                          /* p and ds of a block: (keys, 128 queries), halves */
    vec *scores, *products, *out;                                   /* of a chunk */
    float *g_k, *g_v, *means;                                       /* (time, width), and g o of each query */
} Space;

static Space space_of(const Attention *a, vec *work) {
    int64_t arranged = a->time / CHUNK * a->width, block = a->time * BLOCK / CHUNK, wide = a->time * a->width / LANES;
    Space s = {.keys = work};
    s.queries = s.keys + arranged;
    s.gradients = s.queries + arranged;
    s.query_pairs = s.gradients + arranged;
    s.gradient_pairs = s.query_pairs + arranged;
    s.weights = s.gradient_pairs + arranged;
    s.changes = s.weights + block;
    s.change_pairs = s.changes + block;
    s.scores = s.change_pairs + block;
    s.products = s.scores + 2 * CHUNK;
    s.out = s.products + 2 * CHUNK;
    s.g_k = (float *)(s.out + 2 * a->width);
    s.g_v = s.g_k + LANES * wide;
    s.means = s.g_v + LANES * wide;
    return s;
}

/* p and ds of a chunk of keys and one of queries (the c-th of its block). */
static void change_chunk(const Attention *a, const Space *s, const Seen *seen, int64_t key, int64_t query, int64_t c,
                         const float *sums) {
    uint16_t *weights = (uint16_t *)s->weights + key * BLOCK + c * CHUNK;
    uint16_t *changes = (uint16_t *)s->changes + key * BLOCK + c * CHUNK;
    vec *pairs = s->change_pairs + (key / CHUNK * (BLOCK / CHUNK) + c) * 2 * LANES;
    int whole = key >= seen->from && key + CHUNK <= seen->until;
    for (int g = 0; g < 2; g++) {
        int64_t first = query + g * LANES;
        vec sum = load(sums + first), mean = load(s->means + first), ds[CHUNK];
        for (int j = 0; j < CHUNK; j++) {
            vec p = power_of_two(fma16(s->scores[2 * j + g], splat(a->scale * 1.44269504f), -sum));
            if (!whole) p = chosen(sees(seen, first, key + j), p, (vec){0});
            ds[j] = p * (s->products[2 * j + g] - mean) * a->scale;
            store_bf16(weights + j * BLOCK + g * LANES, p);
            store_bf16(changes + j * BLOCK + g * LANES, ds[j]);
        }
        for (int i = 0; i < LANES; i++) pairs[g * LANES + i] = interleaved(ds[2 * i], ds[2 * i + 1]);
    }
    STORED();
}

/* to (32 keys, width) += rows (32 keys, of a block's queries) times arranged pairs of queries, chunks [first, end). */
static void add_keys(const uint16_t *rows, const vec *pairs, int64_t first, int64_t end, int64_t width, float *to) {
    for (int64_t d = 0; d < width; d += CHUNK) {
        float *low = to + d, *high = to + LANES * width + d;
        _tile_loadd(0, low, 4 * width); _tile_loadd(1, low + LANES, 4 * width);
        _tile_loadd(2, high, 4 * width); _tile_loadd(3, high + LANES, 4 * width);
        for (int64_t c = first; c < end; c++) {
            const uint16_t *left = rows + c * CHUNK;
            const vec *right = pairs + c * width + d;
            PRODUCT(left, left + LANES * BLOCK, 2 * BLOCK, right, right + LANES)
        }
        _tile_stored(0, low, 4 * width); _tile_stored(1, low + LANES, 4 * width);
        _tile_stored(2, high, 4 * width); _tile_stored(3, high + LANES, 4 * width);
    }
}

/* The c-th chunk of a block's queries sees nothing of a chunk of keys. */
static void forget_chunk(const Space *s, int64_t key, int64_t c) {
    for (int64_t j = key; j < key + CHUNK; j++) {
        memset((uint16_t *)s->weights + j * BLOCK + c * CHUNK, 0, 2 * CHUNK);
        memset((uint16_t *)s->changes + j * BLOCK + c * CHUNK, 0, 2 * CHUNK);
    }
}

static void backward_block(const Attention *a, const Space *s, int64_t row, const uint16_t *k, const uint16_t *v,
                           int64_t ld_k, int64_t begin, const float *sums, uint16_t *g_q, int64_t ld_q) {
    int64_t width = a->width, chunks = (a->time - begin < BLOCK ? a->time - begin : BLOCK) / CHUNK;
    int64_t lowest = a->time, keys = 0, stride = BLOCK / CHUNK * 2 * LANES;
    Seen seen[BLOCK / CHUNK];
    for (int64_t c = 0; c < chunks; c++) {
        seen[c] = seen_by(a, row, begin + c * CHUNK);
        lowest = seen[c].low < lowest ? seen[c].low : lowest;
        keys = seen[c].keys > keys ? seen[c].keys : keys;
    }
    for (int64_t c = 0; c < chunks; c++) {
        int64_t query = begin + c * CHUNK, at = query / CHUNK * width, low = seen[c].low;
        for (int64_t key = lowest; key < low; key += CHUNK) forget_chunk(s, key, c);
        for (int64_t key = seen[c].keys; key < keys; key += CHUNK) forget_chunk(s, key, c);
        for (int64_t key = low; key < seen[c].keys; key += CHUNK) {
            score_chunk(k + key * ld_k, ld_k, s->queries + at, width, s->scores);
            score_chunk(v + key * ld_k, ld_k, s->gradients + at, width, s->products);
            STORED();
            change_chunk(a, s, seen + c, key, query, c, sums);
        }
        const vec *pairs = s->change_pairs + low / CHUNK * stride + c * 2 * LANES;
        sum_columns(s->keys + low / CHUNK * width, pairs, stride, (seen[c].keys - low) / CHUNK, width, s->out);
        for (int g = 0; g < 2; g++)
            put_queries(s->out + g * width, splat(1.0f), width, g_q + (query + g * LANES) * ld_q, ld_q);
    }
    int64_t arranged = begin / CHUNK * width;
    for (int64_t key = lowest; key < keys; key += CHUNK) {
        int64_t from = 0, end = chunks;
        while (from < end && (key < seen[from].low || key >= seen[from].keys)) from++;
        while (end > from && (key < seen[end - 1].low || key >= seen[end - 1].keys)) end--;
        const uint16_t *weights = (const uint16_t *)s->weights + key * BLOCK;
        const uint16_t *changes = (const uint16_t *)s->changes + key * BLOCK;
        add_keys(weights, s->gradient_pairs + arranged, from, end, width, s->g_v + key * width);
        add_keys(changes, s->query_pairs + arranged, from, end, width, s->g_k + key * width);
    }
    STORED();
}

/* Queries (or their gradients) of a head, in groups of 16. */
static void arrange_all(const uint16_t *rows, int64_t ld, int64_t time, int64_t width, vec *to) {
    for (int64_t t = 0; t < time; t += LANES) arrange(rows + t * ld, ld, LANES, width, to + t / LANES * (width / 2));
}

static void backward_head(const Attention *a, int64_t row, int64_t kv_head, vec *work) {
    Space s = space_of(a, work);
    int64_t width = a->width, time = a->time, group = a->heads / a->kv_heads, ld_q = a->heads * width;
    int64_t ld_k = a->kv_heads * width, key_at = row * time * ld_k + kv_head * width;
    memset(s.g_k, 0, 2 * time * width * sizeof(float));
    turn_rows(a->k + key_at, ld_k, time, width, s.keys);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        int64_t at = row * time * ld_q + head * width;
        arrange_all(a->q + at, ld_q, time, width, s.queries);
        arrange_all(a->g + at, ld_q, time, width, s.gradients);
        pair_rows(a->q + at, ld_q, time, width, s.query_pairs);
        pair_rows(a->g + at, ld_q, time, width, s.gradient_pairs);
        for (int64_t t = 0; t < time; t++) {
            vec total = {0};
            for (int64_t d = 0; d < width; d += LANES)
                total = fma16(load_bf16(a->g + at + t * ld_q + d), load_bf16(a->out + at + t * ld_q + d), total);
            s.means[t] = sum(total);
        }
        const float *sums = a->sums + (row * a->heads + head) * time;
        for (int64_t begin = 0; begin < time; begin += BLOCK)
            backward_block(a, &s, row, a->k + key_at, a->v + key_at, ld_k, begin, sums, a->g_q + at, ld_q);
    }
    for (int64_t t = 0; t < time; t++)
        for (int64_t d = 0; d < width; d += LANES) {
            store_bf16(a->g_k + key_at + t * ld_k + d, load(s.g_k + t * width + d));
            store_bf16(a->g_v + key_at + t * ld_k + d, load(s.g_v + t * width + d));
        }
}

/* Bytes of work space that a thread needs. */
int64_t attention_work(int64_t time, int64_t width) {
    Attention a = {.time = time, .width = width};
    Space s = space_of(&a, NULL);
    return (int64_t)(uintptr_t)(s.means + time);
}

void attention_forward(const Attention *a, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < a->rows * a->heads; i++) {
        TileConfig before;
        tiles_begin(&before);
        forward_head(a, i / a->heads, i % a->heads, (vec *)(a->work + THREAD * a->work_size));
        tiles_end(&before);
    }
}

void attention_backward(const Attention *a, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < a->rows * a->kv_heads; i++) {
        TileConfig before;
        tiles_begin(&before);
        backward_head(a, i / a->kv_heads, i % a->kv_heads, (vec *)(a->work + THREAD * a->work_size));
        tiles_end(&before);
    }
}
#endif
