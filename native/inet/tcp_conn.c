/* SPDX-License-Identifier: BSD-2-Clause */
/* The connection table, opening and closing, and the user's calls. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/guard.h"
#include "inet/tcp_var.h"

#define PORT_FIRST 49152u /* RFC 6335: the dynamic ports */
#define PORT_COUNT 16384u
#define SNDBUF_MANY 64u /* with more mbufs in a send buffer, small sends share one */

/* bucket() - keyed, so that a peer cannot choose colliding addresses and ports (multiply-shift hashing) */
static struct tcp_list *
bucket(struct inet *in, uint32_t peer, uint16_t peer_port, uint16_t local_port)
{
    uint64_t ports = (uint64_t)peer_port << 16 | local_port;
    uint64_t h = (in->secret[0] | 1) * peer + (in->secret[1] | 1) * ports;

    return &in->hash[h >> (64 - TCP_HASH_BITS)];
}

struct tcp_conn *
tcp_find(struct inet *in, uint32_t peer, uint16_t peer_port, uint16_t local_port)
{
    struct tcp_conn *c;

    TAILQ_FOREACH(c, bucket(in, peer, peer_port, local_port), hash_link)
    if (c->peer == peer && c->peer_port == peer_port && c->local_port == local_port)
        return c;
    return NULL;
}

/* wscale() - the smallest scale that can express the whole receive buffer */
static uint8_t
wscale(const struct inet *in)
{
    uint8_t shift = 0;

    while (65535u << shift < in->rcvbuf)
        shift++;
    return shift;
}

struct tcp_conn *
tcp_new(struct inet *in, uint32_t peer, uint16_t peer_port, uint16_t local_port)
{
    struct tcp_conn *c = in->nconns < in->max_conns ? calloc(1, sizeof(*c)) : NULL;

    if (!c) {
        in->stats.conns_refused++;
        return NULL;
    }
    c->in = in;
    c->peer = peer;
    c->peer_port = peer_port;
    c->local_port = local_port;
    c->nexthop = ip_nexthop(in, peer);
    /* RFC 6528: a 4 us clock plus a keyed hash of addresses and ports; RFC 7323 7.1: timestamps likewise. */
    c->iss = (uint32_t)(in->now / 4000) + (uint32_t)inet_hash(in, peer, peer_port, local_port, 1);
    c->ts_offset = tcp_ts_offset(in, peer);
    c->snd_una = c->snd_nxt = c->recover = c->iss;
    c->snd_head_seq = c->snd_end_seq = c->iss + 1;
    c->rto = TCP_RTO_INIT;
    c->peer_mss = TCP_MSS_DEFAULT;
    c->mss = c->gso_max = TCP_MSS_DEFAULT;
    c->cwnd = c->mss;
    c->ssthresh = UINT32_MAX / 2; /* RFC 5681 3.1: arbitrarily high */
    c->quickacks = TCP_QUICKACKS;
    c->rcv_limit = u32_min(in->promise, in->rcvbuf);
    c->rcv_fill = PAGE_SIZE;
    c->rcv_wscale = wscale(in);
    for (unsigned t = 0; t < TT_COUNT; t++)
        c->timer[t] = NEVER;
    tcp_sb_reset(c);
    TAILQ_INIT(&c->accept_queue);
    TAILQ_INSERT_TAIL(&in->conns, c, all_link);
    TAILQ_INSERT_HEAD(bucket(in, peer, peer_port, local_port), c, hash_link);
    in->nconns++;

    uint8_t *ip = c->tmpl + ETH_HLEN, *tcp = ip + IP_HLEN;

    ip_header(in, c->tmpl, peer, IPPROTO_TCP, 0);
    put16(ip + IPH_ID, 0);
    put16(ip + IPH_CSUM, 0);
    c->ip_sum = csum_bytes(ip, IP_HLEN);
    c->tcp_sum = csum_pseudo(in->addr, peer, IPPROTO_TCP, 0);
    put16(tcp + TCPH_SPORT, local_port);
    put16(tcp + TCPH_DPORT, peer_port);
    c->tmpl_len = ETH_HLEN + IP_HLEN + TCP_HLEN;
    return c;
}

