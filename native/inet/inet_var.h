/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of this room share: the host, its ARP cache, and the calls between protocols. */
#ifndef NIC_HARNESS_INET_VAR_H
#define NIC_HARNESS_INET_VAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/in_cksum.h"
#include "inet/inet.h"
#include "inet/wire.h"

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
#define NEVER UINT64_MAX

#define INET_BURST 32           /* frames taken from the NIC at a time */
#define INET_BURSTS 8           /* bursts in one poll, at most */
#define INET_TIMER_SKIPS 16     /* polls that may put the timers off while frames keep coming */
#define INET_RETRY_NS NS_PER_MS /* before retrying output that found no room */
#define INET_RST_PER_S 1000     /* resets for segments without a connection */

/* The longest Ethernet, IP and TCP headers together. */
#define FRAME_HDR_MAX (ETH_HLEN + IP_HLEN_MAX + TCP_HLEN_MAX)

#define ARP_ENTRIES 64
#define ARP_QUEUE 4
#define ARP_TRIES 3
#define ARP_RETRY_NS NS_PER_S
#define ARP_REFRESH_NS (45 * NS_PER_S) /* then a used entry is requested again */
#define ARP_EXPIRE_NS (60 * NS_PER_S)

enum arp_state {
    ARP_FREE = 0,
    ARP_INCOMPLETE,
    ARP_VALID
};

struct arp_entry {
    uint32_t addr;
    uint8_t mac[6];
    uint8_t state;
    uint8_t tries;      /* requests sent since the last reply */
    bool used;          /* since the last reply */
    uint64_t confirmed; /* when the last reply came */
    uint64_t next_try;
    struct mbuf *queue[ARP_QUEUE]; /* frames waiting for the address, oldest first */
    unsigned nqueue;
};

#define TCP_HASH_BITS 9
#define TCP_HASH (1u << TCP_HASH_BITS)

TAILQ_HEAD(tcp_list, tcp_conn);

/* One kind of memory that queues use: arena pages or mbufs. See mem.c. */
struct inet_pool {
    uint32_t limit, floor, reserve;
    uint32_t used;     /* by the queues of this stack */
    uint32_t promised; /* set aside for windows; pages only */
    uint32_t free;     /* free in the pool when last checked */
};

/* Connections without a user's handle: one list for each kind that has its own limit. */
enum tcp_class {
    TC_NONE = 0, /* has a handle, or will get one from tcp_accept() */
    TC_HALF_OPEN,
    TC_ORPHAN,
    TC_TIME_WAIT,
    TC_COUNT
};

/* One host. Its addresses are in host byte order. */
struct inet {
    struct nic *nic;
    struct mbuf_zone *zone;
    unsigned queue;
    uint32_t addr, netmask, gateway;
    uint32_t mtu;
    uint32_t offloads;
    uint32_t sndbuf, rcvbuf;
    uint8_t mac[6];
    bool tx_dirty; /* frames on the ring are not flushed yet */
    bool work;     /* output is pending, so inet_wait() returns at once */
    bool fault;    /* some connection lost a frame because a file page no longer exists */
    uint16_t ip_id;
    unsigned timer_skips;

    uint64_t (*clock)(void *arg);
    void *clock_arg;
    uint64_t now;        /* ns, taken once per entry */
    uint64_t next_timer; /* no timer is due before this */

    uint64_t rng;
    uint64_t secret[2];
    uint64_t limit_second; /* the second that rst_sent counts */
    uint32_t rst_sent;

    struct mbuf *unclaimed, **unclaimed_tail; /* by m_nextpkt */
    uint32_t nunclaimed, max_unclaimed;
    uint32_t unclaimed_pages, unclaimed_mbufs;

    struct arp_entry arp[ARP_ENTRIES];
    uint32_t arp_gen;              /* changes whenever a cached MAC address may be stale */
    uint32_t arp_pages, arp_mbufs; /* held by its queues */

    struct tcp_list conns;
    struct tcp_list hash[TCP_HASH];
    struct tcp_list output; /* connections with data to transmit */
    unsigned nconns, noutput;
    struct {
        struct tcp_list list; /* the one idle for longest comes first */
        unsigned n;
    } class[TC_COUNT];
    uint32_t max_conns;
    uint64_t cookie_until; /* until when a SYN cookie may come back */

    struct inet_pool page, mbuf;
    uint32_t promise; /* bytes promised to each connection without setting pages aside */
    bool was_short;
    uint64_t next_relief;

    struct inet_stats stats;
};

/* What ip_input() tells the protocol above about a packet. */
struct ip_view {
    const uint8_t *frame; /* the first @avail bytes of the frame, contiguous */
    unsigned avail;
    unsigned hlen; /* IP header, bytes */
    unsigned len;  /* IP packet, bytes */
    uint32_t src, dst;
};

