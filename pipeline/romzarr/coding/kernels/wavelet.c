/* CDF 9/7 by lifting, along one axis of an array; `romzarr.coding.wavelet` says what it means.
 *
 * Columns are gathered into rows of WIDTH values, which together fit a fast cache, and go through
 * all levels there: each axis costs one pass through memory. */
#include "kernels.h"

static const double LIFTING[4] = {-1.586134342059924, -0.052980118572961, 0.882911075530934,
                                  0.443506852043971};
/* sqrt(2) / 1.230174104914001 makes the wavelets of unit norm to a few per cent, so that all
 * coefficients weigh alike. */
#define SCALE (1.4142135623730951 / 1.230174104914001)
#define WIDTH 32
/* Levels of the longest axis there is. */
#define MOST_LEVELS 64

#define REAL float
#define NAME(function) function##_f32
#include "lifting.inc"
#undef REAL
#undef NAME
#define REAL double
#define NAME(function) function##_f64
#include "lifting.inc"

/* Transform array[before][length][after] along its middle axis, or undo it; not 0 if there is no
 * memory. */
EXPORT int wavelet_f32(float *array, int64_t before, int64_t length, int64_t after, int levels,
                       int inverse)
{
    return transform_f32(array, before, length, after, levels, inverse);
}

EXPORT int wavelet_f64(double *array, int64_t before, int64_t length, int64_t after, int levels,
                       int inverse)
{
    return transform_f64(array, before, length, after, levels, inverse);
}
