/* Entropy coding of the integers of a transformed array, band by band from coarse to fine and in
 * raster order within: `encode` and `decode` walk through it alike. */
#include "contexts.h"

typedef struct {
    Coder coder;
    Layout layout;
    int64_t bands;
    const Extent *extents;
    /* Integers as they are counted: those of the array itself, if these are int32. */
    int32_t *counted;
    /* The array, if it is one of int64. */
    int64_t *wide;
    /* Whether a band is anything but zeros, for each place along the outer axis. */
    uint8_t *is_alive;
    Row row;
    Model *model;
    BandModel *band_models;
    /* All memory but that of `counted`. */
    uint8_t *memory;
} Walk;

/* --- coding ------------------------------------------------------------------------------- */

INLINE int digits_of(uint64_t number)
{
    int digits = 0;
    while (number >> digits)
        digits++;
    return digits;
}

/* Code a number of at most MOST_DIGITS digits, from one on: how many these are, then all but the
 * leading one. */
static uint64_t code_escaped(Coder *coder, const int decode, uint64_t number, Counter *counters)
{
    int digits = decode ? 0 : digits_of(number), left = 0;
    while (left < MOST_DIGITS - 1 &&
           code_counted(coder, decode, digits > left + 1, counters + left))
        left++;
    uint64_t upper = left > 32 ? code_plain(coder, decode, number >> 32, left - 32) : 0;
    uint64_t lower = code_plain(coder, decode, number, left < 32 ? left : 32);
    return (uint64_t)1 << left | upper << 32 | lower;
}

/* Code one integer, which is not zero if `some`; returns its size as it is counted. */
INLINE int32_t code_integer(Walk *walk, Coder *coder, const int decode, int64_t place,
                            const Pair *pair, int shift, int some)
{
    int64_t integer = decode ? 0 : walk->wide ? walk->wide[place] : walk->counted[place];
    uint64_t negative = integer < 0, size = (uint64_t)(negative ? -integer : integer);
    int symbol = decode ? 0 : symbol_of(size >> shift) - some;
    symbol = code_symbol(coder, decode, symbol, pair) + some;
    symbol = symbol < SYMBOLS ? symbol : SYMBOLS - 1;
    if (!symbol && !shift)
        return 0;
    if (!symbol || symbol == SYMBOLS - 1) {
        uint64_t beyond = symbol ? FIRST_OF[symbol] - 1 : 0, upper = 0;
        if (symbol) {
            /* A copy, which leaves the coder itself in registers. */
            Coder own = *coder;
            upper = (size >> shift) - beyond;
            upper = beyond + code_escaped(&own, decode, upper, walk->model->digits);
            *coder = own;
        }
        size = upper << shift | code_plain(coder, decode, size, shift);
        negative = size ? code_plain(coder, decode, negative, 1) : 0;
    } else {
        /* The sign goes with the bits: most have no others. */
        uint64_t least = (uint64_t)FIRST_OF[symbol] << shift;
        int bits = BITS_OF[symbol] + shift + 1;
        uint64_t rest = code_plain(coder, decode, (size - least) << 1 | negative, bits);
        size = least + (rest >> 1);
        negative = rest & 1;
    }
    if (decode) {
        /* No more than there can be, whatever a damaged payload says. */
        size &= walk->wide ? ((uint64_t)1 << 62) - 1 : INT32_MAX;
        integer = negative ? -(int64_t)size : (int64_t)size;
    }
    int32_t counted = size < MOST_COUNTED ? (int32_t)size : MOST_COUNTED;
    if (decode && walk->wide)
        walk->wide[place] = integer;
    if (decode)
        walk->counted[place] = walk->wide ? counted : (int32_t)integer;
    return counted;
}

/* Whether nothing is known of the next RUN integers but zeros. */
INLINE int is_empty(const Row *row, int64_t x)
{
    uint32_t known = 0;
    for (int64_t j = x; j < x + RUN; j++)
        known |= row->sums[NORTH][j] | row->sums[BEFORE][j] | row->sums[PARENTS][j];
    return !known;
}

/* Number of zeros that the next RUN integers begin with: where the first other one is, if any, is
 * coded by halves. */
INLINE int code_run(Coder *coder, const int decode, const int32_t *integers, Counter *places,
                    Counter *runs, int *history)
{
    int zeros = 0, node = 1;
    while (!decode && zeros < RUN && !integers[zeros])
        zeros++;
    int all = code_counted(coder, decode, zeros == RUN, runs + *history);
    *history = (*history << 1 | !all) & 3;
    if (all)
        return RUN;
    for (int half = RUN / 2; half; half /= 2)
        node = 2 * node + code_counted(coder, decode, (zeros & half) > 0, places + node);
    return node - RUN;
}

/* Make what is expected of a row, but for what its own integers tell, and groups of planes before.
 * Returns what stands for integers to the left of the first. */
