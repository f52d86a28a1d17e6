/* SPDX-License-Identifier: BSD-2-Clause */
/* harness/inspect.h: a program reads what it did wrong, and what it holds. */
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

/* Functions whose addresses are known, so that the sites in a report can be held against them. */
#define NOINLINE __attribute__((noinline, noclone))

NOINLINE vm_page_t
take_page(void)
{
    vm_page_t pg = jumbo_pg_alloc();

    EXPECT(pg != NULL);
    return pg;
}

NOINLINE void
give_page(vm_offset_t kva)
{
    jumbo_pg_free(kva);
    __asm__ volatile(""); /* not by a jump, which would leave no return address */
}

NOINLINE void
give_page_again(vm_offset_t kva)
{
    jumbo_pg_free(kva);
    __asm__ volatile("");
}

static int
is_in(uint64_t site, uintptr_t function)
{
    return site > function && site < function + 256;
}

static struct harness_stats
now(void)
{
    struct harness_stats s;

    EXPECT(harness_stats(&s) == 0);
    EXPECT(s.jumbo.free + s.jumbo.in_use == s.jumbo.total);
    EXPECT(s.mbuf.free + s.mbuf.in_use == s.mbuf.total);
    EXPECT(s.pbuf.free + s.pbuf.outstanding == s.pbuf.total);
    EXPECT(s.sf_buf.nsfbufsused <= s.sf_buf.nsfbufspeak);
    EXPECT(s.sf_buf.nsfbufspeak <= s.sf_buf.nsfbufs);
    return s;
}

static void
misuse(void)
{
    struct harness_misuse m[MISUSE_RING];
    char text[1024], name[128];

    EXPECT(harness_misuse_total() == 0);
    EXPECT(harness_misuse(m, MISUSE_RING) == 0);

    vm_page_t pg = take_page();
    vm_offset_t kva = (vm_offset_t)jumbo_phys_to_kva(VM_PAGE_TO_PHYS(pg));

    give_page(kva);
    give_page_again(kva);
    EXPECT(harness_misuse_total() == 1);
    EXPECT(harness_misuse_count(MISUSE_DOUBLE_FREE) == 1);
    EXPECT(harness_misuse(m, MISUSE_RING) == 1);
    EXPECT(m[0].kind == MISUSE_DOUBLE_FREE);
    EXPECT(m[0].addr == kva);
    EXPECT(m[0].pindex == VM_PAGE_TO_PHYS(pg) >> PAGE_SHIFT);
    EXPECT(m[0].state == VPS_FREE);
    EXPECT(is_in(m[0].alloc_site, (uintptr_t)take_page));
    EXPECT(is_in(m[0].free_site, (uintptr_t)give_page));
    EXPECT(is_in(m[0].site, (uintptr_t)give_page_again));

    /* In words. */
    EXPECT(strcmp(harness_misuse_name((enum misuse_kind)m[0].kind), "double free") == 0);
    EXPECT(harness_history_text(m[0].history, text, sizeof(text)) >= 2);
    EXPECT(strncmp(text, "free < alloc", strlen("free < alloc")) == 0);
    harness_site_name(m[0].alloc_site, name, sizeof(name));
    EXPECT(strstr(name, "+0x") != NULL);
    harness_misuse_text(&m[0], text, sizeof(text));
    EXPECT(strncmp(text, "double free: page ", strlen("double free: page ")) == 0);
    EXPECT(strstr(text, ", free, history free < alloc") != NULL);
    EXPECT(strstr(text, name) != NULL);
    harness_misuse_text(&m[0], name, 12); /* cut, and ended */
    EXPECT(strcmp(name, "double free") == 0);

    /* The page's own record says so too. */
    EXPECT((pg->history & 15) == VPE_MISUSE);
    EXPECT(strcmp(vm_page_state_name((enum vm_page_state)pg->state), "free") == 0);

    /* A stray address has no page. */
    give_page(kva + 1);
    EXPECT(harness_misuse(m, 1) == 1);
    EXPECT(m[0].kind == MISUSE_FOREIGN_ADDRESS);
    EXPECT(m[0].pindex == UINT64_MAX);
    harness_misuse_text(&m[0], text, sizeof(text));
    snprintf(name, sizeof(name), "%#llx", (unsigned long long)(kva + 1));
    EXPECT(strstr(text, name) != NULL);

    /* The newest first, no more than are kept, but all are counted. */
    for (int i = 0; i < 2 * MISUSE_RING; i++)
        give_page_again(kva);
    EXPECT(harness_misuse_total() == 2 + 2 * MISUSE_RING);
    EXPECT(harness_misuse(m, 2) == 2);
    EXPECT(harness_misuse(m, MISUSE_RING) == MISUSE_RING);
    EXPECT(m[0].kind == MISUSE_DOUBLE_FREE && m[MISUSE_RING - 1].kind == MISUSE_DOUBLE_FREE);

    pmap_quick_enter_page(pg);
    vm_offset_t frame = pmap_quick_enter_page(pg);

    pmap_quick_remove_page(frame);
    EXPECT(harness_misuse_count(MISUSE_QUICK_NESTED) == 1);
    EXPECT(now().misuses == harness_misuse_total());
}

