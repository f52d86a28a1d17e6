/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The budget: how many arena pages and mbufs a stack may hold, and how they are shared among its
 * queues.
 *
 * It holds them in queues: for each connection, data received but not read and data sent but not
 * acknowledged; frames for inet_recv_unclaimed(); and frames that wait for a neighbour's address.
 * The connection or host that owns a queue accounts for it with mem_take() and mem_give(). What the
 * application has taken does not count; the budget only sees that the pool has less left.
 *
 * The pool, without the rings' buffers, is divided by use (struct inet_pool):
 *
 *     | limit: 3/4                              | floor: 1/8        | reserve: 1/8            |
 *     | any queue, up to its share              | the first page of | frames in the driver's  |
 *     |                                         | an empty queue    | hands, other users      |
 *
 * The share of a queue is twice what is left for all (the dynamic threshold of Choudhury and Hahne,
 * "Dynamic Queue Length Thresholds"): a single queue may take two thirds of the limit, each of n
 * full queues has 2/(2n + 1), and 1/(2n + 1) always remains for a newcomer.
 *
 * Receiving: a window is a promise of pages. It never exceeds the share, starts small (`promise`: a
 * 64th of the limit), and grows as data arrive. Pages for anything beyond the initial promise are
 * set aside (`promised`), so that all promises can be kept. Only the initial windows of idle
 * connections are overcommitted. Data in order beyond the limit are accepted while there is room,
 * and the rest is dropped, so that the sender slows down; data out of order beyond the share are
 * dropped. If pages are short, a small segment is copied behind the previous one, or into an mbuf
 * of its own.
 *
 * Sending by copy waits until the share has room: tcp_copy_room().
 *
 * No connection stalls, because an empty queue always gets something: a page of the floor or, once
 * that is used up, the inside of an mbuf. There are more than twice as many mbufs as connections
 * (max_conns).
 */
#include <errno.h>

#include "inet/tcp_var.h"

#define FLOOR_PAGES 2u  /* pages of the floor for one empty queue */
#define ASIDE_MAX 1024u /* most for floor and reserve each; more would be idle */
#define SPARSE_PAGES                                                                               \
    8u /* a queue with more pages is compacted if they are less than a quarter full */
#define RELIEF_NS (100 * NS_PER_MS)
#define RELIEF_IDLE NS_PER_S /* an orphan, or out-of-order data, without progress for this long */
#define RETRY_NS (10 * NS_PER_MS)

static void
pool_init(struct inet_pool *p, size_t total)
{
    uint32_t all = total > UINT32_MAX ? UINT32_MAX : (uint32_t)total;
    uint32_t aside = u32_min(all / 8, ASIDE_MAX);

    *p = (struct inet_pool){.limit = all - 2 * aside, .floor = aside, .reserve = aside};
}

void
mem_init(struct inet *in, uint32_t budget)
{
    const struct jumbo *j = nic_jumbo(in->nic);
    size_t rings = 0, pages = j->max_pages, mbufs = in->zone->limit;

    for (unsigned q = 0; q < nic_nqueues(in->nic); q++)
        rings += nic_vring(in->nic, q, false)->num;
    pool_init(&in->page, pages > rings ? pages - rings : 0);
    if (budget)
        in->page.limit = u32_min(in->page.limit, budget);
    /* Half of the mbufs: the others carry frames, and the floor is one for each queue. */
    in->mbuf = (struct inet_pool){.limit = (uint32_t)(mbufs / 2),
                                  .floor = (uint32_t)(mbufs / 4),
                                  .reserve = (uint32_t)(mbufs / 4)};
    in->promise = u32_min(MEM_PROMISE_MAX, u32_max(in->page.limit * (PAGE_SIZE / 64), PAGE_SIZE));
    in->max_conns = u32_min(TCP_CONNS_MAX, (uint32_t)(mbufs / 8 * 3));
    mem_look(in);
}

void
mem_look(struct inet *in)
{
    size_t pages = jumbo_reach(nic_jumbo(in->nic)), mbufs = mbuf_zone_reach(in->zone);

    in->page.free = pages > UINT32_MAX ? UINT32_MAX : (uint32_t)pages;
    in->mbuf.free = mbufs > UINT32_MAX ? UINT32_MAX : (uint32_t)mbufs;
}

