/* SPDX-License-Identifier: BSD-2-Clause */
/* Mappings of file and arena pages: sf_buf, lwbuf, quick frames, with and without a direct map. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cpu/lwbuf.h>
#include <sys/sf_buf.h>
#include <vm/pmap.h>

#include "machine/machine.h"
#include "check.h"

#define SITE __builtin_return_address(0)

/* A memfd of @pages pages; page i is filled with i. */
static int
make_file(unsigned pages)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    unsigned char page[4096];

    CHECK(fd >= 0);
    for (unsigned i = 0; i < pages; i++) {
        memset(page, (int)i, sizeof(page));
        CHECK_EQ(pwrite(fd, page, sizeof(page), (off_t)i * 4096), 4096);
    }
    return fd;
}

static struct machine *
make(bool strict, uint32_t nsfbufs)
{
    const struct machine_config mc = {.pages = 64, .nsfbufs = nsfbufs, .strict = strict};
    struct machine *m;

    CHECK_EQ(machine_create(&mc, &m), 0);
    return m;
}

static struct sf_map_stats
stats(struct machine *m)
{
    struct sf_map_stats s;

    sf_map_get_stats(m->sf_map, &s);
    CHECK(s.nsfbufsused <= s.nsfbufspeak);
    CHECK(s.nsfbufspeak <= s.nsfbufs);
    return s;
}

static sigjmp_buf fault;

static void
on_fault(int sig)
{
    siglongjmp(fault, sig);
}

/* faults() - does a read at this address fault? */
static bool
faults(const volatile char *p)
{
    struct sigaction sa = {.sa_handler = on_fault, .sa_flags = SA_NODEFER}, segv, bus;

    sigaction(SIGSEGV, &sa, &segv);
    sigaction(SIGBUS, &sa, &bus);
    bool faulted = sigsetjmp(fault, 1) != 0;

    if (!faulted)
        (void)*p;
    sigaction(SIGSEGV, &segv, NULL);
    sigaction(SIGBUS, &bus, NULL);
    return faulted;
}

static void
test_file_pages(bool strict)
{
    struct machine *m = make(strict, 128);
    struct vm_object *o;
    int fd = make_file(1200); /* three extents */

    CHECK_EQ(vm_object_open(m->sf_map, fd, &o), 0);
    close(fd); /* the object has its own */
    struct vm_page *pg = vm_object_grab(o, 5, SITE);
    struct sf_buf *a = sf_buf_alloc(pg, SFB_DEFAULT);
    struct sf_buf *b = sf_buf_alloc(pg, SFB_NOWAIT | SFB_CPUPRIVATE);

    CHECK(a && a == b); /* two allocations of one page: one buffer */
    CHECK_EQ(stats(m).nsfbufsused, 1);
    CHECK(sf_buf_page(a) == pg);
    const char *kva = (const char *)sf_buf_kva(a);

    CHECK_EQ(kva[17], 5);
    sf_buf_free(a);
    CHECK_EQ(kva[17], 5);
    sf_buf_free(b);
    CHECK_EQ(stats(m).nsfbufsused, 0);
    CHECK_EQ(faults(kva), strict); /* strict: the mapping goes with its last reference */
    uint64_t maps = stats(m).maps;

    a = sf_buf_alloc(pg, 0); /* soon after: the same KVA, no remap */
    CHECK(kva == (const char *)sf_buf_kva(a));
    CHECK_EQ(stats(m).maps, maps);
    sf_buf_ref(a);
    sf_buf_free(a);
    CHECK_EQ(kva[0], 5);
    sf_buf_free(a);
    sf_buf_free(a); /* once too often */
    CHECK_EQ(m->arena->misuse_count[MISUSE_REFCOUNT], 1);

    /* Runs end with the extent and with the file. */
    struct sf_run run;

    CHECK_EQ(sf_run_alloc(o, 500, 64, 0, &run), 0);
    CHECK_EQ(run.npages, 12);
    CHECK_EQ(run.kva[0], (char)500);
    CHECK_EQ(stats(m).nsfbufsused, 12);
    sf_run_free(m->sf_map, run.kva, run.npages);
    CHECK_EQ(sf_run_alloc(o, 1190, 64, 0, &run), 0);
    CHECK_EQ(run.npages, 10);
    sf_run_free(m->sf_map, run.kva, run.npages);
    CHECK_EQ(sf_run_alloc(o, 1200, 1, 0, &run), -EFAULT);

    /* No more than nsfbufs at a time. */
    CHECK_EQ(sf_run_alloc(o, 0, 100, 0, &run), 0);
    struct sf_run more;

    CHECK_EQ(sf_run_alloc(o, 600, 100, SFB_NOWAIT, &more), 0);
    CHECK_EQ(more.npages, 28);
    struct vm_page *other = vm_object_grab(o, 1100, SITE);

    CHECK(sf_buf_alloc(other, SFB_NOWAIT) == NULL);
    CHECK_EQ(sf_run_alloc(o, 1100, 1, SFB_NOWAIT, &(struct sf_run){0}), -ENOBUFS);
    CHECK(sf_buf_alloc(pg, SFB_NOWAIT)); /* page 5 is mapped by the first run: no new buffer */
    sf_buf_free((struct sf_buf *)(void *)pg);
    sf_run_free(m->sf_map, run.kva, run.npages);
    sf_run_free(m->sf_map, more.kva, more.npages);
    vm_page_unwire(other);
    vm_page_unwire(pg);
    CHECK_EQ(machine_destroy(m), -EBUSY); /* the object is open */
    vm_object_close(o);
    CHECK_EQ(machine_destroy(m), 0);
}

