/* A binary range coder, and plain bits beside it.
 *
 * Bits that are foretold go through the range coder to the front of a payload. Those that nothing
 * foretells are packed from its end backwards: no length has to stand between the two.
 *
 * G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a digitised message",
 * Video and Data Recording Conference, Southampton, 1979. */
#ifndef ROMZARR_RANGE_CODER_H
#define ROMZARR_RANGE_CODER_H

#include "kernels.h"

/* Probabilities are multiples of 1 / 65536, and neither 0 nor 1. */
#define PROBABILITY_BITS 16
#define HALF (1u << (PROBABILITY_BITS - 1))

typedef struct {
    /* The interval that all messages which begin like this one share; of a decoder also where in
     * it the message lies. */
    uint32_t low, high, code;
    /* Plain bits of a byte that is not complete, and how many. */
    uint32_t plain, plain_bits;
    /* An encoder's parts grow towards one another; a decoder reads on from both ends. */
    uint8_t *begin, *front, *back, *end;
    int is_full;
} Coder;

static Coder encoder_into(uint8_t *buffer, int64_t capacity)
{
    uint8_t *end = buffer + capacity;
    return (Coder){0, UINT32_MAX, 0, 0, 0, buffer, buffer, end, end, 0};
}

/* Beyond the ends of a payload, where only a damaged one leads, are zeros. */
INLINE uint32_t front_byte(Coder *coder)
{
    return coder->front < coder->end ? *coder->front++ : 0;
}

INLINE uint32_t back_byte(Coder *coder)
{
    return coder->back > coder->begin ? *--coder->back : 0;
}

static Coder decoder_of(uint8_t *payload, int64_t length)
{
    uint8_t *end = payload + length;
    Coder coder = {0, UINT32_MAX, 0, 0, 0, payload, payload, end, end, 0};
    for (int k = 0; k < 4; k++)
        coder.code = coder.code << 8 | front_byte(&coder);
    return coder;
}

INLINE void put_front(Coder *coder, uint32_t byte)
{
    if (coder->front < coder->back)
        *coder->front++ = (uint8_t)byte;
    else
        coder->is_full = 1;
}

INLINE void put_back(Coder *coder, uint32_t byte)
{
    if (coder->front < coder->back)
        *--coder->back = (uint8_t)byte;
    else
        coder->is_full = 1;
}

/* Code one bit that is 1 with `probability`: an encoder is given it, a decoder finds it. */
INLINE int code_bit(Coder *coder, const int decode, int bit, uint32_t probability)
{
    uint64_t range = coder->high - coder->low;
    uint32_t middle = coder->low + (uint32_t)(range * probability >> PROBABILITY_BITS);
    if (decode)
        bit = coder->code <= middle;
    if (bit)
        coder->high = middle;
    else
        coder->low = middle + 1;
    while ((coder->low ^ coder->high) < 1u << 24) {
        if (decode)
            coder->code = coder->code << 8 | front_byte(coder);
        else
            put_front(coder, coder->high >> 24);
        coder->low <<= 8;
        coder->high = coder->high << 8 | 255;
    }
    return bit;
}

/* Code the lowest `count` bits of a number, at most 56 of them, as they are. */
INLINE uint64_t code_plain(Coder *coder, const int decode, uint64_t number, uint32_t count)
{
    uint64_t found = 0;
    while (count) {
        if (decode && !coder->plain_bits) {
            coder->plain = back_byte(coder);
            coder->plain_bits = 8;
        }
        uint32_t room = decode ? coder->plain_bits : 8 - coder->plain_bits;
        uint32_t some = count < room ? count : room, mask = (1u << some) - 1;
        count -= some;
        if (decode) {
            coder->plain_bits -= some;
            found = found << some | (coder->plain >> coder->plain_bits & mask);
            continue;
        }
        coder->plain = coder->plain << some | ((uint32_t)(number >> count) & mask);
        coder->plain_bits += some;
        if (coder->plain_bits == 8) {
            put_back(coder, coder->plain);
            coder->plain = coder->plain_bits = 0;
        }
    }
    return decode ? found : number;
}

/* End a message with the fewest bytes that decode alike whatever follows, and join its two parts
 * at the beginning of the buffer. Returns its length, or -1 if the buffer is too small. */
static int64_t finish(Coder *coder)
{
    for (int left = 24; left >= 0; left -= 8) {
        uint64_t unknown = ((uint64_t)1 << left) - 1;
        uint64_t number = (coder->low + unknown) & ~unknown;
        if ((number | unknown) <= coder->high) {
            for (int shift = 24; shift >= left; shift -= 8)
                put_front(coder, (uint32_t)(number >> shift));
            break;
        }
    }
    if (coder->plain_bits)
        put_back(coder, coder->plain << (8 - coder->plain_bits));
    if (coder->is_full)
        return -1;
    int64_t front = coder->front - coder->begin, back = coder->end - coder->back;
    memmove(coder->front, coder->back, (size_t)back);
    return front + back;
}

#endif
