/* SPDX-License-Identifier: BSD-2-Clause */
/* Shared by sf_map.c (extents: binding, mapping, replacing) and sf_buf.c (references to buffers). */
#ifndef NIC_HARNESS_KVA_SF_MAP_VAR_H
#define NIC_HARNESS_KVA_SF_MAP_VAR_H

#include "base/spin.h"
#include "kva/sf_map.h"

enum extent_state {
    EXTENT_EMPTY = 0, /* bound to no file */
    EXTENT_READY,
    EXTENT_BUSY, /* a thread is mapping it, without the lock */
};

struct sf_extent {
    struct vm_object *object;
    uint64_t index; /* file offset >> SF_EXTENT_SHIFT */
    struct sf_extent *hash_next;
    struct sf_extent *prev, *next; /* inactive list; self-linked when not on it */
    uint32_t active;               /* references and wirings of its pages */
    uint32_t populated;            /* pages [0, populated) can be read without faulting */
    uint32_t state;
    bool mapped;
};

struct sf_map {
    struct spin lock;
    struct arena *arena;
    uint8_t *window;
    struct vm_page *pages; /* SF_EXTENT_PAGES for each extent */
    struct sf_extent *extent;
    uint32_t nextents;
    bool strict;               /* a mapping ends with its last reference */
    struct sf_extent inactive; /* list head: least recently freed first */
    struct sf_extent **hash;
    uint32_t hash_mask;
    uint32_t nobjects;
    uint32_t wake_seq; /* futex: something was freed */
    uint32_t waiters;
    struct sf_map_stats stats;
};

struct vm_object {
    struct sf_map *map;
    int fd;
    dev_t dev; /* which file, for inspection */
    ino_t ino;
    uint32_t refs; /* one for the opener, one for each bound extent */
};

/* Everything below is called with the map's lock held. */

/* sf_extent_kva(), sf_extent_pages() - window and descriptors of an extent */
static inline uint8_t *
sf_extent_kva(const struct sf_map *s, const struct sf_extent *e)
{
    return s->window + ((size_t)(e - s->extent) << SF_EXTENT_SHIFT);
}

static inline struct vm_page *
sf_extent_pages(const struct sf_map *s, const struct sf_extent *e)
{
    return s->pages + (size_t)(e - s->extent) * SF_EXTENT_PAGES;
}

static inline struct sf_extent *
sf_extent_of(const struct sf_map *s, const struct vm_page *m)
{
    return &s->extent[(size_t)(m - s->pages) / SF_EXTENT_PAGES];
}

/* sf_extent_keep(), sf_extent_offer() - remove from, add to the list of extents that may be replaced */
void sf_extent_keep(struct sf_extent *e);
void sf_extent_offer(struct sf_map *s, struct sf_extent *e);

/* sf_extent_activate(), sf_extent_deactivate() - count users; without any it may be replaced */
static inline void
sf_extent_activate(struct sf_extent *e, uint32_t n)
{
    if (e->active == 0)
        sf_extent_keep(e);
    e->active += n;
}

static inline void
sf_extent_deactivate(struct sf_map *s, struct sf_extent *e, uint32_t n)
{
    e->active -= n;
    if (e->active == 0)
        sf_extent_offer(s, e);
}

/*
 * sf_extent_bind() - bind the extent of (object, index), possibly not mapped yet, and add a user
 *
 * The lock is dropped to sleep; afterwards everything is looked up again.
 *
 * Return: 0; -ENOBUFS (SFB_NOWAIT); -EINTR (SFB_CATCH).
 */
int sf_extent_bind(struct vm_object *o, uint64_t index, int flags, struct sf_extent **out);

/*
 * sf_extent_map() - make at least the first @need pages readable
 *
 * The system calls are made without the lock, while the extent is marked busy.
 *
 * Return: 0; -EFAULT if the file ends before that; -EIO; -ENOMEM.
 */
int sf_extent_map(struct sf_map *s, struct sf_extent *e, uint32_t need);

/*
 * sf_map_sleep() - drop the lock until something is freed
 *
 * Return: 0: look again; -ENOBUFS with SFB_NOWAIT; -EINTR with SFB_CATCH, on a signal.
 */
int sf_map_sleep(struct sf_map *s, int flags);

/*
 * sf_map_wake() - wake all sleepers, because something was freed
 *
 * A sleeper counts itself and reads wake_seq under the same lock, so no wake-up is missed.
 */
void sf_map_wake_sleepers(struct sf_map *s);

static inline void
sf_map_wake(struct sf_map *s)
{
    if (__builtin_expect(s->waiters != 0, 0))
        sf_map_wake_sleepers(s);
}

#endif
