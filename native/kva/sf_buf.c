/* SPDX-License-Identifier: BSD-2-Clause */
/* References to buffers: single pages for sf_buf(9), and runs of pages for sendfile. */
#include <sys/mman.h>

#include "kva/quick.h"
#include "kva/sf_map_var.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

/*
 * A struct sf_buf is its page's descriptor: 64 bytes for both. It is opaque to callers.
 */
static struct vm_page *
page_of(struct sf_buf *sf)
{
    return (struct vm_page *)(void *)sf;
}

static struct sf_map *
map_of(const struct vm_page *m)
{
    struct arena *a = arena_at(m);

    return a && arena_region_at(a, m) == REGION_SFMETA ? a->owner[REGION_SFMETA] : NULL;
}

/* is_arena_page() - is it a page of the arena's own memory, rather than of a file? */
static bool
is_arena_page(const struct arena *a, const struct vm_page *m)
{
    return a && arena_region_at(a, m) == REGION_PAGES;
}

/* page_kva() - where a page's buffer is when mapped; each page has one place, in every mode */
static uint8_t *
page_kva(const struct arena *a, const struct vm_page *m)
{
    if (is_arena_page(a, m))
        return a->region_base[REGION_DIRECT] + (arena_page_index(a, m) << PAGE_SHIFT);
    const struct sf_map *s = a->owner[REGION_SFMETA];

    return s->window + ((size_t)(m - s->pages) << PAGE_SHIFT);
}

/*
 * map_strict() - map pages at their first reference; holds the lock, as strict mode is for finding
 * faults, not for speed
 */
static int
map_strict(struct sf_map *s, struct vm_page *m, uint32_t n)
{
    uint8_t *kva = page_kva(s->arena, m);
    bool file = !is_arena_page(s->arena, m);
    int err = file ? arena_map_file(s->arena, kva, (size_t)n << PAGE_SHIFT, PROT_READ,
                                    m->object->fd, (off_t)(m->pindex << PAGE_SHIFT))
                   : arena_map(s->arena, kva, m->pindex, n);

    if (err)
        return err;
    if (file && madvise(kva, (size_t)n << PAGE_SHIFT, MADV_POPULATE_READ) < 0 && errno != EINVAL) {
        err = errno == EHWPOISON ? -EIO : -errno;
        arena_unmap(s->arena, kva, (size_t)n << PAGE_SHIFT);
        return err;
    }
    for (uint32_t i = 0; i < n; i++)
        vm_page_event(&m[i], VPE_MAP);
    return 0;
}

/* took(), let_go() - record the call sites of the last reference and the last release */
static void
took(struct vm_page *m, void *site)
{
    __atomic_store_n(&m->alloc_site, (uintptr_t)site, __ATOMIC_RELAXED);
}

static void
let_go(struct vm_page *m, void *site)
{
    __atomic_store_n(&m->free_site, (uintptr_t)site, __ATOMIC_RELAXED);
}

/* ref_page() - add a reference */
static void
ref_page(struct sf_map *s, struct vm_page *m, void *site)
{
    took(m, site);
    if (m->ref_count++ > 0)
        return;
    vm_page_event(m, VPE_REF);
    s->stats.nsfbufsused++;
    if (s->stats.nsfbufsused > s->stats.nsfbufspeak)
        s->stats.nsfbufspeak = s->stats.nsfbufsused;
}

/* unref_page() - drop a reference; in strict mode the last one also ends the mapping */
static void
unref_page(struct sf_map *s, struct vm_page *m, void *site)
{
    let_go(m, site);
    if (--m->ref_count > 0)
        return;
    vm_page_event(m, VPE_UNREF);
    s->stats.nsfbufsused--;
    if (s->strict) {
        arena_unmap(s->arena, page_kva(s->arena, m), PAGE_SIZE);
        vm_page_event(m, VPE_UNMAP);
    }
    sf_map_wake(s);
}

/* ---- sf_buf(9) ---- */

/*
 * ref_mapped() - reference a page's buffer, mapping it first if necessary
 *
 * Called with the lock held; drops it to sleep and to map. Then it checks everything again, as
 * another thread may have mapped the page meanwhile.
 */
static int
ref_mapped(struct sf_map *s, struct vm_page *m, int flags, void *site)
{
    struct sf_extent *e = is_arena_page(s->arena, m) ? NULL : sf_extent_of(s, m);
    uint32_t need = e ? (uint32_t)(m - sf_extent_pages(s, e)) + 1 : 0;
    bool hit = true;
    int err = 0;

    while (m->ref_count == 0) {
        if (s->stats.nsfbufsused == s->stats.nsfbufs || (e && e->state == EXTENT_BUSY)) {
            err = sf_map_sleep(s, flags);
        } else if (e && e->populated < need) {
            hit = false;
            err = sf_extent_map(s, e, need);
        } else {
            hit = hit && !s->strict;
            err = s->strict ? map_strict(s, m, 1) : 0;
            break;
        }
        if (err)
            break;
    }
    if (err)
        return err;
    s->stats.hits += hit;
    ref_page(s, m, site);
    if (e)
        sf_extent_activate(e, 1);
    return 0;
}

