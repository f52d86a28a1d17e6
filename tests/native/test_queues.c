/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two queues, a thread each: frames arrive on the queue that the steering program says, each thread frees what
 * the other received, and at the end no page and no mbuf is missing.
 */
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine/machine.h"
#include "check.h"
#include "device/faults.h"
#include "device/steering.h"
#include "nic/nic.h"
#include "tapnet.h"

#define OUR_TYPE 0x88b5 /* IEEE 802, local experimental */
#define QUEUES 2u
#define FRAMES 20000u
#define WINDOW 500u /* frames under way */
#define STEER 20u   /* the byte that says which queue */
#define HANDS 64u

static struct machine *machine;
static struct nic *nic;
static _Atomic unsigned wrong_queue;
static _Atomic bool over;

/* What a thread hands to the other to free. */
static struct {
    pthread_mutex_t lock;
    struct mbuf *m[HANDS];
    unsigned n;
} hand[QUEUES] = {{.lock = PTHREAD_MUTEX_INITIALIZER}, {.lock = PTHREAD_MUTEX_INITIALIZER}};

/* give() - false when the other has its hands full */
static bool
give(unsigned to, struct mbuf *m)
{
    pthread_mutex_lock(&hand[to].lock);
    bool room = hand[to].n < HANDS;

    if (room)
        hand[to].m[hand[to].n++] = m;
    pthread_mutex_unlock(&hand[to].lock);
    return room;
}

static void
free_given(unsigned queue)
{
    struct mbuf *m[HANDS];

    pthread_mutex_lock(&hand[queue].lock);
    unsigned n = hand[queue].n;

    memcpy(m, hand[queue].m, n * sizeof(m[0]));
    hand[queue].n = 0;
    pthread_mutex_unlock(&hand[queue].lock);
    while (n > 0)
        m_freem(m[--n]);
}

/* Receive, send each frame back, and let the other thread free it. */
static void *
serve(void *arg)
{
    unsigned queue = (unsigned)(uintptr_t)arg;

    while (!over) {
        struct mbuf *m[32];

        nic_wait(nic, queue, 1000000);
        int got = nic_rx_burst(nic, queue, m, 32);

        CHECK(got >= 0);
        for (int i = 0; i < got; i++) {
            if ((uint8_t)m[i]->m_data[STEER] % QUEUES != queue)
                wrong_queue++;
            struct mbuf *twin = m_copypacket(m[i], M_NOWAIT);

            CHECK(twin);
            while (nic_tx(nic, queue, twin) == -ENOBUFS)
                nic_tx_flush(nic, queue);
            if (!give(!queue, m[i]))
                m_freem(m[i]);
        }
        CHECK(nic_tx_flush(nic, queue) >= 0);
        free_given(queue);
    }
    return NULL;
}

/* under_way() - of @sent frames, those that no device has taken yet */
static unsigned
under_way(unsigned sent)
{
    struct device_info info;

    nic_describe(nic, &info);
    for (unsigned i = 0; i < QUEUES; i++)
        sent -= (unsigned)info.queue[i].rx_frames;
    return sent;
}

/* settle() - until the completions that are late have come */
static void
settle(unsigned queue)
{
    struct nic_queue_stats s = {.tx_outstanding = 1};

    for (int idle = 0; s.tx_outstanding; idle++) {
        struct mbuf *m[32];
        int got = nic_rx_burst(nic, queue, m, 32);

        CHECK(got >= 0 && idle < 60000);
        while (got > 0)
            m_freem(m[--got]);
        CHECK(nic_tx_flush(nic, queue) >= 0);
        nic_get_stats(nic, queue, &s);
        usleep(1000);
    }
}

static int
plain(const int *fds, struct device **out)
{
    return tap_rw_create(fds, QUEUES, out);
}

static int
uring(const int *fds, struct device **out)
{
    return tap_uring_create(fds, QUEUES, out);
}

/* faulty() - every fault, on each queue by the thread that it belongs to */
static int
faulty(const int *fds, struct device **out)
{
    struct faults_config fc = {.seed = 1, .delay_ns = 100000, .stall_polls = 4};
    struct device *inner;
    int err = tap_rw_create(fds, QUEUES, &inner);

    for (unsigned i = 0; i < FAULT_COUNT; i++)
        fc.rx[i] = fc.tx[i] = 10000;
    return err ? err : faults_create(inner, &fc, out);
}

