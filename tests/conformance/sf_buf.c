/* SPDX-License-Identifier: BSD-2-Clause */
/* sf_buf(9): pages of a file, and a page of memory, mapped for a moment. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <sys/jumbo.h>
#include <sys/sf_buf.h>
#include <vm/vm.h>
#include <vm/vm_object.h>
#include <vm/vm_page.h>

#include "expect.h"

#define PAGES 20

/* sum() - what a driver without DMA does with a page: read it through a mapping of its own */
static unsigned
sum(vm_page_t m, int flags)
{
    struct sf_buf *sf = sf_buf_alloc(m, flags);
    unsigned total = 0;

    EXPECT(sf != NULL);
    EXPECT(sf_buf_page(sf) == m);
    for (const unsigned char *p = (const unsigned char *)sf_buf_kva(sf), *end = p + PAGE_SIZE;
         p < end; p++)
        total += *p;
    sf_buf_free(sf);
    return total;
}

int
main(void)
{
    static const int flags[] = {SFB_DEFAULT,
                                SFB_CATCH,
                                SFB_NOWAIT,
                                SFB_CPUPRIVATE,
                                SFB_CATCH | SFB_CPUPRIVATE,
                                SFB_NOWAIT | SFB_CPUPRIVATE};
    char page[PAGE_SIZE];
    int fd = memfd_create("file", 0);

    for (int i = 0; i < PAGES; i++) {
        memset(page, i, sizeof(page));
        EXPECT(write(fd, page, sizeof(page)) == (ssize_t)sizeof(page));
    }
    vm_object_t object = vm_object_of_file(fd);

    EXPECT(object != NULL);
    close(fd);
    for (int i = 0; i < PAGES; i++) {
        vm_page_t m = vm_page_grab(object, (vm_pindex_t)i, VM_ALLOC_WIRED);

        EXPECT(m != NULL);
        for (unsigned f = 0; f < sizeof(flags) / sizeof(flags[0]); f++)
            EXPECT(sum(m, flags[f]) == (unsigned)i * PAGE_SIZE);
        vm_page_unwire(m);
    }

    /* Two users of a page share its buffer, and each has a reference. */
    vm_page_t m = vm_page_grab(object, 3, VM_ALLOC_WIRED);
    struct sf_buf *one = sf_buf_alloc(m, SFB_DEFAULT);
    struct sf_buf *two = sf_buf_alloc(m, SFB_DEFAULT);

    EXPECT(one && one == two);
    sf_buf_ref(one);
    vm_offset_t kva = sf_buf_kva(one);

    sf_buf_free(one);
    sf_buf_free(one);
    EXPECT(*(const char *)kva == 3);
    EXPECT(sf_buf_kva(two) == kva);
    sf_buf_free(two);

    /* Soon after the last free, the mapping is found again. */
    one = sf_buf_alloc(m, SFB_NOWAIT);
    EXPECT(sf_buf_kva(one) == kva);
    sf_buf_free(one);
    vm_page_unwire(m);
    vm_object_deallocate(object);

    /* A page of memory, written through its sf_buf. */
    EXPECT(jumbo_vm_init() == 1);
    m = jumbo_pg_alloc();
    one = sf_buf_alloc(m, SFB_DEFAULT);
    EXPECT(one != NULL);
    memset((void *)sf_buf_kva(one), 2, PAGE_SIZE);
    sf_buf_free(one);
    EXPECT(sum(m, SFB_DEFAULT) == 2 * PAGE_SIZE);
    EXPECT(jumbo_phys_to_kva(VM_PAGE_TO_PHYS(m))[99] == 2);
    jumbo_pg_free((vm_offset_t)jumbo_phys_to_kva(VM_PAGE_TO_PHYS(m)));
    return 0;
}
