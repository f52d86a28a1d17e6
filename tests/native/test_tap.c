/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A device on a TAP (its name is the argument) against a packet socket on the kernel's side, in a network
 * namespace of this process's own: frames byte for byte in both directions, and the TAP's moods.
 *
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
/* The kernel's header brings a struct vring of its own along. */
#define vring linux_vring
#include <linux/capability.h>
#include <linux/vhost.h>
#undef vring
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "machine/machine.h"
#include "check.h"
#include "device/device.h"
#include "nic/nic.h"
#include "tapnet.h"

#define OUR_TYPE 0x88b5 /* IEEE 802, local experimental */
#define RING 256u
/* How long something may take that happens in the end; an emulated machine under load takes its time. */
#define PATIENCE_NS INT64_C(60000000000)

static int (*create)(const int *fds, unsigned nqueues, struct device **out);
static bool async;     /* vhost_net: frames go out some time after the flush */
static uint32_t split; /* header split of the NICs to come */
static uint32_t coalesce_us;
static uint32_t ring = RING;

static struct {
    int fd;     /* the TAP queue */
    int packet; /* the kernel's side */
    int index;
    uint32_t mtu;
    struct machine *machine;
    struct nic *nic;
} net;

static void
set_link(bool up)
{
    tapnet_set_link("tap0", up);
}

static void
delete_link(void)
{
    struct {
        struct nlmsghdr h;
        struct ifinfomsg i;
    } request = {
        .h = {sizeof(request), RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0},
        .i = {.ifi_index = net.index},
    };
    struct {
        struct nlmsghdr h;
        struct nlmsgerr e;
    } answer;
    int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

    CHECK(s >= 0);
    CHECK_EQ(send(s, &request, sizeof(request), 0), sizeof(request));
    CHECK(recv(s, &answer, sizeof(answer), 0) > 0);
    CHECK_EQ(answer.e.error, 0);
    close(s);
}

static void
make_tap(uint32_t mtu)
{
    tapnet_open("tap0", mtu, 1, &net.fd);
    net.index = (int)if_nametoindex("tap0");
    net.mtu = mtu;
    net.packet = tapnet_socket("tap0", OUR_TYPE);
}

/* set_up_machine() - a machine with a NIC on a TAP */
static void
set_up_machine(uint32_t mtu, uint32_t offloads, const struct machine_config *mc)
{
    const struct nic_config nc = {.nqueues = 1,
                                  .rx_ring_size = ring,
                                  .tx_ring_size = 2 * RING,
                                  .mtu = mtu,
                                  .offloads = offloads,
                                  .header_split = split,
                                  .coalesce_us = coalesce_us};
    struct device *d;

    make_tap(mtu);
    int err = create(&net.fd, 1, &d);

    if (err == -EPERM || err == -ENOSYS)
        SKIP("no io_uring here: %s", strerror(-err));
    CHECK_EQ(err, 0);
    CHECK_EQ(machine_create(mc, &net.machine), 0);
    CHECK_EQ(nic_attach(net.machine->jumbo, net.machine->mbufs, d, &nc, &net.nic), 0);
}

static void
set_up(uint32_t mtu, uint32_t offloads, bool strict)
{
    const struct machine_config mc = {.pages = 2048, .strict = strict};

    set_up_machine(mtu, offloads, &mc);
}

static void
tear_down(void)
{
    CHECK_EQ(nic_check(net.nic), 0);
    CHECK_EQ(nic_detach(net.nic), 0);
    CHECK_EQ(machine_idle(net.machine), 0);
    CHECK_EQ(net.machine->arena->misuse_total, 0);
    CHECK_EQ(machine_destroy(net.machine), 0);
    close(net.packet);
    close(net.fd);
}

static uint64_t random_state = 1;

static uint32_t
random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