static inline uint64_t
u64_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t
u64_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline uint32_t
u32_min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t
u32_max(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* inet_timer() - make the timers run at @when. */
static inline void
inet_timer(struct inet *in, uint64_t when)
{
    if (when < in->next_timer)
        in->next_timer = when;
}

/* inet_random() - 64 pseudo-random bits determined by the seed. */
uint64_t inet_random(struct inet *in);
/* inet_hash() - keyed hash of a connection's addresses and ports (SipHash-2-4). */
uint64_t inet_hash(const struct inet *in, uint32_t addr, uint16_t port, uint16_t local_port,
                   uint32_t what);
/* inet_tx() - put one frame on the ring, flushing once if it is full; consumes @m on success only. */
int inet_tx(struct inet *in, struct mbuf *m);
/* inet_tx_or_free() - put one frame on the ring, or drop it. */
void inet_tx_or_free(struct inet *in, struct mbuf *m);
void inet_flush(struct inet *in);
/* inet_unclaimed() - keep a frame that no protocol here handles for inet_recv_unclaimed(), or drop it. */
void inet_unclaimed(struct inet *in, struct mbuf *m);
/* inet_allow() - rate limit: may *@count go up by one in this second? */
bool inet_allow(struct inet *in, uint32_t *count, uint32_t limit);

/* frame_head() - gather the first bytes of a frame, to parse its headers; returns how many there are. */
unsigned frame_head(const struct mbuf *m, uint8_t *copy, unsigned want);

/* csum_bytes() - ones' complement sum of bytes as big-endian words. */
uint16_t csum_bytes(const uint8_t *p, size_t len);
/* csum_mbuf() - the same over a part of a chain that lies inside it, @init added. */
uint16_t csum_mbuf(const struct mbuf *m, unsigned off, unsigned len, uint32_t init);
/* csum_pseudo() - of the pseudo header, RFC 9293 3.1. */
static inline uint32_t
csum_pseudo(uint32_t src, uint32_t dst, uint8_t proto, uint32_t len)
{
    return (src >> 16) + (src & 0xffff) + (dst >> 16) + (dst & 0xffff) + proto + len;
}

/* -- mem.c: the budget -- */

#define MEM_PROMISE_MAX 65536u
#define MEM_FILL_MIN 1024u /* bytes in a page, at least: what compacting comes to */

/* mem_init() - divide the pool; @budget: pages at most, 0: what the rings leave, less a quarter. */
void mem_init(struct inet *in, uint32_t budget);
/* mem_look() - check what is left in the pools. */
void mem_look(struct inet *in);
/* mem_queue_ok() - may a queue that holds @own_pages and @own_mbufs take @pages and @mbufs more? */
bool mem_queue_ok(const struct inet *in, uint32_t pages, uint32_t mbufs, uint32_t own_pages,
                  uint32_t own_mbufs);
/* mem_count() - pages and mbufs that a chain holds */
void mem_count(const struct inet *in, const struct mbuf *m, uint32_t *pages, uint32_t *mbufs);
/* mem_relieve() - enforce the limits; call it between frames, as it may free connections. */
void mem_relieve(struct inet *in);

/* mem_is_page() - is an mbuf's storage a page of the arena? */
static inline bool
mem_is_page(const struct inet *in, const struct mbuf *m)
{
    const struct jumbo *j = nic_jumbo(in->nic);

    return (m->m_flags & M_EXT) &&
           (uintptr_t)m->m_ext.ext_buf - (uintptr_t)j->kva < j->max_pages << PAGE_SHIFT;
}

/* mem_take(), mem_give() - account for memory that a queue takes or releases. */
static inline void
mem_take(struct inet *in, uint32_t pages, uint32_t mbufs)
{
    in->page.used += pages;
    in->mbuf.used += mbufs;
}

static inline void
mem_give(struct inet *in, uint32_t pages, uint32_t mbufs)
{
    in->page.used -= pages;
    in->mbuf.used -= mbufs;
}

/* -- arp.c -- */

void arp_input(struct inet *in, struct mbuf *m);
/* arp_lookup() - MAC address of a neighbour; NULL: unknown, and requested. */
const uint8_t *arp_lookup(struct inet *in, uint32_t addr);
/* arp_output() - transmit a frame to a neighbour, or keep it until the address is known. */
void arp_output(struct inet *in, uint32_t addr, struct mbuf *m);
void arp_timers(struct inet *in);
void arp_destroy(struct inet *in);

/* -- ip.c -- */

/* ip_input() - process one frame with EtherType IPv4; consumes it. */
void ip_input(struct inet *in, struct mbuf *m);
/* ip_nexthop() - next hop towards an address; 0: none. */
uint32_t ip_nexthop(const struct inet *in, uint32_t dst);
/* ip_header() - write Ethernet and IP headers for an IP packet of @len bytes, except the destination MAC address. */
void ip_header(struct inet *in, uint8_t *frame, uint32_t dst, uint8_t proto, uint32_t len);
/* ip_output() - transmit a frame whose headers ip_header() wrote; consumes it. */
void ip_output(struct inet *in, uint32_t dst, struct mbuf *m);

/* -- icmp.c -- */

void icmp_input(struct inet *in, struct mbuf *m, const struct ip_view *ip);

/* -- tcp -- */

void tcp_input(struct inet *in, struct mbuf *m, const struct ip_view *ip);
/*
 * tcp_unreachable() - ICMP reported that one of our segments did not arrive
 * @mtu: for NEEDFRAG, the next hop's MTU; 0: not given
 * @len: length of our IP packet, from the quoted header
 */
void tcp_unreachable(struct inet *in, uint32_t dst, uint16_t sport, uint16_t dport, uint32_t seq,
                     unsigned code, uint32_t mtu, uint32_t len);
/* tcp_neighbour() - a neighbour's address is now known, or could not be resolved. */
void tcp_neighbour(struct inet *in, uint32_t nexthop, bool found);
/* tcp_neighbour_wanted() - does any connection use that neighbour? */
bool tcp_neighbour_wanted(struct inet *in, uint32_t nexthop);
/* tcp_run_output() - transmit for every connection that requested it. */
void tcp_run_output(struct inet *in);
void tcp_timers(struct inet *in);
/* tcp_check_pages() - abort connections whose send buffers hold file pages that no longer exist. */
void tcp_check_pages(struct inet *in);
void tcp_destroy(struct inet *in);

#endif
