/* What is expected of the integers of a row, from neighbours that are coded already.
 *
 * Large coefficients keep company: sizes to the left, in the row before, in planes before and of
 * the parents, at the same place one scale coarser, foretell the next. The expected size is their
 * weighted sum. Weights differ from archive to archive and from scale to scale, and are learnt: by
 * least squares from the rows coded last, where all count by how far they are off in proportion.
 *
 * C. Chrysafis, A. Ortega, "Efficient context-based entropy coding for lossy wavelet image
 * compression", Data Compression Conference, 1997 (weighted sums of sizes as contexts); J. M.
 * Shapiro, "Embedded image coding using zerotrees of wavelet coefficients", IEEE Trans. Signal
 * Process. 41 (1993) 3445-3462, Section III (parents); X. Li, M. T. Orchard, "Edge-directed
 * prediction for lossless compression of natural images", IEEE Trans. Image Process. 10 (2001)
 * 813-817 (least squares among what is coded already). */
#ifndef ROMZARR_NEIGHBOURS_H
#define ROMZARR_NEIGHBOURS_H

#include "kernels.h"

/* Mean sizes are in units of 1 / UNIT. */
#define UNIT 16
/* Sizes count up to here in what they foretell: sums of them stay within 32 bits. */
#define MOST_COUNTED (1 << 22)

/* The first three are sums over what was coded before the row, the last grows with it. */
enum { NORTH, BEFORE, PARENTS, SUMS, WEST = SUMS, FEATURES };

/* A row of a band, with what is known of its integers; arrays are as long as the longest, and
 * have zeros up to a multiple of four. */
typedef struct {
    int64_t start, width;
    int has[SUMS];
    uint32_t *sums[SUMS];
    Quad *features[FEATURES];
    /* What all features but WEST make expect. */
    Quad *expected;
    int32_t *sizes;
    uint8_t *groups;
} Row;

INLINE uint32_t size_of(int32_t integer)
{
    return (uint32_t)(integer < 0 ? -integer : integer);
}

/* --- sums --------------------------------------------------------------------------------- */

/* Add so many times the sizes left and right of each place of another row, which at an end has
 * itself for the missing one. */
static void add_sides(uint32_t *restrict sums, const int32_t *row, int64_t width, uint32_t times)
{
    int64_t last = width - 1;
    for (int64_t x = 1; x < last; x++)
        sums[x] += times * (size_of(row[x - 1]) + size_of(row[x + 1]));
    sums[0] += times * (size_of(row[0]) + size_of(row[last > 0]));
    if (last > 0)
        sums[last] += times * (size_of(row[last]) + size_of(row[last - 1]));
}

/* A feature is a multiple of its sum. Sums of sizes beyond those that count may be beyond int32
 * and foretell nothing, but are numbers. */
static void make_feature(Row *row, int feature, float scale)
{
    uint32_t *sums = row->sums[feature];
    memset(sums + row->width, 0, 3 * sizeof *sums);
    for (int64_t x = 0; x < row->width; x += 4) {
        IntQuad quad;
        memcpy(&quad, sums + x, sizeof quad);
        row->features[feature][x / 4] = scale * __builtin_convertvector(quad & INT32_MAX, Quad);
    }
}

/* Of the row before: eighths of the sizes around. */
static void expect_from_north(const int32_t *counted, const Layout *layout, const Extent *band,
                              const int64_t *index, Row *row)
{
    int64_t stride = layout->axes > 1 ? layout->stride[layout->axes - 1] : 0;
    int64_t ahead = stride ? index[layout->axes - 1] - band[layout->axes - 2].start : 0;
    uint32_t *restrict sums = row->sums[NORTH];
    row->has[NORTH] = ahead > 0;
    memset(sums, 0, (size_t)row->width * sizeof *sums);
    if (ahead) {
        const int32_t *north = counted + row->start - stride;
        const int32_t *further = ahead > 1 ? north - stride : north;
        for (int64_t x = 0; x < row->width; x++)
            sums[x] = 3 * size_of(north[x]) + size_of(further[x]);
        add_sides(sums, north, row->width, 2);
    }
    make_feature(row, NORTH, UNIT / 8.0f);
}

/* Of the planes before along all axes but the last two: the mean of twice the sizes at the same
 * place, in the last two of them, and of those around it, once. */
static void expect_from_planes(const int32_t *counted, const Layout *layout, const Extent *band,
                               const int64_t *index, Row *row)
{
    const int32_t *here = counted + row->start;
    uint32_t *restrict sums = row->sums[BEFORE];
    int64_t up = 0, down = 0;
    int planes = 0;
    if (layout->axes > 1) {
        const Extent *rows = band + layout->axes - 2;
        int64_t stride = layout->stride[layout->axes - 1], place = index[layout->axes - 1];
        up = place > rows->start ? -stride : 0;
        down = place + 1 < rows->stop ? stride : 0;
    }
    memset(sums, 0, (size_t)row->width * sizeof *sums);
    for (int k = 0; k < layout->axes - 1 || k == 0; k++) {
        int64_t first = k ? band[k - 1].start : 0;
        if (index[k] <= first)
            continue;
        const int32_t *plane = here - layout->stride[k];
        const int32_t *further = index[k] > first + 1 && k ? plane - layout->stride[k] : plane;
        for (int64_t x = 0; x < row->width; x++)
            sums[x] += 2 * (size_of(plane[x]) + size_of(further[x])) + size_of(plane[x + up]) +
                       size_of(plane[x + down]);
        add_sides(sums, plane, row->width, 1);
        planes++;
    }
    row->has[BEFORE] = planes > 0;
    make_feature(row, BEFORE, planes ? UNIT / 8.0f / (float)planes : 0);
}