void
tcp_set_mss(struct tcp_conn *c, uint32_t mss)
{
    uint32_t headers = c->tmpl_len - ETH_HLEN;

    c->mss = mss;
    c->gso_max = mss;
    if (c->in->offloads & OFFLOAD_TSO4)
        c->gso_max = (IP_MAXLEN - headers) / mss * mss;
}

bool
tcp_let_fragment(struct tcp_conn *c)
{
    uint8_t *ip = c->tmpl + ETH_HLEN;

    if (!(get16(ip + IPH_OFF) & IP_OFF_DF))
        return false;
    put16(ip + IPH_OFF, 0);
    c->ip_sum = csum_bytes(ip, IP_HLEN);
    return true;
}

void
tcp_negotiated(struct tcp_conn *c)
{
    uint32_t mss = u32_min(u32_max(c->peer_mss, TCP_MSS_MIN), c->in->mtu - IP_HLEN - TCP_HLEN);
    uint8_t *opt = c->tmpl + ETH_HLEN + IP_HLEN + TCP_HLEN;

    c->rcv_wscale = c->wscale_ok ? wscale(c->in) : 0;
    if (!c->wscale_ok)
        c->snd_wscale = 0;
    c->tmpl_len = ETH_HLEN + IP_HLEN + TCP_HLEN;
    if (c->ts_ok) {
        put32(opt, 0x0101080a); /* NOP, NOP, timestamps, 10 bytes */
        c->tmpl_len += TCPO_TS_ALIGNED;
        mss -= TCPO_TS_ALIGNED;
    }
    tcp_set_mss(c, mss);
    c->rcv_mss = mss;
    c->rcv_fill = u32_max(u32_min(mss, PAGE_SIZE), MEM_FILL_MIN);
}

static enum tcp_class
class_of(const struct tcp_conn *c)
{
    if (c->listener)
        return c->state == TCPS_SYN_RECEIVED ? TC_HALF_OPEN : TC_NONE;
    if (c->owned || c->state == TCPS_CLOSED)
        return TC_NONE;
    return c->state == TCPS_TIME_WAIT ? TC_TIME_WAIT : TC_ORPHAN;
}

/* move_class() - move a connection to the end of its list, which is for the most recent progress */
static void
move_class(struct tcp_conn *c, enum tcp_class class)
{
    struct inet *in = c->in;

    if (c->class != TC_NONE) {
        TAILQ_REMOVE(&in->class[c->class].list, c, class_link);
        in->class[c->class].n--;
    }
    c->class = class;
    c->moved = in->now;
    if (class != TC_NONE) {
        TAILQ_INSERT_TAIL(&in->class[class].list, c, class_link);
        in->class[class].n++;
    }
}

void
tcp_classify(struct tcp_conn *c)
{
    enum tcp_class class = class_of(c);

    if (class != c->class)
        move_class(c, class);
}

void
tcp_set_state(struct tcp_conn *c, enum tcp_state state)
{
    c->state = (uint8_t)state;
    tcp_classify(c);
}

void
tcp_established(struct tcp_conn *c)
{
    /* RFC 6928 2; RFC 5681 3.1 when the handshake had to be repeated. */
    c->cwnd = c->retries ? c->mss : u32_min(10 * c->mss, u32_max(2 * c->mss, 14600));
    if (c->retries) /* RFC 6298 5.7: that timeout may have been too short for the path */
        c->rto = u64_max(c->rto, TCP_RTO_FALLBACK);
    c->retries = c->backoff = 0;
    c->force_rtx = false;
    c->timer[TT_REXMT] = NEVER;
    tcp_set_state(c, c->fin_wanted ? TCPS_FIN_WAIT_1 : TCPS_ESTABLISHED);
    if (c->listener) {
        TAILQ_INSERT_TAIL(&c->listener->accept_queue, c, accept_link);
        c->in_accept = true;
        c->listener->naccept++;
    }
    tcp_want_output(c);
}

void
tcp_want_output(struct tcp_conn *c)
{
    if (c->queued)
        return;
    c->queued = true;
    TAILQ_INSERT_TAIL(&c->in->output, c, output_link);
    c->in->noutput++;
}

