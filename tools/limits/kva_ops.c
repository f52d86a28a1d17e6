/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What tools/bench kva measures: each operation of the buffer interfaces, hot and on one thread unless
 * it says otherwise, and in turns with it the bare thing that a program without them would do.
 *
 * Prints one line for each measurement: name, variant, round, nanoseconds for one operation.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/buf.h>
#include <sys/jumbo.h>
#include <sys/mbuf.h>
#include <sys/mman.h>
#include <sys/sf_buf.h>
#include <time.h>
#include <unistd.h>

#include <cpu/lwbuf.h>
#include <vm/pmap.h>

#include "machine/machine.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

#define HOT_OPS 2000000

static struct machine *machine;

static double
read_clock(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* The thread's own time, user and kernel: what other programs do meanwhile does not count. */
static double
now_ns(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

static void
die(const char *what)
{
    perror(what);
    exit(1);
}

static void
use(const void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
}

static void
say(const char *name, const char *variant, int round, double ns)
{
    printf("%s %s %d %.4f\n", name, variant, round, ns);
}

static void
make_machine(size_t pages, bool strict)
{
    const struct machine_config config = {.pages = pages, .strict = strict};

    if (machine_create(&config, &machine) < 0)
        die("machine");
    machine_set_current(machine);
}

static void
end_machine(void)
{
    if (machine_destroy(machine) < 0) {
        fprintf(stderr, "pages are outstanding\n");
        exit(1);
    }
}

/* ---- hot operations: a body, run HOT_OPS times ---- */

#define TIME(name, variant, round, body)                                                           \
    do {                                                                                           \
        for (int i_ = 0; i_ < HOT_OPS / 20; i_++) {                                                \
            body;                                                                                  \
        }                                                                                          \
        double t_ = now_ns();                                                                      \
                                                                                                   \
        for (int i_ = 0; i_ < HOT_OPS; i_++) {                                                     \
            body;                                                                                  \
        }                                                                                          \
        say(name, variant, round, (now_ns() - t_) / HOT_OPS);                                      \
    } while (0)

static void
jumbo_pair(void)
{
    vm_page_t pg = jumbo_pg_alloc();

    jumbo_pg_free((vm_offset_t)jumbo_kva(machine->jumbo, pg));
}

static void
malloc_pair(size_t n)
{
    void *p = malloc(n);

    use(p);
    free(p);
}

static void
no_free(caddr_t buf, void *args)
{
    (void)buf;
    (void)args;
}

static void
hot(int rounds)
{
    static char storage[4096];
    struct vm_object *o;
    struct lwbuf lwb;
    int fd = memfd_create("kva_ops", MFD_CLOEXEC);

    make_machine(4096, false);
    if (fd < 0 || ftruncate(fd, 1 << 20) < 0 || vm_object_open(machine->sf_map, fd, &o) < 0)
        die("file");
    close(fd);
    struct vm_page *file_page = vm_object_grab(o, 3, NULL);
    vm_page_t pg = jumbo_pg_alloc();
    uint32_t refs = 0;

    for (int r = 0; r < rounds; r++) {
        TIME("jumbo", "ours", r, jumbo_pair());
        TIME("jumbo", "malloc", r, malloc_pair(4096));
        TIME("sf_buf", "ours", r, sf_buf_free(sf_buf_alloc(file_page, SFB_DEFAULT)));
        /* What any shared mapping needs: one count up, one count down. */
        TIME("sf_buf", "atomic", r, {
            __atomic_fetch_add(&refs, 1, __ATOMIC_ACQ_REL);
            __atomic_fetch_sub(&refs, 1, __ATOMIC_ACQ_REL);
        });
        TIME("lwbuf", "ours", r, {
            struct lwbuf *l = lwbuf_alloc(pg, &lwb);

            use((void *)lwbuf_kva(l));
            lwbuf_free(l);
        });
        TIME("quick", "ours", r, pmap_quick_remove_page(pmap_quick_enter_page(pg)));
        TIME("mbuf", "ours", r, {
            struct mbuf *m = m_get(M_NOWAIT, MT_DATA);

            m_extadd(m, storage, sizeof(storage), no_free, NULL, 0, EXT_MOD_TYPE);
            m_freem(m);
        });
        TIME("mbuf", "malloc", r, malloc_pair(MSIZE));
        TIME("pbuf", "ours", r, relpbuf(getpbuf(NULL), NULL));
        TIME("pbuf", "malloc", r, malloc_pair(MAXPHYS));
    }
    jumbo_pg_free((vm_offset_t)jumbo_kva(machine->jumbo, pg));
    vm_page_unwire(file_page);
    vm_object_close(o);
    end_machine();
}

/* ---- jumbo: pool sizes, two threads ---- */

/* walk() - take and give back a thousand pages at a time, so that more than the warmest page is used */
static double
walk(unsigned passes)
{
    static _Thread_local vm_page_t pg[1000];
    double t = now_ns();

    for (unsigned i = 0; i < passes; i++) {
        for (unsigned k = 0; k < 1000; k++)
            pg[k] = jumbo_pg_alloc();
        for (unsigned k = 1000; k > 0; k--)
            jumbo_pg_free((vm_offset_t)jumbo_kva(machine->jumbo, pg[k - 1]));
    }
    return (now_ns() - t) / passes / 1000;
}

static void
sizes(int rounds)
{
    static const size_t pages[] = {1024, 32768, 1048576};

    for (int r = 0; r < rounds; r++) {
        for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
            char name[32];

            make_machine(pages[i], false);
            TIME("jumbo_size", (snprintf(name, sizeof(name), "%zu", pages[i]), name), r,
                 jumbo_pair());
            walk(100);
            say("jumbo_walk", name, r, walk(1000));
            end_machine();
        }
    }
}

static pthread_barrier_t barrier;

static void *
pairs(void *arg)
{
    double *ns = arg;

    for (int i = 0; i < HOT_OPS / 20; i++)
        jumbo_pair();
    pthread_barrier_wait(&barrier);
    double t = read_clock(CLOCK_MONOTONIC); /* waiting for each other counts here */

    for (int i = 0; i < 4 * HOT_OPS; i++)
        jumbo_pair();
    *ns = (read_clock(CLOCK_MONOTONIC) - t) / (4 * HOT_OPS);
    return NULL;
}

static void
threads(int rounds)
{
    make_machine(16384, false);
    for (int r = 0; r < rounds; r++) {
        for (unsigned n = 1; n <= 2; n++) {
            pthread_t thread[2];
            double ns[2] = {0, 0};

            pthread_barrier_init(&barrier, NULL, n);
            for (unsigned i = 0; i < n; i++)
                pthread_create(&thread[i], NULL, pairs, &ns[i]);
            for (unsigned i = 0; i < n; i++)
                pthread_join(thread[i], NULL);
            pthread_barrier_destroy(&barrier);
            /* For one operation of the whole: two threads at full speed halve it. */
            say("jumbo_threads", n == 1 ? "1" : "2", r,
                n == 1 ? ns[0] : 1 / (1 / ns[0] + 1 / ns[1]));
        }
    }
    end_machine();
}

/*
 * ---- a cold file, page by page ----
 *
 * Mapped and populated, so that the kernel can read it; not touched: the cache misses of that are
 * the reader's, and a lock in between would only keep them from overlapping.
 */

#define EXTENT ((size_t)2 << 20)
#define CHUNK_PAGES 64

static double
file_ours(int fd, size_t bytes)
{
    struct vm_object *o;

    if (vm_object_open(machine->sf_map, fd, &o) < 0)
        die("object");
    double t = now_ns();

    /* Pages are grabbed a chunk at a time, as sendfile does, and mapped one by one. */
    for (size_t i = 0; i < bytes / PAGE_SIZE;) {
        struct vm_page *m;
        uint32_t n = vm_object_grab_pages(o, i, CHUNK_PAGES, &m, NULL);

        for (uint32_t k = 0; k < n; k++) {
            struct sf_buf *sf = sf_buf_alloc(&m[k], SFB_DEFAULT);

            if (sf == NULL)
                die("sf_buf");
            use((void *)sf_buf_kva(sf));
            sf_buf_free(sf);
        }
        if (n == 0)
            die("grab");
        vm_page_unwire_pages(m, n, NULL);
        i += n;
    }
    t = now_ns() - t;
    vm_object_close(o);
    return t / (double)(bytes / PAGE_SIZE);
}

static double
file_extents(int fd, size_t bytes)
{
    /* A window of 64 extents, each mapping put over the one it replaces, as a careful program would. */
    char *window =
        mmap(NULL, 64 * EXTENT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    double t = now_ns();

    for (size_t off = 0; off < bytes; off += EXTENT) {
        char *at = window + off / EXTENT % 64 * EXTENT;
        size_t n = bytes - off < EXTENT ? bytes - off : EXTENT;

        if (mmap(at, EXTENT, PROT_READ, MAP_SHARED | MAP_FIXED, fd, (off_t)off) == MAP_FAILED ||
            madvise(at, n, MADV_POPULATE_READ) < 0)
            die("mmap");
        for (size_t i = 0; i < n; i += PAGE_SIZE)
            use(at + i);
    }
    t = now_ns() - t;
    munmap(window, 64 * EXTENT);
    return t / (double)(bytes / PAGE_SIZE);
}

static double
file_pages(int fd, size_t bytes)
{
    size_t most = bytes < (size_t)64 << 20 ? bytes : (size_t)64 << 20;
    double t = now_ns();

    for (size_t off = 0; off < most; off += PAGE_SIZE) {
        void *p = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, (off_t)off);

        if (p == MAP_FAILED)
            die("mmap");
        use(p);
        munmap(p, PAGE_SIZE);
    }
    return (now_ns() - t) / (double)(most / PAGE_SIZE);
}

static void
cold_file(int rounds, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t bytes = fd < 0 ? -1 : lseek(fd, 0, SEEK_END) & ~(off_t)PAGE_MASK;

    if (bytes <= 0)
        die(path);
    make_machine(64, false);
    for (int r = 0; r < rounds; r++) {
        say("cold_file", "ours", r, file_ours(fd, (size_t)bytes));
        say("cold_file", "extents", r, file_extents(fd, (size_t)bytes));
        say("cold_file", "pages", r, file_pages(fd, (size_t)bytes));
    }
    end_machine();
    close(fd);
}

/* ---- strict mode: what it costs that a stale pointer faults ---- */

#define STRICT_OPS (HOT_OPS / 200)

static void
touch_pair(void)
{
    vm_page_t pg = jumbo_pg_alloc();
    char *kva = jumbo_kva(machine->jumbo, pg);

    *kva = 1;
    jumbo_pg_free((vm_offset_t)kva);
}

static void
strict(int rounds)
{
    static const char *const variant[] = {"direct", "strict"};

    for (int r = 0; r < rounds; r++) {
        for (int mode = 0; mode < 2; mode++) {
            make_machine(1024, mode);
            for (int i = 0; i < STRICT_OPS / 20; i++)
                touch_pair();
            double t = now_ns();

            for (int i = 0; i < STRICT_OPS; i++)
                touch_pair();
            say("jumbo_strict", variant[mode], r, (now_ns() - t) / STRICT_OPS);
            end_machine();
        }
    }
}

int
main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: kva_ops ROUNDS FILE\n");
        return 2;
    }
    int rounds = atoi(argv[1]);

    printf("descriptor bytes 0 %zu\n", sizeof(struct vm_page));
    hot(rounds);
    sizes(rounds);
    threads(rounds);
    cold_file(rounds, argv[2]);
    strict(rounds);
    return 0;
}
