/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What was received: in order, for the reader; and a bounded number of ranges that came too early.
 * Both keep the mbufs the frames came in.
 */
#include <string.h>

#include "inet/tcp_var.h"

#define COLLAPSE_MAX 512 /* bytes that are moved to save a page, when pages are short */

/* mbufs_max() - how many mbufs, a page each, one connection may keep */
static uint32_t
mbufs_max(const struct tcp_conn *c)
{
    return c->in->rcvbuf / (PAGE_SIZE / 2) + 64;
}

uint32_t
tcp_rcv_window(const struct tcp_conn *c)
{
    uint32_t have = c->rcv_adv - c->rcv_nxt, free, pages = 0, max = mbufs_max(c);

    free = c->in->rcvbuf - u32_min(c->rcv_cc, c->in->rcvbuf);
    /* A short segment takes a page as well: promise no more than what the pages will hold. */
    if (c->rcv_mbufs < max)
        pages = max - c->rcv_mbufs;
    free = (uint32_t)u64_min(free, (uint64_t)pages * u32_min(u32_max(c->rcv_mss, 1), PAGE_SIZE));
    /* RFC 9293 3.8.6.2.2: open it by a worthwhile piece, or not at all. */
    if (free < have + u32_min(c->in->rcvbuf / 2, u32_max(c->rcv_mss, 1)))
        return have;
    return free;
}

/* chain_clean() - drop empty mbufs and packet headers; the last mbuf and their number */
static struct mbuf *
chain_clean(struct mbuf *m, struct mbuf **last, uint32_t *count)
{
    struct mbuf *head = NULL, **tail = &head;

    *last = NULL;
    *count = 0;
    while (m) {
        if (!m->m_len) {
            m = m_free(m);
            continue;
        }
        m->m_flags &= ~(uint32_t)M_PKTHDR;
        m->m_nextpkt = NULL;
        *tail = *last = m;
        tail = &m->m_next;
        m = m->m_next;
        ++*count;
    }
    *tail = NULL;
    return head;
}

static uint32_t
chain_free(struct mbuf *m)
{
    uint32_t n = 0;

    for (; m; n++)
        m = m_free(m);
    return n;
}

/* collapse() - put a few bytes behind those in the last page, when pages are short */
static bool
collapse(struct tcp_conn *c, uint32_t len, const struct mbuf *m)
{
    struct mbuf *t = c->rcv_tail;

    if (!t || len > COLLAPSE_MAX || c->rcv_mbufs < mbufs_max(c) / 4 ||
        m_trailingspace(t) < (int)len || m_copydata(m, 0, (int)len, t->m_data + t->m_len))
        return false;
    t->m_len += (int32_t)len;
    return true;
}

static void
deliver(struct tcp_conn *c, uint32_t len, struct mbuf *head, struct mbuf *tail)
{
    if (c->rcv_tail)
        c->rcv_tail->m_next = head;
    else
        c->rcv_head = head;
    c->rcv_tail = tail;
    c->rcv_nxt += len;
    c->rcv_cc += len;
    c->bytes_received += len;
}

/* range_remove() - forget a range; its mbufs have gone elsewhere */
static void
range_remove(struct tcp_conn *c, unsigned i)
{
    memmove(&c->range[i], &c->range[i + 1], (c->nranges - i - 1) * sizeof(c->range[0]));
    c->nranges--;
}

static void
range_join(struct tcp_range *a, struct tcp_range *b)
{
    a->tail->m_next = b->head;
    a->tail = b->tail;
    a->end = b->end;
}

