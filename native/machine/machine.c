/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/machine.h"

#include <stdlib.h>

#include "kva/quick.h"

_Atomic(struct machine *) machine_current_;

static pthread_once_t watching = PTHREAD_ONCE_INIT;

/* in_child() - calls without a context create a new machine for the child */
static void
in_child(void)
{
    machine_current_ = NULL;
}

static void
watch_forks(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

int
machine_create(const struct machine_config *config, struct machine **out)
{
    size_t pages = config->pages ? config->pages : 4096;
    size_t max_pages = config->max_pages ? config->max_pages : pages;
    size_t mbufs = config->max_mbufs ? config->max_mbufs : 4 * max_pages;
    uint32_t nsfbufs = config->nsfbufs ? config->nsfbufs : 32768;
    unsigned npbufs = config->npbufs ? config->npbufs : pbuf_count_for(max_pages << PAGE_SHIFT);

    if (!config->max_mbufs && mbufs < 16384)
        mbufs = 16384;
    if (max_pages < pages || mbufs > SIZE_MAX / MSIZE)
        return -EINVAL;
    struct machine *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return -ENOMEM;
    pthread_once(&watching, watch_forks);

    /* Physical memory for receive pages, mbufs and rings; 64 MiB hold the rings of sixteen queues. */
    struct arena_config ac = {
        .max_pages = max_pages + mbufs * MSIZE / PAGE_SIZE + 16384,
        .jumbo_slots = max_pages,
        .quick_bytes = QUICK_FRAMES * PAGE_SIZE,
        .lwbuf_bytes = LWBUF_SLOTS * PAGE_SIZE,
        .direct_map = !config->strict,
    };

    sf_map_sizes(nsfbufs, &ac);
    pbuf_sizes(npbufs, &ac);
    int err = arena_create(&ac, &m->arena);

    if (!err)
        err = jumbo_create(m->arena, pages, max_pages, &m->jumbo);
    if (!err)
        err = sf_map_create(m->arena, nsfbufs, &m->sf_map);
    if (!err)
        err = mbuf_zone_create(m->arena, mbufs, &m->mbufs);
    if (!err)
        err = lwbuf_map_create(m->arena, &m->lwbufs);
    if (!err)
        err = pbuf_pool_create(m->arena, npbufs, config->strict, &m->pbufs);
    if (err) {
        if (m->lwbufs)
            lwbuf_map_destroy(m->lwbufs);
        if (m->mbufs)
            mbuf_zone_destroy(m->mbufs);
        if (m->sf_map)
            sf_map_destroy(m->sf_map);
        if (m->jumbo)
            jumbo_destroy(m->jumbo);
        if (m->arena)
            arena_destroy(m->arena);
        free(m);
        return err;
    }
    *out = m;
    return 0;
}

int
machine_idle(struct machine *m)
{
    struct jumbo_stats j;
    struct sf_map_stats s;
    struct mbuf_stats b;
    struct lwbuf_stats l;
    struct pbuf_stats p;

    jumbo_get_stats(m->jumbo, &j);
    sf_map_get_stats(m->sf_map, &s);
    mbuf_zone_get_stats(m->mbufs, &b);
    lwbuf_get_stats(m->lwbufs, &l);
    pbuf_get_stats(m->pbufs, &p);
    return j.in_use || j.held || j.away || s.nsfbufsused || s.wired || b.in_use || l.count ||
                   p.outstanding
               ? -EBUSY
               : 0;
}

void
machine_each_out(struct machine *m, out_fn *fn, void *arg)
{
    jumbo_each_out(m->jumbo, fn, arg);
    mbuf_zone_each_out(m->mbufs, fn, arg);
    sf_map_each_out(m->sf_map, fn, arg);
    lwbuf_each_out(m->lwbufs, fn, arg);
    pbuf_each_out(m->pbufs, fn, arg);
}

int
machine_destroy(struct machine *m)
{
    if (m->arena->inherited)
        return 0; /* in a forked child: it belongs to the parent, which may be using it */
    int err = machine_idle(m);

    if (!err)
        err = sf_map_destroy(m->sf_map); /* -EBUSY while a file is open, with nothing changed */
    if (err)
        return err;
    struct machine *gone = m;

    atomic_compare_exchange_strong(&machine_current_, &gone, NULL);
    pbuf_pool_destroy(m->pbufs);
    lwbuf_map_destroy(m->lwbufs);
    mbuf_zone_destroy(m->mbufs);
    jumbo_destroy(m->jumbo);
    arena_destroy(m->arena);
    free(m);
    return 0;
}

struct machine *
machine_set_current(struct machine *m)
{
    atomic_store(&arena_of_strays, m ? m->arena : NULL);
    return atomic_exchange(&machine_current_, m);
}
