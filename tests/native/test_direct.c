/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files read into pbuf windows, bypassing the page cache, and sent that way by sendfile to the
 * kernel's TCP.
 *
 * BENCH=<MiB> measures reading a file of that size beside a bare loop of pread with O_DIRECT.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "machine/machine.h"
#include "check.h"
#include "sendfile/sendfile.h"
#include "tapnet.h"

#define SIZE ((size_t)3 * MAXPHYS + 12345)

static struct machine *machine;
static char dir[] = "direct-XXXXXX"; /* in the build directory, which is on a disk */

static uint64_t random_state = 1;

static uint32_t
random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static uint8_t
file_byte(uint64_t at)
{
    uint64_t x = at * 0x9e3779b97f4a7c15u;

    return (uint8_t)(x >> 56);
}

/* append() - the file's bytes [from, to) */
static void
append(int fd, uint64_t from, uint64_t to)
{
    static uint8_t block[1 << 16];

    while (from < to) {
        size_t n = to - from < sizeof(block) ? to - from : sizeof(block);

        for (size_t i = 0; i < n; i++)
            block[i] = file_byte(from + i);
        CHECK_EQ(pwrite(fd, block, n, (off_t)from), n);
        from += n;
    }
}

/* make_file() - of @size bytes, on the disk and not in the page cache */
static int
make_file(uint64_t size)
{
    int fd = openat(AT_FDCWD, dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0)
        SKIP("no temporary files here: %s", strerror(errno));
    append(fd, 0, size);
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    return fd;
}

/* cached() - pages of the file in the page cache */
static size_t
cached(int fd, size_t size)
{
    static unsigned char in[1 << 16];
    size_t pages = (size + PAGE_SIZE - 1) / PAGE_SIZE;
    size_t n = 0;
    void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

    CHECK(p != MAP_FAILED && pages <= sizeof(in));
    CHECK_EQ(mincore(p, size, in), 0);
    for (size_t i = 0; i < pages; i++)
        n += in[i] & 1;
    munmap(p, size);
    return n;
}

static void
set_up(unsigned npbufs)
{
    const struct machine_config mc = {.pages = 4096, .npbufs = npbufs};

    CHECK_EQ(machine_create(&mc, &machine), 0);
}

static void
tear_down(void)
{
    CHECK_EQ(machine->arena->misuse_total, 0);
    CHECK_EQ(machine_idle(machine), 0);
    CHECK_EQ(machine_destroy(machine), 0);
}

static struct direct *
open_direct(int fd, int64_t offset, unsigned windows)
{
    struct direct *d;
    int err = direct_open(machine->pbufs, fd, offset, windows, &d);

    if (err == -EPERM || err == -ENOSYS)
        SKIP("no io_uring here: %s", strerror(-err));
    if (err == -EINVAL)
        SKIP("this file system has no direct I/O");
    CHECK_EQ(err, 0);
    return d;
}

static uint64_t
outstanding(void)
{
    struct pbuf_stats s;

    pbuf_get_stats(machine->pbufs, &s);
    return s.outstanding;
}

/* next() - the next chunk, waited for; its length, or -errno */
static int64_t
next(struct direct *d, int64_t limit, struct direct_chunk *c)
{
    for (int i = 0; i < 100000; i++) {
        int r = direct_next(d, limit, c);

        if (r)
            return r < 0 ? r : (int64_t)c->len;
        if (direct_wait_fd(d) < 0)
            return 0; /* only a window given back would help */
        usleep(50);
    }
    CHECK_FAIL("the disk does not answer");
}

static void
check_chunk(const struct direct_chunk *c, uint64_t at)
{
    CHECK(c->data >= c->bp->b_kvabase);
    CHECK(c->data + c->len <= c->bp->b_kvabase + MAXPHYS);
    for (uint32_t i = 0; i < c->len; i++) {
        if ((uint8_t)c->data[i] != file_byte(at + i))
            CHECK_FAIL("byte %llu is wrong", (unsigned long long)(at + i));
    }
}

