/* SPDX-License-Identifier: BSD-2-Clause */
/* mbuf(9): chains, external storage and everything that cuts, joins and shares them. */
#include <string.h>

#include <sys/param.h>
#include <sys/systm.h>
#include <sys/mbuf.h>

#include <sys/jumbo.h>
#include <vm/vm_page.h>

#include "expect.h"

CTASSERT(sizeof(struct mbuf) == MSIZE);

static char storage[2][2048];
static int freed[2];

static void
my_free(caddr_t buf, void *args)
{
    int *count = args;

    EXPECT(buf == storage[count - freed]);
    (*count)++;
}

/* wrap() - an mbuf on storage @i, filled with letters from @first on */
static struct mbuf *
wrap(struct mbuf *m, int i, char first, int len)
{
    EXPECT(m != NULL);
    EXPECT(m_extadd(m, storage[i], sizeof(storage[i]), my_free, &freed[i], 0, EXT_NET_DRV) == 0);
    EXPECT(mtod(m, char *) == storage[i]);
    m->m_len = len;
    if (m->m_flags & M_PKTHDR)
        m->m_pkthdr.len = len;
    for (int k = 0; k < len; k++)
        mtod(m, char *)[k] = (char)(first + k % 26);
    return m;
}

static void
is(struct mbuf *m, const char *text)
{
    char bytes[256];
    int len = (int)strlen(text);
    struct mbuf *last;

    EXPECT(m != NULL);
    EXPECT(m_length(m, &last) == (unsigned)len);
    EXPECT(last->m_next == NULL);
    if (m->m_flags & M_PKTHDR)
        EXPECT(m->m_pkthdr.len == len);
    EXPECT(m_copydata(m, 0, len, bytes) == 0);
    EXPECT(memcmp(bytes, text, (size_t)len) == 0);
    EXPECT(m_copydata(m, 1, len, bytes) != 0); /* beyond the end */
}

static void
headers(void)
{
    struct mbuf *m = m_gethdr(M_NOWAIT, MT_DATA);

    EXPECT(m && (m->m_flags & M_PKTHDR) && m->m_type == MT_DATA && m->m_len == 0);
    EXPECT(M_TRAILINGSPACE(m) == MHLEN);
    MH_ALIGN(m, 20);
    EXPECT(M_LEADINGSPACE(m) >= MHLEN - 20 - (int)sizeof(long));
    memcpy(mtod(m, char *), "payload", 7);
    m->m_len = m->m_pkthdr.len = 7;
    M_PREPEND(m, 7, M_NOWAIT);
    memcpy(mtod(m, char *), "header ", 7);
    is(m, "header payload");
    EXPECT(*(char *)mtodo(m, 7) == 'p');
    m_freem(m);

    m = m_get(M_WAITOK, MT_CONTROL);
    EXPECT(m && !(m->m_flags & M_PKTHDR) && m->m_type == MT_CONTROL);
    EXPECT(M_TRAILINGSPACE(m) == MLEN);
    M_ALIGN(m, 100);
    EXPECT(M_TRAILINGSPACE(m) >= 100);
    EXPECT(m_free(m) == NULL);
    m_freem(NULL);
}

static void
chains(void)
{
    struct mbuf *m = wrap(m_gethdr(M_NOWAIT, MT_DATA), 0, 'a', 10);
    struct mbuf *n = m_get(M_NOWAIT, MT_DATA);

    MEXTADD(n, storage[1], sizeof(storage[1]), my_free, &freed[1], M_RDONLY, EXT_DISPOSABLE);
    memcpy(storage[1], "ABCDEFGHIJ", 10);
    n->m_len = 10;
    EXPECT(M_WRITABLE(m) && !M_WRITABLE(n));
    EXPECT(M_LEADINGSPACE(n) == 0 && M_TRAILINGSPACE(n) == 0);
    m_cat(m, n);
    m->m_pkthdr.len += 10;
    is(m, "abcdefghijABCDEFGHIJ");

    /* Copies share the storage, and shared storage must not be written. */
    struct mbuf *window = m_copym(m, 8, 4, M_NOWAIT);
    struct mbuf *all = m_copypacket(m, M_NOWAIT);

    is(window, "ijAB");
    is(all, "abcdefghijABCDEFGHIJ");
    EXPECT(mtod(all, char *) == storage[0] && mtod(window, char *) == storage[0] + 8);
    EXPECT(!M_WRITABLE(m) && !M_WRITABLE(all) && !M_WRITABLE(window));
    EXPECT(window->m_next->m_flags & M_RDONLY);
    EXPECT(m_copym(m, 15, 10, M_NOWAIT) == NULL);
    m_freem(m);
    EXPECT(freed[0] == 0 && freed[1] == 0);

    struct mbuf *tail = m_split(all, 12, M_NOWAIT);

    is(all, "abcdefghijAB");
    is(tail, "CDEFGHIJ");
    m_adj(tail, 2);
    is(tail, "EFGHIJ");
    m_adj(tail, -3);
    is(tail, "EFG");
    all = m_pullup(all, 11); /* a header that straddles two buffers */
    EXPECT(all != NULL);
    EXPECT(all->m_len >= 11);
    is(all, "abcdefghijAB");
    EXPECT(memcmp(mtod(all, char *), "abcdefghijA", 11) == 0);
    m_freem(all);
    EXPECT(freed[0] == 0); /* the window still sees it */
    m_freem(window);
    EXPECT(freed[0] == 1 && freed[1] == 0);
    EXPECT(m_pullup(tail, 100) == NULL); /* too short: freed */
    EXPECT(freed[0] == 1 && freed[1] == 1);
}

/* A jumbo page as storage: jumbo_freem() is the free routine, and its argument is ignored. */
static void
jumbo_page(void)
{
    EXPECT(jumbo_vm_init() == 1);
    vm_page_t pg = jumbo_pg_alloc();
    struct mbuf *m = m_gethdr(M_NOWAIT, MT_DATA);
    caddr_t kva = jumbo_phys_to_kva(VM_PAGE_TO_PHYS(pg));

    EXPECT(m_extadd(m, kva, PAGE_SIZE, jumbo_freem, NULL, 0, EXT_JUMBOP) == 0);
    EXPECT(m_extadd(m, kva, PAGE_SIZE, jumbo_freem, NULL, 0, EXT_JUMBOP) != 0); /* has some */
    m->m_len = m->m_pkthdr.len = (int)PAGE_SIZE;
    EXPECT(m_writable(m) && m_leadingspace(m) == 0 && m_trailingspace(m) == 0);
    m_freem(m);
    EXPECT(jumbo_pg_alloc() == pg); /* it came back */
    jumbo_pg_free((vm_offset_t)kva);
}

int
main(void)
{
    headers();
    chains();
    jumbo_page();
    return 0;
}
