/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Passive opens: half-open connections, and SYN cookies if there are too many of them.
 *
 * A SYN makes a connection that the stack owns until it is accepted. While TCP_HALF_OPEN_MAX of
 * them are in the handshake, a SYN leaves no state, RFC 4987 3.6: the initial sequence number of
 * the answer is a cookie, and the acknowledgement that returns it creates the connection.
 *
 *     | period, 5 bits | size, 3 bits | keyed hash of names, the peer's number and the period, 24 bits |
 *
 * A SYN's other options go into the echoed timestamp: its low five bits hold the window scale and
 * whether SACK was offered. Without timestamps, neither is used.
 */
#include <string.h>

#include "inet/tcp_var.h"

#define COOKIE_PERIOD (64 * NS_PER_S) /* a cookie is valid in its own period and the next */
#define COOKIE_WINDOW 8192u           /* promised by every cookie, as it is not stored */
#define COOKIE_HASH 0xffffffu
#define COOKIE_TS 31u /* bits of the timestamp */
#define COOKIE_SACK 16u
#define COOKIE_NOSCALE 15u

/* Segment sizes that a cookie can encode; the peer's size is rounded down to one of them. */
static const uint16_t sizes[8] = {TCP_MSS_MIN, TCP_MSS_DEFAULT, 1220, 1360, 1440, 1460, 8960,
                                  65495};

static uint32_t
period(const struct inet *in)
{
    return (uint32_t)(in->now / COOKIE_PERIOD) & 31;
}

static uint32_t
cookie_hash(const struct inet *in, uint32_t src, uint16_t sport, uint16_t port, uint32_t irs,
            uint32_t when)
{
    uint64_t h = inet_hash(in, src, sport, port, irs);

    return (uint32_t)inet_hash(in, (uint32_t)h, (uint16_t)(h >> 32), (uint16_t)(h >> 48),
                               0xc0000000 | when) &
           COOKIE_HASH;
}

/* send_cookie() - send a SYN and ACK without creating a connection */
static void
send_cookie(struct tcp_conn *l, uint32_t src, uint16_t sport, const struct tcp_seg *seg)
{
    struct inet *in = l->in;
    uint32_t when = period(in), wanted = seg->mss ? seg->mss : TCP_MSS_DEFAULT, size = 0;
    struct tcp_conn like = {.in = in, .ts_ok = seg->has_ts, .ts_recent = seg->tsval};
    struct mbuf *m = mb_gethdr(in->zone);
    uint8_t *p, *tcp;
    unsigned len;

    if (!m)
        return;
    while (size + 1 < sizeof(sizes) / sizeof(sizes[0]) && sizes[size + 1] <= wanted)
        size++;
    if (like.ts_ok) {
        uint32_t now, told;

        like.sack_ok = seg->sackok;
        like.wscale_ok = seg->wscale != 255;
        like.rcv_wscale = l->rcv_wscale;
        like.ts_offset = tcp_ts_offset(in, src);
        now = tcp_ts_now(&like);
        told = (now & ~COOKIE_TS) | (like.sack_ok ? COOKIE_SACK : 0) |
               (like.wscale_ok ? seg->wscale : COOKIE_NOSCALE);
        if (SEQ_GT(told, now)) /* it may not be ahead of later ones */
            told -= COOKIE_TS + 1;
        like.ts_offset += told - now;
    }
    m_align(m, FRAME_HDR_MAX);
    p = mtod(m, uint8_t *);
    tcp = p + ETH_HLEN + IP_HLEN;
    len = TCP_HLEN + tcp_syn_options(&like, tcp + TCP_HLEN);
    ip_header(in, p, src, IPPROTO_TCP, IP_HLEN + len);
    memset(tcp, 0, TCP_HLEN);
    put16(tcp + TCPH_SPORT, l->local_port);
    put16(tcp + TCPH_DPORT, sport);
    put32(tcp + TCPH_SEQ,
          when << 27 | size << 24 | cookie_hash(in, src, sport, l->local_port, seg->seq, when));
    put32(tcp + TCPH_ACK, seg->seq + 1);
    tcp[TCPH_OFF] = (uint8_t)(len << 2);
    tcp[TCPH_FLAGS] = TF_SYN | TF_ACK;
    put16(tcp + TCPH_WIN, (uint16_t)u32_min(in->rcvbuf, COOKIE_WINDOW));
    put16(tcp + TCPH_CSUM, csum_fold(csum_pseudo(in->addr, src, IPPROTO_TCP, len)));
    m->m_len = (int32_t)(ETH_HLEN + IP_HLEN + len);
    tcp_fill_pkthdr(m, (uint32_t)m->m_len);
    in->stats.tx_tcp++;
    in->stats.cookies_sent++;
    in->cookie_until = in->now + 2 * COOKIE_PERIOD;
    ip_output(in, src, m);
}