/* test_read() - a file from @offset on, chunks given back in any order */
static void
test_read(uint64_t size, uint64_t offset, unsigned windows)
{
    int fd = make_file(size);
    struct direct *d = open_direct(fd, (int64_t)offset, windows);
    struct direct_chunk held[64];
    unsigned nheld = 0;
    uint64_t at = offset;

    while (at < size) {
        int64_t n = next(d, (int64_t)size, &held[nheld]);

        CHECK(outstanding() <= windows);
        if (n > 0) {
            check_chunk(&held[nheld++], at);
            at += (uint64_t)n;
        } else {
            CHECK_EQ(n, 0);
            CHECK_EQ(nheld, windows); /* we hold all of them, so nothing arrives */
        }
        while (nheld == windows || (nheld > 0 && random_below(2))) {
            unsigned i = random_below(nheld);

            direct_ext_free(held[i].bp->b_kvabase, d);
            held[i] = held[--nheld];
        }
    }
    CHECK_EQ(at, size > offset ? size : offset); /* and not a byte more */
    while (nheld > 0)
        direct_ext_free(held[--nheld].bp->b_kvabase, d);
    CHECK_EQ(next(d, (int64_t)(at + 1), held), -ENODATA);
    if (size)
        CHECK_EQ(cached(fd, size), 0);
    direct_close(d);
    CHECK_EQ(outstanding(), 0);
    close(fd);
}

static void
test_sizes(void)
{
    const uint64_t size[] = {0,    1,       511,  512,         4095,        4096,
                             4097, MAXPHYS, SIZE, MAXPHYS - 1, MAXPHYS + 1, 12 * MAXPHYS};
    const uint64_t offset[] = {0, 1, 4095, 4096, 70000, MAXPHYS, 2 * MAXPHYS - 1};
    const unsigned windows[] = {1, 2, 5, 16};

    set_up(16);
    for (unsigned i = 0; i < sizeof(size) / sizeof(size[0]); i++) {
        for (unsigned k = 0; k < sizeof(offset) / sizeof(offset[0]); k++)
            test_read(size[i], offset[k], windows[(i + k) % 4]);
    }
    tear_down();
}

/* The file grows, then ends early: its data are read, and the end is reported. */
static void
test_changing_file(void)
{
    int fd = make_file(5000);
    struct direct_chunk c;

    set_up(16);
    struct direct *d = open_direct(fd, 0, 16);

    CHECK_EQ(next(d, SIZE, &c), 5000);
    check_chunk(&c, 0);
    direct_ext_free(c.bp->b_kvabase, d);
    CHECK_EQ(next(d, SIZE, &c), -ENODATA);
    append(fd, 5000, SIZE);
    uint64_t at = 5000;

    while (at < 200000) {
        int64_t n = next(d, SIZE, &c);

        CHECK(n > 0);
        check_chunk(&c, at);
        at += (uint64_t)n;
        direct_ext_free(c.bp->b_kvabase, d);
    }
    CHECK_EQ(ftruncate(fd, 0), 0);
    int64_t n;

    while ((n = next(d, SIZE, &c)) > 0) { /* what was read before it shrank */
        check_chunk(&c, at);
        at += (uint64_t)n;
        direct_ext_free(c.bp->b_kvabase, d);
    }
    CHECK_EQ(n, -ENODATA);
    direct_close(d);
    close(fd);
    tear_down();
}

/* Closed with reads under way and chunks passed on: those stay until they are freed. */
static void
test_close(void)
{
    int fd = make_file(SIZE * 4);

    set_up(16);
    for (int round = 0; round < 50; round++) {
        struct direct *d = open_direct(fd, 0, 16);
        struct direct_chunk c[3];

        for (int i = 0; i < round % 4 && i < 3; i++)
            CHECK(next(d, SIZE * 4, &c[i]) > 0);
        CHECK_EQ(direct_ahead(d, SIZE * 4), 0);
        CHECK(outstanding() > 0);
        direct_close(d);
        CHECK_EQ(outstanding(), round % 4);
        for (int i = 0; i < round % 4 && i < 3; i++) {
            check_chunk(&c[i], (uint64_t)i * MAXPHYS);
            direct_ext_free(c[i].bp->b_kvabase, d);
        }
        CHECK_EQ(outstanding(), 0);
    }
    close(fd);
    tear_down();
}

