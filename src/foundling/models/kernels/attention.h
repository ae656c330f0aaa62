/* Causal attention of new tokens over a paged cache of keys and values, for groups of query heads that share them.

Scores are computed sixteen keys at a time from keys transposed in registers, so that no sum runs across lanes; a token's
result is the same whether it is computed alone or with its whole prompt. */

typedef struct {
    void *keys, *values; /* (blocks * block_size, kv_heads, head_dim), float32 or bfloat16 */
    int32_t bf16;
} Cache;

typedef struct {
    int32_t heads, kv_heads, head_dim, block_size, window; /* window 0: all */
    float scale;
} Shape;

#define QUERIES 12 /* most queries that share one pass over the keys: 4 tokens, 3 heads */

INLINE vec cached(const void *pool, int64_t at, int bf16) {
    return bf16 ? load_bf16((const uint16_t *)pool + at) : load((const float *)pool + at);
}

/* scores[q][16 lanes] of one block of 16 keys, for `n` queries. keys (head_dim) vectors, transposed */
INLINE void score_block(const float *const *queries, int n, const vec *keys, int head_dim, float scale, float *scores,
                        int64_t ld) {
    vec acc[QUERIES];
    for (int i = 0; i < n; i++) acc[i] = (vec){0};
    for (int d = 0; d < head_dim; d++)
        for (int i = 0; i < n; i++) acc[i] = fma16(splat(queries[i][d]), keys[d], acc[i]);
    for (int i = 0; i < n; i++) store(scores + i * ld, acc[i] * scale);
}

/* The scores of positions [first, length) become weights with sum 1, those of [begin, first) and [length, end) zero. */
static void softmax(float *scores, int64_t begin, int64_t first, int64_t length, int64_t end) {
    for (int64_t j = begin; j < first; j++) scores[j] = -INFINITY;
    for (int64_t j = length; j < end; j++) scores[j] = -INFINITY;
    vec most = splat(-INFINITY), total = {0};
    for (int64_t j = begin; j < end; j += LANES) most = vmax(most, load(scores + j));
    vec top = splat(largest(most));
    for (int64_t j = begin; j < end; j += LANES) {
        vec e = vexp(load(scores + j) - top);
        total += e;
        store(scores + j, e);
    }
    vec inverse = splat(1.0f / sum(total));
    for (int64_t j = begin; j < end; j += LANES) store(scores + j, load(scores + j) * inverse);
}

/* One piece of attention: some neighbouring tokens of one row, some query heads that share a key/value head. */
typedef struct {
    const Shape *shape;
    const Cache *cache;
    const int64_t *blocks;    /* the row's block table */
    const int64_t *positions; /* of the tokens */
    const float *q;           /* first query's vector; out likewise */
    float *out;
    int64_t ld; /* floats from one token to the next, in q and out */
    int kv_head, tokens, heads;
    uint16_t *codes; /* of `tile_attention.h`: results as bfloat16, ld_codes apart, instead of `out`; or NULL */
    int64_t ld_codes;
} Piece;

INLINE int64_t slot_of(const Piece *p, int64_t position) {
    int size = p->shape->block_size;
    return p->blocks[position / size] * size + position % size;
}

/* scores: n * ld floats and work: head_dim vectors of space */
INLINE void attend(const Piece *p, float *scores, int64_t ld, vec *work, const int tokens, const int heads) {
    const Shape *s = p->shape;
    const int n = tokens * heads, width = s->head_dim, bf16 = p->cache->bf16;
    const float *queries[QUERIES];
    for (int i = 0; i < n; i++) queries[i] = p->q + (i / heads) * p->ld + i % heads * width;
    int64_t last = p->positions[tokens - 1] + 1;
    int64_t oldest = s->window && p->positions[0] + 1 > s->window ? p->positions[0] + 1 - s->window : 0;
    int64_t begin = oldest / LANES * LANES, end = (last + LANES - 1) / LANES * LANES;
    int64_t row = (int64_t)s->kv_heads * width, head = (int64_t)p->kv_head * width;
    for (int64_t j = begin; j < end; j += LANES) {
        int64_t slots[LANES];
        for (int i = 0; i < LANES; i++) slots[i] = slot_of(p, j + i < last ? j + i : last - 1) * row + head;
        for (int d = 0; d < width; d += LANES) {
            vec rows[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = cached(p->cache->keys, slots[i] + d, bf16);
            transpose16(rows, work + d);
        }
        score_block(queries, n, work, width, s->scale, scores + j, ld);
    }
    for (int i = 0; i < n; i++) {
        int64_t length = p->positions[i / heads] + 1;
        int64_t first = s->window && length > s->window ? length - s->window : 0;
        softmax(scores + i * ld, begin, first, length, end);
    }
    for (int d = 0; d < width; d += LANES) {
        vec acc[QUERIES];
        for (int i = 0; i < n; i++) acc[i] = (vec){0};
        for (int64_t j = oldest; j < last; j++) {
            vec v = cached(p->cache->values, slot_of(p, j) * row + head + d, bf16);
            for (int i = 0; i < n; i++) acc[i] = fma16(splat(scores[i * ld + j]), v, acc[i]);
        }
        for (int i = 0; i < n; i++) store(p->out + (i / heads) * p->ld + i % heads * width + d, acc[i]);
    }
}

static void attend_piece(const Piece *p, float *scores, int64_t ld, vec *work) {
    switch (p->tokens * 4 + p->heads) {
        case 4 * 4 + 3: attend(p, scores, ld, work, 4, 3); break;
        case 4 * 4 + 2: attend(p, scores, ld, work, 4, 2); break;
        case 4 * 4 + 1: attend(p, scores, ld, work, 4, 1); break;
        case 2 * 4 + 3: attend(p, scores, ld, work, 2, 3); break;
        case 2 * 4 + 2: attend(p, scores, ld, work, 2, 2); break;
        case 2 * 4 + 1: attend(p, scores, ld, work, 2, 1); break;
        case 1 * 4 + 3: attend(p, scores, ld, work, 1, 3); break;
        case 1 * 4 + 2: attend(p, scores, ld, work, 1, 2); break;
        default: attend(p, scores, ld, work, 1, 1);
    }
}
