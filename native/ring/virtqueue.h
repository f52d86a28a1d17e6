/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The split virtqueue of virtio 1.x (section 2.7), both halves.
 *
 * The driver half makes descriptor chains available; the device half takes them and returns them as
 * used. Filling and publishing are separate calls on both sides: entries are written one by one,
 * and one release store makes a whole batch visible.
 *
 * Memory ordering, for both halves:
 *
 *   - A producer writes descriptors and ring entries with plain stores, then stores its index with
 *     release. The consumer loads that index with acquire, so that it sees the entries of every
 *     index it acts on. This is what the specification's first barrier (2.7.13.3.1) asks for.
 *   - A consumer caches the other side's index and reloads it only when the cached value says that
 *     nothing is left: in a batch, only one entry pays for moving the shared cache line.
 *   - Suppression (2.7.13.4.1): "publish my index, then read whether the other side wants an event"
 *     on one side, "ask for an event, then check the index again" on the other. Each is a store
 *     followed by a load of another location, which release and acquire do not order. So both sides
 *     put a sequentially consistent fence in between, in vq_*_should_notify() and
 *     vq_*_enable_notify().
 *
 * Descriptors hold addresses in the arena's reservation (KVA). The device half accepts nothing
 * else; neither does vhost-net, by its memory table.
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
#define VQ_DESC_F_WRITE 2 /* the device writes to it */
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

/* vring_create() - allocate the areas for @num entries; 0, -EINVAL (not a power of two in range), -ENOMEM. */
int vring_create(struct arena *a, uint32_t num, bool event_idx, struct vring *out);
void vring_destroy(struct vring *r);

/*
 * vring_should_kick() - has the available index passed the event that the device asked for?
 * @now, @old: the index published now, and the one at the previous call
 *
 * For code that notifies a device elsewhere. Includes the fence described at the head of this file.
 */
bool vring_should_kick(const struct vring *r, uint16_t now, uint16_t old);

/* Why a queue was stopped. */
enum vq_error {
    VQ_OK = 0,
    VQ_ERR_INDEX_JUMP,      /* an index moved by more than the ring holds */
    VQ_ERR_HEAD_RANGE,      /* a head or id beyond the ring */
    VQ_ERR_NOT_OUTSTANDING, /* used: a chain that the device does not have */
    VQ_ERR_LOOP,            /* a chain longer than its table */
    VQ_ERR_NEXT_RANGE,
    VQ_ERR_ADDRESS,     /* a buffer outside the arena */
    VQ_ERR_USED_LENGTH, /* used: more bytes than fit into the chain */
    VQ_ERR_INDIRECT,    /* nested, empty or misaligned indirect table */
    VQ_ERR_ORDER,       /* a readable descriptor after a writable one */
    VQ_ERR_TOO_LONG,    /* more segments than the device supports */
    VQ_ERR_MERGE,       /* used: a frame claims more buffers than were used */
    VQ_ERR_COUNT,
};
const char *vq_error_name(enum vq_error e);

struct vq_seg { /* laid out as struct iovec, so that readv and writev take a chain as it is */
    void *addr;
    size_t len;
};
_Static_assert(sizeof(struct vq_seg) == sizeof(struct iovec) &&
                   offsetof(struct vq_seg, len) == offsetof(struct iovec, iov_len),
               "segments are passed as iovec");

/* -- the driver half -- */

struct vq_slot { /* the driver's record of a chain, by its head */
    void *cookie;
    uint32_t writable; /* bytes that the device may write */
    uint16_t ndesc;    /* 0: not outstanding */
    uint16_t next;     /* next descriptor as the driver linked it: never read back from the ring */
};

struct vq_driver {
    struct vring *r;
    uint16_t num;
    uint16_t mask;
    uint16_t free_head;
    uint16_t num_free;
    uint16_t avail_idx;     /* next entry to write; published by vq_driver_publish() */
    uint16_t published_idx; /* what the device can see */
    uint16_t used_idx;      /* next to take */
    uint16_t used_cached;   /* the device's index when last read */
    enum vq_error error;    /* once set, the queue is stopped */
    struct vq_slot *slot;
};

/* vq_driver_init() - 0 or -ENOMEM. */
int vq_driver_init(struct vq_driver *q, struct vring *r);
void vq_driver_fini(struct vq_driver *q);

/*
 * vq_driver_add() - fill descriptors for one chain; not visible until vq_driver_publish()
 * @q: driver half
 * @seg: @nout segments that the device reads, then @nin that it writes
 * @cookie: returned with the chain; not NULL
 *
 * Return: 0; -ENOSPC if there are not enough free descriptors; -EINVAL for no segments, or more
 * than the ring has entries.
 */
int vq_driver_add(struct vq_driver *q, const struct vq_seg *seg, unsigned nout, unsigned nin,
                  void *cookie);

/* vq_driver_publish() - publish everything added with one release store; true if the device wants a kick. */
bool vq_driver_publish(struct vq_driver *q);

/*
 * vq_driver_get() - take one used chain
 * @len: bytes that the device says it wrote; never more than fit into the chain
 *
 * Return: its cookie; NULL if there is none, or if the queue is stopped (q->error says why).
 */
void *vq_driver_get(struct vq_driver *q, uint32_t *len);

/*
 * vq_driver_enable_notify() - ask for a notification when @after more chains are used
 *
 * Without event_idx the ring cannot express a number, and the first chain notifies.
 *
 * Return: true if that many are used already.
 */
bool vq_driver_enable_notify(struct vq_driver *q, uint16_t after);
void vq_driver_disable_notify(struct vq_driver *q);

/* vq_driver_outstanding() - chains added and not yet returned to the driver. */
unsigned vq_driver_outstanding(const struct vq_driver *q);

/* vq_driver_reclaim() - after the device has detached: take back one outstanding chain; NULL if none is left. */
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

/* A chain in the device half: copied out of shared memory once, then checked. */
struct vq_chain {
    uint16_t head;
    uint16_t nout;
    uint16_t nin;
    uint32_t out_len;
    uint32_t in_len;
};

void vq_device_init(struct vq_device *q, struct vring *r);

/* vq_device_pending() - chains available but not taken; reads the shared index only if the cached one is used up. */
unsigned vq_device_pending(struct vq_device *q);

/*
 * vq_device_get() - take the next available chain
 * @q: device half
 * @seg: room for its segments: first those to read, then those to write
 * @nseg: how many fit
 * @chain: head, numbers, sums of lengths
 *
 * Every length, index and address is checked before use, on a copy that the driver can no longer
 * change.
 *
 * Return: 1: a chain; 0: none; -EPROTO if the driver broke the ring: the queue is stopped, and
 * q->error says why.
 */
int vq_device_get(struct vq_device *q, struct vq_seg *seg, unsigned nseg, struct vq_chain *chain);

/* vq_device_unget() - return the last @n chains taken unused; they will be taken again. */
void vq_device_unget(struct vq_device *q, unsigned n);

/* vq_device_put() - return a chain with @len bytes written; not visible until published. */
void vq_device_put(struct vq_device *q, uint16_t head, uint32_t len);

/* vq_device_publish() - publish with one release store; true if the driver wants an interrupt. */
bool vq_device_publish(struct vq_device *q);

/* vq_device_enable_notify() - ask for kicks; true if something is already available. */
bool vq_device_enable_notify(struct vq_device *q);
void vq_device_disable_notify(struct vq_device *q);

#endif
