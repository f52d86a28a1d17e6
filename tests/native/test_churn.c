/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ten million random allocations, frees, steals and flips end where they began: nothing
 * outstanding, no page in two places, every byte unchanged by others, and the resident set within 1
 * MiB.
 */
#include <string.h>

#include "machine/machine.h"
#include "check.h"
#include "mbuf/flip.h"

#define SITE __builtin_return_address(0)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OPERATIONS 200000u
#else
#define OPERATIONS 10000000u
#endif

#define POOL 1024
#define LIVE 512
#define STOLEN 64
#define AREA 64

static struct machine *mc;
static struct vm_page *live[LIVE], *stolen[STOLEN];
static uint64_t live_mark[LIVE], stolen_mark[STOLEN], area_mark[AREA];
static unsigned nlive, nstolen;
static struct user_area *area;
static uint64_t seed = 0x243f6a8885a308d3;
static uint64_t marks;

static uint64_t
draw(uint64_t below)
{
    seed ^= seed << 13; /* xorshift64 */
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

/* mark() and marked() - the first and the last word of a page say whose it is */
static void
mark(char *kva, uint64_t value)
{
    memcpy(kva, &value, sizeof(value));
    memcpy(kva + PAGE_SIZE - sizeof(value), &value, sizeof(value));
}

static void
marked(const char *kva, uint64_t value)
{
    uint64_t first, last;

    memcpy(&first, kva, sizeof(first));
    memcpy(&last, kva + PAGE_SIZE - sizeof(last), sizeof(last));
    CHECK_EQ(first, value);
    CHECK_EQ(last, value);
}

static void
alloc_one(void)
{
    struct vm_page *pg = jumbo_alloc(mc->jumbo, SITE);

    CHECK(pg);
    live[nlive] = pg;
    live_mark[nlive] = ++marks;
    mark(jumbo_kva(mc->jumbo, pg), marks);
    nlive++;
}

/* take() - a random live page leaves the list; its mark */
static struct vm_page *
take(uint64_t *value)
{
    unsigned i = (unsigned)draw(nlive);
    struct vm_page *pg = live[i];

    *value = live_mark[i];
    marked(jumbo_kva(mc->jumbo, pg), *value);
    nlive--;
    live[i] = live[nlive];
    live_mark[i] = live_mark[nlive];
    return pg;
}

static void
free_one(void)
{
    uint64_t value;
    struct vm_page *pg = take(&value);

    CHECK_EQ(jumbo_free(mc->jumbo, jumbo_kva(mc->jumbo, pg), SITE), 0);
}

static void
free_stolen(void)
{
    unsigned i = (unsigned)draw(nstolen);

    marked(arena_kva(mc->arena, stolen[i]), stolen_mark[i]);
    vm_page_free(stolen[i]);
    nstolen--;
    stolen[i] = stolen[nstolen];
    stolen_mark[i] = stolen_mark[nstolen];
}

static void
steal_one(void)
{
    if (nstolen == STOLEN)
        free_stolen();
    stolen[nstolen] = take(&stolen_mark[nstolen]);
    CHECK_EQ(jumbo_steal(mc->jumbo, stolen[nstolen], SITE), 0);
    nstolen++;
}

/* receive_one() - a page by way of an mbuf into the user's area; shared storage is copied instead */
static void
receive_one(void)
{
    uint64_t value;
    struct vm_page *pg = take(&value);
    struct mbuf *m = mb_gethdr(mc->mbufs), *copy = NULL;
    unsigned at = (unsigned)draw(AREA);

    CHECK(m);
    CHECK_EQ(m_extadd(m, jumbo_kva(mc->jumbo, pg), PAGE_SIZE, jumbo_freem, NULL, 0, EXT_JUMBOP), 0);
    m->m_len = m->m_pkthdr.len = (int)PAGE_SIZE;
    if (draw(4) == 0)
        copy = m_copypacket(m, M_NOWAIT);
    CHECK_EQ(recv_flip(&m, area, (size_t)at << PAGE_SHIFT, PAGE_SIZE, 0), (ssize_t)PAGE_SIZE);
    CHECK(m == NULL);
    m_freem(copy);
    area_mark[at] = value;
    marked((const char *)area->base + ((size_t)at << PAGE_SHIFT), value);
    at = (unsigned)draw(AREA);
    if (area_mark[at])
        marked((const char *)area->base + ((size_t)at << PAGE_SHIFT), area_mark[at]);
}

static void
churn(unsigned operations)
{
    for (unsigned i = 0; i < operations; i++) {
        unsigned what = (unsigned)draw(100);

        if (nlive == 0 || (what < 44 && nlive < LIVE))
            alloc_one();
        else if (what < 88)
            free_one();
        else if (what < 93)
            steal_one();
        else if (what < 97)
            receive_one();
        else if (nstolen)
            free_stolen();
    }
}

/* settle() - everything goes back */
static void
settle(void)
{
    struct jumbo_stats j;
    struct mbuf_stats b;

    while (nlive)
        free_one();
    while (nstolen)
        free_stolen();
    jumbo_get_stats(mc->jumbo, &j);
    mbuf_zone_get_stats(mc->mbufs, &b);
    CHECK_EQ(j.in_use, 0);
    CHECK_EQ(b.in_use, 0);
    CHECK_EQ(mc->arena->misuse_total, 0);
    /* Only what lies in the user's area is still out. */
    size_t received = 0;

    for (unsigned i = 0; i < AREA; i++)
        received += area->page[i] != NULL;
    CHECK_EQ(j.away, received);
}

/* resident() - the resident set, bytes, exact */
static long
resident(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    long kib = -1;

    CHECK(f);
    while (kib < 0 && fgets(line, sizeof(line), f))
        (void)sscanf(line, "Rss: %ld", &kib);
    fclose(f);
    CHECK(kib > 0);
    return kib * 1024;
}

int
main(void)
{
    const struct machine_config config = {.pages = POOL};

    CHECK_EQ(machine_create(&config, &mc), 0);
    CHECK_EQ(user_area_create(mc->arena, AREA, &area), 0);
    /* From here on, all memory that the test ever uses at once exists. */
    churn(OPERATIONS / 20);
    settle();
    long before = resident();
    size_t pages = mc->arena->npages;

    churn(OPERATIONS);
    settle();
    long grown = resident() - before;

    CHECK(mc->arena->npages - pages <= 256);
    CHECK(area->stats.pages_flipped > OPERATIONS / 200);
    CHECK(area->stats.shared > OPERATIONS / 1000);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* these sets grow anyway */
    if (grown > 1 << 20 || grown < -(1 << 20))
        CHECK_FAIL("the resident set changed by %ld bytes", grown);
#else
    (void)grown;
#endif
    user_area_destroy(area);
    CHECK_EQ(machine_idle(mc), 0);
    for (size_t i = 0; i < mc->arena->npages; i++) { /* no page is in use */
        enum vm_page_state state = vm_page_state(&mc->arena->pages[i]);

        CHECK(state == VPS_FREE || state == VPS_KMEM);
    }
    CHECK_EQ(machine_destroy(mc), 0);
    return 0;
}
