/* SPDX-License-Identifier: BSD-2-Clause */
/* lwbuf(9): lightweight mapping handles, without caching and without reference counts. */
#ifndef NIC_HARNESS_CPU_LWBUF_H
#define NIC_HARNESS_CPU_LWBUF_H

#include <stddef.h>

#include <harness/decls.h>
#include <vm/vm.h>

HARNESS_BEGIN_DECLS

struct lwbuf_pool;

struct lwbuf {
    vm_page_t m;
    vm_offset_t kva;
    struct lwbuf_pool *owner; /* owner of the KVA; NULL: the direct map */
    struct lwbuf *next;
    void *alloc_site; /* return addresses, if the handle has an owner */
    void *free_site;
};

/*
 * lwbuf_alloc() - map a page
 * @m: page
 * @lwb: the caller's structure
 *
 * With a direct map, @lwb is filled in and returned; this cannot fail for an arena page. Without
 * one,
 * @lwb is ignored, and the handle and its KVA come from the calling thread's pool.
 *
 * Return: the handle; NULL if out of KVA, or if a file's page cannot be mapped.
 */
struct lwbuf *lwbuf_alloc(vm_page_t m, struct lwbuf *lwb);

/*
 * lwbuf_free() - release a handle, from any thread; its KVA returns to the pool it came from
 *
 * Always inlined, so that misuse reports name the calling line even in unoptimized programs.
 */
void lwbuf_free_mapped(struct lwbuf *lwb);

__attribute__((__always_inline__)) static inline void
lwbuf_free(struct lwbuf *lwb)
{
    if (lwb->owner) /* the direct map has nothing to release */
        lwbuf_free_mapped(lwb);
}

/* lwbuf_page(), lwbuf_kva() - the page, and its address in the calling thread */
static inline vm_page_t
lwbuf_page(struct lwbuf *lwb)
{
    return lwb->m;
}

static inline vm_offset_t
lwbuf_kva(struct lwbuf *lwb)
{
    /* Threads share one address space, so a mapping made by one is visible to all. */
    return lwb->kva;
}

/* lwbuf_set_global() - make the mapping visible to every thread */
static inline void
lwbuf_set_global(struct lwbuf *lwb)
{
    (void)lwb; /* as for lwbuf_kva() */
}

/* Without a direct map: handles in use, bytes of KVA in all pools, free handles in the pools. */
size_t lwbuf_count(void);
size_t lwbuf_kva_bytes(void);
size_t lwbuf_reserve(void);

HARNESS_END_DECLS

#endif
