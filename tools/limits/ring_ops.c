/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What tools/bench rings measures: frames through our driver and a TAP device of ours, in turns with the
 * bare loops that a program without them would be made of.
 *
 * Receiving: a thread on another CPU queues a fixed number of frames on the kernel's side of the TAP, then
 * this thread takes them all out: what is measured is the taking, and the sender does not run meanwhile. Transmitting:
 * frames that the kernel's side drops as soon as it has them.
 *
 * Prints one line for each measurement: name, variant, round, nanoseconds a frame of this thread's
 * own time, user and kernel. One round of everything after the other.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "machine/machine.h"
#include "device/device.h"
#include "device/steering.h"
#include "nic/nic.h"
#include "ring/uring.h"
#include "tapnet.h"

#define HDR sizeof(struct net_hdr)
#define BURST 64u
#define OUR_TYPE 0x88b5 /* IEEE 802, local experimental: no one on the kernel's side handles it */
#define TCP_HDRS 54u    /* Ethernet, IPv4, TCP */
#define MSS 1446u
#define STEER 20u

static struct machine *machine;

static double
now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void
die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static void
check(const char *what, int err)
{
    if (err < 0) {
        errno = -err;
        die(what);
    }
}

static void
use(const void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
}

static void
pin(pthread_t thread, unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(thread, sizeof(set), &set); /* where there is one CPU, that one */
}

/* ---- the wire ---- */

struct wire {
    int fd[2]; /* TAP queues */
    unsigned nqueues;
    int packet; /* the kernel's side */
    bool gso;
};

/* open_wire() - a TAP; its descriptors are as a device leaves them, and a bare loop wants them */
static void
open_wire(struct wire *w, unsigned nqueues, unsigned mtu, bool gso)
{
    static unsigned number;
    struct ifreq ifr = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                             (nqueues > 1 ? IFF_MULTI_QUEUE : 0))};
    struct ifreq set = {0};
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    int size = HDR, big = 256 << 20, one = 1;

    w->nqueues = nqueues;
    w->gso = gso;
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "bench%u", number++);
    memcpy(set.ifr_name, ifr.ifr_name, sizeof(set.ifr_name));
    for (unsigned i = 0; i < nqueues; i++) {
        w->fd[i] = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
        if (w->fd[i] < 0 || ioctl(w->fd[i], TUNSETIFF, &ifr) < 0 ||
            ioctl(w->fd[i], TUNSETVNETHDRSZ, &size) < 0 || ioctl(w->fd[i], TUNSETVNETLE, &one) < 0)
            die("/dev/net/tun");
        if (i == 0) {
            set.ifr_mtu = (int)mtu;
            if (ioctl(s, SIOCSIFMTU, &set) < 0)
                die("MTU");
            set.ifr_qlen = 8192;
            if (ioctl(s, SIOCSIFTXQLEN, &set) < 0)
                die("queue length");
        }
        if (ioctl(w->fd[i], TUNSETOFFLOAD, gso ? TUN_F_CSUM | TUN_F_TSO4 : 0) < 0)
            die("offloads");
    }
    set.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(s, SIOCSIFFLAGS, &set) < 0)
        die("up");
    close(s);

    struct sockaddr_ll at = {.sll_family = AF_PACKET,
                             .sll_ifindex = (int)if_nametoindex(ifr.ifr_name)};

    w->packet = socket(AF_PACKET, SOCK_RAW, 0);
    if (w->packet < 0 || bind(w->packet, (struct sockaddr *)&at, sizeof(at)) < 0)
        die("packet socket");
    if (setsockopt(w->packet, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big)) < 0)
        setsockopt(w->packet, SOL_SOCKET, SO_SNDBUF, &big, sizeof(big));
    setsockopt(w->packet, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one));
    if (gso && setsockopt(w->packet, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) < 0)
        die("PACKET_VNET_HDR");
}

/* set_address() - the kernel's side is 198.18.9.1/24 */
static void
set_address(const struct wire *w)
{
    struct ifreq ifr = {0};
    struct sockaddr_in *at = (struct sockaddr_in *)(void *)&ifr.ifr_addr;
    int s = socket(AF_INET, SOCK_DGRAM, 0);

    if (ioctl(w->fd[0], TUNGETIFF, &ifr) < 0)
        die("name");
    memset(&ifr.ifr_addr, 0, sizeof(ifr.ifr_addr));
    at->sin_family = AF_INET;
    at->sin_addr.s_addr = htonl(0xc6120901);
    if (ioctl(s, SIOCSIFADDR, &ifr) < 0)
        die("address");
    at->sin_addr.s_addr = htonl(0xffffff00);
    if (ioctl(s, SIOCSIFNETMASK, &ifr) < 0)
        die("netmask");
    close(s);
}

