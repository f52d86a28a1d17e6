/* SPDX-License-Identifier: BSD-2-Clause */
/* A report names the program's own calls: where it took a thing, where it freed it, and where it did so again. */
#include <stdint.h>
#include <stdio.h>
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

/* Each call has its own function, so that return addresses can be told apart. */
#define NOINLINE __attribute__((noinline, noclone))
#define STAY() __asm__ volatile("") /* a call, not a jump, which would leave no return address */

#define TAKE(name, type, expression)                                                               \
    NOINLINE type name(void *arg)                                                                  \
    {                                                                                              \
        type taken = (expression);                                                                 \
                                                                                                   \
        STAY();                                                                                    \
        (void)arg;                                                                                 \
        return taken;                                                                              \
    }
#define GIVE(name, type, statement)                                                                \
    NOINLINE void name(type *arg)                                                                  \
    {                                                                                              \
        statement;                                                                                 \
        STAY();                                                                                    \
    }                                                                                              \
    NOINLINE void name##_again(type *arg)                                                          \
    {                                                                                              \
        STAY();                                                                                    \
        statement;                                                                                 \
        STAY();                                                                                    \
    }

static int
is_in(uint64_t site, uintptr_t function)
{
    return site > function && site < function + 256;
}

/* expect_report() - check the newest report, and the functions that its sites lie in; 0: no such site */
static void
expect_report(enum misuse_kind kind, const void *addr, uintptr_t taken, uintptr_t given,
              uintptr_t again)
{
    static uint64_t reports;
    struct harness_misuse m;
    char text[1024];

    EXPECT(harness_misuse_total() == ++reports);
    EXPECT(harness_misuse(&m, 1) == 1);
    harness_misuse_text(&m, text, sizeof(text));
    fprintf(stderr, "%s\n", text);
    EXPECT(m.kind == kind);
    EXPECT(m.addr == (uintptr_t)addr);
    EXPECT(taken ? is_in(m.alloc_site, taken) : m.alloc_site == 0);
    EXPECT(given ? is_in(m.free_site, given) : m.free_site == 0);
    EXPECT(is_in(m.site, again));
    EXPECT(strstr(text, ", misused at "));
    EXPECT(!taken || strstr(text, ", allocated at "));
    EXPECT(!given || strstr(text, ", freed at "));
}

#define EXPECT_REPORT(kind, addr, taken, given, again)                                             \
    expect_report(kind, addr, (uintptr_t)(taken), (uintptr_t)(given), (uintptr_t)(again))

TAKE(take_mbuf, struct mbuf *, m_get(M_NOWAIT, MT_DATA))
TAKE(take_packet, struct mbuf *, m_gethdr(M_NOWAIT, MT_DATA))
TAKE(copy_packet, struct mbuf *, m_copym(arg, 0, M_COPYALL, M_NOWAIT))
TAKE(split_packet, struct mbuf *, m_split(arg, 1, M_NOWAIT))
TAKE(prepend, struct mbuf *, m_prepend(arg, MHLEN, M_NOWAIT))
GIVE(free_mbuf, struct mbuf, m_free(arg))
GIVE(free_chain, struct mbuf, m_freem(arg))
GIVE(attach, struct mbuf, MEXTADD(arg, (caddr_t)arg, 1, jumbo_freem, NULL, 0, EXT_JUMBOP))

