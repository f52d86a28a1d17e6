/* SPDX-License-Identifier: BSD-2-Clause */
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kva/sf_map_var.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

/* Up to this many buffers may each need an extent of their own; they then run out at exactly nsfbufs. */
#define EXTENTS_MIN 64u

static long
futex(uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

/* ---- lists and hash; under the lock ---- */

static void
list_remove(struct sf_extent *e)
{
    e->prev->next = e->next;
    e->next->prev = e->prev;
    e->prev = e->next = e;
}

static void
list_append(struct sf_map *s, struct sf_extent *e)
{
    struct sf_extent *h = &s->inactive;

    e->prev = h->prev;
    e->next = h;
    h->prev->next = e;
    h->prev = e;
}

static struct sf_extent **
bucket(struct sf_map *s, const struct vm_object *o, uint64_t index)
{
    uint64_t x = ((uint64_t)(uintptr_t)o >> 4) + index;

    return &s->hash[(x * 0x9e3779b97f4a7c15u >> 40) & s->hash_mask];
}

static struct sf_extent *
lookup(struct sf_map *s, const struct vm_object *o, uint64_t index)
{
    struct sf_extent *e = *bucket(s, o, index);

    while (e && (e->object != o || e->index != index))
        e = e->hash_next;
    return e;
}

void
sf_map_wake_sleepers(struct sf_map *s)
{
    __atomic_store_n(&s->wake_seq, s->wake_seq + 1, __ATOMIC_RELAXED);
    futex(&s->wake_seq, FUTEX_WAKE, INT_MAX, NULL);
}

/* object_put() - drop a reference; returns the descriptor to close, or -1 */
static int
object_put(struct vm_object *o)
{
    if (--o->refs > 0)
        return -1;
    int fd = o->fd;

    o->map->nobjects--;
    free(o);
    return fd;
}

/* events() - record the same event for consecutive pages */
static void
events(struct vm_page *m, uint32_t n, enum vm_page_event event)
{
    for (uint32_t i = 0; i < n; i++)
        vm_page_event(&m[i], event);
}

/* unbind() - detach an extent from its file; returns the descriptor to close, or -1 */
static int
unbind(struct sf_map *s, struct sf_extent *e)
{
    if (e->object == NULL)
        return -1;
    struct sf_extent **p = bucket(s, e->object, e->index);

    while (*p != e)
        p = &(*p)->hash_next;
    *p = e->hash_next;
    events(sf_extent_pages(s, e), e->populated, VPE_UNMAP);
    int fd = object_put(e->object);

    e->object = NULL;
    e->populated = 0;
    return fd;
}

void
sf_extent_keep(struct sf_extent *e)
{
    list_remove(e);
}

void
sf_extent_offer(struct sf_map *s, struct sf_extent *e)
{
    list_append(s, e);
    sf_map_wake(s);
}

/* ---- life of the mapper ---- */

static uint32_t
extents_for(uint32_t nsfbufs)
{
    uint32_t n = (nsfbufs + SF_EXTENT_PAGES - 1) / SF_EXTENT_PAGES;
    uint32_t least = nsfbufs < EXTENTS_MIN ? nsfbufs : EXTENTS_MIN;

    return n < least ? least : n;
}

void
sf_map_sizes(uint32_t nsfbufs, struct arena_config *config)
{
    size_t n = extents_for(nsfbufs);

    config->sfbuf_bytes = n << SF_EXTENT_SHIFT;
    config->sfmeta_bytes = n * SF_EXTENT_PAGES * sizeof(struct vm_page);
}

int
sf_map_create(struct arena *a, uint32_t nsfbufs, struct sf_map **out)
{
    uint32_t n = extents_for(nsfbufs);
    uint32_t buckets = 1;

    if (nsfbufs == 0 || a->region_size[REGION_SFBUF] < (size_t)n << SF_EXTENT_SHIFT ||
        a->region_size[REGION_SFMETA] < (size_t)n * SF_EXTENT_PAGES * sizeof(struct vm_page))
        return -EINVAL;
    if (a->owner[REGION_SFBUF])
        return -EBUSY;
    while (buckets < 2 * n)
        buckets *= 2;
    struct sf_map *s = calloc(1, sizeof(*s));

    if (s) {
        s->extent = calloc(n, sizeof(*s->extent));
        s->hash = calloc(buckets, sizeof(struct sf_extent *));
    }
    if (s == NULL || s->extent == NULL || s->hash == NULL) {
        if (s) {
            free(s->extent);
            free(s->hash);
        }
        free(s);
        return -ENOMEM;
    }
    s->arena = a;
    s->window = a->region_base[REGION_SFBUF];
    s->pages = (struct vm_page *)(void *)a->region_base[REGION_SFMETA];
    s->nextents = n;
    s->strict = a->direct == NULL;
    s->hash_mask = buckets - 1;
    s->inactive.prev = s->inactive.next = &s->inactive;
    for (uint32_t i = 0; i < n; i++)
        list_append(s, &s->extent[i]);
    s->stats.nsfbufs = nsfbufs;
    a->owner[REGION_SFBUF] = a->owner[REGION_SFMETA] = s;
    *out = s;
    return 0;
}

void
sf_map_drop_cached(struct sf_map *s)
{
    spin_lock(&s->lock);
    for (uint32_t i = 0; i < s->nextents; i++) {
        struct sf_extent *e = &s->extent[i];

        if (e->active || e->object == NULL)
            continue;
        int fd = unbind(s, e);

        /* On no list while the lock is not held. */
        list_remove(e);
        e->active = 1;
        spin_unlock(&s->lock);
        if (e->mapped)
            arena_unmap(s->arena, sf_extent_kva(s, e), SF_EXTENT_SIZE);
        if (fd >= 0)
            close(fd);
        spin_lock(&s->lock);
        if (e->mapped)
            s->stats.extents_mapped--;
        e->mapped = false;
        sf_extent_deactivate(s, e, 1);
    }
    spin_unlock(&s->lock);
}

int
sf_map_destroy(struct sf_map *s)
{
    sf_map_drop_cached(s);
    spin_lock(&s->lock);
    bool busy = s->nobjects || s->stats.nsfbufsused || s->stats.wired;

    spin_unlock(&s->lock);
    if (busy)
        return -EBUSY;
    s->arena->owner[REGION_SFBUF] = s->arena->owner[REGION_SFMETA] = NULL;
    free(s->extent);
    free(s->hash);
    free(s);
    return 0;
}

/* ---- objects ---- */

int
vm_object_open(struct sf_map *s, int fd, struct vm_object **out)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode)) /* memfd and shared memory are regular files too */
        return -EINVAL;
    if ((flags & O_ACCMODE) == O_WRONLY || (flags & O_PATH))
        return -EACCES;
    struct vm_object *o = calloc(1, sizeof(*o));

    if (o == NULL)
        return -ENOMEM;
    o->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (o->fd < 0) {
        int err = errno;

        free(o);
        return -err;
    }
    o->map = s;
    o->dev = st.st_dev;
    o->ino = st.st_ino;
    o->refs = 1;
    spin_lock(&s->lock);
    s->nobjects++;
    spin_unlock(&s->lock);
    *out = o;
    return 0;
}

