/* Muon's step (training/optimizers/muon.py): two passes over memory, and between them Newton-Schulz's iteration in the
CPU's tiles. Sums have one order whatever the number of threads. */

#define PIECE 4096 /* numbers whose squares are summed at once */

/* Of each matrix, `size` numbers: momentum += (gradient - momentum) rate; Nesterov's update is as far again on the way to
   the gradient. updates (count, size) gets it in bfloat16, squares (count, size / PIECE, begun) its sums of squares. */
void muon_momentum(float *const *momenta, const float *const *gradients, uint16_t *updates, float *squares, int64_t count,
                   int64_t size, float rate, int threads) {
    (void)threads;
    int64_t pieces = (size + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < count * pieces; p++) {
        int64_t matrix = p / pieces, from = p % pieces * PIECE, end = from + PIECE < size ? from + PIECE : size;
        vec total = {0};
        for (int64_t i = from; i < end; i += LANES) {
            int some = (int)(end - i);
            vec g = get_some(gradients[matrix], i, some, 0.0f, 0), m = get_some(momenta[matrix], i, some, 0.0f, 0);
            m = fma16(g - m, splat(rate), m);
            vec update = fma16(g - m, splat(rate), m);
            put_some(momenta[matrix], i, m, some, 0);
            put_some(updates, matrix * size + i, update, some, 1);
            total = fma16(update, update, total);
        }
        squares[p] = sum(total);
    }
}

/* weights = weights keep - updates rate; updates (count, size) in bfloat16. */
void muon_apply(float *const *weights, const uint16_t *updates, int64_t count, int64_t size, float keep, float rate,
                int threads) {
    (void)threads;
    int64_t pieces = (size + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < count * pieces; p++) {
        int64_t matrix = p / pieces, from = p % pieces * PIECE, end = from + PIECE < size ? from + PIECE : size;
        for (int64_t i = from; i < end; i += LANES) {
            int some = (int)(end - i);
            vec update = get_some(updates, matrix * size + i, some, 0.0f, 1);
            vec weight = get_some(weights[matrix], i, some, 0.0f, 0) * keep;
            put_some(weights[matrix], i, fma16(update, splat(-rate), weight), some, 0);
        }
    }
}

/* --- the iteration: X = a X + (b A + c A A) X with A = X X', five times ---

X is wide and its sides are filled up with zeros to multiples of 32, which stay zeros. All three lie in blocks
of two tiles: left factors as they are. A and the polynomial of it are symmetric: half is computed. */

#if HAVE_TILES
typedef struct {
    int64_t high, wide;    /* of X, in blocks of 32 */
    vec *x, *gram, *mixed; /* X, A and b A + c A A */
} Iteration;

/* The two tiles of a block of 32 x 32, one row a vector; there are `wide` blocks in a row of them. */
INLINE vec *block(vec *tiles, int64_t wide, int64_t i, int64_t k) { return tiles + (i * wide + k) * 2 * LANES; }

