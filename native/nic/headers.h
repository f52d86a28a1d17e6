/* SPDX-License-Identifier: BSD-2-Clause */
/* Finds the headers of a frame: Ethernet, VLAN tags, IPv4, IPv6 and its extensions, TCP, UDP. */
#ifndef NIC_HARNESS_NIC_HEADERS_H
#define NIC_HARNESS_NIC_HEADERS_H

#include <stdint.h>

/* Offsets from the start of the frame; 0: there is no such header, or the bytes given do not hold all of it. */
struct headers {
    uint32_t network;   /* IPv4 or IPv6, by @version */
    uint32_t transport; /* TCP or UDP, by @protocol; never in a fragment */
    uint32_t payload;   /* follows the transport header */
    uint8_t version;    /* 4 or 6 */
    uint8_t protocol;   /* IPPROTO_* after IPv6 extensions */
};

/* headers_parse() - parse the first @len bytes of a frame */
void headers_parse(const void *frame, uint32_t len, struct headers *out);

#endif
