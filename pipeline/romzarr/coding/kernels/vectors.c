/* Which vectors kernels use. All find the same bits. */
#include "vectors.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* What processor and operating system have: registers that the latter saves count alone. */
static Vectors widest_here(void)
{
    unsigned a, b, c, d, saved, more;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_F16C))
        return VECTORS_NARROW;
    __asm__("xgetbv" : "=a"(saved), "=d"(more) : "c"(0));
    if ((saved & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2))
        return VECTORS_NARROW;
    int has_widest = (saved & 0xe6) == 0xe6 && (b & bit_AVX512F) && (c & bit_AVX512VNNI);
    return has_widest ? VECTORS_WIDEST : VECTORS_WIDE;
}
#else
static Vectors widest_here(void)
{
    return VECTORS_NARROW;
}
#endif

/* Let kernels use vectors up to some width, where the machine has them. */
EXPORT void choose_vectors(Vectors most)
{
    Vectors widest = widest_here(), chosen = most < widest ? most : widest;
    choose_decoding(chosen);
    choose_products(chosen);
}
