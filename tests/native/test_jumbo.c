/* SPDX-License-Identifier: BSD-2-Clause */
/* The jumbo pool: conservation, last in first out, and misuse that is named. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <harness/inspect.h>
#include "machine/machine.h"
#include "check.h"

#define SITE __builtin_return_address(0)
#define PAGES 256

/* Replaces the C library's: longer calls are interrupted, and finally memory runs out. */
static off_t interrupted = INT64_MAX;
static unsigned left = UINT_MAX;

int
fallocate(int fd, int mode, off_t off, off_t len)
{
    errno = EINTR;
    if (mode == 0 && len > interrupted)
        return -1;
    errno = ENOSPC;
    if (mode == 0 && left-- == 0)
        return -1;
    return (int)syscall(SYS_fallocate, fd, mode, off, len);
}

static struct machine *
make(bool strict, size_t max_pages)
{
    const struct machine_config mc = {.pages = PAGES, .max_pages = max_pages, .strict = strict};
    struct machine *m;

    CHECK_EQ(machine_create(&mc, &m), 0);
    return m;
}

static void
test_pool(bool strict)
{
    struct machine *mc = make(strict, 2 * PAGES);
    struct jumbo *j = mc->jumbo;
    struct vm_page *pg[2 * PAGES];
    struct jumbo_stats s;

    for (unsigned i = 0; i < 2 * PAGES; i++) {
        pg[i] = jumbo_alloc(j, SITE);
        CHECK(pg[i]);
        char *kva = jumbo_kva(j, pg[i]);

        CHECK(jumbo_page_at(j, kva) == pg[i]);
        CHECK_EQ(arena_region_at(mc->arena, kva), REGION_JUMBO);
        memset(kva, (int)i, PAGE_SIZE);
        if (!strict) /* the same memory by both addresses */
            CHECK_EQ(memcmp(kva, arena_kva(mc->arena, pg[i]), PAGE_SIZE), 0);
    }
    CHECK(jumbo_alloc(j, SITE) == NULL);
    jumbo_get_stats(j, &s);
    CHECK_EQ(s.total, 2 * PAGES);
    CHECK_EQ(s.in_use, 2 * PAGES);
    CHECK_EQ(s.refused, 1);
    CHECK_EQ(machine_destroy(mc), -EBUSY);
    for (unsigned i = 0; i < 2 * PAGES; i++)
        CHECK_EQ(jumbo_free(j, jumbo_kva(j, pg[i]), SITE), 0);
    for (unsigned i = 2 * PAGES; i > 2 * PAGES - 3; i--) /* last in, first out */
        CHECK(jumbo_alloc(j, SITE) == pg[i - 1]);
    for (unsigned i = 2 * PAGES; i > 2 * PAGES - 3; i--)
        CHECK_EQ(jumbo_free(j, jumbo_kva(j, pg[i - 1]), SITE), 0);
    CHECK_EQ(machine_destroy(mc), 0);
}

static long
blocks(const struct machine *mc)
{
    struct stat st;

    CHECK_EQ(fstat(mc->arena->memfd, &st), 0);
    return st.st_blocks;
}

/* Signals while memory is taken: it is taken in pieces, and given back when there is too little. */
static void
test_interrupted(void)
{
    struct machine *mc = make(false, 2 * PAGES);
    struct vm_page *pg[2 * PAGES];
    long before = blocks(mc);

    interrupted = 5 * PAGE_SIZE;
    for (unsigned i = 0; i < PAGES; i++)
        CHECK((pg[i] = jumbo_alloc(mc->jumbo, SITE)) != NULL);
    left = 3;
    CHECK(jumbo_alloc(mc->jumbo, SITE) == NULL);
    CHECK_EQ(blocks(mc), before);
    left = UINT_MAX;
    for (unsigned i = PAGES; i < 2 * PAGES; i++)
        CHECK((pg[i] = jumbo_alloc(mc->jumbo, SITE)) != NULL);
    CHECK_EQ(blocks(mc), before + PAGES * PAGE_SIZE / 512);
    interrupted = INT64_MAX;
    for (unsigned i = 0; i < 2 * PAGES; i++)
        CHECK_EQ(jumbo_free(mc->jumbo, jumbo_kva(mc->jumbo, pg[i]), SITE), 0);
    CHECK_EQ(machine_destroy(mc), 0);
}

static void
named(struct machine *mc, enum misuse_kind kind, uint64_t count)
{
    struct harness_misuse last;

    CHECK_EQ(mc->arena->misuse_count[kind], count);
    CHECK(arena_misuse_last(mc->arena, 0, &last));
    CHECK_EQ(last.kind, kind);
}