static void
test_refusals(void)
{
    struct direct *d;
    int fds[2];
    int fd = openat(AT_FDCWD, dir, O_TMPFILE | O_RDWR, 0600);

    set_up(16);
    CHECK_EQ(direct_open(machine->pbufs, -1, 0, 1, &d), -ENOENT);
    CHECK_EQ(direct_open(machine->pbufs, fd, 0, 0, &d), -EINVAL);
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(direct_open(machine->pbufs, fds[0], 0, 1, &d), -EINVAL);
    close(fds[0]);
    close(fds[1]);
    close(fd);
    tear_down();
}

/* ---- to a peer ---- */

struct sink {
    int listener;
    uint64_t from;
    uint64_t got;
    int header; /* bytes of it that came first */
};

static void *
sink(void *arg)
{
    static uint8_t buf[1 << 18];
    struct sink *k = arg;
    int s = accept(k->listener, NULL, NULL);
    ssize_t n;

    CHECK(s >= 0);
    while ((n = read(s, buf, sizeof(buf))) > 0) {
        for (ssize_t i = 0; i < n; i++, k->got++) {
            if (k->got < (uint64_t)k->header)
                CHECK_EQ(buf[i], 'h');
            else if (buf[i] != file_byte(k->from + k->got - (uint64_t)k->header))
                CHECK_FAIL("byte %llu is wrong", (unsigned long long)k->got);
        }
    }
    CHECK_EQ(n, 0);
    close(s);
    return NULL;
}

static void
test_sendfile(void)
{
    const struct {
        uint64_t size, offset, nbytes;
        int header;
    } run[] = {
        {SIZE, 0, 0, 0},
        {40 * SIZE, 0, 0, 5},
        {40 * SIZE, 12345, 20 * SIZE + 1, 0},
        {40 * SIZE, MAXPHYS - 1, 2, 0},
        {1, 0, 0, 1},
    };
    const struct nic_config nc = {.nqueues = 1,
                                  .rx_ring_size = 256,
                                  .tx_ring_size = 1024,
                                  .mtu = 1500,
                                  .offloads = OFFLOAD_ALL,
                                  .mac = {2, 0, 0, 0, 0, 2}};
    const struct inet_config ic = {
        .addr = inet_addr("10.9.0.2"), .netmask = htonl(0xffffff00), .seed = 3};
    struct sockaddr_in sin = {
        .sin_family = AF_INET, .sin_port = htons(7000), .sin_addr.s_addr = inet_addr("10.9.0.1")};
    int tap;
    struct device *dev;
    struct nic *nic;
    struct inet *inet;

    tapnet_open("tap0", 1500, 1, &tap);
    tapnet_set_address("tap0", "10.9.0.1", "255.255.255.0");
    set_up(32);
    CHECK_EQ(tap_uring_create(&tap, 1, &dev), 0);
    CHECK_EQ(nic_attach(machine->jumbo, machine->mbufs, dev, &nc, &nic), 0);
    CHECK_EQ(inet_create(nic, &ic, &inet), 0);
    int listener = socket(AF_INET, SOCK_STREAM, 0);

    CHECK_EQ(bind(listener, (struct sockaddr *)&sin, sizeof(sin)), 0);
    CHECK_EQ(listen(listener, 4), 0);
    for (unsigned i = 0; i < sizeof(run) / sizeof(run[0]); i++) {
        uint64_t n = run[i].nbytes ? run[i].nbytes : run[i].size - run[i].offset;
        struct sink k = {.listener = listener, .from = run[i].offset, .header = run[i].header};
        char head[100];
        const struct tcp_source header = {.data = head, .len = (size_t)run[i].header};
        struct tcp_conn *c;
        struct tcp_info_s info;
        struct sendfile s;
        pthread_t thread;
        int fd = make_file(run[i].size);
        uint64_t copied = machine->arena->bytes_copied;
        int r = 0;

        CHECK_EQ(pthread_create(&thread, NULL, sink, &k), 0);
        CHECK_EQ(tcp_connect(inet, sin.sin_addr.s_addr, 7000, 0, &c), 0);
        for (int turn = 0; turn < 1000; turn++) {
            tcp_get_info(c, &info);
            if (info.state == TCPS_ESTABLISHED)
                break;
            inet_wait(inet, 10000000);
            CHECK(inet_poll(inet) >= 0);
        }
        memset(head, 'h', sizeof(head));
        CHECK_EQ(sendfile_begin(&s, c, inet, machine->sf_map, machine->jumbo, fd,
                                (int64_t)run[i].offset, (int64_t)run[i].nbytes, NULL, NULL,
                                SF_NODISKIO, SENDFILE_DIRECT),
                 -EINVAL);
        CHECK_EQ(sendfile_begin(&s, c, inet, machine->sf_map, machine->jumbo, fd,
                                (int64_t)run[i].offset, (int64_t)run[i].nbytes, &header, NULL,
                                SF_SYNC, SENDFILE_DIRECT),
                 0);
        for (int turn = 0; turn < 100000 && r == 0; turn++)
            r = sendfile_run(&s, 10000000);
        CHECK_EQ(r, 1);
        CHECK_EQ(s.sbytes, n + (uint64_t)run[i].header);
        sendfile_end(&s);
        CHECK_EQ(outstanding(), 0);
        CHECK_EQ(tcp_shutdown(c), 0);
        for (int turn = 0; turn < 1000; turn++) {
            tcp_get_info(c, &info);
            if (info.state != TCPS_FIN_WAIT_1)
                break;
            inet_wait(inet, 1000000);
            CHECK(inet_poll(inet) >= 0);
        }
        pthread_join(thread, NULL);
        CHECK_EQ(k.got, n + (uint64_t)run[i].header);
        /* Not a byte of the file; those of a header are copied into an mbuf, and to each segment. */
        CHECK_EQ(machine->arena->bytes_copied - copied, 2 * run[i].header);
        tcp_abort(c);
        CHECK_EQ(cached(fd, run[i].size), 0);
        close(fd);
    }
    close(listener);
    inet_destroy(inet);
    CHECK_EQ(nic_check(nic), 0);
    CHECK_EQ(nic_detach(nic), 0);
    close(tap);
    tear_down();
}

