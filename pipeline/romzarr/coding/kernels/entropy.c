/* Entropy coding of the integers of a transformed array, band by band from coarse to fine and in
 * raster order within: `encode` and `decode` walk through it alike. */
#include "contexts.h"

/* Sizes count up to here in what they foretell: sums of them stay within 32 bits. */
#define MOST_COUNTED (1 << 24)

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
    /* Of a row: sums over neighbours in the row before, in planes before, and over parents. */
    uint32_t *above, *before, *parents;
    Model *model;
    BandModel *band_models;
    /* Digits of the last integer where sizes are larger than are counted, or nearly. */
    int last_digits;
} Walk;

/* What a row is foretold by. */
typedef struct {
    int64_t start, width;
    const int32_t *north;
    int has_before, has_parents;
} Row;

INLINE uint32_t size_of(int32_t integer)
{
    return (uint32_t)(integer < 0 ? -integer : integer);
}

/* --- what is expected --------------------------------------------------------------------- */

/* Add twice the sizes of a plane before at the same place, and those around it there, once. */
static void add_plane(uint32_t *sums, const int32_t *row, int64_t width, const int32_t *further,
                      const int32_t *up, const int32_t *down)
{
    for (int64_t x = 0; x < width; x++) {
        uint32_t left = size_of(row[x ? x - 1 : 0]), right = size_of(row[x + 1 < width ? x + 1 : x]);
        sums[x] += 2 * (size_of(row[x]) + size_of(further[x])) + left + right + size_of(up[x]) +
                   size_of(down[x]);
    }
}

/* Means over the planes before along all axes but the last two. */
static void expect_from_planes(Walk *walk, const Extent *band, const int64_t *index, Row *row)
{
    const Layout *layout = &walk->layout;
    const int32_t *here = walk->counted + row->start;
    int64_t up = 0, down = 0;
    uint32_t planes = 0;
    if (layout->axes > 1) {
        const Extent *rows = band + layout->axes - 2;
        int64_t stride = layout->stride[layout->axes - 1], place = index[layout->axes - 1];
        up = place > rows->start ? -stride : 0;
        down = place + 1 < rows->stop ? stride : 0;
    }
    memset(walk->before, 0, (size_t)row->width * sizeof(uint32_t));
    for (int k = 0; k < layout->axes - 1 || k == 0; k++) {
        int64_t first = k ? band[k - 1].start : 0;
        if (index[k] <= first)
            continue;
        const int32_t *plane = here - layout->stride[k];
        int64_t further = index[k] > first + 1 && k ? layout->stride[k] : 0;
        add_plane(walk->before, plane, row->width, plane - further, plane + up, plane + down);
        planes++;
    }
    for (int64_t x = 0; planes && x < row->width; x++)
        walk->before[x] = walk->before[x] * (UNIT / 8) / planes;
    row->has_before = planes > 0;
}

/* Eighths of the sizes in the row before. */
static void expect_from_north(Walk *walk, const Extent *band, const int64_t *index, Row *row)
{
    const Layout *layout = &walk->layout;
    int64_t stride = layout->axes > 1 ? layout->stride[layout->axes - 1] : 0;
    int64_t ahead = stride ? index[layout->axes - 1] - band[layout->axes - 2].start : 0;
    row->north = ahead ? walk->counted + row->start - stride : NULL;
    if (!ahead) {
        memset(walk->above, 0, (size_t)row->width * sizeof(uint32_t));
        return;
    }
    const int32_t *north = row->north, *further = ahead > 1 ? north - stride : north;
    for (int64_t x = 0; x < row->width; x++) {
        uint32_t west = size_of(north[x ? x - 1 : 0]);
        uint32_t east = size_of(north[x + 1 < row->width ? x + 1 : x]);
        walk->above[x] = 3 * size_of(north[x]) + size_of(further[x]) + 2 * (west + east);
    }
}

/* Half the mean of the parents along all axes: details are so much smaller where data have kinks. */
static void expect_from_parents(Walk *walk, const Extent *band, const int64_t *index, Row *row)
{
    const Layout *layout = &walk->layout;
    uint32_t *sums = walk->parents, count = 0;
    memset(sums, 0, (size_t)row->width * sizeof(uint32_t));
    for (int k = 1; k <= layout->axes; k++) {
        const Extent *axis = band + k - 1;
        if (axis->parent < 0)
            continue;
        /* Of the next coarser scale, half as many. */
        int64_t length = axis->start - axis->parent_start;
        count++;
        if (k < layout->axes) {
            int64_t half = (index[k] - axis->start) / 2;
            int64_t place = axis->parent_start + (half < length ? half : length - 1);
            const int32_t *row_above = walk->counted + row->start + (place - index[k]) * layout->stride[k];
            for (int64_t x = 0; x < row->width; x++)
                sums[x] += size_of(row_above[x]);
        } else {
            const int32_t *row_above = walk->counted + row->start - length;
            for (int64_t x = 0; x < row->width; x++)
                sums[x] += size_of(row_above[x / 2 < length ? x / 2 : length - 1]);
        }
    }
    for (int64_t x = 0; count && x < row->width; x++)
        sums[x] = sums[x] * (UNIT / 2) / count;
    row->has_parents = count > 0;
}

