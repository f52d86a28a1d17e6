/* SPDX-License-Identifier: BSD-2-Clause */
/* jumbo(9): the receive ring of a small driver, from its manual page. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <sys/jumbo.h>
#include <vm/vm.h>
#include <vm/vm_page.h>

#include "expect.h"

#define RING 64

/* A descriptor holds a physical address; the page's KVA is found from it when the frame has come. */
static vm_paddr_t ring[RING];

static void
refill(int i)
{
    vm_page_t pg = jumbo_pg_alloc();

    EXPECT(pg != NULL);
    ring[i] = VM_PAGE_TO_PHYS(pg);
    EXPECT((ring[i] & PAGE_MASK) == 0);
    EXPECT(PHYS_TO_VM_PAGE(ring[i]) == pg);
}

int
main(void)
{
    EXPECT(jumbo_pg_alloc() == NULL); /* no pool yet */
#if !defined(__SANITIZE_ADDRESS__) &&                                                              \
    !defined(__SANITIZE_THREAD__) /* they need the room themselves */
    struct rlimit limit, little;

    EXPECT(getrlimit(RLIMIT_AS, &limit) == 0);
    little = limit;
    little.rlim_cur = 1 << 28;
    EXPECT(setrlimit(RLIMIT_AS, &little) == 0);
    EXPECT(jumbo_vm_init() == 0);
    EXPECT(jumbo_pg_alloc() == NULL); /* and nothing was left behind */
    EXPECT(setrlimit(RLIMIT_AS, &limit) == 0);
#endif
    EXPECT(jumbo_vm_init() == 1);
    EXPECT(jumbo_vm_init() == 1); /* again: no effect */

    for (int i = 0; i < RING; i++)
        refill(i);
    for (int i = 0; i < RING; i++) {
        caddr_t kva = jumbo_phys_to_kva(ring[i]);

        EXPECT(kva != NULL);
        memset(kva, i, PAGE_SIZE); /* the frame */
        for (int k = 0; k < i; k++)
            EXPECT(ring[k] != ring[i]);
    }
    for (int i = 0; i < RING; i++) {
        caddr_t kva = jumbo_phys_to_kva(ring[i]);

        EXPECT(kva[0] == i && kva[PAGE_SIZE - 1] == i);
        EXPECT(jumbo_phys_to_kva(ring[i] + 17) == kva + 17);
    }

    /* Passed up, and freed by the stack: the second argument is ignored. */
    for (int i = 0; i < RING / 2; i++) {
        jumbo_freem(jumbo_phys_to_kva(ring[i]), &ring[i]);
        refill(i);
    }
    /* Taken away by the receiver: the page lives on, and its KVA serves another. */
    vm_page_t stolen = PHYS_TO_VM_PAGE(ring[RING - 1]);

    jumbo_pg_steal(stolen);
    EXPECT(jumbo_phys_to_kva(VM_PAGE_TO_PHYS(stolen)) == NULL);
    refill(RING - 1);
    EXPECT(PHYS_TO_VM_PAGE(ring[RING - 1]) != stolen);
    vm_page_free(stolen);

    /* Detach: what was never passed up. The page freed last is the warm one: it comes first. */
    vm_page_t last = PHYS_TO_VM_PAGE(ring[RING - 1]);

    for (int i = 0; i < RING; i++)
        jumbo_pg_free((vm_offset_t)jumbo_phys_to_kva(ring[i]));
    EXPECT(jumbo_pg_alloc() == last);
    jumbo_pg_free((vm_offset_t)jumbo_phys_to_kva(VM_PAGE_TO_PHYS(last)));
    return 0;
}
