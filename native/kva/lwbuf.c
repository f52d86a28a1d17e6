/* SPDX-License-Identifier: BSD-2-Clause */
#include "kva/lwbuf.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <sys/sf_buf.h>

#include "base/perthread.h"
#include "kva/sf_map.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

/* A pool grows by this many handles at a time. */
#define CHUNK 32

/*
 * One thread allocates from a pool; any thread may free into it. Its own frees go on @local, those
 * of others on @returned, a stack that is only pushed to singly and taken as a whole, so
 * compare-and-swap has no ABA problem. When its thread ends, the pool waits for another to adopt
 * it.
 */
struct lwbuf_pool {
    struct lwbuf_map *map;
    struct lwbuf_pool *next; /* all pools of the map */
    struct lwbuf *local;
    _Atomic(struct lwbuf *) returned;
    struct ownership *held; /* by a thread; NULL: its thread has ended */
    _Atomic size_t used;
    size_t total;
};

/* Owner of handles that use a file page's sf_buf as their mapping. */
static struct lwbuf_pool file_pages;

struct lwbuf_chunk {
    struct lwbuf_chunk *next;
    struct lwbuf lwb[CHUNK];
};

struct lwbuf_map {
    struct arena *arena;
    pthread_mutex_t lock; /* pools, chunks */
    struct lwbuf_pool *pools;
    struct lwbuf_chunk *chunks;
    size_t nslots; /* KVA given to pools */
};

/* A thread's ownership of a pool. */
struct ownership {
    struct perthread own;
    struct lwbuf_pool *pool;
};

static void
disown(struct perthread *own)
{
    struct lwbuf_pool *p = ((struct ownership *)(void *)own)->pool;

    pthread_mutex_lock(&p->map->lock);
    p->held = NULL;
    pthread_mutex_unlock(&p->map->lock);
}

int
lwbuf_map_create(struct arena *a, struct lwbuf_map **out)
{
    struct lwbuf_map *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return -ENOMEM;
    l->arena = a;
    pthread_mutex_init(&l->lock, NULL);
    a->owner[REGION_LWBUF] = l;
    *out = l;
    return 0;
}

void
lwbuf_get_stats(struct lwbuf_map *l, struct lwbuf_stats *out)
{
    *out = (struct lwbuf_stats){0};
    pthread_mutex_lock(&l->lock);
    for (struct lwbuf_pool *p = l->pools; p; p = p->next) {
        out->count += atomic_load(&p->used);
        out->reserve += p->total;
    }
    out->kva_bytes = l->nslots << PAGE_SHIFT;
    pthread_mutex_unlock(&l->lock);
    out->reserve -= out->count;
}

void
lwbuf_each_out(struct lwbuf_map *l, out_fn *fn, void *arg)
{
    pthread_mutex_lock(&l->lock);
    for (struct lwbuf_chunk *c = l->chunks; c; c = c->next) {
        for (unsigned i = 0; i < CHUNK; i++) {
            if (c->lwb[i].m)
                fn(arg, "lwbuf", (uintptr_t)c->lwb[i].alloc_site);
        }
    }
    pthread_mutex_unlock(&l->lock);
}

int
lwbuf_map_destroy(struct lwbuf_map *l)
{
    struct lwbuf_stats s;

    lwbuf_get_stats(l, &s);
    if (s.count)
        return -EBUSY;
    perthread_lock(); /* an ending thread no longer touches its pool */
    for (struct lwbuf_pool *p = l->pools; p; p = p->next) {
        if (p->held)
            p->held->own.owner = NULL;
    }
    perthread_unlock();
    while (l->pools) {
        struct lwbuf_pool *p = l->pools;

        l->pools = p->next;
        free(p);
    }
    while (l->chunks) {
        struct lwbuf_chunk *c = l->chunks;

        l->chunks = c->next;
        free(c);
    }
    l->arena->owner[REGION_LWBUF] = NULL;
    pthread_mutex_destroy(&l->lock);
    free(l);
    return 0;
}

/* pool_of_thread() - the calling thread's pool, or NULL */
static struct lwbuf_pool *
pool_of_thread(struct lwbuf_map *l)
{
    struct ownership *o = (struct ownership *)(void *)perthread_find(l);

    return o ? o->pool : NULL;
}

/* own_pool() - the calling thread's pool, an adopted one whose thread has ended, or a new one */
static struct lwbuf_pool *
own_pool(struct lwbuf_map *l)
{
    struct lwbuf_pool *p = pool_of_thread(l);

    if (p)
        return p;
    struct ownership *o = calloc(1, sizeof(*o));

    if (o == NULL)
        return NULL;
    pthread_mutex_lock(&l->lock);
    for (p = l->pools; p && p->held; p = p->next)
        ;
    if (p == NULL && (p = calloc(1, sizeof(*p))) != NULL) {
        p->map = l;
        p->next = l->pools;
        l->pools = p;
    }
    o->pool = p;
    if (p)
        p->held = o;
    pthread_mutex_unlock(&l->lock);
    if (p && perthread_add(&o->own, l, disown) == 0)
        return p;
    if (p) {
        pthread_mutex_lock(&l->lock);
        p->held = NULL;
        pthread_mutex_unlock(&l->lock);
    }
    free(o);
    return NULL;
}

