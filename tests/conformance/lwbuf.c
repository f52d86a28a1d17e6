/* SPDX-License-Identifier: BSD-2-Clause */
/* lwbuf(9): the caller provides the structure; without a direct map it is not used. */
#include <pthread.h>
#include <string.h>

#include <cpu/lwbuf.h>
#include <sys/jumbo.h>
#include <vm/vm_page.h>

#include "expect.h"

static void *
reader(void *arg)
{
    struct lwbuf *lwb = arg;

    /* lwbuf_kva() makes the mapping current on this thread. */
    EXPECT(strcmp((const char *)lwbuf_kva(lwb), "frame") == 0);
    lwbuf_free(lwb);
    return NULL;
}

int
main(void)
{
    struct lwbuf storage[2];
    pthread_t thread;

    EXPECT(jumbo_vm_init() == 1);
    vm_page_t m = jumbo_pg_alloc();
    struct lwbuf *lwb = lwbuf_alloc(m, &storage[0]);

    EXPECT(lwb != NULL);
    EXPECT(lwbuf_page(lwb) == m);
    strcpy((char *)lwbuf_kva(lwb), "frame");

    /* Not cached and not counted: a second handle is another one, on the same page. */
    struct lwbuf *other = lwbuf_alloc(m, &storage[1]);

    EXPECT(other && other != lwb && lwbuf_page(other) == m);
    EXPECT(lwbuf_kva_bytes() >= lwbuf_count() * PAGE_SIZE);
    EXPECT(strcmp((const char *)lwbuf_kva(other), "frame") == 0);
    lwbuf_set_global(lwb);
    EXPECT(pthread_create(&thread, NULL, reader, other) == 0);
    pthread_join(thread, NULL);
    EXPECT(strcmp((const char *)lwbuf_kva(lwb), "frame") == 0);
    lwbuf_free(lwb);
    EXPECT(lwbuf_count() == 0);
    EXPECT(lwbuf_reserve() * PAGE_SIZE == lwbuf_kva_bytes());
    jumbo_pg_free((vm_offset_t)jumbo_phys_to_kva(VM_PAGE_TO_PHYS(m)));
    return 0;
}
