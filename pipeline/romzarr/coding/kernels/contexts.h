/* The contexts of an integer, and the model that learns what becomes of it.
 *
 * X. Wu, N. Memon, "Context-based, adaptive, lossless image coding", IEEE Trans. Commun. 45 (1997)
 * 437-444 (expected size as the context). */
#ifndef ROMZARR_CONTEXTS_H
#define ROMZARR_CONTEXTS_H

#include "neighbours.h"
#include "symbols.h"

/* --- levels and groups of expected sizes -------------------------------------------------- */

/* Expected sizes fall into levels, four to a factor of two of themselves and LEVEL_OFFSET; those
 * beyond the last, 2**29, count as in it. */
#define LOG_LEVEL_OFFSET 1
#define LEVEL_OFFSET (1 << LOG_LEVEL_OFFSET)
#define LEVELS 128
/* Those of planes before fall into groups, one to a factor of two of themselves and this. */
#define LOG_GROUP_OFFSET 2
#define GROUP_OFFSET (1 << LOG_GROUP_OFFSET)
#define GROUPS 8
/* Levels are told apart by so much within a band. */
#define BAND_GROUPS 12
/* In place of such a group, where a run of zeros has ended: one less is coded there. */
#define ENDS BAND_GROUPS

/* The exponent of a float, and so many bits behind it, are the leading bits of its own. */
#define MANTISSA_BITS 23
#define EXPONENT_OF_ONE 127

INLINE int level_of(float expected)
{
    uint32_t bits;
    expected += LEVEL_OFFSET;
    memcpy(&bits, &expected, sizeof bits);
    int level = (int)(bits >> (MANTISSA_BITS - 2)) - 4 * (EXPONENT_OF_ONE + LOG_LEVEL_OFFSET);
    return level < LEVELS - 1 ? level : LEVELS - 1;
}

INLINE int band_group_of(int level)
{
    return level / 4 < BAND_GROUPS - 1 ? level / 4 : BAND_GROUPS - 1;
}

/* Mean size in the middle of a level. */
static double mean_of_level(int level)
{
    double octave = (double)((uint64_t)LEVEL_OFFSET << level / 4);
    return (octave * (1 + (level % 4 + 0.5) / 4) - LEVEL_OFFSET) / UNIT;
}

static double mean_of_group(int group)
{
    return (1.5 * (GROUP_OFFSET << group) - GROUP_OFFSET) / UNIT;
}

/* --- symbols of sizes --------------------------------------------------------------------- */

/* A symbol says which of these a size is at least, and plain bits which it is. The last is
 * followed by what is beyond, see `code_escaped`. */
static const uint8_t FIRST_OF[SYMBOLS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 25, 41, 73};
static const uint8_t BITS_OF[SYMBOLS] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 0};
/* Where sizes of more than this are expected, their lowest bits are left out of it, and plain;
 * no more bits than the coder takes together with those of the symbol and the sign. */
#define LARGEST_MEAN 5
#define MOST_SHIFT 24
#define TOLD_APART 128
static uint8_t symbol_below[TOLD_APART], shift_of[LEVELS];

INLINE int symbol_of(uint64_t size)
{
    return size < TOLD_APART ? symbol_below[size] : SYMBOLS - 1;
}

static void make_size_tables(void)
{
    for (int symbol = 0, size = 0; size < TOLD_APART; size++) {
        symbol += symbol < SYMBOLS - 1 && size == FIRST_OF[symbol + 1];
        symbol_below[size] = (uint8_t)symbol;
    }
    for (int level = 0, shift = 0; level < LEVELS; level++) {
        while (shift < MOST_SHIFT && mean_of_level(level) / (1 << shift) > LARGEST_MEAN)
            shift++;
        shift_of[level] = (uint8_t)shift;
    }
}

/* --- the model ---------------------------------------------------------------------------- */

/* Zeros that are foretold by nothing but zeros are coded so many at once, a power of two. */
#define RUN 16
/* Binary digits that a size beyond all symbols may have. */
#define MOST_DIGITS 61

typedef struct {
    /* By the level of what is expected and the group of what lies in planes before. */
    Slot sizes[LEVELS][GROUPS], ends;
    /* Weight of these beside those of the band. */
    float shares[KINDS][ENDS + 1];
    Fit fits[KINDS];
    Counter digits[MOST_DIGITS], is_alive[32];
    /* Where zeros end within a run. */
    Counter places[RUN];
} Model;

/* One for each band: sizes by what is expected, and whether zeros go on, by what the last two
 * runs did. */
typedef struct {
    Slot sizes[ENDS + 1];
    Counter runs[4];
} BandModel;

static Model first_model;
static BandModel first_band_model;

/* A first guess of a context where sizes, without their lowest bits, have this mean: a geometric
 * distribution, which counts as so many symbols seen. */
static void fill(Slot *slot, double mean, int seen)
{
    const double least = 0.02;
    double ratio = mean < least ? least / (1 + least) : mean / (1 + mean), chance = 1;
    slot->at_least[0] = (float)(1 / (seen + HEAD_START));
    for (int symbol = 1, size = 0; symbol < SYMBOLS; symbol++) {
        for (; size < FIRST_OF[symbol]; size++)
            chance *= ratio;
        slot->at_least[symbol] = guarded(chance, symbol);
    }
}

static void make_first_model(void)
{
    for (int level = 0; level < LEVELS; level++)
        for (int group = 0; group < GROUPS; group++) {
            double mean = mean_of_level(level);
            double other = shift_of[level] ? mean : mean_of_group(group);
            fill(&first_model.sizes[level][group],
                 (0.75 * mean + 0.25 * other) / (1 << shift_of[level]), 24);
        }
    for (int group = 0; group < BAND_GROUPS; group++) {
        int level = 4 * group + 2;
        fill(&first_band_model.sizes[group], mean_of_level(level) / (1 << shift_of[level]), 8);
    }
    fill(&first_model.ends, 0.2, 8);
    fill(&first_band_model.sizes[ENDS], 0.2, 8);
    for (int kind = 0; kind < KINDS; kind++)
        for (int group = 0; group <= ENDS; group++)
            first_model.shares[kind][group] = 0.6f;
    memcpy(first_model.fits, first_fits, sizeof first_fits);
    for (int k = 0; k < MOST_DIGITS; k++)
        first_model.digits[k] = counter_of(0.5, 2);
    for (int k = 0; k < 32; k++)
        first_model.is_alive[k] = counter_of(0.5, 1);
    for (int k = 0; k < 4; k++)
        first_band_model.runs[k] = counter_of(0.9, 3);
    for (int node = 0; node < RUN; node++)
        first_model.places[node] = counter_of(0.5, 6);
}

#endif
