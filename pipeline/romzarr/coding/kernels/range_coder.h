/* A range coder of symbols and of bits, and plain bits beside it.
 *
 * What is foretold goes through the range coder to the front of a payload. Bits that nothing
 * foretells are packed from its end backwards: no length has to stand between the two.
 *
 * G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a digitised message",
 * Video and Data Recording Conference, Southampton, 1979. */
#ifndef ROMZARR_RANGE_CODER_H
#define ROMZARR_RANGE_CODER_H

#include "kernels.h"

/* Probabilities are multiples of 1 / WHOLE, and neither 0 nor 1. */
#define PROBABILITY_BITS 18
#define WHOLE (1 << PROBABILITY_BITS)

typedef struct {
    /* The interval of all messages that begin like this one is `range` wide, at least 2**31. An
     * encoder's `low` is where it begins: 32 bits below `bits` others, and above these a carry.
     * A decoder's is how far beyond that its message lies, in the upper half, and in the lower the
     * next `bits` of the message. */
    uint64_t low;
    uint32_t range;
    int bits;
    /* Plain bits that wait to be written or read, the lowest `plain_bits`. */
    int plain_bits;
    uint64_t plain;
    /* An encoder's parts grow towards one another; a decoder reads on from both ends. */
    uint8_t *begin, *front, *back, *end;
    int is_full;
} Coder;

static Coder encoder_into(uint8_t *buffer, int64_t capacity)
{
    uint8_t *end = buffer + capacity;
    return (Coder){.range = UINT32_MAX, .begin = buffer, .front = buffer, .back = end, .end = end};
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

INLINE void read_front(Coder *coder)
{
    uint64_t two = front_byte(coder) << 8;
    two |= front_byte(coder);
    coder->low |= two << (16 - coder->bits);
    coder->bits += 16;
}

static Coder decoder_of(uint8_t *payload, int64_t length)
{
    Coder coder = encoder_into(payload, length);
    coder.bits = -32;
    while (coder.bits < 16)
        read_front(&coder);
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

/* Add one to the number that the bytes up to `byte` are. */
static void carry(const uint8_t *begin, uint8_t *byte)
{
    while (byte > begin && !++*--byte)
        ;
}

INLINE void write_front(Coder *coder)
{
    uint32_t two = (uint32_t)(coder->low >> (coder->bits + 16));
    coder->bits -= 16;
    coder->low &= ((uint64_t)1 << (coder->bits + 32)) - 1;
    if (two >> 16)
        carry(coder->begin, coder->front);
    put_front(coder, two >> 8 & 255);
    put_front(coder, two & 255);
}

/* Go on with the part of the interval that begins at `start` and is `range` wide, 2**13 or more. */
INLINE void narrow(Coder *coder, const int decode, uint32_t start, uint32_t range)
{
    int shift = __builtin_clz(range);
    coder->range = range << shift;
    if (decode) {
        coder->low = (coder->low - ((uint64_t)start << 32)) << shift;
        coder->bits -= shift;
        if (coder->bits < 16)
            read_front(coder);
    } else {
        coder->low = (coder->low + start) << shift;
        coder->bits += shift;
        if (coder->bits >= 16)
            write_front(coder);
    }
}

/* Code one bit that is 1 with `probability`: an encoder is given it, a decoder finds it. */
INLINE int code_bit(Coder *coder, const int decode, int bit, uint32_t probability)
{
    uint32_t middle = (coder->range >> PROBABILITY_BITS) * probability;
    if (decode)
        bit = coder->low >> 32 < middle;
    narrow(coder, decode, bit ? 0 : middle, bit ? middle : coder->range - middle);
    return bit;
}

/* Code the lowest `count` bits of a number, at most 32 of them, as they are. */
INLINE uint64_t code_plain(Coder *coder, const int decode, uint64_t number, int count)
{
    const uint64_t mask = ((uint64_t)1 << count) - 1;
    if (decode) {
        if (coder->plain_bits < count) {
            for (int k = 0; k < 4; k++)
                coder->plain = coder->plain << 8 | back_byte(coder);
            coder->plain_bits += 32;
        }
        coder->plain_bits -= count;
        return coder->plain >> coder->plain_bits & mask;
    }
    coder->plain = coder->plain << count | (number & mask);
    coder->plain_bits += count;
    if (coder->plain_bits >= 32)
        for (int k = 0; k < 4; k++) {
            coder->plain_bits -= 8;
            put_back(coder, coder->plain >> coder->plain_bits & 255);
        }
    return number & mask;
}

/* End a message with the fewest bytes that decode alike whatever follows, and join its two parts
 * at the beginning of the buffer. Returns its length, or -1 if the buffer is too small. */
static int64_t finish(Coder *coder)
{
    int ahead = coder->bits + 32, left = ahead;
    uint64_t last = coder->low + coder->range - 1, number, unknown;
    for (;; left--) {
        unknown = ((uint64_t)1 << left) - 1;
        number = (coder->low + unknown) & ~unknown;
        if ((number | unknown) <= last)
            break;
    }
    if (number >> ahead)
        carry(coder->begin, coder->front);
    /* What is to be written, from the highest bit on. */
    number <<= 64 - ahead;
    for (; ahead > left; ahead -= 8, number <<= 8)
        put_front(coder, (uint32_t)(number >> 56));
    coder->plain <<= 32 - coder->plain_bits;
    for (int written = 0; written < coder->plain_bits; written += 8)
        put_back(coder, coder->plain >> (24 - written) & 255);
    if (coder->is_full)
        return -1;
    int64_t front = coder->front - coder->begin, back = coder->end - coder->back;
    memmove(coder->front, coder->back, (size_t)back);
    return front + back;
}

#endif