bool
tcp_reass(struct tcp_conn *c, uint32_t seq, uint32_t len, struct mbuf *m)
{
    uint32_t end = seq + len, count;
    struct mbuf *tail;
    unsigned i;

    /* Too many pages wait already: the reader is slow, or the peer sends crumbs. */
    if (c->rcv_mbufs > mbufs_max(c) && (seq != c->rcv_nxt || c->rcv_mbufs > mbufs_max(c) * 2)) {
        c->in->stats.rx_no_buffer++;
        m_freem(m);
        return false;
    }
    if (seq == c->rcv_nxt && !c->nranges) {
        if (collapse(c, len, m)) {
            m_freem(m);
            c->rcv_nxt += len;
            c->rcv_cc += len;
            c->bytes_received += len;
            return true;
        }
        m = chain_clean(m, &tail, &count);
        c->rcv_mbufs += count;
        deliver(c, len, m, tail);
        return true;
    }

    /* The range it begins in or goes before. */
    for (i = 0; i < c->nranges && SEQ_LT(c->range[i].end, seq); i++)
        ;
    if (i < c->nranges && SEQ_LEQ(c->range[i].start, seq)) {
        uint32_t over = c->range[i].end - seq;

        if (over >= len) {
            c->in->stats.rx_duplicate++;
            c->dsack_start = seq;
            c->dsack_end = end;
            m_freem(m);
            return false;
        }
        m_adj(m, (int)over);
        seq += over;
        len -= over;
        i++; /* it goes behind that one */
    }
    /* What lies wholly inside it is no longer needed; what it runs into at the end is kept. */
    while (i < c->nranges && SEQ_LEQ(c->range[i].end, end)) {
        c->rcv_mbufs -= chain_free(c->range[i].head);
        range_remove(c, i);
    }
    if (i < c->nranges && SEQ_LT(c->range[i].start, end)) {
        uint32_t over = end - c->range[i].start;

        m_adj(m, -(int)over);
        end -= over;
        len -= over;
    }
    if (c->nranges == TCP_MAX_RANGES && seq != c->rcv_nxt && !(i && c->range[i - 1].end == seq) &&
        !(i < c->nranges && c->range[i].start == end)) {
        c->in->stats.rx_no_buffer++;
        m_freem(m);
        return false;
    }
    m = chain_clean(m, &tail, &count);
    c->rcv_mbufs += count;
    if (seq == c->rcv_nxt) {
        deliver(c, len, m, tail);
        while (c->nranges && c->range[0].start == c->rcv_nxt) {
            deliver(c, c->range[0].end - c->range[0].start, c->range[0].head, c->range[0].tail);
            range_remove(c, 0);
        }
        return true;
    }
    c->in->stats.rx_out_of_order++;
    struct tcp_range r = {seq, end, ++c->range_stamp, m, tail};

    if (i && c->range[i - 1].end == seq) {
        range_join(&c->range[i - 1], &r);
        c->range[--i].stamp = r.stamp;
    } else if (i < c->nranges && c->range[i].start == end) {
        range_join(&r, &c->range[i]);
        c->range[i] = r;
        return true;
    } else {
        memmove(&c->range[i + 1], &c->range[i], (c->nranges - i) * sizeof(c->range[0]));
        c->range[i] = r;
        c->nranges++;
        return true;
    }
    if (i + 1 < c->nranges && c->range[i + 1].start == c->range[i].end) {
        range_join(&c->range[i], &c->range[i + 1]);
        range_remove(c, i + 1);
    }
    return true;
}

void
tcp_reass_free(struct tcp_conn *c)
{
    for (unsigned i = 0; i < c->nranges; i++)
        c->rcv_mbufs -= chain_free(c->range[i].head);
    c->nranges = 0;
}

void
tcp_rcv_free(struct tcp_conn *c)
{
    tcp_reass_free(c);
    chain_free(c->rcv_head);
    c->rcv_head = c->rcv_tail = NULL;
    c->rcv_cc = c->rcv_mbufs = 0;
}

/* room_worth_telling() - is the window so much larger now that the peer should know? */
static bool
room_worth_telling(const struct tcp_conn *c)
{
    uint32_t have = c->rcv_adv - c->rcv_nxt, window = tcp_rcv_window(c), grown = window - have;

    return grown && (grown >= c->in->rcvbuf / 8 || have < 2 * c->rcv_mss);
}

struct mbuf *
tcp_recv(struct tcp_conn *c, uint32_t max)
{
    struct mbuf *m = c->rcv_head, *rest, *last = NULL;
    uint32_t len = 0, count = 0;

    if (!max || !m)
        return NULL;
    for (; m && len + (uint32_t)m->m_len <= max; m = m->m_next) {
        len += (uint32_t)m->m_len;
        last = m;
        count++;
    }
    if (m && len < max) {
        /* A part of this one, sharing its page. */
        struct mbuf *next = m->m_next, *after;

        m->m_next = NULL;
        rest = m_split(m, (int)(max - len), M_NOWAIT);
        if (rest) {
            for (after = rest; after->m_next; after = after->m_next)
                c->rcv_mbufs++;
            after->m_next = next;
            if (c->rcv_tail == m)
                c->rcv_tail = after;
            last = m;
            len = max;
            m = rest;
        } else {
            m->m_next = next;
            if (!last)
                return NULL;
        }
    }
    rest = m;
    m = c->rcv_head;
    last->m_next = NULL;
    c->rcv_head = rest;
    if (!rest)
        c->rcv_tail = NULL;
    c->rcv_cc -= len;
    c->rcv_mbufs -= count;
    if (tcp_synchronized(c) && !c->rcv_fin_done && c->state != TCPS_TIME_WAIT &&
        room_worth_telling(c)) {
        c->ack_now = true;
        tcp_want_output(c);
        c->in->work = true;
    }
    return m;
}
