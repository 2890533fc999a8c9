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
    /* (classes, SLOTS): from the lowest bit, 8 for the symbol, 12 for the place within its slots and
     * 12 for their number. */
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

/* Without a branch where the next word is known to be there: none would be foretold. */
INLINE uint32_t refilled(Reader *reader, uint32_t state, const int is_inside)
{
    if (!is_inside)
        return state < LEAST ? state << 16 | next_word(reader) : state;
    uint64_t lacks = state < LEAST, mask = 0 - lacks;
    uint32_t word = *reader->next & (uint32_t)mask;
    reader->next += lacks;
    return state << (mask & 16) | word;
}

INLINE uint32_t take_plain(Reader *reader, uint32_t *state, int bits, const int is_inside)
{
    uint32_t slot = *state & (SLOTS - 1), below = FREQUENCY_BITS - bits;
    *state = refilled(reader, (*state >> FREQUENCY_BITS << below) + (slot & ((1u << below) - 1)),
                      is_inside);
    return slot >> below;
}

INLINE int32_t take_integer(Reader *reader, uint32_t *state, int shift, const uint32_t *slots,
                            const int is_inside)
{
    uint32_t slot = slots[*state & (SLOTS - 1)];
    int symbol = (int)(slot & 255);
    *state = refilled(reader, (slot >> (8 + FREQUENCY_BITS)) * (*state >> FREQUENCY_BITS) +
                                  (slot >> 8 & (SLOTS - 1)), is_inside);
    if (symbol != OTHER && !shift)
        return symbol - CENTRE;
    if (symbol != OTHER)
        return (int32_t)((uint32_t)(symbol - CENTRE) << shift |
                         take_plain(reader, state, shift, is_inside));
    uint32_t integer = 0;
    for (int k = 0; k < PIECES; k++)
        integer |= take_plain(reader, state, PIECE_BITS, is_inside) << (k * PIECE_BITS);
    return (int32_t)integer;
}

typedef struct {
    Reader reader;
    uint32_t states[LANES];
} Decoder;

INLINE Decoder decoder_of(const uint8_t *payload, int64_t length)
{
    Decoder decoder = {{(const uint16_t *)payload, (const uint16_t *)payload + length / 2}, {0}};
    for (int lane = 0; lane < LANES; lane++) {
        decoder.states[lane] = next_word(&decoder.reader) << 16;
        decoder.states[lane] |= next_word(&decoder.reader);
    }
    return decoder;
}

/* Words that an integer takes at most. */
#define MOST_WORDS (PIECES + 1)

/* What a state is after a symbol, before words are read. */
INLINE uint32_t advanced(uint32_t state, uint32_t slot)
{
    return (slot >> (8 + FREQUENCY_BITS)) * (state >> FREQUENCY_BITS) + (slot >> 8 & (SLOTS - 1));
}

/* As `refilled`, from a window of four words of which some bits are used. */
INLINE uint32_t filled_from(uint64_t window, uint64_t *used, uint32_t state)
{
    uint64_t mask = 0 - (uint64_t)(state < LEAST);
    uint32_t word = window >> *used & mask & 0xffff;
    *used += mask & 16;
    return state << (mask & 16) | word;
}

/* Whether a lane has an integer that is no symbol. */
INLINE int has_others(uint32_t a, uint32_t b, uint32_t c, uint32_t d, const uint32_t *slots)
{
    uint32_t symbols = ((slots[a & (SLOTS - 1)] & 255) + 1) | ((slots[b & (SLOTS - 1)] & 255) + 1) |
                       ((slots[c & (SLOTS - 1)] & 255) + 1) | ((slots[d & (SLOTS - 1)] & 255) + 1);
    return symbols >= TABLE;
}

/* One integer of each lane, without plain bits. Words come from one window of the payload, for no
 * lane to wait until one is loaded from where the lane before it ended. */
INLINE void take_round(Reader *reader, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d,
                       int32_t *integers, const uint32_t *slots)
{
    uint32_t slot_a = slots[*a & (SLOTS - 1)], slot_b = slots[*b & (SLOTS - 1)];
    uint32_t slot_c = slots[*c & (SLOTS - 1)], slot_d = slots[*d & (SLOTS - 1)];
    integers[0] = (int32_t)(slot_a & 255) - CENTRE;
    integers[1] = (int32_t)(slot_b & 255) - CENTRE;
    integers[2] = (int32_t)(slot_c & 255) - CENTRE;
    integers[3] = (int32_t)(slot_d & 255) - CENTRE;
    const uint16_t *next = reader->next;
    uint64_t window = next[0] | (uint64_t)next[1] << 16 | (uint64_t)next[2] << 32 |
                      (uint64_t)next[3] << 48;
    uint64_t used = 0;
    *a = filled_from(window, &used, advanced(*a, slot_a));
    *b = filled_from(window, &used, advanced(*b, slot_b));
    *c = filled_from(window, &used, advanced(*c, slot_c));
    *d = filled_from(window, &used, advanced(*d, slot_d));
    reader->next = next + used / 16;
}

/* As many integers as are sure to be inside, a multiple of LANES. */
INLINE int64_t take_inside(Decoder *decoder, int32_t *integers, int64_t count, int shift,
                           const uint32_t *slots)
{
    Reader reader = decoder->reader;
    uint32_t *states = decoder->states;
    uint32_t a = states[0], b = states[1], c = states[2], d = states[3];
    int64_t t = 0;
    for (; t + LANES <= count && reader.end - reader.next > LANES * MOST_WORDS; t += LANES) {
        if (!shift && !has_others(a, b, c, d, slots)) {
            take_round(&reader, &a, &b, &c, &d, integers + t, slots);
            continue;
        }
        integers[t] = take_integer(&reader, &a, shift, slots, 1);
        integers[t + 1] = take_integer(&reader, &b, shift, slots, 1);
        integers[t + 2] = take_integer(&reader, &c, shift, slots, 1);
        integers[t + 3] = take_integer(&reader, &d, shift, slots, 1);
    }
    states[0] = a, states[1] = b, states[2] = c, states[3] = d;
    decoder->reader = reader;
    return t;
}

