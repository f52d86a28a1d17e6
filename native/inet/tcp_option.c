/* SPDX-License-Identifier: BSD-2-Clause */
/* TCP options: MSS (RFC 9293), window scale and timestamps (RFC 7323), SACK (RFC 2018, 2883). */
#include <string.h>

#include "inet/tcp_var.h"

bool
tcp_parse_options(const uint8_t *p, unsigned len, struct tcp_seg *seg)
{
    unsigned opt;

    seg->mss = 0;
    seg->wscale = 255;
    seg->has_ts = seg->sackok = false;
    seg->nsack = 0;
    /* The usual layout in segments of an established connection, RFC 7323 appendix A. */
    if (len == TCPO_TS_ALIGNED && get32(p) == 0x0101080a) {
        seg->has_ts = true;
        seg->tsval = get32(p + 4);
        seg->tsecr = get32(p + 8);
        return true;
    }
    for (; len; p += opt, len -= opt) {
        if (p[0] == TCPO_EOL)
            break;
        opt = 1;
        if (p[0] == TCPO_NOP)
            continue;
        if (len < 2 || p[1] < 2 || p[1] > len)
            return false;
        opt = p[1];
        switch (p[0]) {
        case TCPO_MSS:
            if (opt == 4 && (seg->flags & TF_SYN))
                seg->mss = get16(p + 2);
            break;
        case TCPO_WSCALE:
            if (opt == 3 && (seg->flags & TF_SYN))
                seg->wscale = p[2] > TCP_WSCALE_MAX ? TCP_WSCALE_MAX : p[2];
            break;
        case TCPO_SACKOK:
            if (opt == 2 && (seg->flags & TF_SYN))
                seg->sackok = true;
            break;
        case TCPO_TS:
            if (opt == 10) {
                seg->has_ts = true;
                seg->tsval = get32(p + 2);
                seg->tsecr = get32(p + 6);
            }
            break;
        case TCPO_SACK:
            if ((opt - 2) % 8)
                return false;
            for (unsigned i = 2; i < opt && seg->nsack < TCP_SACK_BLOCKS; i += 8) {
                seg->sack[seg->nsack].start = get32(p + i);
                seg->sack[seg->nsack++].end = get32(p + i + 4);
            }
            break;
        }
    }
    return true;
}

unsigned
tcp_syn_options(const struct tcp_conn *c, uint8_t *p)
{
    uint8_t *start = p;

    p[0] = TCPO_MSS;
    p[1] = 4;
    put16(p + 2,
          (uint16_t)(c->in->mtu - IP_HLEN - TCP_HLEN)); /* RFC 6691: options not subtracted */
    p += 4;
    if (c->ts_ok) {
        p[0] = c->sack_ok ? TCPO_SACKOK : TCPO_NOP;
        p[1] = c->sack_ok ? 2 : TCPO_NOP;
        p[2] = TCPO_TS;
        p[3] = 10;
        put32(p + 4, tcp_ts_now(c));
        put32(p + 8, c->ts_recent);
        p += 12;
    } else if (c->sack_ok) {
        p[0] = p[1] = TCPO_NOP;
        p[2] = TCPO_SACKOK;
        p[3] = 2;
        p += 4;
    }
    if (c->wscale_ok) {
        p[0] = TCPO_NOP;
        p[1] = TCPO_WSCALE;
        p[2] = 3;
        p[3] = c->rcv_wscale;
        p += 4;
    }
    return (unsigned)(p - start);
}

unsigned
tcp_sack_option(struct tcp_conn *c, uint8_t *p, unsigned room)
{
    unsigned max = room < 12 ? 0 : (room - 4) / 8, n = 0;
    uint32_t below = 0;
    uint8_t *q = p + 4;

    if (c->dsack_start != c->dsack_end) { /* RFC 2883: the first block, once */
        if (n < max) {
            put32(q, c->dsack_start);
            put32(q + 4, c->dsack_end);
            q += 8;
            n++;
        }
        c->dsack_start = c->dsack_end;
    }
    /* RFC 2018, 4: the most recently grown range comes first, so that every block is reported several times. */
    for (unsigned left = c->nranges; n < max && left; left--) {
        const struct tcp_range *best = NULL;

        for (unsigned i = 0; i < c->nranges; i++) {
            const struct tcp_range *r = &c->range[i];
            uint32_t age = c->range_stamp - r->stamp;

            if (age >= below && (!best || age < c->range_stamp - best->stamp))
                best = r;
        }
        if (!best)
            break;
        below = c->range_stamp - best->stamp + 1;
        put32(q, best->start);
        put32(q + 4, best->end);
        q += 8;
        n++;
    }
    if (!n)
        return 0;
    p[0] = p[1] = TCPO_NOP;
    p[2] = TCPO_SACK;
    p[3] = (uint8_t)(2 + 8 * n);
    return (unsigned)(q - p);
}
