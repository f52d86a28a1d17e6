/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A pool of equal objects with a magazine per thread (Bonwick and Adams, "Magazines and Vmem").
 *
 * Get and put work on the calling thread's magazine, last in first out, with no atomic
 * read-modify-write. An empty magazine is filled from the shared list, a full one gives the older
 * half back, each with one lock for many objects. An object freed by a thread that does not
 * allocate so finds its way back in batches.
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
    uint32_t n;            /* objects in it; written by its thread only, read by anyone */
    uint32_t cap;          /* at most MAGAZINE_SIZE; small for a small pool */
    struct magazine *next; /* all magazines of the depot */
    void *objects[MAGAZINE_SIZE];
};

struct depot {
    uint64_t id; /* never used twice in a process */
    struct spin lock;
    void *list;   /* free objects, last in first out */
    size_t nlist; /* how many */
    size_t total; /* objects that exist */
    uint32_t cap; /* of new magazines */
    struct magazine *magazines;
};

/* The magazine this thread used last: one comparison on the hot path. */
struct depot_lookaside {
    uint64_t id;
    struct magazine *magazine;
};

/* depot_init() - an empty depot; @cap bounds what a thread may keep. */
void depot_init(struct depot *d, uint32_t cap);
/* depot_fini() - forget everything; the objects belong to the caller. No thread may use it still. */
void depot_fini(struct depot *d);
/* depot_add() - chain of @n new objects, linked through their first words from @first to @last. */
void depot_add(struct depot *d, void *first, void *last, size_t n);
/* depot_remove() - an object in use leaves the depot for good. */
void depot_remove(struct depot *d);
/* depot_free_count() - objects on the list and in all magazines; exact when nobody moves. */
size_t depot_free_count(struct depot *d);
/* depot_reach() - objects that depot_get() would give the calling thread: none of another's magazine. */
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
 * @l: the caller's thread-local look-aside
 *
 * Return: the object last put by this thread, or one of the shared list; NULL when both are empty.
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