/* The next integers, of the first tokens or of those after a multiple of LANES. */
INLINE void take_some(Decoder *decoder, int32_t *integers, int64_t count, int shift,
                      const uint32_t *slots)
{
    int64_t t = shift ? take_inside(decoder, integers, count, shift, slots)
                      : take_inside(decoder, integers, count, 0, slots);
    for (; t < count; t++)
        integers[t] = take_integer(&decoder->reader, decoder->states + t % LANES, shift, slots, 0);
}

INLINE const uint32_t *slots_of(const Tables *tables, int64_t direction)
{
    return tables->slots + (int64_t)tables->classes[direction] * SLOTS;
}

/* Integers of a direction that are decoded together, a multiple of LANES. */
#define TOGETHER 64

/* Decode what `encode_coordinates` made into values (directions, tokens); of other bytes, some
 * values. */
EXPORT void decode_coordinates(float *values, int64_t tokens, const Tables *tables, int finer,
                               const uint8_t *payload, int64_t length)
{
    Decoder decoder = decoder_of(payload, length);
    int32_t integers[TOGETHER];
    for (int64_t d = 0; d < tables->directions; d++) {
        float step = tables->steps[d] / (float)(1 << finer);
        float off = finer ? 0 : tables->shifts_of_values[d];
        for (int64_t t = 0; t < tokens; t += TOGETHER) {
            int64_t count = tokens - t < TOGETHER ? tokens - t : TOGETHER;
            take_some(&decoder, integers, count, tables->shifts[d] + finer, slots_of(tables, d));
            for (int64_t k = 0; k < count; k++) {
                float side = (float)((integers[k] > 0) - (integers[k] < 0));
                values[d * tokens + t + k] = step * ((float)integers[k] + off * side);
            }
        }
    }
}

/* Levels are values in steps, in units of 1 / UNIT: fine enough for where in its interval an
 * integer is decoded. Integers up to MOST_NARROW have levels. */
#define UNIT 16
#define MOST_NARROW 127

/* Payloads that are decoded side by side: tables of a direction stay in the first cache for all. */
#define SIDE_BY_SIDE 32

/* Levels of integers, into a column of rows that are `stride` long. Returns whether one has none. */
INLINE int put_levels(int16_t *column, int64_t stride, const int32_t *integers, int64_t count,
                      int32_t off)
{
    int is_wide = 0;
    for (int64_t k = 0; k < count; k++) {
        int32_t found = integers[k], side = (found > 0) - (found < 0);
        is_wide |= found > MOST_NARROW || found < -MOST_NARROW;
        column[k * stride] = (int16_t)((uint32_t)found * UNIT + (uint32_t)(off * side));
    }
    return is_wide;
}

/* Payloads that are decoded side by side, and the tokens of each. */
typedef struct {
    int count;
    Decoder decoders[SIDE_BY_SIDE];
    const int64_t *tokens;
    uint8_t *are_wide;
} Group;

/* Levels (tokens, stride) of a group; one direction of all its tokens fits into `integers`. */
static void decode_group(Group *group, int16_t *levels, int64_t stride, const Tables *tables,
                         int32_t *integers)
{
    for (int64_t d = 0; d < tables->directions; d++) {
        int32_t off = rounded(tables->shifts_of_values[d] * UNIT, 0.5f);
        int32_t *next = integers;
        for (int k = 0; k < group->count; next += group->tokens[k++])
            take_some(group->decoders + k, next, group->tokens[k], tables->shifts[d],
                      slots_of(tables, d));
        if (!put_levels(levels + d, stride, integers, next - integers, off))
            continue;
        int all_wide = 1;
        next = integers;
        for (int k = 0; k < group->count; next += group->tokens[k++]) {
            for (int64_t t = 0; t < group->tokens[k]; t++)
                group->are_wide[k] |= next[t] > MOST_NARROW || next[t] < -MOST_NARROW;
            all_wide &= group->are_wide[k];
        }
        if (all_wide)
            return;
    }
}

/* Levels (tokens, stride) of the coordinates of several payloads that follow one another, for
 * `expand_levels`. Those of a payload with an integer that has none are zero, and it is marked as
 * wide. There is room for one integer of each token. */
EXPORT void decode_levels(int16_t *levels, int64_t stride, const Tables *tables, int64_t payloads,
                          const uint8_t *joined, const int64_t *lengths,
                          const int64_t *tokens, uint8_t *are_wide, int32_t *integers)
{
    for (int64_t first = 0; first < payloads; first += SIDE_BY_SIDE) {
        Group group = {.tokens = tokens + first, .are_wide = are_wide + first};
        for (; group.count < SIDE_BY_SIDE && first + group.count < payloads; group.count++) {
            int64_t k = first + group.count;
            group.decoders[group.count] = decoder_of(joined, lengths[k]);
            joined += lengths[k];
            are_wide[k] = 0;
        }
        decode_group(&group, levels, stride, tables, integers);
        for (int k = 0; k < group.count; levels += group.tokens[k++] * stride)
            if (group.are_wide[k])
                memset(levels, 0, (size_t)(group.tokens[k] * stride) * sizeof *levels);
    }
}
