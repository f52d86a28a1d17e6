/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The driver against a device that this test plays: what is on the transmit ring segment by segment, and
 * received frames laid out as the test likes.
 */
#include <string.h>

#include "bsd/machine.h"
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
    vq_device_publish(&played.rx);
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
        out->wait_fd[i] = -1;
}

static void
played_destroy(struct device *d)
{
    (void)d;
}

static const struct device_ops played_ops = {played_attach, played_kick,     played_poll,
                                             played_detach, played_describe, played_destroy};

static void
set_up(uint32_t mtu, uint32_t offloads)
{
    const struct machine_config mc = {.pages = 2048};
    const struct nic_config nc = {.nqueues = 1,
                                  .rx_ring_size = RING,
                                  .tx_ring_size = RING,
                                  .mtu = mtu,
                                  .offloads = OFFLOAD_ALL};

    played.dev.ops = &played_ops;
    played.offloads = offloads;
    played.n = 0;
    CHECK_EQ(machine_create(&mc, &machine), 0);
    CHECK_EQ(nic_attach(machine->jumbo, machine->mbufs, &played.dev, &nc, &nic), 0);
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

/* The header shares a segment with the frame when there is room in front that nobody else can see. */
static void
test_lead(void)
{
    static uint8_t f[9000], have[9000];
    struct mbuf *m;

    set_up(9000, 0);
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

    /* Storage that another packet shares is nobody's to write. */
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

int
main(void)
{
    test_lead();
    return 0;
}
