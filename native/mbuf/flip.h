/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Page-flip receive, zero_copy(9): whole pages of a chain go to the user by remapping.
 *
 * The user's memory is an area made here: address space of its own, each page of it bound to an arena
 * page once something was received into it. A flip binds the received page there and gives the
 * page that was there before back to the arena.
 */
#ifndef NIC_HARNESS_FLIP_H
#define NIC_HARNESS_FLIP_H

#include <sys/mbuf.h>

#include "arena/arena.h"

struct flip_stats {
    uint64_t pages_flipped;
    uint64_t bytes_flipped;
    uint64_t bytes_copied;
    /* Why not flipped; each counts pieces of a chain that were copied. */
    uint64_t unaligned;  /* length, user address or buffer address is no page multiple */
    uint64_t shared;     /* the storage has other references, or the page is held */
    uint64_t not_jumbo;  /* not a receive page */
    uint64_t peeked;     /* MSG_PEEK: the data stay in the chain */
    uint64_t no_mapping; /* the kernel refused the mapping (vm.max_map_count) */
};

struct user_area {
    struct arena *arena;
    uint8_t *base; /* page-aligned; readable and writable where it is bound */
    size_t npages;
    struct vm_page **page; /* bound there; NULL */
    struct flip_stats stats;
};

/* user_area_create() - @npages of address space to receive into; 0, -EINVAL, -ENOMEM. */
int user_area_create(struct arena *a, size_t npages, struct user_area **out);
/* user_area_destroy() - unmap it and give its pages back to the arena. */
void user_area_destroy(struct user_area *u);

/*
 * recv_flip() - move data from the front of a chain into an area
 * @chain: *@chain is consumed as far as it is received, NULL when all of it was; with MSG_PEEK it is left
 * @u, @off: area, and byte offset into it
 * @len: bytes at most
 * @flags: 0 or MSG_PEEK
 *
 * Return: bytes received; -EINVAL when the area is exceeded; -ENOMEM when there is no page to copy
 * into. What was received before an error stays received, and is returned instead.
 */
ssize_t recv_flip(struct mbuf **chain, struct user_area *u, size_t off, size_t len, int flags);

#endif
