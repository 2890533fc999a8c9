/* Rounding of coefficients to multiples of a step, and back; `romzarr.coding.field` says why a
 * size is rounded down where that saves more bits than its error is worth. */
#include "kernels.h"

/* Sizes above are never worth a surprise: what they are rounded down for is next to nothing. */
#define MOST_REDUCED 64
/* Mean sizes around a coefficient are told apart in steps of 1 / FINENESS, up to MEANS steps. */
#define FINENESS 64
#define MEANS (64 * FINENESS)

/* Coefficients that are looked at together, and as many as doubtful ones are gone through after. */
#define TOGETHER 16
#define BLOCK 256
/* A little less than half a step, so that rounding leaves out none. */
#define NEARLY_HALF 0.499999

/* What rounding depends on: steps in one, and see `quantise`. */
typedef struct {
    double steps;
    const float *least;
    float worth;
} Rounding;

/* Where the neighbours of a row are along all axes but the last, two for each: at an end the only
 * one counts twice. */
typedef struct {
    int count;
    int64_t offsets[2 * MOST_AXES];
} Around;

static Around around_row(const Layout *layout, const Extent *band, const int64_t *index)
{
    Around around;
    around.count = 0;
    for (int k = 0; k < layout->axes; k++) {
        int64_t first = k ? band[k - 1].start : 0, end = k ? band[k - 1].stop : layout->shape[0];
        if (end - first < 2)
            continue;
        int64_t stride = layout->stride[k];
        around.offsets[around.count++] = index[k] > first ? -stride : stride;
        around.offsets[around.count++] = index[k] + 1 < end ? stride : -stride;
    }
    return around;
}

#define REAL float
#define NAME(function) function##_f32
#include "rounding.inc"
#undef REAL
#undef NAME
#define REAL double
#define NAME(function) function##_f64
#include "rounding.inc"
