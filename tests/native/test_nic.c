/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The driver against a device that this test plays: it checks the transmit ring segment by segment,
 * and lays out received frames as it likes.
 */
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine/machine.h"
#include "check.h"
#include "nic/nic.h"

#define RING 256u
#define LEAD 16

/* A frame as the device saw it. */
struct sent {
    struct net_hdr h;
    unsigned nout;
    size_t len;
    uint8_t data[NET_FRAME_MAX];
};

static struct played {
    struct device dev;
    struct vq_device rx, tx;
    uint32_t offloads; /* what it can do */
    uint32_t split;    /* bytes of headers, when the driver asked for that */
    bool no_split;
    int event; /* of a device that works on its own; otherwise -1 */
    unsigned n;
    struct sent sent[64];
} played;

static struct machine *machine;
static struct nic *nic;

static int
played_attach(struct device *d, struct device_attach *at)
{
    (void)d;
    vq_device_init(&played.rx, at->queue[0].rx);
    vq_device_init(&played.tx, at->queue[0].tx);
    at->offloads &= played.offloads;
    played.split = at->header_split;
    at->split_done = !played.no_split;
    return 0;
}

static int
played_kick(struct device *d, unsigned queue)
{
    struct vq_seg seg[NET_TX_SEGS];
    struct vq_chain c;
    int sent = 0;

    (void)d;
    (void)queue;
    while (vq_device_get(&played.tx, seg, NET_TX_SEGS, &c) == 1) {
        struct sent *s = &played.sent[played.n++];
        size_t skip = sizeof(s->h);

        CHECK(played.n <= sizeof(played.sent) / sizeof(played.sent[0]));
        CHECK(seg[0].len >= skip);
        memcpy(&s->h, seg[0].addr, skip);
        s->nout = c.nout;
        s->len = 0;
        for (unsigned i = 0; i < c.nout; i++, skip = 0) {
            memcpy(s->data + s->len, (char *)seg[i].addr + skip, seg[i].len - skip);
            s->len += seg[i].len - skip;
        }
        vq_device_put(&played.tx, c.head, 0);
        sent++;
    }
    CHECK_EQ(played.tx.error, VQ_OK);
    vq_device_publish(&played.tx);
    return sent;
}

static int
played_poll(struct device *d, unsigned queue, unsigned budget)
{
    (void)d;
    (void)queue;
    (void)budget;
    if (played.event < 0)
        vq_device_publish(&played.rx);
    return 0;
}

static int
played_posted(struct device *d, unsigned queue)
{
    eventfd_t value;

    (void)d;
    (void)queue;
    if (played.event >= 0)
        eventfd_read(played.event, &value);
    return 0;
}

static int
played_detach(struct device *d)
{
    (void)d;
    return 0;
}

static void
played_describe(struct device *d, struct device_info *out)
{
    (void)d;
    memset(out, 0, sizeof(*out));
    out->name = "played";
    out->nqueues = 1;
    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++)
        out->wait_fd[i] = out->wake_fd[i] = played.event;
}

static void
played_destroy(struct device *d)
{
    (void)d;
}

static const struct device_ops played_ops = {
    .attach = played_attach,
    .kick = played_kick,
    .poll = played_poll,
    .posted = played_posted,
    .detach = played_detach,
    .describe = played_describe,
    .destroy = played_destroy,
};

static struct nic_config
config(uint32_t mtu)
{
    return (struct nic_config){.nqueues = 1,
                               .rx_ring_size = RING,
                               .tx_ring_size = RING,
                               .mtu = mtu,
                               .offloads = OFFLOAD_ALL};
}

static int
attach(const struct nic_config *nc)
{
    const struct machine_config mc = {.pages = 2048};

    played.dev.ops = &played_ops;
    played.n = 0;
    CHECK_EQ(machine_create(&mc, &machine), 0);
    return nic_attach(machine->jumbo, machine->mbufs, &played.dev, nc, &nic);
}

static int
try_set_up(uint32_t mtu, uint32_t offloads, uint32_t split)
{
    struct nic_config nc = config(mtu);

    nc.header_split = split;
    played.offloads = offloads;
    played.event = -1;
    return attach(&nc);
}

