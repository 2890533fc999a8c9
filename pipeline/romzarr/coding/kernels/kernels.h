/* What the kernels of romzarr share: how they are exported, and the bands of a transformed array.
 *
 * All of them are compiled without contraction or reordering of floating-point operations, and use
 * no function of a mathematics library, so that every machine finds the same bits. */
#ifndef ROMZARR_KERNELS_H
#define ROMZARR_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
/* Functions of which one side is for the encoder and one for the decoder, told apart by a constant
 * argument, are compiled twice. */
#define INLINE static inline __attribute__((always_inline))

/* Four numbers at a time: vectors of GCC and Clang, whose operations are those of the numbers one
 * by one. Arrays of them need no more alignment than these. */
typedef float Quad __attribute__((vector_size(16), aligned(4)));
typedef int32_t IntQuad __attribute__((vector_size(16), aligned(4)));

/* Axis 0 holds what is not transformed; 1, ..., `axes` are the others. */
#define MOST_AXES 32

typedef struct {
    int axes;
    int64_t count, shape[MOST_AXES + 1], stride[MOST_AXES + 1];
} Layout;

/* One axis of a band: where it lies, and where the next coarser band along this axis begins and
 * which number it has; -1 where there is none. */
typedef struct {
    int64_t start, stop, parent_start, parent;
} Extent;

INLINE Layout layout_of(int axes, const int64_t *shape)
{
    Layout layout = {axes, 1, {0}, {0}};
    for (int k = axes; k >= 0; k--) {
        layout.shape[k] = shape[k];
        layout.stride[k] = layout.count;
        layout.count *= shape[k];
    }
    return layout;
}

/* Rows of a band: all places along the axes 1, ..., axes - 1. */
INLINE int64_t rows_of(const Layout *layout, const Extent *band)
{
    int64_t rows = band[layout->axes - 1].stop > band[layout->axes - 1].start;
    for (int k = 1; k < layout->axes; k++)
        rows *= band[k - 1].stop - band[k - 1].start;
    return rows;
}

/* Index of the first row of a band; `next_row` goes on to the others. */
INLINE void first_row(const Layout *layout, const Extent *band, int64_t *index)
{
    for (int k = 1; k < layout->axes; k++)
        index[k] = band[k - 1].start;
}

INLINE void next_row(const Layout *layout, const Extent *band, int64_t *index)
{
    for (int k = layout->axes - 1; k >= 1; k--) {
        if (++index[k] < band[k - 1].stop)
            return;
        index[k] = band[k - 1].start;
    }
}

/* Place in the flat array at which a row begins. */
INLINE int64_t place_of(const Layout *layout, const Extent *band, int64_t outer,
                        const int64_t *index)
{
    int64_t place = outer * layout->stride[0] + band[layout->axes - 1].start;
    for (int k = 1; k < layout->axes; k++)
        place += index[k] * layout->stride[k];
    return place;
}

#endif
