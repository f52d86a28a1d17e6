/* SPDX-License-Identifier: BSD-2-Clause */
#include "mbuf/flip.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "kva/jumbo.h"

int
user_area_create(struct arena *a, size_t npages, struct user_area **out)
{
    if (npages == 0 || npages > SIZE_MAX >> PAGE_SHIFT)
        return -EINVAL;
    struct user_area *u = calloc(1, sizeof(*u));

    if (u == NULL)
        return -ENOMEM;
    u->arena = a;
    u->npages = npages;
    u->page = calloc(npages, sizeof(struct vm_page *));
    u->base = u->page ? mmap(NULL, npages << PAGE_SHIFT, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                      : MAP_FAILED;
    if (u->base == MAP_FAILED) {
        free(u->page);
        free(u);
        return -ENOMEM;
    }
    *out = u;
    return 0;
}

/* give_back() - free one of the area's pages: stolen from the jumbo pool, or allocated from the arena */
static void
give_back(struct vm_page *m)
{
    if (m)
        vm_page_free(m); /* deferred until its last hold is dropped */
}

void
user_area_destroy(struct user_area *u)
{
    munmap(u->base, u->npages << PAGE_SHIFT);
    for (size_t i = 0; i < u->npages; i++)
        give_back(u->page[i]);
    free(u->page);
    free(u);
}

/* bind_page() - bind a page into the area; 0, or -errno with nothing changed */
static int
bind_page(struct user_area *u, size_t at, struct vm_page *m)
{
    int err = arena_map(u->arena, u->base + (at << PAGE_SHIFT), m->pindex, 1);

    if (err)
        return err;
    give_back(u->page[at]);
    u->page[at] = m;
    return 0;
}

/*
 * flippable() - may this piece be remapped? (zero_copy(9))
 *
 * It may if length, user address and buffer address are page multiples, the storage has exactly one
 * reference, the call does not peek, and the page is not held.
 */
static bool
flippable(struct user_area *u, const struct mbuf *m, size_t off, size_t len, int flags)
{
    struct jumbo *j = u->arena->owner[REGION_JUMBO];

    if (!(m->m_flags & M_EXT) || j == NULL ||
        arena_region_at(u->arena, m->m_ext.ext_buf) != REGION_JUMBO) {
        u->stats.not_jumbo++;
        return false;
    }
    if (flags & MSG_PEEK) {
        u->stats.peeked++;
        return false;
    }
    if (((uintptr_t)m->m_data | off) & PAGE_MASK || m->m_len != (int)PAGE_SIZE || len < PAGE_SIZE) {
        u->stats.unaligned++;
        return false;
    }
    const struct vm_page *pg = jumbo_page_at(j, m->m_data);

    if (!m_writable(m) || __atomic_load_n(&pg->hold_count, __ATOMIC_ACQUIRE)) {
        u->stats.shared++;
        return false;
    }
    return true;
}

/* flip() - give an mbuf's page to the user; false if the kernel refuses the mapping */
static bool
flip(struct user_area *u, const struct mbuf *m, size_t off)
{
    struct jumbo *j = u->arena->owner[REGION_JUMBO];
    struct vm_page *pg = jumbo_page_at(j, m->m_data);

    if (bind_page(u, off >> PAGE_SHIFT, pg) < 0) {
        u->stats.no_mapping++;
        return false;
    }
    jumbo_flip(j, pg, RETURN_SITE());
    u->stats.pages_flipped++;
    u->stats.bytes_flipped += PAGE_SIZE;
    return true;
}

/* copy_in() - copy bytes into the area, binding pages as needed; returns bytes copied, or -ENOMEM if none */
static ssize_t
copy_in(struct user_area *u, size_t off, const char *from, size_t len)
{
    size_t done = 0;

    while (done < len) {
        size_t at = (off + done) >> PAGE_SHIFT;
        size_t room = PAGE_SIZE - ((off + done) & PAGE_MASK);
        size_t part = len - done < room ? len - done : room;

        if (u->page[at] == NULL) {
            struct vm_page *m = arena_pages_alloc(u->arena, 1, VPS_STOLEN);

            if (m == NULL || bind_page(u, at, m) < 0) {
                if (m)
                    arena_pages_free(u->arena, m, 1);
                break;
            }
            /* The page may hold old data: the user must see zeros where nothing was received. */
            memset(u->base + (at << PAGE_SHIFT), 0, PAGE_SIZE);
        }
        memcpy(u->base + off + done, from + done, part);
        done += part;
    }
    arena_count_copy(u->arena, done);
    u->stats.bytes_copied += done;
    return done ? (ssize_t)done : -ENOMEM;
}

ssize_t
recv_flip(struct mbuf **chain, struct user_area *u, size_t off, size_t len, int flags)
{
    size_t size = u->npages << PAGE_SHIFT;
    struct mbuf *m = *chain;
    size_t got = 0;
    ssize_t err = 0;

    if (off > size || len > size - off || (flags & ~MSG_PEEK))
        return -EINVAL;
    while (m && got < len) {
        size_t want = (size_t)m->m_len < len - got ? (size_t)m->m_len : len - got;

        if (want && flippable(u, m, off + got, len - got, flags) && flip(u, m, off + got)) {
            err = (ssize_t)want;
        } else {
            err = want ? copy_in(u, off + got, m->m_data, want) : 0;
            if (err < 0)
                break;
        }
        got += (size_t)err;
        if (flags & MSG_PEEK) {
            m = m->m_next;
            continue;
        }
        if (m->m_flags & M_PKTHDR)
            m->m_pkthdr.len -= (int32_t)err;
        m->m_data += err;
        m->m_len -= (int32_t)err;
        if (m->m_len > 0)
            break;
        m = m_free(m);
    }
    if (!(flags & MSG_PEEK))
        *chain = m;
    return got ? (ssize_t)got : err;
}