static void
close_wire(struct wire *w)
{
    for (unsigned i = 0; i < w->nqueues; i++)
        close(w->fd[i]);
    close(w->packet);
}

/* make_frame() - @len bytes, from an Ethernet header on; with GSO a TCP super-frame */
static void
make_frame(uint8_t *f, size_t len, bool gso)
{
    memset(f, 0, len);
    memset(f, 0xff, 6);
    memcpy(f + 6, "\x02\x00\x00\x00\x00\x01", 6);
    f[12] = gso ? 0x08 : OUR_TYPE >> 8;
    f[13] = gso ? 0x00 : OUR_TYPE & 0xff;
    if (gso) {
        f[0] = 0x02; /* a host that is not this one: dropped by IP at once */
        f[14] = 0x45;
        f[16] = (uint8_t)((len - 14) >> 8);
        f[17] = (uint8_t)(len - 14);
        f[22] = 64;
        f[23] = 6;
        f[46] = 0x50;
    }
}

static void
gso_header(struct net_hdr *h)
{
    *h = (struct net_hdr){.flags = NET_HDR_F_NEEDS_CSUM,
                          .gso_type = NET_HDR_GSO_TCPV4,
                          .hdr_len = TCP_HDRS,
                          .gso_size = MSS,
                          .csum_start = 34,
                          .csum_offset = 16};
}

/* ---- the sender on the kernel's side ---- */

static struct {
    sem_t go, done;
    const struct wire *wire;
    size_t len;
    unsigned count;
    uint8_t steer; /* what the byte of a frame says by which a queue is chosen */
} sender;

