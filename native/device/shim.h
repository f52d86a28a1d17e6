/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a device that has a device inside is made of: rings of its own towards the inner one, and the
 * frames relayed between the two pairs, by descriptor. No payload byte is copied on the way.
 *
 *      driver <-> outer rings <-> shim <-> inner rings <-> inner device
 *
 * The shim is the device half of the outer rings and the driver half of the inner ones. Its maker
 * supplies two functions that see each frame and say what becomes of it.
 */
#ifndef NIC_HARNESS_DEVICE_SHIM_H
#define NIC_HARNESS_DEVICE_SHIM_H

#include "device/device.h"

/* A posted receive buffer, known by its head on the outer ring. */
struct shim_buffer {
    struct shim_buffer *next; /* spare list */
    void *addr;
    uint32_t len;
    uint16_t head;
};

/* A received frame: the buffers it is spread over, and the bytes in each. */
struct shim_rx {
    struct shim_rx *next;
    uint64_t due; /* for a frame put aside: ns, CLOCK_MONOTONIC */
    unsigned n;
    struct shim_buffer *buffer[NET_FRAME_BUFFERS];
    uint32_t len[NET_FRAME_BUFFERS];
};

/* A transmit chain: net_hdr and frame. */
struct shim_tx {
    struct shim_tx *next;
    uint64_t due;
    uint16_t head;   /* on the outer ring */
    uint16_t copies; /* with the inner device now */
    unsigned n;
    struct vq_seg seg[NET_TX_SEGS];
};

struct shim;

/*
 * rx: a frame came from the inner device: pass it to exactly one of shim_rx_give(), shim_rx_drop(), or
 *     keep it (it is the maker's until one of the two).
 * tx: a frame came from the driver: pass it to shim_tx_send() (also twice), or to shim_tx_done() when it
 *     is not to be sent, or keep it.
 * done: the inner device is through with a chain: shim_tx_done(), now or later.
 * tick: called before each poll and kick: what was kept may be let go. False: the device is stalled.
 * fini: free what is the maker's; kept frames need nothing done, the driver reclaims them.
 */
struct shim_ops {
    const char *name;
    unsigned spare; /* receive buffers to hold back for shim_spare() */
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
    int wake_fd; /* of an inner device that works on its own; -1 */
    bool fault;  /* a kick from a poll lost a frame to a page that had gone: the next one tells */
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

/* shim_rx_give() - deliver a frame to the driver; @f is free()d */
void shim_rx_give(struct shim *s, unsigned queue, struct shim_rx *f);
/* shim_rx_drop() - its buffers are posted to the inner device again; @f is free()d */
void shim_rx_drop(struct shim *s, unsigned queue, struct shim_rx *f);
/* shim_spare() - a posted buffer nobody uses; NULL when there is none. */
struct shim_buffer *shim_spare(struct shim *s, unsigned queue);

/* shim_tx_send() - put a chain on the inner ring, with @seg instead of its own segments when not NULL */
bool shim_tx_send(struct shim *s, unsigned queue, struct shim_tx *c, const struct vq_seg *seg,
                  unsigned n);
/* shim_tx_done() - give a chain back to the driver */
void shim_tx_done(struct shim *s, unsigned queue, struct shim_tx *c);

static inline struct shim *
shim_of(struct device *d)
{
    return (struct shim *)(void *)d;
}

#endif
