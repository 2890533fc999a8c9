/* Tokens from levels of their coordinates: products of integers, and what becomes of them: positions
 * of keys, and half precision. Sums of integers are exact in any order, and all other operations
 * are single ones: so the widest vectors of a machine find what the narrowest would. */
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define WIDE __attribute__((target("avx2")))
#endif

/* Tokens and features whose sums are in registers. */
#define TOKENS 4
#define FEATURES 16

/* Sums of products of the levels of four tokens with directions (pairs, features, 2). */
typedef void Sum(int32_t sums[TOKENS][FEATURES], const int16_t *const levels[TOKENS],
                 const int16_t *directions, int64_t pairs);

static void sum_anywhere(int32_t sums[TOKENS][FEATURES], const int16_t *const levels[TOKENS],
                         const int16_t *directions, int64_t pairs)
{
    memset(sums, 0, TOKENS * sizeof sums[0]);
    for (int64_t k = 0; k < pairs; k++, directions += 2 * FEATURES)
        for (int i = 0; i < TOKENS; i++) {
            int32_t even = levels[i][2 * k], odd = levels[i][2 * k + 1];
            for (int j = 0; j < FEATURES; j++)
                sums[i][j] += even * directions[2 * j] + odd * directions[2 * j + 1];
        }
}

/* Round the bits of a float32 to the nearest float16, of two the even one; beyond the largest is
 * infinity.
 *
 * A normal float16 has the bits of its float32 but for 13 of the fraction and another origin of
 * the exponent. The sum of a smaller one and 1/2 has the bits of its fraction last, rounded. */
INLINE uint16_t half_of(uint32_t bits)
{
    union {
        uint32_t bits;
        float value;
    } small = {bits & 0x7fffffff};
    uint32_t size = small.bits, sign = bits >> 16 & 0x8000;
    int32_t place = (int32_t)size;
    uint32_t normal = (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13;
    small.value += 0.5f;
    /* Masks, since compilers make no vectors of conditional sums. */
    uint32_t is_small = 0u - (place < 113 << 23), is_beyond = 0u - (place >= 0x477ff000);
    uint32_t is_none = 0u - (place > 0x7f800000);
    uint32_t half = ((small.bits - (126u << 23)) & is_small) | (normal & ~is_small);
    half = (half & ~is_beyond) | (0x7c00 & is_beyond) | (0x200 & is_none);
    return (uint16_t)(sign | half);
}

INLINE void round_all(const uint32_t *values, uint16_t *halves, int64_t count)
{
    for (int64_t k = 0; k < count; k++)
        halves[k] = half_of(values[k]);
}

static void round_anywhere(const uint32_t *values, uint16_t *halves, int64_t count)
{
    round_all(values, halves, count);
}

#if defined(__x86_64__)
/* Two products and their sum are one instruction, for which compilers have no other words. */
WIDE static void sum_wide(int32_t sums[TOKENS][FEATURES], const int16_t *const levels[TOKENS],
                          const int16_t *directions, int64_t pairs)
{
    __m256i found[TOKENS][2];
    for (int i = 0; i < TOKENS; i++)
        found[i][0] = found[i][1] = _mm256_setzero_si256();
    for (int64_t k = 0; k < pairs; k++, directions += 2 * FEATURES) {
        __m256i left = _mm256_loadu_si256((const __m256i *)directions);
        __m256i right = _mm256_loadu_si256((const __m256i *)(directions + FEATURES));
        for (int i = 0; i < TOKENS; i++) {
            int32_t both;
            memcpy(&both, levels[i] + 2 * k, sizeof both);
            __m256i pair = _mm256_set1_epi32(both);
            found[i][0] = _mm256_add_epi32(found[i][0], _mm256_madd_epi16(pair, left));
            found[i][1] = _mm256_add_epi32(found[i][1], _mm256_madd_epi16(pair, right));
        }
    }
    for (int i = 0; i < TOKENS; i++)
        for (int half = 0; half < 2; half++)
            _mm256_storeu_si256((__m256i *)(sums[i] + FEATURES / 2 * half), found[i][half]);
}

WIDE static void round_wide(const uint32_t *values, uint16_t *halves, int64_t count)
{
    round_all(values, halves, count);
}

/* Whether processor and operating system have vectors of 32 bytes. */
static int has_wide_vectors(void)
{
    unsigned a, b, c, d, saved, more;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(more) : "c"(0));
    return (saved & 6) == 6 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}
