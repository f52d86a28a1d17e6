/* SPDX-License-Identifier: BSD-2-Clause */
/* The mbuf allocator: slabs of the arena's own memory, with a magazine per thread. */
#ifndef NIC_HARNESS_MBUF_ZONE_H
#define NIC_HARNESS_MBUF_ZONE_H

#include <sys/mbuf.h>

#include "arena/arena.h"
#include "base/depot.h"
#include "kva/jumbo.h"

struct mbuf_zone {
    struct depot depot;
    struct arena *arena;
    size_t limit; /* most mbufs */
    pthread_mutex_t grow_lock;
    struct mbuf_slab *slabs;
    _Atomic uint64_t refused;
};

/* mbuf_zone_create() - create a zone of at most @limit mbufs, which grows in slabs; 0 or -errno. */
int mbuf_zone_create(struct arena *a, size_t limit, struct mbuf_zone **out);
/* mbuf_zone_destroy() - 0, or -EBUSY while an mbuf is in use. */
int mbuf_zone_destroy(struct mbuf_zone *z);
void mbuf_zone_get_stats(struct mbuf_zone *z, struct mbuf_stats *out);
/* mbuf_zone_each_out() - list the mbufs in use */
void mbuf_zone_each_out(struct mbuf_zone *z, out_fn *fn, void *arg);

/* mbuf_zone_reach() - mbufs that the calling thread could still allocate, growth included */
size_t mbuf_zone_reach(struct mbuf_zone *z);

/* mb_get(), mb_gethdr() - m_get() and m_gethdr() for a given zone; NULL on failure. */
struct mbuf *mb_get(struct mbuf_zone *z);
struct mbuf *mb_gethdr(struct mbuf_zone *z);
/* mb_get_at() - either of them, with @site recorded as the place of the allocation */
struct mbuf *mb_get_at(struct mbuf_zone *z, short type, bool pkthdr, void *site);

/*
 * mb_frombytes() - create a packet with a copy of @len bytes, which count as copied
 * @j: pool for the pages, if the data do not fit inside one mbuf
 *
 * Return: the packet; NULL if out of mbufs or pages.
 */
struct mbuf *mb_frombytes(struct mbuf_zone *z, struct jumbo *j, const void *bytes, size_t len);
/* mb_frombytes_lead() - the same, with room for a header of @lead bytes unless that costs a page */
struct mbuf *mb_frombytes_lead(struct mbuf_zone *z, struct jumbo *j, const void *bytes, size_t len,
                               size_t lead);

/* One mbuf of a chain, for callers that cannot use the macros of sys/mbuf.h. */
struct mb_info {
    struct mbuf *next;
    void *data;
    void *storage; /* where its data may lie */
    size_t size;   /* size of @storage, bytes */
    int32_t len;
    int32_t pkthdr_len; /* -1 without a packet header */
    uint32_t flags;
    uint32_t refs; /* to external storage; 0 without any */
    uint8_t type;
    uint8_t ext_type;
};

/* mb_describe() - fill in @out; 0, or -EINVAL for a free mbuf. */
int mb_describe(const struct mbuf *m, struct mb_info *out);
/* mb_set_len() - set the data length, which must stay within the storage; 0 or -EINVAL. */
int mb_set_len(struct mbuf *m, int32_t len);
void mb_set_type(struct mbuf *m, int type);
/* mb_set_pkthdr_len() - set the packet length; 0, or -EINVAL without a packet header. */
int mb_set_pkthdr_len(struct mbuf *m, int32_t len);

/* mb_check() - check a chain; 0, or -EINVAL if data lie outside their storage or lengths disagree. */
int mb_check(const struct mbuf *m);

#endif
