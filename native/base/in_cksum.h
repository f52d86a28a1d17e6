/* SPDX-License-Identifier: BSD-2-Clause */
/* The Internet checksum (RFC 1071), computed piece by piece. */
#ifndef NIC_HARNESS_BASE_IN_CKSUM_H
#define NIC_HARNESS_BASE_IN_CKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* csum_add() - add @len bytes to a running sum; @odd: an odd number of bytes came before */
uint64_t csum_add(uint64_t sum, const void *data, size_t len, bool odd);
/* csum_fold() - fold a sum to 16 bits, in the byte order of the data */
static inline uint16_t
csum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* csum_final() - the sum for a TCP or UDP header: folded and inverted, never zero */
uint16_t csum_final(uint64_t sum);

#endif