static void
unqueue_output(struct tcp_conn *c)
{
    if (!c->queued)
        return;
    c->queued = false;
    TAILQ_REMOVE(&c->in->output, c, output_link);
    c->in->noutput--;
}

void
tcp_run_output(struct inet *in)
{
    /* Only as many as there are now: those queued again wait for the next turn. */
    for (unsigned n = in->noutput; n; n--) {
        struct tcp_conn *c = TAILQ_FIRST(&in->output);

        unqueue_output(c);
        tcp_transmit(c);
    }
}

static void
sndbuf_give(struct tcp_conn *c, uint32_t pages, uint32_t mbufs)
{
    c->snd_pages -= pages;
    c->snd_mbufs -= mbufs;
    mem_give(c->in, pages, mbufs);
}

void
tcp_sndbuf_ack(struct tcp_conn *c)
{
    while (c->snd_head && SEQ_LEQ(c->snd_head_seq + (uint32_t)c->snd_head->m_len, c->snd_una)) {
        struct mbuf *m = c->snd_head;

        c->snd_head_seq += (uint32_t)m->m_len;
        if (c->nxt_cur.m == m)
            c->nxt_cur.m = NULL;
        if (c->rtx_cur.m == m)
            c->rtx_cur.m = NULL;
        sndbuf_give(c, mem_is_page(c->in, m), 1);
        c->snd_head = m_free(m);
    }
    if (!c->snd_head)
        c->snd_tail = NULL;
    if (c->class == TC_ORPHAN)
        move_class(c, TC_ORPHAN);
}

void
tcp_sndbuf_free(struct tcp_conn *c)
{
    sndbuf_give(c, c->snd_pages, c->snd_mbufs);
    m_freem(c->snd_head);
    c->snd_head = c->snd_tail = NULL;
    c->nxt_cur.m = c->rtx_cur.m = NULL;
}

void
tcp_free(struct tcp_conn *c)
{
    struct inet *in = c->in;

    unqueue_output(c);
    tcp_sndbuf_free(c);
    tcp_rcv_free(c);
    in->page.promised -= c->promised;
    move_class(c, TC_NONE);
    if (c->in_accept) {
        TAILQ_REMOVE(&c->listener->accept_queue, c, accept_link);
        c->listener->naccept--;
    }
    TAILQ_REMOVE(&in->conns, c, all_link);
    TAILQ_REMOVE(bucket(in, c->peer, c->peer_port, c->local_port), c, hash_link);
    in->nconns--;
    free(c);
}

void
tcp_closed(struct tcp_conn *c, int error)
{
    if (!c->owned) {
        tcp_free(c);
        return;
    }
    tcp_set_state(c, TCPS_CLOSED);
    if (!c->error)
        c->error = error;
    c->rcv_adv = c->rcv_nxt; /* the peer sends no more */
    tcp_mem_promise(c);
    for (unsigned t = 0; t < TT_COUNT; t++)
        c->timer[t] = NEVER;
    unqueue_output(c);
    tcp_sndbuf_free(c);
    tcp_reass_free(c); /* data in order can still be read */
    c->snd_una = c->snd_nxt;
    tcp_sb_reset(c);
}

/* touch() - read a byte of each page that a chain's external storage lies on */
static int
touch(void *chain)
{
    for (const struct mbuf *m = chain; m; m = m->m_next) {
        const volatile char *p = m->m_data;
        const char *end = m->m_data + m->m_len;

        if (!(m->m_flags & M_EXT))
            continue;
        for (; (const char *)p < end; p = (const volatile char *)(((uintptr_t)p | PAGE_MASK) + 1))
            (void)*p;
    }
    return 0;
}

bool
tcp_check_sndbuf(struct tcp_conn *c)
{
    if (!c->snd_head || guard_run(touch, c->snd_head) == 0)
        return true;
    /* The peer waits for the missing data, and accepts an RST only there: RFC 5961 3.2. */
    if (c->snd_una != c->snd_nxt)
        tcp_send_control(c, c->snd_una, TF_RST | TF_ACK);
    tcp_reset(c, EIO);
    return false;
}

