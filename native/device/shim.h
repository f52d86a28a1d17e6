/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The base of every device with another device inside: it has its own rings towards the inner
 * device, and relays frames between the two pairs of rings by descriptor. No payload byte is
 * copied.
 *
 *      driver <-> outer rings <-> shim <-> inner rings <-> inner device
 *
 * The shim is the device half of the outer rings and the driver half of the inner ones. The wrapper
 * supplies functions (struct shim_ops) that see each frame and decide what happens to it.
 */
#ifndef NIC_HARNESS_DEVICE_SHIM_H
#define NIC_HARNESS_DEVICE_SHIM_H

#include "device/device.h"

/* A posted receive buffer, identified by its head on the outer ring. */
struct shim_buffer {
    struct shim_buffer *next; /* spare list */
    void *addr;
    uint32_t len;
    uint16_t head;
};

/* A received frame: the buffers that it spans, and the bytes in each. */
struct shim_rx {
    struct shim_rx *next;
    uint64_t due; /* for a kept frame: ns, CLOCK_MONOTONIC */
    unsigned n;
    struct shim_buffer *buffer[NET_FRAME_BUFFERS];
    uint32_t len[NET_FRAME_BUFFERS];
};

/* A transmit chain: net_hdr and frame. */
struct shim_tx {
    struct shim_tx *next;
    uint64_t due;
    uint16_t head;   /* on the outer ring */
    uint16_t copies; /* copies that the inner device has now */
    unsigned n;
    struct vq_seg seg[NET_TX_SEGS];
};

struct shim;

/*
 * rx: a frame came from the inner device: pass it to exactly one of shim_rx_give() and
 *     shim_rx_drop(), now or later; the wrapper owns it until then.
 * tx: a frame came from the driver: pass it to shim_tx_send() (once or twice), to shim_tx_done() to
 *     drop it, or keep it.
 * done: the inner device has finished with a chain: call shim_tx_done(), now or later.
 * tick: called before each poll and kick, to release kept frames. False: the device is stalled.
 * fini: free the wrapper's own data; leave kept frames alone, the driver reclaims them.
 */
struct shim_ops {
    const char *name;
    unsigned spare; /* receive buffers to reserve for shim_spare() */
    void (*rx)(struct shim *s, unsigned queue, struct shim_rx *f);
    void (*tx)(struct shim *s, unsigned queue, struct shim_tx *c);
    void (*done)(struct shim *s, unsigned queue, struct shim_tx *c);
    bool (*tick)(struct shim *s, unsigned queue);
    void (*fini)(struct shim *s);
};

struct shim_queue {
    struct vq_device outer_rx, outer_tx;
    struct vring ring_rx, ring_tx;
    struct vq_driver inner_rx, inner_tx;
    struct shim_buffer *buffer; /* by outer head */
    struct shim_tx *chain;      /* by outer head */
    struct shim_buffer *spare;
    unsigned nspare;
    int wake_fd; /* if the inner device works on its own; or -1 */
    bool fault;  /* a poll's kick lost a frame with a missing page; reported by the next kick */
};

struct shim {
    struct device dev;
    const struct shim_ops *ops;
    struct device *inner;
    struct arena *arena;
    unsigned nqueues;
    char name[64];
    struct shim_queue q[NIC_MAX_QUEUES];
};

/* shim_init() - @s wraps @inner and owns it from now on */
void shim_init(struct shim *s, const struct shim_ops *ops, struct device *inner);

/* shim_rx_give() - deliver a frame to the driver; frees @f */
void shim_rx_give(struct shim *s, unsigned queue, struct shim_rx *f);
/* shim_rx_drop() - post its buffers to the inner device again; frees @f */
void shim_rx_drop(struct shim *s, unsigned queue, struct shim_rx *f);
/* shim_spare() - an unused posted buffer; NULL if there is none. */
struct shim_buffer *shim_spare(struct shim *s, unsigned queue);

/* shim_tx_send() - put a chain on the inner ring, with @seg, unless NULL, instead of its own segments */
bool shim_tx_send(struct shim *s, unsigned queue, struct shim_tx *c, const struct vq_seg *seg,
                  unsigned n);
/* shim_tx_done() - return a chain to the driver */
void shim_tx_done(struct shim *s, unsigned queue, struct shim_tx *c);

static inline struct shim *
shim_of(struct device *d)
{
    return (struct shim *)(void *)d;
}

#endif
