/* SPDX-License-Identifier: BSD-2-Clause */
/* NIC_HARNESS_STRICT=1: a stale pointer faults where it is used. */
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#include <cpu/lwbuf.h>
#include <harness/inspect.h>
#include <sys/buf.h>
#include <sys/jumbo.h>
#include <sys/mbuf.h>
#include <sys/sf_buf.h>
#include <vm/pmap.h>
#include <vm/vm_object.h>
#include <vm/vm_page.h>

#include "expect.h"

static sigjmp_buf back;

static void
fault(int signal)
{
    (void)signal;
    siglongjmp(back, 1);
}

/* faults() - does a read of this byte end in SIGSEGV? */
static int
faults(const volatile char *p)
{
    if (sigsetjmp(back, 1))
        return 1;
    (void)*p;
    return 0;
}

static char *
kva_of(vm_page_t pg)
{
    return jumbo_phys_to_kva(VM_PAGE_TO_PHYS(pg));
}

static void
pages(void)
{
    vm_page_t pg[64], others[64];
    char *kva[64];

    for (int i = 0; i < 64; i++) {
        pg[i] = jumbo_pg_alloc();
        EXPECT(pg[i] != NULL);
        kva[i] = kva_of(pg[i]);
        memset(kva[i], i, PAGE_SIZE);
    }
    /* Every second one, so that each mapping is between two that stay. */
    for (int i = 0; i < 64; i += 2)
        jumbo_pg_free((vm_offset_t)kva[i]);
    for (int i = 0; i < 64; i++) {
        EXPECT(faults(kva[i]) == !(i % 2));
        EXPECT(faults(kva[i] + PAGE_SIZE - 1) == !(i % 2));
        EXPECT(i % 2 == 0 || kva[i][17] == i);
    }
    /* A freed page's next life is at its address again. */
    for (int i = 0; i < 64; i += 2) {
        others[i] = jumbo_pg_alloc();
        EXPECT(others[i] != NULL);
        memset(kva_of(others[i]), i, PAGE_SIZE);
    }
    for (int i = 0; i < 64; i += 2)
        jumbo_freem(kva_of(others[i]), NULL);
    for (int i = 1; i < 64; i += 2)
        jumbo_freem(kva[i], NULL);
    for (int i = 0; i < 64; i++)
        EXPECT(faults(kva[i]));

    /* As storage: with the last mbuf that has it. */
    vm_page_t storage = jumbo_pg_alloc();
    char *data = kva_of(storage);
    struct mbuf *m = m_gethdr(M_NOWAIT, MT_DATA);

    EXPECT(m_extadd(m, data, PAGE_SIZE, jumbo_freem, NULL, 0, EXT_JUMBOP) == 0);
    m->m_len = m->m_pkthdr.len = 100;
    struct mbuf *copy = m_copypacket(m, M_NOWAIT);

    EXPECT(copy != NULL);
    m_freem(m);
    EXPECT(!faults(data));
    m_freem(copy);
    EXPECT(faults(data));

    /* A page that is held is there until the last hold goes. */
    storage = jumbo_pg_alloc();
    data = kva_of(storage);
    vm_page_hold(storage);
    jumbo_pg_free((vm_offset_t)data);
    EXPECT(!faults(data));
    vm_page_unhold(storage);
    EXPECT(faults(data));

    /* A stolen page has lost its place. */
    storage = jumbo_pg_alloc();
    data = kva_of(storage);
    jumbo_pg_steal(storage);
    EXPECT(faults(data));
    vm_page_free(storage);
}

static void
mappings(void)
{
    FILE *file = tmpfile();
    vm_page_t pg = jumbo_pg_alloc();
    struct lwbuf unused;

    EXPECT(file && fputs("bytes", file) >= 0 && fflush(file) == 0);
    vm_object_t object = vm_object_of_file(fileno(file));
    vm_page_t of_file = vm_page_grab(object, 0, VM_ALLOC_WIRED);

    EXPECT(pg && of_file);
    for (int i = 0; i < 2; i++) {
        vm_page_t m = i ? of_file : pg;
        struct sf_buf *sf = sf_buf_alloc(m, SFB_DEFAULT);
        char *kva = (char *)sf_buf_kva(sf);

        sf_buf_ref(sf);
        sf_buf_free(sf);
        EXPECT(!faults(kva));
        sf_buf_free(sf);
        EXPECT(faults(kva));

        struct lwbuf *lwb = lwbuf_alloc(m, &unused);

        kva = (char *)lwbuf_kva(lwb);
        EXPECT(!faults(kva));
        lwbuf_free(lwb);
        EXPECT(faults(kva));

        kva = (char *)pmap_quick_enter_page(m);
        EXPECT(!faults(kva));
        pmap_quick_remove_page((vm_offset_t)kva);
        EXPECT(faults(kva));
    }
    vm_page_unwire(of_file);
    vm_object_deallocate(object);
    fclose(file);
    jumbo_pg_free((vm_offset_t)kva_of(pg));

    struct buf *bp = getpbuf(NULL);
    char *window = bp->b_data;

    memset(window, 1, MAXPHYS);
    relpbuf(bp, NULL);
    EXPECT(faults(window) && faults(window + MAXPHYS - 1));
}

int
main(void)
{
    const struct sigaction catch = {.sa_handler = fault};
    const char *strict = getenv("NIC_HARNESS_STRICT");
    struct harness_stats s;

    EXPECT(jumbo_vm_init() == 1);
    /* In every mode an mbuf that is freed has no data any more. */
    struct mbuf *m = m_get(M_NOWAIT, MT_DATA);

    EXPECT(m && mtod(m, char *) != NULL);
    m_freem(m);
    EXPECT(mtod(m, char *) == NULL);
    if (strict == NULL || strict[0] != '1')
        return 0;

    EXPECT(sigaction(SIGSEGV, &catch, NULL) == 0);
    pages();
    mappings();
    EXPECT(harness_stats(&s) == 0);
    EXPECT(s.misuses == 0 && s.unmaps_refused == 0 && s.stale_bytes == 0);
    EXPECT(s.jumbo.in_use == 0 && s.jumbo.away == 0 && s.mbuf.in_use == 0);
    return 0;
}
