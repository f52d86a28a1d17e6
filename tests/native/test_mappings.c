/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vm.max_map_count is reached while mappings must be removed: nothing fails, all is counted, and it
 * is made up for later.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "machine/machine.h"
#include "check.h"

#define SITE __builtin_return_address(0)
#define PAGES 16

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static uint8_t *fence;
static size_t fence_bytes;

/* exhaust() - make mappings until the kernel refuses one: every second page read-only */
static void
exhaust(void)
{
    FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
    size_t most = 0;

    CHECK(f && fscanf(f, "%zu", &most) == 1);
    fclose(f);
    if (most > 300000)
        SKIP("vm.max_map_count is %zu: too many to make", most);
    fence_bytes = 2 * PAGE_SIZE * (most + 64);
    fence = mmap(NULL, fence_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(fence != MAP_FAILED);
    for (size_t i = 0; i < most + 64; i++) {
        if (mprotect(fence + 2 * i * PAGE_SIZE, PAGE_SIZE, PROT_READ) < 0) {
            CHECK_EQ(errno, ENOMEM);
            return;
        }
    }
    SKIP("mappings are not counted here");
}

/* relent() - @n mappings may be made again */
static void
relent(size_t n)
{
    CHECK_EQ(mprotect(fence, 2 * n * PAGE_SIZE, PROT_NONE), 0);
}

static void
restore(void)
{
    munmap(fence, fence_bytes);
}

/* faults() - would an access to @addr fault? The kernel tries it. */
static bool
faults(const void *addr)
{
    char byte;
    struct iovec to = {&byte, 1}, from = {(void *)(uintptr_t)addr, 1};

    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) != 1;
}

static struct machine *
make(void)
{
    const struct machine_config config = {.pages = PAGES, .npbufs = 4, .strict = true};
    struct machine *mc;

    CHECK_EQ(machine_create(&config, &mc), 0);
    return mc;
}

static uint64_t
refused(struct machine *mc)
{
    return atomic_load(&mc->arena->unmaps_refused);
}

static size_t
stale(struct machine *mc)
{
    return atomic_load(&mc->arena->stale_bytes);
}