static float expect_row(Row *row, const float *weights)
{
    Quad *const *features = row->features;
    for (int64_t x = 0; x < row->width; x += 4) {
        Quad north = features[NORTH][x / 4], before = features[BEFORE][x / 4];
        Quad parents = features[PARENTS][x / 4], raised = before + GROUP_OFFSET;
        row->expected[x / 4] = north * weights[NORTH] + before * weights[BEFORE] +
                               parents * weights[PARENTS];
        IntQuad octaves = (IntQuad)raised >> MANTISSA_BITS;
        for (int j = 0; j < 4; j++) {
            int group = octaves[j] - (EXPONENT_OF_ONE + LOG_GROUP_OFFSET);
            row->groups[x + j] = (uint8_t)(group < GROUPS ? group : GROUPS - 1);
        }
    }
    for (int feature = 0; feature < SUMS; feature++)
        if (row->has[feature])
            return features[feature][0][0];
    return UNIT;
}

/* Move the weights of slots by the gradients of a row. */
static void move_shares(float *shares, const float *gradients)
{
    const float rate = 0.04f, least = 0.02f;
    for (int group = 0; group <= ENDS; group++) {
        float share = shares[group];
        share += rate * gradients[group] * share * (1 - share);
        shares[group] = share < least ? least : share > 1 - least ? 1 - least : share;
    }
}

INLINE void code_row(Walk *walk, const int decode, BandModel *band)
{
    Model *model = walk->model;
    Row *row = &walk->row;
    int kind = kind_of(row), history = 0;
    float gradients[ENDS + 1] = {0}, *shares = model->shares[kind];
    float left = expect_row(row, model->fits[kind].weights);
    const float *expected = (const float *)row->expected, weight = model->fits[kind].weights[WEST];
    float *lefts = (float *)row->features[WEST];
    int32_t west = 0, further = 0, *sizes = row->sizes;
    Coder coder = walk->coder;
    memset(sizes + row->width, 0, 3 * sizeof *sizes);
    memset(lefts + row->width, 0, 3 * sizeof *lefts);
    for (int64_t x = 0; x < row->width; x++) {
        int some = 0;
        if (x % RUN == 0 && x + RUN <= row->width && !(west | further) && is_empty(row, x)) {
            const int32_t *integers = walk->counted + row->start + x;
            int zeros = code_run(&coder, decode, integers, model->places, band->runs, &history);
            memset(sizes + x, 0, (size_t)zeros * sizeof *sizes);
            memset(lefts + x, 0, (size_t)zeros * sizeof *lefts);
            left = zeros ? 0 : left;
            x += zeros;
            if (zeros == RUN) {
                x--;
                continue;
            }
            some = 1;
        }
        int level = level_of(expected[x] + weight * left), group = band_group_of(level);
        Pair pair = {&model->sizes[level][row->groups[x]], band->sizes + group, shares[group],
                     gradients + group};
        if (some)
            pair = (Pair){&model->ends, band->sizes + ENDS, shares[ENDS], gradients + ENDS};
        lefts[x] = left;
        further = west;
        west = sizes[x] = code_integer(walk, &coder, decode, row->start + x, &pair,
                                       some ? 0 : shift_of[level], some);
        further = x ? further : west;
        left = (float)(UNIT * 3 / 4 * west + UNIT / 4 * further);
    }
    walk->coder = coder;
    move_shares(shares, gradients);
    learn_row(model->fits + kind, row);
}

/* --- the walk ----------------------------------------------------------------------------- */

static int is_anything(const Walk *walk, const Extent *band, int64_t outer)
{
    const Layout *layout = &walk->layout;
    const Extent *columns = band + layout->axes - 1;
    int64_t index[MOST_AXES + 1], width = columns->stop - columns->start;
    first_row(layout, band, index);
    for (int64_t row = rows_of(layout, band); row > 0; row--, next_row(layout, band, index)) {
        const int32_t *start = walk->counted + place_of(layout, band, outer, index);
        for (int64_t x = 0; x < width; x++)
            if (start[x])
                return 1;
    }
    return 0;
}

/* Code whether a band is anything but zeros at a place along the outer axis. */
INLINE int code_alive(Walk *walk, const int decode, int64_t number, int64_t outer)
{
    const Extent *band = walk->extents + number * walk->layout.axes;
    int64_t count = walk->layout.shape[0];
    uint8_t *flag = walk->is_alive + number * count + outer;
    int before = outer ? flag[-1] : 2, parents = 0, alive = 0;
    for (int k = 0; k < walk->layout.axes; k++)
        if (band[k].parent >= 0) {
            parents = parents ? parents : 1;
            alive += walk->is_alive[band[k].parent * count + outer];
        }
    int context = 8 * before + (parents ? 1 + (alive < 6 ? alive : 6) : 0);
    int some = decode ? 0 : is_anything(walk, band, outer);
    *flag = (uint8_t)code_counted(&walk->coder, decode, some, walk->model->is_alive + context);
    return *flag;
}

