/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shared arena: one address-space reservation that holds everything a ring may point at, and
 * one memfd, sealed against shrinking, as its physical memory.
 *
 *     base                                                               base + size
 *     | direct map | kmem | jumbo KVA | sf_buf window | pbuf windows | quick frames | descriptors |
 *
 * The page descriptors lie in the reservation too, after the regions that a device may use, so that
 * the arena of a vm_page_t or a struct sf_buf is found in the same way as for any other address.
 *
 * Every region starts on a 1 GiB boundary, so one table look-up classifies an address; every
 * reservation starts on a 64 GiB boundary, so one more look-up finds the arena of an address.
 */
#ifndef NIC_HARNESS_ARENA_H
#define NIC_HARNESS_ARENA_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <harness/inspect.h>
#include <vm/vm.h>
#include <vm/vm_page.h>

#define ARENA_ALIGN_SHIFT 36 /* 64 GiB */
#define ARENA_REGION_SHIFT 30
#define ARENA_VA_BITS 47
#define ARENA_SLOTS (1u << (ARENA_VA_BITS - ARENA_ALIGN_SHIFT))
#define ARENA_MAX_GIB 1024

enum arena_region {
    REGION_NONE = 0,
    REGION_DIRECT, /* every physical page, at base + its physical address; strict: only those mapped now */
    REGION_KMEM,   /* the harness's own memory: rings, mbufs; same offsets as the direct map */
    REGION_JUMBO,  /* receive pages; a slot can be bound to another page */
    REGION_SFBUF,  /* file pages on their way out */
    REGION_PBUF,   /* windows for file I/O that is not mapped */
    REGION_QUICK,  /* one frame per thread */
    REGION_LWBUF,  /* lwbufs when there is no direct map */
    REGION_PAGES,  /* descriptors of arena pages */
    REGION_SFMETA, /* descriptors of file pages */
    REGION_COUNT,
};

struct arena_config {
    size_t max_pages;    /* physical memory, at most; pages */
    size_t jumbo_slots;  /* size of the jumbo KVA pool, pages */
    size_t sfbuf_bytes;  /* size of the sf_buf window */
    size_t sfmeta_bytes; /* size of its descriptors */
    size_t pbuf_bytes;
    size_t quick_bytes;
    size_t lwbuf_bytes;
    bool direct_map; /* false: strict mode, every access needs a live mapping */
};

struct arena_run;   /* a free run of physical pages */
struct arena_stale; /* a range whose unmapping the kernel refused */

struct arena {
    uint8_t *base;
    size_t size;
    uint8_t *direct;       /* NULL in strict mode */
    struct vm_page *pages; /* max_pages descriptors; only address space until touched */
    size_t npages;         /* physical pages that exist */
    struct arena_config config;
    uint8_t region_of_gib[ARENA_MAX_GIB];
    void *owner[REGION_COUNT]; /* the module that manages the region */
    uint8_t *region_base[REGION_COUNT];
    size_t region_size[REGION_COUNT];

    bool inherited; /* by a fork: it belongs to the parent, and this process does not touch it */
    struct arena *next; /* next inherited arena */
    int memfd;
    uint32_t id;          /* unique in the process */
    pthread_mutex_t lock; /* growth, runs, reports: no hot path takes it */
    struct arena_run *runs;
    struct vm_page *free_pages; /* freed single pages */
    size_t nfree_pages;
    size_t used_pages; /* given out by arena_pages_alloc() */
    size_t kmem_pages; /* in use by the harness itself */

    pthread_mutex_t stale_lock;
    struct arena_stale *stale;
    _Atomic size_t stale_bytes;      /* address space that should fault but does not yet */
    _Atomic uint64_t unmaps_refused; /* by the kernel so far: vm.max_map_count */

    _Atomic uint64_t bytes_copied; /* payload bytes copied in user space */
    _Atomic uint64_t misuse_count[MISUSE_COUNT];
    struct harness_misuse misuse[MISUSE_RING];
    uint64_t misuse_total;
    void (*on_misuse)(const struct harness_misuse *report); /* called for each; may be NULL */
};

