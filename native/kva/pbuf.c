/* SPDX-License-Identifier: BSD-2-Clause */
#include "kva/pbuf.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/spin.h"
#include "kva/quick.h"

#define WINDOW_PAGES ((size_t)MAXPHYS >> PAGE_SHIFT)

_Static_assert(offsetof(struct buf, b_kvabase) == 128, "what fresh() clears");

enum buf_state {
    B_FREE = 0,
    B_BUSY = 0x62757379
};

struct pbuf_pool {
    struct spin lock;
    uint32_t waiters; /* threads asleep, or about to be */
    struct buf *free; /* with memory, last released first */
    uint32_t nfree;
    uint32_t nraw;        /* the last @nraw buffers were never handed out */
    uint32_t outstanding; /* total = nfree + nraw + outstanding */
    uint32_t total;
    uint32_t wake_seq; /* futex: something was released */
    bool growing;      /* a thread is allocating memory for the next raw buffer */
    bool strict;
    struct arena *arena;
    struct buf *buf;
    uint8_t *window;
    struct pbuf_stats stats;
};

unsigned
pbuf_count_for(size_t bytes)
{
    size_t n = bytes / (8 * (size_t)MAXPHYS);

    return n < PBUF_MIN ? PBUF_MIN : n > PBUF_MAX ? PBUF_MAX : (unsigned)n;
}

void
pbuf_sizes(unsigned n, struct arena_config *config)
{
    config->pbuf_bytes = n * (size_t)MAXPHYS + round_page(n * sizeof(struct buf));
    config->max_pages += n * WINDOW_PAGES;
}

