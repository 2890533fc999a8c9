/* Entropy coding of coordinates whose distributions are known beforehand: rounded, and coded by
 * four interleaved rANS coders with the static tables of their classes.
 *
 * J. Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with
 * compression rate of arithmetic coding", arXiv:1311.2540; F. Giesen, "Interleaved entropy
 * coders", arXiv:1402.3392. */
#include "panels.h"
#include "vectors.h"

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

#if defined(__x86_64__)
/* By which lanes of two payloads take a word, bits of the index: which of the next words each takes,
 * LANES of the first payload before those of the second. */
static uint8_t taken_words[1 << 2 * LANES][2 * LANES];

static void make_taken_words(void)
{
    for (int mask = 0; mask < 1 << 2 * LANES; mask++)
        for (int lane = 0, next = 0; lane < 2 * LANES; lane++) {
            next = lane == LANES ? LANES : next;
            taken_words[mask][lane] = (uint8_t)next;
            next += mask >> lane & 1;
        }
}

WIDE INLINE __m256i joined(__m128i left, __m128i right)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(left), right, 1);
}

/* As `refilled`, the lanes of two payloads. */
WIDE INLINE __m256i refilled_pair(Reader *left, Reader *right, __m256i states)
{
    __m256i lack = _mm256_cmpeq_epi32(_mm256_srli_epi32(states, 16), _mm256_setzero_si256());
    unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(lack));
    __m128i words = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)left->next),
                                       _mm_loadl_epi64((const __m128i *)right->next));
    __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)taken_words[mask]));
    __m256i taken = _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(words), order);
    left->next += __builtin_popcount(mask & ((1 << LANES) - 1));
    right->next += __builtin_popcount(mask >> LANES);
    __m256i filled = _mm256_or_si256(_mm256_slli_epi32(states, 16), taken);
    return _mm256_blendv_epi8(states, filled, lack);
}

/* Two numbers, at places that are the halves of one. */
WIDE INLINE __m128i two_of(const uint32_t *slots, int64_t places)
{
    return _mm_unpacklo_epi32(_mm_cvtsi32_si128((int)slots[(uint32_t)places]),
                              _mm_cvtsi32_si128((int)slots[places >> 32]));
}

/* As a gathering load, which takes longer on some machines. */
WIDE INLINE __m256i loaded(const uint32_t *slots, __m256i places)
{
    __m128i left = _mm256_castsi256_si128(places), right = _mm256_extracti128_si256(places, 1);
    return joined(_mm_unpacklo_epi64(two_of(slots, _mm_cvtsi128_si64(left)),
                                     two_of(slots, _mm_extract_epi64(left, 1))),
                  _mm_unpacklo_epi64(two_of(slots, _mm_cvtsi128_si64(right)),
                                     two_of(slots, _mm_extract_epi64(right, 1))));
}

/* An integer of each lane of two payloads, without plain bits. */
WIDE INLINE void take_pair(Decoder *decoders, int32_t *left, int32_t *right, const uint32_t *slots)
{
    const __m256i in_slots = _mm256_set1_epi32(SLOTS - 1), in_symbols = _mm256_set1_epi32(255);
    Reader a = decoders[0].reader, b = decoders[1].reader;
    __m128i *states[2] = {(__m128i *)decoders[0].states, (__m128i *)decoders[1].states};
    __m256i state = joined(_mm_loadu_si128(states[0]), _mm_loadu_si128(states[1]));
    __m256i slot = loaded(slots, _mm256_and_si256(state, in_slots));
    __m256i symbols = _mm256_and_si256(slot, in_symbols);
    __m256i others = _mm256_cmpeq_epi32(symbols, _mm256_set1_epi32(OTHER));
    if (_mm256_movemask_epi8(others) || a.end - a.next < LANES || b.end - b.next < LANES) {
        take_some(decoders, left, LANES, 0, slots);
        take_some(decoders + 1, right, LANES, 0, slots);
        return;
    }
    symbols = _mm256_sub_epi32(symbols, _mm256_set1_epi32(CENTRE));
    _mm_storeu_si128((__m128i *)left, _mm256_castsi256_si128(symbols));
    _mm_storeu_si128((__m128i *)right, _mm256_extracti128_si256(symbols, 1));
    state = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_srli_epi32(slot, 8 + FREQUENCY_BITS),
                                                _mm256_srli_epi32(state, FREQUENCY_BITS)),
                             _mm256_and_si256(_mm256_srli_epi32(slot, 8), in_slots));
    state = refilled_pair(&a, &b, state);
    _mm_storeu_si128(states[0], _mm256_castsi256_si128(state));
    _mm_storeu_si128(states[1], _mm256_extracti128_si256(state, 1));
    decoders[0].reader.next = a.next, decoders[1].reader.next = b.next;
}
#endif