/* half_open() - create a connection in SYN_RECEIVED; NULL if the table is full or memory is out */
static struct tcp_conn *
half_open(struct tcp_conn *l, uint32_t src, uint16_t sport, const struct tcp_seg *syn)
{
    struct tcp_conn *c = tcp_new(l->in, src, sport, l->local_port);

    if (!c)
        return NULL;
    c->listener = l;
    tcp_set_state(c, TCPS_SYN_RECEIVED);
    tcp_take_options(c, syn);
    c->rcv_adv = c->rcv_nxt;
    tcp_arm_rexmt(c);
    return c;
}

/* cookie_open() - create the connection for an acknowledgement with a valid cookie; NULL if it has none */
static struct tcp_conn *
cookie_open(struct tcp_conn *l, uint32_t src, uint16_t sport, const struct tcp_seg *seg)
{
    struct inet *in = l->in;
    uint32_t cookie = seg->ack - 1, when = cookie >> 27;
    struct tcp_seg syn = {
        .seq = seg->seq - 1, .wnd = seg->wnd, .mss = sizes[cookie >> 24 & 7], .wscale = 255};
    struct tcp_conn *c;

    if (((period(in) - when) & 31) > 1 ||
        cookie_hash(in, src, sport, l->local_port, syn.seq, when) != (cookie & COOKIE_HASH))
        return NULL;
    if (seg->has_ts) {
        uint32_t told = seg->tsecr & COOKIE_TS, scale = told & COOKIE_NOSCALE;

        syn.has_ts = true;
        syn.tsval = seg->tsval;
        syn.sackok = told & COOKIE_SACK;
        syn.wscale = scale == COOKIE_NOSCALE ? 255 : (uint8_t)scale;
    }
    c = half_open(l, src, sport, &syn);
    if (!c)
        return NULL;
    in->stats.cookies_taken++;
    c->iss = cookie;
    c->snd_una = c->recover = c->iss;
    c->snd_nxt = c->snd_head_seq = c->snd_end_seq = c->iss + 1;
    tcp_sb_reset(c);
    c->rcv_adv = c->rcv_nxt + u32_min(in->rcvbuf, COOKIE_WINDOW);
    return c;
}

struct tcp_conn *
tcp_listen_input(struct tcp_conn *l, uint32_t src, uint16_t sport, const struct tcp_seg *seg)
{
    struct inet *in = l->in;
    struct tcp_conn *c;
    bool full = l->naccept >= l->backlog;

    if (seg->flags & TF_RST)
        return NULL;
    if (seg->flags & TF_ACK) {
        c = NULL;
        if (!(seg->flags & TF_SYN) && in->now < in->cookie_until && ip_nexthop(in, src)) {
            if (full) { /* as for a SYN, whatever the segment carries */
                in->stats.backlog_full++;
                return NULL;
            }
            c = cookie_open(l, src, sport, seg);
        }
        if (!c)
            tcp_reset_for(in, src, l->local_port, sport, seg);
        return c;
    }
    if (!(seg->flags & TF_SYN) || (seg->flags & TF_FIN) || !ip_nexthop(in, src))
        return NULL;
    if (full) { /* the peer will try again */
        in->stats.backlog_full++;
        return NULL;
    }
    if (in->class[TC_HALF_OPEN].n >= TCP_HALF_OPEN_MAX) {
        send_cookie(l, src, sport, seg);
        return NULL;
    }
    c = half_open(l, src, sport, seg);
    if (c)
        tcp_want_output(c);
    return NULL;
}
