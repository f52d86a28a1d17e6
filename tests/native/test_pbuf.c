/* SPDX-License-Identifier: BSD-2-Clause */
/* pbuf(9): against a model step by step, then with threads that sleep and wake each other. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <sys/buf.h>

#include "machine/machine.h"
#include "check.h"

#define SITE __builtin_return_address(0)
#define NBUF 16

static struct machine *machine;
static struct pbuf_pool *pool;

static void
set_up(unsigned n, bool strict)
{
    const struct machine_config mc = {.pages = 64, .npbufs = n, .strict = strict};

    CHECK_EQ(machine_create(&mc, &machine), 0);
    pool = machine->pbufs;
}

static struct pbuf_stats
stats(void)
{
    struct pbuf_stats s;

    pbuf_get_stats(pool, &s);
    CHECK_EQ(s.free + s.outstanding, s.total);
    CHECK(s.backed <= s.total);
    return s;
}

static void
tear_down(uint64_t misuse)
{
    CHECK_EQ(stats().outstanding, 0);
    CHECK_EQ(machine->arena->misuse_total, misuse);
    CHECK_EQ(machine_idle(machine), 0);
    CHECK_EQ(machine_destroy(machine), 0);
}

static uint64_t random_state = 1;

static uint32_t
random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

/* Nothing is left of the last user: every field that was written is reset. */
static void
check_fresh(const struct buf *bp)
{
    struct buf want;

    memset(&want, 0, sizeof(want));
    want.b_data = bp->b_kvabase;
    want.b_bufsize = MAXPHYS;
    CHECK_EQ(bp->b_kvasize, MAXPHYS);
    CHECK_EQ((uintptr_t)bp->b_kvabase % PAGE_SIZE, 0);
    CHECK(memcmp(bp, &want, offsetof(struct buf, b_kvabase)) == 0);
}

static void
soil(struct buf *bp)
{
    memset(bp, 0xa5, offsetof(struct buf, b_kvabase));
    bp->b_rcred = bp->b_wcred = NOCRED;
    memset(bp->b_kvabase, 0x5a, MAXPHYS);
}

/* One thread, three counters, no call that would sleep: every result is predicted. */
static void
test_model(bool strict)
{
    int counter[3] = {3, 7, -1};
    int model_counter[3] = {3, 7, -1};
    struct {
        struct buf *bp;
        int counter;
    } held[NBUF];
    struct buf *released[4096]; /* what LIFO says comes next, on top */
    unsigned nheld = 0;
    unsigned nreleased = 0;

    set_up(NBUF, strict);
    for (int step = 0; step < 100000; step++) {
        unsigned c = random_below(4); /* 3: no counter */
        int *pfreecnt = c < 3 ? &counter[c] : NULL;
        bool can = nheld < NBUF && (c == 3 || model_counter[c] != 0);

        if (nheld == 0 || random_below(2)) {
            struct buf *bp;

            if (can && random_below(2))
                bp = pbuf_get(pool, pfreecnt, SITE);
            else
                bp = pbuf_try(pool, pfreecnt, SITE);
            CHECK_EQ(bp != NULL, can);
            if (bp) {
                check_fresh(bp);
                if (nreleased)
                    CHECK(bp == released[--nreleased]);
                for (unsigned i = 0; i < nheld; i++)
                    CHECK(held[i].bp != bp);
                if (step % 64 == 0)
                    soil(bp);
                else
                    bp->b_flags = 77;
                held[nheld].bp = bp;
                held[nheld++].counter = (int)c;
                if (c < 2)
                    model_counter[c]--;
            }
        } else {
            unsigned i = random_below(nheld);
            int k = held[i].counter;

            CHECK_EQ(pbuf_rel(pool, held[i].bp, k < 3 ? &counter[k] : NULL, SITE), 0);
            released[nreleased++] = held[i].bp;
            if (k < 2)
                model_counter[k]++;
            held[i] = held[--nheld];
        }
        CHECK(memcmp(counter, model_counter, sizeof(counter)) == 0);
        CHECK_EQ(stats().outstanding, nheld);
    }
    while (nheld > 0) {
        int k = held[--nheld].counter;

        pbuf_rel(pool, held[nheld].bp, k < 3 ? &counter[k] : NULL, SITE);
    }
    CHECK_EQ(counter[0], 3);
    CHECK_EQ(counter[1], 7);
    CHECK_EQ(counter[2], -1);
    tear_down(0);
}

