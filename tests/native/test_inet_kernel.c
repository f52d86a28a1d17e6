/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TCP, ARP and ICMP against the kernel, over a TAP in a private network namespace, with and without
 * offloads, and with one frame in a hundred lost in each direction; and a file that shrinks while
 * its pages wait to be sent.
 *
 * BENCH=<MiB> measures instead: how fast the kernel takes what we send.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "machine/machine.h"
#include "check.h"
#include "device/device.h"
#include "inet/inet.h"
#include "tapnet.h"

#define OUR "10.9.0.2"
#define KERNEL "10.9.0.1"
#define REGION (4u << 20)
#define CHUNK (256u << 10)

struct net {
    int fd;
    uint32_t mtu;
    struct machine *machine;
    struct nic *nic;
    struct inet *inet;
    uint8_t *region; /* REGION bytes of the stream, over and over */
};

static uint8_t
stream_byte(uint64_t at)
{
    uint32_t x = (uint32_t)(at % REGION);

    x = (x ^ x >> 15) * 0x2c1b3c6du;
    return (uint8_t)(x >> 13);
}

static uint8_t reference[REGION];

static void
check_bytes(const uint8_t *p, uint64_t at, size_t len)
{
    while (len) {
        size_t off = at % REGION, n = REGION - off < len ? REGION - off : len;

        if (memcmp(p, reference + off, n))
            CHECK_FAIL("stream is wrong after %llu", (unsigned long long)at);
        p += n;
        at += n;
        len -= n;
    }
}

static double
seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int
make_tap(uint32_t mtu)
{
    int fd;

    tapnet_open("tap0", mtu, 1, &fd);
    tapnet_set_address("tap0", KERNEL, "255.255.255.0");
    return fd;
}

static uint64_t stopped; /* ns: what the stack takes the time to be; 0: as it goes by */

static uint64_t
stopped_clock(void *arg)
{
    (void)arg;
    return stopped;
}

static bool secretive; /* the device does not tell that a frame was lost */
static const struct device_ops *talkative;

static int
kick_silently(struct device *d, unsigned queue)
{
    int r = talkative->kick(d, queue);

    return r == -EFAULT ? 0 : r;
}

static void
keep_secrets(struct device *d)
{
    static struct device_ops ops;

    talkative = d->ops;
    ops = *talkative;
    ops.kick = kick_silently;
    d->ops = &ops;
}

static struct net
make(uint32_t mtu, uint32_t offloads)
{
    const struct machine_config mc = {.pages = 8192};
    struct net n = {.fd = make_tap(mtu), .mtu = mtu};
    struct nic_config nc = {.nqueues = 1,
                            .rx_ring_size = 1024,
                            .tx_ring_size = 1024,
                            .mtu = mtu,
                            .offloads = offloads,
                            .mac = {2, 0, 0, 0, 0, 2}};
    struct inet_config ic = {.addr = inet_addr(OUR),
                             .netmask = htonl(0xffffff00),
                             .seed = 3,
                             .clock = stopped ? stopped_clock : NULL};
    struct device *d;

    CHECK_EQ(machine_create(&mc, &n.machine), 0);
    n.region = kmem_alloc(n.machine->arena, REGION);
    CHECK(n.region);
    memcpy(n.region, reference, REGION);
    CHECK_EQ(tap_rw_create(&n.fd, 1, &d), 0);
    if (secretive)
        keep_secrets(d);
    CHECK_EQ(nic_attach(n.machine->jumbo, n.machine->mbufs, d, &nc, &n.nic), 0);
    CHECK_EQ(inet_create(n.nic, &ic, &n.inet), 0);
    return n;
}

static void
unmake(struct net *n)
{
    struct device_info info;

    nic_describe(n->nic, &info);
    CHECK_EQ(info.queue[0].tx_refused, 0);
    inet_destroy(n->inet);
    CHECK_EQ(nic_check(n->nic), 0);
    CHECK_EQ(nic_detach(n->nic), 0);
    close(n->fd);
    kmem_free(n->machine->arena, n->region, REGION);
    CHECK_EQ(machine_idle(n->machine), 0);
    CHECK_EQ(machine_destroy(n->machine), 0);
}