void
tcp_check_pages(struct inet *in)
{
    struct tcp_conn *next;

    for (struct tcp_conn *c = TAILQ_FIRST(&in->conns); c; c = next) {
        next = TAILQ_NEXT(c, all_link);
        tcp_check_sndbuf(c);
    }
}

void
tcp_destroy(struct inet *in)
{
    struct tcp_conn *c;

    while ((c = TAILQ_FIRST(&in->conns)))
        tcp_abort(c);
}

bool
tcp_neighbour_wanted(struct inet *in, uint32_t nexthop)
{
    struct tcp_conn *c;

    TAILQ_FOREACH(c, &in->conns, all_link)
    if (c->nexthop == nexthop && c->state != TCPS_LISTEN && c->state != TCPS_CLOSED)
        return true;
    return false;
}

void
tcp_neighbour(struct inet *in, uint32_t nexthop, bool found)
{
    struct tcp_conn *next;

    for (struct tcp_conn *c = TAILQ_FIRST(&in->conns); c; c = next) {
        next = TAILQ_NEXT(c, all_link);
        if (c->nexthop != nexthop || !c->arp_wait)
            continue;
        c->arp_wait = false;
        if (found) {
            c->soft_error = 0;
            tcp_want_output(c);
        } else if (!tcp_synchronized(c)) {
            tcp_closed(c, EHOSTUNREACH);
        } else {
            c->soft_error = EHOSTUNREACH; /* RFC 9293 3.9.2.2: not the end of a connection */
            tcp_want_output(c);
            inet_timer(in, in->now + ARP_RETRY_NS);
        }
    }
}

/* -- the user's calls -- */

static bool
port_taken(struct inet *in, uint16_t port)
{
    struct tcp_conn *c;

    TAILQ_FOREACH(c, &in->conns, all_link)
    if (c->local_port == port)
        return true;
    return false;
}

int
tcp_connect(struct inet *in, uint32_t addr, uint16_t port, uint16_t local_port,
            struct tcp_conn **out)
{
    uint32_t peer = ntohl(addr);
    struct tcp_conn *c;

    *out = NULL;
    if (!port)
        return -EINVAL;
    if (!ip_nexthop(in, peer))
        return -ENETUNREACH;
    in->now = in->clock(in->clock_arg);
    if (local_port) {
        c = tcp_find(in, peer, port, local_port);
        if (c && c->state == TCPS_TIME_WAIT && !c->owned)
            tcp_free(c);
        else if (c || tcp_find(in, 0, 0, local_port))
            return -EADDRINUSE;
    } else {
        unsigned first = (unsigned)(inet_random(in) % PORT_COUNT), i;

        for (i = 0; i < PORT_COUNT; i++) {
            local_port = (uint16_t)(PORT_FIRST + (first + i) % PORT_COUNT);
            if (in->nconns < PORT_COUNT / 2 ? !port_taken(in, local_port)
                                            : !tcp_find(in, peer, port, local_port))
                break;
        }
        if (i == PORT_COUNT)
            return -EADDRINUSE;
    }
    c = tcp_new(in, peer, port, local_port);
    if (!c)
        return -ENOMEM;
    c->owned = c->active = true;
    tcp_set_state(c, TCPS_SYN_SENT);
    c->ts_ok = c->wscale_ok = c->sack_ok = true; /* offered */
    tcp_arm_rexmt(c);
    tcp_transmit(c);
    inet_flush(in);
    *out = c;
    return 0;
}

int
tcp_listen(struct inet *in, uint16_t port, unsigned backlog, struct tcp_conn **out)
{
    struct tcp_conn *c;

    *out = NULL;
    if (!port)
        return -EINVAL;
    if (tcp_find(in, 0, 0, port))
        return -EADDRINUSE;
    c = tcp_new(in, 0, 0, port);
    if (!c)
        return -ENOMEM;
    c->owned = true;
    tcp_set_state(c, TCPS_LISTEN);
    c->backlog = backlog ? backlog : 1;
    *out = c;
    return 0;
}