static void
test_misuse(bool strict)
{
    struct machine *mc = make(strict, PAGES);
    struct jumbo *j = mc->jumbo;
    struct vm_page *pg = jumbo_alloc(j, SITE);
    char *kva = jumbo_kva(j, pg);
    char local;

    CHECK_EQ(jumbo_free(j, kva + 1, SITE), -EINVAL);
    named(mc, MISUSE_FOREIGN_ADDRESS, 1);
    CHECK_EQ(jumbo_free(j, &local, SITE), -EINVAL);
    named(mc, MISUSE_FOREIGN_ADDRESS, 2);
    vm_page_turn(pg, VPS_POSTED, VPE_POST);
    CHECK_EQ(jumbo_free(j, kva, SITE), -EBUSY);
    named(mc, MISUSE_FREE_WHILE_POSTED, 1);
    vm_page_turn(pg, VPS_ALLOC, VPE_RECYCLE);
    CHECK_EQ(jumbo_free(j, kva, SITE), 0);
    CHECK_EQ(jumbo_free(j, kva, SITE), -EINVAL);
    named(mc, MISUSE_DOUBLE_FREE, 1);

    pg = jumbo_alloc(j, SITE);
    kva = jumbo_kva(j, pg);
    CHECK_EQ(jumbo_steal(j, pg, SITE), 0);
    CHECK_EQ(jumbo_free(j, kva, SITE), -EINVAL);
    named(mc, MISUSE_FREE_AFTER_STEAL, 1);
    vm_page_free(pg);
    vm_page_free(pg);
    named(mc, MISUSE_DOUBLE_FREE, 2);

    if (strict) {
        pg = jumbo_alloc(j, SITE);
        kva = jumbo_kva(j, pg);
        struct sf_buf *sf = sf_buf_alloc(pg, SFB_NOWAIT);

        CHECK(sf != NULL);
        CHECK_EQ(jumbo_free(j, kva, SITE), 0);
        ((char *)sf_buf_kva(sf))[100] = 1; /* a stale write, by a mapping that is live still */
        sf_buf_free(sf);
        CHECK(jumbo_alloc(j, SITE) == pg);
        named(mc, MISUSE_WRITE_AFTER_FREE, 1);
        CHECK_EQ(jumbo_free(j, kva, SITE), 0);
    }
    CHECK_EQ(machine_destroy(mc), 0);
}

/* A stolen page is not recycled either until its last hold is dropped. */
static void
test_hold_after_steal(void)
{
    struct machine *mc = make(false, PAGES);
    struct vm_page *pg = jumbo_alloc(mc->jumbo, SITE);
    char name[128];

    vm_page_hold(pg);
    CHECK_EQ(jumbo_steal(mc->jumbo, pg, SITE), 0);
    vm_page_free(pg);
    CHECK_EQ(vm_page_state(pg), VPS_HELD);
    struct vm_page *other = arena_pages_alloc(mc->arena, 1, VPS_ALLOC);

    CHECK(other != pg);
    CHECK_EQ(machine_idle(mc), -EBUSY);
    harness_site_name(pg->free_site, name, sizeof(name));
    CHECK(strchr(name, '+'));
    vm_page_unhold(pg);
    CHECK_EQ(vm_page_state(pg), VPS_FREE);
    arena_pages_free(mc->arena, other, 1);
    CHECK_EQ(machine_destroy(mc), 0);
}

static void
test_hold_and_steal(void)
{
    struct machine *mc = make(false, PAGES);
    struct jumbo *j = mc->jumbo;
    struct vm_page *pg = jumbo_alloc(j, SITE);
    char *kva = jumbo_kva(j, pg);
    struct jumbo_stats s;

    memset(kva, 'x', PAGE_SIZE);
    vm_page_hold(pg);
    CHECK_EQ(jumbo_free(j, kva, SITE), 0);
    CHECK_EQ(vm_page_state(pg), VPS_HELD);
    CHECK_EQ(jumbo_free(j, kva, SITE), -EINVAL);
    vm_page_unhold(pg);
    CHECK_EQ(vm_page_state(pg), VPS_FREE);

    /* Steal every page once: the slots are bound anew, the data of the stolen pages stay. */
    struct vm_page *stolen[PAGES];

    for (unsigned i = 0; i < PAGES; i++) {
        stolen[i] = jumbo_alloc(j, SITE);
        memset(jumbo_kva(j, stolen[i]), (int)i, PAGE_SIZE);
        CHECK_EQ(jumbo_steal(j, stolen[i], SITE), 0);
    }
    jumbo_get_stats(j, &s);
    CHECK_EQ(s.stolen, PAGES);
    CHECK_EQ(s.in_use, 0);
    pg = jumbo_alloc(j, SITE);
    CHECK(pg);
    memset(jumbo_kva(j, pg), 0xff, PAGE_SIZE);
    for (unsigned i = 0; i < PAGES; i++) {
        CHECK_EQ(((unsigned char *)arena_kva(mc->arena, stolen[i]))[77], i);
        vm_page_free(stolen[i]);
    }
    CHECK_EQ(jumbo_free(j, jumbo_kva(j, pg), SITE), 0);
    CHECK_EQ(machine_destroy(mc), 0);
}

/* One thread allocates, the other frees: pages find their way back in batches. */
#define PASSES 200000
static struct vm_page *slot[64];

static void *
freer(void *arg)
{
    struct jumbo *j = arg;

    for (unsigned i = 0; i < PASSES;) {
        struct vm_page *pg = __atomic_exchange_n(&slot[i % 64], NULL, __ATOMIC_ACQUIRE);

        if (pg == NULL) {
            sched_yield();
            continue;
        }
        CHECK_EQ(jumbo_free(j, jumbo_kva(j, pg), SITE), 0);
        i++;
    }
    return NULL;
}

static void
test_foreign_thread(void)
{
    struct machine *mc = make(false, 8192);
    struct jumbo *j = mc->jumbo;
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, freer, j), 0);
    for (unsigned i = 0; i < PASSES;) {
        if (__atomic_load_n(&slot[i % 64], __ATOMIC_RELAXED)) {
            sched_yield();
            continue;
        }
        struct vm_page *pg = jumbo_alloc(j, SITE);

        CHECK(pg);
        __atomic_store_n(&slot[i % 64], pg, __ATOMIC_RELEASE);
        i++;
    }
    pthread_join(thread, NULL);
    CHECK_EQ(machine_idle(mc), 0);
    CHECK_EQ(machine_destroy(mc), 0);
}

int
main(void)
{
    test_pool(false);
    test_pool(true);
    test_interrupted();
    test_misuse(false);
    test_misuse(true);
    test_hold_and_steal();
    test_hold_after_steal();
    test_foreign_thread();
    return 0;
}