static void
mbufs(void)
{
    struct mbuf *m = take_mbuf(NULL), *n;

    free_mbuf(m);
    free_mbuf_again(m);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, m, take_mbuf, free_mbuf, free_mbuf_again);
    free_chain_again(m);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, m, take_mbuf, free_mbuf, free_chain_again);
    attach_again(m);
    EXPECT_REPORT(MISUSE_BAD_STATE, m, take_mbuf, free_mbuf, attach_again);

    /* Those that make mbufs on the way, and the second of a chain as the first. */
    m = take_packet(NULL);
    m->m_len = m->m_pkthdr.len = 3;
    m->m_next = n = split_packet(m);
    m->m_pkthdr.len = 3;
    free_chain(m);
    free_chain_again(m);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, m, take_packet, free_chain, free_chain_again);
    free_chain_again(n);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, n, split_packet, free_chain, free_chain_again);

    m = take_packet(NULL);
    m->m_len = m->m_pkthdr.len = 3;
    n = copy_packet(m);
    free_chain(n);
    free_chain_again(n);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, n, copy_packet, free_chain, free_chain_again);
    n = prepend(m);
    EXPECT(n != m);
    free_chain(n);
    free_chain_again(n);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, n, prepend, free_chain, free_chain_again);
}

TAKE(take_page, vm_page_t, jumbo_pg_alloc())
GIVE(give_page, char, jumbo_pg_free((vm_offset_t)arg))
GIVE(give_storage, char, jumbo_freem(arg, NULL))
GIVE(steal_page, struct vm_page, jumbo_pg_steal(arg))
GIVE(free_page, struct vm_page, vm_page_free(arg))
GIVE(unhold_page, struct vm_page, vm_page_unhold(arg))
GIVE(unwire_page, struct vm_page, vm_page_unwire(arg))

static char *
kva_of(vm_page_t pg)
{
    return jumbo_phys_to_kva(VM_PAGE_TO_PHYS(pg));
}

static void
pages(void)
{
    vm_page_t pg = take_page(NULL);
    char *kva = kva_of(pg);

    give_page(kva);
    give_page_again(kva);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, kva, take_page, give_page, give_page_again);
    steal_page_again(pg);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, pg, take_page, give_page, steal_page_again);
    unhold_page_again(pg);
    EXPECT_REPORT(MISUSE_REFCOUNT, pg, take_page, give_page, unhold_page_again);
    unwire_page_again(pg);
    EXPECT_REPORT(MISUSE_REFCOUNT, pg, take_page, give_page, unwire_page_again);

    /* As the storage of an mbuf, a page is freed where the last mbuf is. */
    pg = take_page(NULL);
    kva = kva_of(pg);
    struct mbuf *m = take_mbuf(NULL), *copy;

    EXPECT(m_extadd(m, kva, PAGE_SIZE, jumbo_freem, NULL, 0, EXT_JUMBOP) == 0);
    m->m_len = 5;
    copy = copy_packet(m);
    free_mbuf(m);
    free_mbuf_again(m); /* although its memory stays until the last reference is dropped */
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, m, take_mbuf, free_mbuf, free_mbuf_again);
    free_chain(copy);
    give_storage_again(kva);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, kva, take_page, free_chain, give_storage_again);

    pg = take_page(NULL);
    steal_page(pg);
    free_page(pg);
    free_page_again(pg);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, pg, take_page, free_page, free_page_again);
}

TAKE(take_pbuf, struct buf *, getpbuf(NULL))
TAKE(try_pbuf, struct buf *, trypbuf(NULL))
GIVE(give_pbuf, struct buf, relpbuf(arg, NULL))

static void
pbufs(void)
{
    struct buf *bp = take_pbuf(NULL);

    give_pbuf(bp);
    give_pbuf_again(bp);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, bp, take_pbuf, give_pbuf, give_pbuf_again);
    EXPECT(try_pbuf(NULL) == bp);
    give_pbuf(bp);
    give_pbuf_again(bp);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, bp, try_pbuf, give_pbuf, give_pbuf_again);
}

TAKE(map_page, struct sf_buf *, sf_buf_alloc(arg, SFB_NOWAIT))
GIVE(unmap_page, struct sf_buf, sf_buf_free(arg))
GIVE(ref_page, struct sf_buf, sf_buf_ref(arg))
TAKE(grab_page, vm_page_t, vm_page_grab(arg, 0, VM_ALLOC_WIRED))
TAKE(quick_enter, vm_offset_t, pmap_quick_enter_page(arg))
TAKE(quick_enter_again, vm_offset_t, pmap_quick_enter_page(arg))
GIVE(quick_remove, void, pmap_quick_remove_page((vm_offset_t)arg))

