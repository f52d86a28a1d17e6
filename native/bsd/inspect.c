/* SPDX-License-Identifier: BSD-2-Clause */
/* harness/inspect.h for the process's current machine. */
#include <harness/inspect.h>

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