/* make_frame() - what frame number @number looks like, both ends know */
static void
make_frame(uint8_t *f, uint32_t number, uint32_t len)
{
    memset(f, 0xff, 6);
    memcpy(f + 6, "\x02\x00\x00\x00\x00\x01", 6);
    f[12] = OUR_TYPE >> 8;
    f[13] = OUR_TYPE & 0xff;
    for (uint32_t i = 14; i < len; i++)
        f[i] = (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

/* make_chain() - the frame in jumbo pages, in pieces of any length; NULL when out of them */
static struct mbuf *
make_chain(const uint8_t *frame, uint32_t len)
{
    struct mbuf *top = mb_gethdr(net.machine->mbufs);
    struct mbuf *m = top;

    CHECK(m);
    for (uint32_t at = 0; at < len;) {
        uint32_t part = 1 + random_below(PAGE_SIZE);
        struct vm_page *pg = jumbo_alloc(net.machine->jumbo, RETURN_SITE());

        CHECK(pg);
        part = part < len - at ? part : len - at;
        vm_page_turn(pg, VPS_MBUF, VPE_MBUF);
        CHECK_EQ(m_extadd(m, jumbo_kva(net.machine->jumbo, pg), PAGE_SIZE, jumbo_freem, NULL, 0,
                          EXT_JUMBOP),
                 0);
        memcpy(m->m_data, frame + at, part);
        m->m_len = (int32_t)part;
        at += part;
        if (at < len) {
            m->m_next = mb_get(net.machine->mbufs);
            m = m->m_next;
            CHECK(m);
        }
    }
    top->m_pkthdr.len = (int32_t)len;
    return top;
}

/* receive() - receive exactly @n frames, in order, as the packet socket sent them */
static void
receive(uint32_t first, unsigned n, const uint32_t *len, unsigned burst)
{
    static uint8_t want[70000], have[70000];
    struct mbuf *m[64];
    unsigned got = 0;

    for (int idle = 0; got < n && idle < 1000;) {
        int r = nic_rx_burst(net.nic, 0, m, burst);

        CHECK(r >= 0);
        if (r == 0) {
            idle++;
            nic_wait(net.nic, 0, async ? PATIENCE_NS : 1000000);
        }
        for (int i = 0; i < r; i++) {
            uint32_t total = (uint32_t)m[i]->m_pkthdr.len;

            CHECK_EQ(m_length(m[i], NULL), total);
            CHECK_EQ(m_copydata(m[i], 0, (int)total, (caddr_t)have), 0);
            if (split) {
                CHECK_EQ(m[i]->m_len, total < split ? total : split);
                CHECK(!m[i]->m_next || (uintptr_t)m[i]->m_next->m_data % PAGE_SIZE == 0);
            }
            m_freem(m[i]);
            if (have[12] != OUR_TYPE >> 8 || have[13] != (OUR_TYPE & 0xff))
                continue; /* the kernel's own */
            CHECK(got < n);
            CHECK_EQ(total, len[got]);
            make_frame(want, first + got, total);
            CHECK(memcmp(want, have, total) == 0);
            got++;
        }
        CHECK_EQ(nic_check(net.nic), 0);
    }
    CHECK_EQ(got, n);
}

static void
test_receive(uint32_t number, unsigned n, uint32_t max)
{
    static uint8_t frame[70000];
    uint32_t len[256];

    for (unsigned i = 0; i < n; i++) {
        len[i] = 14 + random_below(max + 1);
        make_frame(frame, number + i, len[i]);
        CHECK_EQ(send(net.packet, frame, len[i], 0), len[i]);
    }
    receive(number, n, len, 1 + random_below(64));
}

/* expect() - the packet socket has exactly these frames */
static void
expect(uint32_t first, unsigned n, const uint32_t *len)
{
    static uint8_t want[70000], have[70000];

    for (unsigned i = 0; i < n; i++) {
        CHECK_EQ(recv(net.packet, have, sizeof(have), 0), len[i]);
        make_frame(want, first + i, len[i]);
        CHECK(memcmp(want, have, len[i]) == 0);
    }
    CHECK(recv(net.packet, have, sizeof(have), 0) < 0);
    CHECK_EQ(errno, EAGAIN);
}

/* flush() - transmit what is on the ring, at least @least frames; returns how many were sent */
static unsigned
flush(int least)
{
    struct nic_queue_stats s;
    int r = nic_tx_flush(net.nic, 0);

    CHECK(r >= (async ? 0 : least));
    for (int idle = 0; async && idle < 10000; idle++) {
        nic_get_stats(net.nic, 0, &s);
        if (s.tx_outstanding == 0)
            break;
        usleep(1000);
        CHECK(nic_tx_flush(net.nic, 0) >= 0);
        CHECK(idle < 9999);
    }
    return (unsigned)r;
}

/* flush_all() - transmit what is on the ring, @n frames */
static void
flush_all(unsigned n)
{
    unsigned sent = flush((int)n);

    CHECK(async || sent == n);
}

static void
test_transmit(uint32_t number, unsigned n, uint32_t max)
{
    static uint8_t frame[70000];
    uint32_t len[256];
    unsigned sent = 0;

    for (unsigned i = 0; i < n; i++) {
        len[i] = 14 + random_below(max + 1);
        make_frame(frame, number + i, len[i]);
        struct mbuf *m = make_chain(frame, len[i]);
        int err = nic_tx(net.nic, 0, m);

        if (err == -ENOBUFS) {
            sent += flush(1);
            err = nic_tx(net.nic, 0, m);
        }
        CHECK_EQ(err, 0);
    }
    sent += flush(0);
    CHECK(async || sent == n);
    CHECK_EQ(nic_check(net.nic), 0);
    expect(number, n, len);
}

static void
test_both_ways(uint32_t mtu, uint32_t offloads, bool strict)
{
    uint32_t number = 0;
    int room = 0;
    socklen_t size = sizeof(room);

    set_up(mtu, offloads, strict);
    /* Without root the socket's buffer stays small, and the kernel charges it twice for a frame. */
    CHECK_EQ(getsockopt(net.packet, SOL_SOCKET, SO_RCVBUF, &room, &size), 0);
    unsigned most = 1 + (unsigned)room / (3 * (mtu + 1024));

    /* An emulated machine is ten times as slow, and says so. */
    for (int round = 0; round < (getenv("HARNESS_IN_VM") ? 6 : 60); round++) {
        unsigned n = 1 + random_below(most < 120 ? most : 120);

        test_receive(number, n, mtu);
        test_transmit(number + 1000, n, mtu);
        number += n;
    }
    tear_down();
}

/* A TAP does not tell how many frames wait: after some came, the next are seen when the time is over. */
static void
test_coalescing(void)
{
    coalesce_us = 3600u * 1000000; /* longer than any test */
    set_up(1500, 0, false);
    CHECK_EQ(nic_wait(net.nic, 0, 0), 0);
    for (int i = 0; i < 20; i++) {
        uint8_t frame[60];
        struct mbuf *m;

        make_frame(frame, 0, 60);
        CHECK_EQ(send(net.packet, frame, 60, 0), 60);
        CHECK_EQ(nic_wait(net.nic, 0, 60 * 1000000000ll), 1);
        CHECK_EQ(nic_rx_burst(net.nic, 0, &m, 1), 1);
        m_freem(m);
        CHECK_EQ(nic_rx_burst(net.nic, 0, &m, 1), 0);
        CHECK_EQ(send(net.packet, frame, 60, 0), 60);
        CHECK_EQ(nic_wait(net.nic, 0, 0), 0);
        CHECK_EQ(nic_rx_burst(net.nic, 0, &m, 1), 1);
        m_freem(m);
        CHECK_EQ(nic_rx_burst(net.nic, 0, &m, 1), 0); /* something came: wait again */
        CHECK_EQ(nic_rx_burst(net.nic, 0, &m, 1), 0); /* nothing came: quiet */
    }
    tear_down();
    coalesce_us = 1000;
    set_up(1500, 0, false);
    for (uint32_t i = 0; i < 50; i++)
        test_receive(100 * i, 20, 1500);
    tear_down();
    coalesce_us = 0;
}

/* send_queued() - @n frames on the ring, without a flush */
static void
queue_frames(uint32_t number, unsigned n, uint32_t len)
{
    static uint8_t frame[70000];

    for (unsigned i = 0; i < n; i++) {
        make_frame(frame, number + i, len);
        CHECK_EQ(nic_tx(net.nic, 0, make_chain(frame, len)), 0);
    }
}

static void
test_link_down(void)
{
    uint32_t len[100];
    struct nic_queue_stats st;
    struct device_info info;

    for (unsigned n = 1; n <= 100; n += 33) {
        set_up(1500, 0, false);
        for (unsigned i = 0; i < n; i++)
            len[i] = 60;
        set_link(false);
        queue_frames(0, n, 60);
        CHECK_EQ(nic_tx_flush(net.nic, 0), -ENETDOWN);
        CHECK_EQ(nic_tx_flush(net.nic, 0), -ENETDOWN);
        nic_get_stats(net.nic, 0, &st);
        nic_describe(net.nic, &info);
        CHECK_EQ(st.tx_outstanding, n);
        CHECK_EQ(info.queue[0].link_down, 2);
        CHECK_EQ(nic_check(net.nic), 0);
        set_link(true);
        recv(net.packet, len, 0, 0); /* ENETDOWN waits on the socket */
        CHECK_EQ(nic_tx_flush(net.nic, 0), n);
        expect(0, n, len);
        test_receive(500, 20, 1500);

        /* Down again, and frames still on the ring when the NIC goes. */
        set_link(false);
        queue_frames(0, n, 60);
        CHECK_EQ(nic_tx_flush(net.nic, 0), -ENETDOWN);
        tear_down();
    }
}

static void *
sleep_on_queue(void *arg)
{
    *(int *)arg = nic_wait(net.nic, 0, PATIENCE_NS);
    return NULL;
}

static void
test_deleted(void)
{
    struct mbuf *m;

    for (unsigned n = 1; n < 50; n += 20) {
        pthread_t sleeper;
        int woken = 0;

        set_up(1500, 0, false);
        test_transmit(0, 20, 1500);
        CHECK_EQ(nic_rx_burst(net.nic, 0, &m, 1), 0);
        CHECK_EQ(pthread_create(&sleeper, NULL, sleep_on_queue, &woken), 0);
        delete_link();
        pthread_join(sleeper, NULL);
        CHECK_EQ(woken, 1);
        queue_frames(0, n, 60);
        CHECK_EQ(nic_tx_flush(net.nic, 0), -ENODEV);
        CHECK_EQ(nic_rx_burst(net.nic, 0, &m, 1), -ENODEV);
        CHECK_EQ(nic_wait(net.nic, 0, 1000000000), 1); /* says so at once: there is news */
        tear_down();
    }
}

/* kernel_receive() - what the packet socket has next; it may be on its way */
static ssize_t
kernel_receive(void *to, size_t size)
{
    struct pollfd p = {net.packet, POLLIN, 0};

    CHECK_EQ(poll(&p, 1, async ? PATIENCE_NS / 1000000 : 0), 1);
    return recv(net.packet, to, size, 0);
}

/* Frames in a batch that cannot be sent: those around them are. */
static void
test_bad_frames(void)
{
    const struct {
        unsigned n, bad;
    } batch[] = {{1, 0}, {5, 2}, {20, 0}, {20, 7}, {64, 63}};
    uint8_t frame[64];

    for (unsigned i = 0; i < sizeof(batch) / sizeof(batch[0]); i++) {
        int file = memfd_create("test_tap", 0);
        struct vm_object *o;
        struct sf_run run;
        struct device_info info;
        uint8_t have[2048];

        set_up(1500, OFFLOAD_ALL, false);
        CHECK_EQ(ftruncate(file, 8192), 0);
        CHECK_EQ(vm_object_open(net.machine->sf_map, file, &o), 0);
        CHECK_EQ(sf_run_alloc(o, 1, 1, SFB_NOWAIT, &run), 0);
        CHECK_EQ(ftruncate(file, 0), 0);
        for (unsigned k = 0; k < batch[i].n; k++) {
            make_frame(frame, k, 64);
            struct mbuf *m = make_chain(frame, 64);

            if (k == batch[i].bad) { /* its payload is on a page that no longer exists */
                struct mbuf *gone = mb_get(net.machine->mbufs);

                CHECK_EQ(m_extadd(gone, run.kva, PAGE_SIZE, sf_run_ext_free, (void *)1, M_RDONLY,
                                  EXT_SFBUF),
                         0);
                gone->m_len = 100;
                m_cat(m, gone);
                m->m_pkthdr.len += 100;
            }
            CHECK_EQ(nic_tx(net.nic, 0, m), 0);
        }
        /* A super-frame that ends inside its TCP header: refused by the kernel. */
        make_frame(frame, 0, 64);
        struct mbuf *m = make_chain(frame, 64);

        m->m_pkthdr.csum_flags = CSUM_PARTIAL | CSUM_TSO4;
        m->m_pkthdr.csum_start = 50;
        m->m_pkthdr.csum_data = 0;
        m->m_pkthdr.tso_segsz = 1;
        m->m_pkthdr.hdr_len = 54;
        CHECK_EQ(nic_tx(net.nic, 0, m), 0);
        int said = nic_tx_flush(net.nic, 0);

        /* This is noticed only when the worker has tried for a while, and it wakes a sleeper. */
        for (unsigned k = 0; async && said == 0 && k < 1000; k++) {
            CHECK_EQ(nic_wait(net.nic, 0, PATIENCE_NS), 1);
            CHECK_EQ(nic_rx_burst(net.nic, 0, &m, 1), 0);
            said = nic_tx_flush(net.nic, 0);
        }
        CHECK_EQ(said, -EFAULT);
        nic_describe(net.nic, &info);
        CHECK_EQ(info.queue[0].tx_fault, 1);
        CHECK_EQ(info.queue[0].tx_frames, async ? 0 : batch[i].n - 1);
        CHECK_EQ(info.queue[0].tx_refused, async ? 0 : 1); /* the worker does not tell */
        CHECK_EQ(nic_check(net.nic), 0);
        for (unsigned k = 0; k < batch[i].n; k++) {
            if (k == batch[i].bad)
                continue;
            make_frame(frame, k, 64);
            CHECK_EQ(kernel_receive(have, sizeof(have)), 64);
            CHECK(memcmp(frame, have, 64) == 0);
        }
        CHECK(recv(net.packet, have, sizeof(have), MSG_DONTWAIT) < 0);
        flush(0);
        vm_object_close(o);
        close(file);
        tear_down();
    }
}

/* A frame longer than the driver takes is dropped whole; those around it arrive. */
static void
test_too_long(void)
{
    static uint8_t frame[9000];
    uint32_t len[4] = {60, 60, 60, 60};
    struct device_info info;

    set_up(1500, 0, false);
    struct ifreq ifr = {.ifr_mtu = 9000};

    strcpy(ifr.ifr_name, "tap0");
    CHECK_EQ(ioctl(net.packet, SIOCSIFMTU, &ifr), 0);
    for (unsigned i = 0; i < 4; i++) {
        make_frame(frame, i, 9000);
        CHECK_EQ(send(net.packet, frame, 60, 0), 60);
        CHECK_EQ(send(net.packet, frame, 9000, 0), 9000);
    }
    receive(0, 4, len, 8);
    nic_rx_burst(net.nic, 0, &(struct mbuf *){NULL}, 1);
    nic_describe(net.nic, &info);
    CHECK_EQ(info.queue[0].rx_truncated, 4);
    tear_down();
}

/* A frame longer than the whole ring has room for is dropped whole, at once, and counted. */
static void
test_small_ring(void)
{
    static uint8_t frame[40000];
    uint32_t len[30];
    struct device_info info;

    ring = 8;
    for (split = 0; split <= 66; split += 66) { /* a quarter of the ring is for headers then */
        set_up(65000, 0, false);
        for (unsigned i = 0; i < 30; i++) {
            len[i] = 60 + random_below(20000);
            make_frame(frame, i, len[i]);
            CHECK_EQ(send(net.packet, frame, len[i], 0), len[i]);
            make_frame(frame, 0, 34000);
            CHECK_EQ(send(net.packet, frame, 34000, 0), 34000);
        }
        receive(0, 30, len, 8);
        while (nic_rx_burst(net.nic, 0, &(struct mbuf *){NULL}, 1) > 0)
            CHECK(!"another frame");
        nic_describe(net.nic, &info);
        CHECK_EQ(info.queue[0].rx_truncated, 30);
        tear_down();
    }
    ring = RING;
    split = 0;
}

/* TCP super-frames, whole in both directions: @copies of @len bytes at a time on the way out. */
static void
test_super_frames(uint16_t len, unsigned copies)
{
    struct {
        uint8_t h[10]; /* what precedes a frame on the packet socket: the old, shorter form */
        uint8_t f[65535];
    } *p = calloc(1, sizeof(*p)), *back = calloc(1, sizeof(*back));
    const struct net_hdr h = {.flags = NET_HDR_F_NEEDS_CSUM,
                              .gso_type = NET_HDR_GSO_TCPV4,
                              .hdr_len = 54,
                              .gso_size = 1446,
                              .csum_start = 34,
                              .csum_offset = 16};
    const uint8_t ip[20] = {0x45,
                            0,
                            (uint8_t)((len - 14) >> 8),
                            (uint8_t)(len - 14),
                            0,
                            1,
                            0,
                            0,
                            64,
                            6,
                            0,
                            0,
                            10,
                            9,
                            0,
                            2,
                            10,
                            9,
                            0,
                            1};
    struct device_info info;
    struct mbuf *m;
    int one = 1;
    int big = 200000;

    set_up(1500, OFFLOAD_ALL, false);
    nic_describe(net.nic, &info);
    if (!(info.offloads & OFFLOAD_TSO4))
        SKIP("this kernel's TAP has no TSO");
    memcpy(p->h, &h, sizeof(p->h));
    memset(p->f, 0xff, 6);
    p->f[12] = 0x08;
    memcpy(p->f + 14, ip, 20);
    p->f[34 + 12] = 0x50; /* a TCP header of 20 bytes */
    for (uint32_t i = 54; i < len; i++)
        p->f[i] = (uint8_t)(i * 13 + (i >> 8));

    struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = net.index};
    int s = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);

    CHECK_EQ(setsockopt(s, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)), 0);
    CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_RCVBUF, &big, sizeof(big)), 0);
    CHECK_EQ(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
    for (int round = 0; round < 50; round++) {
        int r = 0;

        CHECK_EQ(send(s, p, sizeof(p->h) + len, 0), sizeof(p->h) + len);
        for (int i = 0; i < 1000 && r == 0; i++) {
            nic_wait(net.nic, 0, 1000000);
            r = nic_rx_burst(net.nic, 0, &m, 1);
        }
        CHECK_EQ(r, 1);
        CHECK_EQ(m->m_pkthdr.len, len);
        CHECK(m->m_pkthdr.csum_flags & CSUM_TSO4);
        CHECK_EQ(m->m_pkthdr.tso_segsz, 1446);
        CHECK_EQ(m_copydata(m, 0, len, (caddr_t)back->f), 0);
        CHECK(memcmp(p->f + 54, back->f + 54, len - 54u) == 0);
        CHECK_EQ(nic_check(net.nic), 0);

        /* And back, on the pages it came in. */
        for (unsigned k = 1; k < copies; k++)
            CHECK_EQ(nic_tx(net.nic, 0, m_copypacket(m, M_NOWAIT)), 0);
        CHECK_EQ(nic_tx(net.nic, 0, m), 0);
        flush_all(copies);
        for (unsigned k = 0; k < copies; k++) {
            memset(back, 0, sizeof(*back));
            CHECK_EQ(recv(s, back, sizeof(*back), 0), sizeof(p->h) + len);
            CHECK(memcmp(&back->h[1], &p->h[1], 5) == 0); /* GSO type, header and segment size */
            CHECK(memcmp(p->f + 54, back->f + 54, len - 54u) == 0);
        }
    }
    close(s);
    free(p);
    free(back);
    tear_down();
}