static uint64_t held; /* chunks that the send buffer keeps */

static void
let_go(caddr_t buf, void *args)
{
    (void)buf;
    (void)args;
    held--;
}

/* step() - one turn of the loop */
static void
step(struct net *n)
{
    int got = inet_poll(n->inet);

    CHECK(got >= 0 || got == -ENETDOWN);
    if (got <= 0)
        CHECK(inet_wait(n->inet, 200000000) >= 0);
}

/* feed() - from the region, as file pages would come */
static void
feed(struct net *n, struct tcp_conn *c, uint64_t *sent, uint64_t total)
{
    tcp_set_more(c, true);
    while (*sent < total) {
        uint32_t off = (uint32_t)(*sent % REGION), len = CHUNK - off % CHUNK;
        struct mbuf *m;

        if (len > total - *sent)
            len = (uint32_t)(total - *sent);
        if (tcp_send_room(c) < len)
            break;
        m = mb_get(n->machine->mbufs);
        CHECK(m);
        CHECK_EQ(m_extadd(m, (caddr_t)n->region + off, len, let_go, NULL, M_RDONLY, EXT_SFBUF), 0);
        m->m_len = (int32_t)len;
        held++;
        CHECK_EQ(tcp_send(c, m), 0);
        *sent += len;
    }
    if (*sent == total)
        tcp_set_more(c, false);
    CHECK_EQ(tcp_output(c), 0);
}

static uint64_t
take(struct tcp_conn *c, uint64_t at)
{
    struct mbuf *m;

    while ((m = tcp_recv(c, 1 << 20))) {
        for (struct mbuf *k = m; k; k = k->m_next) {
            check_bytes((const uint8_t *)k->m_data, at, (size_t)k->m_len);
            at += (uint64_t)k->m_len;
        }
        m_freem(m);
    }
    return at;
}

/* The peer, an ordinary program on the kernel's side. */
enum peer {
    SINK,
    SOURCE,
    ECHO,
    SLOW,
    DRAIN, /* a sink that does not look */
};

static void
serve(int s, enum peer kind, uint64_t total)
{
    static uint8_t buf[1 << 18];
    uint64_t at = 0;
    ssize_t n;

    if (kind == SOURCE) {
        while (at < total) {
            size_t off = at % REGION, len = REGION - off;

            if (len > total - at)
                len = total - at;
            n = write(s, reference + off, len);
            if (n <= 0)
                CHECK_FAIL("peer: write: %s", strerror(errno));
            at += (uint64_t)n;
        }
        CHECK_EQ(shutdown(s, SHUT_WR), 0);
        while (read(s, buf, sizeof(buf)) > 0)
            ;
    } else {
        if (kind == SLOW)
            usleep(700000);
        while ((n = read(s, buf, sizeof(buf))) > 0) {
            if (kind != DRAIN)
                check_bytes(buf, at, (size_t)n);
            at += (uint64_t)n;
            for (ssize_t off = 0, w; kind == ECHO && off < n; off += w) {
                w = write(s, buf + off, (size_t)(n - off));
                CHECK(w > 0);
            }
        }
        if (n < 0)
            CHECK_FAIL("peer: read: %s", strerror(errno));
        if (at != total)
            CHECK_FAIL("peer: %llu of %llu bytes", (unsigned long long)at,
                       (unsigned long long)total);
    }
    close(s);
}