/* send_all() - queue @count frames of @len bytes */
static void
send_all(const struct wire *w, size_t len, unsigned count)
{
    static uint8_t frame[10 + NET_FRAME_MAX]; /* virtio_net_hdr of the packet socket: 10 bytes */
    size_t skip = w->gso ? 10 : 0;
    struct iovec iov = {frame, skip + len};
    struct mmsghdr msg[BURST];

    if (w->gso) {
        struct net_hdr h;

        gso_header(&h);
        memcpy(frame, &h, 10);
    }
    make_frame(frame + skip, len, w->gso);
    if (w->nqueues > 1)
        frame[skip + STEER] = sender.steer;
    for (unsigned i = 0; i < BURST; i++)
        msg[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
    while (count > 0) {
        int sent = sendmmsg(w->packet, msg, count < BURST ? count : BURST, 0);

        if (sent < 0 && errno != ENOBUFS)
            die("sendmmsg");
        count -= sent > 0 ? (unsigned)sent : 0;
    }
}

static void *
sender_main(void *arg)
{
    (void)arg;
    for (;;) {
        sem_wait(&sender.go);
        if (sender.wire == NULL)
            return NULL;
        send_all(sender.wire, sender.len, sender.count);
        sem_post(&sender.done);
    }
}

static void
queue_frames(const struct wire *w, size_t len, unsigned count)
{
    sender.wire = w;
    sender.len = len;
    sender.count = count;
    sem_post(&sender.go);
    sem_wait(&sender.done);
}

/* ---- receiving, bare ---- */

/* Buffers of a bare loop: the same ones again and again, which is the best that can happen to a cache. */
static uint8_t *bare_room;

#define BARE_ROOM ((size_t)BURST * 20 * PAGE_SIZE)

/* Each takes frames until the queue is empty: how many there were. */
static unsigned
bare_read(const struct wire *w, size_t max)
{
    unsigned n = 0;
    ssize_t got;

    while ((got = read(w->fd[0], bare_room, max)) > 0)
        n++;
    if (got < 0 && errno != EAGAIN)
        die("read");
    return n;
}

static unsigned
bare_readv(const struct wire *w, size_t max)
{
    struct iovec iov[20];
    int niov = (int)((max + PAGE_SIZE - 1) / PAGE_SIZE);
    unsigned n = 0;

    for (int i = 0; i < niov; i++)
        iov[i] = (struct iovec){bare_room + (size_t)i * PAGE_SIZE, PAGE_SIZE};
    while (readv(w->fd[0], iov, niov) > 0)
        n++;
    return n;
}

/* BURST reads to a submission, with a registered file; it ends when one finds nothing. */
static unsigned
bare_uring(const struct wire *w, size_t max)
{
    static struct uring u = {.fd = -1};
    unsigned n = 0;
    bool empty = false;

    if (u.fd < 0) {
        check("io_uring", uring_create(BURST, 0, URING_ONE_THREAD, &u));
        check("io_uring", uring_enable(&u));
    }
    uring_unregister_files(&u);
    check("register", uring_register_files(&u, w->fd, 1));
    while (!empty) {
        uint32_t at, done = 0;

        for (unsigned i = 0; i < BURST; i++) {
            struct io_uring_sqe *e = uring_get_sqe(&u);

            uring_prep_rw(e, IORING_OP_READ, 0, bare_room + i * 20 * PAGE_SIZE, (uint32_t)max, 0);
            e->flags = IOSQE_FIXED_FILE;
            e->rw_flags = RWF_NOWAIT;
        }
        check("submit", uring_submit(&u));
        while (done < BURST) {
            uint32_t got = uring_peek(&u, &at);

            for (uint32_t i = 0; i < got; i++) {
                if (uring_cqe(&u, at + i)->res > 0)
                    n++;
                else
                    empty = true;
            }
            uring_advance(&u, got);
            done += got;
            if (done < BURST)
                check("wait", uring_submit_and_wait(&u, 1, 1000000000));
        }
    }
    uring_unregister_files(&u);
    return n;
}

/*
 * A multishot read into a ring of provided buffers. It is armed while frames wait, and takes them all; then
 * it stays, and is cancelled outside of what a frame costs.
 */
static unsigned
bare_multishot(const struct wire *w, size_t max)
{
#ifdef IORING_RECV_MULTISHOT /* Linux 6.0: headers that know rings of provided buffers */
    static struct uring u = {.fd = -1};
    static struct io_uring_buf_ring *ring;
    static uint16_t tail;
    const unsigned nbufs = 1024;
    size_t room = (max + PAGE_SIZE - 1) & ~(size_t)(PAGE_SIZE - 1);
    unsigned n = 0;
    int quiet = 0;

    if (u.fd < 0) {
        struct io_uring_buf_reg reg = {.ring_entries = nbufs};

        check("io_uring", uring_create(BURST, 4096, URING_ONE_THREAD, &u));
        check("io_uring", uring_enable(&u));
        ring = mmap(NULL, nbufs * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        reg.ring_addr = (uint64_t)(uintptr_t)ring;
        if (syscall(__NR_io_uring_register, u.fd, IORING_REGISTER_PBUF_RING, &reg, 1) < 0)
            die("provided buffers");
    }
    /* As many as the room for a bare loop holds; the frames of a smaller size use the same bytes. */
    unsigned have = (unsigned)(BARE_ROOM / room < nbufs ? BARE_ROOM / room : nbufs);

    for (unsigned i = 0; i < have; i++) {
        struct io_uring_buf *b = &ring->bufs[tail & (nbufs - 1)];

        b->addr = (uint64_t)(uintptr_t)(bare_room + i * room);
        b->len = (uint32_t)max;
        b->bid = (uint16_t)i;
        __atomic_store_n(&ring->tail, ++tail, __ATOMIC_RELEASE);
    }
    bool armed = false;

    while (quiet < 2) {
        uint32_t at;

        if (!armed) {
            struct io_uring_sqe *e = uring_get_sqe(&u);

            e->opcode = 49; /* IORING_OP_READ_MULTISHOT, Linux 6.7 */
            e->fd = w->fd[0];
            e->flags = IOSQE_BUFFER_SELECT;
            armed = true;
        }
        check("submit", uring_submit(&u));
        uint32_t got = uring_peek(&u, &at);

        quiet = got ? 0 : quiet + 1;
        for (uint32_t i = 0; i < got; i++) {
            const struct io_uring_cqe *c = uring_cqe(&u, at + i);

            armed = c->flags & IORING_CQE_F_MORE;
            if (c->res <= 0)
                continue;
            n++;
            struct io_uring_buf *b = &ring->bufs[tail & (nbufs - 1)];
            uint16_t bid = (uint16_t)(c->flags >> IORING_CQE_BUFFER_SHIFT);

            b->addr = (uint64_t)(uintptr_t)(bare_room + bid * room);
            b->len = (uint32_t)max;
            b->bid = bid;
            __atomic_store_n(&ring->tail, ++tail, __ATOMIC_RELEASE);
        }
        uring_advance(&u, got);
    }
    uring_destroy(&u); /* takes the read that is armed with it */
    munmap(ring, nbufs * sizeof(struct io_uring_buf));
    tail = 0;
    return n;
#else
    (void)w;
    (void)max;
    return 0;
#endif
}

/* ---- receiving, ours ---- */

typedef int create_device(const int *fds, unsigned nqueues, struct device **out);

static struct nic *
attach(const struct wire *w, create_device *create, uint32_t ring, uint32_t mtu, bool gso)
{
    const struct nic_config nc = {.nqueues = w->nqueues,
                                  .rx_ring_size = ring,
                                  .tx_ring_size = ring,
                                  .mtu = mtu,
                                  .offloads = gso ? OFFLOAD_CSUM | OFFLOAD_TSO4 : 0};
    struct device *d;
    struct nic *n;

    check("device", create(w->fd, w->nqueues, &d));
    check("attach", nic_attach(machine->jumbo, machine->mbufs, d, &nc, &n));
    return n;
}

static unsigned
drain(struct nic *nic, unsigned queue)
{
    struct mbuf *m[BURST];
    unsigned n = 0;
    int got;

    while ((got = nic_rx_burst(nic, queue, m, BURST)) > 0) {
        for (int i = 0; i < got; i++) {
            use(m[i]->m_data);
            m_freem(m[i]);
        }
        n += (unsigned)got;
    }
    check("receive", got);
    return n;
}

static void
make_machine(size_t pages)
{
    const struct machine_config mc = {.pages = pages};

    check("machine", machine_create(&mc, &machine));
}

static void
end_machine(void)
{
    check("pages are outstanding", machine_destroy(machine));
}

/* ---- measurements ---- */

static void
say(const char *name, const char *variant, int round, double ns, unsigned frames, unsigned expected)
{
    if (frames != expected) {
        fprintf(stderr, "%s %s: %u of %u frames arrived\n", name, variant, frames, expected);
        exit(1);
    }
    printf("%s %s %d %.2f\n", name, variant, round, ns / frames);
    fflush(stdout);
}

static void
receive_round(int round)
{
    static const struct {
        const char *name;
        unsigned len, mtu;
        bool gso;
        unsigned count;
    } what[] = {
        {"rx_64", 64, 1500, false, 6000},       {"rx_1514", 1514, 1500, false, 6000},
        {"rx_9000", 9014, 9000, false, 3000},   {"rx_gso_64", 64, 1500, true, 6000},
        {"rx_gso_64k", 65535, 1500, true, 600},
    };
    static const struct {
        const char *name;
        unsigned (*take)(const struct wire *w, size_t max);
    } bare[] = {{"read", bare_read},
                {"readv", bare_readv},
                {"uring", bare_uring},
                {"multishot", bare_multishot}};
    static const struct {
        const char *name;
        create_device *create;
    } ours[] = {{"tap_rw", tap_rw_create}, {"tap_uring", tap_uring_create}};

    for (size_t i = 0; i < sizeof(what) / sizeof(what[0]); i++) {
        bool plain64 = what[i].gso && what[i].len == 64;
        struct wire w;
        size_t max = HDR + (what[i].gso ? NET_FRAME_MAX : what[i].mtu + 18) + 1;

        open_wire(&w, 1, what[i].mtu, what[i].gso);
        if (plain64) { /* a plain frame where super-frames may come: the packet socket has no header */
            int zero = 0;

            setsockopt(w.packet, SOL_PACKET, PACKET_VNET_HDR, &zero, sizeof(zero));
            w.gso = false;
        }
        for (size_t k = 0; k < sizeof(bare) / sizeof(bare[0]); k++) {
            queue_frames(&w, what[i].len, what[i].count);
            double t = now_ns();
            unsigned n = bare[k].take(&w, max);

            say(what[i].name, bare[k].name, round, now_ns() - t, n, what[i].count);
        }
        for (size_t k = 0; k < sizeof(ours) / sizeof(ours[0]); k++) {
            end_machine(); /* each in a fresh pool, as a program has it */
            make_machine(8192);
            struct nic *nic = attach(&w, ours[k].create, 1024, what[i].mtu, what[i].gso);

            queue_frames(&w, what[i].len, 500); /* warm: the pages have been used once */
            drain(nic, 0);
            queue_frames(&w, what[i].len, what[i].count);
            double t = now_ns();
            unsigned n = drain(nic, 0);

            say(what[i].name, ours[k].name, round, now_ns() - t, n, what[i].count);
            nic_detach(nic);
        }
        close_wire(&w);
    }
}

#define TX_FRAMES 20000u

/* bare_write() - the same frame again and again; @nout 1: write(2) */
static double
bare_write(const struct wire *w, const struct iovec *iov, int nout, unsigned count)
{
    double t = now_ns();

    for (unsigned i = 0; i < count; i++) {
        if ((nout == 1 ? write(w->fd[0], iov->iov_base, iov->iov_len)
                       : writev(w->fd[0], iov, nout)) < 0)
            die("write");
    }
    return now_ns() - t;
}

/* small_packet() - 64 bytes in an mbuf, as a stack builds them, with room in front for headers */
static struct mbuf *
small_packet(const uint8_t *frame, size_t len)
{
    struct mbuf *m = mb_gethdr(machine->mbufs);

    if (m == NULL)
        die("mbuf");
    m->m_data += 16;
    memcpy(m->m_data, frame, len);
    m->m_len = m->m_pkthdr.len = (int32_t)len;
    return m;
}

static double
our_small(struct nic *nic, const uint8_t *frame, size_t len, unsigned count)
{
    double t = now_ns();

    for (unsigned i = 0; i < count; i++) {
        check("nic_tx", nic_tx(nic, 0, small_packet(frame, len)));
        if (i % BURST == BURST - 1)
            check("flush", nic_tx_flush(nic, 0));
    }
    check("flush", nic_tx_flush(nic, 0));
    return now_ns() - t;
}

/* big_packet() - headers of its own, and payload pages that it shares with the next one */
static struct mbuf *
big_packet(const uint8_t *frame, struct mbuf *payload, bool gso)
{
    struct mbuf *m = small_packet(frame, TCP_HDRS);

    m->m_next = m_copym(payload, 0, M_COPYALL, M_NOWAIT);
    if (m->m_next == NULL)
        die("mbuf");
    m->m_pkthdr.len += (int32_t)m_length(payload, NULL);
    if (gso) {
        m->m_pkthdr.csum_flags = CSUM_PARTIAL | CSUM_TSO4;
        m->m_pkthdr.csum_start = 34;
        m->m_pkthdr.csum_data = 16;
        m->m_pkthdr.tso_segsz = MSS;
        m->m_pkthdr.hdr_len = TCP_HDRS;
    }
    return m;
}

static double
our_big(struct nic *nic, const uint8_t *frame, struct mbuf *payload, bool gso, unsigned count)
{
    double t = now_ns();

    for (unsigned i = 0; i < count; i++) {
        check("nic_tx", nic_tx(nic, 0, big_packet(frame, payload, gso)));
        if (i % 8 == 7)
            check("flush", nic_tx_flush(nic, 0));
    }
    check("flush", nic_tx_flush(nic, 0));
    return now_ns() - t;
}

static void
transmit_round(int round)
{
    static uint8_t frame[HDR + NET_FRAME_MAX];
    static const struct {
        const char *name;
        create_device *create;
    } ours[] = {{"tap_rw", tap_rw_create}, {"tap_uring", tap_uring_create}};
    static const struct {
        const char *name;
        unsigned len, mtu;
        bool gso;
        unsigned count;
    } what[] = {{"tx_64", 64, 1500, false, TX_FRAMES},
                {"tx_9000", 9000, 9000, false, TX_FRAMES / 4},
                {"tx_gso_64k", 64000, 1500, true, TX_FRAMES / 20}};

    for (size_t i = 0; i < sizeof(what) / sizeof(what[0]); i++) {
        size_t len = what[i].len;
        struct mbuf *payload = NULL;
        struct iovec iov[20];
        int niov = 1;
        struct wire w;

        open_wire(&w, 1, what[i].mtu, what[i].gso);
        memset(frame, 0, HDR);
        if (what[i].gso)
            gso_header((struct net_hdr *)(void *)frame);
        make_frame(frame + HDR, len, what[i].gso);
        iov[0] = (struct iovec){frame, HDR + len};
        if (len > 64) {
            payload = mb_frombytes(machine->mbufs, machine->jumbo, frame + HDR + TCP_HDRS,
                                   len - TCP_HDRS);
            if (payload == NULL)
                die("payload");
            iov[0].iov_len = HDR + TCP_HDRS;
            for (const struct mbuf *m = payload; m; m = m->m_next)
                iov[niov++] = (struct iovec){m->m_data, (size_t)m->m_len};
        }
        bare_write(&w, iov, niov, what[i].count / 10);
        say(what[i].name, niov > 1 ? "writev" : "write", round,
            bare_write(&w, iov, niov, what[i].count), what[i].count, what[i].count);
        for (size_t k = 0; k < sizeof(ours) / sizeof(ours[0]); k++) {
            struct nic *nic = attach(&w, ours[k].create, 256, what[i].mtu, what[i].gso);
            double ns = 0;

            for (unsigned count = what[i].count / 10; count <= what[i].count; count *= 10)
                ns = payload ? our_big(nic, frame + HDR, payload, what[i].gso, count)
                             : our_small(nic, frame + HDR, len, count);
            struct nic_queue_stats st;

            nic_get_stats(nic, 0, &st);
            say(what[i].name, ours[k].name, round, ns,
                (unsigned)(st.tx_completed - what[i].count / 10), what[i].count);
            nic_detach(nic);
        }
        m_freem(payload);
        close_wire(&w);
    }
}

/* flat_round() - what a frame costs as the ring grows, and as the pool grows */
static void
flat_round(int round)
{
    const unsigned count = 6000;
    char name[32];
    struct wire w;

    open_wire(&w, 1, 1500, false);
    for (size_t pages = 1024; pages <= 1048576; pages *= 32) {
        end_machine();
        make_machine(pages);
        for (uint32_t ring = 64; ring <= 32768; ring *= 8) {
            /* The largest pool for every ring, the smallest ring for every pool. */
            if (ring != 64 && (pages != 1048576))
                continue;
            struct nic *nic = attach(&w, tap_rw_create, ring, 1500, false);

            queue_frames(&w, 64, count);
            drain(nic, 0);
            queue_frames(&w, 64, count);
            double t = now_ns();
            unsigned n = drain(nic, 0);

            t = now_ns() - t;
            snprintf(name, sizeof(name), "%u/%zu", ring, pages);
            say("flat", name, round, t, n, count);
            nic_detach(nic);
        }
    }
    end_machine();
    make_machine(8192);
    close_wire(&w);
}

/* ---- two queues ---- */

static struct {
    struct nic *nic;
    pthread_barrier_t begin;
    double ns[2];
    unsigned got[2];
} pair;

static void *
drain_queue(void *arg)
{
    unsigned queue = (unsigned)(uintptr_t)arg;

    pin(pthread_self(), queue);
    pthread_barrier_wait(&pair.begin);
    double t = now_ns();

    pair.got[queue] = drain(pair.nic, queue);
    pair.ns[queue] = now_ns() - t;
    return NULL;
}

/* queues_round() - one queue emptied by one thread, and two at the same time by one each */
static void
queues_round(int round)
{
    const unsigned count = 6000;
    struct wire w;

    open_wire(&w, 2, 1500, false);
    if (tap_steer_by_byte(w.fd[0], STEER) < 0) { /* bpf(2) is not allowed here: left out */
        close_wire(&w);
        return;
    }
    pair.nic = attach(&w, tap_rw_create, 1024, 1500, false);
    for (unsigned threads = 1; threads <= 2; threads++) {
        pthread_t thread[2];

        pthread_barrier_init(&pair.begin, NULL, threads);
        for (unsigned i = 0; i < threads; i++) {
            sender.steer = (uint8_t)i;
            queue_frames(&w, 64, count);
        }
        for (unsigned i = 0; i < threads; i++)
            pthread_create(&thread[i], NULL, drain_queue, (void *)(uintptr_t)i);
        for (unsigned i = 0; i < threads; i++)
            pthread_join(thread[i], NULL);
        pthread_barrier_destroy(&pair.begin);
        say("queues", threads == 1 ? "1" : "2", round, pair.ns[0] + (threads > 1 ? pair.ns[1] : 0),
            pair.got[0] + (threads > 1 ? pair.got[1] : 0), threads * count);
    }
    nic_detach(pair.nic);
    close_wire(&w);
}

/* ---- a TCP stream from the kernel ---- */

#define STREAM_BYTES (1u << 30) /* long enough that the windows of the beginning do not matter */
#define STREAM_PORT 5001

static struct {
    int fd;
    uint8_t reply[HDR + 64];
    uint32_t next; /* byte of the stream that is expected */
    uint64_t bytes;
    bool ack, over;
} tcp;

static uint32_t
get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void
put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint16_t
sum(const uint8_t *p, size_t len, uint32_t s)
{
    for (size_t i = 0; i < len; i += 2)
        s += (uint32_t)(p[i] << 8 | p[i + 1]);
    s = (s & 0xffff) + (s >> 16);
    return (uint16_t)~((s & 0xffff) + (s >> 16));
}

/*
 * answer() - build a segment without data for the sender of @f; returns its length. A SYN scales
 * the window by 2^8.
 */
static size_t
answer(const uint8_t *f, uint8_t flags)
{
    uint8_t *r = tcp.reply + HDR;
    size_t options = flags & 0x02 ? 8 : 0;
    uint32_t len = 20 + (uint32_t)options;

    memset(tcp.reply, 0, sizeof(tcp.reply));
    memcpy(r, f + 6, 6);
    memcpy(r + 6, f, 6);
    r[12] = 0x08;
    r[14] = 0x45;
    r[17] = (uint8_t)(20 + len);
    r[22] = 64;
    r[23] = 6;
    memcpy(r + 26, f + 30, 4);
    memcpy(r + 30, f + 26, 4);
    uint16_t s = sum(r + 14, 20, 0);

    r[24] = (uint8_t)(s >> 8);
    r[25] = (uint8_t)s;
    memcpy(r + 34, f + 36, 2);
    memcpy(r + 36, f + 34, 2);
    put32(r + 38, flags & 0x02 ? 1000 : 1001);
    put32(r + 42, tcp.next);
    r[46] = (uint8_t)(len / 4 << 4);
    r[47] = flags;
    r[48] = 0x40; /* 16,384 of 256 bytes */
    if (options)
        memcpy(r + 54, "\x02\x04\x05\xb4\x01\x03\x03\x08", 8);
    s = sum(r + 26, 8 + len, 6 + len);
    r[50] = (uint8_t)(s >> 8);
    r[51] = (uint8_t)s;
    return 34 + len;
}

/* look() - at the headers of a frame of @len bytes; bytes to answer with, if there are any */
static size_t
look(const uint8_t *f, size_t len)
{
    if (f[12] == 0x08 && f[13] == 0x06 && f[21] == 1) { /* an ARP request: claim any address */
        uint8_t *r = tcp.reply + HDR;

        memset(tcp.reply, 0, sizeof(tcp.reply));
        memcpy(r, f + 6, 6);
        memcpy(r + 6, "\x02\x00\x00\x00\x00\x02", 6);
        memcpy(r + 12, f + 12, 9);
        r[21] = 2;
        memcpy(r + 22, r + 6, 6);
        memcpy(r + 28, f + 38, 4);
        memcpy(r + 32, f + 22, 10);
        return 42;
    }
    if (f[12] != 0x08 || f[13] != 0 || f[23] != 6)
        return 0;
    size_t headers = 34 + 4u * (f[46] >> 4);
    uint32_t end = 14 + ((uint32_t)f[16] << 8 | f[17]);
    uint32_t data = end > headers && end <= len ? end - (uint32_t)headers : 0;

    if (f[47] & 0x02) {
        tcp.next = get32(f + 38) + 1;
        return answer(f, 0x12);
    }
    if (get32(f + 38) != tcp.next) {
        fprintf(stderr, "tcp: a segment is missing\n");
        exit(1);
    }
    tcp.next += data;
    tcp.bytes += data;
    if (f[47] & 0x01) {
        tcp.next++;
        tcp.over = true;
        return answer(f, 0x11);
    }
    return data ? answer(f, 0x10) : 0;
}

static void *
stream_main(void *arg)
{
    static uint8_t data[256 << 10];
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(STREAM_PORT),
                             .sin_addr.s_addr = htonl(0xc6120902)};
    int s = socket(AF_INET, SOCK_STREAM, 0);

    (void)arg;
    pin(pthread_self(), 1);
    if (connect(s, (struct sockaddr *)&to, sizeof(to)) < 0)
        die("connect");
    for (size_t left = STREAM_BYTES; left > 0;) {
        ssize_t sent = send(s, data, left < sizeof(data) ? left : sizeof(data), 0);

        if (sent < 0)
            die("send");
        left -= (size_t)sent;
    }
    close(s);
    return NULL;
}

static void
wait_for(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    if (poll(&p, 1, 10000) <= 0) {
        fprintf(stderr, "tcp: silence\n");
        exit(1);
    }
}

/* stream_bare() - readv(2) into a header and pages, the same ones again and again */
static void
stream_bare(const struct wire *w)
{
    uint8_t header[HDR + TCP_HDRS];
    struct iovec iov[18] = {{header, sizeof(header)}};

    for (size_t i = 1; i < 18; i++)
        iov[i] = (struct iovec){bare_room + i * PAGE_SIZE, PAGE_SIZE};
    while (!tcp.over) {
        ssize_t got = readv(w->fd[0], iov, 18);

        if (got < 0) {
            wait_for(w->fd[0]);
            continue;
        }
        size_t len = look(header + HDR, (size_t)got - HDR);

        if (len && write(w->fd[0], tcp.reply, HDR + len) < 0)
            die("write");
    }
}

/* stream_ours() - the NIC with header split; one acknowledgement a frame, as the bare loop */
static void
stream_ours(struct nic *nic)
{
    while (!tcp.over) {
        struct mbuf *m[BURST];
        int got = nic_rx_burst(nic, 0, m, BURST);

        check("receive", got);
        if (got == 0)
            wait_for(nic_wait_fd(nic, 0));
        for (int i = 0; i < got; i++) {
            size_t len = look((const uint8_t *)m[i]->m_data, (size_t)m[i]->m_pkthdr.len);

            m_freem(m[i]);
            if (len)
                check("nic_tx", nic_tx(nic, 0, small_packet(tcp.reply + HDR, len)));
        }
        check("flush", nic_tx_flush(nic, 0));
    }
}

/* stream_round() - the receiver's own time for 64 KiB of the stream */
static void
stream_round(int round)
{
    static const char *const name[] = {"readv", "tap_rw", "tap_uring"};

    tapnet_write("/proc/sys/net/ipv4/tcp_timestamps", "0");
    tapnet_write("/proc/sys/net/ipv4/tcp_congestion_control", "cubic");
    for (unsigned i = 0; i < 3; i++) {
        struct nic *nic = NULL;
        pthread_t thread;
        struct wire w;

        open_wire(&w, 1, 1500, true);
        set_address(&w);
        if (i) {
            end_machine();
            make_machine(8192);
            const struct nic_config nc = {.nqueues = 1,
                                          .rx_ring_size = 1024,
                                          .tx_ring_size = 256,
                                          .mtu = 1500,
                                          .offloads = OFFLOAD_CSUM | OFFLOAD_TSO4,
                                          .header_split = TCP_HDRS};
            struct device *d;

            check("device", i == 1 ? tap_rw_create(w.fd, 1, &d) : tap_uring_create(w.fd, 1, &d));
            check("attach", nic_attach(machine->jumbo, machine->mbufs, d, &nc, &nic));
        }
        memset(&tcp, 0, sizeof(tcp));
        pthread_create(&thread, NULL, stream_main, NULL);
        double t = now_ns();

        if (i)
            stream_ours(nic);
        else
            stream_bare(&w);
        t = now_ns() - t;
        pthread_join(thread, NULL);
        say("tcp_64k", name[i], round, t, (unsigned)(tcp.bytes >> 16), STREAM_BYTES >> 16);
        if (i)
            nic_detach(nic);
        close_wire(&w);
    }
}

int
main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 0;
    const char *only = argc > 2 ? argv[2] : "";
    pthread_t thread;

    if (rounds < 1) {
        fprintf(stderr, "usage: ring_ops ROUNDS [rx|tx|flat|queues|tcp]\n");
        return 2;
    }
    tapnet_enter();
    bare_room = mmap(NULL, BARE_ROOM, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (bare_room == MAP_FAILED)
        die("mmap");
    sem_init(&sender.go, 0, 0);
    sem_init(&sender.done, 0, 0);
    if (pthread_create(&thread, NULL, sender_main, NULL) != 0)
        die("thread");
    pin(pthread_self(), 0);
    pin(thread, 1);
    make_machine(8192);
    for (int r = 0; r < rounds; r++) {
        if (!*only || strcmp(only, "rx") == 0)
            receive_round(r);
        if (!*only || strcmp(only, "tx") == 0)
            transmit_round(r);
        if (!*only || strcmp(only, "flat") == 0)
            flat_round(r);
        if (!*only || strcmp(only, "queues") == 0)
            queues_round(r);
        if (!*only || strcmp(only, "tcp") == 0)
            stream_round(r);
    }
    end_machine();
    sender.wire = NULL;
    sem_post(&sender.go);
    pthread_join(thread, NULL);
    return 0;
}
