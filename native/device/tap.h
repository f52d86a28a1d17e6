/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What every device on a TAP queue does alike: set-up of the descriptor, the names of its moods, and
 * receiving.
 *
 * Receiving is a read into posted buffers, one frame each. The buffer posted last is filled first:
 * it was in use a moment ago and lies in the cache, so that what a frame costs depends on the
 * frames in flight and not on the size of the ring. (virtio 1.x, 2.7.14: buffers may be used out of order.)
 */
#ifndef NIC_HARNESS_DEVICE_TAP_H
#define NIC_HARNESS_DEVICE_TAP_H

#include <errno.h>

#include "device/device.h"

/* Posted buffers taken from the ring and not used yet: [first, size), the newest first. */
struct tap_stack {
    struct vq_seg *iov;
    uint16_t *head;
    uint32_t first, size;
};

struct tap_queue {
    struct vq_device rx, tx;
    int fd;
    struct tap_stack page, header;
    size_t header_bytes; /* of a buffer for headers; 0: they are not split off */
    size_t need;         /* bytes a read must offer so that the longest frame is not cut */
    struct device_queue_stats stats;
};

/* A device whose queues are TAP queues. */
struct tap {
    struct device dev;
    unsigned nqueues;
    uint32_t offloads;
    struct tap_queue q[NIC_MAX_QUEUES];
};

static inline struct tap *
tap_of(struct device *d)
{
    return (struct tap *)(void *)d;
}

/*
 * tap_init() - duplicate the descriptors
 * @t: zeroed
 * @fds: @nqueues TAP queues with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
 *
 * Return: 0; -EINVAL when a descriptor is no such queue, or for a number out of range; -EBADF; nothing
 * is left behind.
 */
int tap_init(struct tap *t, const struct device_ops *ops, const int *fds, unsigned nqueues);
void tap_fini(struct tap *t);

/*
 * tap_setup() - 12-byte headers, little-endian as virtio 1.x has them, and offloads
 * @fd: TAP queue
 * @offloads: OFFLOAD_* wanted; cleared of what this kernel refuses
 */
int tap_setup(int fd, uint32_t *offloads);

/* Segments that a read is offered at most; those of the longest frame in pages fit. */
#define TAP_READ_SEGS 64u
/*
 * Bytes after which a poll ends: what it took, and the pages that take its place, should still be in the
 * processor's cache when the consumer has them. (64 super-frames at a time cost 1.6 times as much.)
 */
#define TAP_POLL_BYTES (64u << 10)

/* Posted buffers that one read is offered: where on the stacks, and how many. */
struct tap_read {
    uint32_t page, npages;
    uint32_t header; /* one, when headers are split off */
    unsigned nseg;
    size_t room; /* bytes */
};

/*
 * tap_read_room() - room for the longest frame
 * @page, @header: from where on the stacks
 * @seg: space for TAP_READ_SEGS; buffers that are neighbours are one segment: the kernel copies into one
 *       piece faster than into several
 *
 * Return: false when too few are posted: wait for more rather than cut a frame.
 */
bool tap_read_room(struct tap_queue *q, uint32_t page, uint32_t header, struct vq_seg *seg,
                   struct tap_read *r);

/* Buffers that a frame took, from the first that its read was offered. */
struct tap_used {
    uint32_t pages, headers;
};

/*
 * tap_read_done() - what became of a read: the buffers used are given back, with the frame
 * @res: as a completion has it: bytes or -errno
 *
 * The caller takes them off the stacks.
 */
struct tap_used tap_read_done(struct tap_queue *q, const struct tap_read *r, int64_t res);

/* tap_take_posted() - put what was posted on the stacks; 0, or -EPROTO for a broken ring */
int tap_take_posted(struct tap_queue *q);

/* What struct device_ops asks for, where all TAP devices do the same. */
int tap_attach(struct device *d, struct device_attach *at);
int tap_poll(struct device *d, unsigned queue, unsigned budget);
int tap_detach(struct device *d);
/* tap_describe() - everything but the name */
void tap_describe(struct device *d, struct device_info *out);

/*
 * tap_write() - transmit one chain by a system call; res as a completion has it: bytes or -errno
 * @seg, @n: net_hdr and frame
 */
int64_t tap_write(struct tap_queue *q, const struct vq_seg *seg, unsigned n);

/* tap_retry() - must a frame that failed so stay on the ring, to go out when the interface takes it? */
static inline bool
tap_retry(int64_t res)
{
    return res == -EAGAIN || res == -EIO || res == -EBADFD;
}

/* What became of the frames of one kick. */
struct tap_sent {
    int frames; /* went out */
    bool fault; /* one did not, because a file page in it had gone */
};

/* tap_sent() - count what became of a frame */
void tap_sent(struct tap_queue *q, int64_t res, struct tap_sent *sum);

/* tap_kicked() - what kick returns when nothing else is wrong */
static inline int
tap_kicked(const struct tap_sent *sum)
{
    return sum->fault ? -EFAULT : sum->frames;
}

/* tap_error() - a mood of the TAP as the device interface names it; counted; 0 for EAGAIN, or negative. */
int tap_error(struct tap_queue *q, int err);

#endif
