/* Vectors of machines that not all machines of a kind have; each kernel chooses from them. */
#ifndef ROMZARR_VECTORS_H
#define ROMZARR_VECTORS_H

#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define WIDE __attribute__((target("avx2,f16c,popcnt")))
#define WIDEST __attribute__((target("avx512f,avx512vnni")))
#endif

/* 16 bytes; 32, with AVX2; 64, with sums of products of AVX-512. */
typedef enum { VECTORS_NARROW, VECTORS_WIDE, VECTORS_WIDEST } Vectors;

void choose_decoding(Vectors vectors);
void choose_products(Vectors vectors);

#endif