static void *
transmit_here(void *arg)
{
    uint32_t number = (uint32_t)(uintptr_t)arg;

    test_receive(number, 30, 1500);
    test_transmit(number, 30, 1500);
    return NULL;
}

/* A queue belongs to one thread at a time, and that may be another one later. */
static void
test_threads(void)
{
    set_up(1500, 0, false);
    for (uintptr_t i = 0; i < 10; i++) {
        pthread_t thread;

        transmit_here((void *)(i * 200));
        CHECK_EQ(pthread_create(&thread, NULL, transmit_here, (void *)(i * 200 + 100)), 0);
        pthread_join(thread, NULL);
    }
    tear_down();
}

static unsigned
open_descriptors(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Attached and detached many times, with pages posted: no descriptor is left behind. */
static void
test_cycles(int cycles)
{
    unsigned before = open_descriptors();

    for (int i = 0; i < cycles; i++) {
        set_up(1500, OFFLOAD_ALL, false);
        tear_down();
    }
    CHECK_EQ(open_descriptors(), before);
}

/* ---- vhost_net: how it is refused, and what its worker makes of what it is given ---- */

static uint64_t hidden_features; /* that the kernel has and we are not to see */

int
ioctl(int fd, unsigned long request, ...)
{
    va_list ap;

    va_start(ap, request);
    void *arg = va_arg(ap, void *);

    va_end(ap);
    int r = (int)syscall(SYS_ioctl, fd, request, arg);

    if (request == VHOST_GET_FEATURES && r == 0)
        *(uint64_t *)arg &= ~hidden_features;
    return r;
}

static void
without_device(void)
{
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), 0);
    CHECK_EQ(mount("none", "/dev", "tmpfs", 0, NULL), 0);
}