/* Windows do not overlap and take memory only when they are first handed out. */
static void
test_windows(void)
{
    struct buf *bp[NBUF];
    size_t kmem;

    set_up(NBUF, false);
    kmem = machine->arena->kmem_pages;
    for (int round = 0; round < 100; round++) {
        bp[0] = pbuf_get(pool, NULL, SITE);
        pbuf_rel(pool, bp[0], NULL, SITE);
    }
    CHECK_EQ(stats().backed, 1);
    CHECK_EQ(machine->arena->kmem_pages - kmem, MAXPHYS / PAGE_SIZE);
    for (int i = 0; i < NBUF; i++) {
        bp[i] = pbuf_get(pool, NULL, SITE);
        memset(bp[i]->b_data, i, MAXPHYS);
        CHECK(pbuf_of(pool, bp[i]->b_data + MAXPHYS - 1) == bp[i]);
        CHECK(pbuf_pool_at(bp[i]) == pool);
        CHECK(pbuf_pool_at(bp[i]->b_data) == pool);
    }
    for (int i = 0; i < NBUF; i++) {
        for (int k = 0; k < MAXPHYS; k++)
            CHECK_EQ(bp[i]->b_data[k], i);
    }
    CHECK(pbuf_try(pool, NULL, SITE) == NULL);
    CHECK_EQ(machine_idle(machine), -EBUSY);
    CHECK_EQ(machine_destroy(machine), -EBUSY);
    for (int i = 0; i < NBUF; i++)
        pbuf_rel(pool, bp[i], NULL, SITE);
    CHECK(pbuf_pool_at(&kmem) == NULL);
    tear_down(0);
}

static void
test_credentials(void)
{
    struct ucred *cr = crget();
    struct buf *bp;

    set_up(NBUF, false);
    CHECK_EQ(cr->uid, geteuid());
    CHECK(!crshared(cr));
    for (int i = 0; i < 10; i++) {
        bp = pbuf_get(pool, NULL, SITE);
        bp->b_rcred = crhold(cr);
        bp->b_wcred = i % 2 ? crhold(cr) : FSCRED;
        CHECK(crshared(cr));
        pbuf_rel(pool, bp, NULL, SITE);
        CHECK(!crshared(cr));
    }
    crfree(cr); /* the last one: LeakSanitizer would tell, and AddressSanitizer of one too many */
    tear_down(0);
}

/* Anything but a buffer in use is refused and reported, and changes nothing. */
static void
test_misuse(void)
{
    int counter = 2;
    struct buf other = {0};
    struct buf *bp;
    struct harness_misuse m;

    set_up(NBUF, false);
    bp = pbuf_get(pool, &counter, SITE);
    CHECK_EQ(pbuf_rel(pool, &other, &counter, SITE), -EINVAL);
    CHECK(arena_misuse_last(machine->arena, 0, &m));
    CHECK_EQ(m.kind, MISUSE_FOREIGN_ADDRESS);
    CHECK_EQ(pbuf_rel(pool, (struct buf *)(void *)((char *)bp + 8), &counter, SITE), -EINVAL);
    CHECK_EQ(counter, 1);
    CHECK_EQ(pbuf_rel(pool, bp, &counter, SITE), 0);
    CHECK_EQ(pbuf_rel(pool, bp, &counter, SITE), -EINVAL);
    CHECK(arena_misuse_last(machine->arena, 2, &m));
    CHECK_EQ(m.kind, MISUSE_DOUBLE_FREE);
    CHECK_EQ(counter, 2);
    CHECK_EQ(stats().outstanding, 0);
    tear_down(3);
}

static sigjmp_buf fault;

static void
on_fault(int sig)
{
    (void)sig;
    siglongjmp(fault, 1);
}

/* strict: a window is inaccessible while its buffer is free, and its bytes are back afterwards. */
static void
test_strict(void)
{
    volatile int faults = 0;
    struct buf *bp;
    char *volatile kva;

    set_up(NBUF, true);
    bp = pbuf_get(pool, NULL, SITE);
    kva = bp->b_data;
    kva[5] = 1;
    pbuf_rel(pool, bp, NULL, SITE);
    signal(SIGSEGV, on_fault);
    if (sigsetjmp(fault, 1) == 0)
        kva[5] = 2;
    else
        faults++;
    signal(SIGSEGV, SIG_DFL);
    CHECK_EQ(faults, 1);
    CHECK(pbuf_get(pool, NULL, SITE) == bp);
    CHECK_EQ(kva[5], 1);
    pbuf_rel(pool, bp, NULL, SITE);
    tear_down(0);
}