static void
run(int (*create)(const int *fds, struct device **out), bool steer)
{
    const struct machine_config mc = {.pages = 2048};
    const struct nic_config nc = {
        .nqueues = QUEUES, .rx_ring_size = 256, .tx_ring_size = 256, .mtu = 1500};
    uint8_t frame[200] = {2, [12] = OUR_TYPE >> 8, [13] = OUR_TYPE & 0xff};
    uint64_t each[QUEUES] = {0};
    uint64_t out = 0;
    struct nic_queue_stats s;
    struct device_info info;
    pthread_t thread[QUEUES];
    int fd[QUEUES];
    struct device *d;

    tapnet_open("tap0", 1500, QUEUES, fd);
    int kernel = tapnet_socket("tap0", OUR_TYPE);
    bool whole = create != faulty;
    int err = create(fd, &d);

    if (err == -EPERM || err == -ENOSYS)
        SKIP("no io_uring here: %s", strerror(-err));
    CHECK_EQ(err, 0);
    CHECK_EQ(machine_create(&mc, &machine), 0);
    CHECK_EQ(nic_attach(machine->jumbo, machine->mbufs, d, &nc, &nic), 0);
    CHECK_EQ(steer ? tap_steer_by_byte(fd[0], STEER) : tap_steer_automatic(fd[0]), 0);
    wrong_queue = 0;
    over = false;
    for (unsigned i = 0; i < QUEUES; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, serve, (void *)(uintptr_t)i), 0);
    for (unsigned sent = 0, idle = 0; sent < FRAMES || under_way(sent);) {
        if (sent < FRAMES && under_way(sent) < WINDOW) {
            frame[STEER] = (uint8_t)(sent * 7 / 3);
            each[frame[STEER] % QUEUES]++;
            CHECK_EQ(send(kernel, frame, 60 + sent % 140, 0), 60 + sent % 140);
            sent++;
            idle = 0;
        } else {
            CHECK(++idle < 600000);
            usleep(100);
        }
    }
    over = true;
    for (unsigned i = 0; i < QUEUES; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < QUEUES; i++) {
        free_given(i);
        settle(i);
    }
    CHECK_EQ(nic_check(nic), 0);
    nic_describe(nic, &info);
    for (unsigned i = 0; i < QUEUES; i++) {
        nic_get_stats(nic, i, &s);
        if (steer)
            CHECK_EQ(info.queue[i].rx_frames, each[i]);
        if (whole)
            CHECK_EQ(s.rx_delivered, info.queue[i].rx_frames);
        CHECK_EQ(s.tx_outstanding, 0);
        CHECK_EQ(s.rx_posted, s.rx_returned + 256);
        CHECK_EQ(s.rx_received,
                 s.rx_delivered + s.rx_drop_no_page + s.rx_drop_no_mbuf + s.rx_drop_short);
        out += info.queue[i].tx_frames;
    }
    CHECK(!whole || !steer || wrong_queue == 0);
    CHECK_EQ(tapnet_counters("tap0").rx_packets, out);
    CHECK_EQ(nic_detach(nic), 0);
    CHECK_EQ(machine_idle(machine), 0);
    CHECK_EQ(machine->arena->misuse_total, 0);
    CHECK_EQ(machine_destroy(machine), 0);
    close(kernel);
    for (unsigned i = 0; i < QUEUES; i++)
        close(fd[i]);
}

/* If bpf(2) is forbidden, the error says so. */
static void
test_forbidden(void)
{
    const struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_bpf, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog filter = {4, (struct sock_filter *)(uintptr_t)code};
    int fd, status;

    tapnet_open("tap0", 1500, 1, &fd);
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
        CHECK_EQ(tap_steer_by_byte(fd, STEER), -EPERM);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    close(fd);
}

int
main(void)
{
    int fd;

    tapnet_enter();
    test_forbidden();
    tapnet_open("tap0", 1500, 1, &fd);
    bool steer = tap_steer_by_byte(fd, STEER) == 0;

    close(fd);
    for (unsigned i = 0; i < 3; i++) {
        int (*const create[])(const int *fds, struct device **out) = {plain, uring, faulty};

        run(create[i], false);
        if (steer)
            run(create[i], true);
    }
    if (!steer)
        SKIP("the steering half: bpf(2) is not allowed here");
    return 0;
}