static pid_t
peer(enum peer kind, uint64_t total, bool listens, uint16_t port)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(port)};
    int s, one = 1;
    pid_t pid;

    s = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(s >= 0);
    CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
    if (listens) {
        sin.sin_addr.s_addr = inet_addr(KERNEL);
        CHECK_EQ(bind(s, (struct sockaddr *)&sin, sizeof(sin)), 0);
        CHECK_EQ(listen(s, 4), 0);
    }
    pid = fork();
    CHECK(pid >= 0);
    if (pid) {
        close(s);
        return pid;
    }
    alarm(120);
    if (listens) {
        int a = accept(s, NULL, NULL);

        CHECK(a >= 0);
        close(s);
        s = a;
    } else {
        sin.sin_addr.s_addr = inet_addr(OUR);
        if (connect(s, (struct sockaddr *)&sin, sizeof(sin)))
            CHECK_FAIL("peer: connect: %s", strerror(errno));
    }
    serve(s, kind, total);
    _exit(0);
}

static bool
gone(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, WNOHANG) != pid)
        return false;
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    return true;
}

static struct tcp_info_s
info(struct tcp_conn *c)
{
    struct tcp_info_s i;

    tcp_get_info(c, &i);
    return i;
}

/* exchange() - one connection with the kernel, from its beginning to its end */
static void
exchange(struct net *n, const char *name, enum peer kind, uint64_t total, bool we_connect)
{
    struct tcp_conn *listener = NULL, *c = NULL;
    uint64_t sent = 0, got = 0, to_send = kind == SOURCE ? 0 : total;
    uint64_t to_get = kind == SOURCE || kind == ECHO ? total : 0;
    struct inet_stats before, st;
    bool shut = false;
    double start;
    pid_t pid;

    inet_get_stats(n->inet, &before);
    if (we_connect) {
        pid = peer(kind, total, true, 5001);
        CHECK_EQ(tcp_connect(n->inet, inet_addr(KERNEL), 5001, 0, &c), 0);
        while (info(c).state == TCPS_SYN_SENT)
            step(n);
        CHECK_EQ(info(c).error, 0);
    } else {
        CHECK_EQ(tcp_listen(n->inet, 5002, 4, &listener), 0);
        pid = peer(kind, total, false, 5002);
        while (!(c = tcp_accept(listener)))
            step(n);
        tcp_close(listener);
    }
    start = seconds();
    while (!shut || !tcp_eof(c) || info(c).unacked || info(c).unsent) {
        CHECK_EQ(info(c).error, 0);
        if (!shut) {
            feed(n, c, &sent, to_send);
            if (sent == to_send) {
                CHECK_EQ(tcp_shutdown(c), 0);
                shut = true;
            }
        }
        step(n);
        got = take(c, got);
        if (seconds() - start > 100)
            CHECK_FAIL("%s: stuck at %llu sent, %llu got", name, (unsigned long long)sent,
                       (unsigned long long)got);
    }
    CHECK_EQ(got, to_get);
    inet_get_stats(n->inet, &st);
    if (getenv("VERBOSE"))
        fprintf(stderr,
                "mtu %5u %-18s %9llu bytes %7.3f s %6.2f Gbit/s rtx %llu rto %llu probes %llu srtt "
                "%u us cwnd %u\n",
                n->mtu, name, (unsigned long long)total, seconds() - start,
                (double)total * 8e-9 / (seconds() - start),
                (unsigned long long)(st.tx_retransmits - before.tx_retransmits),
                (unsigned long long)(st.tx_rto - before.tx_rto),
                (unsigned long long)(st.tx_probes - before.tx_probes), info(c).srtt_us,
                info(c).cwnd);
    tcp_close(c);
    for (start = seconds(); !gone(pid);) {
        step(n);
        CHECK(seconds() - start < 30);
    }
    CHECK_EQ(held, 0);
}

/* ping() - does the kernel's ping get its answer? */
static void
ping(struct net *n, unsigned size, bool answered)
{
    char command[128];
    double start = seconds();
    pid_t pid;
    int status;

    snprintf(command, sizeof(command), "ping -q -n -c 1 -W %d -M do -s %u " OUR " >/dev/null 2>&1",
             answered ? 5 : 1, size);
    pid = fork();
    if (!pid) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    while (waitpid(pid, &status, WNOHANG) != pid) {
        step(n);
        CHECK(seconds() - start < 30);
    }
    if (WEXITSTATUS(status) == 127 || WEXITSTATUS(status) == 2)
        return; /* no ping on this machine */
    CHECK_EQ(WEXITSTATUS(status), !answered);
}