void
vm_object_close(struct vm_object *o)
{
    struct sf_map *s = o->map;

    /* Unreferenced mappings end when the opener closes: the cache does not keep a closed file alive. */
    for (;;) {
        struct sf_extent *found = NULL;

        spin_lock(&s->lock);
        for (uint32_t i = 0; i < s->nextents && !found; i++) {
            if (s->extent[i].object == o && s->extent[i].active == 0)
                found = &s->extent[i];
        }
        if (found == NULL)
            break;
        unbind(s, found);
        list_remove(found);
        found->active = 1;
        spin_unlock(&s->lock);
        if (found->mapped)
            arena_unmap(s->arena, sf_extent_kva(s, found), SF_EXTENT_SIZE);
        spin_lock(&s->lock);
        if (found->mapped)
            s->stats.extents_mapped--;
        found->mapped = false;
        sf_extent_deactivate(s, found, 1);
        spin_unlock(&s->lock);
    }
    int fd = object_put(o);

    spin_unlock(&s->lock);
    if (fd >= 0)
        close(fd);
}

int
vm_object_fd(const struct vm_object *o)
{
    return o->fd;
}

int64_t
vm_object_size(const struct vm_object *o)
{
    struct stat st;

    return fstat(o->fd, &st) < 0 ? -errno : st.st_size;
}

int
vm_page_map_at(struct arena *a, void *kva, const struct vm_page *m)
{
    if (arena_region_at(a, m) == REGION_PAGES)
        return arena_map(a, kva, m->pindex, 1);
    return arena_map_file(a, kva, PAGE_SIZE, PROT_READ, vm_object_fd(m->object),
                          (off_t)(m->pindex << PAGE_SHIFT));
}

/* ---- binding and mapping ---- */

/*
 * sf_map_sleep() - drop the lock until something is freed
 *
 * Return: 0: look again; -ENOBUFS with SFB_NOWAIT; -EINTR with SFB_CATCH, on a signal.
 */