extern struct arena *arena_slots[ARENA_SLOTS];

/* The arena that reports misuse of addresses outside every arena; NULL: none does. */
extern _Atomic(struct arena *) arena_of_strays;

/*
 * arena_create() - reserve the address space and make the memfd; no memory is committed yet
 * @config: sizes
 * @out: the arena
 *
 * Return: 0; -EINVAL for a size of zero or beyond ARENA_MAX_GIB; -ENOMEM; an error of
 * memfd_create(2).
 */
int arena_create(const struct arena_config *config, struct arena **out);

/*
 * arena_destroy() - release everything
 *
 * The modules that manage its regions must have released them first.
 */
void arena_destroy(struct arena *a);

/*
 * arena_pages_alloc() - allocate resident pages that are contiguous in physical memory
 * @a: arena
 * @n: pages
 * @state: their VPS_* state
 *
 * Return: the first page; NULL if the arena or the machine is out of memory.
 */
struct vm_page *arena_pages_alloc(struct arena *a, size_t n, enum vm_page_state state);

/* arena_pages_free() - free a run, or part of one. */
void arena_pages_free(struct arena *a, struct vm_page *first, size_t n);

/* arena_pages_away() - pages in use, without the harness's own and the @pooled ones of its pools */
size_t arena_pages_away(struct arena *a, size_t pooled);

/* kmem_alloc() - zeroed memory for the harness itself, mapped until kmem_free(); NULL on failure. */
void *kmem_alloc(struct arena *a, size_t bytes);
void kmem_free(struct arena *a, void *addr, size_t bytes);

/* arena_map() - map @n pages from @pindex on at @addr; 0 or -errno. */
int arena_map(struct arena *a, void *addr, vm_pindex_t pindex, size_t n);
/* arena_map_file() - map part of a file, shared, at @addr in the reservation; 0 or -errno. */
int arena_map_file(struct arena *a, void *addr, size_t bytes, int prot, int fd, off_t offset);

/*
 * arena_unmap() - make accesses to [addr, addr + bytes) fault from now on
 *
 * The kernel may refuse to split a mapping (vm.max_map_count). Such a range is counted in
 * @stale_bytes and keeps its old contents; later unmaps try again, until something else is mapped
 * there.
 */
void arena_unmap(struct arena *a, void *addr, size_t bytes);

/* arena_at() - arena whose reservation holds an address; NULL if none does. O(1). */
static inline struct arena *
arena_at(const void *addr)
{
    uintptr_t va = (uintptr_t)addr;

    if (va >> ARENA_VA_BITS)
        return NULL;
    struct arena *a = arena_slots[va >> ARENA_ALIGN_SHIFT];

    return a && va - (uintptr_t)a->base < a->size ? a : NULL;
}

/* arena_region_at() - what an address of this arena is for. O(1). */
static inline enum arena_region
arena_region_at(const struct arena *a, const void *addr)
{
    size_t off = (size_t)((uintptr_t)addr - (uintptr_t)a->base);

    return off < a->size ? (enum arena_region)a->region_of_gib[off >> ARENA_REGION_SHIFT]
                         : REGION_NONE;
}

/* arena_of_page() - arena that a page descriptor belongs to; NULL for any other address. O(1). */
static inline struct arena *
arena_of_page(const struct vm_page *m)
{
    struct arena *a = arena_at(m);
    enum arena_region r = a ? arena_region_at(a, m) : REGION_NONE;

    return r == REGION_PAGES || r == REGION_SFMETA ? a : NULL;
}

/* Called by an allocator for each object in use: @what names its kind, @site is where it was allocated. */
typedef void out_fn(void *arg, const char *what, uintptr_t site);

