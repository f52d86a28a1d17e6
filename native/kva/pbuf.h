/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The pool of physical I/O buffers. This is pbuf(9) for a given arena.
 *
 * Each buffer has a window of MAXPHYS bytes at a fixed address of its own. Its memory is allocated
 * when the buffer is first handed out. The buffer released last is handed out next, so a pool has
 * memory only for as many windows as were ever in use at once.
 */
#ifndef NIC_HARNESS_KVA_PBUF_H
#define NIC_HARNESS_KVA_PBUF_H

#include <stdbool.h>

#include <sys/buf.h>

#include "arena/arena.h"

#define PBUF_MIN 16u
#define PBUF_MAX 256u

struct pbuf_pool;

/* pbuf_count_for() - nswbuf for a machine with @bytes of memory: one eighth of it, at least 16, at most 256 */
unsigned pbuf_count_for(size_t bytes);
/* pbuf_sizes() - fill in the arena_config fields that @n buffers need, and add to its pages. */
void pbuf_sizes(unsigned n, struct arena_config *config);

/*
 * pbuf_pool_create() - create the pool of an arena's pbuf region
 * @n: buffers
 * @strict: a window is accessible only while its buffer is in use
 *
 * Return: 0; -EINVAL for 0 or more than the region holds; -EBUSY; -ENOMEM.
 */
int pbuf_pool_create(struct arena *a, unsigned n, bool strict, struct pbuf_pool **out);
/* pbuf_pool_destroy() - 0, or -EBUSY while a buffer is outstanding. */
int pbuf_pool_destroy(struct pbuf_pool *p);

/* pbuf_get(), pbuf_try() - like getpbuf(), trypbuf() */
struct buf *pbuf_get(struct pbuf_pool *p, int *pfreecnt, void *site);
struct buf *pbuf_try(struct pbuf_pool *p, int *pfreecnt, void *site);
/* pbuf_rel() - like relpbuf(); 0, or -EINVAL (reported) for a stray buffer or one not in use. */
int pbuf_rel(struct pbuf_pool *p, struct buf *bp, int *pfreecnt, void *site);

/* pbuf_pool_at() - pool that an address (a buffer, or inside a window) belongs to; NULL if none */
struct pbuf_pool *pbuf_pool_at(const void *addr);
/* pbuf_of() - buffer whose window holds an address of this pool */
struct buf *pbuf_of(struct pbuf_pool *p, const void *kva);

void pbuf_get_stats(struct pbuf_pool *p, struct pbuf_stats *out);
/* pbuf_each_out() - list the buffers in use */
void pbuf_each_out(struct pbuf_pool *p, out_fn *fn, void *arg);

#endif
