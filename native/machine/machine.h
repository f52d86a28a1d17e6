/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine: an arena and its allocators. The calls with BSD signatures have no context argument
 * and act on the process's one current machine; only this room knows that.
 */
#ifndef NIC_HARNESS_MACHINE_H
#define NIC_HARNESS_MACHINE_H

#include "kva/jumbo.h"
#include "kva/lwbuf.h"
#include "kva/pbuf.h"
#include "kva/sf_map.h"
#include "mbuf/mbuf_zone.h"

struct machine_config {
    size_t pages;     /* jumbo pages to start with; 0: 4096 */
    size_t max_pages; /* most jumbo pages; 0: as @pages */
    size_t max_mbufs; /* 0: four per jumbo page, at least 16384 */
    uint32_t nsfbufs; /* 0: 32768 (128 MiB of file mapped at a time) */
    unsigned npbufs;  /* nswbuf, of MAXPHYS bytes each; 0: by memory, 16 to 256 */
    bool strict;      /* no direct map, and no mapping of what is free */
};

struct machine {
    struct arena *arena;
    struct jumbo *jumbo;
    struct sf_map *sf_map;
    struct mbuf_zone *mbufs;
    struct lwbuf_map *lwbufs;
    struct pbuf_pool *pbufs;
    struct machine *former; /* of the parent process: see bsd.c */
};

/* machine_create() - 0; -errno, with nothing left behind. */
int machine_create(const struct machine_config *config, struct machine **out);
/* machine_destroy() - 0; -EBUSY, with nothing changed, while a page, mapping or mbuf is in use. */
int machine_destroy(struct machine *m);
/* machine_set_current() - set the machine that the BSD calls act on, or NULL; returns the former one. */
struct machine *machine_set_current(struct machine *m);
extern _Atomic(struct machine *) machine_current_;

static inline struct machine *
machine_current(void)
{
    return atomic_load_explicit(&machine_current_, memory_order_acquire);
}

/* machine_each_out() - list everything its allocators have in use; other threads should be idle */
void machine_each_out(struct machine *m, out_fn *fn, void *arg);

/* machine_idle() - 0 if nothing is in use; otherwise -EBUSY. */
int machine_idle(struct machine *m);

#endif