static void
set_up(uint32_t mtu, uint32_t offloads, uint32_t split)
{
    CHECK_EQ(try_set_up(mtu, offloads, split), 0);
}

static void
tear_down(void)
{
    CHECK_EQ(nic_check(nic), 0);
    CHECK_EQ(nic_detach(nic), 0);
    CHECK_EQ(machine_idle(machine), 0);
    CHECK_EQ(machine->arena->misuse_total, 0);
    CHECK_EQ(machine_destroy(machine), 0);
}

static void
fill(uint8_t *f, size_t len)
{
    for (size_t i = 0; i < len; i++)
        f[i] = (uint8_t)(i * 7 + (i >> 8));
}

static struct mbuf *
packet(const uint8_t *bytes, size_t len)
{
    struct mbuf *m = mb_frombytes_lead(machine->mbufs, machine->jumbo, bytes, len, LEAD);

    CHECK(m);
    return m;
}

/* expect() - what went out last is these bytes, in this many segments */
static void
expect(const uint8_t *bytes, size_t len, unsigned nout)
{
    static const struct net_hdr none;

    CHECK(played.n > 0);
    const struct sent *s = &played.sent[played.n - 1];

    CHECK_EQ(s->len, len);
    CHECK(memcmp(s->data, bytes, len) == 0);
    CHECK(memcmp(&s->h, &none, sizeof(none)) == 0);
    CHECK_EQ(s->nout, nout);
    CHECK_EQ(nic_check(nic), 0);
}

static void
send_now(struct mbuf *m)
{
    CHECK_EQ(nic_tx(nic, 0, m), 0);
    CHECK_EQ(nic_tx_flush(nic, 0), 1);
}

/* The header shares a segment with the frame if there is unshared room in front. */
static void
test_lead(void)
{
    static uint8_t f[9000], have[9000];
    struct mbuf *m;

    set_up(9000, 0, 0);
    fill(f, sizeof(f));
    send_now(packet(f, 60));
    expect(f, 60, 1);
    send_now(packet(f, 1514));
    expect(f, 1514, 1);
    send_now(packet(f, 9000));
    expect(f, 9000, 3);
    send_now(packet(f, 8192)); /* fills its pages: no room */
    expect(f, 8192, 3);

    /* At an odd address; twelve bytes are room, eleven are not. */
    for (int cut = 11; cut <= 13; cut++) {
        m = packet(f, 1600);
        m->m_data += cut - LEAD;
        memcpy(m->m_data, f, 1600);
        send_now(m);
        expect(f, 1600, cut < 12 ? 2 : 1);
    }

    /* Storage shared with another packet must not be written. */
    m = packet(f, 1514);
    struct mbuf *twin = m_copypacket(m, M_NOWAIT);

    CHECK(twin);
    memset(m->m_data - LEAD, 0xaa, LEAD);
    send_now(twin);
    expect(f, 1514, 2);
    for (int i = 0; i < LEAD; i++)
        CHECK_EQ((uint8_t)(m->m_data - LEAD)[i], 0xaa);
    CHECK_EQ(m_copydata(m, 0, 1514, (caddr_t)have), 0);
    CHECK(memcmp(f, have, 1514) == 0);
    send_now(m);
    expect(f, 1514, 1);

    /* More pieces than the ring takes in a chain: copied into fewer. */
    m = packet(f, 50);
    for (int i = 1; i < 80; i++)
        m_cat(m, packet(f + i * 50, 50));
    m->m_pkthdr.len = 4000;
    send_now(m);
    expect(f, 4000, 1);
    tear_down();
}

/* take_buffer() - the next posted buffer for headers, or the next page */
static struct vq_seg
take_buffer(bool headers, uint16_t *head)
{
    static struct {
        struct vq_seg seg;
        uint16_t head;
    } aside[2][RING];
    static unsigned n[2];
    struct vq_chain c;
    struct vq_seg seg;

    if (played.rx.avail_idx == 0)
        n[0] = n[1] = 0;
    while (n[headers] == 0) {
        CHECK_EQ(vq_device_get(&played.rx, &seg, 1, &c), 1);
        unsigned kind = seg.len == sizeof(struct net_hdr) + played.split;

        CHECK(kind || (seg.len == PAGE_SIZE && (uintptr_t)seg.addr % PAGE_SIZE == 0));
        aside[kind][n[kind]].seg = seg;
        aside[kind][n[kind]++].head = c.head;
    }
    n[headers]--;
    *head = aside[headers][n[headers]].head;
    return aside[headers][n[headers]].seg;
}

