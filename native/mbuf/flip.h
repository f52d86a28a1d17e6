/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page-flip receive, zero_copy(9): whole pages of a chain go to the user by remapping.
 *
 * The user's memory is an area created here: separate address space, whose pages are bound to arena
 * pages as data are received into them. A flip binds the received page there and returns the page
 * it replaces to the arena.
 */
#ifndef NIC_HARNESS_FLIP_H
#define NIC_HARNESS_FLIP_H

#include <sys/mbuf.h>

#include "arena/arena.h"

struct flip_stats {
    uint64_t pages_flipped;
    uint64_t bytes_flipped;
    uint64_t bytes_copied;
    /* Reasons for copying; each counts the pieces of a chain that were copied for it. */
    uint64_t unaligned;  /* length, user address or buffer address is not a page multiple */
    uint64_t shared;     /* the storage has other references, or the page is held */
    uint64_t not_jumbo;  /* not a receive page */
    uint64_t peeked;     /* MSG_PEEK: the data remain in the chain */
    uint64_t no_mapping; /* the kernel refused the mapping (vm.max_map_count) */
};

struct user_area {
    struct arena *arena;
    uint8_t *base; /* page-aligned; readable and writable where it is bound */
    size_t npages;
    struct vm_page **page; /* the page bound there, or NULL */
    struct flip_stats stats;
};

/* user_area_create() - reserve @npages of address space to receive into; 0, -EINVAL, -ENOMEM. */
int user_area_create(struct arena *a, size_t npages, struct user_area **out);
/* user_area_destroy() - unmap it and return its pages to the arena. */
void user_area_destroy(struct user_area *u);

/*
 * recv_flip() - move data from the front of a chain into an area
 * @chain: the data received are removed from *@chain, which is NULL if that is all; MSG_PEEK leaves
 * it
 * @u, @off: area, and byte offset into it
 * @len: bytes at most
 * @flags: 0 or MSG_PEEK
 *
 * Return: bytes received; -EINVAL if the area is exceeded; -ENOMEM if there is no page to copy
 * into. If an error follows some data, their length is returned instead.
 */
ssize_t recv_flip(struct mbuf **chain, struct user_area *u, size_t off, size_t len, int flags);

#endif