#endif

static Sum *sum_products = sum_anywhere;
static void (*round_some)(const uint32_t *, uint16_t *, int64_t) = round_anywhere;

/* Let products use wide vectors where the machine has them, or never. */
EXPORT void choose_vectors(int may_be_wide)
{
    sum_products = sum_anywhere;
    round_some = round_anywhere;
#if defined(__x86_64__)
    if (may_be_wide && has_wide_vectors()) {
        sum_products = sum_wide;
        round_some = round_wide;
    }
#else
    (void)may_be_wide;
#endif
}

typedef struct {
    /* (tokens, features): from feature `first` on. */
    float *values;
    /* (tokens, 2 * pairs) and (features / 16, pairs, 16, 2): no sum of products is beyond 32 bits. */
    const int16_t *levels, *directions;
    /* Of all features: what one is worth in a sum, and what sums are added to. */
    const float *scales, *mean;
    int64_t tokens, features, first, pairs;
} Expansion;

/* Values of some tokens in one block of features. */
INLINE void expand_some(const Expansion *e, int64_t token, int64_t block)
{
    int64_t rest = e->tokens - token, rows = rest < TOKENS ? rest : TOKENS;
    const int16_t *levels[TOKENS];
    for (int64_t i = 0; i < TOKENS; i++)
        levels[i] = e->levels + (token + (i < rows ? i : 0)) * 2 * e->pairs;
    int32_t sums[TOKENS][FEATURES];
    sum_products(sums, levels, e->directions + block * 2 * FEATURES * e->pairs, e->pairs);
    /* Features of the block that are wanted. */
    int64_t start = block * FEATURES, end = start + FEATURES, last = e->first + e->features;
    int64_t from = start < e->first ? e->first : start, to = end < last ? end : last;
    for (int64_t i = 0; i < rows; i++) {
        float *values = e->values + (token + i) * e->features - e->first;
        for (int64_t f = from; f < to; f++)
            values[f] = e->mean[f] + e->scales[f] * (float)sums[i][f - start];
    }
}

EXPORT void expand_levels(const Expansion *e)
{
    int64_t end = (e->first + e->features + FEATURES - 1) / FEATURES;
    for (int64_t block = e->first / FEATURES; block < end; block++)
        for (int64_t token = 0; token < e->tokens; token += TOKENS)
            expand_some(e, token, block);
}

/* Turn pairs of features of keys (tokens, heads, dim) by angles (tokens, pairs). Features of a pair
 * are `apart` from one another, and pairs `step`. */
EXPORT void turn_pairs(float *keys, const float *cosines, const float *sines, int64_t tokens,
                       int64_t heads, int64_t dim, int64_t pairs, int64_t apart, int64_t step)
{
    for (int64_t t = 0; t < tokens; t++, cosines += pairs, sines += pairs)
        for (int64_t h = 0; h < heads; h++, keys += dim)
            for (int64_t k = 0; k < pairs; k++) {
                float left = keys[k * step], right = keys[k * step + apart];
                keys[k * step] = left * cosines[k] - right * sines[k];
                keys[k * step + apart] = left * sines[k] + right * cosines[k];
            }
}

/* float16 of the bits of float32, as IEEE 754 rounds them. */
EXPORT void round_to_halves(const uint32_t *values, uint16_t *halves, int64_t count)
{
    round_some(values, halves, count);
}