/* The file changes under its mappings. */
static void
test_file_moods(void)
{
    struct machine *m = make(false, 64);
    struct vm_object *o;
    struct sf_run run;
    int fd = make_file(4);

    CHECK_EQ(vm_object_open(m->sf_map, fd, &o), 0);
    CHECK_EQ(sf_run_alloc(o, 0, 8, 0, &run), 0);
    CHECK_EQ(run.npages, 4);
    CHECK_EQ(ftruncate(fd, 6 * 4096), 0); /* grown, by a hole */
    struct sf_run tail;

    CHECK_EQ(sf_run_alloc(o, 4, 8, 0, &tail), 0);
    CHECK_EQ(tail.npages, 2);
    CHECK_EQ(tail.kva[4095], 0);
    CHECK_EQ(ftruncate(fd, 4096), 0); /* truncated under both */
    CHECK(faults(run.kva + 4096));
    sf_run_free(m->sf_map, run.kva, run.npages);
    sf_run_free(m->sf_map, tail.kva, tail.npages);
    close(fd);

    /* A handle bound anew has a new generation. */
    struct vm_page *pg = vm_object_grab(o, 0, SITE);
    uint32_t generation = pg->generation;

    vm_page_unwire(pg);
    vm_object_close(o);
    fd = make_file(1);
    CHECK_EQ(vm_object_open(m->sf_map, fd, &o), 0);
    for (unsigned i = 0; i < 65; i++) {
        struct vm_page *again = vm_object_grab(o, (vm_pindex_t)i * SF_EXTENT_PAGES, SITE);

        CHECK(again);
        if (again == pg)
            CHECK(again->generation != generation);
        vm_page_unwire(again);
    }
    close(fd);
    vm_object_close(o);
    int dir = open("/", O_RDONLY | O_DIRECTORY);

    CHECK_EQ(vm_object_open(m->sf_map, dir, &o), -EINVAL);
    close(dir);
    CHECK_EQ(vm_object_open(m->sf_map, -1, &o), -EBADF);
    CHECK_EQ(machine_destroy(m), 0);
}

