/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Wrapped devices: faults do to frames exactly what their counters say, capture records every
 * frame, and no page or chain is ever lost.
 */
#include <string.h>

#include "machine/machine.h"
#include "check.h"
#include "device/capture.h"
#include "device/faults.h"
#include "nic/nic.h"
#include "wire.h"

#define FRAMES 5000u
#define FRAME_MAX 9000u

static struct machine *machine;
static struct wire *wire;
static struct nic *nic[2];

static struct faults_config config;
static struct device *faults; /* NULL: none in this test */

static void
setup(struct device *(*wrap)(struct device *inner))
{
    const struct machine_config mc = {.pages = 4096};
    const struct wire_config wc = {.seed = 1, .delay = 1000};
    struct nic_config nc = {
        .nqueues = 1, .rx_ring_size = 256, .tx_ring_size = 256, .mtu = FRAME_MAX, .offloads = 0};
    struct device *end[2];

    CHECK_EQ(machine_create(&mc, &machine), 0);
    wire = wire_create(&wc, end);
    CHECK(wire);
    CHECK_EQ(nic_attach(machine->jumbo, machine->mbufs, end[1], &nc, &nic[1]), 0);
    faults = NULL;
    end[0] = wrap(end[0]);
    if (faults) {
        nc.alloc_fails = faults_alloc_fails;
        nc.alloc_arg = faults;
    }
    CHECK_EQ(nic_attach(machine->jumbo, machine->mbufs, end[0], &nc, &nic[0]), 0);
}

static void
teardown(void)
{
    nic_detach(nic[0]);
    nic_detach(nic[1]);
    wire_destroy(wire);
    CHECK_EQ(machine_idle(machine), 0);
    CHECK_EQ(machine_destroy(machine), 0);
}

/* A frame holds its number and its length, and the rest follows from the number. */
static size_t
make_frame(uint32_t number, unsigned char *f)
{
    size_t len = 60 + number * 7919u % (FRAME_MAX - 60);

    memset(f, 0, 22);
    f[0] = 2;
    f[12] = 0x88;
    f[13] = 0xb5;
    memcpy(f + 14, &number, 4);
    memcpy(f + 18, &len, 4);
    for (size_t i = 22; i < len; i++)
        f[i] = (unsigned char)(number + i);
    return len;
}

struct tally {
    uint64_t whole, wrong;
    unsigned char seen[FRAMES];
};
static struct tally tally;

static void
receive(unsigned at)
{
    struct mbuf *m[64];
    static unsigned char got[FRAME_MAX + 64], want[FRAME_MAX + 64];
    int n;

    while ((n = nic_rx_burst(nic[at], 0, m, 64)) > 0) {
        for (int i = 0; i < n; i++) {
            size_t len = (size_t)m[i]->m_pkthdr.len;
            uint32_t number = UINT32_MAX;

            CHECK_EQ(mb_check(m[i]), 0);
            CHECK(len <= sizeof(got));
            CHECK_EQ(m_copydata(m[i], 0, (int)len, (caddr_t)got), 0);
            if (len >= 22)
                memcpy(&number, got + 14, 4);
            if (number < FRAMES && make_frame(number, want) == len && memcmp(got, want, len) == 0) {
                tally.whole++;
                tally.seen[number]++;
            } else {
                tally.wrong++;
            }
            m_freem(m[i]);
        }
        CHECK_EQ(nic_check(nic[at]), 0);
    }
    CHECK_EQ(n, 0);
}