/* A page is stolen from the midst of the pool, and the address it had should fault from then on. */
static void
test_steal(void)
{
    struct machine *mc = make();
    struct jumbo *j = mc->jumbo;
    struct vm_page *pg[PAGES];
    uint8_t *kva[PAGES];

    for (int i = 0; i < PAGES; i++) {
        pg[i] = jumbo_alloc(j, SITE);
        kva[i] = jumbo_kva(j, pg[i]);
        kva[i][0] = (uint8_t)i;
    }
    exhaust();
    CHECK_EQ(jumbo_steal(j, pg[5], SITE), 0);
    CHECK_EQ(jumbo_steal(j, pg[9], SITE), 0);
    CHECK_EQ(refused(mc), 2);
    CHECK_EQ(stale(mc), 2 * PAGE_SIZE);
    CHECK(!faults(kva[5]) && !faults(kva[9]));

    /* Room for what the next one needs, and for one of those that wait. */
    relent(2);
    CHECK_EQ(jumbo_steal(j, pg[12], SITE), 0);
    CHECK(faults(kva[12]));
    CHECK_EQ(refused(mc), 2);
    CHECK_EQ(stale(mc), PAGE_SIZE);
    CHECK(faults(kva[5]) != faults(kva[9]));
    restore();

    /* A page that is bound to a slot that waits stays there. */
    const int slots[] = {5, 9, 12};

    for (int i = 0; i < 3; i++) {
        struct vm_page *m = jumbo_alloc(j, SITE);

        CHECK(m && m != pg[5] && m != pg[9] && m != pg[12]);
        kva[i] = jumbo_kva(j, m);
        kva[i][0] = 77;
        vm_page_free(pg[slots[i]]);
        pg[slots[i]] = m;
    }
    CHECK_EQ(stale(mc), 0);
    CHECK_EQ(jumbo_steal(j, pg[15], SITE), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(kva[i][0], 77);
    vm_page_free(pg[15]);
    for (int i = 0; i < PAGES - 1; i++)
        CHECK_EQ(jumbo_free(j, jumbo_kva(j, pg[i]), SITE), 0);
    CHECK_EQ(machine_destroy(mc), 0);
}

/* Handles for consecutive pages are one mapping: the middle one is freed. */
static void
test_lwbuf(void)
{
    struct machine *mc = make();
    struct vm_page *pg = arena_pages_alloc(mc->arena, 3, VPS_STOLEN);
    struct lwbuf *lwb[3], unused;
    vm_offset_t kva[3];
    struct lwbuf_stats s;

    /* Handles come in descending order. */
    for (int i = 0; i < 3; i++) {
        lwb[i] = lwbuf_alloc(&pg[2 - i], &unused);
        CHECK(lwb[i]);
        kva[i] = lwbuf_kva(lwb[i]);
        CHECK_EQ(kva[i], kva[0] - (size_t)i * PAGE_SIZE);
    }
    exhaust();
    lwbuf_free(lwb[1]);
    CHECK_EQ(refused(mc), 1);
    CHECK_EQ(stale(mc), PAGE_SIZE);
    CHECK(!faults((void *)kva[1]));
    lwbuf_get_stats(mc->lwbufs, &s);
    CHECK_EQ(s.count, 2);
    restore();
    lwbuf_free(lwb[0]);
    CHECK_EQ(stale(mc), 0);
    CHECK(faults((void *)kva[0]) && faults((void *)kva[1]) && !faults((void *)kva[2]));
    lwbuf_free(lwb[2]);
    CHECK_EQ(machine_idle(mc), -EBUSY);
    arena_pages_free(mc->arena, pg, 3);
    CHECK_EQ(machine_destroy(mc), 0);
}

static struct buf *got;

/* A thread that was made while it could be, and goes on when the gate is opened. */
static void *
getter(void *arg)
{
    struct machine *mc = arg;
    struct buf *bp;

    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    bp = pbuf_get(mc->pbufs, NULL, SITE);
    __atomic_store_n(&got, bp, __ATOMIC_RELEASE);
    return NULL;
}

/* A window that cannot be mapped is not handed out: trypbuf() refuses, getpbuf() waits. */
static void
test_pbuf(void)
{
    struct machine *mc = make();
    struct buf *b[2];
    struct pbuf_stats s;
    pthread_t thread;
    int count = 4;

    pthread_mutex_lock(&gate);
    CHECK_EQ(pthread_create(&thread, NULL, getter, mc), 0);
    /* The next window to be mapped lies within a mapping of nothing: to be cut in three. */
    for (int i = 0; i < 2; i++)
        b[i] = pbuf_get(mc->pbufs, &count, SITE);
    CHECK_EQ(pbuf_rel(mc->pbufs, b[1], &count, SITE), 0);
    CHECK_EQ(pbuf_rel(mc->pbufs, b[0], &count, SITE), 0);
    CHECK_EQ(count, 4);
    exhaust();
    CHECK(pbuf_try(mc->pbufs, &count, SITE) == NULL);
    CHECK(pbuf_try(mc->pbufs, NULL, SITE) == NULL);
    CHECK_EQ(count, 4);
    pbuf_get_stats(mc->pbufs, &s);
    CHECK_EQ(s.refused, 2);
    CHECK_EQ(s.outstanding, 0);
    CHECK_EQ(s.free, 4);

    pthread_mutex_unlock(&gate);
    do { /* it has tried, too */
        sched_yield();
        pbuf_get_stats(mc->pbufs, &s);
    } while (s.refused < 4);
    CHECK(__atomic_load_n(&got, __ATOMIC_ACQUIRE) == NULL);
    restore();
    pthread_join(thread, NULL);
    CHECK(got && !faults(got->b_kvabase));
    CHECK_EQ(pbuf_rel(mc->pbufs, got, NULL, SITE), 0);
    CHECK(faults(got->b_kvabase));
    pbuf_get_stats(mc->pbufs, &s);
    CHECK_EQ(s.outstanding, 0);
    CHECK_EQ(s.free, 4);
    CHECK_EQ(stale(mc), 0);
    CHECK_EQ(machine_destroy(mc), 0);
}

int
main(void)
{
#ifdef __SANITIZE_THREAD__
    SKIP("ThreadSanitizer needs mappings itself, and ends the program without");
#endif
    test_steal();
    test_lwbuf();
    test_pbuf();
    return 0;
}