static void
test_arena_pages(bool strict)
{
    struct machine *m = make(strict, 64);
    struct vm_page *pg = jumbo_alloc(m->jumbo, SITE);
    struct lwbuf mine;

    memcpy(jumbo_kva(m->jumbo, pg), "hello", 6);
    struct sf_buf *sf = sf_buf_alloc(pg, 0);
    char *kva = (char *)sf_buf_kva(sf);

    CHECK_EQ(strcmp(kva, "hello"), 0);
    CHECK_EQ(stats(m).nsfbufsused, strict);
    sf_buf_free(sf);
    CHECK_EQ(faults(kva), strict);

    struct lwbuf *lwb = lwbuf_alloc(pg, &mine);

    CHECK(strict ? lwb != &mine : lwb == &mine);
    kva = (char *)lwbuf_kva(lwb);
    CHECK(lwbuf_page(lwb) == pg);
    CHECK_EQ(strcmp(kva, "hello"), 0);
    lwbuf_set_global(lwb);
    CHECK_EQ(machine_idle(m), -EBUSY);
    lwbuf_free(lwb);
    CHECK_EQ(faults(kva), strict);

    kva = (char *)pmap_quick_enter_page(pg);
    CHECK_EQ(strcmp(kva, "hello"), 0);
    pmap_quick_remove_page((vm_offset_t)kva);
    CHECK_EQ(faults(kva), strict);
    pmap_quick_remove_page((vm_offset_t)kva);
    CHECK_EQ(m->arena->misuse_count[MISUSE_QUICK_FOREIGN], 1);
    vm_offset_t first = pmap_quick_enter_page(pg);

    (void)first;
    vm_offset_t second = pmap_quick_enter_page(pg);

    CHECK_EQ(m->arena->misuse_count[MISUSE_QUICK_NESTED], 1);
    struct vm_object *o;
    struct sf_run run;
    int fd = make_file(1);

    CHECK_EQ(vm_object_open(m->sf_map, fd, &o), 0);
    CHECK_EQ(sf_run_alloc(o, 0, 1, 0, &run), 0); /* might block */
    CHECK_EQ(m->arena->misuse_count[MISUSE_QUICK_BLOCKING], 1);
    sf_run_free(m->sf_map, run.kva, 1);
    pmap_quick_remove_page(second);
    struct vm_page *fp = vm_object_grab(o, 0, SITE);

    second = pmap_quick_enter_page(fp);
    CHECK(second);
    CHECK_EQ(*(char *)second, 0);
    pmap_quick_remove_page(second);
    CHECK(faults((char *)second));
    lwb = lwbuf_alloc(fp, &mine);
    CHECK(lwb);
    CHECK_EQ(*(char *)lwbuf_kva(lwb), 0);
    lwbuf_free(lwb);
    if (strict) { /* the caller's structure is not looked at, for a file's page neither */
        lwb = lwbuf_alloc(fp, NULL);
        CHECK(lwb);
        CHECK_EQ(*(char *)lwbuf_kva(lwb), 0);
        lwbuf_free(lwb);
        lwbuf_free(lwb);
        CHECK_EQ(m->arena->misuse_count[MISUSE_DOUBLE_FREE], 1);
        struct vm_page *behind = vm_object_grab(o, 1, SITE);

        CHECK(lwbuf_alloc(behind, NULL) == NULL);
        vm_page_unwire(behind);
    }
    /* A call that might block is reported whether or not it does. */
    second = pmap_quick_enter_page(fp);
    sf = sf_buf_alloc(fp, SFB_NOWAIT);
    CHECK_EQ(m->arena->misuse_count[MISUSE_QUICK_BLOCKING], 1);
    sf_buf_free(sf);
    uint64_t before = arena_misuse_mine(NULL);

    sf = sf_buf_alloc(fp, SFB_DEFAULT);
    CHECK_EQ(m->arena->misuse_count[MISUSE_QUICK_BLOCKING], 2);
    struct harness_misuse report;

    CHECK_EQ(arena_misuse_mine(&report), before + 1);
    CHECK_EQ(report.kind, MISUSE_QUICK_BLOCKING);
    sf_buf_free(sf);
    pmap_quick_remove_page(second);
    vm_page_unwire(fp);
    close(fd);
    vm_object_close(o);
    CHECK_EQ(jumbo_free(m->jumbo, jumbo_kva(m->jumbo, pg), SITE), 0);
    CHECK_EQ(machine_destroy(m), 0);
}

/* ---- sleeping for a buffer ---- */

static struct machine *machine;
static struct vm_object *object;

static void *
sleeper(void *arg)
{
    struct vm_page *pg = arg;

    for (int i = 0; i < 2000; i++) {
        struct sf_buf *sf = sf_buf_alloc(pg, SFB_DEFAULT);

        CHECK(sf);
        CHECK_EQ(*(unsigned char *)sf_buf_kva(sf), pg->pindex & 0xff);
        sf_buf_free(sf);
    }
    return NULL;
}

/* Eight threads, two buffers: no thread sleeps for ever, and the figures return to their start. */
static void
test_sleep(bool strict)
{
    pthread_t thread[8];
    struct vm_page *pg[8];
    int fd = make_file(600);

    machine = make(strict, 2);
    CHECK_EQ(vm_object_open(machine->sf_map, fd, &object), 0);
    close(fd);
    for (unsigned i = 0; i < 8; i++) { /* two extents, for there are slots for two */
        pg[i] = vm_object_grab(object, i < 4 ? i : 510 + i, SITE);
        CHECK(pg[i]);
    }
    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, sleeper, pg[i]), 0);
    for (unsigned i = 0; i < 8; i++)
        pthread_join(thread[i], NULL);
    CHECK_EQ(stats(machine).nsfbufsused, 0);
    CHECK(stats(machine).nsfbufspeak <= 2);
    for (unsigned i = 0; i < 8; i++)
        vm_page_unwire(pg[i]);
    vm_object_close(object);
    CHECK_EQ(machine_destroy(machine), 0);
}

