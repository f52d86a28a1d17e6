/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A pool of equal-sized objects with a magazine per thread (Bonwick and Adams, "Magazines and
 * Vmem").
 *
 * Get and put use the calling thread's magazine, last in first out, without atomic
 * read-modify-write operations. An empty magazine is refilled from the shared list, and a full one
 * returns its older half; either takes the lock once for many objects. Objects freed by a thread
 * that never allocates return in batches this way.
 *
 * Objects are chained on the shared list through their first word while they are free.
 */
#ifndef NIC_HARNESS_DEPOT_H
#define NIC_HARNESS_DEPOT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/perthread.h"
#include "base/spin.h"

#define MAGAZINE_SIZE 128

struct magazine {
    struct perthread own;
    uint32_t n;            /* objects in it; written only by its thread, read by any */
    uint32_t cap;          /* at most MAGAZINE_SIZE; small for a small pool */
    struct magazine *next; /* next magazine of the depot */
    void *objects[MAGAZINE_SIZE];
};

struct depot {
    uint64_t id; /* unique in the process */
    struct spin lock;
    void *list;   /* free objects, last in first out */
    size_t nlist; /* its length */
    size_t total; /* objects that exist */
    uint32_t cap; /* of new magazines */
    struct magazine *magazines;
};

/* The magazine this thread used last: one comparison on the hot path. */
struct depot_lookaside {
    uint64_t id;
    struct magazine *magazine;
};

/* depot_init() - make an empty depot; @cap is how many objects a thread may keep. */
void depot_init(struct depot *d, uint32_t cap);
/* depot_fini() - forget all objects; they belong to the caller. No thread may still use the depot. */
void depot_fini(struct depot *d);
/* depot_add() - add @n new objects, linked through their first words from @first to @last. */
void depot_add(struct depot *d, void *first, void *last, size_t n);
/* depot_remove() - remove an object in use from the depot for good. */
void depot_remove(struct depot *d);
/* depot_free_count() - objects on the list and in all magazines; exact only while all threads are idle. */
size_t depot_free_count(struct depot *d);
/* depot_reach() - objects that depot_get() could give the calling thread, without other threads' magazines. */
size_t depot_reach(struct depot *d, struct depot_lookaside *l);
/* depot_total() - objects that exist */
size_t depot_total(struct depot *d);

struct magazine *depot_magazine_slow(struct depot *d, struct depot_lookaside *l);
void *depot_get_slow(struct depot *d, struct magazine *m);
void depot_put_slow(struct depot *d, struct magazine *m, void *object);

static inline struct magazine *
depot_magazine(struct depot *d, struct depot_lookaside *l)
{
    return l->id == d->id ? l->magazine : depot_magazine_slow(d, l);
}

/*
 * depot_get() - take an object
 * @d: depot
 * @l: the calling thread's look-aside
 *
 * Return: the object that this thread put last, or one from the shared list; NULL if both are
 * empty.
 */
static inline void *
depot_get(struct depot *d, struct depot_lookaside *l)
{
    struct magazine *m = depot_magazine(d, l);

    if (__builtin_expect(m == NULL, 0))
        return NULL;
    uint32_t n = m->n;

    if (__builtin_expect(n == 0, 0))
        return depot_get_slow(d, m);
    __atomic_store_n(&m->n, n - 1, __ATOMIC_RELAXED);
    return m->objects[n - 1];
}

static inline void
depot_put(struct depot *d, struct depot_lookaside *l, void *object)
{
    struct magazine *m = depot_magazine(d, l);
    uint32_t n = m ? m->n : 0;

    if (__builtin_expect(m == NULL || n >= m->cap, 0)) {
        depot_put_slow(d, m, object);
        return;
    }
    m->objects[n] = object;
    __atomic_store_n(&m->n, n + 1, __ATOMIC_RELAXED);
}

#endif
