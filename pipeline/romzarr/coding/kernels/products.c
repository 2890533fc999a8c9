/* Tokens from levels of their coordinates: products of integers, and what they are worth in half
 * precision. Sums of integers are exact in any order, and all other operations are single ones: so
 * the widest vectors of a machine find what the narrowest would. */
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#define WIDE __attribute__((target("avx2")))
#else
/* Vectors of 64-bit ARM are all as wide as those that every one has. */
#define WIDE
#endif

static int is_wide;

/* Whether processor and operating system have vectors of 32 bytes. */
static int has_wide_vectors(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d, saved, more;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(more) : "c"(0));
    return (saved & 6) == 6 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
#else
    return 0;
#endif
}

/* Let products use wide vectors where the machine has them, or never. */
EXPORT void choose_vectors(int may_be_wide)
{
    is_wide = may_be_wide && has_wide_vectors();
}

typedef struct {
    /* (tokens, features) */
    float *values;
    /* (tokens, stride) and (features, stride), zero beyond the directions; no sum of products
     * is beyond 32 bits. */
    const int16_t *levels, *directions;
    /* (features): what one is worth in a sum, and what all sums are added to. */
    const float *scales, *mean;
    int64_t tokens, features, stride;
} Expansion;

/* Four tokens and three features at a time: sums and what is multiplied fit into 16 registers.
 * They are sums of their own, for compilers to make vectors of each. */
INLINE void expand_some(const Expansion *e, int64_t token, int64_t feature)
{
    int64_t left = e->tokens - 1 - token, more = e->features - 1 - feature;
    const int16_t *t0 = e->levels + token * e->stride;
    const int16_t *t1 = t0 + (left < 1 ? left : 1) * e->stride;
    const int16_t *t2 = t0 + (left < 2 ? left : 2) * e->stride;
    const int16_t *t3 = t0 + (left < 3 ? left : 3) * e->stride;
    const int16_t *f0 = e->directions + feature * e->stride;
    const int16_t *f1 = f0 + (more < 1 ? more : 1) * e->stride;
    const int16_t *f2 = f0 + (more < 2 ? more : 2) * e->stride;
    int32_t s00 = 0, s01 = 0, s02 = 0, s10 = 0, s11 = 0, s12 = 0;
    int32_t s20 = 0, s21 = 0, s22 = 0, s30 = 0, s31 = 0, s32 = 0;
    for (int64_t k = 0; k < e->stride; k++) {
        s00 += t0[k] * f0[k], s01 += t0[k] * f1[k], s02 += t0[k] * f2[k];
        s10 += t1[k] * f0[k], s11 += t1[k] * f1[k], s12 += t1[k] * f2[k];
        s20 += t2[k] * f0[k], s21 += t2[k] * f1[k], s22 += t2[k] * f2[k];
        s30 += t3[k] * f0[k], s31 += t3[k] * f1[k], s32 += t3[k] * f2[k];
    }
    const int32_t sums[4][3] = {
        {s00, s01, s02}, {s10, s11, s12}, {s20, s21, s22}, {s30, s31, s32}};
    for (int64_t i = 0; i <= (left < 3 ? left : 3); i++)
        for (int64_t j = 0; j <= (more < 2 ? more : 2); j++)
            e->values[(token + i) * e->features + feature + j] =
                e->mean[feature + j] + e->scales[feature + j] * (float)sums[i][j];
}

INLINE void expand(const Expansion *e)
{
    for (int64_t feature = 0; feature < e->features; feature += 3)
        for (int64_t token = 0; token < e->tokens; token += 4)
            expand_some(e, token, feature);
}

WIDE static void expand_wide(const Expansion *e)
{
    expand(e);
}

static void expand_narrow(const Expansion *e)
{
    expand(e);
}

/* Tokens from levels of their coordinates. */
EXPORT void expand_levels(const Expansion *e)
{
    (is_wide ? expand_wide : expand_narrow)(e);
}

/* Round to the nearest float16, of two the even one; beyond the largest is infinity.
 *
 * A normal float16 has the bits of its float32 but for 13 of the fraction and another origin of
 * the exponent. The sum of a smaller one and 1/2 has the bits of its fraction last, rounded. */
INLINE uint16_t half_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t size = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    uint32_t normal = (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13;
    float sum, plain;
    memcpy(&plain, &size, sizeof plain);
    sum = plain + 0.5f;
    uint32_t small;
    memcpy(&small, &sum, sizeof small);
    small -= 126u << 23;
    uint32_t half = size < 113u << 23 ? small : normal;
    half = size >= 0x477ff000 ? 0x7c00 : half;
    half = size > 0x7f800000 ? 0x7e00 : half;
    return (uint16_t)(sign | half);
}

INLINE void to_halves(const float *values, uint16_t *halves, int64_t count)
{
    for (int64_t k = 0; k < count; k++)
        halves[k] = half_of(values[k]);
}

WIDE static void to_halves_wide(const float *values, uint16_t *halves, int64_t count)
{
    to_halves(values, halves, count);
}

static void to_halves_narrow(const float *values, uint16_t *halves, int64_t count)
{
    to_halves(values, halves, count);
}

/* float16 of float32, as IEEE 754 rounds them. */
EXPORT void round_to_halves(const float *values, uint16_t *halves, int64_t count)
{
    (is_wide ? to_halves_wide : to_halves_narrow)(values, halves, count);
}