static void
ignore(int sig)
{
    (void)sig;
}

/* One buffer for a page, kept until it is told to give it back. */
struct holder {
    pthread_t thread;
    struct vm_page *page;
    int flags;
    _Atomic(struct sf_buf *) got;
    atomic_bool done, go;
};

static void *
hold(void *arg)
{
    struct holder *h = arg;
    struct sf_buf *sf = sf_buf_alloc(h->page, h->flags);

    atomic_store(&h->got, sf);
    atomic_store(&h->done, true);
    while (!atomic_load(&h->go))
        sched_yield();
    if (sf) {
        CHECK_EQ(*(unsigned char *)sf_buf_kva(sf), h->page->pindex & 0xff);
        sf_buf_free(sf);
    }
    return NULL;
}

static void
start(struct holder *h, struct vm_page *page, int flags)
{
    *h = (struct holder){.page = page, .flags = flags};
    CHECK_EQ(pthread_create(&h->thread, NULL, hold, h), 0);
}

static unsigned
done(struct holder *h, unsigned n)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < n; i++)
        sum += atomic_load(&h[i].done);
    return sum;
}

/* Every last free lets one more sleeper on, and none is lost. */
static void
test_no_wakeup_is_lost(void)
{
    struct holder h[4];
    struct sf_buf *sf[2];
    struct vm_page *pg[6];
    int fd = make_file(6);

    machine = make(false, 2);
    CHECK_EQ(vm_object_open(machine->sf_map, fd, &object), 0);
    close(fd);
    for (unsigned i = 0; i < 6; i++)
        pg[i] = vm_object_grab(object, i, SITE);
    sf[0] = sf_buf_alloc(pg[0], 0);
    sf[1] = sf_buf_alloc(pg[1], 0);
    for (unsigned i = 0; i < 4; i++)
        start(&h[i], pg[2 + i], SFB_DEFAULT);
    while (stats(machine).sf_allocwait < 4)
        sched_yield();
    CHECK_EQ(done(h, 4), 0);
    for (unsigned n = 1; n <= 4; n++) {
        /* The first two free what this thread has, the others what a sleeper got. */
        if (n <= 2) {
            sf_buf_free(sf[n - 1]);
        } else {
            for (unsigned i = 0; i < 4; i++) {
                if (atomic_load(&h[i].done) && !atomic_load(&h[i].go)) {
                    atomic_store(&h[i].go, true);
                    break;
                }
            }
        }
        while (done(h, 4) < n)
            sched_yield();
        CHECK_EQ(done(h, 4), n); /* there is no second buffer */
        CHECK(stats(machine).nsfbufsused <= 2);
    }
    for (unsigned i = 0; i < 4; i++) {
        CHECK(atomic_load(&h[i].got));
        atomic_store(&h[i].go, true);
        pthread_join(h[i].thread, NULL);
    }
    CHECK_EQ(stats(machine).nsfbufsused, 0);
    CHECK_EQ(stats(machine).nsfbufspeak, 2);
    for (unsigned i = 0; i < 6; i++)
        vm_page_unwire(pg[i]);
    vm_object_close(object);
    CHECK_EQ(machine_destroy(machine), 0);
}

/* The buffer freed first is recycled; the others are still mapped, without a system call. */
static void
test_least_recently_freed(void)
{
    const vm_pindex_t at[] = {0, SF_EXTENT_PAGES, 2 * SF_EXTENT_PAGES, 3 * SF_EXTENT_PAGES};
    const unsigned order[] = {1, 0, 2};
    struct vm_page *pg[4];
    vm_offset_t kva[4];
    struct sf_buf *sf[4];
    int fd = make_file(3 * SF_EXTENT_PAGES + 1);

    machine = make(false, 3);
    CHECK_EQ(vm_object_open(machine->sf_map, fd, &object), 0);
    close(fd);
    for (unsigned i = 0; i < 3; i++) {
        pg[i] = vm_object_grab(object, at[i], SITE);
        sf[i] = sf_buf_alloc(pg[i], 0);
        kva[i] = sf_buf_kva(sf[i]);
        vm_page_unwire(pg[i]);
    }
    for (unsigned i = 0; i < 3; i++)
        sf_buf_free(sf[order[i]]);
    pg[3] = vm_object_grab(object, at[3], SITE);
    sf[3] = sf_buf_alloc(pg[3], 0);
    CHECK_EQ(sf_buf_kva(sf[3]), kva[1]);
    uint64_t maps = stats(machine).maps;

    for (unsigned i = 0; i < 3; i += 2) {
        pg[i] = vm_object_grab(object, at[i], SITE);
        sf[i] = sf_buf_alloc(pg[i], 0);
        CHECK_EQ(sf_buf_kva(sf[i]), kva[i]);
        CHECK_EQ(*(unsigned char *)kva[i], at[i] & 0xff);
    }
    CHECK_EQ(stats(machine).maps, maps);
    /* All three are in use: none of them is recycled. */
    CHECK(vm_object_grab(object, at[1], SITE) == NULL);
    for (unsigned i = 0; i < 4; i++) {
        if (i == 1)
            continue;
        sf_buf_free(sf[i]);
        vm_page_unwire(pg[i]);
    }
    vm_object_close(object);
    CHECK_EQ(machine_destroy(machine), 0);
}

