/* Tokens from levels of their coordinates: products of integers, and what becomes of them: positions
 * of keys, and half precision. Sums of integers are exact in any order, and all other operations
 * are single ones: so the widest vectors of a machine find what the narrowest would. */
#include "panels.h"
#include "vectors.h"

/* Features whose sums are in registers. */
#define FEATURES 16

/* Sums of products of levels (pairs, PANEL, 2) with directions (pairs, FEATURES, 2). */
typedef void Sum(int32_t sums[PANEL][FEATURES], const int16_t *levels, const int16_t *directions,
                 int64_t pairs);

static void sum_anywhere(int32_t sums[PANEL][FEATURES], const int16_t *levels,
                         const int16_t *directions, int64_t pairs)
{
    memset(sums, 0, PANEL * sizeof sums[0]);
    for (int64_t k = 0; k < pairs; k++, levels += 2 * PANEL, directions += 2 * FEATURES)
        for (int i = 0; i < PANEL; i++) {
            int32_t even = levels[2 * i], odd = levels[2 * i + 1];
            for (int j = 0; j < FEATURES; j++)
                sums[i][j] += even * directions[2 * j] + odd * directions[2 * j + 1];
        }
}

#if defined(__x86_64__)
/* Tokens whose sums fit into the registers of 32 bytes. */
#define FEW 4

/* Two products and their sum are one instruction, for which compilers have no other words. */
WIDE static void sum_wide(int32_t sums[PANEL][FEATURES], const int16_t *levels,
                          const int16_t *directions, int64_t pairs)
{
    for (int first = 0; first < PANEL; first += FEW) {
        __m256i found[FEW][2];
        for (int i = 0; i < FEW; i++)
            found[i][0] = found[i][1] = _mm256_setzero_si256();
        for (int64_t k = 0; k < pairs; k++) {
            const int16_t *rows = directions + 2 * FEATURES * k;
            __m256i left = _mm256_loadu_si256((const __m256i *)rows);
            __m256i right = _mm256_loadu_si256((const __m256i *)(rows + FEATURES));
            for (int i = 0; i < FEW; i++) {
                int32_t both;
                memcpy(&both, levels + 2 * (PANEL * k + first + i), sizeof both);
                __m256i pair = _mm256_set1_epi32(both);
                found[i][0] = _mm256_add_epi32(found[i][0], _mm256_madd_epi16(pair, left));
                found[i][1] = _mm256_add_epi32(found[i][1], _mm256_madd_epi16(pair, right));
            }
        }
        for (int i = 0; i < FEW; i++)
            for (int half = 0; half < 2; half++)
                _mm256_storeu_si256((__m256i *)(sums[first + i] + FEATURES / 2 * half),
                                    found[i][half]);
    }
}

/* And here adding them to a sum is part of it. */
WIDEST static void sum_widest(int32_t sums[PANEL][FEATURES], const int16_t *levels,
                              const int16_t *directions, int64_t pairs)
{
    __m512i found[PANEL];
    for (int i = 0; i < PANEL; i++)
        found[i] = _mm512_setzero_si512();
    for (int64_t k = 0; k < pairs; k++, levels += 2 * PANEL, directions += 2 * FEATURES) {
        __m512i rows = _mm512_loadu_si512(directions);
        for (int i = 0; i < PANEL; i++) {
            int32_t both;
            memcpy(&both, levels + 2 * i, sizeof both);
            found[i] = _mm512_dpwssd_epi32(found[i], _mm512_set1_epi32(both), rows);
        }
    }
    for (int i = 0; i < PANEL; i++)
        _mm512_storeu_si512(sums[i], found[i]);
}
#endif

typedef struct {
    /* (tokens, features): from feature `first` on. */
    float *values;
    /* (panels, pairs, PANEL, 2) and (features / 16, pairs, 16, 2): no sum of products is beyond 32
     * bits. */
    const int16_t *levels, *directions;
    /* Of all features: what one is worth in a sum, and what sums are added to. */
    const float *scales, *mean;
    int64_t tokens, features, first, pairs;
} Expansion;

INLINE void put_values(float *restrict values, const int32_t *sums, const float *scales,
                       const float *mean, int64_t count)
{
    for (int64_t f = 0; f < count; f++)
        values[f] = mean[f] + scales[f] * (float)sums[f];
}

/* Values of a panel of tokens in one block of features. */
INLINE void expand_some(const Expansion *e, int64_t token, int64_t block, Sum *sum)
{
    int64_t rest = e->tokens - token, rows = rest < PANEL ? rest : PANEL;
    int32_t sums[PANEL][FEATURES];
    sum(sums, e->levels + token * 2 * e->pairs, e->directions + block * 2 * FEATURES * e->pairs,
        e->pairs);
    /* Features of the block that are wanted. */
    int64_t start = block * FEATURES, end = start + FEATURES, last = e->first + e->features;
    int64_t from = start < e->first ? e->first : start, to = end < last ? end : last;
    for (int64_t i = 0; i < rows; i++) {
        float *values = e->values + (token + i) * e->features + (from - e->first);
        const int32_t *found = sums[i] + (from - start);
        if (to - from == FEATURES)
            put_values(values, found, e->scales + from, e->mean + from, FEATURES);
        else
            put_values(values, found, e->scales + from, e->mean + from, to - from);
    }
}

INLINE void expand_all(const Expansion *e, Sum *sum)
{
    int64_t end = (e->first + e->features + FEATURES - 1) / FEATURES;
    for (int64_t token = 0; token < e->tokens; token += PANEL)
        for (int64_t block = e->first / FEATURES; block < end; block++)
            expand_some(e, token, block, sum);
}