struct sf_buf *
sf_page_map(struct vm_page *m, int flags, void *site)
{
    struct arena *a = arena_of_page(m);
    struct sf_map *s = a ? a->owner[REGION_SFBUF] : NULL;

    if (is_arena_page(a, m) && a->direct)
        return (struct sf_buf *)(void *)m; /* its direct-map address is its mapping */
    if (s == NULL) {
        if (a == NULL)
            arena_report_stray(m, site);
        errno = EINVAL;
        return NULL;
    }
    /* It might sleep, so report this whether or not it does so now. */
    quick_check_blocking(a, flags & SFB_NOWAIT, site);
    spin_lock(&s->lock);
    int err = ref_mapped(s, m, flags, site);

    spin_unlock(&s->lock);
    if (err) {
        errno = -err;
        return NULL;
    }
    return (struct sf_buf *)(void *)m;
}

struct sf_buf *
sf_buf_alloc(struct vm_page *m, int flags)
{
    return sf_page_map(m, flags, RETURN_SITE());
}

void
sf_buf_ref(struct sf_buf *sf)
{
    struct vm_page *m = page_of(sf);
    struct arena *a = arena_of_page(m);

    if (is_arena_page(a, m) && a->direct)
        return;
    if (a == NULL) {
        arena_report_stray(sf, RETURN_SITE());
        return;
    }
    struct sf_map *s = a->owner[REGION_SFBUF];

    spin_lock(&s->lock);
    bool dead = m->ref_count == 0;

    if (!dead) {
        m->ref_count++;
        if (!is_arena_page(a, m))
            sf_extent_activate(sf_extent_of(s, m), 1);
    }
    spin_unlock(&s->lock);
    if (dead)
        arena_report(a, MISUSE_REFCOUNT, sf, m, RETURN_SITE());
}

void
sf_page_unmap(struct sf_buf *sf, void *site)
{
    struct vm_page *m = page_of(sf);
    struct arena *a = arena_of_page(m);

    if (is_arena_page(a, m) && a->direct)
        return;
    if (a == NULL) {
        arena_report_stray(sf, site);
        return;
    }
    struct sf_map *s = a->owner[REGION_SFBUF];

    spin_lock(&s->lock);
    bool dead = m->ref_count == 0;

    if (!dead) {
        unref_page(s, m, site);
        if (!is_arena_page(a, m))
            sf_extent_deactivate(s, sf_extent_of(s, m), 1);
    }
    spin_unlock(&s->lock);
    if (dead)
        arena_report(a, MISUSE_REFCOUNT, sf, m, site);
}

void
sf_buf_free(struct sf_buf *sf)
{
    sf_page_unmap(sf, RETURN_SITE());
}

vm_offset_t
sf_buf_kva(struct sf_buf *sf)
{
    struct vm_page *m = page_of(sf);

    return (vm_offset_t)page_kva(arena_at(m), m);
}

vm_page_t
sf_buf_page(struct sf_buf *sf)
{
    return page_of(sf);
}

/* ---- runs ---- */

int
sf_run_alloc(struct vm_object *o, vm_pindex_t first, uint32_t npages, int flags, struct sf_run *run)
{
    struct sf_map *s = o->map;
    uint32_t at = (uint32_t)(first % SF_EXTENT_PAGES);
    uint32_t n = npages < SF_EXTENT_PAGES - at ? npages : SF_EXTENT_PAGES - at;
    struct sf_extent *e;
    int err = 0;

    if (npages == 0)
        return -EINVAL;
    quick_check_blocking(s->arena, flags & SFB_NOWAIT, RETURN_SITE());
    spin_lock(&s->lock);
again:
    while (!err && s->stats.nsfbufsused == s->stats.nsfbufs)
        err = sf_map_sleep(s, flags);
    if (!err)
        err = sf_extent_bind(o, first / SF_EXTENT_PAGES, flags, &e);
    if (err) {
        spin_unlock(&s->lock);
        return err;
    }
    struct vm_page *m = sf_extent_pages(s, e) + at;

    if (e->populated >= at + n)
        s->stats.hits++;
    else if ((err = sf_extent_map(s, e, at + n)) == -EFAULT && n > 1) {
        /* The file ends inside the run: map as much as there is. */
        err = sf_extent_map(s, e, at + 1);
        n = err ? n : e->populated - at < n ? e->populated - at : n;
    }
    /* Buffers are counted in pages, and a run is shortened before it exceeds them. */
    uint64_t left = s->stats.nsfbufs - s->stats.nsfbufsused;

    if (!err && left == 0) { /* taken while the lock was dropped */
        sf_extent_deactivate(s, e, 1);
        goto again;
    }
    n = left < n ? (uint32_t)left : n;
    if (!err && s->strict)
        err = map_strict(s, m, n);
    if (err) {
        sf_extent_deactivate(s, e, 1);
        spin_unlock(&s->lock);
        return err;
    }
    for (uint32_t i = 0; i < n; i++) {
        ref_page(s, &m[i], RETURN_SITE());
        m[i].wire_count++;
    }
    s->stats.wired += n;
    s->stats.sf_pages_valid += n;
    sf_extent_activate(e, n - 1); /* sf_extent_bind() counted one */
    run->kva = (caddr_t)sf_extent_kva(s, e) + ((size_t)at << PAGE_SHIFT);
    run->npages = n;
    spin_unlock(&s->lock);
    return 0;
}