INLINE vec joined(vec low, vec high) { return (vec)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

/* 16 columns from `first` on of two rows, as pairs. */
INLINE vec woven(vec row, vec next, int first) {
    const uvec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uvec at = lane + (uint32_t)first;
    return (vec)_mm512_permutex2var_epi16((__m512i)row, (__m512i)(at | (at + 32) << 16), (__m512i)next);
}

/* A block whose sums [32][2 halves of a row] are known: to = scale sums + add_scale (the block `add`, unless NULL), and its
   transpose to `mirror`, unless NULL. */
typedef struct {
    const vec *sums, *add;
    float scale, add_scale;
    vec *to, *mirror;
} Block;

INLINE void put_row(const Block *b, int r) {
    vec low = b->sums[2 * r] * b->scale, high = b->sums[2 * r + 1] * b->scale;
    if (b->add) {
        low = fma16(load_bf16((const uint16_t *)(b->add + r)), splat(b->add_scale), low);
        high = fma16(load_bf16((const uint16_t *)(b->add + r) + LANES), splat(b->add_scale), high);
    }
    b->to[r] = joined(low, high);
}

/* Transpose a block. */
static void turn_block(const vec *from, vec *to) {
    for (int half = 0; half < 2; half++) {
        vec pairs[LANES];
        for (int i = 0; i < LANES; i++) pairs[i] = woven(from[2 * i], from[2 * i + 1], half * LANES);
        transpose16(pairs, to + half * LANES);
    }
}

/* sums = products of `count` blocks of a row of blocks with as many right factors. While the tiles are busy the block
   `before`, whose sums lie there still, is put, if it is one. Left factors are read past the nearest cache, where the right
   ones are to stay. */
INLINE void multiply(const vec *left, const vec *right, int64_t count, const Block *before, vec *sums) {
    int r = 0, rows = before->to ? 32 : 0, share = (int)((31 + count) / count);
    ZERO()
    for (int64_t k = 0; k < count; k++, left += 2 * LANES, right += 2 * LANES) {
        _tile_stream_loadd(4, left, 64); _tile_loadd(6, right, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + LANES, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_stream_loadd(5, left + LANES, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        for (int end = r + share < rows ? r + share : rows; r < end; r++) put_row(before, r);
    }
    if (before->mirror) turn_block(before->to, before->mirror);
    STORED();
    _tile_stored(0, sums, 128); _tile_stored(1, sums + 1, 128);
    _tile_stored(2, sums + 32, 128); _tile_stored(3, sums + 33, 128);
    STORED();
}

/* What `multiply` does to the block before, when there is no next one. */
INLINE void put_last(const Block *b) {
    for (int r = 0; r < 32; r++) put_row(b, r);
    if (b->mirror) turn_block(b->to, b->mirror);
}

/* Blocks (i >= j, j) of to = scale Y Y' + add_scale Y, and those opposite; Y has `high` x `wide` blocks. */
static void square_rows(vec *y, int64_t high, int64_t wide, float scale, float add_scale, int64_t j, vec *to) {
    vec right[wide * 2 * LANES], sums[4 * LANES];
    Block last = {.to = NULL};
    for (int64_t tile = 0; tile < 2 * wide; tile++) transpose16(block(y, wide, j, 0) + tile * LANES, right + tile * LANES);
    STORED();
    for (int64_t i = j; i < high; i++) {
        multiply(block(y, wide, i, 0), right, wide, &last, sums);
        last = (Block){sums, add_scale != 0 ? block(y, wide, i, j) : NULL, scale, add_scale, block(to, high, i, j),
                       i > j ? block(to, high, j, i) : NULL};
    }
    put_last(&last);
}

/* A column of X's blocks becomes a X + mixed X. */
static void mix_column(const Iteration *s, float a, int64_t k) {
    vec right[s->high * 2 * LANES], sums[4 * LANES];
    Block last = {.to = NULL};
    for (int64_t i = 0; i < s->high; i++) {
        const vec *rows = block(s->x, s->wide, i, k);
        vec *to = right + i * 2 * LANES;
        for (int r = 0; r < LANES; r++) {
            to[r] = woven(rows[2 * r], rows[2 * r + 1], 0);
            to[LANES + r] = woven(rows[2 * r], rows[2 * r + 1], LANES);
        }
    }
    STORED();
    for (int64_t i = 0; i < s->high; i++) {
        multiply(block(s->mixed, s->high, i, 0), right, s->high, &last, sums);
        vec *own = block(s->x, s->wide, i, k);
        last = (Block){sums, own, 1.0f, a, own, NULL};
    }
    put_last(&last);
}

/* A block of X from (or, `back`, to) the matrix (rows, cols), times `scale`; of a tall one X is the transpose. */
static void carry_block(const Iteration *s, uint16_t *matrix, int64_t rows, int64_t cols, float scale, int64_t i, int64_t k,
                        int back) {
    int tall = rows > cols;
    int64_t row = 32 * (tall ? k : i), col = 32 * (tall ? i : k);
    int64_t count = rows - row < 32 ? rows - row : 32, some = cols - col < 32 ? cols - col : 32;
    vec *own = block(s->x, s->wide, i, k), turned[2 * LANES], *lying = tall ? turned : own;
    if (back) {
        if (tall) turn_block(own, turned);
        __mmask32 mask = (__mmask32)(0xffffffffu >> (32 - some));
        for (int64_t r = 0; r < count; r++)
            _mm512_mask_storeu_epi16(matrix + (row + r) * cols + col, mask, (__m512i)lying[r]);
        return;
    }
    for (int64_t r = 0; r < 32; r++) {
        int left = r < count ? (int)some : 0;
        int64_t at = (row + r) * cols + col;
        vec low = get_some(matrix, at, left, 0.0f, 1), high = get_some(matrix, at + LANES, left - LANES, 0.0f, 1);
        lying[r] = joined(low * scale, high * scale);
    }
    if (tall) turn_block(turned, own);
}

/* One matrix (rows, cols) in place; what it is multiplied by first makes its norm 1. */
static void orthogonal(uint16_t *matrix, int64_t rows, int64_t cols, float scale, const float *abc, int steps, vec *work,
                       int threads) {
    int64_t high = ((rows < cols ? rows : cols) + 31) / 32, wide = ((rows < cols ? cols : rows) + 31) / 32;
    vec *gram = work + high * wide * 2 * LANES;
    const Iteration its = {high, wide, work, gram, gram + high * high * 2 * LANES}, *s = &its;
    (void)threads;
#pragma omp parallel num_threads(threads)
    {
        TileConfig before;
        tiles_begin(&before);
#pragma omp for
        for (int64_t p = 0; p < high * wide; p++) carry_block(s, matrix, rows, cols, scale, p / wide, p % wide, 0);
        for (int step = 0; step < steps; step++) {
#pragma omp for schedule(dynamic)
            for (int64_t j = 0; j < high; j++) square_rows(s->x, high, wide, 1.0f, 0.0f, j, s->gram);
#pragma omp for schedule(dynamic)
            for (int64_t j = 0; j < high; j++) square_rows(s->gram, high, high, abc[2], abc[1], j, s->mixed);
#pragma omp for schedule(dynamic)
            for (int64_t k = 0; k < wide; k++) mix_column(s, abc[0], k);
        }
#pragma omp for
        for (int64_t p = 0; p < high * wide; p++) carry_block(s, matrix, rows, cols, 1.0f, p / wide, p % wide, 1);
        tiles_end(&before);
    }
}

/* matrices (count, rows, cols) in place. A thread takes one at a time; if they are fewer than threads, all take a part of it.
   work: `work_size` vectors of each thread, room for X and two squares of its shorter side. */
void muon_orthogonal(uint16_t *matrices, const float *scales, const float *abc, vec *work, int64_t count, int64_t rows,
                     int64_t cols, int64_t work_size, int steps, int threads) {
    if (count < threads)
        for (int64_t m = 0; m < count; m++)
            orthogonal(matrices + m * rows * cols, rows, cols, scales[m], abc, steps, work, threads);
    else {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (int64_t m = 0; m < count; m++)
            orthogonal(matrices + m * rows * cols, rows, cols, scales[m], abc, steps, work + THREAD * work_size, 1);
    }
}
#endif
