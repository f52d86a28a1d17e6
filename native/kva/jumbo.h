/* SPDX-License-Identifier: BSD-2-Clause */
/* The jumbo page pool: receive pages with pool KVA. This is jumbo(9) for a given arena. */
#ifndef NIC_HARNESS_KVA_JUMBO_H
#define NIC_HARNESS_KVA_JUMBO_H

#include <sys/jumbo.h>

#include "arena/arena.h"
#include "base/depot.h"

struct jumbo {
    struct depot depot; /* free pages, each bound to a KVA slot */
    struct arena *arena;
    struct vm_page *pages; /* the arena's descriptors */
    uint8_t *kva;          /* slot 0 */
    size_t max_pages;      /* most pages that may be bound at a time */
    size_t chunk_pages;    /* growth */
    size_t nslots;         /* slots used so far; those above have never been bound */
    uint32_t *empty;       /* slots whose page was stolen */
    size_t nempty;
    pthread_mutex_t grow_lock;
    bool strict; /* a free page has no mapping; it is filled at free, checked at allocation */
    _Atomic uint64_t refused; /* failed allocations */
    _Atomic uint64_t stolen;  /* pages that left the pool for good */
    _Atomic uint64_t held;    /* freed while held, and still held */
    uint64_t grown;           /* chunks added */
};

/*
 * jumbo_create() - create the pool of an arena
 * @a: arena whose jumbo region it manages
 * @initial: pages to start with
 * @max_pages: pages it may grow to, chunk by chunk
 *
 * Return: 0; -EBUSY if the arena already has a pool; -EINVAL; -ENOMEM. Nothing is left behind on
 * failure.
 */
int jumbo_create(struct arena *a, size_t initial, size_t max_pages, struct jumbo **out);
/* jumbo_destroy() - 0, or -EBUSY while a page is in use. */
int jumbo_destroy(struct jumbo *j);

/* jumbo_alloc() - like jumbo_pg_alloc(); @site is recorded as the place of the allocation. */
struct vm_page *jumbo_alloc(struct jumbo *j, void *site);
/*
 * jumbo_free() - free the page at a pool KVA
 *
 * Return: 0; -EINVAL for an address that is not a page of this pool, or a page not in use (both
 * reported as misuse); -EBUSY for a posted page (reported).
 */
int jumbo_free(struct jumbo *j, void *kva, void *site);
/* jumbo_steal() - like jumbo_pg_steal(); 0, or -EINVAL (reported) for a page not in use. */
int jumbo_steal(struct jumbo *j, struct vm_page *m, void *site);

/*
 * jumbo_flip() - like jumbo_steal(), but a later jumbo_free() recycles the KVA
 *
 * For a page that is the storage of an mbuf: its free routine runs when the mbuf is freed.
 */
int jumbo_flip(struct jumbo *j, struct vm_page *m, void *site);

/*
 * Where the mbuf whose free routine is running was freed; NULL outside free routines. It is also
 * recorded as the place where the page was freed, because the library's own call of jumbo_freem()
 * would tell the user nothing.
 */
extern _Thread_local void *jumbo_free_site;

extern _Atomic(struct jumbo *) jumbo_newest;
struct jumbo *jumbo_at_slow(const void *kva);

/* jumbo_at() - pool of the arena that an address lies in; NULL if there is none. */
static inline struct jumbo *
jumbo_at(const void *kva)
{
    struct jumbo *j = atomic_load_explicit(&jumbo_newest, memory_order_acquire);

    if (__builtin_expect(j && (uintptr_t)kva - (uintptr_t)j->kva < j->max_pages << PAGE_SHIFT, 1))
        return j;
    return jumbo_at_slow(kva);
}

/* jumbo_page_at() - page bound to the slot that a pool KVA lies in; NULL if there is none. */
static inline struct vm_page *
jumbo_page_at(const struct jumbo *j, const void *kva)
{
    size_t slot = ((uintptr_t)kva - (uintptr_t)j->kva) >> PAGE_SHIFT;

    if (slot >= __atomic_load_n(&j->nslots, __ATOMIC_ACQUIRE))
        return NULL;
    uint32_t page = __atomic_load_n(&j->pages[slot].slot_page, __ATOMIC_RELAXED);

    return page == VM_PAGE_NOSLOT ? NULL : &j->pages[page];
}

/* jumbo_kva() - pool KVA of a page that has a slot. */
static inline void *
jumbo_kva(const struct jumbo *j, const struct vm_page *m)
{
    return j->kva + ((size_t)m->slot << PAGE_SHIFT);
}

/* jumbo_reach() - pages that jumbo_alloc() could still give the calling thread, growth included */
size_t jumbo_reach(struct jumbo *j);

void jumbo_get_stats(struct jumbo *j, struct jumbo_stats *out);
/* jumbo_each_out() - list the pages in use, including those that left the pool */
void jumbo_each_out(struct jumbo *j, out_fn *fn, void *arg);

#endif