INLINE void code_bands(Walk *walk, const int decode)
{
    const Layout *layout = &walk->layout;
    for (int64_t number = 0; number < walk->bands; number++) {
        const Extent *band = walk->extents + number * layout->axes;
        int64_t rows = rows_of(layout, band);
        Row *row = &walk->row;
        row->width = band[layout->axes - 1].stop - band[layout->axes - 1].start;
        for (int64_t outer = 0; rows && outer < layout->shape[0]; outer++) {
            if (!code_alive(walk, decode, number, outer))
                continue;
            int64_t index[MOST_AXES + 1] = {outer};
            first_row(layout, band, index);
            for (int64_t k = 0; k < rows; k++, next_row(layout, band, index)) {
                row->start = place_of(layout, band, outer, index);
                expect_from_north(walk->counted, layout, band, index, row);
                expect_from_planes(walk->counted, layout, band, index, row);
                expect_from_parents(walk->counted, layout, band, index, row);
                code_row(walk, decode, walk->band_models + number);
            }
        }
    }
}

static void end_walk(Walk *walk)
{
    if (walk->wide)
        free(walk->counted);
    free(walk->memory);
}

/* Memory of a walk, after `used` bytes of it; without any memory, only what it takes is counted. */
static void *part_of(uint8_t *memory, size_t *used, size_t bytes)
{
    const size_t line = sizeof(Slot);
    uint8_t *start = memory ? memory + *used : NULL;
    *used += (bytes + line - 1) / line * line;
    return start;
}

/* Lay out all arrays of a walk in its memory, which begins as its slots do; returns its length. */
static size_t lay_out(Walk *walk, uint8_t *memory)
{
    size_t used = 0, bands = (size_t)walk->bands;
    /* Of the longest row, and three zeros behind it. */
    size_t width = ((size_t)walk->layout.shape[walk->layout.axes] / 4 + 2) * sizeof(Quad);
    Row *row = &walk->row;
    walk->model = part_of(memory, &used, sizeof(Model));
    walk->band_models = part_of(memory, &used, bands * sizeof(BandModel));
    for (int k = 0; k < SUMS; k++)
        row->sums[k] = part_of(memory, &used, width);
    for (int k = 0; k < FEATURES; k++)
        row->features[k] = part_of(memory, &used, width);
    row->expected = part_of(memory, &used, width);
    row->sizes = part_of(memory, &used, width);
    row->groups = part_of(memory, &used, width / sizeof(float));
    walk->is_alive = part_of(memory, &used, bands * (size_t)walk->layout.shape[0]);
    return used;
}

/* Not 0 if there is no memory. */
static int begin_walk(Walk *walk, void *integers, int wide, int axes, const int64_t *shape,
                      int64_t bands, const Extent *extents)
{
    walk->layout = layout_of(axes, shape);
    walk->bands = bands;
    walk->extents = extents;
    walk->wide = wide ? integers : NULL;
    walk->counted = wide ? calloc((size_t)walk->layout.count + 1, sizeof(int32_t)) : integers;
    walk->memory = malloc(lay_out(walk, NULL) + sizeof(Slot));
    if (!walk->counted || !walk->memory) {
        end_walk(walk);
        return -1;
    }
    lay_out(walk, walk->memory + sizeof(Slot) - (uintptr_t)walk->memory % sizeof(Slot));
    memset(walk->is_alive, 0, (size_t)(bands * shape[0]));
    *walk->model = first_model;
    for (int64_t number = 0; number < bands; number++)
        walk->band_models[number] = first_band_model;
    return 0;
}

/* Make the tables that all others need; once, before them. */
EXPORT void make_tables(void)
{
    make_symbol_tables();
    make_size_tables();
    make_first_fits();
    make_first_model();
}

#define NO_MEMORY (-2)

/* Code an array of int32 (`wide` 0) or int64, below 2**31 and 2**62 in size. Returns the bytes of
 * the payload, -1 if it is longer than `capacity`, or -2 if there is no memory. */
EXPORT int64_t encode(const void *integers, int wide, int axes, const int64_t *shape,
                      int64_t bands, const Extent *extents, uint8_t *payload, int64_t capacity)
{
    Walk walk = {.coder = encoder_into(payload, capacity)};
    if (begin_walk(&walk, (void *)integers, wide, axes, shape, bands, extents))
        return NO_MEMORY;
    for (int64_t i = 0; wide && i < walk.layout.count; i++) {
        int64_t size = walk.wide[i] < 0 ? -walk.wide[i] : walk.wide[i];
        walk.counted[i] = size < MOST_COUNTED ? (int32_t)size : MOST_COUNTED;
    }
    code_bands(&walk, 0);
    end_walk(&walk);
    return finish(&walk.coder);
}

/* Decode into an array of zeros. Of a damaged payload something is decoded. Returns 0, or -2 if
 * there is no memory. */
EXPORT int64_t decode(void *integers, int wide, int axes, const int64_t *shape, int64_t bands,
                      const Extent *extents, const uint8_t *payload, int64_t length)
{
    Walk walk = {.coder = decoder_of((uint8_t *)payload, length)};
    if (begin_walk(&walk, integers, wide, axes, shape, bands, extents))
        return NO_MEMORY;
    code_bands(&walk, 1);
    end_walk(&walk);
    return 0;
}
