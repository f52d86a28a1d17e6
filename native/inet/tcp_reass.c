/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Received data: those in order, for the reader, and a bounded number of out-of-order ranges. Both
 * keep the mbufs that the frames came in, as far as the budget (mem.c) allows.
 */
#include <string.h>

#include "inet/tcp_var.h"

#define COLLAPSE_MAX 512u /* most bytes copied to save a page, if pages are short */

uint32_t
tcp_rcv_window(const struct tcp_conn *c)
{
    uint32_t have = c->rcv_adv - c->rcv_nxt, free;

    free = c->in->rcvbuf - u32_min(c->rcv_cc, c->in->rcvbuf);
    free = u32_min(free, tcp_mem_window(c));
    /* RFC 9293 3.8.6.2.2: open the window by a worthwhile amount, or not at all. */
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

/* hold() - account for a chain of @len bytes that the connection keeps */
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

/* let_go() - the reverse of hold() */
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

/* put_behind() - append the first @len bytes of @m to @t; false if they do not fit */
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

/* prefix() - trim a chain to these limits, free the rest, and return the bytes left */
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
 * take_inside() - take as many bytes as fit inside one mbuf, for lack of a page
 * @t: mbuf that they come behind; NULL
 * @part: taking only part of them is allowed
 *
 * Return: the mbuf; NULL if they went into @t, or nowhere, as @len says.
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
 * @len: in: its bytes; out: bytes taken, from the first on
 * @t: mbuf that they come behind; NULL
 * @ordered: they are next in order, and taking only part of them is allowed
 * @tail: last mbuf of the chain returned
 *
 * Return: a chain; NULL if they went into @t, or nothing was taken.
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

/* deliver() - give @len bytes in order to the reader; @head is NULL if they were appended already */
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

/* range_free() - free the data of a range */
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
        /* The next data must not wait for pages that hold later data, which RFC 2018 8 lets us drop. */
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

    /* Find the range that it begins in or precedes. */
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
        i++; /* it follows that one */
    }
    /* Ranges wholly inside it are no longer needed; the one that it overlaps at the end is kept. */
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

/* room_worth_telling() - has the window grown enough to tell the peer? */
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
        /* Part of this mbuf, sharing its page. */
        struct mbuf *next = m->m_next, *after;

        m->m_next = NULL;
        rest = m_split(m, (int)(max - len), M_NOWAIT);
        if (rest) {
            /* Both parts count until the first is released below. */
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