/* Drop the capability rather than change the user: a user namespace has no other user. */
static void
without_permission(void)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

    without_device();
    close(open("/dev/vhost-net", O_CREAT | O_RDONLY, 0));
    CHECK_EQ(syscall(SYS_capset, &h, none), 0);
}

static void
without_features(void)
{
    hidden_features = (UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF) | (UINT64_C(1) << VIRTIO_F_VERSION_1);
}

/* What it takes is not there: attaching says so, and leaves nothing behind. */
static void
test_refused(void)
{
    const struct {
        void (*prepare)(void);
        int err, missing_err;
    } way[] = {
        {without_device, -ENOENT, -ENOENT},
        {without_permission, -EACCES, -EACCES},
        {without_features, -EOPNOTSUPP, 0},
    };

    for (unsigned i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
        pid_t pid = fork();
        int status;

        CHECK(pid >= 0);
        if (pid == 0) {
            const struct machine_config mc = {.pages = 2048};
            const struct nic_config nc = {
                .nqueues = 1, .rx_ring_size = RING, .tx_ring_size = RING, .mtu = 1500};
            struct device *d;
            uint64_t missing = 0;

            make_tap(1500);
            CHECK_EQ(unshare(CLONE_NEWNS), 0);
            way[i].prepare();
            CHECK_EQ(vhost_net_missing(&missing), way[i].missing_err);
            CHECK_EQ(missing, hidden_features);
            CHECK_EQ(machine_create(&mc, &net.machine), 0);
            unsigned before = open_descriptors();

            CHECK_EQ(create(&net.fd, 1, &d), 0);
            CHECK_EQ(nic_attach(net.machine->jumbo, net.machine->mbufs, d, &nc, &net.nic),
                     way[i].err);
            CHECK_EQ(open_descriptors(), before);
            CHECK_EQ(machine_idle(net.machine), 0);
            CHECK_EQ(machine_destroy(net.machine), 0);
            _exit(0);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
    }
}

/* A chain that lies where the device may not look: the worker stops and says so. */
static void
test_broken_ring(void)
{
    static char elsewhere[1500];
    const struct machine_config mc = {.pages = RING};
    const struct vq_seg seg = {elsewhere, sizeof(elsewhere)};
    unsigned before = open_descriptors();
    struct vring rx, tx;
    struct vq_driver q;
    struct device *d;
    struct device_info info;
    uint32_t len;

    make_tap(1500);
    CHECK_EQ(machine_create(&mc, &net.machine), 0);
    CHECK_EQ(create(&net.fd, 1, &d), 0);
    CHECK_EQ(vring_create(net.machine->arena, RING, true, &rx), 0);
    CHECK_EQ(vring_create(net.machine->arena, RING, true, &tx), 0);
    CHECK_EQ(vq_driver_init(&q, &tx), 0);

    struct device_attach at = {.arena = net.machine->arena, .nqueues = 1, .queue = {{&rx, &tx}}};

    CHECK_EQ(d->ops->attach(d, &at), 0);
    CHECK_EQ(vq_driver_add(&q, &seg, 1, 0, elsewhere), 0);
    vq_driver_publish(&q);
    d->ops->kick(d, 0); /* the worker may be quick */
    d->ops->describe(d, &info);

    struct pollfd p = {.fd = info.wait_fd[0], .events = POLLIN};

    CHECK_EQ(poll(&p, 1, PATIENCE_NS / 1000000), 1);
    CHECK_EQ(d->ops->kick(d, 0), -EPROTO);
    CHECK_EQ(async ? device_posted(d, 0) : device_poll(d, 0, 1), -EPROTO);
    CHECK_EQ(d->ops->detach(d), 0);
    CHECK(vq_driver_get(&q, &len) == NULL); /* not used: the driver's to reclaim */
    CHECK_EQ(vq_driver_outstanding(&q), 1);
    d->ops->destroy(d);
    vq_driver_fini(&q);
    vring_destroy(&rx);
    vring_destroy(&tx);
    CHECK_EQ(machine_idle(net.machine), 0);
    CHECK_EQ(machine_destroy(net.machine), 0);
    close(net.packet);
    close(net.fd);
    CHECK_EQ(open_descriptors(), before);
}

/* Pages that the pool did not have at attach are as good as the others. */
static void
test_growth(void)
{
    const struct machine_config mc = {.pages = RING, .max_pages = 8 * RING};
    static uint8_t want[1500], have[1500];
    static struct mbuf *held[4 * RING];

    set_up_machine(1500, 0, &mc);
    size_t before = depot_total(&net.machine->jumbo->depot);

    for (unsigned i = 0; i < 4 * RING; i++) {
        int got = 0;

        make_frame(want, i, sizeof(want));
        CHECK_EQ(send(net.packet, want, sizeof(want), 0), sizeof(want));
        while (got == 0) {
            CHECK_EQ(nic_wait(net.nic, 0, PATIENCE_NS), 1);
            got = nic_rx_burst(net.nic, 0, &held[i], 1);
            CHECK(got >= 0);
        }
    }
    CHECK(depot_total(&net.machine->jumbo->depot) > before);
    for (unsigned i = 0; i < 4 * RING; i++) {
        make_frame(want, i, sizeof(want));
        CHECK_EQ(held[i]->m_pkthdr.len, sizeof(want));
        CHECK_EQ(m_copydata(held[i], 0, sizeof(want), (caddr_t)have), 0);
        CHECK(memcmp(want, have, sizeof(want)) == 0);
        m_freem(held[i]);
    }
    tear_down();
}

static void
test_bad_arguments(void)
{
    struct device *d;
    int fds[2];

    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(create(fds, 1, &d), -EINVAL);
    CHECK_EQ(create(fds, 0, &d), -EINVAL);
    CHECK_EQ(create(fds, NIC_MAX_QUEUES + 1, &d), -EINVAL);
    close(fds[0]);
    close(fds[1]);
    CHECK_EQ(create(fds, 1, &d), -EBADF);
}

/* Where io_uring is forbidden, that is what tap_uring says; tap_rw has no need of it. */
static void
test_forbidden(void)
{
    const int errors[] = {EPERM, ENOSYS};

    for (unsigned i = 0; i < 2; i++) {
        const struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)errors[i]),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        const struct sock_fprog filter = {4, (struct sock_filter *)code};
        pid_t pid;
        int status;

        make_tap(1500);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            struct device *d;

            CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
            CHECK_EQ(create(&net.fd, 1, &d), create == tap_uring_create ? -errors[i] : 0);
            _exit(0);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
        close(net.packet);
        close(net.fd);
    }
}

