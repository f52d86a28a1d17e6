/* SPDX-License-Identifier: BSD-2-Clause */
#include "arena/arena.h"

#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define GIB ((size_t)1 << ARENA_REGION_SHIFT)
#define ALIGN ((size_t)1 << ARENA_ALIGN_SHIFT)

struct arena_run {
    struct arena_run *next;
    struct vm_page *first;
    size_t n;
};

struct arena_stale {
    struct arena_stale *next;
    uint8_t *from, *to;
};

struct arena *arena_slots[ARENA_SLOTS];
_Atomic(struct arena *) arena_of_strays;

static _Thread_local struct harness_misuse mine; /* the calling thread's last report */
static _Thread_local uint64_t mine_total;

static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t watching = PTHREAD_ONCE_INIT;
static uint32_t next_id = 1;

static size_t
round_gib(size_t bytes)
{
    return (bytes + GIB - 1) & ~(GIB - 1);
}

/* reserve() - reserve @size bytes of address space on a 64 GiB boundary; NULL on failure. */
static uint8_t *
reserve(size_t size)
{
    uint8_t *raw =
        mmap(NULL, size + ALIGN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (raw == MAP_FAILED)
        return NULL;
    uint8_t *base = (uint8_t *)(((uintptr_t)raw + ALIGN - 1) & ~(ALIGN - 1));

    if (base > raw)
        munmap(raw, (size_t)(base - raw));
    munmap(base + size, (size_t)(raw + ALIGN - base));
    return base;
}

/* set_slots() - add an arena to, or remove it from, the table that arena_at() reads. */
static void
set_slots(const struct arena *a, struct arena *value)
{
    size_t first = (uintptr_t)a->base >> ARENA_ALIGN_SHIFT;
    size_t last = ((uintptr_t)a->base + a->size - 1) >> ARENA_ALIGN_SHIFT;

    for (size_t i = first; i <= last; i++)
        arena_slots[i] = value;
}

static struct arena *parents; /* of a forked child; never freed */

/* in_child() - all arenas belong to the parent, so no address is in one of ours */
static void
in_child(void)
{
    for (size_t i = 0; i < ARENA_SLOTS; i++) {
        struct arena *a = arena_slots[i];

        if (a && !a->inherited) {
            a->inherited = true;
            a->next = parents;
            parents = a;
        }
        arena_slots[i] = NULL;
    }
    arena_of_strays = NULL;
}

static void
watch_forks(void)
{
    process_across_fork(&slots_lock);
    pthread_atfork(NULL, NULL, in_child);
}

static int
make_memfd(void)
{
    int fd = memfd_create("nic-harness", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return -errno;
    /* Physical memory never shrinks, so a mapping of it can never raise SIGBUS. */
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0) {
        int err = errno;

        close(fd);
        return -err;
    }
    return fd;
}

int
arena_create(const struct arena_config *config, struct arena **out)
{
    const size_t bytes[REGION_COUNT] = {
        [REGION_DIRECT] = config->max_pages << PAGE_SHIFT,
        [REGION_KMEM] = config->max_pages << PAGE_SHIFT,
        [REGION_JUMBO] = config->jumbo_slots << PAGE_SHIFT,
        [REGION_SFBUF] = config->sfbuf_bytes,
        [REGION_PBUF] = config->pbuf_bytes,
        [REGION_QUICK] = config->quick_bytes,
        [REGION_LWBUF] = config->lwbuf_bytes,
        [REGION_PAGES] = config->max_pages * sizeof(struct vm_page),
        [REGION_SFMETA] = config->sfmeta_bytes,
    };
    size_t size = 0;

    if (config->max_pages == 0 || config->max_pages >= VM_PAGE_NOSLOT ||
        config->jumbo_slots > config->max_pages)
        return -EINVAL;
    for (int r = 0; r < REGION_COUNT; r++) {
        if (bytes[r] > ARENA_MAX_GIB * GIB)
            return -EINVAL;
        size += round_gib(bytes[r]);
    }
    if (size > ARENA_MAX_GIB * GIB)
        return -EINVAL;

    struct arena *a = calloc(1, sizeof(*a));

    if (a == NULL)
        return -ENOMEM;
    pthread_once(&watching, watch_forks);
    a->config = *config;
    a->size = size;
    pthread_mutex_init(&a->lock, NULL);
    pthread_mutex_init(&a->stale_lock, NULL);
    a->memfd = process_own(make_memfd());
    if (a->memfd < 0) {
        int err = a->memfd;

        free(a);
        return err;
    }
    a->base = reserve(size);
    if (a->base == NULL)
        goto fail;

    size_t off = 0;

    for (int r = 0; r < REGION_COUNT; r++) {
        if (bytes[r] == 0)
            continue;
        a->region_base[r] = a->base + off;
        a->region_size[r] = bytes[r];
        memset(a->region_of_gib + off / GIB, r, round_gib(bytes[r]) / GIB);
        off += round_gib(bytes[r]);
    }
    a->direct = config->direct_map ? a->region_base[REGION_DIRECT] : NULL;
    a->pages = (struct vm_page *)(void *)a->region_base[REGION_PAGES];
    for (int r = REGION_PAGES; r <= REGION_SFMETA; r++) {
        if (bytes[r] &&
            mmap(a->region_base[r], bytes[r], PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
            goto fail;
    }

    pthread_mutex_lock(&slots_lock);
    a->id = next_id++;
    set_slots(a, a);
    pthread_mutex_unlock(&slots_lock);
    *out = a;
    return 0;

fail:;
    int err = errno ? -errno : -ENOMEM;

    if (a->base)
        munmap(a->base, a->size);
    process_close(a->memfd);
    pthread_mutex_destroy(&a->lock);
    free(a);
    return err;
}

void
arena_destroy(struct arena *a)
{
    struct arena *gone = a;

    atomic_compare_exchange_strong(&arena_of_strays, &gone, NULL);
    pthread_mutex_lock(&slots_lock);
    set_slots(a, NULL);
    pthread_mutex_unlock(&slots_lock);
    munmap(a->base, a->size);
    process_close(a->memfd);
    while (a->runs) {
        struct arena_run *r = a->runs;

        a->runs = r->next;
        free(r);
    }
    while (a->stale) {
        struct arena_stale *s = a->stale;

        a->stale = s->next;
        free(s);
    }
    pthread_mutex_destroy(&a->stale_lock);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* ---- mapping ---- */

/* keep() - remember that [from, to) is still to be unmapped; returns its bytes. Under the lock. */
static size_t
keep(struct arena *a, uint8_t *from, uint8_t *to)
{
    struct arena_stale *s = from < to ? malloc(sizeof(*s)) : NULL;

    if (s == NULL)
        return 0; /* out of memory: it stays mapped until something else is mapped there */
    *s = (struct arena_stale){a->stale, from, to};
    a->stale = s;
    return (size_t)(to - from);
}

/* forget() - nothing in [addr, addr + bytes) needs unmapping any more; under the lock */
static void
forget(struct arena *a, uint8_t *addr, size_t bytes)
{
    uint8_t *end = addr + bytes;
    struct arena_stale *all = a->stale;
    size_t left = 0;

    a->stale = NULL;
    while (all) {
        struct arena_stale s = *all;

        free(all);
        all = s.next;
        left += keep(a, s.from, s.to < addr ? s.to : addr);
        left += keep(a, s.from > end ? s.from : end, s.to);
    }
    /* Set once, because mapping code reads it without the lock. */
    atomic_store(&a->stale_bytes, left);
}

static int
replace_by_nothing(uint8_t *addr, size_t bytes)
{
    return mmap(addr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                0) == MAP_FAILED
               ? -errno
               : 0;
}

int
arena_map_file(struct arena *a, void *addr, size_t bytes, int prot, int fd, off_t offset)
{
    /* The caller got this address after its last unmap, so what that left behind is visible here. */
    bool stale = __builtin_expect(atomic_load(&a->stale_bytes) != 0, 0);
    int err = 0;

    if (stale)
        pthread_mutex_lock(&a->stale_lock);
    if (mmap(addr, bytes, prot, MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED)
        err = -errno;
    if (stale) {
        if (!err)
            forget(a, addr, bytes);
        pthread_mutex_unlock(&a->stale_lock);
    }
    return err;
}

int
arena_map(struct arena *a, void *addr, vm_pindex_t pindex, size_t n)
{
    return arena_map_file(a, addr, n << PAGE_SHIFT, PROT_READ | PROT_WRITE, a->memfd,
                          (off_t)(pindex << PAGE_SHIFT));
}

void
arena_unmap(struct arena *a, void *addr, size_t bytes)
{
    int err = replace_by_nothing(addr, bytes);

    if (__builtin_expect(!err && atomic_load(&a->stale_bytes) == 0, 1))
        return;
    pthread_mutex_lock(&a->stale_lock);
    forget(a, addr, bytes);
    if (err) {
        atomic_fetch_add(&a->unmaps_refused, 1);
        atomic_fetch_add(&a->stale_bytes, keep(a, addr, (uint8_t *)addr + bytes));
    }
    /* Retry earlier refusals: there may be room again. */
    while (!err && a->stale) {
        uint8_t *from = a->stale->from;
        size_t n = (size_t)(a->stale->to - from);

        err = replace_by_nothing(from, n);
        if (!err)
            forget(a, from, n);
    }
    pthread_mutex_unlock(&a->stale_lock);
}

/* ---- pages ---- */

/* take_run() - first fit among the freed runs; NULL if none is long enough. */
static struct vm_page *
take_run(struct arena *a, size_t n)
{
    if (n == 1 && a->free_pages) {
        struct vm_page *m = a->free_pages;

        a->free_pages = m->next;
        a->nfree_pages--;
        return m;
    }
    for (struct arena_run **p = &a->runs; *p; p = &(*p)->next) {
        struct arena_run *r = *p;

        if (r->n < n)
            continue;
        struct vm_page *m = r->first;

        r->first += n;
        r->n -= n;
        if (r->n == 0) {
            *p = r->next;
            free(r);
        }
        return m;
    }
    return NULL;
}

/*
 * take_memory() - allocate a range of the file; false, with nothing taken, if there is no memory
 *
 * A signal interrupts it (io_uring keeps one pending while the thread has work to do for it), and
 * undoes it. So it works in pieces small enough to finish between two signals.
 */
static bool
take_memory(int fd, off_t off, size_t len)
{
    size_t piece = len;

    for (size_t done = 0; done < len;) {
        size_t part = piece < len - done ? piece : len - done;

        if (fallocate(fd, 0, off + (off_t)done, (off_t)part) == 0) {
            done += part;
        } else if (errno != EINTR) {
            if (done)
                fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, (off_t)done);
            return false;
        } else {
            piece = round_page(piece / 2);
        }
    }
    return true;
}

/* extend() - add physical pages after the last; NULL if the arena or the machine is full. */
static struct vm_page *
extend(struct arena *a, size_t n)
{
    size_t first = a->npages;
    off_t off = (off_t)(first << PAGE_SHIFT);

    if (n > a->config.max_pages - first)
        return NULL;
    /* Allocate now, when failure is an error, rather than at first touch, when it is a signal. */
    if (!take_memory(a->memfd, off, n << PAGE_SHIFT))
        return NULL;
    if (a->direct && arena_map(a, a->direct + off, first, n) < 0)
        return NULL;
    for (size_t i = first; i < first + n; i++) {
        a->pages[i].pindex = i;
        a->pages[i].slot = VM_PAGE_NOSLOT;
    }
    a->npages = first + n;
    return &a->pages[first];
}

struct vm_page *
arena_pages_alloc(struct arena *a, size_t n, enum vm_page_state state)
{
    if (n == 0)
        return NULL;
    pthread_mutex_lock(&a->lock);
    struct vm_page *m = take_run(a, n);

    if (m == NULL)
        m = extend(a, n);
    if (m)
        a->used_pages += n;
    if (m && state == VPS_KMEM)
        a->kmem_pages += n;
    pthread_mutex_unlock(&a->lock);
    for (size_t i = 0; m && i < n; i++) {
        m[i].object = NULL;
        m[i].generation++;
        vm_page_turn(&m[i], state, VPE_ALLOC);
    }
    return m;
}

void
arena_pages_free(struct arena *a, struct vm_page *first, size_t n)
{
    bool kmem = vm_page_state(first) == VPS_KMEM;
    struct arena_run *r = n > 1 ? malloc(sizeof(*r)) : NULL;

    for (size_t i = 0; i < n; i++)
        vm_page_turn(&first[i], VPS_FREE, VPE_FREE);
    pthread_mutex_lock(&a->lock);
    a->used_pages -= n;
    if (kmem)
        a->kmem_pages -= n;
    if (r) {
        *r = (struct arena_run){a->runs, first, n};
        a->runs = r;
    } else {
        for (size_t i = 0; i < n; i++) {
            first[i].next = a->free_pages;
            a->free_pages = &first[i];
            a->nfree_pages++;
        }
    }
    pthread_mutex_unlock(&a->lock);
}

size_t
arena_pages_away(struct arena *a, size_t pooled)
{
    pthread_mutex_lock(&a->lock);
    size_t others = a->used_pages - a->kmem_pages;

    pthread_mutex_unlock(&a->lock);
    /* The two counts are not taken at the same moment. */
    return others > pooled ? others - pooled : 0;
}

void *
kmem_alloc(struct arena *a, size_t bytes)
{
    size_t n = round_page(bytes) >> PAGE_SHIFT;
    struct vm_page *m = arena_pages_alloc(a, n, VPS_KMEM);

    if (m == NULL)
        return NULL;
    uint8_t *addr = a->region_base[REGION_KMEM] + (m->pindex << PAGE_SHIFT);

    if (arena_map(a, addr, m->pindex, n) < 0) {
        arena_pages_free(a, m, n);
        return NULL;
    }
    memset(addr, 0, n << PAGE_SHIFT);
    return addr;
}

void
kmem_free(struct arena *a, void *addr, size_t bytes)
{
    size_t first = (size_t)((uint8_t *)addr - a->region_base[REGION_KMEM]) >> PAGE_SHIFT;

    arena_unmap(a, addr, round_page(bytes));
    arena_pages_free(a, &a->pages[first], round_page(bytes) >> PAGE_SHIFT);
}

/* enter() - add a report */
static void
enter(struct arena *a, const struct harness_misuse *r)
{
    pthread_mutex_lock(&a->lock);
    a->misuse[a->misuse_total++ % MISUSE_RING] = *r;
    pthread_mutex_unlock(&a->lock);
    atomic_fetch_add_explicit(&a->misuse_count[r->kind], 1, memory_order_relaxed);
    mine = *r;
    mine_total++;
    if (a->on_misuse)
        a->on_misuse(r);
}

void
arena_report(struct arena *a, enum misuse_kind kind, const void *addr, struct vm_page *m,
             void *site)
{
    if (m == NULL) {
        arena_report_sites(a, kind, addr, 0, 0, site);
        return;
    }
    struct harness_misuse r = {
        .kind = kind,
        .state = vm_page_state(m),
        .addr = (uint64_t)(uintptr_t)addr,
        .pindex = m->pindex,
        .history = __atomic_load_n(&m->history, __ATOMIC_RELAXED),
        .site = (uint64_t)(uintptr_t)site,
        .alloc_site = __atomic_load_n(&m->alloc_site, __ATOMIC_RELAXED),
        .free_site = __atomic_load_n(&m->free_site, __ATOMIC_RELAXED),
    };

    vm_page_event(m, VPE_MISUSE);
    enter(a, &r);
}

void
arena_report_sites(struct arena *a, enum misuse_kind kind, const void *addr, uintptr_t alloc_site,
                   uintptr_t free_site, void *site)
{
    const struct harness_misuse r = {
        .kind = kind,
        .addr = (uint64_t)(uintptr_t)addr,
        .pindex = UINT64_MAX,
        .site = (uint64_t)(uintptr_t)site,
        .alloc_site = alloc_site,
        .free_site = free_site,
    };

    enter(a, &r);
}

void
arena_report_stray(const void *addr, void *site)
{
    struct arena *a = arena_at(addr);

    /* Anything left that a forked child inherited is freed without a report. */
    for (const struct arena *p = a ? NULL : parents; p; p = p->next) {
        if ((uintptr_t)addr - (uintptr_t)p->base < p->size)
            return;
    }
    if (a == NULL)
        a = atomic_load_explicit(&arena_of_strays, memory_order_acquire);
    if (a)
        arena_report_sites(a, MISUSE_FOREIGN_ADDRESS, addr, 0, 0, site);
}

uint64_t
arena_misuse_mine(struct harness_misuse *out)
{
    if (out && mine_total)
        *out = mine;
    return mine_total;
}

bool
arena_misuse_last(struct arena *a, uint64_t seen, struct harness_misuse *out)
{
    pthread_mutex_lock(&a->lock);
    bool newer = a->misuse_total > seen;

    if (newer)
        *out = a->misuse[(a->misuse_total - 1) % MISUSE_RING];
    pthread_mutex_unlock(&a->lock);
    return newer;
}

uint64_t
arena_misuse_total(struct arena *a)
{
    pthread_mutex_lock(&a->lock);
    uint64_t n = a->misuse_total;

    pthread_mutex_unlock(&a->lock);
    return n;
}

unsigned
arena_misuse_recent(struct arena *a, struct harness_misuse *out, unsigned max)
{
    unsigned n = 0;

    pthread_mutex_lock(&a->lock);
    for (; n < max && n < MISUSE_RING && n < a->misuse_total; n++)
        out[n] = a->misuse[(a->misuse_total - 1 - n) % MISUSE_RING];
    pthread_mutex_unlock(&a->lock);
    return n;
}
