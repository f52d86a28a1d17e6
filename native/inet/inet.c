/* SPDX-License-Identifier: BSD-2-Clause */
/* The host: its clock, its frames in and out, its timers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "inet/inet_var.h"

#define SNDBUF_DEFAULT (8u << 20)
#define RCVBUF_DEFAULT (4u << 20)

static uint64_t
clock_monotonic(void *arg)
{
    (void)arg;
    return clock_now();
}

uint64_t
inet_random(struct inet *in)
{
    /* splitmix64 */
    uint64_t z = in->rng += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static inline uint64_t
rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static inline void
sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

uint64_t
inet_hash(const struct inet *in, uint32_t addr, uint16_t port, uint16_t local_port, uint32_t what)
{
    uint64_t word[3] = {(uint64_t)addr << 32 | (uint32_t)port << 16 | local_port, what,
                        16ull << 56};
    uint64_t v[4] = {in->secret[0] ^ 0x736f6d6570736575ull, in->secret[1] ^ 0x646f72616e646f6dull,
                     in->secret[0] ^ 0x6c7967656e657261ull, in->secret[1] ^ 0x7465646279746573ull};

    for (unsigned i = 0; i < 3; i++) {
        v[3] ^= word[i];
        sip_round(v);
        sip_round(v);
        v[0] ^= word[i];
    }
    v[2] ^= 0xff;
    for (unsigned i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

bool
inet_allow(struct inet *in, uint32_t *count, uint32_t limit)
{
    uint64_t second = in->now / NS_PER_S;

    if (in->limit_second != second) {
        in->limit_second = second;
        in->rst_sent = 0;
    }
    return (*count)++ < limit;
}

/* look_into() - if the error was a missing file page, let the next poll find out whose. */
static void
look_into(struct inet *in, int rc)
{
    if (rc == -EFAULT)
        in->fault = in->work = true;
}

void
inet_flush(struct inet *in)
{
    if (!in->tx_dirty)
        return;
    in->tx_dirty = false;
    /* A frame that the device refuses is lost, and retransmission recovers it. */
    look_into(in, nic_tx_flush(in->nic, in->queue));
}

int
inet_tx(struct inet *in, struct mbuf *m)
{
    int rc = nic_tx(in->nic, in->queue, m);

    if (rc == -ENOBUFS) {
        look_into(in, nic_tx_flush(in->nic, in->queue));
        rc = nic_tx(in->nic, in->queue, m);
    }
    if (rc) {
        look_into(in, rc);
        in->stats.tx_busy++;
        return rc;
    }
    in->tx_dirty = true;
    in->stats.tx_frames++;
    return 0;
}

void
inet_tx_or_free(struct inet *in, struct mbuf *m)
{
    if (inet_tx(in, m))
        m_freem(m);
}

int
inet_create(struct nic *n, const struct inet_config *config, struct inet **out)
{
    uint32_t sndbuf = config->sndbuf ? config->sndbuf : SNDBUF_DEFAULT;
    uint32_t rcvbuf = config->rcvbuf ? config->rcvbuf : RCVBUF_DEFAULT;
    uint32_t addr = ntohl(config->addr);
    struct inet *in;

    *out = NULL;
    if (!n || config->queue >= nic_nqueues(n) || !addr || IN_MULTICAST(addr) ||
        sndbuf < INET_BUF_MIN || sndbuf > INET_BUF_MAX || rcvbuf < INET_BUF_MIN ||
        rcvbuf > INET_BUF_MAX)
        return -EINVAL;
    in = calloc(1, sizeof(*in));
    if (!in)
        return -ENOMEM;
    in->nic = n;
    in->zone = nic_mbuf_zone(n);
    in->queue = config->queue;
    in->addr = addr;
    in->netmask = ntohl(config->netmask);
    in->gateway = ntohl(config->gateway);
    in->mtu = u32_min(nic_mtu(n), IP_MAXLEN);
    in->offloads = nic_offloads(n);
    in->sndbuf = sndbuf;
    in->rcvbuf = rcvbuf;
    in->clock = config->clock ? config->clock : clock_monotonic;
    in->clock_arg = config->clock_arg;
    memcpy(in->mac, nic_mac(n), sizeof(in->mac));
    in->rng = config->seed;
    if (!in->rng && getrandom(&in->rng, sizeof(in->rng), 0) != (ssize_t)sizeof(in->rng)) {
        free(in);
        return -EIO;
    }
    in->secret[0] = inet_random(in);
    in->secret[1] = inet_random(in);
    in->ip_id = (uint16_t)inet_random(in);
    in->now = in->clock(in->clock_arg);
    in->next_timer = NEVER;
    in->arp_gen = 1;
    in->max_unclaimed = config->unclaimed;
    in->unclaimed_tail = &in->unclaimed;
    TAILQ_INIT(&in->conns);
    TAILQ_INIT(&in->output);
    for (unsigned i = 0; i < TC_COUNT; i++)
        TAILQ_INIT(&in->class[i].list);
    for (unsigned i = 0; i < TCP_HASH; i++)
        TAILQ_INIT(&in->hash[i]);
    mem_init(in, config->budget);
    /* An acknowledgement that finds no page may be the one that would free some. */
    nic_rx_copy(n, in->queue, true);
    *out = in;
    return 0;
}

void
inet_destroy(struct inet *in)
{
    struct mbuf *m;

    if (!in)
        return;
    while (inet_recv_unclaimed(in, &m, 1))
        m_freem(m);
    nic_rx_copy(in->nic, in->queue, false);
    in->now = in->clock(in->clock_arg);
    tcp_destroy(in);
    inet_flush(in);
    arp_destroy(in);
    free(in);
}

unsigned
frame_head(const struct mbuf *m, uint8_t *copy, unsigned want)
{
    unsigned have = 0;

    for (; m && have < want; m = m->m_next) {
        unsigned n = u32_min((uint32_t)m->m_len, want - have);

        memcpy(copy + have, m->m_data, n);
        have += n;
    }
    return have;
}

void
inet_unclaimed(struct inet *in, struct mbuf *m)
{
    uint32_t pages, mbufs;

    in->stats.rx_other++;
    mem_count(in, m, &pages, &mbufs);
    if (in->nunclaimed >= in->max_unclaimed ||
        !mem_queue_ok(in, pages, mbufs, in->unclaimed_pages, in->unclaimed_mbufs)) {
        if (in->nunclaimed < in->max_unclaimed)
            in->stats.rx_no_memory++;
        else if (in->max_unclaimed)
            in->stats.rx_no_buffer++;
        m_freem(m);
        return;
    }
    in->unclaimed_pages += pages;
    in->unclaimed_mbufs += mbufs;
    mem_take(in, pages, mbufs);
    if (!m->m_pkthdr.rcv_tstmp)
        m->m_pkthdr.rcv_tstmp = clock_wall();
    m->m_nextpkt = NULL;
    *in->unclaimed_tail = m;
    in->unclaimed_tail = &m->m_nextpkt;
    in->nunclaimed++;
}

unsigned
inet_recv_unclaimed(struct inet *in, struct mbuf **out, unsigned max)
{
    unsigned n = 0;

    while (n < max && in->unclaimed) {
        struct mbuf *m = in->unclaimed;
        uint32_t pages, mbufs;

        mem_count(in, m, &pages, &mbufs);
        in->unclaimed_pages -= pages;
        in->unclaimed_mbufs -= mbufs;
        mem_give(in, pages, mbufs);
        in->unclaimed = m->m_nextpkt;
        m->m_nextpkt = NULL;
        out[n++] = m;
    }
    if (!in->unclaimed)
        in->unclaimed_tail = &in->unclaimed;
    in->nunclaimed -= n;
    return n;
}

static void
ether_input(struct inet *in, struct mbuf *m)
{
    uint8_t head[ETH_HLEN];
    const uint8_t *eth = mtod(m, const uint8_t *);

    in->stats.rx_frames++;
    if (m->m_len < ETH_HLEN) {
        if (frame_head(m, head, ETH_HLEN) < ETH_HLEN) {
            in->stats.rx_other++;
            m_freem(m);
            return;
        }
        eth = head;
    }
    /* A TAP also passes up frames that are not for us. */
    if (!(eth[ETH_DST] & 1) && memcmp(eth + ETH_DST, in->mac, 6)) {
        in->stats.rx_other++;
        m_freem(m);
        return;
    }
    switch (get16(eth + ETH_TYPE)) {
    case ETHERTYPE_IPV4:
        ip_input(in, m);
        break;
    case ETHERTYPE_ARP4:
        arp_input(in, m);
        break;
    default:
        inet_unclaimed(in, m);
    }
}

int
inet_poll(struct inet *in)
{
    struct mbuf *burst[INET_BURST];
    int total = 0, n = 0;

    in->now = in->clock(in->clock_arg);
    in->work = false;
    mem_look(in);
    /* If the device works on its own, reap what it has sent rather than wait for the next frame. */
    nic_tx_reap(in->nic, in->queue);
    for (unsigned round = 0; round < INET_BURSTS; round++) {
        n = nic_rx_burst(in->nic, in->queue, burst, INET_BURST);
        if (n <= 0)
            break;
        total += n;
        mem_look(in);
        for (int i = 0; i < n; i++)
            ether_input(in, burst[i]);
        /* Once per burst, as acknowledgements that arrive together open the window together. */
        tcp_run_output(in);
        inet_flush(in);
        if (n < INET_BURST)
            break;
    }
    /*
     * While frames are waiting, an acknowledgement may be among them, and a timer that fired now
     * would retransmit data that have arrived.
     */
    if (n == INET_BURST && ++in->timer_skips < INET_TIMER_SKIPS) {
        in->work = true;
    } else {
        in->timer_skips = 0;
        if (in->now >= in->next_timer) {
            in->next_timer = NEVER;
            arp_timers(in);
            tcp_timers(in);
        }
    }
    tcp_run_output(in);
    mem_relieve(in);
    inet_flush(in);
    if (in->fault) {
        in->fault = false;
        tcp_check_pages(in);
    }
    return n < 0 && !total ? n : total;
}

uint64_t
inet_deadline(const struct inet *in)
{
    return in->work ? 0 : in->next_timer;
}

int64_t
inet_timeout(const struct inet *in)
{
    uint64_t due = inet_deadline(in), now;

    if (due == NEVER)
        return -1;
    now = due ? in->clock(in->clock_arg) : 0;
    return due > now ? (int64_t)(due - now) : 0;
}

int
inet_wait(struct inet *in, int64_t timeout_ns)
{
    int64_t due = inet_timeout(in);
    int rc;

    if (due == 0)
        return 1;
    if (due > 0 && (timeout_ns < 0 || due <= timeout_ns)) {
        rc = nic_wait(in->nic, in->queue, due);
        return rc == 0 ? 1 : rc;
    }
    return nic_wait(in->nic, in->queue, timeout_ns);
}

struct nic *
inet_nic(const struct inet *in)
{
    return in->nic;
}

unsigned
inet_queue(const struct inet *in)
{
    return in->queue;
}

uint32_t
inet_sndbuf(const struct inet *in)
{
    return in->sndbuf;
}

void
inet_get_stats(const struct inet *in, struct inet_stats *out)
{
    *out = in->stats;
}

void
inet_get_memory(const struct inet *in, struct inet_memory *out)
{
    *out = (struct inet_memory){
        .pages_limit = in->page.limit,
        .pages_used = in->page.used,
        .pages_promised = in->page.promised,
        .mbufs_limit = in->mbuf.limit,
        .mbufs_used = in->mbuf.used,
        .conns_limit = in->max_conns,
        .conns = in->nconns,
        .half_open = in->class[TC_HALF_OPEN].n,
        .orphans = in->class[TC_ORPHAN].n,
        .time_wait = in->class[TC_TIME_WAIT].n,
    };
}
