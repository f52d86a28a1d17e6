/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What all devices on TAP queues share: descriptor set-up, error translation and receiving.
 *
 * Each read receives one frame into posted buffers. The buffer posted last is filled first: it was
 * in use a moment ago and is still cached, so the cost of a frame depends on the frames in flight,
 * not on the size of the ring. (virtio 1.x, 2.7.14: buffers may be used out of order.)
 */
#ifndef NIC_HARNESS_DEVICE_TAP_H
#define NIC_HARNESS_DEVICE_TAP_H

#include <errno.h>

#include "device/device.h"

/* Posted buffers taken from the ring but not used yet: [first, size), newest first. */
struct tap_stack {
    struct vq_seg *iov;
    uint16_t *head;
    uint32_t first, size;
};

struct tap_queue {
    struct vq_device rx, tx;
    int fd;
    struct tap_stack page, header;
    size_t header_bytes; /* size of a header buffer; 0: no header split */
    size_t need;         /* room a read needs so that the longest frame is not cut, bytes */
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
 * Return: 0; -EINVAL if a descriptor is not such a queue, or @nqueues is out of range; -EBADF.
 * Nothing is left behind on failure.
 */
int tap_init(struct tap *t, const struct device_ops *ops, const int *fds, unsigned nqueues);
void tap_fini(struct tap *t);

/*
 * tap_setup() - set up 12-byte headers, little-endian as in virtio 1.x, and offloads
 * @fd: TAP queue
 * @offloads: OFFLOAD_* wanted; those that this kernel refuses are cleared
 */
int tap_setup(int fd, uint32_t *offloads);

/* Most segments that a read is offered; enough for the longest frame in pages. */
#define TAP_READ_SEGS 64u
/*
 * A poll ends after this many bytes, so that the received pages and their replacements are still in
 * the processor's cache when the consumer gets them. (64 super-frames at a time cost 1.6 times as
 * much.)
 */
#define TAP_POLL_BYTES (64u << 10)

/* Posted buffers offered to one read: their place on the stacks, and how many. */
struct tap_read {
    uint32_t page, npages;
    uint32_t header; /* one, if headers are split off */
    unsigned nseg;
    size_t room; /* bytes */
};

/*
 * tap_read_room() - collect room for the longest frame
 * @page, @header: where to start on the stacks
 * @seg: space for TAP_READ_SEGS; adjacent buffers become one segment, because the kernel copies
 *       faster into one piece than into several
 *
 * Return: false if too few buffers are posted: wait for more rather than cut a frame.
 */
bool tap_read_room(struct tap_queue *q, uint32_t page, uint32_t header, struct vq_seg *seg,
                   struct tap_read *r);

/* Buffers that a frame used, counted from the first that its read was offered. */
struct tap_used {
    uint32_t pages, headers;
};

/*
 * tap_read_done() - finish a read: return the used buffers to the driver with the frame
 * @res: the result: bytes or -errno
 *
 * The caller removes them from the stacks.
 */
struct tap_used tap_read_done(struct tap_queue *q, const struct tap_read *r, int64_t res);

/* tap_take_posted() - move posted buffers to the stacks; 0, or -EPROTO for a broken ring */
int tap_take_posted(struct tap_queue *q);

/* The functions of struct device_ops that are the same for all TAP devices. */
int tap_attach(struct device *d, struct device_attach *at);
int tap_poll(struct device *d, unsigned queue, unsigned budget);
int tap_detach(struct device *d);
/* tap_describe() - everything but the name */
void tap_describe(struct device *d, struct device_info *out);

/*
 * tap_write() - transmit one chain by a system call; returns bytes or -errno
 * @seg, @n: net_hdr and frame
 */
int64_t tap_write(struct tap_queue *q, const struct vq_seg *seg, unsigned n);

/* tap_retry() - after this error, must the frame stay on the ring until the interface accepts it? */
static inline bool
tap_retry(int64_t res)
{
    return res == -EAGAIN || res == -EIO || res == -EBADFD;
}

/* The results of one kick. */
struct tap_sent {
    int frames; /* frames sent */
    bool fault; /* a frame was lost: one of its file pages no longer exists */
};

/* tap_sent() - count the result of sending a frame */
void tap_sent(struct tap_queue *q, int64_t res, struct tap_sent *sum);

/* tap_kicked() - what kick returns if there is no other error */
static inline int
tap_kicked(const struct tap_sent *sum)
{
    return sum->fault ? -EFAULT : sum->frames;
}

/* tap_error() - translate and count a TAP error for the device interface; 0 for EAGAIN, or negative. */
int tap_error(struct tap_queue *q, int err);

#endif