/* ---- threads ---- */

#define THREADS 6
#define ROUNDS 4000

static int shared[2];        /* two counters, three threads each */
static uint32_t holders[2];  /* buffers held on each */
static uint32_t owner[NBUF]; /* of each buffer: at most one thread */
static struct buf *first_buf;
static atomic_int done;

static void *
user(void *arg)
{
    unsigned id = (unsigned)(uintptr_t)arg;
    unsigned c = id % 2;
    uint64_t seed = id + 1;
    const uint32_t limit = c ? 5 : 2;

    for (int i = 0; i < ROUNDS; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        bool wait = seed >> 60 & 1;
        struct buf *bp = wait ? pbuf_get(pool, &shared[c], SITE) : pbuf_try(pool, &shared[c], SITE);

        if (bp == NULL) {
            CHECK(!wait);
            continue;
        }
        uint32_t n = pbuf_of(pool, bp->b_data) - first_buf;

        CHECK_EQ(__atomic_fetch_add(&owner[n], 1, __ATOMIC_RELAXED), 0);
        CHECK(__atomic_add_fetch(&holders[c], 1, __ATOMIC_RELAXED) <= limit);
        CHECK(__atomic_load_n(&shared[c], __ATOMIC_RELAXED) >= 0);
        bp->b_bcount = id;
        bp->b_data[id] = (char)i;
        if (seed >> 61 & 1)
            sched_yield();
        CHECK_EQ(bp->b_bcount, id);
        __atomic_fetch_sub(&holders[c], 1, __ATOMIC_RELAXED);
        __atomic_fetch_sub(&owner[n], 1, __ATOMIC_RELAXED);
        pbuf_rel(pool, bp, &shared[c], SITE);
    }
    atomic_fetch_add(&done, 1);
    return NULL;
}

/* Fewer buffers than users, and even smaller counters: no thread sleeps for ever. */
static void
test_threads(unsigned n)
{
    pthread_t thread[THREADS];

    set_up(n, false);
    shared[0] = 2;
    shared[1] = 5;
    first_buf = pbuf_of(pool, machine->arena->region_base[REGION_PBUF]);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, user, (void *)i), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    CHECK_EQ(shared[0], 2);
    CHECK_EQ(shared[1], 5);
    tear_down(0);
}

struct sleeper {
    int *pfreecnt;
    struct buf *bp;
    atomic_bool got;
};

static void *
sleeper(void *arg)
{
    struct sleeper *s = arg;

    s->bp = pbuf_get(pool, s->pfreecnt, SITE);
    atomic_store(&s->got, true);
    return NULL;
}

static void
wait_for_sleepers(uint64_t n)
{
    for (int i = 0; i < 10000; i++) {
        struct pbuf_stats s = stats();

        if (s.counter_waits + s.pool_waits >= n)
            return;
        usleep(1000);
    }
    CHECK_FAIL("nobody went to sleep");
}

static void
ignore(int sig)
{
    (void)sig;
}

/*
 * A sleeper for the pool has no place on its counter: another user of that counter may take it
 * meanwhile, and the sleeper then waits for the counter. Signals do not end a sleep.
 */