/* Half the mean of the parents along all axes: details are smaller where data have kinks. */
static void expect_from_parents(const int32_t *counted, const Layout *layout, const Extent *band,
                                const int64_t *index, Row *row)
{
    uint32_t *restrict sums = row->sums[PARENTS];
    int count = 0;
    memset(sums, 0, (size_t)row->width * sizeof *sums);
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
            const int32_t *above = counted + row->start + (place - index[k]) * layout->stride[k];
            for (int64_t x = 0; x < row->width; x++)
                sums[x] += size_of(above[x]);
        } else {
            const int32_t *above = counted + row->start - length;
            int64_t pairs = row->width / 2 < length ? row->width / 2 : length;
            for (int64_t x = 0; x < pairs; x++) {
                sums[2 * x] += size_of(above[x]);
                sums[2 * x + 1] += size_of(above[x]);
            }
            for (int64_t x = 2 * pairs; x < row->width; x++)
                sums[x] += size_of(above[x / 2 < length ? x / 2 : length - 1]);
        }
    }
    row->has[PARENTS] = count > 0;
    make_feature(row, PARENTS, count ? UNIT / 2.0f / (float)count : 0);
}

/* --- weights ------------------------------------------------------------------------------ */

/* Rows are of one kind if they have the same features. */
#define KINDS 8
INLINE int kind_of(const Row *row)
{
    return 4 * row->has[NORTH] + 2 * row->has[BEFORE] + row->has[PARENTS];
}

/* The weights of a kind, and the normal equations that they follow from. */
typedef struct {
    float weights[FEATURES];
    Quad products[FEATURES][FEATURES], targets[FEATURES];
    /* Integers that count in these, and those since the weights were found. */
    int64_t seen, since;
} Fit;
static Fit first_fits[KINDS];

/* Squared proportions by which the first weights have to be wrong before they are left. */
#define TRUST 20
/* Weights are found anew after so many integers, and half of what was seen fades after so many:
 * bands differ. */
#define OFTEN 128
#define FADE 1500
/* A size that is expected to be 0 is off by this, in units: most are noise. */
#define NOISE UNIT
/* No weight is larger. */
#define MOST_WEIGHT 4

static void make_first_fits(void)
{
    for (int kind = 0; kind < KINDS; kind++) {
        float *weights = first_fits[kind].weights, left = 1;
        left -= weights[PARENTS] = kind & 1 ? 1 / 8.0f : 0;
        left -= weights[BEFORE] = kind & 2 ? 3 / 8.0f * left : 0;
        left -= weights[NORTH] = kind & 4 ? left / 2 : 0;
        weights[WEST] = left;
    }
}

INLINE double total(Quad quad)
{
    return (double)((quad[0] + quad[1]) + (quad[2] + quad[3]));
}

/* Solve the normal equations, with the first weights for what they leave open, by elimination. */
static void solve(Fit *fit, const float *first)
{
    double rows[FEATURES][FEATURES + 1];
    for (int i = 0; i < FEATURES; i++) {
        for (int j = 0; j < FEATURES; j++)
            rows[i][j] = total(fit->products[i < j ? i : j][i < j ? j : i]) + (i == j ? TRUST : 0);
        rows[i][FEATURES] = total(fit->targets[i]) + TRUST * (double)first[i];
    }
    for (int i = 0; i < FEATURES; i++)
        for (int below = i + 1; below < FEATURES; below++) {
            double ratio = rows[below][i] / rows[i][i];
            for (int j = i; j <= FEATURES; j++)
                rows[below][j] -= ratio * rows[i][j];
        }
    for (int i = FEATURES - 1; i >= 0; i--) {
        double weight = rows[i][FEATURES];
        for (int j = i + 1; j < FEATURES; j++)
            weight -= rows[i][j] * (double)fit->weights[j];
        weight /= rows[i][i];
        /* Not a number is not above zero. */
        fit->weights[i] = weight > 0 ? weight < MOST_WEIGHT ? (float)weight : MOST_WEIGHT : 0;
    }
}

/* Learn from a row that is coded. */
static void learn_row(Fit *fit, const Row *row)
{
    Quad products[FEATURES][FEATURES], targets[FEATURES];
    const float *weights = fit->weights;
    memcpy(products, fit->products, sizeof products);
    memcpy(targets, fit->targets, sizeof targets);
    for (int64_t x = 0; x < row->width; x += 4) {
        IntQuad sizes;
        Quad features[FEATURES], off = {NOISE, NOISE, NOISE, NOISE};
        memcpy(&sizes, row->sizes + x, sizeof sizes);
        Quad found = __builtin_convertvector(UNIT * sizes, Quad);
        for (int i = 0; i < FEATURES; i++) {
            features[i] = row->features[i][x / 4];
            off += features[i] * weights[i];
        }
        Quad counts = 1.0f / (off * off);
        for (int i = 0; i < FEATURES; i++) {
            Quad counted = counts * features[i];
            for (int j = i; j < FEATURES; j++)
                products[i][j] += counted * features[j];
            targets[i] += counted * found;
        }
    }
    memcpy(fit->products, products, sizeof products);
    memcpy(fit->targets, targets, sizeof targets);
    fit->seen += row->width;
    fit->since += row->width;
    if (fit->since < OFTEN)
        return;
    solve(fit, first_fits[kind_of(row)].weights);
    fit->since = 0;
    if (fit->seen < FADE)
        return;
    fit->seen /= 2;
    for (int i = 0; i < FEATURES; i++) {
        for (int j = i; j < FEATURES; j++)
            fit->products[i][j] *= 0.5f;
        fit->targets[i] *= 0.5f;
    }
}

#endif