struct tcp_conn *
tcp_accept(struct tcp_conn *listener)
{
    struct tcp_conn *c = TAILQ_FIRST(&listener->accept_queue);

    if (!c)
        return NULL;
    TAILQ_REMOVE(&listener->accept_queue, c, accept_link);
    listener->naccept--;
    c->in_accept = false;
    c->listener = NULL;
    c->owned = true;
    tcp_classify(c);
    return c;
}

int
tcp_may_send(const struct tcp_conn *c)
{
    if (c->error)
        return -c->error;
    if (c->fin_wanted)
        return -EPIPE;
    /* RFC 9293 3.10.2: also in a simultaneous open; it goes out when the peer has answered. */
    return c->state == TCPS_ESTABLISHED || c->state == TCPS_CLOSE_WAIT ||
                   c->state == TCPS_SYN_RECEIVED
               ? 0
               : -ENOTCONN;
}

uint32_t
tcp_send_room(const struct tcp_conn *c)
{
    uint32_t used = c->snd_end_seq - c->snd_una;

    if (tcp_may_send(c) || used >= c->in->sndbuf || !tcp_mem_send_mbufs(c))
        return 0;
    return c->in->sndbuf - used;
}

bool
tcp_send_starved(const struct tcp_conn *c)
{
    return !tcp_may_send(c) && c->snd_end_seq - c->snd_una < c->in->sndbuf &&
           !tcp_mem_send_mbufs(c);
}

/* append_small() - if there are many mbufs, append a few bytes to the last one; frees @m */
static bool
append_small(struct tcp_conn *c, struct mbuf *m, unsigned len)
{
    struct mbuf *t = c->snd_tail;

    /* The ring has copies of the bytes inside an mbuf, so the space after them is free. */
    if (!t || c->snd_mbufs < SNDBUF_MANY || (t->m_flags & M_EXT) || m_trailingspace(t) < (int)len ||
        m_copydata(m, 0, (int)len, t->m_data + t->m_len))
        return false;
    t->m_len += (int32_t)len;
    m_freem(m);
    return true;
}

int
tcp_send(struct tcp_conn *c, struct mbuf *m)
{
    struct mbuf *last;
    uint32_t pages, mbufs;
    unsigned len;
    int rc = tcp_may_send(c);

    if (rc)
        return rc;
    len = m_length(m, &last);
    if (len > tcp_send_room(c))
        return len > c->in->sndbuf ? -EMSGSIZE : -EAGAIN;
    while (m && !m->m_len) /* every mbuf of the buffer holds a sequence number */
        m = m_free(m);
    if (!m)
        return 0;
    for (struct mbuf *n = m; n; n = n->m_next) {
        n->m_flags &= ~(uint32_t)M_PKTHDR;
        while (n->m_next && !n->m_next->m_len)
            n->m_next = m_free(n->m_next);
        last = n;
    }
    c->snd_end_seq += len;
    if (!append_small(c, m, len)) {
        mem_count(c->in, m, &pages, &mbufs);
        c->snd_pages += pages;
        c->snd_mbufs += mbufs;
        mem_take(c->in, pages, mbufs);
        if (c->snd_tail)
            c->snd_tail->m_next = m;
        else
            c->snd_head = m;
        c->snd_tail = last;
    }
    tcp_want_output(c);
    c->in->work = true;
    return 0;
}

void
tcp_set_more(struct tcp_conn *c, bool more)
{
    if (c->more && !more && !c->queued && c->snd_end_seq != c->snd_nxt) {
        tcp_want_output(c);
        c->in->work = true;
    }
    c->more = more;
}

int
tcp_output(struct tcp_conn *c)
{
    if (c->state == TCPS_CLOSED)
        return c->error ? -c->error : -ENOTCONN;
    c->in->now = c->in->clock(c->in->clock_arg);
    unqueue_output(c);
    tcp_transmit(c);
    inet_flush(c->in);
    return 0;
}

bool
tcp_eof(const struct tcp_conn *c)
{
    return !c->rcv_cc && c->rcv_fin_done;
}