/* grow() - add CHUNK handles with KVA to a pool; false if out of either */
static bool
grow(struct lwbuf_map *l, struct lwbuf_pool *p)
{
    struct lwbuf_chunk *c = calloc(1, sizeof(*c));

    pthread_mutex_lock(&l->lock);
    bool room = c && l->nslots + CHUNK <= LWBUF_SLOTS;

    if (room) {
        uint8_t *kva = l->arena->region_base[REGION_LWBUF] + (l->nslots << PAGE_SHIFT);

        for (unsigned i = 0; i < CHUNK; i++) {
            c->lwb[i] = (struct lwbuf){.kva = (vm_offset_t)(kva + ((size_t)i << PAGE_SHIFT)),
                                       .owner = p,
                                       .next = p->local};
            p->local = &c->lwb[i];
        }
        c->next = l->chunks;
        l->chunks = c;
        l->nslots += CHUNK;
        p->total += CHUNK;
    }
    pthread_mutex_unlock(&l->lock);
    if (!room)
        free(c);
    return room;
}

/* alloc_mapped() - a handle from the thread's pool, with its KVA bound to a page */
static struct lwbuf *
alloc_mapped(struct arena *a, vm_page_t m, void *site)
{
    struct lwbuf_map *l = a->owner[REGION_LWBUF];
    struct lwbuf_pool *p = l ? own_pool(l) : NULL;

    if (p == NULL)
        return NULL;
    if (p->local == NULL)
        p->local = atomic_exchange_explicit(&p->returned, NULL, memory_order_acquire);
    if (p->local == NULL && !grow(l, p))
        return NULL;
    struct lwbuf *lwb = p->local;

    if (vm_page_map_at(a, (void *)lwb->kva, m) < 0)
        return NULL;
    /* Refuse a page beyond the end of its file here, rather than fault at its use. */
    if (m->object && vm_page_state(m) == VPS_FILE &&
        madvise((void *)lwb->kva, PAGE_SIZE, MADV_POPULATE_READ) < 0 && errno != EINVAL) {
        arena_unmap(a, (void *)lwb->kva, PAGE_SIZE);
        return NULL;
    }
    p->local = lwb->next;
    lwb->m = m;
    lwb->alloc_site = site;
    atomic_fetch_add_explicit(&p->used, 1, memory_order_relaxed);
    return lwb;
}

/* alloc_slow() - without a direct map, or for a page that is not in it */
static COLD struct lwbuf *
alloc_slow(struct arena *a, vm_page_t m, struct lwbuf *lwb, void *site)
{
    if (a == NULL) {
        arena_report_stray(m, site);
        return NULL;
    }
    if (!a->direct)
        return alloc_mapped(a, m, site);
    /* A file page has no direct map: use its shared mapping, held until lwbuf_free(). */
    struct sf_buf *sf = sf_page_map(m, SFB_NOWAIT, site);

    if (sf == NULL)
        return NULL;
    lwb->m = m;
    lwb->alloc_site = site;
    lwb->owner = &file_pages;
    lwb->kva = sf_buf_kva(sf);
    return lwb;
}

struct lwbuf *
lwbuf_alloc(vm_page_t m, struct lwbuf *lwb)
{
    struct arena *a = arena_of_page(m);

    if (__builtin_expect(a && a->direct && arena_owns_page(a, m), 1)) {
        lwb->m = m;
        lwb->owner = NULL;
        lwb->kva = (vm_offset_t)arena_kva(a, m);
        return lwb;
    }
    return alloc_slow(a, m, lwb, RETURN_SITE());
}

void
lwbuf_free_mapped(struct lwbuf *lwb)
{
    struct lwbuf_pool *p = lwb->owner;

    struct vm_page *m = lwb->m;

    if (m == NULL) {
        struct arena *a = arena_at((void *)lwb->kva);

        if (a)
            arena_report_sites(a, MISUSE_DOUBLE_FREE, (void *)lwb->kva, (uintptr_t)lwb->alloc_site,
                               (uintptr_t)lwb->free_site, RETURN_SITE());
        return;
    }
    lwb->m = NULL;
    lwb->free_site = RETURN_SITE();
    if (p == &file_pages) {
        sf_page_unmap((struct sf_buf *)(void *)m, RETURN_SITE());
        return;
    }
    arena_unmap(p->map->arena, (void *)lwb->kva, PAGE_SIZE);
    atomic_fetch_sub_explicit(&p->used, 1, memory_order_relaxed);
    if (pool_of_thread(p->map) == p) {
        lwb->next = p->local;
        p->local = lwb;
        return;
    }
    struct lwbuf *top = atomic_load_explicit(&p->returned, memory_order_relaxed);

    do {
        lwb->next = top;
    } while (!atomic_compare_exchange_weak_explicit(&p->returned, &top, lwb, memory_order_release,
                                                    memory_order_relaxed));
}