/* Payloads that are decoded side by side: tables of a direction stay in the first cache for all. */
#define SIDE_BY_SIDE 32

typedef struct {
    int count;
    Decoder decoders[SIDE_BY_SIDE];
    /* Of each payload, and of all together; whether all have equally many. */
    const int64_t *tokens;
    int64_t all_tokens;
    int are_equal;
    uint8_t *are_wide;
} Group;

/* Take the next integers of a direction, of one payload after the other. */
typedef void Take(Group *group, int32_t *integers, int shift, const uint32_t *slots);

static void take_anywhere(Group *group, int32_t *integers, int shift, const uint32_t *slots)
{
    for (int k = 0; k < group->count; integers += group->tokens[k++])
        take_some(group->decoders + k, integers, group->tokens[k], shift, slots);
}

#if defined(__x86_64__)
/* In turns, for one payload not to wait for another. */
WIDE static void take_wide(Group *group, int32_t *integers, int shift, const uint32_t *slots)
{
    if (shift || !group->are_equal) {
        take_anywhere(group, integers, shift, slots);
        return;
    }
    int64_t count = group->tokens[0], rounds = count / LANES * LANES;
    int paired = group->count & ~1;
    for (int64_t t = 0; t < rounds; t += LANES)
        for (int k = 0; k < paired; k += 2)
            take_pair(group->decoders + k, integers + k * count + t,
                      integers + (k + 1) * count + t, slots);
    for (int k = 0; k < group->count; k++) {
        int64_t taken = k < paired ? rounds : 0;
        take_some(group->decoders + k, integers + k * count + taken, count - taken, 0, slots);
    }
}
#endif

/* Levels are values in steps, in units of 1 / UNIT: fine enough for where in its interval an
 * integer is decoded, and coarse enough for 16 bits. */
#define UNIT 16
#define FEWEST_NARROW 127
#define MOST_NARROW 2046

/* The largest integer of a direction that has a level: four times those that are symbols without
 * plain bits, and as many as are symbols with them. */
INLINE int32_t narrow_of(int shift)
{
    int64_t most = (int64_t)(FEWEST_NARROW + 1) << (shift > 2 ? shift - 2 : 0);
    return most - 1 < MOST_NARROW ? (int32_t)most - 1 : MOST_NARROW;
}

/* In unsigned numbers, as wide integers have levels beyond what is signed. */
typedef uint32_t WordQuad __attribute__((vector_size(16), aligned(4)));

/* Levels of two directions side by side, four at a time: compilers make no vectors of conditions. */
INLINE WordQuad levels_of(IntQuad integers, IntQuad others, const int32_t *offs)
{
    WordQuad side = (WordQuad)((offs[0] & (integers > 0)) - (offs[0] & (integers < 0)));
    WordQuad next = (WordQuad)((offs[1] & (others > 0)) - (offs[1] & (others < 0)));
    side += (WordQuad)integers * UNIT, next += (WordQuad)others * UNIT;
    return (side & 0xffff) | next << 16;
}

/* Levels of two directions of a group, into (panels, pairs, PANEL). */
INLINE void put_levels(uint32_t *levels, int64_t pairs, int64_t first, const int32_t *integers,
                       const int32_t *others, const int32_t *offs, int64_t count)
{
    for (int64_t t = 0; t < count;) {
        int64_t place = (first + t) % PANEL;
        uint32_t *found = levels + (first + t) / PANEL * pairs * PANEL + place;
        if (place % 4 == 0 && t + 4 <= count) {
            *(WordQuad *)found = levels_of(*(const IntQuad *)(integers + t),
                                           *(const IntQuad *)(others + t), offs);
            t += 4;
        } else {
            *found = levels_of((IntQuad){integers[t]}, (IntQuad){others[t]}, offs)[0];
            t++;
        }
    }
}

/* Whether one has no level. */
INLINE int has_wide(const int32_t *integers, int64_t count, int32_t most)
{
    int is_wide = 0;
    for (int64_t t = 0; t < count; t++)
        is_wide |= integers[t] > most || integers[t] < -most;
    return is_wide;
}