/* --- coding ------------------------------------------------------------------------------- */

INLINE int digits_of(uint64_t size)
{
    int digits = 0;
    while (size >> digits)
        digits++;
    return digits;
}

/* Number of binary digits of a size, `digits` for an encoder; `is_some` says that there are any. */
INLINE int code_digits(Walk *walk, const int decode, int digits, Slot *const *slots, Mixer *mixers,
                       int first, int most, int is_some)
{
    Counter *counters[CONTEXTS];
    int found = first, decision = first < FIRST_DECISIONS ? first : FIRST_DECISIONS - 1;
    int upwards = is_some && !first;
    for (int k = 0; k < CONTEXTS; k++)
        counters[k] = slots[k]->decisions + decision;
    if (!upwards)
        upwards = code_mixed(&walk->coder, decode, digits > found, counters, mixers + decision);
    found += upwards;
    for (int step = 0; upwards ? found < most : found > 0; step++) {
        decision = (upwards ? UP : DOWN) + (step < FURTHER ? step : FURTHER - 1);
        for (int k = 0; k < CONTEXTS; k++)
            counters[k] = slots[k]->decisions + decision;
        int asked = upwards ? found : found - 1;
        int more = code_mixed(&walk->coder, decode, digits > asked, counters, mixers + decision);
        if (more != upwards)
            break;
        found += upwards ? 1 : -1;
    }
    return found;
}

/* What follows the leading digit of a size that has more than one. */
INLINE uint64_t code_rest(Walk *walk, const int decode, uint64_t size, int digits, int level)
{
    Counter *counters = walk->model->digits[level][digits < 8 ? digits : 7];
    uint64_t found = 1;
    int left = digits - 1;
    for (int k = 0; k < MODELLED_DIGITS && left; k++) {
        left--;
        int node = k ? 1 + (int)(found & 1) : 0;
        int bit = code_counted(&walk->coder, decode, (int)(size >> left & 1), counters + node);
        found = found << 1 | (uint64_t)bit;
    }
    return found << left | (code_plain(&walk->coder, decode, size, (uint32_t)left) &
                            (((uint64_t)1 << left) - 1));
}

/* Code one integer; returns its size as it is counted. */
INLINE uint32_t code_integer(Walk *walk, const int decode, int64_t place, Slot *const *slots,
                             Mixer *mixers, int level, int is_some)
{
    int64_t integer = 0;
    if (!decode)
        integer = walk->wide ? walk->wide[place] : walk->counted[place];
    uint64_t size = (uint64_t)(integer < 0 ? -integer : integer);
    int most = walk->wide ? 62 : 31, likely = first_digits[level], is_huge = level >= LEVELS - 3;
    if (is_huge && walk->last_digits > likely)
        likely = walk->last_digits - 1;
    int digits = code_digits(walk, decode, decode ? 0 : digits_of(size), slots, mixers, likely, most,
                             is_some);
    if (is_huge)
        walk->last_digits = digits;
    if (!digits)
        return 0;
    size = digits > 1 ? code_rest(walk, decode, size, digits, level) : 1;
    int negative = (int)code_plain(&walk->coder, decode, integer < 0, 1) & 1;
    uint32_t counted = size < MOST_COUNTED ? (uint32_t)size : MOST_COUNTED;
    if (decode) {
        integer = negative ? -(int64_t)size : (int64_t)size;
        walk->counted[place] = walk->wide ? (int32_t)counted : (int32_t)integer;
        if (walk->wide)
            walk->wide[place] = integer;
    }
    return counted;
}

/* Whether nothing is known of the next RUN integers but zeros. */
INLINE int is_empty(const Walk *walk, int64_t x)
{
    uint32_t known = 0;
    for (int j = 0; j < RUN; j++)
        known |= walk->above[x + j] | walk->before[x + j] | walk->parents[x + j];
    return !known;
}

