/* SPDX-License-Identifier: BSD-2-Clause */
/* Page-flip receive: what is flipped, what is copied and why, and that every page is returned. */
#include <string.h>
#include <sys/socket.h>

#include "machine/machine.h"
#include "check.h"
#include "mbuf/flip.h"

#define SITE __builtin_return_address(0)

static struct machine *machine;

/* An mbuf over a receive page: @len bytes of @fill from @skip on. */
static struct mbuf *
packet(char fill, int skip, int len)
{
    struct vm_page *pg = jumbo_alloc(machine->jumbo, SITE);
    struct mbuf *m = mb_gethdr(machine->mbufs);

    CHECK(pg && m);
    char *kva = jumbo_kva(machine->jumbo, pg);

    memset(kva, fill, PAGE_SIZE);
    vm_page_turn(pg, VPS_MBUF, VPE_MBUF);
    CHECK_EQ(m_extadd(m, kva, PAGE_SIZE, jumbo_freem, NULL, 0, EXT_DISPOSABLE), 0);
    m->m_data += skip;
    m->m_len = m->m_pkthdr.len = len;
    return m;
}

static void
all_of(const uint8_t *p, size_t len, char fill)
{
    for (size_t i = 0; i < len; i++)
        CHECK_EQ(p[i], fill);
}

int
main(void)
{
    const struct machine_config mc = {.pages = 64};
    struct user_area *u;

    CHECK_EQ(machine_create(&mc, &machine), 0);
    CHECK_EQ(user_area_create(machine->arena, 0, &u), -EINVAL);
    CHECK_EQ(user_area_create(machine->arena, 8, &u), 0);

    /* A whole page is flipped: the user's page is the ring's, and nothing is copied. */
    struct mbuf *m = packet('a', 0, 4096);
    struct vm_page *pg = jumbo_page_at(machine->jumbo, m->m_data);

    CHECK_EQ(recv_flip(&m, u, 0, 4096, 0), 4096);
    CHECK(m == NULL);
    CHECK(u->page[0] == pg);
    CHECK_EQ(vm_page_state(pg), VPS_STOLEN);
    CHECK_EQ(pg->slot, VM_PAGE_NOSLOT); /* the KVA was recycled by jumbo_freem */
    all_of(u->base, 4096, 'a');
    CHECK_EQ(u->stats.pages_flipped, 1);
    CHECK_EQ(machine->arena->bytes_copied, 0);

    struct jumbo_stats s;

    jumbo_get_stats(machine->jumbo, &s);
    CHECK_EQ(s.in_use, 0);
    CHECK_EQ(s.away, 1); /* the user has it: the machine is not idle */
    CHECK_EQ(machine_idle(machine), -EBUSY);
    CHECK_EQ(machine_destroy(machine), -EBUSY);

    /* Unaligned, short, shared, held, peeked: copied, and the page goes back to the pool. */
    m = packet('b', 12, 4084);
    CHECK_EQ(recv_flip(&m, u, 4096, 8192, 0), 4084);
    CHECK_EQ(u->stats.unaligned, 1);
    m = packet('c', 0, 4096);
    CHECK_EQ(recv_flip(&m, u, 4096, 100, 0), 100);
    CHECK(m);
    CHECK_EQ(m->m_len, 3996);
    CHECK_EQ(m->m_pkthdr.len, 3996);
    all_of(u->base + 4096, 100, 'c');
    all_of(u->base + 4196, 3984, 'b');
    m_freem(m);
    m = packet('d', 0, 4096);
    struct mbuf *copy = m_copypacket(m, M_NOWAIT);

    CHECK_EQ(recv_flip(&m, u, 8192, 4096, 0), 4096);
    CHECK_EQ(u->stats.shared, 1);
    m_freem(copy);
    m = packet('e', 0, 4096);
    CHECK_EQ(recv_flip(&m, u, 12288, 4096, MSG_PEEK), 4096);
    CHECK(m);
    CHECK_EQ(u->stats.peeked, 1);
    pg = jumbo_page_at(machine->jumbo, m->m_data);
    vm_page_hold(pg);
    CHECK_EQ(recv_flip(&m, u, 12288, 4096, 0), 4096);
    CHECK_EQ(u->stats.shared, 2);
    CHECK_EQ(vm_page_state(pg), VPS_HELD);
    vm_page_unhold(pg);
    all_of(u->base + 12288, 4096, 'e');
    CHECK_EQ(u->stats.bytes_copied, 4084 + 100 + 3 * 4096);
    CHECK_EQ(machine->arena->bytes_copied, u->stats.bytes_copied);

    /* A flip onto a bound page returns the former one. */
    m = packet('f', 0, 4096);
    m->m_next = packet('g', 0, 4096);
    CHECK_EQ(recv_flip(&m, u, 4096, 8192, 0), 8192);
    all_of(u->base + 4096, 4096, 'f');
    all_of(u->base + 8192, 4096, 'g');
    CHECK_EQ(u->stats.pages_flipped, 3);
    all_of(u->base, 4096, 'a');

    CHECK_EQ(recv_flip(&m, u, 8 * 4096, 1, 0), -EINVAL);
    jumbo_get_stats(machine->jumbo, &s);
    CHECK_EQ(s.away, 4); /* three flipped, one copied to */
    user_area_destroy(u);
    CHECK_EQ(machine_idle(machine), 0);
    CHECK_EQ(machine_destroy(machine), 0);
    return 0;
}