/* arrive() - a frame comes: its header first when it is split off, then in pages */
static void
arrive(const uint8_t *f, size_t len)
{
    struct net_hdr *h = NULL;
    bool headers = played.split != 0;
    size_t skip = sizeof(*h);
    uint16_t head;

    for (size_t at = 0; h == NULL || at < len; headers = false, skip = 0) {
        struct vq_seg seg = take_buffer(headers, &head);
        size_t part = len - at < seg.len - skip ? len - at : seg.len - skip;

        if (h == NULL) {
            h = seg.addr;
            memset(h, 0, sizeof(*h));
        }
        memcpy((char *)seg.addr + skip, f + at, part);
        vq_device_put(&played.rx, head, (uint32_t)(part + skip));
        h->num_buffers++;
        at += part;
    }
}

/* A frame's headers, put together by hand, and where their end is. */
struct sample {
    const char *what;
    uint8_t bytes[120];
    uint32_t payload; /* 0: there is no transport header */
};

static const struct sample samples[] = {
    {"IPv4, TCP", {[12] = 0x08, [14] = 0x45, [23] = 6, [46] = 0x50}, 54},
    {"IPv4, TCP with 12 bytes of options", {[12] = 0x08, [14] = 0x45, [23] = 6, [46] = 0x80}, 66},
    {"IPv4 with 4 bytes of options, UDP", {[12] = 0x08, [14] = 0x46, [23] = 17}, 46},
    {"IPv4, UDP", {[12] = 0x08, [14] = 0x45, [23] = 17}, 42},
    {"IPv4, ICMP", {[12] = 0x08, [14] = 0x45, [23] = 1}, 0},
    {"IPv4, first fragment", {[12] = 0x08, [14] = 0x45, [20] = 0x20, [23] = 17}, 0},
    {"IPv4, a later fragment", {[12] = 0x08, [14] = 0x45, [21] = 8, [23] = 17}, 0},
    {"VLAN, IPv4, TCP", {[12] = 0x81, [16] = 0x08, [18] = 0x45, [27] = 6, [50] = 0x50}, 58},
    {"QinQ, IPv6, UDP",
     {[12] = 0x88, [13] = 0xa8, [16] = 0x81, [20] = 0x86, [21] = 0xdd, [22] = 0x60, [28] = 17},
     70},
    {"IPv6, TCP", {[12] = 0x86, [13] = 0xdd, [14] = 0x60, [20] = 6, [66] = 0x50}, 74},
    {"IPv6, destination options of 16 bytes, TCP",
     {[12] = 0x86, [13] = 0xdd, [14] = 0x60, [20] = 60, [54] = 6, [55] = 1, [82] = 0x50},
     90},
    {"IPv6, fragment", {[12] = 0x86, [13] = 0xdd, [14] = 0x60, [20] = 44, [54] = 17}, 0},
    {"ARP", {[12] = 0x08, [13] = 0x06}, 0},
    {"IPv4 that says version 6", {[12] = 0x08, [14] = 0x65, [23] = 6, [46] = 0x50}, 0},
    {"IPv4, TCP header of 16 bytes", {[12] = 0x08, [14] = 0x45, [23] = 6, [46] = 0x40}, 0},
};
#define SAMPLES (sizeof(samples) / sizeof(samples[0]))