/* less() - a - b, or 0 */
static uint32_t
less(uint32_t a, uint32_t b)
{
    return a > b ? a - b : 0;
}

/* below_limit() - what may be taken before the limit or the end of the pool */
static uint32_t
below_limit(const struct inet_pool *p)
{
    return u32_min(less(p->limit, p->used), less(p->free, p->reserve + p->floor));
}

/* below_floor() - what empty queues may take beyond that */
static uint32_t
below_floor(const struct inet_pool *p)
{
    return u32_min(less(p->limit + p->floor, p->used), less(p->free, p->reserve));
}

/* room() - what is left for all */
static uint32_t
room(const struct inet_pool *p)
{
    return less(below_limit(p), p->promised);
}

/* left() - what a queue that already has @own may take, promises included */
static uint32_t
left(const struct inet_pool *p, uint32_t own, uint32_t have)
{
    return less((uint32_t)(((uint64_t)room(p) + own) * 2 / 3), have);
}

static bool
short_of(const struct inet_pool *p)
{
    return room(p) < p->limit / 8;
}

bool
mem_queue_ok(const struct inet *in, uint32_t pages, uint32_t mbufs, uint32_t own_pages,
             uint32_t own_mbufs)
{
    return pages <= left(&in->page, own_pages, own_pages) &&
           mbufs <= left(&in->mbuf, own_mbufs, own_mbufs);
}

void
mem_count(const struct inet *in, const struct mbuf *m, uint32_t *pages, uint32_t *mbufs)
{
    *pages = *mbufs = 0;
    for (; m; m = m->m_next) {
        *pages += mem_is_page(in, m);
        ++*mbufs;
    }
}

/* -- receiving -- */

uint32_t
tcp_mem_window(const struct tcp_conn *c)
{
    const struct inet *in = c->in;
    uint64_t pages = left(&in->page, c->rcv_pages + c->promised, c->rcv_pages);
    uint64_t mbufs = left(&in->mbuf, c->rcv_mbufs, c->rcv_mbufs);
    uint64_t bytes = u64_min(u64_min(pages, mbufs) * c->rcv_fill, c->rcv_limit);
    uint32_t least = 0;

    /*
     * An empty queue always takes a segment or two, or at least the start of one. Before its timer
     * fires, a peer does not send a segment that only partly fits the window (RFC 9293 3.8.6.2.1),
     * so rounding by the scale must not reduce it.
     */
    if (!c->rcv_pages && c->rcv_cc < (uint32_t)MLEN)
        least = (2 * c->rcv_mss + (1u << c->rcv_wscale) - 1) >> c->rcv_wscale << c->rcv_wscale;
    return bytes < least ? least : (uint32_t)bytes;
}

void
tcp_mem_promise(struct tcp_conn *c)
{
    uint32_t beyond = c->rcv_fin_done ? 0 : less(c->rcv_adv - c->rcv_nxt, c->in->promise);

    c->in->page.promised -= c->promised;
    c->promised = (beyond + c->rcv_fill - 1) / c->rcv_fill;
    c->in->page.promised += c->promised;
}

void
tcp_mem_arrived(struct tcp_conn *c, uint32_t len, uint32_t pages)
{
    uint32_t fill = pages ? u32_max(u32_min(len / pages, PAGE_SIZE), MEM_FILL_MIN) : PAGE_SIZE;

    c->rcv_fill = (7 * c->rcv_fill + fill) / 8;
    c->rcv_limit = u32_min(c->rcv_limit + u32_min(len, c->in->rcvbuf), c->in->rcvbuf);
}

bool
tcp_mem_saving(const struct tcp_conn *c)
{
    const struct inet_pool *p = &c->in->page;

    return room(p) < p->limit / 2 ||
           (c->rcv_pages > SPARSE_PAGES && c->rcv_held < (uint64_t)c->rcv_pages * (PAGE_SIZE / 4));
}

uint32_t
tcp_mem_pages(const struct tcp_conn *c, bool ordered)
{
    const struct inet_pool *p = &c->in->page;
    uint32_t n = below_limit(p);

    if (!ordered)
        return u32_min(n, left(p, c->rcv_pages + c->promised, c->rcv_pages));
    return n || c->rcv_pages ? n : u32_min(below_floor(p), FLOOR_PAGES);
}

