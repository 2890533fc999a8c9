/* What is expected of an integer, and the model that learns what becomes of it.
 *
 * Large coefficients keep company: the sizes of neighbours that are coded already and of those at
 * the same place one scale coarser, the parents, foretell the next.
 *
 * X. Wu, N. Memon, "Context-based, adaptive, lossless image coding", IEEE Trans. Commun. 45 (1997)
 * 437-444 (expected size as the context); J. M. Shapiro, "Embedded image coding using zerotrees of
 * wavelet coefficients", IEEE Trans. Signal Process. 41 (1993) 3445-3462, Section III (parents). */
#ifndef ROMZARR_CONTEXTS_H
#define ROMZARR_CONTEXTS_H

#include "mixing.h"

/* Mean sizes are in units of 1 / UNIT. They fall into LEVELS: edges grow by a quarter or so, and
 * above the last of them double. */
#define UNIT 16
#define EDGES 28
#define LEVELS 44
static const uint32_t EDGE[EDGES] = {0,  1,  2,  3,  4,  5,  7,   9,   11,  14,  17,  21,  26,  32,
                                     40, 50, 64, 80, 104, 136, 184, 256, 368, 544, 832, 1344, 2304, 4096};
/* Levels told apart where two contexts are taken together. */
#define GROUPS 8
static const uint32_t GROUP_EDGE[GROUPS] = {0, 1, 5, 11, 20, 40, 90, 256};
/* Single sizes are told apart up to here. */
#define SMALL 7
static const uint32_t SMALL_EDGE[SMALL] = {0, 1, 2, 3, 5, 9, 20};

/* Of an integer, its number of binary digits is coded first: whether it has more than are most
 * likely, and then upwards or downwards from there. Decisions of a kind share counters beyond. */
#define FIRST_DECISIONS 8
#define FURTHER 4
#define UP FIRST_DECISIONS
#define DOWN (FIRST_DECISIONS + FURTHER)
#define DECISIONS (FIRST_DECISIONS + 2 * FURTHER)
/* Digits below the leading one that are foretold. */
#define MODELLED_DIGITS 2

static uint8_t level_below[4096], group_of[LEVELS], small_below[32], first_digits[LEVELS];
static double mean_of_level[LEVELS];
static const double MEAN_OF_GROUP[GROUPS] = {0, 0.125, 0.45, 0.95, 1.8, 4, 10.6, 30};
static const double MEAN_OF_SMALL[SMALL] = {0.1, 1, 2, 3.5, 6.5, 14, 40};

INLINE int level_of(uint32_t mean)
{
    if (mean < 4096)
        return level_below[mean];
    int level = EDGES - 1;
    while (level < LEVELS - 1 && mean >> (level - EDGES + 14))
        level++;
    return level;
}

INLINE int small_of(uint32_t size)
{
    return size < 32 ? small_below[size] : SMALL - 1;
}

/* Zeros that are foretold by nothing but zeros are coded so many at once, a power of two. */
#define RUN 16

typedef struct {
    Counter decisions[DECISIONS];
} Slot;

/* The contexts: level of the mean of all that is known and group of the parents; level of the
 * neighbours in the plane and group of those beyond; three single neighbours; band and group. */
typedef struct {
    Slot whole[LEVELS][GROUPS], plane[LEVELS][GROUPS], single[SMALL][SMALL][SMALL];
    /* Where there are neighbours in planes before, and parents. */
    Mixer mixers[4][DECISIONS];
    Counter digits[LEVELS][8][1 + MODELLED_DIGITS];
    Counter is_alive[32];
    /* Where zeros end within a run. */
    Counter places[RUN];
} Model;

/* One for each band: whether zeros go on, by what the last two runs did, and sizes by group. */
typedef struct {
    Counter runs[4];
    Slot sizes[GROUPS];
} BandModel;

static Model first_model;
static BandModel first_band_model;

/* Chance that a size has more than `digits` digits. */
static double chance_of_digits(double ratio, int digits)
{
    double chance = ratio;
    for (int k = 0; k < digits; k++)
        chance *= chance;
    return chance;
}