/* The first bytes come in an mbuf's own, the others start on a page; hits are where the headers end there. */
static void
test_split(void)
{
    static uint8_t f[9000], have[9000];
    const size_t sizes[] = {60, 200, 1514, 4096 + 54, 9000};
    struct nic_queue_stats st;
    struct mbuf *m;

    CHECK_EQ(try_set_up(1500, 0, 13), -EINVAL);
    CHECK_EQ(machine_destroy(machine), 0);
    CHECK_EQ(try_set_up(1500, 0, NIC_SPLIT_MAX + 1), -EINVAL);
    CHECK_EQ(machine_destroy(machine), 0);
    played.no_split = true;
    CHECK_EQ(try_set_up(1500, 0, 54), -EOPNOTSUPP);
    CHECK_EQ(machine_idle(machine), 0);
    CHECK_EQ(machine_destroy(machine), 0);
    played.no_split = false;
    for (uint32_t split = 14; split <= NIC_SPLIT_MAX; split += 4) {
        uint64_t hits = 0, misses = 0;

        set_up(9000, 0, split);
        for (size_t i = 0; i < SAMPLES; i++) {
            for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
                size_t len = sizes[k];

                fill(f, len);
                memcpy(f, samples[i].bytes, len < 120 ? len : 120);
                arrive(f, len);
                CHECK_EQ(nic_rx_burst(nic, 0, &m, 1), 1);
                CHECK_EQ(mb_check(m), 0);
                CHECK_EQ(m->m_pkthdr.len, len);
                CHECK(!(m->m_flags & M_EXT));
                CHECK_EQ(m->m_len, len < split ? len : split);
                for (const struct mbuf *p = m->m_next; p; p = p->m_next)
                    CHECK_EQ((uintptr_t)p->m_data % PAGE_SIZE, 0);
                CHECK_EQ(m_copydata(m, 0, (int)len, (caddr_t)have), 0);
                CHECK(memcmp(f, have, len) == 0);
                hits += len > split && samples[i].payload == split;
                misses += len > split && samples[i].payload != split;
                m_freem(m);
                CHECK_EQ(nic_check(nic), 0);
            }
        }
        nic_get_stats(nic, 0, &st);
        CHECK_EQ(st.rx_delivered, SAMPLES * 5);
        CHECK_EQ(st.rx_split_hit, hits);
        CHECK_EQ(st.rx_split_miss, misses);
        CHECK_EQ(st.rx_headers_delivered, SAMPLES * 5);
        CHECK_EQ(st.rx_returned, st.rx_pages_delivered + st.rx_headers_delivered);
        CHECK_EQ(st.rx_outstanding, RING);
        tear_down();
    }
}

/* refuse() - a NIC cannot be created with this configuration */
static void
refuse(const struct nic_config *nc)
{
    CHECK_EQ(attach(nc), -EINVAL);
    CHECK_EQ(machine_destroy(machine), 0);
}

/* set_up_async() - a device that works on its own */
static void
set_up_async(const struct nic_config *nc)
{
    played.event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(played.event >= 0);
    CHECK_EQ(attach(nc), 0);
}

static void
tear_down_async(void)
{
    tear_down();
    close(played.event);
    played.event = -1;
}

/* come() - @n frames come on their own; is anybody woken? */
static bool
come(unsigned n)
{
    static uint8_t f[60];

    for (; n > 0; n--) {
        arrive(f, sizeof(f));
        if (vq_device_publish(&played.rx))
            eventfd_write(played.event, 1);
    }
    return nic_wait(nic, 0, 0) == 1;
}

/* taken() - all that came is taken */
static unsigned
taken(void)
{
    struct mbuf *m[64];
    int got = nic_rx_burst(nic, 0, m, 64);

    CHECK(got >= 0);
    for (int i = 0; i < got; i++)
        m_freem(m[i]);
    CHECK_EQ(nic_check(nic), 0);
    return (unsigned)got;
}

static void
test_coalescing(void)
{
    struct nic_config nc = config(1500);

    /* Every frame wakes. */
    set_up_async(&nc);
    CHECK(!come(0));
    for (int i = 0; i < 1000; i++) {
        CHECK(come(1));
        CHECK_EQ(taken(), 1);
        CHECK(!come(0));
    }
    tear_down_async();

    /* The eighth wakes; the first does when it has been quiet. An hour is longer than any test. */
    nc.coalesce_frames = 8;
    refuse(&nc);
    nc.coalesce_us = 3600u * 1000000;
    set_up_async(&nc);
    CHECK(come(1));
    CHECK_EQ(taken(), 1);
    for (int i = 0; i < 1000; i++) {
        CHECK(!come(7));
        CHECK(come(1));
        CHECK_EQ(taken(), 8);
    }
    CHECK(!come(7));
    CHECK_EQ(taken(), 7); /* the consumer polled anyway */
    CHECK_EQ(taken(), 0); /* nothing came since: quiet */
    CHECK(come(1));
    tear_down_async();

    /* Time wakes. */
    nc.coalesce_us = 1000;
    set_up_async(&nc);
    CHECK(come(1));
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(taken(), 1);
        come(1);
        CHECK_EQ(nic_wait(nic, 0, 60 * 1000000000ll), 1);
    }
    CHECK_EQ(taken(), 1);
    CHECK_EQ(nic_wait(nic, 0, 60 * 1000000000ll), 1);
    CHECK_EQ(taken(), 0);
    CHECK(!come(0)); /* and does not go on for ever */
    CHECK(come(1));
    tear_down_async();
}