static bool
run(const char *command)
{
    return system(command) == 0;
}

static void
test_lossy(uint32_t mtu)
{
    struct net n = make(mtu, OFFLOAD_ALL);

    if (!run("nft -f - 2>/dev/null <<'END'\n"
             "table netdev loss {\n"
             " chain in { type filter hook ingress device tap0 priority 0; meta l4proto tcp numgen "
             "random mod 100 < 1 drop; }\n"
             "}\n"
             "table ip loss {\n"
             " chain out { type filter hook postrouting priority 0; meta l4proto tcp numgen random "
             "mod 100 < 1 drop; }\n"
             "}\n"
             "END")) {
        fprintf(stderr, "no loss without nft: left out\n");
    } else {
        exchange(&n, "lossy sink", SINK, 64 << 20, true);
        exchange(&n, "lossy source", SOURCE, 64 << 20, false);
        exchange(&n, "lossy echo", ECHO, 16 << 20, true);
        run("nft flush ruleset");
    }
    unmake(&n);
}

/* turn() - one turn of the loop, with time standing still */
static void
turn(struct net *n)
{
    if (inet_poll(n->inet) == 0)
        CHECK(nic_wait(n->nic, 0, 10000000) >= 0);
}

/*
 * test_vanish() - a file shrinks while its pages wait in the send buffer of a peer that does not read
 * @told: the device reports the fate of the next frame, so no timer is needed; otherwise, as with
 *        vhost-net, it does not, and a timer is
 */
static void
test_vanish(uint32_t offloads, bool told)
{
    const struct sockaddr_in sin = {
        .sin_family = AF_INET, .sin_port = htons(5003), .sin_addr.s_addr = inet_addr(KERNEL)};
    int s = socket(AF_INET, SOCK_STREAM, 0), file = memfd_create("shrinks", 0), small = 65536,
        one = 1;
    static char buf[1 << 20];
    struct sf_map_stats st;
    int peer;
    struct vm_object *o;
    struct tcp_conn *c;
    struct sf_run run;
    struct net n;
    ssize_t got;

    stopped = 1000000000;
    secretive = !told;
    n = make(1500, offloads);
    CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
    CHECK_EQ(bind(s, (const struct sockaddr *)&sin, sizeof(sin)), 0);
    CHECK_EQ(listen(s, 1), 0);
    CHECK_EQ(tcp_connect(n.inet, inet_addr(KERNEL), 5003, 0, &c), 0);
    while (info(c).state == TCPS_SYN_SENT)
        turn(&n);
    CHECK_EQ(info(c).state, TCPS_ESTABLISHED);
    peer = accept4(s, NULL, NULL, SOCK_NONBLOCK);
    CHECK(peer >= 0);

    CHECK_EQ(ftruncate(file, sizeof(buf)), 0);
    CHECK_EQ(vm_object_open(n.machine->sf_map, file, &o), 0);
    CHECK_EQ(sf_run_alloc(o, 0, sizeof(buf) >> PAGE_SHIFT, SFB_NOWAIT, &run), 0);
    struct mbuf *m = mb_get(n.machine->mbufs);

    CHECK_EQ(m_extadd(m, run.kva, sizeof(buf), sf_run_ext_free, (void *)(uintptr_t)run.npages,
                      M_RDONLY, EXT_SFBUF),
             0);
    m->m_len = sizeof(buf);
    CHECK_EQ(tcp_send(c, m), 0);
    while (info(c).bytes_acked == 0)
        turn(&n);
    CHECK(info(c).unsent > 0);
    CHECK_EQ(info(c).error, 0);

    CHECK_EQ(ftruncate(file, 4096), 0);
    for (double start = seconds(); !info(c).error; turn(&n)) {
        CHECK(seconds() - start < 60);
        while (recv(peer, buf, sizeof(buf), 0) > 0)
            ;
        if (!told && inet_timeout(n.inet) > 0)
            stopped += (uint64_t)inet_timeout(n.inet);
    }
    CHECK_EQ(info(c).error, EIO);
    CHECK_EQ(info(c).state, TCPS_CLOSED);
    while ((got = recv(peer, buf, sizeof(buf), 0)) > 0 || (got < 0 && errno == EAGAIN))
        turn(&n);
    CHECK(got < 0 && errno == ECONNRESET);

    vm_object_close(o);
    sf_map_get_stats(n.machine->sf_map, &st);
    CHECK_EQ(st.nsfbufsused, 0);
    CHECK_EQ(st.wired, 0);
    tcp_close(c);
    close(peer);
    close(s);
    close(file);
    unmake(&n);
    stopped = 0;
    secretive = false;
}

