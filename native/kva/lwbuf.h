/* SPDX-License-Identifier: BSD-2-Clause */
/* The KVA of lwbufs without a direct map: one pool per thread. */
#ifndef NIC_HARNESS_KVA_LWBUF_H
#define NIC_HARNESS_KVA_LWBUF_H

#include <cpu/lwbuf.h>

#include "arena/arena.h"

#define LWBUF_SLOTS ((size_t)1 << 16) /* handles at a time, over all threads */

struct lwbuf_map;

/* lwbuf_map_create() - create the pools of an arena; 0 or -ENOMEM. */
int lwbuf_map_create(struct arena *a, struct lwbuf_map **out);
/* lwbuf_map_destroy() - 0, or -EBUSY while a handle is in use. */
int lwbuf_map_destroy(struct lwbuf_map *l);
void lwbuf_get_stats(struct lwbuf_map *l, struct lwbuf_stats *out);
/* lwbuf_each_out() - list the handles in use, without a direct map */
void lwbuf_each_out(struct lwbuf_map *l, out_fn *fn, void *arg);

#endif