int
sf_map_sleep(struct sf_map *s, int flags)
{
    if (flags & SFB_NOWAIT)
        return -ENOBUFS;
    uint32_t seq = s->wake_seq;

    s->waiters++;
    s->stats.sf_allocwait++;
    spin_unlock(&s->lock);
    /* A signal whose handler has SA_RESTART ends only waits with a timeout (signal(7)). */
    const struct timespec hour = {.tv_sec = 3600};
    bool interrupted = futex(&s->wake_seq, FUTEX_WAIT, seq, flags & SFB_CATCH ? &hour : NULL) < 0 &&
                       errno == EINTR;

    spin_lock(&s->lock);
    s->waiters--;
    return interrupted && (flags & SFB_CATCH) ? -EINTR : 0;
}

/*
 * sf_extent_bind() - bind the extent of (object, index), possibly not mapped yet, and add a user
 *
 * Called and returns with the lock held; it is dropped to sleep, and then everything is looked up
 * again.
 *
 * Return: 0; -ENOBUFS, -EINTR.
 */
int
sf_extent_bind(struct vm_object *o, uint64_t index, int flags, struct sf_extent **out)
{
    struct sf_map *s = o->map;

    for (;;) {
        struct sf_extent *e = lookup(s, o, index);

        if (e && e->state != EXTENT_BUSY) {
            sf_extent_activate(e, 1);
            *out = e;
            return 0;
        }
        if (e == NULL && s->inactive.next != &s->inactive) {
            e = s->inactive.next;
            sf_extent_activate(e, 1);
            int fd = unbind(s, e);

            e->object = o;
            e->index = index;
            e->state = EXTENT_READY;
            o->refs++;
            struct sf_extent **b = bucket(s, o, index);

            e->hash_next = *b;
            *b = e;
            struct vm_page *pages = sf_extent_pages(s, e);

            for (uint32_t i = 0; i < SF_EXTENT_PAGES; i++) {
                pages[i].object = o;
                pages[i].pindex = (index << (SF_EXTENT_SHIFT - PAGE_SHIFT)) + i;
                pages[i].generation++;
                pages[i].slot = VM_PAGE_NOSLOT;
                pages[i].alloc_site = pages[i].free_site = 0;
                vm_page_turn(&pages[i], VPS_FILE, VPE_ALLOC);
            }
            if (fd >= 0) {
                spin_unlock(&s->lock);
                close(fd);
                spin_lock(&s->lock);
            }
            *out = e;
            return 0;
        }
        int err = sf_map_sleep(s, flags);

        if (err)
            return err;
    }
}

/*
 * sf_extent_map() - map an extent and populate it up to the end of the file
 * @need: pages that must be there
 *
 * Called and returns with the lock held and the extent active; the system calls are made without
 * the lock, while the extent is marked busy.
 */
int
sf_extent_map(struct sf_map *s, struct sf_extent *e, uint32_t need)
{
    struct vm_object *o = e->object;
    uint8_t *kva = sf_extent_kva(s, e);
    bool remap = e->populated == 0;
    uint32_t had = e->populated;
    off_t at = (off_t)(e->index << SF_EXTENT_SHIFT);
    int err = 0;

    if (had >= need)
        return 0;
    e->state = EXTENT_BUSY;
    spin_unlock(&s->lock);

    int64_t size = vm_object_size(o);
    int64_t here = size - at;
    uint32_t pages = SF_EXTENT_PAGES;

    if (size < 0)
        err = (int)size;
    else if (here < (int64_t)SF_EXTENT_SIZE)
        pages = here > 0 ? (uint32_t)((here + (int64_t)PAGE_MASK) >> PAGE_SHIFT) : 0;
    if (!err && pages < need)
        err = -EFAULT; /* beyond the end of the file */
    if (!err && remap && !s->strict)
        err = arena_map_file(s->arena, kva, SF_EXTENT_SIZE, PROT_READ, o->fd, at);
    bool mapped = !err && !s->strict;

    if (mapped && madvise(kva + ((size_t)had << PAGE_SHIFT), (size_t)(pages - had) << PAGE_SHIFT,
                          MADV_POPULATE_READ) < 0) {
        /* Old kernels lack this advice, and fault the pages in one by one. */
        if (errno == EFAULT || errno == EHWPOISON)
            err = vm_object_size(o) < at + (int64_t)need * (int64_t)PAGE_SIZE - (int64_t)PAGE_MASK
                      ? -EFAULT
                      : -EIO;
        else if (errno != EINVAL)
            err = -errno;
    }

    spin_lock(&s->lock);
    e->state = EXTENT_READY;
    if (mapped) {
        s->stats.maps += remap;
        s->stats.populates++;
        s->stats.extents_mapped += !e->mapped;
        e->mapped = true;
    }
    if (mapped && !err)
        events(sf_extent_pages(s, e) + had, pages - had, VPE_MAP);
    if (!err) {
        s->stats.sf_pages_read += pages - had;
        e->populated = pages;
    }
    sf_map_wake(s);
    return err;
}

