/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What plays the part of the NIC: a few functions over a pair of rings per queue.
 *
 * A device takes posted buffers from the receive ring, fills them with a struct net_hdr and a
 * frame, and takes chains (net_hdr, frame) from the transmit ring. A wrapper (faults, capture) is a
 * device with another device inside.
 */
#ifndef NIC_HARNESS_DEVICE_H
#define NIC_HARNESS_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "ring/virtqueue.h"

#define NIC_MAX_QUEUES 16

/* struct virtio_net_hdr_v1 (5.1.6); it precedes every frame in both directions. */
struct net_hdr {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t num_buffers; /* receive: posted buffers that the frame spans */
};
_Static_assert(sizeof(struct net_hdr) == 12, "virtio 1.x, 5.1.6");

#define NET_HDR_F_NEEDS_CSUM 1
#define NET_HDR_F_DATA_VALID 2
#define NET_HDR_GSO_NONE 0
#define NET_HDR_GSO_TCPV4 1
#define NET_HDR_GSO_UDP 3
#define NET_HDR_GSO_TCPV6 4
#define NET_HDR_GSO_UDP_L4 5
#define NET_HDR_GSO_ECN 0x80

/* What a device may leave undone on frames it gives us, and does on frames we send. */
#define OFFLOAD_CSUM 0x01 /* partial checksums */
#define OFFLOAD_TSO4 0x02
#define OFFLOAD_TSO6 0x04
#define OFFLOAD_ECN 0x08
#define OFFLOAD_USO 0x10 /* USO4 and USO6: only together */
#define OFFLOAD_ALL 0x1f

/* 65535 bytes, plus an Ethernet header and a VLAN tag. */
#define NET_FRAME_MAX (65535u + 18u)
/* Pages that such a frame can span, with the header in front. */
#define NET_FRAME_PAGES ((NET_FRAME_MAX + sizeof(struct net_hdr) + PAGE_SIZE - 1) / PAGE_SIZE + 1)
/* Buffers for it: the pages, and one for the headers if they are split off. */
#define NET_FRAME_BUFFERS (NET_FRAME_PAGES + 1)
/* Segments that a transmit chain may have. */
#define NET_TX_SEGS 64

struct device_queue {
    struct vring *rx;
    struct vring *tx;
};

struct device_attach {
    struct arena *arena;
    unsigned nqueues;
    struct device_queue queue[NIC_MAX_QUEUES];
    uint32_t offloads;  /* OFFLOAD_*, wanted; the device clears what it cannot do */
    uint32_t frame_max; /* longest frame other than a super-frame, bytes; 0: NET_FRAME_MAX */
    /*
     * Bytes of each frame that go to a separate header buffer, before the pages; 0: none. Header
     * buffers are posted among the pages, and are recognized by their size: exactly this plus a
     * struct net_hdr.
     */
    uint32_t header_split;
    bool split_done; /* set by a device that does it */
};

struct device_queue_stats {
#define COUNTER(name, what) uint64_t name;
#define DROP(name, why, what) uint64_t name;
#include "device/counters.def"
};

struct device_info {
    const char *name;  /* tap_rw, tap_uring, vhost_net */
    uint32_t offloads; /* negotiated */
    unsigned nqueues;
    int wait_fd[NIC_MAX_QUEUES]; /* readable when a poll would find work; or -1 */
    /*
     * For a device that works on its own: an eventfd that makes wait_fd readable at once; otherwise
     * that happens when the ring asks for it. -1: the device works only when it is polled.
     */
    int wake_fd[NIC_MAX_QUEUES];
    struct device_queue_stats queue[NIC_MAX_QUEUES];
};

struct device;

/*
 * What a device does. Each function returns 0 or a negative errno unless said otherwise.
 *
 * attach: the rings exist, and the driver has not posted anything yet.
 * kick: the driver published on a queue; transmit what is there. Frames moved, or -errno:
 *       -EFAULT: all were taken, but some were lost because their file pages no longer exist.
 * poll: receive up to @budget frames into posted buffers. Frames moved, or -errno: -ENETDOWN if the
 *       interface is down, -ENODEV if the device is gone, -EPROTO if the driver broke the ring.
 *       NULL: the device works on its own.
 * posted: buffers were published on the receive ring. The device takes note and clears wait_fd, so
 *       look at the ring after the call. Errors as for poll. NULL: the device looks when it is
 *       polled.
 * detach: after it returns, the device touches neither ring nor buffer. The driver reclaims chains
 *       that were taken but not used.
 * describe: always works.
 */
struct device_ops {
    int (*attach)(struct device *d, struct device_attach *at);
    int (*kick)(struct device *d, unsigned queue);
    int (*poll)(struct device *d, unsigned queue, unsigned budget);
    int (*posted)(struct device *d, unsigned queue);
    int (*detach)(struct device *d);
    void (*describe)(struct device *d, struct device_info *out);
    void (*destroy)(struct device *d);
};

struct device {
    const struct device_ops *ops;
};

/* A kind of device on TAP queues, chosen by name. */
struct device_kind {
    const char *name;
    const char *does; /* "makes a system call for each frame" */
    int (*create)(const int *fds, unsigned nqueues, struct device **out);
    unsigned automatic; /* "auto" tries the highest first; 0: chosen only by name */
    bool everywhere;    /* it needs only the TAP */
};

/* All kinds; the first one works everywhere. */
extern const struct device_kind device_kinds[];
extern const unsigned device_nkinds;

static inline int
device_poll(struct device *d, unsigned queue, unsigned budget)
{
    return d->ops->poll ? d->ops->poll(d, queue, budget) : 0;
}

static inline int
device_posted(struct device *d, unsigned queue)
{
    return d->ops->posted ? d->ops->posted(d, queue) : 0;
}

/*
 * tap_rw_create() - a device that calls readv and writev on the TAP queues' descriptors
 * @fds: @nqueues descriptors set up by TUNSETIFF with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR; they are
 * duplicated
 * @out: the device
 *
 * Return: 0; -EINVAL if a descriptor is not such a TAP queue; -ENOMEM.
 */
int tap_rw_create(const int *fds, unsigned nqueues, struct device **out);

/*
 * tap_uring_create() - like tap_rw, but moves frames in batches through io_uring
 * @fds, @nqueues, @out: as tap_rw_create()
 *
 * Return: as tap_rw_create(); -EPERM if kernel.io_uring_disabled or a filter forbids io_uring;
 * -ENOSYS if the kernel has none, or is older than 5.11.
 */
int tap_uring_create(const int *fds, unsigned nqueues, struct device **out);

/*
 * vhost_net_create() - the kernel's vhost-net with the TAP queues as its backends
 * @fds, @nqueues, @out: as tap_rw_create()
 *
 * Attaching it fails with -ENOENT without /dev/vhost-net, -EACCES or -EPERM if that may not be
 * opened, -EOPNOTSUPP if it lacks a feature that our rings need, and -ENOSPC if a receive ring has
 * fewer than NET_FRAME_PAGES entries.
 *
 * Return: as tap_rw_create().
 */
int vhost_net_create(const int *fds, unsigned nqueues, struct device **out);

/*
 * vhost_net_missing() - find the features that our rings need and this kernel's vhost-net lacks
 * @missing: feature bits (virtio 1.x, 6); 0: nothing
 *
 * Return: 0; -ENOENT, -EACCES or -EPERM as for attaching it.
 */
int vhost_net_missing(uint64_t *missing);

#endif
