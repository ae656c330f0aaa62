/* One forward pass of a stack of attention and gated feed-forward blocks, over a paged cache, in one call.

All threads walk through the same phases; between two phases there is a barrier. The residual stream is float32. */

typedef struct {
    Matrix q, k, v, o, gate, up, down;
    const float *mixer_norm, *ffn_norm, *q_norm, *k_norm; /* scales; the last two may be NULL */
    float mixer_eps, ffn_eps, qk_eps;
    int32_t rope; /* which of the tables; -1: none */
    Shape shape;
    Cache cache;
} Layer;

typedef struct {
    const Layer *layers;
    int64_t n_layers, dim;
    const float *norm; /* of the output; NULL: none */
    float eps;
    /* the pass: */
    int64_t tokens, max_blocks, longest; /* longest: most positions of any row, rounded up to 16 */
    float *x;                            /* (tokens, dim) embeddings in, hidden states out */
    const int64_t *rows, *positions, *slots, *table; /* of each token its row, position, cache slot; (rows, max_blocks) */
    const float *const *rope;                        /* tables (tokens, 2, head_dim): cosines, signed sines */
    /* work space, shared: */
    Inputs wide, mid, inner; /* inputs of products over dim, heads * head_dim, hidden */
    float *qkv, *gated;      /* (tokens, ld_qkv), (tokens, 2 * hidden padded) */
    int64_t ld_qkv, ld_gated;
    /* work space of each thread: */
    float *scores;
    vec *keys;
    int64_t thread_scores, thread_keys;
    /* attention's pieces: first token and number of tokens of each run of neighbours */
    const int32_t *runs;
    int64_t n_runs;
    int32_t in_tiles; /* whether attention is computed by `attend_run` */
} Pass;

INLINE float inverse_rms(const float *x, int64_t dim, float eps) {
    vec total = {0};
    for (int64_t i = 0; i < dim; i += LANES) total = fma16(load(x + i), load(x + i), total);
    return 1.0f / sqrtf(sum(total) / (float)dim + eps);
}

static void rms_norm(const float *x, const float *weight, int64_t dim, float eps, float *y) {
    float scale = inverse_rms(x, dim, eps);
    for (int64_t i = 0; i < dim; i += LANES) store(y + i, load(x + i) * scale * load(weight + i));
}

static void rotate(float *head, const float *table, int64_t width) {
    const float *cosine = table, *sine = table + width;
    int64_t half = width / 2;
    for (int64_t i = 0; i < half; i += LANES) { /* width is a multiple of 32 */
        vec a = load(head + i), b = load(head + half + i);
        store(head + i, a * load(cosine + i) + b * load(sine + i));
        store(head + half + i, b * load(cosine + half + i) + a * load(sine + half + i));
    }
}

/* Queries and keys of one token: norm, rotation; keys and values into the cache. */
static void place_token(const Pass *pass, const Layer *layer, int64_t t) {
    const Shape *s = &layer->shape;
    float *q = pass->qkv + t * pass->ld_qkv, *k = q + s->heads * s->head_dim, *v = k + s->kv_heads * s->head_dim;
    for (int h = 0; h < s->heads + s->kv_heads; h++) {
        float *head = q + h * s->head_dim;
        const float *norm = h < s->heads ? layer->q_norm : layer->k_norm;
        if (norm) rms_norm(head, norm, s->head_dim, layer->qk_eps, head);
        if (layer->rope >= 0) rotate(head, pass->rope[layer->rope] + t * 2 * s->head_dim, s->head_dim);
    }
    int64_t width = s->kv_heads * s->head_dim, at = pass->slots[t] * width;
    for (int64_t i = 0; i < width; i += LANES) {
        if (layer->cache.bf16) {
            store_bf16((uint16_t *)layer->cache.keys + at + i, load(k + i));
            store_bf16((uint16_t *)layer->cache.values + at + i, load(v + i));
        } else {
            store((float *)layer->cache.keys + at + i, load(k + i));
            store((float *)layer->cache.values + at + i, load(v + i));
        }
    }
}