/* ---- questions ---- */

static struct sf_page_info
page_info(const struct sf_map *s, const struct vm_page *m)
{
    const struct sf_extent *e = sf_extent_of(s, m);
    size_t at = (size_t)(m - s->pages);
    bool mapped = s->strict ? m->ref_count > 0 : e->mapped && at % SF_EXTENT_PAGES < e->populated;

    return (struct sf_page_info){
        .page = *m,
        .dev = e->object ? (uint64_t)e->object->dev : 0,
        .ino = e->object ? (uint64_t)e->object->ino : 0,
        .fd = e->object ? e->object->fd : -1,
        .kva = mapped ? (vm_offset_t)s->window + (at << PAGE_SHIFT) : 0,
    };
}

bool
sf_map_page(struct sf_map *s, const struct vm_page *m, struct sf_page_info *out)
{
    if ((size_t)((const char *)m - (const char *)s->pages) >=
        (size_t)s->nextents * SF_EXTENT_PAGES * sizeof(*m))
        return false;
    spin_lock(&s->lock);
    *out = page_info(s, m);
    spin_unlock(&s->lock);
    return true;
}

unsigned
sf_map_find(struct sf_map *s, uint64_t dev, uint64_t ino, vm_pindex_t pindex,
            struct sf_page_info *out, unsigned max)
{
    unsigned n = 0;

    spin_lock(&s->lock);
    for (uint32_t i = 0; i < s->nextents && n < max; i++) {
        const struct sf_extent *e = &s->extent[i];

        if (e->object && (uint64_t)e->object->dev == dev && (uint64_t)e->object->ino == ino &&
            e->index == pindex / SF_EXTENT_PAGES)
            out[n++] = page_info(s, sf_extent_pages(s, e) + pindex % SF_EXTENT_PAGES);
    }
    spin_unlock(&s->lock);
    return n;
}

/* page_out() - list how a page is in use */
static void
page_out(const struct vm_page *m, out_fn *fn, void *arg)
{
    if (m->ref_count)
        fn(arg, "sf_buf", m->alloc_site);
    if (m->wire_count)
        fn(arg, "wired page", m->alloc_site);
}

void
sf_map_each_out(struct sf_map *s, out_fn *fn, void *arg)
{
    spin_lock(&s->lock);
    for (uint32_t i = 0; i < s->nextents; i++) {
        const struct vm_page *m = sf_extent_pages(s, &s->extent[i]);

        for (uint32_t k = 0; s->extent[i].active && k < SF_EXTENT_PAGES; k++)
            page_out(&m[k], fn, arg);
    }
    for (size_t i = 0; i < s->arena->npages; i++)
        page_out(&s->arena->pages[i], fn, arg);
    spin_unlock(&s->lock);
}

unsigned
sf_map_extents(struct sf_map *s, struct sf_extent_info *out, unsigned max)
{
    unsigned n = 0;

    spin_lock(&s->lock);
    for (uint32_t i = 0; i < s->nextents && (out == NULL || n < max); i++) {
        const struct sf_extent *e = &s->extent[i];

        if (e->object == NULL)
            continue;
        if (out)
            out[n] = (struct sf_extent_info){
                .dev = (uint64_t)e->object->dev,
                .ino = (uint64_t)e->object->ino,
                .first = e->index * SF_EXTENT_PAGES,
                .fd = e->object->fd,
                .mapped = e->mapped ? e->populated : 0,
                .users = e->active,
            };
        n++;
    }
    spin_unlock(&s->lock);
    return n;
}

void
sf_map_get_stats(struct sf_map *s, struct sf_map_stats *out)
{
    spin_lock(&s->lock);
    *out = s->stats;
    spin_unlock(&s->lock);
}

void
sf_map_count(struct sf_map *s, enum sf_counter counter, uint64_t n)
{
    spin_lock(&s->lock);
    switch (counter) {
    case SF_SYSCALLS:
        s->stats.sf_syscalls += n;
        break;
    case SF_BUSY:
        s->stats.sf_busy += n;
        break;
    case SF_TRIMMED:
    case SF_ALLOCFAIL:
        /* Count the refused page, whether it trimmed the chunk or was its first. */
        s->stats.sf_allocfail += n;
        break;
    case SF_RHPAGES_REQUESTED:
        s->stats.sf_rhpages_requested += n;
        break;
    }
    spin_unlock(&s->lock);
}
