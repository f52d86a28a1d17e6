/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/in_cksum.h"

#include <string.h>

uint64_t
csum_add(uint64_t sum, const void *data, size_t len, bool odd)
{
    const unsigned char *p = data;
    uint64_t part = 0;
    uint32_t w[4];

    for (; len >= sizeof(w); len -= sizeof(w), p += sizeof(w)) {
        memcpy(w, p, sizeof(w));
        part += (uint64_t)w[0] + w[1] + w[2] + w[3];
    }
    for (; len >= 2; len -= 2, p += 2) {
        uint16_t h;

        memcpy(&h, p, sizeof(h));
        part += h;
    }
    if (len) {
        uint16_t h = 0;

        memcpy(&h, p, 1);
        part += h;
    }
    if (odd) /* RFC 1071, 2(B): swapping the bytes swaps the sum */
        part = __builtin_bswap16(csum_fold(part));
    sum += part;
    return sum < part ? sum + 1 : sum;
}

uint16_t
csum_final(uint64_t sum)
{
    uint16_t v = (uint16_t)~csum_fold(sum);

    /* RFC 768: zero means "no sum"; in one's complement 0xffff is the same number */
    return v ? v : 0xffff;
}