/* Send FRAMES frames from one end to the other, and let everything that was kept come out. */
static void
run(unsigned from)
{
    static unsigned char f[FRAME_MAX + 64];

    struct nic_queue_stats s, before;

    nic_get_stats(nic[from], 0, &before);
    memset(&tally, 0, sizeof(tally));
    for (uint32_t number = 0; number < FRAMES;) {
        for (unsigned k = 0; k < 16 && number < FRAMES; k++) {
            size_t len = make_frame(number, f);
            struct mbuf *m = mb_frombytes(machine->mbufs, machine->jumbo, f, len);

            CHECK(m);
            int err = nic_tx(nic[from], 0, m);

            if (err) {
                CHECK_EQ(err, -ENOBUFS);
                m_freem(m);
                break;
            }
            number++;
        }
        CHECK(nic_tx_flush(nic[from], 0) >= 0);
        CHECK_EQ(nic_check(nic[from]), 0);
        wire_advance(wire, wire_clock(wire) + 1000000);
        receive(0);
        receive(1);
    }
    for (unsigned i = 0; i < 100000; i++) {
        nic_tx_flush(nic[from], 0);
        wire_advance(wire, wire_clock(wire) + 1000000);
        receive(0);
        receive(1);
        nic_get_stats(nic[from], 0, &s);
        if (i > 200 && s.tx_outstanding == 0)
            break;
    }
    CHECK_EQ(s.tx_outstanding, 0);
    CHECK_EQ(s.tx_queued - before.tx_queued, FRAMES);
    CHECK_EQ(s.tx_completed - before.tx_completed, FRAMES);
}

static struct device *
wrap_faults(struct device *inner)
{
    CHECK_EQ(faults_create(inner, &config, &faults), 0);
    return faults;
}

/* One kind of fault at a time, in 5 % of the frames, and the counters against what arrived. */
static void
test_one(enum fault kind, bool tx)
{
    struct faults_stats s;
    struct nic_queue_stats ns;

    config = (struct faults_config){.seed = 7 + kind, .delay_ns = 20000, .stall_polls = 3};
    (tx ? config.tx : config.rx)[kind] = FAULT_RATE_ONE / 20;
    setup(wrap_faults);
    run(tx ? 0 : 1);
    faults_get_stats(faults, &s);
    uint64_t done = (tx ? s.tx : s.rx)[kind];

    if (!(tx && kind == FAULT_STALL) && !(tx && kind == FAULT_SHORT_USED) &&
        !(tx && kind == FAULT_TRAILER) && !(tx && kind == FAULT_ALLOC) &&
        !(!tx && kind == FAULT_LATE))
        CHECK(done > FRAMES / 40 || kind == FAULT_STALL);
    switch (kind) {
    case FAULT_DROP:
        CHECK_EQ(tally.whole, FRAMES - done);
        CHECK_EQ(tally.wrong, 0);
        break;
    case FAULT_DUPLICATE:
        CHECK_EQ(tally.wrong, 0);
        CHECK(tally.whole > FRAMES + done / 2); /* some twins find no spare buffer */
        CHECK(tally.whole <= FRAMES + done);
        break;
    case FAULT_CORRUPT:
        CHECK(tally.wrong > 0);
        CHECK_EQ(tally.whole + tally.wrong, FRAMES);
        CHECK(tally.wrong <= done);
        break;
    case FAULT_TRUNCATE:
    case FAULT_SHORT_USED:
        CHECK(tally.whole + tally.wrong <= FRAMES); /* the shortest are too short to be frames */
        CHECK_EQ(tally.whole, FRAMES - (tx && kind == FAULT_SHORT_USED ? 0 : done));
        break;
    case FAULT_TRAILER: /* receive only; where the last buffer has room */
        CHECK_EQ(tally.whole, FRAMES - (tx ? 0 : done));
        CHECK_EQ(tally.whole + tally.wrong, FRAMES);
        break;
    case FAULT_ALLOC: /* on the way out only where a copy is needed: see test_alloc_tx() */
        nic_get_stats(nic[0], 0, &ns);
        CHECK_EQ(ns.rx_drop_no_page + ns.rx_drop_no_mbuf, tx ? 0 : done);
        CHECK_EQ(tally.whole, FRAMES - (tx ? 0 : done));
        CHECK_EQ(tally.wrong, 0);
        break;
    default: /* late, out of order, in fits: but each once */
        CHECK_EQ(tally.whole, FRAMES);
        CHECK_EQ(tally.wrong, 0);
        for (unsigned i = 0; i < FRAMES; i++)
            CHECK_EQ(tally.seen[i], 1);
    }
    teardown();
}

static void
forget(caddr_t buf, void *args)
{
    (void)buf;
    (void)args;
}

