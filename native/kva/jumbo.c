/* SPDX-License-Identifier: BSD-2-Clause */
#include "kva/jumbo.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define POISON 0xdb

/*
 * The newest pool, in most programs the only one. An address is compared with its range before its
 * arena is looked up, so that the fast path need not wait for that load.
 */
_Atomic(struct jumbo *) jumbo_newest;

_Thread_local void *jumbo_free_site __attribute__((tls_model("initial-exec")));

static pthread_once_t watching = PTHREAD_ONCE_INIT;

/* in_child() - no address is in one of our pools, as in arena.c */
static void
in_child(void)
{
    jumbo_newest = NULL;
}

static void
watch_forks(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

static _Thread_local struct depot_lookaside lookaside __attribute__((tls_model("initial-exec")));

/* slot_kva() - address of a KVA slot */
static uint8_t *
slot_kva(const struct jumbo *j, size_t slot)
{
    return j->kva + (slot << PAGE_SHIFT);
}

/*
 * hide() - strict mode: free pages have no mapping, so that a stale address faults where it is used
 *
 * They are filled as well, because a page may have other mappings, an sf_buf's for one: what is written
 * through those is found at the next allocation.
 */
static COLD void
hide(struct jumbo *j, uint8_t *kva, size_t n)
{
    memset(kva, POISON, n << PAGE_SHIFT);
    arena_unmap(j->arena, kva, n << PAGE_SHIFT);
}

static void
bind(struct jumbo *j, size_t slot, struct vm_page *m)
{
    m->slot = (uint32_t)slot;
    __atomic_store_n(&j->arena->pages[slot].slot_page, (uint32_t)arena_page_index(j->arena, m),
                     __ATOMIC_RELAXED);
}

/* grow() - add a chunk of pages with fresh slots; false if the limit or memory is exhausted. */
static bool
grow(struct jumbo *j, size_t want)
{
    size_t n = j->max_pages - depot_total(&j->depot);
    size_t slots = j->arena->config.jumbo_slots - j->nslots;

    n = want < n ? want : n;
    n = n < slots ? n : slots;
    if (n == 0)
        return false;
    struct vm_page *m = arena_pages_alloc(j->arena, n, VPS_FREE);

    if (m == NULL)
        return false;
    uint8_t *kva = slot_kva(j, j->nslots);

    if (arena_map(j->arena, kva, m->pindex, n) < 0) {
        arena_pages_free(j->arena, m, n);
        return false;
    }
    /* Fill the page tables too, so that the first frame does not pay for it. Older kernels fill them on demand. */
    madvise(kva, n << PAGE_SHIFT, MADV_POPULATE_WRITE);
    if (j->strict)
        hide(j, kva, n);
    /* Lowest address on top, so that a fresh pool hands out pages in ascending order. */
    for (size_t i = 0; i < n; i++) {
        bind(j, j->nslots + i, &m[i]);
        m[i].next = i + 1 < n ? &m[i + 1] : NULL;
    }
    __atomic_store_n(&j->nslots, j->nslots + n, __ATOMIC_RELEASE);
    depot_add(&j->depot, &m[0], &m[n - 1], n);
    j->grown++;
    return true;
}

/* rebind() - give a new page to a slot whose page was stolen; false if there is no such slot or no page. */
static bool
rebind(struct jumbo *j)
{
    if (j->nempty == 0)
        return false;
    struct vm_page *m = arena_pages_alloc(j->arena, 1, VPS_FREE);

    if (m == NULL)
        return false;
    uint32_t slot = j->empty[j->nempty - 1];

    if (arena_map(j->arena, slot_kva(j, slot), m->pindex, 1) < 0) {
        arena_pages_free(j->arena, m, 1);
        return false;
    }
    if (j->strict)
        hide(j, slot_kva(j, slot), 1);
    j->nempty--;
    bind(j, slot, m);
    vm_page_event(m, VPE_MAP);
    depot_add(&j->depot, m, m, 1);
    return true;
}

int
jumbo_create(struct arena *a, size_t initial, size_t max_pages, struct jumbo **out)
{
    if (initial == 0 || max_pages < initial || max_pages > a->config.jumbo_slots)
        return -EINVAL;
    if (a->owner[REGION_JUMBO])
        return -EBUSY;
    struct jumbo *j = calloc(1, sizeof(*j));

    if (j == NULL)
        return -ENOMEM;
    pthread_once(&watching, watch_forks);
    j->arena = a;
    j->pages = a->pages;
    j->kva = a->region_base[REGION_JUMBO];
    j->max_pages = max_pages;
    j->chunk_pages = initial < 1024 ? initial : 1024;
    j->strict = a->direct == NULL;
    pthread_mutex_init(&j->grow_lock, NULL);
    j->empty = calloc(max_pages, sizeof(*j->empty));
    /* A thread may keep only a few pages of a small pool, or the others would starve. */
    depot_init(&j->depot, (uint32_t)(max_pages / 64));
    if (j->empty && grow(j, initial) && depot_total(&j->depot) == initial) {
        a->owner[REGION_JUMBO] = j;
        atomic_store(&jumbo_newest, j);
        *out = j;
        return 0;
    }
    depot_fini(&j->depot);
    free(j->empty);
    pthread_mutex_destroy(&j->grow_lock);
    free(j);
    return -ENOMEM;
}

int
jumbo_destroy(struct jumbo *j)
{
    struct arena *a = j->arena;

    if (depot_free_count(&j->depot) != depot_total(&j->depot) || atomic_load(&j->held))
        return -EBUSY;
    depot_fini(&j->depot); /* an ending thread no longer touches the pages */
    struct jumbo *gone = j;

    atomic_compare_exchange_strong(&jumbo_newest, &gone, NULL);
    arena_unmap(a, j->kva, j->nslots << PAGE_SHIFT);
    for (size_t slot = 0; slot < j->nslots; slot++) {
        uint32_t page = a->pages[slot].slot_page;

        a->pages[slot].slot_page = VM_PAGE_NOSLOT;
        if (page != VM_PAGE_NOSLOT) {
            a->pages[page].slot = VM_PAGE_NOSLOT;
            arena_pages_free(a, &a->pages[page], 1);
        }
    }
    a->owner[REGION_JUMBO] = NULL;
    free(j->empty);
    pthread_mutex_destroy(&j->grow_lock);
    free(j);
    return 0;
}

/* check_poison() - strict mode: was the page written to while it was free? */
static COLD void
check_poison(struct jumbo *j, struct vm_page *m, void *site)
{
    const uint8_t *p = jumbo_kva(j, m);

    if (p[0] != POISON || memcmp(p, p + 1, PAGE_SIZE - 1) != 0)
        arena_report(j->arena, MISUSE_WRITE_AFTER_FREE, p, m, site);
}

/* show() - strict mode: a page's mapping for its next life; false, and it is free still, if there is none */
static COLD bool
show(struct jumbo *j, struct vm_page *m)
{
    if (arena_map(j->arena, jumbo_kva(j, m), m->pindex, 1) == 0)
        return true;
    depot_put(&j->depot, &lookaside, m);
    atomic_fetch_add_explicit(&j->refused, 1, memory_order_relaxed);
    return false;
}

static COLD struct vm_page *
alloc_slow(struct jumbo *j)
{
    struct vm_page *m = NULL;

    pthread_mutex_lock(&j->grow_lock);
    /* Another thread may have grown the pool, or freed a page, since we found nothing. */
    do {
        m = depot_get(&j->depot, &lookaside);
    } while (m == NULL && (rebind(j) || grow(j, j->chunk_pages)));
    pthread_mutex_unlock(&j->grow_lock);
    if (m == NULL)
        atomic_fetch_add_explicit(&j->refused, 1, memory_order_relaxed);
    return m;
}

struct vm_page *
jumbo_alloc(struct jumbo *j, void *site)
{
    if (__builtin_expect(j->arena->inherited, 0))
        return NULL;
    struct vm_page *m = depot_get(&j->depot, &lookaside);

    if (__builtin_expect(m == NULL, 0)) {
        m = alloc_slow(j);
        if (m == NULL)
            return NULL;
    }
    if (__builtin_expect(j->strict, 0) && !show(j, m))
        return NULL;
    m->object = NULL;
    vm_page_turn(m, VPS_ALLOC, VPE_ALLOC);
    __atomic_store_n(&m->alloc_site, (uintptr_t)site, __ATOMIC_RELAXED);
    if (__builtin_expect(j->strict, 0))
        check_poison(j, m, site);
    return m;
}

static COLD int
refuse(struct jumbo *j, enum misuse_kind kind, const void *kva, struct vm_page *m, void *site,
       int err)
{
    arena_report(j->arena, kind, kva, m, site);
    return err;
}

/* refuse_free() - report what is wrong with a free. */
static COLD int
refuse_free(struct jumbo *j, const void *kva, struct vm_page *m, void *site)
{
    if ((uintptr_t)kva & PAGE_MASK ||
        (m == NULL && ((uintptr_t)kva < (uintptr_t)j->kva ||
                       (size_t)((const uint8_t *)kva - j->kva) >> PAGE_SHIFT >= j->nslots)))
        return refuse(j, MISUSE_FOREIGN_ADDRESS, kva, NULL, site, -EINVAL);
    if (m == NULL)
        return refuse(j, MISUSE_FREE_AFTER_STEAL, kva, NULL, site, -EINVAL);
    switch (vm_page_state(m)) {
    case VPS_FREE:
    case VPS_HELD:
        return refuse(j, MISUSE_DOUBLE_FREE, kva, m, site, -EINVAL);
    case VPS_POSTED:
        return refuse(j, MISUSE_FREE_WHILE_POSTED, kva, m, site, -EBUSY);
    default:
        return refuse(j, MISUSE_BAD_STATE, kva, m, site, -EINVAL);
    }
}

/* put() - return a free page to the pool */
static void
put(struct jumbo *j, struct vm_page *m)
{
    if (__builtin_expect(j->strict, 0))
        hide(j, jumbo_kva(j, m), 1);
    vm_page_turn(m, VPS_FREE, VPE_FREE);
    depot_put(&j->depot, &lookaside, m);
}

/* release_slot() - recycle a stolen page's KVA: the slot waits for another page */
static COLD void
release_slot(struct jumbo *j, struct vm_page *m)
{
    pthread_mutex_lock(&j->grow_lock);
    uint32_t slot = m->slot;

    /* In strict mode a stale pool address faults. Otherwise the slot stays mapped until it is bound anew. */
    if (j->strict)
        arena_unmap(j->arena, slot_kva(j, slot), PAGE_SIZE);
    __atomic_store_n(&j->arena->pages[slot].slot_page, VM_PAGE_NOSLOT, __ATOMIC_RELAXED);
    m->slot = VM_PAGE_NOSLOT;
    vm_page_event(m, VPE_UNMAP);
    j->empty[j->nempty++] = slot;
    depot_remove(&j->depot);
    pthread_mutex_unlock(&j->grow_lock);
}

/* set_held() - make a page that is freed while held wait for the last unhold; false if it is not held now */
static bool
set_held(struct jumbo *j, struct vm_page *m)
{
    if (__atomic_load_n(&m->hold_count, __ATOMIC_RELAXED) == 0)
        return false;
    vm_page_turn(m, VPS_HELD, VPE_FREE);
    atomic_fetch_add_explicit(&j->held, 1, memory_order_relaxed);
    return true;
}

/* free_held() - leave the free of a held page to the last unhold, under the same lock; false: no hold is left */
static COLD bool
free_held(struct jumbo *j, struct vm_page *m)
{
    pthread_mutex_lock(&j->grow_lock);
    bool held = set_held(j, m);

    pthread_mutex_unlock(&j->grow_lock);
    return held;
}

int
jumbo_free(struct jumbo *j, void *kva, void *site)
{
    if (__builtin_expect(j->arena->inherited, 0))
        return -EOWNERDEAD;
    struct vm_page *m = jumbo_page_at(j, kva);

    if (__builtin_expect(m == NULL || ((uintptr_t)kva & PAGE_MASK), 0))
        return refuse_free(j, kva, m, site);
    enum vm_page_state state = vm_page_state(m);

    if (__builtin_expect(state != VPS_MBUF && state != VPS_ALLOC, 0)) {
        if (state != VPS_STOLEN)
            return refuse_free(j, kva, m, site);
        /* Flipped to a user: the page lives on, and only its KVA is returned. */
        release_slot(j, m);
        return 0;
    }
    __atomic_store_n(&m->free_site, (uintptr_t)site, __ATOMIC_RELAXED);
    if (__builtin_expect(__atomic_load_n(&m->hold_count, __ATOMIC_ACQUIRE) != 0, 0) &&
        free_held(j, m))
        return 0;
    put(j, m);
    return 0;
}

int
jumbo_flip(struct jumbo *j, struct vm_page *m, void *site)
{
    if (j->arena->inherited)
        return -EOWNERDEAD;
    if (!arena_owns_page(j->arena, m) || m->slot == VM_PAGE_NOSLOT)
        return refuse(j, MISUSE_BAD_STATE, m, NULL, site, -EINVAL);
    enum vm_page_state state = vm_page_state(m);

    if (state != VPS_MBUF && state != VPS_ALLOC)
        return refuse(j, state == VPS_FREE ? MISUSE_DOUBLE_FREE : MISUSE_BAD_STATE, m, m, site,
                      -EINVAL);
    __atomic_store_n(&m->free_site, (uintptr_t)site, __ATOMIC_RELAXED);
    vm_page_turn(m, VPS_STOLEN, VPE_FLIP);
    atomic_fetch_add_explicit(&j->stolen, 1, memory_order_relaxed);
    return 0;
}

int
jumbo_steal(struct jumbo *j, struct vm_page *m, void *site)
{
    int err = jumbo_flip(j, m, site);

    if (!err) {
        vm_page_event(m, VPE_STEAL);
        release_slot(j, m);
    }
    return err;
}

COLD struct jumbo *
jumbo_at_slow(const void *kva)
{
    struct arena *a = arena_at(kva);

    return a ? a->owner[REGION_JUMBO] : NULL;
}

void
jumbo_freem(caddr_t addr, void *args)
{
    struct jumbo *j = jumbo_at(addr);
    void *site = jumbo_free_site ? jumbo_free_site : RETURN_SITE();

    /* The address identifies the pool; the manual page says that @args is ignored. */
    (void)args;
    if (__builtin_expect(j != NULL, 1))
        (void)jumbo_free(j, addr, site);
    else
        arena_report_stray(addr, site);
}

void
vm_page_hold(vm_page_t m)
{
    if (arena_of_page(m) == NULL) {
        arena_report_stray(m, RETURN_SITE());
        return;
    }
    __atomic_fetch_add(&m->hold_count, 1, __ATOMIC_RELAXED);
    vm_page_event(m, VPE_HOLD);
}

void
vm_page_unhold(vm_page_t m)
{
    struct arena *a = arena_of_page(m);
    struct jumbo *j = a ? a->owner[REGION_JUMBO] : NULL;

    if (a == NULL) {
        arena_report_stray(m, RETURN_SITE());
        return;
    }
    if (j == NULL) {
        __atomic_fetch_sub(&m->hold_count, 1, __ATOMIC_RELEASE);
        return;
    }
    pthread_mutex_lock(&j->grow_lock);
    bool last = false;

    if (m->hold_count == 0) {
        arena_report(a, MISUSE_REFCOUNT, m, m, RETURN_SITE());
    } else {
        last = __atomic_fetch_sub(&m->hold_count, 1, __ATOMIC_RELEASE) == 1 &&
               vm_page_state(m) == VPS_HELD;
        vm_page_event(m, VPE_UNHOLD);
    }
    if (last)
        atomic_fetch_sub_explicit(&j->held, 1, memory_order_relaxed);
    pthread_mutex_unlock(&j->grow_lock);
    if (last && m->slot != VM_PAGE_NOSLOT)
        put(j, m);
    else if (last)
        arena_pages_free(a, m, 1);
}

void
vm_page_free(vm_page_t m)
{
    struct arena *a = arena_of_page(m);

    if (a == NULL) {
        arena_report_stray(m, RETURN_SITE());
        return;
    }
    if (vm_page_state(m) != VPS_STOLEN) {
        enum misuse_kind kind =
            vm_page_state(m) == VPS_FREE ? MISUSE_DOUBLE_FREE : MISUSE_BAD_STATE;

        arena_report(a, kind, m, m, RETURN_SITE());
        return;
    }
    struct jumbo *j = a->owner[REGION_JUMBO];
    bool held = false;

    __atomic_store_n(&m->free_site, (uintptr_t)RETURN_SITE(), __ATOMIC_RELAXED);
    if (j && __atomic_load_n(&m->hold_count, __ATOMIC_ACQUIRE) != 0) {
        pthread_mutex_lock(&j->grow_lock);
        held = set_held(j, m);
        pthread_mutex_unlock(&j->grow_lock);
    }
    if (!held)
        arena_pages_free(a, m, 1);
}

vm_paddr_t
vm_page_to_phys(vm_page_t m)
{
    return vm_page_state(m) == VPS_FILE ? VM_PADDR_NONE : (vm_paddr_t)m->pindex << PAGE_SHIFT;
}

size_t
jumbo_reach(struct jumbo *j)
{
    size_t total = depot_total(&j->depot);

    return depot_reach(&j->depot, &lookaside) + (total < j->max_pages ? j->max_pages - total : 0);
}

void
jumbo_each_out(struct jumbo *j, out_fn *fn, void *arg)
{
    static const char *const what[] = {
        [VPS_ALLOC] = "jumbo page",
        [VPS_POSTED] = "jumbo page, posted to a device",
        [VPS_MBUF] = "jumbo page, storage of an mbuf",
        [VPS_HELD] = "page, freed while it is held",
        [VPS_STOLEN] = "stolen page",
    };

    for (size_t i = 0; i < j->arena->npages; i++) {
        const struct vm_page *m = &j->pages[i];
        unsigned state = vm_page_state(m);

        if (state < sizeof(what) / sizeof(what[0]) && what[state])
            fn(arg, what[state], __atomic_load_n(&m->alloc_site, __ATOMIC_RELAXED));
    }
}

void
jumbo_get_stats(struct jumbo *j, struct jumbo_stats *out)
{
    *out = (struct jumbo_stats){
        .total = depot_total(&j->depot),
        .free = depot_free_count(&j->depot),
        .max_pages = j->max_pages,
        .refused = atomic_load(&j->refused),
        .stolen = atomic_load(&j->stolen),
        .held = atomic_load(&j->held),
        .grown = j->grown,
    };
    out->in_use = out->total - out->free;
    out->away = arena_pages_away(j->arena, out->total);
}
