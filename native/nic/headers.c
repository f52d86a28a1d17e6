/* SPDX-License-Identifier: BSD-2-Clause */
#include "nic/headers.h"

#include <netinet/in.h>
#include <string.h>

#define ETHER_HDR_LEN 14u
#define VLAN_TAG_LEN 4u
#define VLAN_TAGS 2 /* 802.1ad: a service tag and a customer tag */

static unsigned
be16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

/* transport() - parse a TCP or UDP header at @off, if there is one */
static void
transport(const uint8_t *f, uint32_t len, uint32_t off, struct headers *h)
{
    uint32_t size;

    if (h->protocol == IPPROTO_UDP) {
        size = 8;
    } else if (h->protocol == IPPROTO_TCP && off + 20 <= len) {
        size = 4u * (f[off + 12] >> 4);
        if (size < 20)
            return;
    } else {
        return;
    }
    if (off + size <= len) {
        h->transport = off;
        h->payload = off + size;
    }
}

static void
ipv4(const uint8_t *f, uint32_t len, uint32_t off, struct headers *h)
{
    if (off + 20 > len || f[off] >> 4 != 4)
        return;
    uint32_t size = 4u * (f[off] & 15);

    if (size < 20 || off + size > len)
        return;
    h->version = 4;
    h->network = off;
    h->protocol = f[off + 9];
    if ((be16(f + off + 6) & 0x3fff) == 0) /* RFC 791: no more fragments, and the first */
        transport(f, len, off + size, h);
}

static void
ipv6(const uint8_t *f, uint32_t len, uint32_t off, struct headers *h)
{
    if (off + 40 > len || f[off] >> 4 != 6)
        return;
    h->version = 6;
    h->network = off;
    h->protocol = f[off + 6];
    off += 40;
    /* RFC 8200, section 4: each gives the next header's type, and its own length in units of 8 bytes. */
    while (h->protocol == IPPROTO_HOPOPTS || h->protocol == IPPROTO_ROUTING ||
           h->protocol == IPPROTO_DSTOPTS) {
        if (off + 8 > len)
            return;
        h->protocol = f[off];
        off += 8u * (f[off + 1] + 1u);
    }
    transport(f, len, off, h);
}

void
headers_parse(const void *frame, uint32_t len, struct headers *out)
{
    const uint8_t *f = frame;
    uint32_t off = ETHER_HDR_LEN - 2;

    memset(out, 0, sizeof(*out));
    if (len < ETHER_HDR_LEN)
        return;
    for (int tag = 0; tag < VLAN_TAGS; tag++) {
        unsigned type = be16(f + off);

        if ((type != 0x8100 && type != 0x88a8) || off + VLAN_TAG_LEN + 2 > len)
            break;
        off += VLAN_TAG_LEN;
    }
    unsigned type = be16(f + off);

    off += 2;
    if (type == 0x0800)
        ipv4(f, len, off, out);
    else if (type == 0x86dd)
        ipv6(f, len, off, out);
}