/* Number of zeros that the next RUN integers begin with: where the first other one is, if any, is
 * coded by halves. */
INLINE int code_run(Walk *walk, const int decode, const int32_t *integers, BandModel *band,
                    int *history)
{
    int zeros = 0, node = 1;
    while (!decode && zeros < RUN && !integers[zeros])
        zeros++;
    int all = code_counted(&walk->coder, decode, zeros == RUN, band->runs + *history);
    *history = (*history << 1 | !all) & 3;
    if (all)
        return RUN;
    for (int half = RUN / 2; half; half /= 2)
        node = 2 * node + code_counted(&walk->coder, decode, (zeros & half) > 0,
                                       walk->model->places + node);
    return node - RUN;
}

static inline void code_row(Walk *walk, const int decode, const Row *row, BandModel *band)
{
    Model *model = walk->model;
    const int32_t *north = row->north;
    Mixer *mixers = model->mixers[2 * row->has_before + row->has_parents];
    uint32_t west = 0, further = 0;
    int history = 0;
    for (int64_t x = 0; x < row->width; x++) {
        int is_some = 0;
        if (x % RUN == 0 && x + RUN <= row->width && !(west | further) && is_empty(walk, x)) {
            int zeros = code_run(walk, decode, walk->counted + row->start + x, band, &history);
            x += zeros;
            if (zeros == RUN) {
                x--;
                continue;
            }
            is_some = 1;
        }
        uint32_t before = walk->before[x], parents = walk->parents[x], plane;
        if (north)
            plane = (x ? 6 * west + 2 * further : walk->above[x]) + walk->above[x];
        else
            plane = x                  ? 12 * west + 4 * further
                    : row->has_before  ? before
                    : row->has_parents ? parents
                                       : UNIT;
        uint32_t whole = row->has_before ? (5 * plane + 3 * before) / 8 : plane;
        whole = row->has_parents ? (7 * whole + parents) / 8 : whole;
        int level = level_of(whole), group = group_of[level];
        Slot *slots[CONTEXTS] = {
            &model->whole[level][group_of[level_of(parents)]],
            &model->plane[level_of(plane)][group_of[level_of(before)]],
            &model->single[small_of(west)][small_of(north ? size_of(north[x]) : 0)]
                          [small_of((before + UNIT / 2) / UNIT)],
            &band->sizes[group],
        };
        further = x ? west : 0;
        west = code_integer(walk, decode, row->start + x, slots, mixers, level, is_some);
        if (!x)
            further = west;
    }
}

/* --- the walk ----------------------------------------------------------------------------- */

static int is_anything(const Walk *walk, const Extent *band, int64_t outer)
{
    const Layout *layout = &walk->layout;
    int64_t index[MOST_AXES + 1], width = band[layout->axes - 1].stop - band[layout->axes - 1].start;
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
        Row row = {.width = band[layout->axes - 1].stop - band[layout->axes - 1].start};
        for (int64_t outer = 0; rows && outer < layout->shape[0]; outer++) {
            if (!code_alive(walk, decode, number, outer))
                continue;
            int64_t index[MOST_AXES + 1] = {outer};
            first_row(layout, band, index);
            for (int64_t k = 0; k < rows; k++, next_row(layout, band, index)) {
                row.start = place_of(layout, band, outer, index);
                expect_from_north(walk, band, index, &row);
                expect_from_planes(walk, band, index, &row);
                expect_from_parents(walk, band, index, &row);
                code_row(walk, decode, &row, walk->band_models + number);
            }
        }
    }
}

static void end_walk(Walk *walk)
{
    if (walk->wide)
        free(walk->counted);
    free(walk->is_alive);
    free(walk->above);
    free(walk->model);
    free(walk->band_models);
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
    walk->is_alive = calloc((size_t)(bands * shape[0]) + 1, 1);
    size_t width = (size_t)shape[axes];
    walk->above = malloc((3 * width + 1) * sizeof(uint32_t));
    walk->model = malloc(sizeof(Model));
    walk->band_models = malloc(((size_t)bands + 1) * sizeof(BandModel));
    if (!walk->counted || !walk->is_alive || !walk->above || !walk->model || !walk->band_models) {
        end_walk(walk);
        return -1;
    }
    walk->before = walk->above + width;
    walk->parents = walk->before + width;
    *walk->model = first_model;
    for (int64_t number = 0; number < bands; number++)
        walk->band_models[number] = first_band_model;
    return 0;
}

/* Make the tables that all others need; once, before them. */
EXPORT void make_tables(void)
{
    make_mixing_tables();
    make_levels();
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
