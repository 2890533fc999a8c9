/* Probabilities of bits, learnt from counts and mixed by a small logistic model.
 *
 * Each context has a counter, an estimate that moves the less the more it has seen. Estimates of
 * several contexts are averaged in the logistic domain, with weights that follow the gradient of
 * the code length. Tables are made of single operations, so that both sides have the same.
 *
 * M. V. Mahoney, "Adaptive weighing of context models for lossless data compression", Florida
 * Institute of Technology, technical report CS-2005-16. */
#ifndef ROMZARR_MIXING_H
#define ROMZARR_MIXING_H

#include "range_coder.h"

/* A probability of 1 in the upper bits, and how often it was seen in the lower. */
typedef uint32_t Counter;
#define COUNT_BITS 10
#define ESTIMATE_BITS (32 - COUNT_BITS)
/* After so many the past fades: data change on their way to finer scales. */
#define MEMORY 400
/* Of bits that have a counter to themselves. */
#define SHORT_MEMORY 250

#define CONTEXTS 4
typedef struct {
    float weights[CONTEXTS], rate;
} Mixer;
/* The sum of the weights is one at first: the first context is the one that knows most. */
static const Mixer FIRST_MIXER = {{0.4f, 0.2f, 0.2f, 0.2f}, 0.02f};
/* Steps of the weights become smaller by each bit, down to the least. */
#define LEAST_RATE 0.004f
#define SLOWER 0.9995f

#define LOGIT_BITS 12
/* Logits are told apart in steps of 1 / STEPS, up to LARGEST: 2**-16 is a logit of -11. */
#define LARGEST 12
#define STEPS 128
static float logit_of[1 << LOGIT_BITS];
static uint16_t probability_of[2 * LARGEST * STEPS + 1];
/* Share of the distance that a counter which has seen so many moves, of 65536. */
static uint32_t share_of[1 << COUNT_BITS];

static void make_probabilities(void)
{
    const double ratio = 1.0078430972064480; /* exp(1 / STEPS) */
    const int half = LARGEST * STEPS, least = 16;
    double odds = 1;
    for (int i = 0; i <= half; i++, odds *= ratio) {
        int upper = (int)(odds / (1 + odds) * (1 << PROBABILITY_BITS) + 0.5);
        int most = (1 << PROBABILITY_BITS) - least;
        probability_of[half + i] = (uint16_t)(upper < most ? upper : most);
        probability_of[half - i] = (uint16_t)((1 << PROBABILITY_BITS) - probability_of[half + i]);
    }
}

static void make_logits(void)
{
    const int half = LARGEST * STEPS;
    for (int i = 0, k = 0; i < 1 << LOGIT_BITS; i++) {
        double middle = (i + 0.5) * (1 << (PROBABILITY_BITS - LOGIT_BITS));
        while (k < 2 * half - 1 && probability_of[k + 1] < middle)
            k++;
        double low = probability_of[k], high = probability_of[k + 1];
        double share = high > low ? (middle - low) / (high - low) : 0;
        share = share < 0 ? 0 : share > 1 ? 1 : share;
        logit_of[i] = (float)((k + share - half) / STEPS);
    }
}

static void make_mixing_tables(void)
{
    make_probabilities();
    make_logits();
    for (int seen = 0; seen < 1 << COUNT_BITS; seen++)
        share_of[seen] = (uint32_t)((1 << 16) / (seen + 1.6));
}

/* A counter that begins with a guess, which counts as so many bits seen. */
static Counter counter_of(double probability, uint32_t seen)
{
    const double least = 1.0 / (1 << PROBABILITY_BITS);
    probability = probability < least ? least : probability > 1 - least ? 1 - least : probability;
    return (Counter)(probability * (1 << ESTIMATE_BITS)) << COUNT_BITS | seen;
}

INLINE void learn(Counter *counter, int bit, uint32_t memory)
{
    const int32_t one = (1 << ESTIMATE_BITS) - 1;
    uint32_t seen = *counter & ((1 << COUNT_BITS) - 1);
    int32_t estimate = (int32_t)(*counter >> COUNT_BITS);
    int64_t distance = (bit ? one : 0) - estimate;
    estimate += (int32_t)(distance * share_of[seen] >> 16);
    *counter = (uint32_t)estimate << COUNT_BITS | (seen < memory ? seen + 1 : memory);
}

/* Code a bit that one counter foretells. */
INLINE int code_counted(Coder *coder, const int decode, int bit, Counter *counter)
{
    const uint32_t least = 2, most = (1 << PROBABILITY_BITS) - 2;
    uint32_t probability = *counter >> (32 - PROBABILITY_BITS);
    probability = probability < least ? least : probability > most ? most : probability;
    bit = code_bit(coder, decode, bit, probability);
    learn(counter, bit, SHORT_MEMORY);
    return bit;
}

/* Code a bit that the counters of all contexts foretell together. */
INLINE int code_mixed(Coder *coder, const int decode, int bit, Counter *const *counters,
                      Mixer *mixer)
{
    const float limit = LARGEST - 1.0f / STEPS;
    float logits[CONTEXTS];
    for (int k = 0; k < CONTEXTS; k++)
        logits[k] = logit_of[*counters[k] >> (32 - LOGIT_BITS)];
    float sum = (mixer->weights[0] * logits[0] + mixer->weights[1] * logits[1]) +
                (mixer->weights[2] * logits[2] + mixer->weights[3] * logits[3]);
    sum = sum < -limit ? -limit : sum > limit ? limit : sum;
    float place = (sum + LARGEST) * STEPS;
    int below = (int)place;
    int32_t low = probability_of[below], high = probability_of[below + 1];
    int32_t probability = low + (int32_t)((place - (float)below) * (float)(high - low));
    bit = code_bit(coder, decode, bit, (uint32_t)probability);
    float miss = (float)((bit << PROBABILITY_BITS) - probability) / (1 << PROBABILITY_BITS);
    for (int k = 0; k < CONTEXTS; k++) {
        mixer->weights[k] += mixer->rate * miss * logits[k];
        learn(counters[k], bit, MEMORY);
    }
    if (mixer->rate > LEAST_RATE)
        mixer->rate *= SLOWER;
    return bit;
}

#endif
