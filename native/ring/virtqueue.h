/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The split virtqueue of virtio 1.x (section 2.7), both halves.
 *
 * The driver half makes descriptor chains available; the device half takes them, and gives them
 * back as used. Filling and publishing are separate calls on both sides: entries are written as
 * they come, and one release store makes a whole batch visible.
 *
 * Ordering, in this one place:
 *
 *   - A producer writes descriptors and ring entries with plain stores, then stores its index with
 *     release. The consumer loads that index with acquire, so that it sees the entries of every
 *     index it acts on. This is what the specification's first barrier (2.7.13.3.1) asks for.
 *   - A consumer keeps a copy of the other side's index and loads it anew only when the copy says
 *     there is nothing left: in a batch that saves the shared cache line's trip for all but one entry.
 *   - Suppression (2.7.13.4.1): "publish my index, then read whether the other side wants an event" on
 *     the one side, "ask for an event, then look at the index again" on the other. Each is a store
 *     followed by a load of another location, which release and acquire do not order: both sides
 *     put a sequentially consistent fence between them, in vq_*_should_notify() and vq_*_enable_notify().
 *
 * Addresses in descriptors are addresses in the arena's reservation (KVA): the device half, or
 * vhost-net with its memory table, accepts nothing else.
 */
#ifndef NIC_HARNESS_VIRTQUEUE_H
#define NIC_HARNESS_VIRTQUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "arena/arena.h"

#define VQ_NUM_MIN 2u
#define VQ_NUM_MAX 32768u

#define VQ_DESC_F_NEXT 1
#define VQ_DESC_F_WRITE 2 /* the device writes it */
#define VQ_DESC_F_INDIRECT 4
#define VQ_AVAIL_F_NO_INTERRUPT 1
#define VQ_USED_F_NO_NOTIFY 1

struct vq_desc { /* 2.7.5 */
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};
_Static_assert(sizeof(struct vq_desc) == 16, "virtio 1.x, 2.7.5");

struct vq_avail { /* 2.7.6; followed by ring[num] and used_event */
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[];
};
_Static_assert(offsetof(struct vq_avail, ring) == 4, "virtio 1.x, 2.7.6");

struct vq_used_elem { /* 2.7.8 */
    uint32_t id;
    uint32_t len;
};
_Static_assert(sizeof(struct vq_used_elem) == 8, "virtio 1.x, 2.7.8");

struct vq_used { /* 2.7.8; followed by ring[num] and avail_event */
    uint16_t flags;
    uint16_t idx;
    struct vq_used_elem ring[];
};
_Static_assert(offsetof(struct vq_used, ring) == 4, "virtio 1.x, 2.7.8");

/* The three shared areas of one queue, in kmem. */
struct vring {
    uint32_t num; /* entries, a power of two */
    bool event_idx;
    struct vq_desc *desc;
    struct vq_avail *avail;
    struct vq_used *used;
    void *mem;
    size_t bytes;
    struct arena *arena;
};

/* vring_create() - areas for @num entries; 0, -EINVAL (not a power of two in range), -ENOMEM. */
int vring_create(struct arena *a, uint32_t num, bool event_idx, struct vring *out);
void vring_destroy(struct vring *r);

/*
 * vring_should_kick() - did the available index pass the event that the device asked for?
 * @now, @old: index published, and the one when this was asked last
 *
 * For whoever tells a device that lives elsewhere. The fence is the one argued at the head of this file.
 */
bool vring_should_kick(const struct vring *r, uint16_t now, uint16_t old);

/* Why a queue was stopped. */
enum vq_error {
    VQ_OK = 0,
    VQ_ERR_INDEX_JUMP,      /* an index moved by more than the ring holds */
    VQ_ERR_HEAD_RANGE,      /* a head or id beyond the ring */
    VQ_ERR_NOT_OUTSTANDING, /* used: a chain that is not with the device */
    VQ_ERR_LOOP,            /* a chain longer than its table */
    VQ_ERR_NEXT_RANGE,
    VQ_ERR_ADDRESS,     /* a buffer outside the arena */
    VQ_ERR_USED_LENGTH, /* used: more bytes than the chain has room for */
    VQ_ERR_INDIRECT,    /* nested, empty or misaligned indirect table */
    VQ_ERR_ORDER,       /* a readable descriptor after a writable one */
    VQ_ERR_TOO_LONG,    /* more segments than the device can take */
    VQ_ERR_MERGE,       /* used: a frame claims more buffers than were used */
    VQ_ERR_COUNT,
};
const char *vq_error_name(enum vq_error e);

