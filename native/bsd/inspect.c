/* SPDX-License-Identifier: BSD-2-Clause */
/* Implements harness/inspect.h for the process's current machine. */
#include <harness/inspect.h>

#include <stdlib.h>

#include "machine/machine.h"

unsigned
harness_misuse(struct harness_misuse *out, unsigned max)
{
    struct machine *m = machine_current();

    return m ? arena_misuse_recent(m->arena, out, max) : 0;
}

uint64_t
harness_misuse_total(void)
{
    struct machine *m = machine_current();

    return m ? arena_misuse_total(m->arena) : 0;
}

uint64_t
harness_misuse_count(enum misuse_kind kind)
{
    struct machine *m = machine_current();

    return m && (unsigned)kind < MISUSE_COUNT ? atomic_load(&m->arena->misuse_count[kind]) : 0;
}

int
harness_stats(struct harness_stats *out)
{
    struct machine *m = machine_current();

    if (m == NULL) {
        errno = ENXIO;
        return -1;
    }
    jumbo_get_stats(m->jumbo, &out->jumbo);
    sf_map_get_stats(m->sf_map, &out->sf_buf);
    lwbuf_get_stats(m->lwbufs, &out->lwbuf);
    mbuf_zone_get_stats(m->mbufs, &out->mbuf);
    pbuf_get_stats(m->pbufs, &out->pbuf);
    out->bytes_copied = atomic_load(&m->arena->bytes_copied);
    out->misuses = arena_misuse_total(m->arena);
    out->unmaps_refused = atomic_load(&m->arena->unmaps_refused);
    out->stale_bytes = atomic_load(&m->arena->stale_bytes);
    return 0;
}

struct places {
    struct harness_out *out;
    unsigned max, n, last;
};

/* place() - count one object by kind and place; fast for runs of equal ones */
static void
place(void *arg, const char *what, uintptr_t site)
{
    struct places *p = arg;
    unsigned i = p->last;

    if (p->n == 0 || p->out[i].what != what || p->out[i].site != site)
        for (i = 0; i < p->n && (p->out[i].what != what || p->out[i].site != site); i++)
            ;
    if (i == p->n && p->n == p->max) {
        i = p->max - 1;
        p->out[i].what = "thing of other kinds or places";
        p->out[i].site = 0;
    } else if (i == p->n) {
        p->out[p->n++] = (struct harness_out){what, 0, site};
    }
    p->out[i].count++;
    p->last = i;
}

static int
more_first(const void *a, const void *b)
{
    const struct harness_out *x = a, *y = b;

    return (x->count < y->count) - (x->count > y->count);
}

unsigned
harness_out(struct harness_out *out, unsigned max)
{
    struct machine *m = machine_current();
    struct places p = {.out = out, .max = max};

    if (m && max)
        machine_each_out(m, place, &p);
    if (p.n)
        qsort(out, p.n, sizeof(*out), more_first);
    return p.n;
}
