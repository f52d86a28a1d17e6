/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What plays the NIC: a few functions over a pair of rings per queue.
 *
 * A device takes posted buffers from the receive ring, fills them with a struct net_hdr and a frame,
 * and takes chains (net_hdr, frame) from the transmit ring. A wrapper (faults, capture) is a device
 * that has a device inside.
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
    uint16_t num_buffers; /* receive: posted buffers the frame is spread over */
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

/* What a device can be asked to leave undone (towards us) and to do (for us). */
#define OFFLOAD_CSUM 0x01 /* partial checksums */
#define OFFLOAD_TSO4 0x02
#define OFFLOAD_TSO6 0x04
#define OFFLOAD_ECN 0x08
#define OFFLOAD_USO 0x10 /* USO4 and USO6: only together */
#define OFFLOAD_ALL 0x1f

/* A frame of 65535 bytes behind an Ethernet header and a VLAN tag. */
#define NET_FRAME_MAX (65535u + 18u)
/* Pages that one can be spread over, with the header in front. */
#define NET_FRAME_PAGES ((NET_FRAME_MAX + sizeof(struct net_hdr) + PAGE_SIZE - 1) / PAGE_SIZE + 1)
/* Buffers: the pages, and one for the headers when they are split off. */
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
    uint32_t frame_max; /* longest frame that is no super-frame, bytes; 0: NET_FRAME_MAX */
    /*
     * Bytes of each frame that go to a buffer of their own, before the pages; 0: none. Such buffers are
     * posted among the pages, and are those of exactly that many bytes and a struct net_hdr's.
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
    int wait_fd[NIC_MAX_QUEUES]; /* readable when a poll would find work; -1 */
    /*
     * Of a device that works on its own: an eventfd that makes wait_fd readable, which otherwise becomes so
     * when the ring asks for it. -1: the device works only when it is polled.
     */
    int wake_fd[NIC_MAX_QUEUES];
    struct device_queue_stats queue[NIC_MAX_QUEUES];
};

struct device;

/*
 * What a device does. Each function returns 0 or a negative errno unless said otherwise.
 *
 * attach: the rings are there and the driver has posted nothing yet.
 * kick: the driver published on a queue; transmit what is there. Frames moved, or -errno:
 *       -EFAULT all were taken, and one or more were lost because a file page in them had gone.
 * poll: receive up to @budget frames into posted buffers. Frames moved, or -errno: -ENETDOWN the interface
 *       is down, -ENODEV the device is gone, -EPROTO the driver broke the ring. NULL: it works on its own.
 * posted: buffers were published on the receive ring. The device takes note, and forgets what made wait_fd
 *       readable: look at the ring after it. Errors as those of poll. NULL: it looks when it is polled.
 * detach: after it returns, the device touches neither ring nor buffer. Chains it had taken and not
 *       used are the driver's to reclaim.
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

/* A device on TAP queues, as it is chosen by name. */
struct device_kind {
    const char *name;
    const char *does; /* "makes a system call for each frame" */
    int (*create)(const int *fds, unsigned nqueues, struct device **out);
    unsigned automatic; /* "auto" tries the highest first; 0: this one is chosen by name only */
    bool everywhere;    /* it needs nothing but the TAP */
};

/* All there are; the first one works everywhere. */
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
 * tap_rw_create() - readv and writev on the TAP queue's descriptors
 * @fds: @nqueues descriptors that TUNSETIFF was done on, with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR; duplicated
 * @out: the device
 *
 * Return: 0; -EINVAL when a descriptor is no such TAP queue; -ENOMEM.
 */
int tap_rw_create(const int *fds, unsigned nqueues, struct device **out);

/*
 * tap_uring_create() - as tap_rw, but what waits to be transmitted goes out in batches by io_uring
 * @fds, @nqueues, @out: as tap_rw_create()
 *
 * Return: 0; as tap_rw_create(); -EPERM when kernel.io_uring_disabled or a filter forbids io_uring;
 * -ENOSYS when the kernel has none, or one older than 5.11.
 */
int tap_uring_create(const int *fds, unsigned nqueues, struct device **out);

/*
 * vhost_net_create() - the kernel's vhost-net with the TAP queues as its backends
 * @fds, @nqueues, @out: as tap_rw_create()
 *
 * Attaching it fails with -ENOENT without /dev/vhost-net, -EACCES or -EPERM when it may not be opened, and
 * -EOPNOTSUPP when it lacks a feature that our rings are made of; with -ENOSPC when a receive ring has fewer
 * than NET_FRAME_PAGES entries.
 *
 * Return: as tap_rw_create().
 */
int vhost_net_create(const int *fds, unsigned nqueues, struct device **out);

/*
 * vhost_net_missing() - what this kernel's vhost-net lacks of what our rings are made of
 * @missing: feature bits (virtio 1.x, 6); 0: nothing
 *
 * Return: 0; -ENOENT, -EACCES or -EPERM as attaching it.
 */
int vhost_net_missing(uint64_t *missing);

#endif