struct vq_seg { /* as struct iovec: a chain goes to readv and writev as it is */
    void *addr;
    size_t len;
};
_Static_assert(sizeof(struct vq_seg) == sizeof(struct iovec) &&
                   offsetof(struct vq_seg, len) == offsetof(struct iovec, iov_len),
               "segments are passed as iovec");

/* -- the driver half -- */

struct vq_slot { /* what the driver knows of a chain, by its head */
    void *cookie;
    uint32_t writable; /* bytes the device may write */
    uint16_t ndesc;    /* 0: not outstanding */
    uint16_t next; /* of this descriptor, as the driver linked it: never read back from the ring */
};

struct vq_driver {
    struct vring *r;
    uint16_t num;
    uint16_t mask;
    uint16_t free_head;
    uint16_t num_free;
    uint16_t avail_idx;     /* next to write; published by vq_driver_publish() */
    uint16_t published_idx; /* what the device can see */
    uint16_t used_idx;      /* next to take */
    uint16_t used_cached;   /* the device's index when last loaded */
    enum vq_error error;    /* once set, the queue is stopped */
    struct vq_slot *slot;
};

/* vq_driver_init() - 0 or -ENOMEM. */
int vq_driver_init(struct vq_driver *q, struct vring *r);
void vq_driver_fini(struct vq_driver *q);

/*
 * vq_driver_add() - fill descriptors for one chain; not visible until vq_driver_publish()
 * @q: driver half
 * @seg: @nout segments the device reads, then @nin that it writes
 * @cookie: given back with the chain; not NULL
 *
 * Return: 0; -ENOSPC when the descriptors are out; -EINVAL for no segments or more than the ring.
 */
int vq_driver_add(struct vq_driver *q, const struct vq_seg *seg, unsigned nout, unsigned nin,
                  void *cookie);

/* vq_driver_publish() - one release store for everything added; true when the device wants a kick. */
bool vq_driver_publish(struct vq_driver *q);

/*
 * vq_driver_get() - take one used chain
 * @len: bytes the device says it wrote; never more than the chain has room for
 *
 * Return: its cookie; NULL when there is none, or when the queue is stopped (q->error says why).
 */
void *vq_driver_get(struct vq_driver *q, uint32_t *len);

/*
 * vq_driver_enable_notify() - ask for a notification when @after chains more are used
 *
 * Without event_idx the ring has no way to say how many: then it comes with the first.
 *
 * Return: true when so many are used already.
 */
bool vq_driver_enable_notify(struct vq_driver *q, uint16_t after);
void vq_driver_disable_notify(struct vq_driver *q);

/* vq_driver_outstanding() - chains with the device or published but not taken. */
unsigned vq_driver_outstanding(const struct vq_driver *q);

/* vq_driver_reclaim() - after the device let go: take back one outstanding chain; NULL when none. */
void *vq_driver_reclaim(struct vq_driver *q);

/* -- the device half -- */

struct vq_device {
    struct vring *r;
    uint16_t num;
    uint16_t mask;
    uint16_t avail_idx;    /* next to take */
    uint16_t avail_cached; /* the driver's index when last loaded */
    uint16_t used_idx;     /* next to write */
    uint16_t used_published;
    enum vq_error error;
};

/* A chain as the device half sees it: copied out of shared memory once, then checked. */
struct vq_chain {
    uint16_t head;
    uint16_t nout;
    uint16_t nin;
    uint32_t out_len;
    uint32_t in_len;
};

void vq_device_init(struct vq_device *q, struct vring *r);

/* vq_device_pending() - chains available and not taken; loads the index only when the copy is used up. */
unsigned vq_device_pending(struct vq_device *q);

/*
 * vq_device_get() - take the next available chain
 * @q: device half
 * @seg: room for its segments: those to read first, then those to write
 * @nseg: how many fit
 * @chain: head, numbers, sums of lengths
 *
 * Every length, index and address is checked before it is used, on a copy that the driver can no
 * longer change.
 *
 * Return: 1 a chain; 0 none; -EPROTO when the driver broke the ring: the queue is stopped and
 * q->error says why.
 */
int vq_device_get(struct vq_device *q, struct vq_seg *seg, unsigned nseg, struct vq_chain *chain);

/* vq_device_unget() - the last @n chains taken were not used: they will be taken again. */
void vq_device_unget(struct vq_device *q, unsigned n);

/* vq_device_put() - give a chain back with @len bytes written; not visible until published. */
void vq_device_put(struct vq_device *q, uint16_t head, uint32_t len);

/* vq_device_publish() - one release store; true when the driver wants an interrupt. */
bool vq_device_publish(struct vq_device *q);

/* vq_device_enable_notify() - ask for kicks; true when something is available already. */
bool vq_device_enable_notify(struct vq_device *q);
void vq_device_disable_notify(struct vq_device *q);

#endif