static void
test_sleep(void)
{
    struct sigaction sa = {.sa_handler = ignore}; /* no SA_RESTART */
    int counter = 1;
    int none = 0;
    struct sleeper a = {.pfreecnt = &counter}, b = {.pfreecnt = &none};
    struct buf *bp[2];
    pthread_t ta, tb;

    sigaction(SIGUSR1, &sa, NULL);
    set_up(2, false);
    bp[0] = pbuf_get(pool, NULL, SITE);
    bp[1] = pbuf_get(pool, NULL, SITE);
    CHECK_EQ(pthread_create(&ta, NULL, sleeper, &a), 0);
    wait_for_sleepers(1);
    CHECK_EQ(__atomic_load_n(&counter, __ATOMIC_RELAXED), 1);
    CHECK_EQ(pthread_create(&tb, NULL, sleeper, &b), 0);
    wait_for_sleepers(2);
    CHECK_EQ(stats().pool_waits, 1);
    CHECK_EQ(stats().counter_waits, 1);
    for (int i = 0; i < 20; i++) {
        pthread_kill(ta, SIGUSR1);
        pthread_kill(tb, SIGUSR1);
        usleep(500);
    }
    CHECK(!atomic_load(&a.got));
    CHECK(!atomic_load(&b.got));
    CHECK(pbuf_try(pool, &counter, SITE) == NULL);
    CHECK_EQ(__atomic_load_n(&counter, __ATOMIC_RELAXED), 1);
    pbuf_rel(pool, bp[0], NULL, SITE);
    pthread_join(ta, NULL);
    CHECK(a.bp == bp[0]);
    CHECK_EQ(counter, 0);
    /* A free buffer is of no use to b, whose counter is 0. */
    pbuf_rel(pool, bp[1], NULL, SITE);
    usleep(2000);
    CHECK(!atomic_load(&b.got));
    /* It is the release with that counter that lets it go on. */
    pbuf_rel(pool, a.bp, &none, SITE);
    pthread_join(tb, NULL);
    CHECK(b.bp != NULL);
    CHECK_EQ(none, 0);
    pbuf_rel(pool, b.bp, &none, SITE);
    tear_down(0);
}

/* No memory for one more window: a try is refused, a sleeper gets the next that is released. */
static void
test_no_memory(void)
{
    const struct machine_config mc = {.pages = 64, .npbufs = NBUF};
    struct sleeper s = {0};
    struct vm_page *hog = NULL, *next;
    struct buf *bp;
    pthread_t thread;

    CHECK_EQ(machine_create(&mc, &machine), 0);
    pool = machine->pbufs;
    bp = pbuf_get(pool, NULL, SITE);
    for (size_t run = 4096; run > 0; run /= 2) {
        while ((next = arena_pages_alloc(machine->arena, run, VPS_ALLOC)) != NULL) {
            next->slot_page = (uint32_t)run;
            next->next = hog;
            hog = next;
        }
    }
    CHECK(pbuf_try(pool, NULL, SITE) == NULL);
    CHECK_EQ(pthread_create(&thread, NULL, sleeper, &s), 0);
    wait_for_sleepers(3);
    pbuf_rel(pool, bp, NULL, SITE);
    pthread_join(thread, NULL);
    CHECK(s.bp == bp);
    CHECK_EQ(stats().backed, 1);
    /* Memory comes back: so do the windows. */
    s.bp = NULL;
    CHECK_EQ(pthread_create(&thread, NULL, sleeper, &s), 0);
    wait_for_sleepers(5);
    while (hog) {
        size_t run = hog->slot_page;

        next = hog->next;
        hog->slot_page = VM_PAGE_NOSLOT;
        arena_pages_free(machine->arena, hog, run);
        hog = next;
    }
    pthread_join(thread, NULL);
    CHECK(s.bp && s.bp != bp);
    CHECK_EQ(stats().backed, 2);
    pbuf_rel(pool, bp, NULL, SITE);
    pbuf_rel(pool, s.bp, NULL, SITE);
    tear_down(0);
}

static double
nanoseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* BENCH=1: what a hot pair costs. */
static void
bench(void)
{
    double best = 1e9;
    int counter = 8;

    set_up(NBUF, false);
    for (int round = 0; round < 50; round++) {
        double start = nanoseconds();

        for (int i = 0; i < 100000; i++)
            pbuf_rel(pool, pbuf_get(pool, &counter, SITE), &counter, SITE);
        double ns = (nanoseconds() - start) / 100000;

        best = ns < best ? ns : best;
    }
    printf("getpbuf + relpbuf: %.1f ns\n", best);
    tear_down(0);
}

int
main(void)
{
    if (getenv("BENCH")) {
        bench();
        return 0;
    }
    CHECK_EQ(pbuf_count_for(0), 16);
    CHECK_EQ(pbuf_count_for((size_t)1 << 26), 64);
    CHECK_EQ(pbuf_count_for((size_t)1 << 40), 256);
    test_model(false);
    test_model(true);
    test_windows();
    test_credentials();
    test_misuse();
    test_strict();
    test_threads(3);
    test_threads(NBUF);
    test_sleep();
    test_no_memory();
    return 0;
}