/* visible() - buffers that the device can see */
static unsigned
visible(void)
{
    return (uint16_t)(__atomic_load_n(&played.rx.r->avail->idx, __ATOMIC_ACQUIRE) -
                      played.rx.used_idx);
}

/* New buffers are made known when fewer than the low water are left, and then all of them. */
static void
test_low_water(void)
{
    struct nic_config nc = config(1500);
    unsigned least = RING, published = 0;

    nc.rx_low_water = NET_FRAME_BUFFERS - 1;
    refuse(&nc);
    nc.rx_low_water = RING + 1;
    refuse(&nc);
    nc.rx_low_water = 100;
    set_up_async(&nc);
    for (unsigned i = 0; i < 5000; i++) {
        unsigned before = visible();

        come(1);
        CHECK_EQ(taken(), 1);
        least = visible() < least ? visible() : least;
        published += visible() > before;
    }
    CHECK_EQ(least, 100);
    CHECK_EQ(published,
             5000 / (RING - 99)); /* from the full ring down to 99, which is seen by nobody */
    tear_down_async();
}

/* Without a page left, small frames come as copies where that was asked for, and pages stay posted. */
static void
test_copy(void)
{
    static const size_t sizes[] = {14, 60, 200, 1514, NIC_RX_COPY_MAX, NIC_RX_COPY_MAX + 1, 9014};
    static uint8_t f[9014];
    static uint8_t out[sizeof(f)];
    static struct vm_page *taken_away[8192];

    fill(f, sizeof(f));
    for (uint32_t split = 0; split <= 60; split += 60) {
        struct nic_queue_stats before, after;
        size_t n = 0;

        set_up(9000, OFFLOAD_ALL, split);
        while ((taken_away[n] = jumbo_alloc(machine->jumbo, NULL)) != NULL)
            n++;
        for (unsigned on = 0; on < 2; on++) {
            nic_rx_copy(nic, 0, on);
            for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
                bool whole = split && sizes[i] <= split; /* it needs no page at all */
                bool copied = on && !whole && sizes[i] <= NIC_RX_COPY_MAX;
                uint64_t counted = machine->arena->bytes_copied;
                struct mbuf *m = NULL;

                nic_get_stats(nic, 0, &before);
                arrive(f, sizes[i]);
                CHECK_EQ(nic_rx_burst(nic, 0, &m, 1), copied || whole);
                nic_get_stats(nic, 0, &after);
                CHECK_EQ(after.rx_copied - before.rx_copied, copied);
                CHECK_EQ(after.rx_drop_no_page - before.rx_drop_no_page, !copied && !whole);
                CHECK_EQ(after.rx_outstanding, RING);
                CHECK_EQ(machine->arena->bytes_copied - counted, copied ? sizes[i] : 0);
                CHECK_EQ(nic_check(nic), 0);
                if (m) {
                    CHECK_EQ(mb_check(m), 0);
                    CHECK_EQ(m->m_pkthdr.len, (int)sizes[i]);
                    CHECK(m->m_pkthdr.rcvif == nic);
                    CHECK_EQ(m_copydata(m, 0, (int)sizes[i], (caddr_t)out), 0);
                    CHECK(memcmp(out, f, sizes[i]) == 0);
                    m_freem(m);
                }
            }
        }
        while (n > 0) {
            vm_page_t pg = taken_away[--n];

            CHECK_EQ(jumbo_free(machine->jumbo, jumbo_kva(machine->jumbo, pg), NULL), 0);
        }
        tear_down();
    }
}

int
main(void)
{
    test_lead();
    test_copy();
    test_split();
    test_coalescing();
    test_low_water();
    return 0;
}
