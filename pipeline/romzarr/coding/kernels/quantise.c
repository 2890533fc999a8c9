/* Rounding of coefficients to multiples of a step, and back; `romzarr.coding.field` says why a
 * size is rounded down where that saves more bits than its error is worth. */
#include "kernels.h"

/* Sizes above are never worth a surprise: what they are rounded down for is next to nothing. */
#define MOST_REDUCED 64
/* Mean sizes around a coefficient are told apart in steps of 1 / FINENESS, up to MEANS steps. */
#define FINENESS 64
#define MEANS (64 * FINENESS)

/* Coefficients that are looked at together. */
#define TOGETHER 16

#define REAL float
#define NAME(function) function##_f32
#include "rounding.inc"
#undef REAL
#undef NAME
#define REAL double
#define NAME(function) function##_f64
#include "rounding.inc"
