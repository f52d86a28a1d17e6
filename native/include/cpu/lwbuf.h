/* SPDX-License-Identifier: BSD-2-Clause */
/* lwbuf(9): light handles on mappings, without caching and without reference counts. */
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
    struct lwbuf_pool *owner; /* of the KVA; NULL: the direct map */
    struct lwbuf *next;
    void *alloc_site; /* return addresses, of a handle with an owner */
    void *free_site;
};

/*
 * lwbuf_alloc() - a handle on a mapping of a page
 * @m: page
 * @lwb: the caller's structure
 *
 * With a direct map @lwb is filled in and returned; for an arena page that cannot fail. Without one
 * @lwb is not looked at, and the handle and its KVA come from the calling thread's pool.
 *
 * Return: the handle; NULL when out of KVA, or when a file's page cannot be mapped.
 */
struct lwbuf *lwbuf_alloc(vm_page_t m, struct lwbuf *lwb);

/*
 * lwbuf_free() - end of a handle; on any thread, the KVA goes back to the pool it came from
 *
 * Always inlined: a report of misuse names the line that called it, in a program built without optimization too.
 */
void lwbuf_free_mapped(struct lwbuf *lwb);

__attribute__((__always_inline__)) static inline void
lwbuf_free(struct lwbuf *lwb)
{
    if (lwb->owner) /* the direct map gives nothing that would have to be given back */
        lwbuf_free_mapped(lwb);
}

/* lwbuf_page(), lwbuf_kva() - the page, and its address as the calling thread sees it */
static inline vm_page_t
lwbuf_page(struct lwbuf *lwb)
{
    return lwb->m;
}

static inline vm_offset_t
lwbuf_kva(struct lwbuf *lwb)
{
    /* Threads share one address space: a mapping made by one is current on all. */
    return lwb->kva;
}

/* lwbuf_set_global() - make the mapping current on every thread */
static inline void
lwbuf_set_global(struct lwbuf *lwb)
{
    (void)lwb; /* as for lwbuf_kva() */
}

/* Without a direct map: handles in use, bytes of KVA in all pools, handles free in them. */
size_t lwbuf_count(void);
size_t lwbuf_kva_bytes(void);
size_t lwbuf_reserve(void);

HARNESS_END_DECLS

#endif
