/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/depot.h"

#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t next_id = 1;

static void *
link_of(void *object)
{
    void *next;

    memcpy(&next, object, sizeof(next));
    return next;
}

static void
set_link(void *object, void *next)
{
    memcpy(object, &next, sizeof(next));
}

/* give_back() - move the @n oldest objects of a magazine to the shared list, the oldest at the bottom. */
static void
give_back(struct depot *d, struct magazine *m, uint32_t n)
{
    if (n == 0)
        return;
    for (uint32_t i = 1; i < n; i++)
        set_link(m->objects[i], m->objects[i - 1]);
    spin_lock(&d->lock);
    set_link(m->objects[0], d->list);
    d->list = m->objects[n - 1];
    d->nlist += n;
    __atomic_store_n(&m->n, m->n - n, __ATOMIC_RELAXED);
    spin_unlock(&d->lock);
    memmove(m->objects, m->objects + n, m->n * sizeof(m->objects[0]));
}

/* retire() - return an ending thread's objects, and remove its magazine. */
static void
retire(struct perthread *own)
{
    struct magazine *m = (struct magazine *)(void *)own;
    struct depot *d = own->owner;

    give_back(d, m, m->n);
    spin_lock(&d->lock);
    for (struct magazine **p = &d->magazines; *p; p = &(*p)->next) {
        if (*p == m) {
            *p = m->next;
            break;
        }
    }
    spin_unlock(&d->lock);
}

void
depot_init(struct depot *d, uint32_t cap)
{
    memset(d, 0, sizeof(*d));
    d->id = atomic_fetch_add(&next_id, 1);
    d->cap = cap < MAGAZINE_SIZE ? cap : MAGAZINE_SIZE;
}

void
depot_fini(struct depot *d)
{
    perthread_lock();
    for (struct magazine *m = d->magazines; m; m = m->next)
        m->own.owner = NULL;
    d->magazines = NULL;
    perthread_unlock();
    d->id = 0;
}

void
depot_add(struct depot *d, void *first, void *last, size_t n)
{
    spin_lock(&d->lock);
    set_link(last, d->list);
    d->list = first;
    d->nlist += n;
    d->total += n;
    spin_unlock(&d->lock);
}

void
depot_remove(struct depot *d)
{
    spin_lock(&d->lock);
    d->total--;
    spin_unlock(&d->lock);
}

size_t
depot_free_count(struct depot *d)
{
    spin_lock(&d->lock);
    size_t n = d->nlist;

    for (struct magazine *m = d->magazines; m; m = m->next)
        n += __atomic_load_n(&m->n, __ATOMIC_RELAXED);
    spin_unlock(&d->lock);
    return n;
}

size_t
depot_reach(struct depot *d, struct depot_lookaside *l)
{
    struct magazine *m = depot_magazine(d, l);

    spin_lock(&d->lock);
    size_t n = d->nlist + (m ? m->n : 0);

    spin_unlock(&d->lock);
    return n;
}

size_t
depot_total(struct depot *d)
{
    spin_lock(&d->lock);
    size_t n = d->total;

    spin_unlock(&d->lock);
    return n;
}

struct magazine *
depot_magazine_slow(struct depot *d, struct depot_lookaside *l)
{
    struct magazine *m = (struct magazine *)(void *)perthread_find(d);

    if (m == NULL) {
        m = calloc(1, sizeof(*m));
        if (m == NULL)
            return NULL;
        m->cap = d->cap;
        if (perthread_add(&m->own, d, retire) != 0) {
            free(m);
            return NULL;
        }
        spin_lock(&d->lock);
        m->next = d->magazines;
        d->magazines = m;
        spin_unlock(&d->lock);
    }
    *l = (struct depot_lookaside){d->id, m};
    return m;
}

void *
depot_get_slow(struct depot *d, struct magazine *m)
{
    /* Half a magazine, so that there is room for the next frees. */
    uint32_t want = m ? m->cap / 2 : 0;
    void *objects[MAGAZINE_SIZE / 2];
    uint32_t n = 0;

    spin_lock(&d->lock);
    void *first = d->list;

    if (first) {
        void *p = link_of(first);

        while (n < want && p) {
            objects[n++] = p;
            p = link_of(p);
        }
        d->list = p;
        d->nlist -= n + 1;
        /* Newest on top, to keep the list's order. */
        for (uint32_t i = 0; i < n; i++)
            m->objects[i] = objects[n - 1 - i];
        if (n)
            __atomic_store_n(&m->n, n, __ATOMIC_RELAXED);
    }
    spin_unlock(&d->lock);
    return first;
}

void
depot_put_slow(struct depot *d, struct magazine *m, void *object)
{
    if (m && m->cap >= 2) {
        give_back(d, m, m->cap / 2);
        m->objects[m->n] = object;
        __atomic_store_n(&m->n, m->n + 1, __ATOMIC_RELAXED);
        return;
    }
    spin_lock(&d->lock);
    set_link(object, d->list);
    d->list = object;
    d->nlist++;
    spin_unlock(&d->lock);
}