/* finish() - queue a FIN after the contents of the send buffer */
static void
finish(struct tcp_conn *c)
{
    c->more = false;
    if (c->fin_wanted)
        return;
    c->fin_wanted = true;
    if (c->state == TCPS_ESTABLISHED)
        tcp_set_state(c, TCPS_FIN_WAIT_1);
    else if (c->state == TCPS_CLOSE_WAIT)
        tcp_set_state(c, TCPS_LAST_ACK);
    tcp_want_output(c);
    c->in->work = true;
}

int
tcp_shutdown(struct tcp_conn *c)
{
    if (c->state == TCPS_CLOSED || c->state == TCPS_LISTEN || c->state == TCPS_SYN_SENT)
        return -ENOTCONN;
    finish(c);
    return 0;
}

static void
abort_pending(struct tcp_conn *listener)
{
    struct tcp_conn *next;

    for (struct tcp_conn *c = TAILQ_FIRST(&listener->in->conns); c; c = next) {
        next = TAILQ_NEXT(c, all_link);
        if (c->listener == listener)
            tcp_abort(c);
    }
}

void
tcp_close(struct tcp_conn *c)
{
    struct inet *in = c->in;

    in->now = in->clock(in->clock_arg);
    switch (c->state) {
    case TCPS_LISTEN:
        abort_pending(c);
        /* fall through */
    case TCPS_CLOSED:
    case TCPS_SYN_SENT:
        tcp_free(c);
        return;
    default:
        break;
    }
    /* RFC 2525 2.17: tell the peer that its data will not be read. */
    if (c->rcv_cc || c->nranges) {
        tcp_abort(c);
        return;
    }
    c->owned = false;
    finish(c);
    tcp_classify(c);
    if (c->state == TCPS_FIN_WAIT_2)
        tcp_arm(c, TT_2MSL, TCP_FIN_WAIT_2);
}

/* send_reset() - RFC 9293 3.10.5: notify the peer, if there is one */
static void
send_reset(struct tcp_conn *c)
{
    if (c->state == TCPS_CLOSED || c->state == TCPS_LISTEN || c->state == TCPS_SYN_SENT ||
        c->state == TCPS_TIME_WAIT)
        return;
    tcp_send_control(c, c->snd_nxt, TF_RST | TF_ACK);
    inet_flush(c->in);
}

void
tcp_abort(struct tcp_conn *c)
{
    if (c->state == TCPS_LISTEN)
        abort_pending(c);
    send_reset(c);
    tcp_free(c);
}

void
tcp_reset(struct tcp_conn *c, int error)
{
    if (c->state == TCPS_LISTEN)
        abort_pending(c);
    send_reset(c);
    tcp_closed(c, error);
}

void
tcp_get_info(const struct tcp_conn *c, struct tcp_info_s *out)
{
    uint32_t data_nxt = c->fin_sent ? c->snd_end_seq : c->snd_nxt;
    uint32_t una = seq_min(seq_max(c->snd_una, c->iss + 1), c->snd_end_seq);

    data_nxt = seq_max(data_nxt, una);
    *out = (struct tcp_info_s){
        .state = c->state,
        .error = c->error,
        .mss = c->mss,
        .snd_wnd = c->snd_wnd,
        .rcv_wnd = c->rcv_adv - c->rcv_nxt,
        .cwnd = c->cwnd,
        .ssthresh = c->ssthresh,
        .unsent = c->state == TCPS_CLOSED ? 0 : c->snd_end_seq - data_nxt,
        .unacked = c->state == TCPS_CLOSED ? 0 : data_nxt - una,
        .readable = c->rcv_cc,
        .srtt_us = (uint32_t)(c->srtt / NS_PER_US),
        .rto_us = (uint32_t)(tcp_rto(c) / NS_PER_US),
        .local_addr = htonl(c->in->addr),
        .peer_addr = htonl(c->peer),
        .local_port = c->local_port,
        .peer_port = c->peer_port,
        .timestamps = c->ts_ok,
        .wscale_ok = c->wscale_ok,
        .snd_wscale = c->snd_wscale,
        .rcv_wscale = c->rcv_wscale,
        .bytes_acked = c->bytes_acked,
        .bytes_received = c->bytes_received,
        .retransmits = c->retransmits,
    };
}