static void attention_piece(const Pass *pass, const Layer *layer, const Inputs *mid, int piece, int heads, Thread *thread) {
    const Shape *s = &layer->shape;
    int per_run = s->heads / heads;
    const int32_t *run = pass->runs + piece / per_run * 2;
    int64_t t = run[0], head = piece % per_run * heads;
    Piece p = {s, &layer->cache, pass->table + pass->rows[t] * pass->max_blocks, pass->positions + t,
               pass->qkv + t * pass->ld_qkv + head * s->head_dim, NULL, pass->ld_qkv,
               (int)(head / (s->heads / s->kv_heads)), run[1], heads, NULL, 0};
    p.out = (float *)p.q; /* queries are not needed again */
    vec *work = pass->keys + thread->id * pass->thread_keys;
    if (pass->in_tiles) {
        if (halves(mid)) p.codes = half_codes(mid, t) + head * s->head_dim, p.ld_codes = half_stride(mid);
        attend_run(&p, work);
    } else attend_piece(&p, pass->scores + thread->id * pass->thread_scores, pass->longest, work);
}

/* How many groups so many tokens are divided into, and the tokens of one of them. */
static int groups_for(int64_t tokens, int threads) {
    int64_t most = tokens < MANY ? 1 : (tokens + SHARE - 1) / SHARE;
    if (most > GROUPS) most = GROUPS;
    return (int)(most < threads ? most : threads);
}

typedef struct {
    int64_t begin, end;
} Range;

INLINE Range tokens_of(int group, const Team *team, int64_t tokens) {
    int64_t each = (tokens + team->groups * ROWS - 1) / (team->groups * ROWS) * ROWS, begin = group * each;
    return (Range){begin, begin + each < tokens ? begin + each : tokens};
}

/* Several products of the same inputs, side by side in y. */
static void products(const Matrix *const *w, int count, const Inputs *in, int64_t tokens, float *y, int64_t ldy, int add,
                     Thread *thread) {
    int total = 0, in_tiles = tiled(w[0], in), many = in_tiles && tokens >= MANY, panels = many ? 2 : PIECE;
    if (in_tiles && !many) {
        for (int group; (group = take(thread, tile_groups(tokens))) >= 0;) arrange_tokens(in, tokens, group);
        barrier(thread);
    }
    for (int i = 0; i < count; i++) total += pieces_of(w[i], panels);
    for (int piece; (piece = take(thread, total * thread->team->groups)) >= 0;) {
        Range range = tokens_of(piece / total, thread->team, tokens);
        int64_t column = 0;
        int i = 0;
        for (piece %= total; piece >= pieces_of(w[i], panels); i++) {
            piece -= pieces_of(w[i], panels);
            column += w[i]->n;
        }
        (many ? tile_columns : in_tiles ? few_tokens : product_piece)(w[i], in, range.begin, range.end, piece, y + column, ldy,
                                                                      add);
    }
    barrier(thread);
}

static void set_kind(Inputs *in, const Matrix *w) {
    in->kind = w->kind;
    in->group = w->group;
    in->k = w->k;
}

static void normed(const Pass *pass, const float *weight, float eps, Inputs *in, Thread *thread) {
    int64_t dim = pass->dim;
    for (int t; (t = take(thread, (int)pass->tokens)) >= 0;) {
        const float *x = pass->x + t * dim;
        if (halves(in)) { /* at once, past `values` */
            float scale = inverse_rms(x, dim, eps);
            uint16_t *y = half_codes(in, t);
            for (int64_t i = 0; i < dim; i += LANES) store_bf16(y + i, load(x + i) * scale * load(weight + i));
        } else {
            rms_norm(x, weight, dim, eps, in->values + t * dim);
            prepare_token(in, t);
        }
    }
    barrier(thread);
}

/* How many of the query heads that share a key head are one piece: a divisor of their number, smaller where there would
   be few pieces. */
static int heads_together(const Pass *pass, const Shape *s, int threads) {
    int group = s->heads / s->kv_heads, heads = pass->in_tiles ? LANES : 3, least = pass->in_tiles ? threads : 4 * threads;
    while (heads > 1 && (group % heads || pass->n_runs * (s->heads / heads) < least)) heads--;
    return heads;
}