/* Mark the payloads that have an integer without a level. Returns whether all have. */
static int mark_wide(Group *group, const int32_t *integers, int32_t most)
{
    int all_wide = 1;
    for (int k = 0; k < group->count; integers += group->tokens[k++]) {
        group->are_wide[k] |= (uint8_t)has_wide(integers, group->tokens[k], most);
        all_wide &= group->are_wide[k];
    }
    return all_wide;
}

/* Levels of a group whose first token is `first`; there is room for two integers of each token. */
INLINE void decode_group(Group *group, uint32_t *levels, int64_t first, const Tables *tables,
                         int32_t *integers, Take *take)
{
    int64_t pairs = (tables->directions + 1) / 2, count = group->all_tokens;
    int32_t *sides[2] = {integers, integers + count};
    for (int64_t d = 0; d < tables->directions; d += 2) {
        int32_t offs[2] = {0, 0}, most[2] = {0, 0};
        int is_wide = 0;
        for (int side = 0; side < 2; side++) {
            if (d + side == tables->directions) {
                memset(sides[side], 0, (size_t)count * sizeof *integers);
                break;
            }
            offs[side] = rounded(tables->shifts_of_values[d + side] * UNIT, 0.5f);
            take(group, sides[side], tables->shifts[d + side], slots_of(tables, d + side));
            most[side] = narrow_of(tables->shifts[d + side]);
            is_wide |= has_wide(sides[side], count, most[side]);
        }
        put_levels(levels + d / 2 * PANEL, pairs, first, sides[0], sides[1], offs, count);
        if (is_wide &&
            (mark_wide(group, sides[0], most[0]) & mark_wide(group, sides[1], most[1])))
            return;
    }
}

static void decode_anywhere(Group *group, uint32_t *levels, int64_t first, const Tables *tables,
                            int32_t *integers)
{
    decode_group(group, levels, first, tables, integers, take_anywhere);
}

#if defined(__x86_64__)
WIDE static void decode_wide(Group *group, uint32_t *levels, int64_t first, const Tables *tables,
                             int32_t *integers)
{
    decode_group(group, levels, first, tables, integers, take_wide);
}
#endif

static void (*decode_some)(Group *, uint32_t *, int64_t, const Tables *, int32_t *) =
    decode_anywhere;

void choose_decoding(Vectors vectors)
{
    decode_some = decode_anywhere;
#if defined(__x86_64__)
    make_taken_words();
    if (vectors >= VECTORS_WIDE)
        decode_some = decode_wide;
#else
    (void)vectors;
#endif
}

static void clear_levels(uint32_t *levels, int64_t pairs, int64_t first, int64_t count)
{
    for (int64_t t = first; t < first + count; t++)
        for (int64_t p = 0; p < pairs; p++)
            levels[(t / PANEL * pairs + p) * PANEL + t % PANEL] = 0;
}

/* Levels (panels, pairs, PANEL, 2) of the coordinates of several payloads that follow one another,
 * for `expand_levels`: of the last panel, those of the tokens that there are. Those of a payload
 * with an integer that has none are zero, and it is marked as wide. `sizes` (2, payloads) are bytes
 * and tokens; there is room for two integers of each token. */
EXPORT void decode_levels(uint32_t *levels, const Tables *tables, int64_t payloads,
                          const uint8_t *joined, const int64_t *sizes, uint8_t *are_wide,
                          int32_t *integers)
{
    int64_t pairs = (tables->directions + 1) / 2, start = 0;
    for (int64_t first = 0; first < payloads; first += SIDE_BY_SIDE) {
        const int64_t *lengths = sizes + first, *tokens = lengths + payloads;
        Group group = {.tokens = tokens, .are_equal = 1, .are_wide = are_wide + first};
        for (int k = 0; k < SIDE_BY_SIDE && first + k < payloads; k++, group.count++) {
            group.decoders[k] = decoder_of(joined, lengths[k]);
            group.all_tokens += tokens[k];
            group.are_equal &= tokens[k] == tokens[0];
            group.are_wide[k] = 0;
            joined += lengths[k];
        }
        decode_some(&group, levels, start, tables, integers);
        for (int k = 0; k < group.count; start += tokens[k++])
            if (group.are_wide[k])
                clear_levels(levels, pairs, start, tokens[k]);
    }
}