/* SFB_CATCH: a signal ends the sleep with NULL; without it the sleep goes on. */
static void
test_catch(void)
{
    /* Also a signal after which system calls are started again. */
    struct sigaction sa = {.sa_handler = ignore, .sa_flags = SA_RESTART};
    int fd = make_file(3);
    struct holder catcher, patient;

    sigaction(SIGUSR1, &sa, NULL);
    machine = make(false, 1);
    CHECK_EQ(vm_object_open(machine->sf_map, fd, &object), 0);
    close(fd);
    struct vm_page *a = vm_object_grab(object, 0, SITE);
    struct vm_page *b = vm_object_grab(object, 1, SITE);
    struct vm_page *c = vm_object_grab(object, 2, SITE);
    struct sf_buf *sf = sf_buf_alloc(a, 0);

    start(&catcher, b, SFB_CATCH);
    start(&patient, c, SFB_DEFAULT);
    while (stats(machine).sf_allocwait < 2)
        sched_yield();
    /* Again and again: one that comes before the sleep has begun ends nothing. */
    while (!atomic_load(&catcher.done)) {
        pthread_kill(catcher.thread, SIGUSR1);
        sched_yield();
    }
    CHECK(atomic_load(&catcher.got) == NULL);
    for (int i = 0; i < 1000; i++) {
        pthread_kill(patient.thread, SIGUSR1);
        sched_yield();
    }
    CHECK(!atomic_load(&patient.done));
    sf_buf_free(sf);
    while (!atomic_load(&patient.done))
        sched_yield();
    CHECK(atomic_load(&patient.got));
    atomic_store(&catcher.go, true);
    atomic_store(&patient.go, true);
    pthread_join(catcher.thread, NULL);
    pthread_join(patient.thread, NULL);
    vm_page_unwire(a);
    vm_page_unwire(b);
    vm_page_unwire(c);
    vm_object_close(object);
    CHECK_EQ(machine_destroy(machine), 0);
}

static void *
foreign_free(void *arg)
{
    lwbuf_free(arg);
    return NULL;
}

/* A free on a foreign thread returns the KVA to its owner's pool. */
static void
test_lwbuf_foreign(void)
{
    struct machine *m = make(true, 8);
    struct vm_page *pg = jumbo_alloc(m->jumbo, SITE);
    struct lwbuf_stats s;
    vm_offset_t kva[32];
    pthread_t thread;

    for (unsigned round = 0; round < 3; round++) {
        struct lwbuf *lwb[32];

        for (unsigned i = 0; i < 32; i++) {
            lwb[i] = lwbuf_alloc(pg, NULL);
            CHECK(lwb[i]);
            kva[i] = lwbuf_kva(lwb[i]);
            CHECK(i == 0 || kva[i] != kva[i - 1]);
        }
        lwbuf_get_stats(m->lwbufs, &s);
        CHECK_EQ(s.count, 32);
        CHECK_EQ(s.kva_bytes, 32 * 4096); /* no more is taken: what came back is used again */
        for (unsigned i = 0; i < 32; i++) {
            CHECK_EQ(pthread_create(&thread, NULL, foreign_free, lwb[i]), 0);
            pthread_join(thread, NULL);
        }
        lwbuf_get_stats(m->lwbufs, &s);
        CHECK_EQ(s.count, 0);
        CHECK_EQ(s.reserve, 32);
    }
    CHECK_EQ(jumbo_free(m->jumbo, jumbo_kva(m->jumbo, pg), SITE), 0);
    CHECK_EQ(machine_destroy(m), 0);
}

int
main(void)
{
    test_file_pages(false);
    test_file_pages(true);
    test_file_moods();
    test_arena_pages(false);
    test_arena_pages(true);
    test_sleep(false);
    test_sleep(true);
    test_no_wakeup_is_lost();
    test_least_recently_freed();
    test_catch();
    test_lwbuf_foreign();
    return 0;
}