/* A frame that must be copied to be sent, without memory for the copy: the sender keeps it. */
static void
test_alloc_tx(void)
{
    static char elsewhere[1000]; /* not of the arena */
    struct faults_stats s;

    config = (struct faults_config){.seed = 3, .tx[FAULT_ALLOC] = FAULT_RATE_ONE};
    setup(wrap_faults);
    for (unsigned i = 0; i < 10; i++) {
        struct mbuf *m = mb_gethdr(machine->mbufs);

        m_extadd(m, elsewhere, sizeof(elsewhere), forget, NULL, 0, EXT_DISPOSABLE);
        m->m_len = m->m_pkthdr.len = sizeof(elsewhere);
        CHECK_EQ(nic_tx(nic[0], 0, m), -ENOMEM);
        CHECK_EQ(m->m_data == elsewhere, true);
        m_freem(m);
    }
    faults_get_stats(faults, &s);
    CHECK_EQ(s.tx[FAULT_ALLOC], 10);
    teardown();
}

/* Everything at once; then a stop in the middle of it. */
static void
test_all(void)
{
    config = (struct faults_config){.seed = 42, .delay_ns = 50000, .stall_polls = 10};
    for (unsigned i = 0; i < FAULT_COUNT; i++)
        config.rx[i] = config.tx[i] = FAULT_RATE_ONE / 50;
    setup(wrap_faults);
    run(0);
    run(1);
    for (unsigned i = 0; i < 64; i++) {
        struct mbuf *m = mb_frombytes(machine->mbufs, machine->jumbo, tally.seen, 1000);

        CHECK_EQ(nic_tx(nic[0], 0, m), 0);
    }
    nic_tx_flush(nic[0], 0);
    teardown();
}

static struct device *capture;

static struct device *
wrap_capture(struct device *inner)
{
    CHECK_EQ(capture_create(inner, 100, 1 << 18, &capture), 0);
    return capture;
}

static struct device *
wrap_both(struct device *inner)
{
    return wrap_faults(wrap_capture(inner));
}

static void
test_capture(void)
{
    static unsigned char f[FRAME_MAX + 64], want[FRAME_MAX + 64];
    static char out[1 << 16];
    struct capture_stats s;
    struct device_info info;

    config = (struct faults_config){.seed = 1};
    setup(wrap_both);
    nic_describe(nic[0], &info);
    CHECK_EQ(strncmp(info.name, "faults(capture(", 15), 0);
    CHECK_EQ(capture_read(capture, out, sizeof(out)), 0);
    uint64_t last = 0;

    for (uint32_t number = 0; number < 2000; number++) {
        size_t len = make_frame(number, f);
        unsigned from = number & 1;

        CHECK_EQ(nic_tx(nic[from], 0, mb_frombytes(machine->mbufs, machine->jumbo, f, len)), 0);
        nic_tx_flush(nic[from], 0);
        wire_advance(wire, wire_clock(wire) + 1000000);
        receive(0);
        receive(1);
        struct capture_record r;
        size_t n = capture_read(capture, out, sizeof(out));

        CHECK_EQ(n, (sizeof(r) + 100 + 7) / 8 * 8 - (len < 100 ? (100 - len + 4) / 8 * 8 : 0));
        memcpy(&r, out, sizeof(r));
        make_frame(number, want);
        CHECK_EQ(r.len, len);
        CHECK_EQ(r.caplen, len < 100 ? len : 100);
        CHECK_EQ(r.outbound, from == 0);
        CHECK(r.timestamp >= last);
        last = r.timestamp;
        CHECK_EQ(memcmp(out + sizeof(r), want, r.caplen), 0);
    }
    /* Without a reader, frames that do not fit are counted, and still pass through. */
    memset(&tally, 0, sizeof(tally));
    run(0);
    CHECK_EQ(tally.whole, FRAMES);
    capture_get_stats(capture, &s);
    CHECK(s.dropped > 0);
    CHECK_EQ(s.kept + s.dropped, s.received + s.sent);
    CHECK_EQ(s.sent, 1000 + FRAMES);
    teardown();
}

int
main(void)
{
    struct device *none;

    config.rx[FAULT_DROP] = FAULT_RATE_ONE + 1;
    CHECK_EQ(faults_create(NULL, &config, &none), -EINVAL);
    for (unsigned kind = 0; kind < FAULT_COUNT; kind++) {
        test_one((enum fault)kind, false);
        test_one((enum fault)kind, true);
    }
    test_alloc_tx();
    test_all();
    test_capture();
    return 0;
}