static void attention(const Pass *pass, const Layer *layer, Thread *thread) {
    const Shape *s = &layer->shape;
    Inputs in = pass->wide, mid = pass->mid;
    set_kind(&in, &layer->q);
    set_kind(&mid, &layer->o);
    normed(pass, layer->mixer_norm, layer->mixer_eps, &in, thread);
    products((const Matrix *const[]){&layer->q, &layer->k, &layer->v}, 3, &in, pass->tokens, pass->qkv, pass->ld_qkv, 0,
             thread);
    for (int t; (t = take(thread, (int)pass->tokens)) >= 0;) place_token(pass, layer, t);
    barrier(thread);
    int heads = heads_together(pass, s, thread->team->size);
    int pieces = (int)pass->n_runs * (s->heads / heads);
    for (int piece; (piece = take(thread, pieces)) >= 0;) attention_piece(pass, layer, &mid, piece, heads, thread);
    barrier(thread);
    if (!pass->in_tiles || !halves(&mid)) {
        for (int t; (t = take(thread, (int)pass->tokens)) >= 0;) {
            memcpy(mid.values + t * mid.k, pass->qkv + t * pass->ld_qkv, mid.k * sizeof(float));
            prepare_token(&mid, t);
        }
        barrier(thread);
    }
    products((const Matrix *const[]){&layer->o}, 1, &mid, pass->tokens, pass->x, pass->dim, 1, thread);
}

static void feed_forward(const Pass *pass, const Layer *layer, Thread *thread) {
    Inputs in = pass->wide, inner = pass->inner;
    set_kind(&in, &layer->gate);
    set_kind(&inner, &layer->down);
    int64_t hidden = layer->gate.n;
    normed(pass, layer->ffn_norm, layer->ffn_eps, &in, thread);
    if (pass->tokens >= MANY && tiled(&layer->gate, &in) && tiled(&layer->up, &in) && layer->down.kind == BF16) {
        int total = pieces_of(&layer->gate, 2);
        for (int piece; (piece = take(thread, total * thread->team->groups)) >= 0;) {
            Range range = tokens_of(piece / total, thread->team, pass->tokens);
            gated_columns(&layer->gate, &layer->up, &in, range.begin, range.end, piece % total, pass->gated, pass->ld_gated,
                          &inner);
        }
    } else {
        products((const Matrix *const[]){&layer->gate, &layer->up}, 2, &in, pass->tokens, pass->gated, pass->ld_gated, 0,
                 thread);
        for (int t; (t = take(thread, (int)pass->tokens)) >= 0;) {
            const float *gate = pass->gated + t * pass->ld_gated, *up = gate + hidden;
            float *y = inner.values + t * hidden;
            for (int64_t i = 0; i < hidden; i += LANES) store(y + i, silu(load(gate + i)) * load(up + i));
            prepare_token(&inner, t);
        }
    }
    barrier(thread);
    products((const Matrix *const[]){&layer->down}, 1, &inner, pass->tokens, pass->x, pass->dim, 1, thread);
}

static void walk(const Pass *pass, Thread *thread) {
    TileConfig before;
    if (pass->wide.pairs || pass->in_tiles) tiles_begin(&before);
    for (int64_t i = 0; i < pass->n_layers; i++) {
        attention(pass, pass->layers + i, thread);
        feed_forward(pass, pass->layers + i, thread);
    }
    if (pass->norm)
        for (int t; (t = take(thread, (int)pass->tokens)) >= 0;) {
            float *x = pass->x + t * pass->dim;
            rms_norm(x, pass->norm, pass->dim, pass->eps, x);
        }
    if (pass->wide.pairs || pass->in_tiles) tiles_end(&before);
}

void decoder_pass(const Pass *pass, int threads) {
    Team team = {.size = 1, .groups = 1};
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        team.size = omp_get_num_threads(), team.groups = groups_for(pass->tokens, team.size);
        Thread thread = {&team, omp_get_thread_num(), 0};
        walk(pass, &thread);
    }
#else
    (void)threads;
    Thread thread = {&team, 0, 0};
    walk(pass, &thread);
#endif
}

/* y (tokens, ldy) = x W^T; in->values holds x. */
void linear(const Matrix *w, const Inputs *inputs, int64_t tokens, float *y, int64_t ldy, int threads) {
    Inputs in = *inputs;
    set_kind(&in, w);
    Team team = {.size = 1, .groups = 1};
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        team.size = omp_get_num_threads(), team.groups = groups_for(tokens, team.size);
        Thread thread = {&team, omp_get_thread_num(), 0};
#else
    (void)threads;
    {
        Thread thread = {&team, 0, 0};
#endif
        TileConfig before;
        if (in.pairs) tiles_begin(&before);
        for (int t; (t = take(&thread, (int)tokens)) >= 0;) prepare_token(&in, t);
        barrier(&thread);
        products(&w, 1, &in, tokens, y, ldy, 0, &thread);
        if (in.pairs) tiles_end(&before);
    }
}