static double
cpu(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec / 1e6;
}

static void
bench(uint64_t mib)
{
    static const uint32_t mtus[] = {1500, 9000, 65520};

    run("echo cubic > /proc/sys/net/ipv4/tcp_congestion_control 2>/dev/null");
    for (unsigned i = 0; i < 3; i++) {
        struct net n = make(mtus[i], OFFLOAD_ALL);
        struct nic_queue_stats st;
        struct device_info d;
        struct rusage a, b;
        double frames;

        getrusage(RUSAGE_SELF, &a);
        exchange(&n, "bench sink", DRAIN, mib << 20, true);
        getrusage(RUSAGE_SELF, &b);
        nic_get_stats(n.nic, 0, &st);
        nic_describe(n.nic, &d);
        frames = (double)st.tx_queued;
        fprintf(stderr,
                "   per frame sent: user %.0f ns, system %.0f ns; bytes %.0f, frames received "
                "%.2f, system calls %.2f\n",
                (cpu(&b.ru_utime) - cpu(&a.ru_utime)) * 1e9 / frames,
                (cpu(&b.ru_stime) - cpu(&a.ru_stime)) * 1e9 / frames, (double)(mib << 20) / frames,
                (double)st.rx_received / frames, (double)d.queue[0].syscalls / frames);
        unmake(&n);
    }
}

int
main(void)
{
    static const uint64_t sizes[] = {0, 1, 4096, 4097, (1 << 20) - 1, (2 << 20) + 1};

    for (uint64_t i = 0; i < REGION; i++)
        reference[i] = stream_byte(i);
    tapnet_enter();
    signal(SIGPIPE, SIG_IGN);
    if (getenv("BENCH")) {
        bench((uint64_t)atoll(getenv("BENCH")));
        return 0;
    }
    for (unsigned i = 0; i < 6; i++) {
        static const uint32_t mtus[] = {1500, 9000, 65520, 1500, 9000, 576};
        struct net n = make(mtus[i], i < 3 ? OFFLOAD_ALL : 0);
        struct tcp_conn *c;

        ping(&n, 56, true);
        ping(&n, mtus[i] - 28, true);
        for (unsigned k = 0; k < 6; k++) {
            exchange(&n, "sink", SINK, sizes[k], true);
            exchange(&n, "source", SOURCE, sizes[k], k & 1);
        }
        exchange(&n, "sink", SINK, 32 << 20, false);
        exchange(&n, "source", SOURCE, 32 << 20, true);
        exchange(&n, "echo", ECHO, 8 << 20, true);
        exchange(&n, "slow reader", SLOW, 16 << 20, true);
        CHECK_EQ(tcp_connect(n.inet, inet_addr(KERNEL), 9, 0, &c), 0);
        while (info(c).state == TCPS_SYN_SENT)
            step(&n);
        CHECK_EQ(info(c).error, ECONNREFUSED);
        tcp_close(c);
        unmake(&n);
    }
    test_vanish(OFFLOAD_ALL, true);
    test_vanish(OFFLOAD_ALL, false);
    test_vanish(0, true); /* the sum is made here */
    test_lossy(1500);
    test_lossy(65520);
    return 0;
}
