/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile device against the driver: whatever it writes to the rings and into the buffers that it was
 * given, each packet is sound, and after detach no page and no mbuf is missing.
 */
#include "machine/machine.h"
#include "device/device.h"
#include "fuzz.h"
#include "nic/nic.h"

#define NUM 16u

enum {
    USE,     /* give a posted buffer back */
    FRAME,   /* the first of several, with a header that says so */
    FORGE,   /* a used entry as the input has it */
    PUBLISH, /* what was given back */
    INDEX,   /* the used index, as the input has it */
    RECEIVE,
    SEND,
    COMPLETE, /* a transmitted chain */
    RX_RING,  /* bytes anywhere in the shared areas */
    TX_RING,
    OPS
};

static struct hostile {
    struct device dev;
    struct vring *rx_ring, *tx_ring;
    bool lost; /* it wrote over the descriptors and knows no more where the buffers are */
    struct vq_device rx, tx;
} hostile;

static struct machine *machine;

static int
hostile_attach(struct device *d, struct device_attach *at)
{
    (void)d;
    hostile.rx_ring = at->queue[0].rx;
    hostile.tx_ring = at->queue[0].tx;
    vq_device_init(&hostile.rx, hostile.rx_ring);
    vq_device_init(&hostile.tx, hostile.tx_ring);
    hostile.lost = false;
    at->split_done = true;
    return 0;
}

static int
hostile_kick(struct device *d, unsigned queue)
{
    (void)d;
    (void)queue;
    return 0;
}

static int
hostile_poll(struct device *d, unsigned queue, unsigned budget)
{
    (void)d;
    (void)queue;
    (void)budget;
    return 0;
}

static int
hostile_detach(struct device *d)
{
    (void)d;
    return 0;
}

static void
hostile_describe(struct device *d, struct device_info *out)
{
    (void)d;
    memset(out, 0, sizeof(*out));
    out->name = "hostile";
    out->nqueues = 1;
    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++)
        out->wait_fd[i] = out->wake_fd[i] = -1;
}

static void
hostile_destroy(struct device *d)
{
    (void)d;
}

static const struct device_ops hostile_ops = {
    .attach = hostile_attach,
    .kick = hostile_kick,
    .poll = hostile_poll,
    .detach = hostile_detach,
    .describe = hostile_describe,
    .destroy = hostile_destroy,
};

/* use() - a posted buffer, with the first bytes of the input in it, and a length that may be a lie */
static void
use(struct input *in, uint16_t buffers)
{
    struct vq_chain c;
    struct vq_seg seg;

    hostile.rx.error = VQ_OK; /* it does not care */
    if (vq_device_get(&hostile.rx, &seg, 1, &c) != 1)
        return;
    struct net_hdr h = {.num_buffers = buffers};
    size_t n = take(in, 1) % 24;

    n = n < in->left ? n : in->left;
    /* Only where the driver said: a device that writes elsewhere cannot be defended against. */
    if (!hostile.lost && seg.len >= sizeof(h) + 24) {
        memcpy((char *)seg.addr + sizeof(h), in->p, n);
        memcpy(seg.addr, &h, sizeof(h));
    }
    in->p += n;
    in->left -= n;
    vq_device_put(&hostile.rx, c.head, (uint32_t)take(in, 2));
}

static void
receive(struct nic *nic)
{
    struct mbuf *m[8];
    int got = nic_rx_burst(nic, 0, m, 8);

    for (int i = 0; i < got; i++) {
        static char bytes[NET_FRAME_BUFFERS * PAGE_SIZE];

        MUST(mb_check(m[i]) == 0);
        MUST(m_copydata(m[i], 0, m[i]->m_pkthdr.len, bytes) == 0);
        m_freem(m[i]);
    }
    MUST(nic_check(nic) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    static const uint8_t frame[60] = {0};
    const struct machine_config mc = {.pages = 64};
    const struct nic_config nc = {.nqueues = 1,
                                  .rx_ring_size = NUM,
                                  .tx_ring_size = NUM,
                                  .mtu = 1500,
                                  .header_split = take(&in, 1) & 1 ? 54 : 0};
    struct nic *nic;

    if (machine == NULL)
        MUST(machine_create(&mc, &machine) == 0);
    hostile.dev.ops = &hostile_ops;
    MUST(nic_attach(machine->jumbo, machine->mbufs, &hostile.dev, &nc, &nic) == 0);
    while (in.left > 0) {
        switch (take(&in, 1) % OPS) {
        case USE:
            use(&in, 1);
            break;
        case FRAME:
            use(&in, (uint16_t)take(&in, 1));
            break;
        case FORGE: {
            struct vq_used_elem *e = &hostile.rx_ring->used->ring[hostile.rx.used_idx++ % NUM];

            e->id = (uint32_t)take(&in, 1);
            e->len = (uint32_t)take(&in, 4);
            break;
        }
        case PUBLISH:
            vq_device_publish(&hostile.rx);
            vq_device_publish(&hostile.tx);
            break;
        case INDEX:
            hostile.rx_ring->used->idx = (uint16_t)take(&in, 2);
            break;
        case RECEIVE:
            receive(nic);
            break;
        case SEND: {
            struct mbuf *m = mb_frombytes(machine->mbufs, machine->jumbo, frame, sizeof(frame));

            MUST(m);
            if (nic_tx(nic, 0, m) != 0)
                m_freem(m);
            nic_tx_flush(nic, 0);
            break;
        }
        case COMPLETE: {
            struct vq_seg seg[NET_TX_SEGS];
            struct vq_chain c;

            hostile.tx.error = VQ_OK;
            if (vq_device_get(&hostile.tx, seg, NET_TX_SEGS, &c) == 1)
                vq_device_put(&hostile.tx, (uint16_t)(c.head + take(&in, 1) % 3), 0);
            break;
        }
        case RX_RING:
            hostile.lost = true;
            scribble(&in, hostile.rx_ring->mem, hostile.rx_ring->bytes);
            break;
        case TX_RING:
            scribble(&in, hostile.tx_ring->mem, hostile.tx_ring->bytes);
            break;
        }
    }
    receive(nic);
    nic_detach(nic);
    MUST(machine_idle(machine) == 0);
    MUST(machine->arena->misuse_total == 0);
    return 0;
}
