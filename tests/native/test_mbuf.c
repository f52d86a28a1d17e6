/* SPDX-License-Identifier: BSD-2-Clause */
/* Chains against a flat model: every operation keeps the bytes, the lengths and the callback count. */
#include <stdint.h>
#include <string.h>

#include "machine/machine.h"
#include "check.h"

static struct machine *machine;
static unsigned frees;

static void
count_free(caddr_t buf, void *args)
{
    (void)buf;
    (*(unsigned *)args)++;
}

static uint32_t seed = 1;

static uint32_t
rnd(uint32_t below)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)seed * below) >> 32);
}

#define LEN 3000
static char model[LEN];
static char store[LEN];

/* A packet of LEN bytes, some in external storage (a window of store), some in line. */
static struct mbuf *
make(unsigned *exts)
{
    struct mbuf *top = mb_gethdr(machine->mbufs);
    struct mbuf *m = top;
    int off = 0;

    memcpy(store, model, LEN);
    for (;;) {
        int n = 1 + (int)rnd(400);

        n = n < LEN - off ? n : LEN - off;
        if (rnd(2)) {
            CHECK_EQ(m_extadd(m, store + off, (unsigned)n, count_free, &frees, 0, EXT_MOD_TYPE), 0);
            m->m_len = n;
            (*exts)++;
        } else {
            n = n < m_trailingspace(m) ? n : m_trailingspace(m);
            memcpy(m->m_data, model + off, (size_t)n);
            m->m_len = n;
        }
        off += n;
        if (off == LEN)
            break;
        m->m_next = mb_get(machine->mbufs);
        m = m->m_next;
    }
    top->m_pkthdr.len = LEN;
    return top;
}

static void
same(struct mbuf *m, int from, int len)
{
    char got[LEN];

    CHECK_EQ(mb_check(m), 0);
    CHECK_EQ(m_length(m, NULL), len);
    CHECK_EQ(m_copydata(m, 0, len, got), 0);
    CHECK_EQ(m_copydata(m, 0, len + 1, got), -EINVAL);
    CHECK_EQ(memcmp(got, model + from, (size_t)len), 0);
}

static void
one_round(void)
{
    unsigned exts = 0;
    struct mbuf *m = make(&exts);
    struct mbuf *copy[4];
    int at[4], len[4];

    frees = 0;
    same(m, 0, LEN);
    for (int i = 0; i < 4; i++) {
        at[i] = (int)rnd(LEN);
        len[i] = (int)rnd((uint32_t)(LEN - at[i])) + 1;
        copy[i] = m_copym(m, at[i], len[i], M_NOWAIT);
        CHECK(copy[i]);
        same(copy[i], at[i], len[i]);
    }
    CHECK(m_copym(m, LEN - 5, 6, M_NOWAIT) == NULL);
    CHECK(m_copym(m, -1, 1, M_NOWAIT) == NULL);

    int cut = (int)rnd(LEN + 1);
    struct mbuf *tail = m_split(m, cut, M_NOWAIT);

    CHECK(tail);
    same(m, 0, cut);
    same(tail, cut, LEN - cut);
    int front = (int)rnd((uint32_t)(LEN - cut + 1));
    int back = (int)rnd((uint32_t)(LEN - cut - front + 1));

    m_adj(tail, front);
    m_adj(tail, -back);
    same(tail, cut + front, LEN - cut - front - back);
    m_freem(m);
    CHECK(frees <= exts);
    int pull = LEN - cut - front - back < MHLEN ? LEN - cut - front - back : MHLEN;

    tail = m_pullup(tail, pull);
    CHECK(tail);
    CHECK(tail->m_len >= pull);
    same(tail, cut + front, LEN - cut - front - back);
    tail = m_prepend(tail, 14, M_NOWAIT);
    CHECK(tail);
    CHECK_EQ(mb_check(tail), 0);
    m_adj(tail, 14);
    m_freem(tail);
    for (int i = 3; i >= 0; i--) {
        same(copy[i], at[i], len[i]);
        m_freem(copy[i]);
    }
    CHECK_EQ(frees, exts);
}

static void
test_writable(void)
{
    struct mbuf *m = mb_gethdr(machine->mbufs);

    frees = 0;
    CHECK_EQ(m_extadd(m, store, LEN, count_free, &frees, M_RDONLY, EXT_SFBUF), 0);
    CHECK_EQ(m_extadd(m, store, LEN, count_free, &frees, 0, EXT_SFBUF), -EINVAL);
    m->m_len = m->m_pkthdr.len = LEN;
    CHECK_EQ(m_writable(m), 0);
    struct mbuf *c = m_copypacket(m, M_NOWAIT);

    CHECK(c);
    m_freem(m); /* the first owner goes before its copy */
    CHECK_EQ(frees, 0);
    CHECK_EQ(m_writable(c), 0); /* read-only is inherited */
    m_freem(c);
    CHECK_EQ(frees, 1);

    m = mb_get(machine->mbufs);
    CHECK_EQ(m_extadd(m, store, LEN, count_free, &frees, 0, EXT_MOD_TYPE), 0);
    m->m_len = LEN;
    CHECK_EQ(m_writable(m), 1);
    c = m_copym(m, 0, LEN, M_NOWAIT);
    CHECK_EQ(m_writable(m), 0); /* shared */
    m_freem(c);
    CHECK_EQ(m_writable(m), 1);
    m_freem(m);
    CHECK_EQ(frees, 2);
}

static void
test_double_free(void)
{
    struct mbuf *m = mb_get(machine->mbufs);

    m_free(m);
    CHECK(m_free(m) == NULL);
    CHECK_EQ(machine->arena->misuse_count[MISUSE_DOUBLE_FREE], 1);
    CHECK_EQ(machine_idle(machine), 0);
}

static void
test_exhaustion(void)
{
    static struct mbuf *all[1024];
    const struct machine_config mc = {.pages = 16, .max_mbufs = 512};
    struct machine *small;
    unsigned n = 0;

    CHECK_EQ(machine_create(&mc, &small), 0);
    while ((all[n] = mb_get(small->mbufs)) != NULL)
        n++;
    CHECK_EQ(n, 512);
    struct mbuf_stats s;

    mbuf_zone_get_stats(small->mbufs, &s);
    CHECK_EQ(s.refused, 1);
    CHECK_EQ(machine_destroy(small), -EBUSY);
    while (n > 0)
        m_free(all[--n]);
    CHECK_EQ(machine_destroy(small), 0);
}

int
main(void)
{
    const struct machine_config mc = {.pages = 64};

    CHECK_EQ(machine_create(&mc, &machine), 0);
    for (int i = 0; i < LEN; i++)
        model[i] = (char)rnd(256);
    for (int i = 0; i < 2000; i++)
        one_round();
    test_writable();
    test_double_free();
    test_exhaustion();
    CHECK_EQ(machine_destroy(machine), 0);
    return 0;
}
