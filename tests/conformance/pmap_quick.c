/* SPDX-License-Identifier: BSD-2-Clause */
/* pmap_quick_enter_page(9): an unmapped page bounced through the thread's one frame. */
#include <pthread.h>
#include <string.h>

#include <sys/jumbo.h>
#include <vm/vm.h>
#include <vm/vm_page.h>
#include <vm/pmap.h>

#include "expect.h"

/* bounce() - copy a page by two quick mappings, one after the other: they do not nest */
static void
bounce(vm_page_t to, vm_page_t from)
{
    char page[PAGE_SIZE];
    vm_offset_t kva = pmap_quick_enter_page(from);

    EXPECT(kva != 0);
    memcpy(page, (const void *)kva, sizeof(page));
    pmap_quick_remove_page(kva);
    kva = pmap_quick_enter_page(to);
    EXPECT(kva != 0);
    memcpy((void *)kva, page, sizeof(page));
    pmap_quick_remove_page(kva);
}

static void *
bouncer(void *arg)
{
    vm_page_t *pg = arg;

    for (int i = 0; i < 1000; i++)
        bounce(pg[1], pg[0]);
    return NULL;
}

int
main(void)
{
    vm_page_t pg[4];
    pthread_t thread[2];

    EXPECT(jumbo_vm_init() == 1);
    for (int i = 0; i < 4; i++) {
        pg[i] = jumbo_pg_alloc();
        EXPECT(pg[i] != NULL);
        vm_page_wire(pg[i]); /* the page must be wired, held or unmanaged */
        memset(jumbo_phys_to_kva(VM_PAGE_TO_PHYS(pg[i])), 'a' + i, PAGE_SIZE);
    }
    /* A frame for each thread. */
    for (int i = 0; i < 2; i++)
        EXPECT(pthread_create(&thread[i], NULL, bouncer, &pg[2 * i]) == 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 4; i++) {
        caddr_t kva = jumbo_phys_to_kva(VM_PAGE_TO_PHYS(pg[i]));

        EXPECT(kva[0] == 'a' + i / 2 * 2 && kva[PAGE_SIZE - 1] == kva[0]);
        vm_page_unwire(pg[i]);
        jumbo_pg_free((vm_offset_t)kva);
    }
    return 0;
}