static double ratio_of(double mean)
{
    const double least = 0.02;
    return mean < least ? least / (1 + least) : mean / (1 + mean);
}

/* Number of digits that sizes of this mean exceed about as often as not. */
static int likely_digits(double mean)
{
    int digits = 0;
    while (digits < 30 && chance_of_digits(ratio_of(mean), digits + 1) > 0.42)
        digits++;
    return digits;
}

/* A first guess of all decisions of a context in which sizes have this mean. */
static void fill(Slot *slot, double mean, uint32_t seen)
{
    double ratio = ratio_of(mean);
    int likely = likely_digits(mean);
    for (int k = 0; k < FIRST_DECISIONS; k++) {
        int digits = k == FIRST_DECISIONS - 1 && likely > k ? likely : k;
        slot->decisions[k] = counter_of(chance_of_digits(ratio, digits), seen);
    }
    for (int k = 0; k < FURTHER; k++) {
        slot->decisions[UP + k] = counter_of(chance_of_digits(ratio, likely + k), seen);
        int digits = likely - 1 - k;
        double above = digits < 0 ? 0 : chance_of_digits(ratio, digits + 1);
        double chance = digits < 0 ? 0.5 : (chance_of_digits(ratio, digits) - above) / (1 - above);
        slot->decisions[DOWN + k] = counter_of(chance, seen);
    }
}

static void make_levels(void)
{
    for (int mean = 0, level = 0; mean < 4096; mean++) {
        while (level + 1 < EDGES && mean >= (int)EDGE[level + 1])
            level++;
        level_below[mean] = (uint8_t)level;
    }
    for (int size = 0, small = 0; size < 32; size++) {
        while (small + 1 < SMALL && size >= (int)SMALL_EDGE[small + 1])
            small++;
        small_below[size] = (uint8_t)small;
    }
    for (int level = 0, group = 0; level < LEVELS; level++) {
        double low = level < EDGES ? EDGE[level] : 4096.0 * (1 << (level - EDGES + 1));
        double high = level + 1 < EDGES ? EDGE[level + 1] - 1.0 : 2 * low;
        while (group + 1 < GROUPS && low >= GROUP_EDGE[group + 1])
            group++;
        group_of[level] = (uint8_t)group;
        mean_of_level[level] = (low + high) / (2 * UNIT);
        first_digits[level] = (uint8_t)likely_digits(mean_of_level[level]);
    }
}

/* Guesses count as so many bits seen: more where they are made of more. */
static void make_first_model(void)
{
    for (int level = 0; level < LEVELS; level++)
        for (int group = 0; group < GROUPS; group++) {
            double own = mean_of_level[level], other = MEAN_OF_GROUP[group];
            fill(&first_model.whole[level][group], 0.75 * own + 0.25 * other, 12);
            fill(&first_model.plane[level][group], 0.7 * own + 0.3 * other, 6);
        }
    for (int i = 0; i < SMALL; i++)
        for (int j = 0; j < SMALL; j++)
            for (int k = 0; k < SMALL; k++)
                fill(&first_model.single[i][j][k],
                     (MEAN_OF_SMALL[i] + MEAN_OF_SMALL[j] + MEAN_OF_SMALL[k]) / 3, 4);
    for (int set = 0; set < 4; set++)
        for (int k = 0; k < DECISIONS; k++)
            first_model.mixers[set][k] = FIRST_MIXER;
    for (int level = 0; level < LEVELS; level++)
        for (int digits = 0; digits < 8; digits++)
            for (int k = 0; k < 1 + MODELLED_DIGITS; k++)
                first_model.digits[level][digits][k] = counter_of(0.45, 8);
    for (int k = 0; k < 32; k++)
        first_model.is_alive[k] = counter_of(0.5, 1);
    for (int group = 0; group < GROUPS; group++)
        fill(&first_band_model.sizes[group], MEAN_OF_GROUP[group], 4);
    for (int k = 0; k < 4; k++)
        first_band_model.runs[k] = counter_of(0.9, 3);
    for (int node = 0; node < RUN; node++)
        first_model.places[node] = counter_of(0.5, 6);
}

#endif
