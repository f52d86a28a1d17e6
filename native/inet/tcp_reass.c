/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What was received: in order, for the reader; and a bounded number of ranges that came too early.
 * Both keep the mbufs the frames came in, as far as the budget (mem.c) allows.
 */
#include <string.h>

#include "inet/tcp_var.h"

#define COLLAPSE_MAX 512u /* bytes that are moved to save a page, when pages are short */

uint32_t
tcp_rcv_window(const struct tcp_conn *c)
{
    uint32_t have = c->rcv_adv - c->rcv_nxt, free;

    free = c->in->rcvbuf - u32_min(c->rcv_cc, c->in->rcvbuf);
    free = u32_min(free, tcp_mem_window(c));
    /* RFC 9293 3.8.6.2.2: open it by a worthwhile piece, or not at all. */
    if (free < have + u32_min(c->in->rcvbuf / 2, u32_max(c->rcv_mss, 1)))
        return have;
    return free;
}

/* chain_clean() - drop empty mbufs and packet headers */
static struct mbuf *
chain_clean(struct mbuf *m)
{
    struct mbuf *head = NULL, **tail = &head;

    while (m) {
        if (!m->m_len) {
            m = m_free(m);
            continue;
        }
        m->m_flags &= ~(uint32_t)M_PKTHDR;
        m->m_nextpkt = NULL;
        *tail = m;
        tail = &m->m_next;
        m = m->m_next;
    }
    *tail = NULL;
    return head;
}

/* hold() - the connection keeps a chain of @len bytes from now on */
static void
hold(struct tcp_conn *c, const struct mbuf *m, uint32_t len)
{
    uint32_t pages, mbufs;

    mem_count(c->in, m, &pages, &mbufs);
    c->rcv_held += len;
    c->rcv_pages += pages;
    c->rcv_mbufs += mbufs;
    mem_take(c->in, pages, mbufs);
}

/* let_go() - it does no longer */
static void
let_go(struct tcp_conn *c, const struct mbuf *m, uint32_t len)
{
    uint32_t pages, mbufs;

    mem_count(c->in, m, &pages, &mbufs);
    c->rcv_held -= len;
    c->rcv_pages -= pages;
    c->rcv_mbufs -= mbufs;
    mem_give(c->in, pages, mbufs);
}

/* put_behind() - copy the first @len bytes of @m behind those in @t; false: they do not fit */
static bool
put_behind(struct tcp_conn *c, struct mbuf *t, const struct mbuf *m, uint32_t len)
{
    if (m_trailingspace(t) < (int)len || m_copydata(m, 0, (int)len, t->m_data + t->m_len))
        return false;
    t->m_len += (int32_t)len;
    c->rcv_held += len;
    c->in->stats.rx_compacted++;
    return true;
}

/* prefix() - the beginning of a chain that holds no more than this; frees the rest; bytes of it */
static uint32_t
prefix(const struct inet *in, struct mbuf **chain, uint32_t pages, uint32_t mbufs)
{
    struct mbuf **m = chain;
    uint32_t len = 0;

    for (; *m && mbufs && (pages || !mem_is_page(in, *m)); m = &(*m)->m_next, mbufs--) {
        pages -= mem_is_page(in, *m);
        len += (uint32_t)(*m)->m_len;
    }
    m_freem(*m);
    *m = NULL;
    return len;
}

/*
 * take_inside() - as many bytes as fit inside one mbuf, for want of a page
 * @t: mbuf that they come behind; NULL
 * @part: a part of them will do
 *
 * Return: the mbuf; NULL when they went into @t, or nowhere: @len says.
 */
static struct mbuf *
take_inside(struct tcp_conn *c, struct mbuf *t, const struct mbuf *m, uint32_t *len, bool part)
{
    uint32_t room = t && !(t->m_flags & M_EXT) ? (uint32_t)m_trailingspace(t) : 0;
    struct mbuf *n = NULL;

    if (room && (part || *len <= room)) {
        *len = u32_min(*len, room);
        if (!put_behind(c, t, m, *len))
            *len = 0;
        return NULL;
    }
    if ((part || *len <= (uint32_t)MLEN) && tcp_mem_mbufs(c, part))
        n = mb_get(c->in->zone);
    *len = n ? u32_min(*len, (uint32_t)MLEN) : 0;
    if (n) {
        m_copydata(m, 0, (int)*len, n->m_data);
        n->m_len = (int32_t)*len;
        hold(c, n, *len);
        c->in->stats.rx_compacted++;
    }
    return n;
}

/*
 * keep() - take as much of a segment as the budget allows
 * @m: its data; consumed
 * @len: bytes of that; then: bytes taken, from the first on
 * @t: mbuf that they come behind; NULL
 * @ordered: they are next in order: a part of them will do
 * @tail: last mbuf of the chain returned
 *
 * Return: a chain; NULL when they were put into @t, or nothing was taken.
 */
static struct mbuf *
keep(struct tcp_conn *c, struct mbuf *m, uint32_t *len, struct mbuf *t, bool ordered,
     struct mbuf **tail)
{
    uint32_t whole = *len, pages, mbufs, most_pages, most_mbufs;
    bool saving = tcp_mem_saving(c);
    struct mbuf *n = NULL;

