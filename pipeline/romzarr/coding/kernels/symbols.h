/* Chances of symbols and of bits, learnt from those that were coded before.
 *
 * A context has an estimate of all its symbols' chances, which moves towards each symbol that is
 * met, the less the more it has seen. Two contexts foretell a symbol together, by a weighted mean
 * whose weight follows the gradient of the code length. One symbol a value takes a fraction of the
 * time of its decisions one by one, and all estimates move by the same few vector operations.
 *
 * Y. Chen et al., "An overview of core coding tools in the AV1 video codec", Picture Coding
 * Symposium, 2018, pp. 41-45 (estimates of all symbols that move by vector operations); M. V.
 * Mahoney, "Adaptive weighing of context models for lossless data compression", Florida Institute
 * of Technology, technical report CS-2005-16 (weights that follow the code length). */
#ifndef ROMZARR_SYMBOLS_H
#define ROMZARR_SYMBOLS_H

#include "range_coder.h"

/* --- bits --------------------------------------------------------------------------------- */

/* A probability of 1 in the upper bits, and how often it was seen in the lower. */
typedef uint32_t Counter;
#define COUNT_BITS 10
#define ESTIMATE_BITS (32 - COUNT_BITS)
/* After so many the past fades: data change on their way to finer scales. */
#define MEMORY 400
/* Share of the distance that a counter which has seen so many moves, of 65536. */
static uint32_t share_of[MEMORY + 1];

/* What counts as seen before all is: first steps are not all the way. */
#define HEAD_START 1.6

/* A counter that begins with a guess, which counts as so many bits seen. */
static Counter counter_of(double probability, uint32_t seen)
{
    return (Counter)(probability * (1 << ESTIMATE_BITS)) << COUNT_BITS | seen;
}

/* Code a bit that one counter foretells. */
INLINE int code_counted(Coder *coder, const int decode, int bit, Counter *counter)
{
    const uint32_t least = 8, most = WHOLE - least;
    const int32_t one = (1 << ESTIMATE_BITS) - 1;
    uint32_t probability = *counter >> (32 - PROBABILITY_BITS);
    probability = probability < least ? least : probability > most ? most : probability;
    bit = code_bit(coder, decode, bit, probability);
    uint32_t seen = *counter & ((1 << COUNT_BITS) - 1);
    int32_t estimate = (int32_t)(*counter >> COUNT_BITS);
    int64_t distance = (bit ? one : 0) - estimate;
    estimate += (int32_t)(distance * share_of[seen] >> 16);
    *counter = (uint32_t)estimate << COUNT_BITS | (seen < MEMORY ? seen + 1 : MEMORY);
    return bit;
}

/* --- symbols ------------------------------------------------------------------------------ */

#define SYMBOLS 16
#define QUADS (SYMBOLS / 4)

/* The chances that a symbol is at least 1, 2, ..., in parts of WHOLE, and in place of that for 0,
 * which is certain, the share of the distance that all move next: it falls like the inverse of a
 * count if it moves itself, by its own share, to the least there is. */
typedef union {
    Quad quads[QUADS];
    float at_least[SYMBOLS];
} __attribute__((aligned(64))) Slot;

/* What a slot moves to with each symbol. Chances that follow one another differ by GUARD at least,
 * in all targets and so in all slots, less what rounding takes: 2**-6 at every move, of which the
 * last MEMORY count, and 1 where edges are cut to integers. So no part is empty. */
#define GUARD 8
static Slot target_of[SYMBOLS];

/* A chance with its share of the guards. */
static float guarded(double chance, int symbol)
{
    return (float)(GUARD * (SYMBOLS - symbol) + chance * (WHOLE - GUARD * SYMBOLS));
}

static void make_symbol_tables(void)
{
    for (int seen = 0; seen <= MEMORY; seen++)
        share_of[seen] = (uint32_t)((1 << 16) / (seen + HEAD_START));
    for (int met = 0; met < SYMBOLS; met++) {
        target_of[met].at_least[0] = (float)(1 / (MEMORY + HEAD_START));
        for (int symbol = 1; symbol < SYMBOLS; symbol++)
            target_of[met].at_least[symbol] = guarded(symbol <= met, symbol);
    }
}

/* Two contexts that foretell together: `share` is the weight of the first; its gradient is summed
 * up. */
typedef struct {
    Slot *first, *second;
    float share, *gradient;
} Pair;

/* Chance that a symbol is at least this one, from 1 on. */
INLINE int32_t edge_of(const Pair *pair, int symbol)
{
    float first = pair->first->at_least[symbol], second = pair->second->at_least[symbol];
    return (int32_t)(second + pair->share * (first - second));
}

/* The symbol in whose part a place lies: the number of edges above. The first of the numbers
 * compared is none, but less than one. */
INLINE int symbol_at(const Pair *pair, int32_t place)
{
    IntQuad above = {0};
    for (int k = 0; k < QUADS; k++) {
        Quad first = pair->first->quads[k], second = pair->second->quads[k];
        Quad edges = second + pair->share * (first - second);
        above += __builtin_convertvector(edges, IntQuad) > place;
    }
    return -(above[0] + above[1] + above[2] + above[3]);
}

INLINE void learn_symbol(const Pair *pair, int symbol, float first, float second)
{
    *pair->gradient += (first - second) / (second + pair->share * (first - second));
    float first_rate = pair->first->at_least[0], second_rate = pair->second->at_least[0];
    for (int k = 0; k < QUADS; k++) {
        Quad target = target_of[symbol].quads[k];
        pair->first->quads[k] += first_rate * (target - pair->first->quads[k]);
        pair->second->quads[k] += second_rate * (target - pair->second->quads[k]);
    }
}

/* Code one symbol. Zeros, the most, take no division, and no wait for one. */
INLINE int code_symbol(Coder *coder, const int decode, int symbol, const Pair *pair)
{
    const Slot *first = pair->first, *second = pair->second;
    uint32_t unit = coder->range >> PROBABILITY_BITS, place = (uint32_t)(coder->low >> 32);
    uint32_t edge = unit * (uint32_t)edge_of(pair, 1);
    if (decode ? place >= edge : !symbol) {
        narrow(coder, decode, edge, coder->range - edge);
        learn_symbol(pair, 0, WHOLE - first->at_least[1], WHOLE - second->at_least[1]);
        return 0;
    }
    if (decode)
        symbol = symbol_at(pair, (int32_t)(place / unit));
    int32_t low = 0, high = edge_of(pair, symbol);
    float chance = first->at_least[symbol], other = second->at_least[symbol];
    if (symbol < SYMBOLS - 1) {
        low = edge_of(pair, symbol + 1);
        chance -= first->at_least[symbol + 1], other -= second->at_least[symbol + 1];
    }
    narrow(coder, decode, unit * (uint32_t)low, unit * (uint32_t)(high - low));
    learn_symbol(pair, symbol, chance, other);
    return symbol;
}

#endif
