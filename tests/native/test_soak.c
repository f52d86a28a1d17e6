/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Many frames through a device that does everything wrong, and at the end nothing is lost.
 *
 *     test_soak DEVICE [FRAMES [SEED]]
 *
 * Half of the frames go each way, with every fault that there is, by a pool that is too small now and then. The
 * kernel counts along: what it handed to the TAP is what the device took, what the device gave is what it got.
 */
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "machine/machine.h"
#include "check.h"
#include "device/faults.h"
#include "nic/nic.h"
#include "tapnet.h"

#define OUR_TYPE 0x88b5 /* IEEE 802, local experimental */
#define RING 256u
#define PAGES 400u /* the ring, and not quite enough for those who keep what they received */
#define BURST 64u
#define FRAME_MAX 9014u

static uint64_t rng;
static struct machine *machine;
static struct nic *nic;
static struct mbuf *kept[PAGES];
static unsigned nkept;

static uint32_t
below(uint32_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((rng >> 33) * n >> 31);
}

/* let_go() - free frames that were kept, in no order */
static void
let_go(unsigned n)
{
    for (; n > 0 && nkept > 0; n--) {
        unsigned i = below(nkept);

        m_freem(kept[i]);
        kept[i] = kept[--nkept];
    }
}

/* receive() - most frames are freed at once, some are kept for a while; how many came */
static int
receive(void)
{
    struct mbuf *m[BURST];
    int got = nic_rx_burst(nic, 0, m, BURST);

    CHECK(got >= 0);
    for (int i = 0; i < got; i++) {
        if (nkept < PAGES && below(2) == 0)
            kept[nkept++] = m[i];
        else
            m_freem(m[i]);
    }
    return got;
}

static void
transmit(const uint8_t *frame, uint32_t len)
{
    struct mbuf *m;
    int err;

    while ((m = mb_frombytes(machine->mbufs, machine->jumbo, frame, len)) == NULL) {
        /* The pool is empty: consumers free some of the frames they keep, and the ring those it sent. */
        let_go(16);
        CHECK(nic_tx_flush(nic, 0) >= 0);
    }
    while ((err = nic_tx(nic, 0, m)) == -ENOBUFS)
        CHECK(nic_tx_flush(nic, 0) >= 0); /* completions are late */
    CHECK_EQ(err, 0);
}

/* settle() - wait until everything is sent and everything received is taken */
static void
settle(uint64_t frames_in)
{
    const struct timespec pause = {0, 1000000};
    struct nic_queue_stats s;
    struct device_info info;

    for (int idle = 0; idle < 60000; idle++) {
        let_go(nkept);
        receive();
        CHECK(nic_tx_flush(nic, 0) >= 0);
        nic_get_stats(nic, 0, &s);
        nic_describe(nic, &info);
        if (s.tx_outstanding == 0 && info.queue[0].rx_frames >= frames_in)
            break;
        nanosleep(&pause, NULL);
    }
    CHECK_EQ(s.tx_outstanding, 0);
    CHECK_EQ(info.queue[0].rx_frames, frames_in);
    let_go(nkept);
}

static struct device *
create(const char *name, int fd)
{
    struct device *d = NULL;
    int err =
        strcmp(name, "tap_uring") == 0 ? tap_uring_create(&fd, 1, &d) : tap_rw_create(&fd, 1, &d);

    if (err == -EPERM || err == -ENOSYS)
        SKIP("no io_uring here: %s", strerror(-err));
    CHECK_EQ(err, 0);
    return d;
}

int
main(int argc, char **argv)
{
    uint64_t total = argc > 2 ? strtoull(argv[2], NULL, 10) : 200000;
    struct faults_config fc = {
        .seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1, .delay_ns = 200000, .stall_polls = 4};
    const struct machine_config mc = {.pages = PAGES};
    static uint8_t frame[FRAME_MAX] = {[12] = OUR_TYPE >> 8, [13] = OUR_TYPE & 0xff};
    uint64_t sent_in = 0, sent_out = 0;
    struct nic_queue_stats s;
    struct faults_stats done;
    struct device_info info;
    struct device *d;
    int fd;

    CHECK(argc > 1);
    rng = fc.seed;
    for (unsigned i = 0; i < FAULT_COUNT; i++)
        fc.rx[i] = fc.tx[i] = i == FAULT_STALL ? 2000 : 10000;
    tapnet_enter();
    tapnet_open("tap0", 9000, 1, &fd);
    int kernel = tapnet_socket("tap0", 0); /* sends only */

    CHECK_EQ(faults_create(create(argv[1], fd), &fc, &d), 0);
    CHECK_EQ(machine_create(&mc, &machine), 0);

    const struct nic_config nc = {.nqueues = 1,
                                  .rx_ring_size = RING,
                                  .tx_ring_size = RING,
                                  .mtu = 9000,
                                  .header_split = fc.seed % 2 ? 0 : 54};

    CHECK_EQ(nic_attach(machine->jumbo, machine->mbufs, d, &nc, &nic), 0);
    memset(frame, 0xff, 6);
    for (uint64_t turn = 0; sent_in + sent_out < total; turn++) {
        for (unsigned n = 1 + below(BURST); n > 0; n--) {
            /* Mostly small, now and then of several pages. */
            uint32_t len = 60 + below(below(16) ? 200 : FRAME_MAX - 60);

            CHECK_EQ(send(kernel, frame, len, 0), len);
            sent_in++;
            transmit(frame, len);
            sent_out++;
        }
        CHECK(nic_tx_flush(nic, 0) >= 0);
        while (receive() == (int)BURST)
            ;
        if (below(8) == 0)
            let_go(below(nkept + 1));
        if (turn % 1000 == 0)
            CHECK_EQ(nic_check(nic), 0);
    }
    struct rtnl_link_stats64 kernels = tapnet_counters("tap0");

    settle(sent_in - kernels.tx_dropped);
    CHECK_EQ(nic_check(nic), 0);
    nic_get_stats(nic, 0, &s);
    nic_describe(nic, &info);
    faults_get_stats(d, &done);
    CHECK_EQ(s.tx_queued, sent_out);
    CHECK_EQ(s.tx_completed, sent_out);
    CHECK_EQ(s.rx_outstanding, RING);
    CHECK_EQ(s.rx_received,
             s.rx_delivered + s.rx_drop_no_page + s.rx_drop_no_mbuf + s.rx_drop_short);
    CHECK_EQ(s.rx_returned, s.rx_pages_delivered + s.rx_headers_delivered + s.rx_recycled);
    kernels = tapnet_counters("tap0");
    CHECK_EQ(kernels.rx_packets, info.queue[0].tx_frames);
    printf(
        "%s seed %llu: %llu frames in, %llu out; delivered %llu, no page for %llu; faults in/out",
        info.name, (unsigned long long)fc.seed, (unsigned long long)sent_in,
        (unsigned long long)sent_out, (unsigned long long)s.rx_delivered,
        (unsigned long long)s.rx_drop_no_page);
    for (unsigned i = 0; i < FAULT_COUNT; i++)
        printf(", %s %llu/%llu", fault_name((enum fault)i), (unsigned long long)done.rx[i],
               (unsigned long long)done.tx[i]);
    CHECK_EQ(nic_detach(nic), 0);
    CHECK_EQ(machine_idle(machine), 0);
    CHECK_EQ(machine->arena->misuse_total, 0);
    CHECK_EQ(machine_destroy(machine), 0);
    printf("; nothing outstanding\n");
    close(kernel);
    close(fd);
    return 0;
}