uint32_t
tcp_mem_mbufs(const struct tcp_conn *c, bool ordered)
{
    const struct inet_pool *p = &c->in->mbuf;
    uint32_t n = below_limit(p);

    if (!ordered)
        return u32_min(n, left(p, c->rcv_mbufs, c->rcv_mbufs));
    return n || c->rcv_mbufs ? n : u32_min(below_floor(p), 1);
}

/* -- sending -- */

uint32_t
tcp_mem_send_mbufs(const struct tcp_conn *c)
{
    const struct inet_pool *p = &c->in->mbuf;
    uint32_t n = left(p, c->snd_mbufs, c->snd_mbufs);

    return n || c->snd_mbufs ? n : u32_min(below_floor(p), 1);
}

uint32_t
tcp_copy_room(struct tcp_conn *c)
{
    struct inet *in = c->in;
    const struct inet_pool *p = &in->page;
    uint32_t most, pages, mbufs;

    mem_look(in);
    most = tcp_send_room(c);
    if (!most)
        return 0;
    mbufs = tcp_mem_send_mbufs(c);
    pages = u32_min(left(p, c->snd_pages, c->snd_pages), mbufs);
    if (!pages && !c->snd_pages && mbufs)
        pages = u32_min(below_floor(p), 1);
    if (pages)
        return (uint32_t)u64_min(most, (uint64_t)pages * PAGE_SIZE);
    if (!c->snd_mbufs && mbufs)
        return u32_min(most, MHLEN);
    /* An acknowledgement wakes waiting senders, but nothing tells us when the application frees memory. */
    in->now = in->clock(in->clock_arg);
    inet_timer(in, in->now + RETRY_NS);
    in->stats.tx_no_memory++;
    return 0;
}

/* -- separate limits, and what is given up when memory is short -- */

/* give_up() - end a connection without a user's handle */
static void
give_up(struct tcp_conn *c, uint64_t *count)
{
    ++*count;
    tcp_abort(c);
}

static struct tcp_conn *
first(struct inet *in, enum tcp_class class)
{
    return TAILQ_FIRST(&in->class[class].list);
}

/* trim() - limit a class to this many; the one idle for longest goes first */
static void
trim(struct inet *in, enum tcp_class class, uint32_t most, uint64_t *count)
{
    while (in->class[class].n > most)
        give_up(first(in, class), count);
}

/* relieve() - end orphans, and drop out-of-order data, without progress for a while */
static void
relieve(struct inet *in)
{
    struct tcp_conn *c, *next;

    for (c = first(in, TC_ORPHAN); c && short_of(&in->page); c = next) {
        next = TAILQ_NEXT(c, class_link);
        if (in->now - c->moved < RELIEF_IDLE)
            break;
        if (c->snd_pages)
            give_up(c, &in->stats.orphans_dropped);
    }
    TAILQ_FOREACH(c, &in->conns, all_link)
    {
        if (c->nranges && in->now - c->range_moved >= RELIEF_IDLE &&
            (short_of(&in->page) || short_of(&in->mbuf))) {
            tcp_reass_free(c);
            in->stats.rx_pruned++;
        }
        /* Memory freed by others, such as the application, can be promised again. */
        tcp_rcv_tell(c);
    }
}

void
mem_relieve(struct inet *in)
{
    struct inet_stats *st = &in->stats;
    uint32_t full = in->max_conns - in->max_conns / 16;

    trim(in, TC_ORPHAN, u32_min(TCP_ORPHANS_MAX, in->max_conns / 4), &st->orphans_dropped);
    trim(in, TC_TIME_WAIT, u32_min(TCP_TIME_WAIT_MAX, in->max_conns / 4), &st->time_wait_dropped);
    while (in->nconns > full && first(in, TC_TIME_WAIT))
        give_up(first(in, TC_TIME_WAIT), &st->time_wait_dropped);
    while (in->nconns > full && first(in, TC_ORPHAN))
        give_up(first(in, TC_ORPHAN), &st->orphans_dropped);
    bool is_short = short_of(&in->page) || short_of(&in->mbuf);

    if (!is_short && !in->was_short)
        return;
    if (!is_short || in->now >= in->next_relief) {
        relieve(in);
        in->was_short = is_short;
        in->next_relief = in->now + RELIEF_NS;
    }
    if (is_short)
        inet_timer(in, in->next_relief);
}
