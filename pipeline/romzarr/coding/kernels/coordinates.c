/* Entropy coding of coordinates whose distributions are known beforehand: rounded, and coded by
 * four interleaved rANS coders with the static tables of their classes.
 *
 * J. Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with
 * compression rate of arithmetic coding", arXiv:1311.2540; F. Giesen, "Interleaved entropy
 * coders", arXiv:1402.3392. */
#include "kernels.h"

/* Symbols of a table: integers from -CENTRE to CENTRE, and one for all others. */
#define CENTRE 31
#define OTHER (2 * CENTRE + 1)
#define TABLE (OTHER + 1)
/* Frequencies of a table add up to 2**FREQUENCY_BITS: its slots fit into the first cache. */
#define FREQUENCY_BITS 12
#define SLOTS (1 << FREQUENCY_BITS)
/* States are at least LEAST, and are read and written by 16 bits. */
#define LEAST (1u << 16)
#define LANES 4
/* An integer that is no symbol is coded as three pieces. */
#define PIECES 3
#define PIECE_BITS 11

/* What is alike for all tokens of a codec: (directions) each but the tables. */
typedef struct {
    int64_t directions;
    const float *steps, *rounding, *shifts_of_values;
    const uint8_t *classes, *shifts;
    /* (classes, TABLE + 1): where the slots of each symbol begin. */
    const uint16_t *starts;
    /* (classes, SLOTS): symbol, place within its slots and their number, 8, 12 and 12 bits. */
    const uint32_t *slots;
} Tables;

typedef struct {
    uint32_t states[LANES];
    uint16_t *begin, *next;
    int is_full;
} Writer;

INLINE void put(Writer *writer, int lane, uint32_t start, uint32_t count)
{
    uint32_t state = writer->states[lane];
    if (state >= (uint64_t)count << (32 - FREQUENCY_BITS)) {
        if (writer->next == writer->begin)
            writer->is_full = 1;
        else
            *--writer->next = (uint16_t)state;
        state >>= 16;
    }
    writer->states[lane] = (state / count << FREQUENCY_BITS) + state % count + start;
}

/* Bits that nothing foretells, at most FREQUENCY_BITS of them. */
INLINE void put_plain(Writer *writer, int lane, uint32_t number, int bits)
{
    put(writer, lane, number << (FREQUENCY_BITS - bits), 1u << (FREQUENCY_BITS - bits));
}

/* What is read first is written last. */
INLINE void put_integer(Writer *writer, int lane, int32_t integer, int shift,
                        const uint16_t *starts)
{
    int32_t upper = integer >> shift;
    int symbol = OTHER;
    if (upper >= -CENTRE && upper <= CENTRE) {
        symbol = upper + CENTRE;
        if (shift)
            put_plain(writer, lane, (uint32_t)integer & ((1u << shift) - 1), shift);
    } else {
        for (int k = PIECES - 1; k >= 0; k--)
            put_plain(writer, lane, (uint32_t)integer >> (k * PIECE_BITS) & ((1u << PIECE_BITS) - 1),
                      PIECE_BITS);
    }
    put(writer, lane, starts[symbol], (uint32_t)(starts[symbol + 1] - starts[symbol]));
}

/* Largest float below 2**31: integers beyond are cut, which the caller sees in its error. */
#define MOST 2147483520.0f

INLINE int32_t rounded(float value, float rounding)
{
    float size = value < 0 ? -value : value;
    size += rounding;
    int32_t whole = size < MOST ? (int32_t)size : (int32_t)MOST;
    return value < 0 ? -whole : whole;
}

/* Code coordinates (directions, tokens), with steps 2**finer smaller than those of the tables.
 * Returns the bytes of the payload, at the end of the buffer, or -1 if it has too few. */
EXPORT int64_t encode_coordinates(const float *values, int64_t tokens, const Tables *tables,
                                  int finer, uint8_t *buffer, int64_t capacity)
{
    Writer writer = {{LEAST, LEAST, LEAST, LEAST}, (uint16_t *)buffer, NULL, 0};
    writer.next = writer.begin + capacity / 2;
    const uint16_t *end = writer.next;
    for (int64_t d = tables->directions - 1; d >= 0; d--) {
        float scale = (float)(1 << finer) / tables->steps[d];
        float rounding = finer ? 0.5f : tables->rounding[d];
        const uint16_t *starts = tables->starts + tables->classes[d] * (TABLE + 1);
        int shift = tables->shifts[d] + finer;
        for (int64_t t = tokens - 1; t >= 0; t--)
            put_integer(&writer, (int)(t % LANES),
                        rounded(values[d * tokens + t] * scale, rounding), shift, starts);
    }
    for (int lane = LANES - 1; lane >= 0; lane--)
        for (int half = 0; half < 2; half++) {
            if (writer.next == writer.begin)
                return -1;
            *--writer.next = (uint16_t)(writer.states[lane] >> (16 * half));
        }
    return writer.is_full ? -1 : (end - writer.next) * 2;
}

typedef struct {
    const uint16_t *next, *end;
} Reader;

/* Beyond the end, where only a damaged payload leads, are zeros. */
INLINE uint32_t next_word(Reader *reader)
{
    return reader->next < reader->end ? *reader->next++ : 0;
}

INLINE uint32_t refilled(Reader *reader, uint32_t state)
{
    return state < LEAST ? state << 16 | next_word(reader) : state;
}

INLINE uint32_t take_plain(Reader *reader, uint32_t *state, int bits)
{
    uint32_t slot = *state & (SLOTS - 1), below = FREQUENCY_BITS - bits;
    *state = refilled(reader, (*state >> FREQUENCY_BITS << below) + (slot & ((1u << below) - 1)));
    return slot >> below;
}

INLINE int32_t take_integer(Reader *reader, uint32_t *state, int shift, const uint32_t *slots)
{
    uint32_t slot = slots[*state & (SLOTS - 1)];
    int symbol = (int)(slot >> 24);
    *state = refilled(reader, (slot & (SLOTS - 1)) * (*state >> FREQUENCY_BITS) +
                                  (slot >> FREQUENCY_BITS & (SLOTS - 1)));
    if (symbol != OTHER) {
        uint32_t upper = (uint32_t)(symbol - CENTRE) << shift;
        return (int32_t)(upper | (shift ? take_plain(reader, state, shift) : 0));
    }
    uint32_t integer = 0;
    for (int k = 0; k < PIECES; k++)
        integer |= take_plain(reader, state, PIECE_BITS) << (k * PIECE_BITS);
    return (int32_t)integer;
}

/* Decode what `encode_coordinates` made into values (directions, tokens); of other bytes, some
 * values. */
EXPORT void decode_coordinates(float *values, int64_t tokens, const Tables *tables, int finer,
                               const uint8_t *payload, int64_t length)
{
    Reader reader = {(const uint16_t *)payload, (const uint16_t *)payload + length / 2};
    uint32_t states[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        states[lane] = next_word(&reader) << 16;
        states[lane] |= next_word(&reader);
    }
    for (int64_t d = 0; d < tables->directions; d++) {
        float step = tables->steps[d] / (float)(1 << finer);
        float off = finer ? 0 : tables->shifts_of_values[d];
        const uint32_t *slots = tables->slots + (int64_t)tables->classes[d] * SLOTS;
        int shift = tables->shifts[d] + finer;
        for (int64_t t = 0; t < tokens; t++) {
            int32_t found = take_integer(&reader, states + t % LANES, shift, slots);
            float side = (float)((found > 0) - (found < 0));
            values[d * tokens + t] = step * ((float)found + off * side);
        }
    }
}