int
pbuf_pool_create(struct arena *a, unsigned n, bool strict, struct pbuf_pool **out)
{
    size_t head = round_page(n * sizeof(struct buf));

    if (n == 0 || n > INT_MAX || a->region_size[REGION_PBUF] < n * (size_t)MAXPHYS + head)
        return -EINVAL;
    if (a->owner[REGION_PBUF])
        return -EBUSY;
    struct pbuf_pool *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return -ENOMEM;
    /* The descriptors follow the windows, so that a buffer's address leads to its arena. */
    p->window = a->region_base[REGION_PBUF];
    p->buf = mmap(p->window + n * (size_t)MAXPHYS, head, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (p->buf == MAP_FAILED) {
        free(p);
        return -ENOMEM;
    }
    p->arena = a;
    p->strict = strict;
    p->total = p->nraw = n;
    a->owner[REGION_PBUF] = p;
    *out = p;
    return 0;
}

int
pbuf_pool_destroy(struct pbuf_pool *p)
{
    struct arena *a = p->arena;

    spin_lock(&p->lock);
    bool busy = p->nfree + p->nraw != p->total;

    spin_unlock(&p->lock);
    if (busy)
        return -EBUSY;
    for (struct buf *bp = p->free; bp; bp = bp->b_freelist)
        arena_pages_free(a, bp->b_pages, WINDOW_PAGES);
    arena_unmap(a, p->window, a->region_size[REGION_PBUF]);
    a->owner[REGION_PBUF] = NULL;
    free(p);
    return 0;
}

/* ---- windows ---- */

/*
 * back() - allocate a window's memory for the first time; false if there is none
 *
 * Called without the lock, by the one thread that has the buffer.
 */
static bool
back(struct pbuf_pool *p, struct buf *bp)
{
    char *kva = (char *)p->window + (size_t)(bp - p->buf) * MAXPHYS;
    struct vm_page *m = arena_pages_alloc(p->arena, WINDOW_PAGES, VPS_KMEM);

    if (m == NULL)
        return false;
    if (arena_map(p->arena, kva, m->pindex, WINDOW_PAGES) < 0) {
        arena_pages_free(p->arena, m, WINDOW_PAGES);
        return false;
    }
    bp->b_pages = m;
    bp->b_kvabase = kva;
    bp->b_kvasize = MAXPHYS;
    return true;
}

/* ---- get and release ---- */

/*
 * Counters belong to callers, and all users of one share a pool, so the pool's lock protects them.
 * A negative counter means no limit, and is never written.
 */
static int
counter(const int *pfreecnt)
{
    return pfreecnt ? __atomic_load_n(pfreecnt, __ATOMIC_RELAXED) : -1;
}

static void
count(int *pfreecnt, int by)
{
    int n = counter(pfreecnt);

    if (n >= 0)
        __atomic_store_n(pfreecnt, n + by, __ATOMIC_RELAXED);
}

static inline void
push(struct pbuf_pool *p, struct buf *bp)
{
    bp->b_freelist = p->free;
    p->free = bp;
    p->nfree++;
}

/* take() - take a buffer with memory, and decrement the counter; NULL if either is exhausted. Under the lock. */
static inline struct buf *
take(struct pbuf_pool *p, int *pfreecnt)
{
    struct buf *bp = p->free;

    if (counter(pfreecnt) == 0 || bp == NULL)
        return NULL;
    p->free = bp->b_freelist;
    p->nfree--;
    p->outstanding++;
    count(pfreecnt, -1);
    bp->b_state = B_BUSY;
    return bp;
}

/* wake() - wake all sleepers; called with the lock held, and releases it */
static void
wake(struct pbuf_pool *p)
{
    bool sleepers = p->waiters > 0;

    if (sleepers)
        __atomic_store_n(&p->wake_seq, p->wake_seq + 1, __ATOMIC_RELAXED);
    spin_unlock(&p->lock);
    /* Wake all: some wait for the pool, others for various counters. */
    if (sleepers)
        syscall(SYS_futex, &p->wake_seq, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* untake() - return a buffer unused */
static COLD void
untake(struct pbuf_pool *p, struct buf *bp, int *pfreecnt)
{
    spin_lock(&p->lock);
    bp->b_state = B_FREE;
    push(p, bp);
    p->outstanding--;
    count(pfreecnt, 1);
    p->stats.refused++;
    wake(p);
}

/* fresh() - clear what the last user left; NULL if the window cannot be mapped (strict mode) */
static struct buf *
fresh(struct pbuf_pool *p, struct buf *bp, int *pfreecnt, void *site)
{
    if (__builtin_expect(p->strict, 0) &&
        arena_map(p->arena, bp->b_kvabase, bp->b_pages->pindex, WINDOW_PAGES) < 0) {
        untake(p, bp, pfreecnt);
        return NULL;
    }
    /* In halves: the compiler turns those into stores, but the whole into a slow string instruction. */
    memset(bp, 0, 64);
    memset((char *)bp + 64, 0, 64);
    bp->b_data = bp->b_kvabase;
    bp->b_bufsize = MAXPHYS;
    /* The record of the window's first page serves as the buffer's. */
    __atomic_store_n(&bp->b_pages->alloc_site, (uintptr_t)site, __ATOMIC_RELAXED);
    return bp;
}

/*
 * grow() - add a buffer with memory to the free list
 *
 * Called and returns with the lock held, but drops it meanwhile.
 *
 * Return: 0; -EAGAIN while another thread is growing; -ENOMEM; -ENOSPC if all have memory.
 */
static int
grow(struct pbuf_pool *p)
{
    if (p->nraw == 0)
        return -ENOSPC;
    if (p->growing)
        return -EAGAIN;
    struct buf *bp = &p->buf[p->total - p->nraw];

    p->growing = true;
    spin_unlock(&p->lock);
    bool ok = back(p, bp);

    spin_lock(&p->lock);
    p->growing = false;
    if (!ok)
        return -ENOMEM;
    p->nraw--;
    p->stats.backed++;
    push(p, bp);
    return 0;
}

__attribute__((noinline)) static struct buf *
get_slow(struct pbuf_pool *p, int *pfreecnt, bool wait, void *site)
{
    static const struct timespec soon = {0, 10 * 1000 * 1000};

    for (;;) {
        struct buf *bp = take(p, pfreecnt);

        if (bp) {
            spin_unlock(&p->lock);
            bp = fresh(p, bp, pfreecnt, site);
            if (bp || !wait)
                return bp;
            /* Nothing signals when mappings become available again. */
            nanosleep(&soon, NULL);
            spin_lock(&p->lock);
            continue;
        }
        bool limited = counter(pfreecnt) == 0;

        int err = limited ? -ENOSPC : grow(p);

        if (!err) {
            /* A thread may have gone to sleep because we were growing. */
            if (p->waiters) {
                wake(p);
                spin_lock(&p->lock);
            }
            continue;
        }
        if (!wait && err == -EAGAIN) {
            /* The pool is not empty: this is brief, and does not count as a sleep. */
            spin_unlock(&p->lock);
            sched_yield();
            spin_lock(&p->lock);
            continue;
        }
        if (!wait) {
            p->stats.refused++;
            spin_unlock(&p->lock);
            return NULL;
        }
        /*
         * No buffer and no count is held here. While some buffers have no memory, memory may become
         * available without a signal, so look again soon.
         */
        const struct timespec *timeout = !limited && p->nraw ? &soon : NULL;
        uint32_t seq = p->wake_seq;

        p->waiters++;
        if (limited)
            p->stats.counter_waits++;
        else
            p->stats.pool_waits++;
        spin_unlock(&p->lock);
        syscall(SYS_futex, &p->wake_seq, FUTEX_WAIT_PRIVATE, seq, timeout, NULL, 0);
        spin_lock(&p->lock);
        p->waiters--;
    }
}

struct buf *
pbuf_get(struct pbuf_pool *p, int *pfreecnt, void *site)
{
    quick_check_blocking(p->arena, false, site);
    spin_lock(&p->lock);
    struct buf *bp = take(p, pfreecnt);

    if (__builtin_expect(bp == NULL, 0))
        return get_slow(p, pfreecnt, true, site);
    spin_unlock(&p->lock);
    bp = fresh(p, bp, pfreecnt, site);
    if (__builtin_expect(bp == NULL, 0)) {
        spin_lock(&p->lock);
        return get_slow(p, pfreecnt, true, site);
    }
    return bp;
}

struct buf *
pbuf_try(struct pbuf_pool *p, int *pfreecnt, void *site)
{
    spin_lock(&p->lock);
    struct buf *bp = take(p, pfreecnt);

    if (__builtin_expect(bp == NULL, 0))
        return get_slow(p, pfreecnt, false, site);
    spin_unlock(&p->lock);
    return fresh(p, bp, pfreecnt, site);
}

/* drop_cred() - drop the buffer's reference, once */
static void
drop_cred(struct ucred **cred)
{
    if (*cred != NOCRED && *cred != FSCRED)
        crfree(*cred);
    *cred = NOCRED;
}

/* refuse() - report what is wrong with a release; changes nothing */
static int
refuse(struct pbuf_pool *p, enum misuse_kind kind, const struct buf *bp, struct vm_page *m,
       void *site)
{
    arena_report(p->arena, kind, bp, m, site);
    return -EINVAL;
}

int
pbuf_rel(struct pbuf_pool *p, struct buf *bp, int *pfreecnt, void *site)
{
    size_t at = (size_t)((char *)bp - (char *)p->buf);

    if (at >= p->total * sizeof(*bp) || at % sizeof(*bp))
        return refuse(p, MISUSE_FOREIGN_ADDRESS, bp, NULL, site);

    struct ucred *rcred = NOCRED, *wcred = NOCRED;

    spin_lock(&p->lock);
    if (bp->b_state != B_BUSY) {
        spin_unlock(&p->lock);
        return refuse(p, MISUSE_DOUBLE_FREE, bp, bp->b_pages, site);
    }
    rcred = bp->b_rcred;
    wcred = bp->b_wcred;
    bp->b_rcred = bp->b_wcred = NOCRED;
    bp->b_state = B_FREE;
    __atomic_store_n(&bp->b_pages->free_site, (uintptr_t)site, __ATOMIC_RELAXED);
    if (__builtin_expect(p->strict, 0)) {
        spin_unlock(&p->lock);
        arena_unmap(p->arena, bp->b_kvabase, MAXPHYS);
        spin_lock(&p->lock);
    }
    push(p, bp);
    p->outstanding--;
    count(pfreecnt, 1);
    if (__builtin_expect(p->waiters > 0, 0))
        wake(p);
    else
        spin_unlock(&p->lock);
    if (rcred)
        drop_cred(&rcred);
    if (wcred)
        drop_cred(&wcred);
    return 0;
}

/* ---- questions ---- */

struct pbuf_pool *
pbuf_pool_at(const void *addr)
{
    struct arena *a = arena_at(addr);

    return a && arena_region_at(a, addr) == REGION_PBUF ? a->owner[REGION_PBUF] : NULL;
}

struct buf *
pbuf_of(struct pbuf_pool *p, const void *kva)
{
    size_t n = ((uintptr_t)kva - (uintptr_t)p->window) / MAXPHYS;

    return n < p->total ? &p->buf[n] : NULL;
}

void
pbuf_get_stats(struct pbuf_pool *p, struct pbuf_stats *out)
{
    spin_lock(&p->lock);
    *out = p->stats;
    out->total = p->total;
    out->free = p->nfree + p->nraw;
    out->outstanding = p->outstanding;
    spin_unlock(&p->lock);
}

void
pbuf_each_out(struct pbuf_pool *p, out_fn *fn, void *arg)
{
    spin_lock(&p->lock);
    for (uint32_t i = 0; i < p->total - p->nraw; i++) {
        if (p->buf[i].b_state == B_BUSY)
            fn(arg, "pbuf", p->buf[i].b_pages->alloc_site);
    }
    spin_unlock(&p->lock);
}
