/* Sixteen lanes at a time, in GCC's vector extension: any CPU compiles it, AVX-512 in one instruction each. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(64)));
typedef float vec_u __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef int32_t ivec_u __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t hvec_u __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t uvec __attribute__((vector_size(64)));

#define INLINE static inline __attribute__((always_inline))
#define LANES 16
#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it leaves the nearest integer in a float's low bits */

INLINE vec load(const float *p) { return *(const vec_u *)p; }
INLINE void store(float *p, vec v) { *(vec_u *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec load_bf16(const uint16_t *p) {
    return (vec)(__builtin_convertvector(*(const hvec_u *)p, uvec) << 16);
}
INLINE void store_bf16(uint16_t *p, vec v) { /* round to nearest even, as torch does */
#ifdef __AVX512BF16__
    __m256bh halves = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &halves, sizeof halves);
#else
    uvec bits = (uvec)v;
    *(hvec_u *)p = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, hvec_u);
#endif
}

/* The order of these sums is part of the results' reproducibility: the same whatever the batch. */
INLINE float sum(vec v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)v);
#else
    float s[LANES];
    memcpy(s, &v, sizeof s);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) s[i] += s[i + width];
    return s[0];
#endif
}
INLINE int32_t isum(ivec v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t s = 0;
    for (int i = 0; i < LANES; i++) s += v[i];
    return s;
#endif
}
INLINE int32_t ilargest(ivec v) {
#ifdef __AVX512F__
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t m = v[0];
    for (int i = 1; i < LANES; i++) m = v[i] > m ? v[i] : m;
    return m;
#endif
}
INLINE float largest(vec v) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)v);
#else
    float m = v[0];
    for (int i = 1; i < LANES; i++) m = v[i] > m ? v[i] : m;
    return m;
#endif
}
INLINE vec vmax(vec a, vec b) { /* b where either is NaN, so that a NaN in b gets through */
#ifdef __AVX512F__
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
    ivec greater = a > b;
    return (vec)(((ivec)a & greater) | ((ivec)b & ~greater));
#endif
}
INLINE vec fma16(vec a, vec b, vec c) {
#ifdef __AVX512F__
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return a * b + c;
#endif
}

/* to[d][j] = from[j][d] for a 16 x 16 tile */
INLINE void transpose16(vec rows[LANES], vec *to) {
#ifdef __AVX512F__
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps((__m512)rows[i], (__m512)rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps((__m512)rows[i], (__m512)rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
        a[i + 4] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
        a[i + 8] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
        a[i + 12] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        to[i] = (vec)_mm512_shuffle_f32x4(a[i], a[i + 8], 0x88);
        to[i + 4] = (vec)_mm512_shuffle_f32x4(a[i + 4], a[i + 12], 0x88);
        to[i + 8] = (vec)_mm512_shuffle_f32x4(a[i], a[i + 8], 0xdd);
        to[i + 12] = (vec)_mm512_shuffle_f32x4(a[i + 4], a[i + 12], 0xdd);
    }
#else
    for (int d = 0; d < LANES; d++)
        for (int j = 0; j < LANES; j++) to[d][j] = rows[j][d];
#endif
}

/* exp(x): 2^k times a polynomial in the fraction; relative error below 3e-7; 0 under -87, x is cut at 88, NaN stays. */
INLINE vec vexp(vec x) {
    ivec tiny = x < -87.0f;
    x = -vmax(splat(-88.0f), -x);
    x = (vec)((ivec)x & ~tiny);
    vec k = (x * 1.44269504f + ROUNDER) - ROUNDER;
    vec r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec bits = (__builtin_convertvector(k, ivec) + 127) << 23;
    return (vec)((ivec)(p * (vec)bits) & ~tiny);
}

INLINE vec silu(vec x) {
    vec d = 1.0f + vexp(-x);
#ifdef __AVX512F__ /* a division takes as long as the rest: half the digits, then Newton's step */
    vec r = (vec)_mm512_rcp14_ps((__m512)d);
    return x * (r * (2.0f - d * r));
#else
    return x / d;
#endif
}
