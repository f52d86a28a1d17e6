/* SPDX-License-Identifier: BSD-2-Clause */
#include "nic/gso.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "base/byteorder.h"
#include "device/device.h"
#include "mbuf/mbuf_zone.h"
#include "nic/csum.h"
#include "nic/headers.h"

/* Longest headers to cut off: they and the device's header must fit into an mbuf. */
#define HEADERS_MAX ((uint32_t)MHLEN - (uint32_t)sizeof(struct net_hdr))

#define TCP_FIN_PSH 0x09 /* on the last frame only */
#define TCP_CWR 0x80     /* RFC 3168, 6.1.2: on the first only */

/* What all frames of a super-frame share. */
struct cut {
    struct mbuf *m;
    struct headers h;
    uint8_t headers[HEADERS_MAX];
    uint32_t payload; /* bytes */
    uint32_t size;    /* payload of each frame but the last */
};

/* look() - find and check the headers; 0 or -errno */
static int
look(struct cut *c)
{
    const struct pkthdr *p = &c->m->m_pkthdr;
    uint32_t len = (uint32_t)p->len < HEADERS_MAX ? (uint32_t)p->len : HEADERS_MAX;
    int err = csum_guarded_copy(c->m, 0, len, (caddr_t)c->headers);

    if (err)
        return err;
    headers_parse(c->headers, len, &c->h);
    uint32_t version = p->csum_flags & CSUM_TSO6 ? 6 : p->csum_flags & CSUM_TSO4 ? 4 : c->h.version;
    uint32_t protocol = p->csum_flags & CSUM_TSO ? IPPROTO_TCP : IPPROTO_UDP;

    if (c->h.payload == 0 || c->h.version != version || c->h.protocol != protocol)
        return -EINVAL;
    c->payload = (uint32_t)p->len - c->h.payload;
    c->size = p->tso_segsz;
    return 0;
}

/* fix_network() - set lengths, identification and checksum of frame @i; returns the sum of its pseudo header */
static uint16_t
fix_network(const struct cut *c, uint8_t *f, uint32_t i, uint32_t part)
{
    uint8_t *ip = f + c->h.network;
    uint32_t transport_len = c->h.payload - c->h.transport + part;
    uint8_t tail[4] = {0, c->h.protocol};
    uint64_t sum;

    if (c->h.version == 4) {
        put16(ip + 2, (uint16_t)(c->h.transport - c->h.network + transport_len));
        put16(ip + 4, (uint16_t)(get16(ip + 4) + i));
        put16(ip + 10, 0);
        uint16_t check =
            (uint16_t)~csum_fold(csum_add(0, ip, c->h.transport - c->h.network, false));

        memcpy(ip + 10, &check, sizeof(check));
        sum = csum_add(0, ip + 12, 8, false);
    } else {
        put16(ip + 4, (uint16_t)(c->h.transport - c->h.network - 40 + transport_len));
        sum = csum_add(0, ip + 8, 32, false);
    }
    put16(tail + 2, (uint16_t)transport_len);
    return csum_fold(csum_add(sum, tail, sizeof(tail), false));
}

/*
 * fix_transport() - set sequence number, flags, length and checksum of frame @i, which begins @off
 * bytes into the payload
 */
static uint32_t
fix_transport(const struct cut *c, uint8_t *f, uint32_t off, uint32_t part, uint16_t pseudo)
{
    uint8_t *t = f + c->h.transport;
    uint32_t field = 6;

    if (c->h.protocol == IPPROTO_TCP) {
        uint32_t seq = get32(t + 4);

        seq += off;
        put32(t + 4, seq);
        if (off + part < c->payload)
            t[13] &= (uint8_t)~TCP_FIN_PSH;
        if (off > 0)
            t[13] &= (uint8_t)~TCP_CWR;
        field = 16;
    } else {
        put16(t + 4, (uint16_t)(8 + part));
    }
    memcpy(t + field, &pseudo, sizeof(pseudo));
    return field;
}

/* frame() - make frame @i, with @part bytes of payload from @off on; NULL if out of mbufs */
static struct mbuf *
frame(const struct cut *c, uint32_t i, uint32_t off, uint32_t part)
{
    struct mbuf *m = mb_gethdr(c->m->m_zone);

    if (m == NULL)
        return NULL;
    m->m_data += sizeof(struct net_hdr); /* room for the device's header */
    memcpy(m->m_data, c->headers, c->h.payload);
    arena_count_copy(m->m_zone->arena, c->h.payload);
    m->m_len = (int32_t)c->h.payload;
    m->m_pkthdr = c->m->m_pkthdr;
    m->m_pkthdr.len = (int32_t)(c->h.payload + part);
    uint8_t *f = (uint8_t *)m->m_data;
    uint16_t pseudo = fix_network(c, f, i, part);

    m->m_pkthdr.csum_data = (uint16_t)fix_transport(c, f, off, part, pseudo);
    m->m_pkthdr.csum_start = (uint16_t)c->h.transport;
    m->m_pkthdr.csum_flags = CSUM_PARTIAL;
    m->m_pkthdr.tso_segsz = m->m_pkthdr.hdr_len = 0;
    if (part == 0)
        return m;
    m->m_next = m_copym(c->m, (int)(c->h.payload + off), (int)part, M_NOWAIT);
    if (m->m_next == NULL) {
        m_free(m);
        return NULL;
    }
    return m;
}

int
gso_cut(struct mbuf *m, struct mbuf **out)
{
    struct cut c = {.m = m};
    struct mbuf **tail = out;
    uint32_t off = 0;
    int n = look(&c);

    *out = NULL;
    if (n < 0)
        return n;
    do {
        uint32_t part = c.payload - off < c.size ? c.payload - off : c.size;

        *tail = frame(&c, (uint32_t)n, off, part);
        if (*tail == NULL) {
            gso_free(*out);
            *out = NULL;
            return -ENOMEM;
        }
        tail = &(*tail)->m_nextpkt;
        off += part;
        n++;
    } while (off < c.payload);
    return n;
}

void
gso_free(struct mbuf *list)
{
    while (list) {
        struct mbuf *next = list->m_nextpkt;

        m_freem(list);
        list = next;
    }
}