static double
seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void
bench(uint64_t size)
{
    int fd = make_file(size);
    char path[64];
    char *block = aligned_alloc(4096, MAXPHYS);

    set_up(64);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int bare = open(path, O_RDONLY | O_DIRECT);

    for (int round = 0; round < 3; round++) {
        double start = seconds();

        for (uint64_t at = 0; at < size; at += MAXPHYS)
            CHECK(pread(bare, block, MAXPHYS, (off_t)at) > 0);
        double t0 = seconds() - start;
        struct direct *d = open_direct(fd, 0, 33);
        struct direct_chunk c;
        struct direct_stats st;
        int r;

        start = seconds();
        for (uint64_t at = 0; at < size; at += c.len) {
            while ((r = direct_next(d, (int64_t)size, &c)) == 0) {
                struct pollfd p = {.fd = direct_wait_fd(d), .events = POLLIN};

                poll(&p, 1, 100);
            }
            CHECK_EQ(r, 1);
            direct_ext_free(c.bp->b_kvabase, d);
        }
        double t1 = seconds() - start;

        direct_get_stats(d, &st);
        printf("pread O_DIRECT %.2f GB/s; direct %.2f GB/s (x%.2f), %llu system calls for %llu "
               "reads\n",
               (double)size / t0 / 1e9, (double)size / t1 / 1e9, t0 / t1,
               (unsigned long long)st.syscalls, (unsigned long long)st.reads);
        direct_close(d);
    }
    tear_down();
}

static void
remove_dir(void)
{
    rmdir(dir);
}

int
main(void)
{
    /* Before io_uring gives this process workers: with those it may not enter a user namespace. */
    tapnet_enter();
    CHECK(mkdtemp(dir));
    atexit(remove_dir);
    if (getenv("BENCH")) {
        bench(strtoull(getenv("BENCH"), NULL, 10) << 20);
        return 0;
    }
    int fd = make_file(PAGE_SIZE);

    if (cached(fd, PAGE_SIZE))
        SKIP("this file system lives in the page cache");
    close(fd);
    test_sizes();
    test_changing_file();
    test_close();
    test_refusals();
    test_sendfile();
    return 0;
}