static struct lwbuf mine;

TAKE(light, struct lwbuf *, lwbuf_alloc(arg, &mine))
GIVE(unlight, struct lwbuf, lwbuf_free(arg))

static void
mappings(void)
{
    FILE *file = tmpfile();
    char page[4096] = "x";

    EXPECT(file && fwrite(page, sizeof(page), 1, file) == 1 && fflush(file) == 0);
    vm_object_t object = vm_object_of_file(fileno(file));
    vm_page_t m = grab_page(object);
    struct sf_buf *sf = map_page(m);

    EXPECT(sf != NULL);
    unmap_page(sf);
    unmap_page_again(sf);
    EXPECT_REPORT(MISUSE_REFCOUNT, sf, map_page, unmap_page, unmap_page_again);
    ref_page_again(sf);
    EXPECT_REPORT(MISUSE_REFCOUNT, sf, map_page, unmap_page, ref_page_again);

    struct lwbuf *lwb = light(m);
    vm_offset_t kva = lwbuf_kva(lwb);

    unlight(lwb);
    unlight_again(lwb);
    EXPECT_REPORT(MISUSE_DOUBLE_FREE, (void *)kva, light, unlight, unlight_again);

    kva = quick_enter(m);
    EXPECT(quick_enter_again(m) == kva);
    EXPECT_REPORT(MISUSE_QUICK_NESTED, (void *)kva, quick_enter, 0, quick_enter_again);
    quick_remove((void *)kva);
    quick_remove_again((void *)kva);
    EXPECT_REPORT(MISUSE_QUICK_FOREIGN, (void *)kva, 0, 0, quick_remove_again);

    vm_page_unwire(m);
    vm_object_deallocate(object);
    fclose(file);
}

/* What the library never gave to anybody; a page's descriptor stands for an address of its own. */
static void
strays(void)
{
    static char nowhere[8192] __attribute__((aligned(4096)));
    void *inside = take_page(NULL);

    for (int i = 0; i < 2; i++) {
        void *p = i ? inside : nowhere;

        free_mbuf_again(p);
        EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, free_mbuf_again);
        free_chain_again(p);
        EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, free_chain_again);
        give_page_again(p);
        EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, give_page_again);
        give_storage_again(p);
        EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, give_storage_again);
        give_pbuf_again(p);
        EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, give_pbuf_again);
    }
    void *p = nowhere;

    steal_page_again(p);
    EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, steal_page_again);
    free_page_again(p);
    EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, free_page_again);
    unhold_page_again(p);
    EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, unhold_page_again);
    unwire_page_again(p);
    EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, unwire_page_again);
    unmap_page_again(p);
    EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, unmap_page_again);
    ref_page_again(p);
    EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, ref_page_again);
    EXPECT(map_page(p) == NULL);
    EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, map_page);
    EXPECT(light(p) == NULL);
    EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, light);
    EXPECT(quick_enter(p) == 0);
    EXPECT_REPORT(MISUSE_FOREIGN_ADDRESS, p, 0, 0, quick_enter);
    jumbo_pg_free((vm_offset_t)kva_of(inside));
}

int
main(void)
{
    EXPECT(jumbo_vm_init() == 1);
    mbufs();
    pages();
    pbufs();
    mappings();
    strays();

    struct harness_stats s;

    EXPECT(harness_stats(&s) == 0);
    EXPECT(s.jumbo.in_use == 0 && s.jumbo.away == 0 && s.mbuf.in_use == 0);
    EXPECT(s.pbuf.outstanding == 0 && s.sf_buf.nsfbufsused == 0 && s.lwbuf.count == 0);
    return 0;
}