static void expand_anywhere(const Expansion *e)
{
    expand_all(e, sum_anywhere);
}

#if defined(__x86_64__)
WIDE static void expand_wide(const Expansion *e)
{
    expand_all(e, sum_wide);
}

WIDEST static void expand_widest(const Expansion *e)
{
    expand_all(e, sum_widest);
}
#endif

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

INLINE void round_each(const uint32_t *values, uint16_t *halves, int64_t count)
{
    for (int64_t k = 0; k < count; k++)
        halves[k] = half_of(values[k]);
}

static void round_anywhere(const uint32_t *values, uint16_t *halves, int64_t count)
{
    round_each(values, halves, count);
}

#if defined(__x86_64__)
WIDE static void round_wide(const uint32_t *values, uint16_t *halves, int64_t count)
{
    int64_t k = 0;
    for (; k + 8 <= count; k += 8) {
        __m256 some = _mm256_loadu_ps((const float *)values + k);
        _mm_storeu_si128((__m128i *)(halves + k), _mm256_cvtps_ph(some, _MM_FROUND_TO_NEAREST_INT));
    }
    round_each(values + k, halves + k, count - k);
}
#endif

typedef struct {
    /* (tokens, heads, dim). */
    float *keys;
    /* Points of the unit circle, real and imaginary part: of tokens that are counted from the first
     * (tokens, pairs), and of the first (pairs). */
    const double *turns, *start;
    /* 1, or -1 to turn back. */
    double sign;
    /* Features of a pair are `apart` from one another, and pairs `step`. */
    int64_t tokens, heads, dim, pairs, apart, step;
} Turn;

/* Pairs whose angles are kept for all heads of a token. */
#define ANGLES 64

/* Cosines and sines of some pairs: products of points, for sines take longer than all else. */
INLINE void find_angles(const Turn *turn, int64_t token, int64_t first, int64_t count,
                        float *restrict cosines, float *restrict sines)
{
    const double *a = turn->turns + 2 * (token * turn->pairs + first), *b = turn->start + 2 * first;
    for (int64_t k = 0; k < count; k++) {
        cosines[k] = (float)(a[2 * k] * b[2 * k] - a[2 * k + 1] * b[2 * k + 1]);
        sines[k] = (float)(turn->sign * (a[2 * k] * b[2 * k + 1] + a[2 * k + 1] * b[2 * k]));
    }
}

/* Some pairs of features of a head. */
INLINE void turn_head(float *restrict left, float *restrict right, const float *restrict cosines,
                      const float *restrict sines, int64_t count, int64_t step)
{
    for (int64_t k = 0; k < count; k++) {
        float x = left[k * step], y = right[k * step];
        left[k * step] = x * cosines[k] - y * sines[k];
        right[k * step] = x * sines[k] + y * cosines[k];
    }
}

INLINE void turn_token(const Turn *turn, int64_t token, int64_t first, int64_t count)
{
    float cosines[ANGLES], sines[ANGLES];
    find_angles(turn, token, first, count, cosines, sines);
    float *left = turn->keys + token * turn->heads * turn->dim + first * turn->step;
    for (int64_t h = 0; h < turn->heads; h++, left += turn->dim)
        if (turn->step == 1)
            turn_head(left, left + turn->apart, cosines, sines, count, 1);
        else
            turn_head(left, left + turn->apart, cosines, sines, count, turn->step);
}

INLINE void turn_all(const Turn *turn)
{
    for (int64_t token = 0; token < turn->tokens; token++)
        for (int64_t first = 0; first < turn->pairs; first += ANGLES) {
            int64_t rest = turn->pairs - first;
            turn_token(turn, token, first, rest < ANGLES ? rest : ANGLES);
        }
}

static void turn_anywhere(const Turn *turn)
{
    turn_all(turn);
}

#if defined(__x86_64__)
WIDE static void turn_wide(const Turn *turn)
{
    turn_all(turn);
}
#endif

static void (*expand)(const Expansion *) = expand_anywhere;
static void (*turn_some)(const Turn *) = turn_anywhere;
static void (*round_some)(const uint32_t *, uint16_t *, int64_t) = round_anywhere;

void choose_products(Vectors vectors)
{
    expand = expand_anywhere;
    turn_some = turn_anywhere;
    round_some = round_anywhere;
#if defined(__x86_64__)
    if (vectors >= VECTORS_WIDE) {
        expand = vectors == VECTORS_WIDEST ? expand_widest : expand_wide;
        turn_some = turn_wide;
        round_some = round_wide;
    }
#else
    (void)vectors;
#endif
}

EXPORT void expand_levels(const Expansion *e)
{
    expand(e);
}

/* Turn pairs of features of keys by angles. */
EXPORT void turn_pairs(const Turn *turn)
{
    turn_some(turn);
}

/* Axes of an array, the last of which has its numbers side by side. */
#define AXES 4

/* float16 in C order, as IEEE 754 rounds them, of the bits of float32 with such strides. */
EXPORT void round_to_halves(const uint32_t *values, uint16_t *halves, const int64_t shape[AXES],
                            const int64_t strides[AXES])
{
    for (int64_t i = 0; i < shape[0]; i++)
        for (int64_t j = 0; j < shape[1]; j++)
            for (int64_t k = 0; k < shape[2]; k++, halves += shape[3])
                round_some(values + i * strides[0] + j * strides[1] + k * strides[2], halves,
                           shape[3]);
}