int
main(int argc, char **argv)
{
    const uint32_t sizes[] = {1500, 9000, 65000};

    CHECK(argc >= 2);
    async = strcmp(argv[1], "vhost_net") == 0;
    create = async                               ? vhost_net_create
             : strcmp(argv[1], "tap_uring") == 0 ? tap_uring_create
                                                 : tap_rw_create;
    if (async && access("/dev/vhost-net", R_OK | W_OK) < 0)
        SKIP("/dev/vhost-net: %s (tools/vmrun has one)", strerror(errno));
    tapnet_enter();
    test_bad_arguments();
    test_forbidden();
    for (unsigned i = 0; i < 3; i++) {
        random_state = i + 1;
        test_both_ways(sizes[i], 0, false);
        test_both_ways(sizes[i], OFFLOAD_ALL, i == 1);
        if (!async) {
            split = 66;
            test_both_ways(sizes[i], OFFLOAD_ALL, i == 2);
            split = 0;
        }
    }
    test_deleted();
    test_bad_frames();
    if (async) {
        test_refused();
        test_broken_ring();
        test_growth();
        test_cycles(argc > 2 ? atoi(argv[2]) : 1000);
    } else { /* what these look for, the worker does not tell */
        test_link_down();
        test_coalescing();
        test_too_long();
        test_small_ring();
    }
    test_super_frames(60054, 2);
    test_super_frames(10054, 12);
    test_threads();
    return 0;
}