/* arena_contains() - does [addr, addr + len) lie in one region that a device may be given? */
static inline bool
arena_contains(const struct arena *a, uint64_t addr, size_t len)
{
    uint64_t off = addr - (uint64_t)(uintptr_t)a->base;

    if (off >= a->size || len > a->size - off)
        return false;
    enum arena_region r = (enum arena_region)a->region_of_gib[off >> ARENA_REGION_SHIFT];
    uint64_t in = addr - (uint64_t)(uintptr_t)a->region_base[r];

    return r != REGION_NONE && r < REGION_PAGES && in < a->region_size[r] &&
           len <= a->region_size[r] - in;
}

static inline size_t
arena_page_index(const struct arena *a, const struct vm_page *m)
{
    return (size_t)(m - a->pages);
}

static inline bool
arena_owns_page(const struct arena *a, const struct vm_page *m)
{
    return (uintptr_t)m - (uintptr_t)a->pages < a->config.max_pages * sizeof(struct vm_page);
}

/* arena_kva() - direct-map address of an arena page; NULL in strict mode. */
static inline void *
arena_kva(const struct arena *a, const struct vm_page *m)
{
    return a->direct ? a->direct + (arena_page_index(a, m) << PAGE_SHIFT) : NULL;
}

static inline void
arena_count_copy(struct arena *a, size_t bytes)
{
    atomic_fetch_add_explicit(&a->bytes_copied, bytes, memory_order_relaxed);
}

/*
 * The page's flight record. Only the page's current owner writes it, so relaxed accesses are
 * enough; they are atomic because an inspector may read at the same time.
 */
static inline void
vm_page_event(struct vm_page *m, enum vm_page_event ev)
{
    uint64_t h = __atomic_load_n(&m->history, __ATOMIC_RELAXED);

    __atomic_store_n(&m->history, h << 4 | (uint64_t)ev, __ATOMIC_RELAXED);
}

static inline enum vm_page_state
vm_page_state(const struct vm_page *m)
{
    return (enum vm_page_state)__atomic_load_n(&m->state, __ATOMIC_RELAXED);
}

/* vm_page_turn() - move a page to a state and record the event that did it. */
static inline void
vm_page_turn(struct vm_page *m, enum vm_page_state state, enum vm_page_event ev)
{
    __atomic_store_n(&m->state, (uint8_t)state, __ATOMIC_RELAXED);
    vm_page_event(m, ev);
}

/*
 * arena_report() - record a misuse; changes nothing else
 * @a: arena
 * @kind: what was done
 * @addr: address given by the caller
 * @m: page concerned; NULL if there is none
 * @site: return address of the caller
 */
void arena_report(struct arena *a, enum misuse_kind kind, const void *addr, struct vm_page *m,
                  void *site);

/* arena_report_sites() - like arena_report(), for other objects that record where they were allocated and freed */
void arena_report_sites(struct arena *a, enum misuse_kind kind, const void *addr,
                        uintptr_t alloc_site, uintptr_t free_site, void *site);

/* arena_report_stray() - report an address that no arena or pool ever gave out */
void arena_report_stray(const void *addr, void *site);

/*
 * arena_misuse_mine() - the calling thread's last misuse, in any arena
 * @out: the report; NULL if only the number is wanted
 *
 * Return: number of reports that this thread has caused; @out is set unless it is 0.
 */
uint64_t arena_misuse_mine(struct harness_misuse *out);

/* arena_misuse_last() - copy the newest report; false if there is none since @seen. */
bool arena_misuse_last(struct arena *a, uint64_t seen, struct harness_misuse *out);

/* arena_misuse_total() - number of reports so far */
uint64_t arena_misuse_total(struct arena *a);

/* arena_misuse_recent() - copy at most @max reports, newest first; returns the number copied. */
unsigned arena_misuse_recent(struct arena *a, struct harness_misuse *out, unsigned max);

/* Out of line, so that a hot path that may call it need not save registers. */
#define COLD __attribute__((noinline, cold))

#define RETURN_SITE() __builtin_return_address(0)

#endif