    if (saving && t && whole <= COLLAPSE_MAX && put_behind(c, t, m, whole)) {
        m_freem(m);
        return NULL;
    }
    m = chain_clean(m);
    mem_count(c->in, m, &pages, &mbufs);
    tcp_mem_arrived(c, whole, pages);
    most_pages = tcp_mem_pages(c, ordered);
    most_mbufs = tcp_mem_mbufs(c, ordered);
    if (!(saving && !t && whole <= (uint32_t)MLEN)) {
        if (pages > most_pages || mbufs > most_mbufs)
            *len = ordered && most_mbufs && (most_pages || !mem_is_page(c->in, m))
                       ? prefix(c->in, &m, most_pages, most_mbufs)
                       : 0;
        if (*len) {
            n = m;
            hold(c, n, *len);
        }
    }
    if (!n) {
        *len = whole;
        n = take_inside(c, t, m, len, ordered);
        m_freem(m);
    }
    if (*len < whole) {
        c->in->stats.rx_no_memory++;
        c->ack_now = true;
        tcp_want_output(c);
    }
    *tail = n;
    while (*tail && (*tail)->m_next)
        *tail = (*tail)->m_next;
    return n;
}

/* deliver() - @len bytes in order for the reader; @head is NULL when they are behind the last already */
static void
deliver(struct tcp_conn *c, uint32_t len, struct mbuf *head, struct mbuf *tail)
{
    if (head) {
        if (c->rcv_tail)
            c->rcv_tail->m_next = head;
        else
            c->rcv_head = head;
        c->rcv_tail = tail;
    }
    c->rcv_nxt += len;
    c->rcv_cc += len;
    c->bytes_received += len;
}

/* range_free() - give up the data of a range */
static void
range_free(struct tcp_conn *c, unsigned i)
{
    let_go(c, c->range[i].head, c->range[i].end - c->range[i].start);
    m_freem(c->range[i].head);
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
    uint32_t end = seq + len, pages, mbufs;
    struct mbuf *tail;
    unsigned i;

    if (seq == c->rcv_nxt && c->nranges) {
        /* What is next must not wait for pages that hold what comes later: RFC 2018 8 allows that. */
        mem_count(c->in, m, &pages, &mbufs);
        if (pages > tcp_mem_pages(c, true) || mbufs > tcp_mem_mbufs(c, true)) {
            tcp_reass_free(c);
            c->in->stats.rx_pruned++;
        }
    }
    if (seq == c->rcv_nxt && !c->nranges) {
        m = keep(c, m, &len, c->rcv_tail, true, &tail);
        deliver(c, len, m, tail);
        return len != 0;
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
        range_free(c, i);
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
    c->range_moved = c->in->now;
    if (seq == c->rcv_nxt) {
        m = keep(c, m, &len, c->rcv_tail, true, &tail);
        deliver(c, len, m, tail);
        while (c->nranges && c->range[0].start == c->rcv_nxt) {
            deliver(c, c->range[0].end - c->range[0].start, c->range[0].head, c->range[0].tail);
            range_remove(c, 0);
        }
        return len != 0;
    }
    bool joins = i && c->range[i - 1].end == seq;

    m = keep(c, m, &len, joins ? c->range[i - 1].tail : NULL, false, &tail);
    if (!len)
        return false;
    c->in->stats.rx_out_of_order++;
    struct tcp_range r = {seq, end, ++c->range_stamp, m, tail};

    if (joins) {
        if (m)
            range_join(&c->range[i - 1], &r);
        else
            c->range[i - 1].end = end;
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
        range_free(c, i);
    c->nranges = 0;
}

void
tcp_rcv_free(struct tcp_conn *c)
{
    tcp_reass_free(c);
    let_go(c, c->rcv_head, c->rcv_cc);
    m_freem(c->rcv_head);
    c->rcv_head = c->rcv_tail = NULL;
    c->rcv_cc = 0;
}

/* room_worth_telling() - is the window so much larger now that the peer should know? */
static bool
room_worth_telling(const struct tcp_conn *c)
{
    uint32_t have = c->rcv_adv - c->rcv_nxt, window = tcp_rcv_window(c), grown = window - have;

    return grown && (grown >= c->in->rcvbuf / 8 || have < 2 * c->rcv_mss);
}

void
tcp_rcv_tell(struct tcp_conn *c)
{
    if (!tcp_synchronized(c) || c->rcv_fin_done || c->state == TCPS_TIME_WAIT ||
        !room_worth_telling(c))
        return;
    c->ack_now = true;
    tcp_want_output(c);
    c->in->work = true;
}

struct mbuf *
tcp_recv(struct tcp_conn *c, uint32_t max)
{
    struct mbuf *m = c->rcv_head, *rest, *last = NULL;
    uint32_t len = 0;

    if (!max || !m)
        return NULL;
    for (; m && len + (uint32_t)m->m_len <= max; m = m->m_next) {
        len += (uint32_t)m->m_len;
        last = m;
    }
    if (m && len < max) {
        /* A part of this one, sharing its page. */
        struct mbuf *next = m->m_next, *after;

        m->m_next = NULL;
        rest = m_split(m, (int)(max - len), M_NOWAIT);
        if (rest) {
            /* Both parts count until the first is let go below. */
            hold(c, rest, 0);
            for (after = rest; after->m_next; after = after->m_next)
                ;
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
    let_go(c, m, len);
    c->rcv_cc -= len;
    tcp_rcv_tell(c);
    return m;
}
