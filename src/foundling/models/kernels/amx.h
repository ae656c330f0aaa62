/* What every kernel in the CPU's tiles (AMX) needs: 16 x 16 sums of products of 32 bfloat16 an instruction.

The left factor's tiles are rows as they lie, 16 rows of 32; the right one's hold 16 pairs x 16. */

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define HAVE_TILES 1
#include <sys/syscall.h>
#include <unistd.h>

#define TILE_INPUTS 32

/* The intrinsics do not tell the compiler that they read memory: what was stored must be there before they do. */
#define STORED() __asm__ volatile("" ::: "memory")

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
    STORED();
    _tile_loadconfig(&full);
}

static void tiles_end(const TileConfig *before) {
    if (before->palette) _tile_loadconfig(before);
    else _tile_release();
}

/* `some` rows (at most 16, the others count as zeros) of k bfloat16, ld apart: k / 32 tiles of 16 pairs x 16 rows. */
static void arrange(const uint16_t *rows, int64_t ld, int some, int64_t k, vec *to) {
    for (int64_t i = 0; i < k; i += TILE_INPUTS, to += LANES) {
        vec from[LANES];
        for (int r = 0; r < LANES; r++) from[r] = r < some ? load((const float *)(rows + r * ld + i)) : (vec){0};
        transpose16(from, to);
    }
    STORED();
}

/* Two vectors of 16 floats as 16 pairs of bfloat16. */
INLINE vec interleaved(vec low, vec high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vec)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
}

/* 2^x for x up to a little over 0: Taylor's polynomial of the fraction; relative error below 3e-7. NaN stays. */
INLINE vec power_of_two(vec x) {
    x = vmax(splat(-1000), x); /* no infinity, whose difference from itself is not a number */
    vec whole = (vec)_mm512_roundscale_ps((__m512)x, 0), r = x - whole;
    vec p = r * 1.5403530e-4f + 1.3333558e-3f;
    p = p * r + 9.6181291e-3f;
    p = p * r + 5.5504109e-2f;
    p = p * r + 2.4022651e-1f;
    p = p * r + 6.9314718e-1f;
    p = p * r + 1.0f;
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)whole);
}

#else
#define HAVE_TILES 0
int tiles_allowed(void) { return 0; }
#endif