static void
free_run(struct sf_map *s, caddr_t kva, uint32_t npages, void *site)
{
    size_t first = ((uintptr_t)kva - (uintptr_t)s->window) >> PAGE_SHIFT;
    struct vm_page *m = &s->pages[first];

    spin_lock(&s->lock);
    for (uint32_t i = 0; i < npages; i++) {
        unref_page(s, &m[i], site);
        m[i].wire_count--;
    }
    s->stats.wired -= npages;
    sf_extent_deactivate(s, sf_extent_of(s, m), npages);
    spin_unlock(&s->lock);
}

void
sf_run_free(struct sf_map *s, caddr_t kva, uint32_t npages)
{
    free_run(s, kva, npages, RETURN_SITE());
}

void
sf_run_ext_free(caddr_t kva, void *args)
{
    struct arena *a = arena_at(kva);

    free_run(a->owner[REGION_SFBUF], kva, (uint32_t)(uintptr_t)args, RETURN_SITE());
}

/* ---- wiring ---- */

uint32_t
vm_object_grab_pages(struct vm_object *o, vm_pindex_t first, uint32_t npages, struct vm_page **out,
                     void *site)
{
    struct sf_map *s = o->map;
    uint32_t at = (uint32_t)(first % SF_EXTENT_PAGES);
    uint32_t n = npages < SF_EXTENT_PAGES - at ? npages : SF_EXTENT_PAGES - at;
    struct sf_extent *e;

    spin_lock(&s->lock);
    if (n == 0 || sf_extent_bind(o, first / SF_EXTENT_PAGES, SFB_NOWAIT, &e) < 0) {
        spin_unlock(&s->lock);
        return 0;
    }
    struct vm_page *m = sf_extent_pages(s, e) + at;

    for (uint32_t i = 0; i < n; i++) {
        took(&m[i], site);
        m[i].wire_count++;
    }
    s->stats.wired += n;
    sf_extent_activate(e, n - 1); /* sf_extent_bind() counted one */
    spin_unlock(&s->lock);
    *out = m;
    return n;
}

struct vm_page *
vm_object_grab(struct vm_object *o, vm_pindex_t pindex, void *site)
{
    struct vm_page *m;

    return vm_object_grab_pages(o, pindex, 1, &m, site) ? m : NULL;
}

void
vm_page_unwire_pages(struct vm_page *m, uint32_t npages, void *site)
{
    struct sf_map *s = map_of(m);
    uint32_t n = 0;

    spin_lock(&s->lock);
    for (uint32_t i = 0; i < npages; i++) {
        if (m[i].wire_count > 0) {
            let_go(&m[i], site);
            m[i].wire_count--;
            n++;
        }
    }
    s->stats.wired -= n;
    sf_extent_deactivate(s, sf_extent_of(s, m), n);
    spin_unlock(&s->lock);
    if (n < npages)
        arena_report(s->arena, MISUSE_REFCOUNT, m, m, site);
}

void
vm_page_wire(vm_page_t m)
{
    struct sf_map *s = map_of(m);

    if (arena_of_page(m) == NULL) {
        arena_report_stray(m, RETURN_SITE());
        return;
    }
    if (s == NULL) {
        __atomic_fetch_add(&m->wire_count, 1, __ATOMIC_RELAXED);
        return;
    }
    spin_lock(&s->lock);
    m->wire_count++;
    s->stats.wired++;
    sf_extent_activate(sf_extent_of(s, m), 1);
    spin_unlock(&s->lock);
}

void
sf_page_unwire(struct vm_page *m, void *site)
{
    struct sf_map *s = map_of(m);

    if (arena_of_page(m) == NULL) {
        arena_report_stray(m, site);
        return;
    }
    if (s == NULL) {
        if (__atomic_fetch_sub(&m->wire_count, 1, __ATOMIC_RELAXED) == 0) {
            __atomic_fetch_add(&m->wire_count, 1, __ATOMIC_RELAXED);
            arena_report(arena_at(m), MISUSE_REFCOUNT, m, m, site);
        }
        return;
    }
    vm_page_unwire_pages(m, 1, site);
}

void
vm_page_unwire(vm_page_t m)
{
    sf_page_unwire(m, RETURN_SITE());
}