static void
figures(void)
{
    struct harness_stats before = now(), s;
    int strict = getenv("NIC_HARNESS_STRICT") && getenv("NIC_HARNESS_STRICT")[0] == '1';
    FILE *file = tmpfile();
    char page[4096] = "x";
    int count = 3;

    EXPECT(file && fwrite(page, sizeof(page), 1, file) == 1 && fflush(file) == 0);
    vm_page_t pg = take_page(), stolen = take_page();

    jumbo_pg_steal(stolen);
    struct mbuf *m = m_get(M_NOWAIT, MT_DATA);
    struct buf *bp = getpbuf(&count);
    struct lwbuf mine, *lwb = lwbuf_alloc(pg, &mine);
    vm_object_t object = vm_object_of_file(fileno(file));
    vm_page_t file_page = vm_page_grab(object, 0, VM_ALLOC_WIRED);
    struct sf_buf *sf = sf_buf_alloc(file_page, SFB_DEFAULT), *again = sf_buf_alloc(file_page, 0);

    EXPECT(m && bp && lwb && file_page && sf && again == sf);
    s = now();
    EXPECT(s.jumbo.in_use == before.jumbo.in_use + 1);
    EXPECT(s.jumbo.stolen == before.jumbo.stolen + 1);
    EXPECT(s.jumbo.away == before.jumbo.away + 1);
    EXPECT(s.mbuf.in_use == before.mbuf.in_use + 1);
    EXPECT(s.pbuf.outstanding == before.pbuf.outstanding + 1);
    EXPECT(s.sf_buf.nsfbufsused == before.sf_buf.nsfbufsused + 1); /* buffers, not references */
    EXPECT(s.sf_buf.nsfbufspeak >= 1);
    EXPECT(s.sf_buf.wired == before.sf_buf.wired + 1);
    EXPECT(s.lwbuf.count == before.lwbuf.count + (strict ? 1 : 0));
    EXPECT(s.sf_buf.sf_syscalls == 0);
    EXPECT(s.unmaps_refused == 0 && s.stale_bytes == 0);
    EXPECT(strcmp(vm_page_state_name((enum vm_page_state)file_page->state), "file") == 0);
    EXPECT((file_page->history & 15) == VPE_REF);

    sf_buf_free(sf);
    sf_buf_free(again);
    EXPECT(now().sf_buf.nsfbufsused == before.sf_buf.nsfbufsused);
    EXPECT(now().sf_buf.nsfbufspeak >= 1);
    vm_page_unwire(file_page);
    vm_object_deallocate(object);
    fclose(file);
    lwbuf_free(lwb);
    relpbuf(bp, &count);
    m_freem(m);
    vm_page_free(stolen);
    jumbo_pg_free((vm_offset_t)jumbo_phys_to_kva(VM_PAGE_TO_PHYS(pg)));

    s = now();
    EXPECT(count == 3);
    EXPECT(s.jumbo.in_use == before.jumbo.in_use && s.jumbo.away == before.jumbo.away);
    EXPECT(s.mbuf.in_use == before.mbuf.in_use);
    EXPECT(s.pbuf.outstanding == before.pbuf.outstanding);
    EXPECT(s.sf_buf.wired == before.sf_buf.wired);
    EXPECT(s.lwbuf.count == before.lwbuf.count);
    EXPECT(s.misuses == before.misuses);
}

int
main(void)
{
    struct harness_stats s;

    /* No arena yet. */
    EXPECT(harness_stats(&s) == -1);
    EXPECT(harness_misuse_total() == 0);
    EXPECT(jumbo_vm_init() == 1);
    misuse();
    figures();
    return 0;
}
