/* SPDX-License-Identifier: BSD-2-Clause */
/* TCP against itself over a wire with seeded faults: both sides get the exact byte stream. */
#include <errno.h>
#include <string.h>

#include "machine/machine.h"
#include "check.h"
#include "inet/tcp_var.h"
#include "wire.h"

#define MS 1000000ull
#define S 1000000000ull
#define PORT 7
#define SYN_ACK (TF_SYN | TF_ACK)

static const uint8_t mac[2][6] = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}};

struct flow { /* one direction */
    uint64_t total, sent, got;
    uint64_t seed, rng;
    bool finished; /* FIN wanted, or end of file seen */
};

struct world {
    struct machine *machine[2];
    struct wire *wire;
    struct nic *nic[2];
    struct inet *inet[2];
    struct tcp_conn *conn[2]; /* 0 connects, 1 accepts */
    struct tcp_conn *listener;
    struct flow flow[2]; /* by the sender */
    bool stalled[2];     /* the reader of that side takes nothing */
    uint64_t rng;
    unsigned in_line; /* of 100 chunks, how many are inside mbufs */
    size_t chunk_max;
};

struct setup {
    struct wire_config wire;
    struct wire_faults faults[2];
    uint32_t mtu, sndbuf, rcvbuf;
    size_t pages;
    uint64_t bytes[2];
};

static uint32_t
address(unsigned side)
{
    return htonl(0x0a000001 + side);
}

static struct world
make(const struct setup *s)
{
    const struct machine_config mc = {.pages = s->pages ? s->pages : 8192};
    struct world w = {.rng = s->wire.seed * 77 + 1, .chunk_max = 20000, .in_line = 5};
    struct wire_config wc = s->wire;
    struct device *end[2];

    if (!wc.delay)
        wc.delay = 100000;
    w.wire = wire_create(&wc, end);
    for (unsigned i = 0; i < 2; i++) {
        struct nic_config nc = {.nqueues = 1,
                                .rx_ring_size = 512,
                                .tx_ring_size = 256,
                                .mtu = s->mtu ? s->mtu : 1500,
                                .offloads = OFFLOAD_ALL};
        struct inet_config ic = {.addr = address(i),
                                 .netmask = htonl(0xffffff00),
                                 .sndbuf = s->sndbuf ? s->sndbuf : 1 << 20,
                                 .rcvbuf = s->rcvbuf ? s->rcvbuf : 1 << 20,
                                 .seed = s->wire.seed * 2 + i + 1,
                                 .clock = wire_clock,
                                 .clock_arg = w.wire};

        memcpy(nc.mac, mac[i], 6);
        CHECK_EQ(machine_create(&mc, &w.machine[i]), 0);
        CHECK_EQ(nic_attach(w.machine[i]->jumbo, w.machine[i]->mbufs, end[i], &nc, &w.nic[i]), 0);
        CHECK_EQ(inet_create(w.nic[i], &ic, &w.inet[i]), 0);
        w.flow[i] = (struct flow){.total = s->bytes[i], .seed = s->wire.seed + 100 + i};
        w.flow[i].rng = w.flow[i].seed;
    }
    for (unsigned i = 0; i < 2; i++)
        wire_set_faults(w.wire, i, s->faults[i]);
    return w;
}

static void
unmake(struct world *w)
{
    for (unsigned i = 0; i < 2; i++) {
        inet_destroy(w->inet[i]);
        CHECK_EQ(nic_check(w->nic[i]), 0);
        CHECK_EQ(nic_detach(w->nic[i]), 0);
    }
    wire_destroy(w->wire);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(machine_idle(w->machine[i]), 0);
        CHECK_EQ(machine_destroy(w->machine[i]), 0);
    }
}

/* consistent() - check the invariants of a connection between two calls */
static void
consistent(const struct tcp_conn *c)
{
    const struct tcp_scoreboard *sb = &c->sb;
    uint32_t at = c->snd_una, missing = 0, mbufs = 0, len = 0;

    if (c->state <= TCPS_SYN_RECEIVED)
        return;
    CHECK(SEQ_LEQ(c->snd_head_seq, c->snd_una) && SEQ_LEQ(c->snd_una, c->snd_nxt));
    CHECK(SEQ_LEQ(c->snd_nxt, c->snd_end_seq + c->fin_sent));
    CHECK_EQ(m_length(c->snd_head, NULL), c->snd_end_seq - c->snd_head_seq);
    CHECK(SEQ_LEQ(c->snd_una, sb->fack) && SEQ_LEQ(sb->fack, c->snd_nxt) && sb->nlost <= sb->n);
    for (unsigned i = 0; i < sb->n; i++) {
        const struct tcp_hole *h = &sb->hole[i];

        CHECK(SEQ_LEQ(at, h->start) && SEQ_LT(h->start, h->end));
        CHECK(SEQ_LEQ(h->start, h->rxmit) && SEQ_LEQ(h->rxmit, h->end));
        missing += h->end - h->start;
        at = h->end;
    }
    CHECK(SEQ_LEQ(at, sb->fack));
    CHECK_EQ(sb->sacked, sb->fack - c->snd_una - missing);
    CHECK(c->snd_una == c->snd_nxt || c->arp_wait || c->timer[TT_REXMT] != NEVER);
    CHECK(c->cwnd >= c->mss);

    for (const struct mbuf *m = c->rcv_head; m; m = m->m_next, mbufs++)
        len += (uint32_t)m->m_len;
    CHECK_EQ(len, c->rcv_cc);
    at = c->rcv_nxt;
    for (unsigned i = 0; i < c->nranges; i++) {
        const struct tcp_range *r = &c->range[i];

        CHECK(SEQ_LT(at, r->start) && SEQ_LT(r->start, r->end) && !r->tail->m_next);
        CHECK_EQ(m_length(r->head, NULL), r->end - r->start);
        for (const struct mbuf *m = r->head; m; m = m->m_next)
            mbufs++;
        at = r->end;
    }
    CHECK(SEQ_LEQ(at, c->rcv_adv));
    CHECK_EQ(mbufs, c->rcv_mbufs);
}

/* poll_both() - one round; false: nothing happened now */
static bool
poll_both(struct world *w)
{
    bool any = false;

    for (unsigned i = 0; i < 2; i++) {
        int n = inet_poll(w->inet[i]);

        CHECK(n >= 0);
        any |= n > 0 || inet_timeout(w->inet[i]) == 0;
        if (wire_random(&w->rng) % 8 == 0) {
            const struct tcp_conn *c;

            TAILQ_FOREACH(c, &w->inet[i]->conns, all_link)
            consistent(c);
        }
    }
    return any;
}

/* pass() - let time go on to what happens next; false: nothing will */
static bool
pass(struct world *w)
{
    uint64_t now = wire_clock(w->wire), next = wire_next(w->wire);

    for (unsigned i = 0; i < 2; i++) {
        int64_t t = inet_timeout(w->inet[i]);

        if (t >= 0 && now + (uint64_t)t < next)
            next = now + (uint64_t)t;
    }
    if (next == UINT64_MAX)
        return false;
    wire_advance(w->wire, next);
    return true;
}

static void
run_for(struct world *w, uint64_t ns)
{
    uint64_t until = wire_clock(w->wire) + ns;

    while (wire_clock(w->wire) < until) {
        while (poll_both(w))
            ;
        if (!pass(w))
            break;
    }
    wire_advance(w->wire, until);
}

static struct tcp_info_s
info(struct world *w, unsigned side)
{
    struct tcp_info_s i;

    tcp_get_info(w->conn[side], &i);
    return i;
}

/* The stream is a function of the place: 8 bytes of one random number after the other. */
static void
stream(const struct flow *f, uint64_t at, uint8_t *out, size_t len)
{
    for (size_t i = 0; i < len; i++, at++) {
        uint64_t state = f->seed + (at >> 3) * 0x2545f4914f6cdd1dull;

        out[i] = (uint8_t)(wire_random(&state) >> 8 * (at & 7));
    }
}

static bool
feed(struct world *w, unsigned side)
{
    struct flow *f = &w->flow[side];
    bool did = false;

    if (f->finished)
        return false;
    while (f->sent < f->total) {
        uint8_t bytes[65536];
        size_t len = 1 + wire_random(&w->rng) % w->chunk_max;
        struct mbuf *m;

        if (wire_random(&w->rng) % 100 < w->in_line)
            len = 1 + len % 100;
        if (len > f->total - f->sent)
            len = f->total - f->sent;
        if (tcp_send_room(w->conn[side]) < len)
            break;
        stream(f, f->sent, bytes, len);
        m = mb_frombytes(w->machine[side]->mbufs, w->machine[side]->jumbo, bytes, len);
        if (!m)
            break;
        CHECK_EQ(tcp_send(w->conn[side], m), 0);
        f->sent += len;
        did = true;
        if (wire_random(&w->rng) % 4 == 0)
            CHECK_EQ(tcp_output(w->conn[side]), 0);
    }
    if (f->sent == f->total) {
        f->finished = true;
        CHECK_EQ(tcp_shutdown(w->conn[side]), 0);
        did = true;
    }
    return did;
}

static bool
drain(struct world *w, unsigned side)
{
    struct flow *f = &w->flow[!side];
    struct mbuf *m;
    bool did = false;

    while (!w->stalled[side] &&
           (m = tcp_recv(w->conn[side], 1 + (uint32_t)(wire_random(&w->rng) % 100000)))) {
        for (struct mbuf *n = m; n; n = n->m_next) {
            uint8_t want[4096];

            CHECK(!(n->m_flags & M_PKTHDR) && n->m_len > 0 && n->m_len <= 4096);
            stream(f, f->got, want, (size_t)n->m_len);
            CHECK(!memcmp(want, n->m_data, (size_t)n->m_len));
            f->got += (uint64_t)n->m_len;
        }
        m_freem(m);
        did = true;
    }
    return did;
}

static void
establish(struct world *w)
{
    CHECK_EQ(tcp_listen(w->inet[1], PORT, 4, &w->listener), 0);
    CHECK_EQ(tcp_connect(w->inet[0], address(1), PORT, 0, &w->conn[0]), 0);
    for (unsigned i = 0; i < 100000; i++) {
        while (poll_both(w))
            ;
        CHECK_EQ(info(w, 0).error, 0);
        if (!w->conn[1])
            w->conn[1] = tcp_accept(w->listener);
        if (w->conn[1] && info(w, 0).state == TCPS_ESTABLISHED)
            return;
        CHECK(pass(w));
    }
    CHECK_FAIL("no connection");
}

/* transfer() - until both streams are there and both ends have seen the other's end */
static void
transfer(struct world *w)
{
    for (unsigned i = 0; i < 10000000; i++) {
        bool did = poll_both(w);

        for (unsigned k = 0; k < 2; k++) {
            struct tcp_info_s t = info(w, k);

            CHECK_EQ(t.error, 0);
            if (t.state != TCPS_SYN_RECEIVED)
                did |= feed(w, k);
            did |= drain(w, k);
        }
        if (tcp_eof(w->conn[0]) && tcp_eof(w->conn[1]) && !info(w, 0).unacked &&
            !info(w, 1).unacked) {
            for (unsigned k = 0; k < 2; k++)
                CHECK_EQ(w->flow[k].got, w->flow[k].total);
            return;
        }
        if (!did && !pass(w))
            CHECK_FAIL("nothing more will happen: %llu of %llu, %llu of %llu",
                       (unsigned long long)w->flow[0].got, (unsigned long long)w->flow[0].total,
                       (unsigned long long)w->flow[1].got, (unsigned long long)w->flow[1].total);
    }
    CHECK_FAIL("no end");
}

static void
finish(struct world *w)
{
    for (unsigned i = 0; i < 2; i++)
        tcp_close(w->conn[i]);
    tcp_close(w->listener);
    run_for(w, 700 * S);
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(inet_timeout(w->inet[i]) < 0 || inet_timeout(w->inet[i]) > (int64_t)S, 1);
    unmake(w);
}

static struct inet_stats
exchange(const char *name, const struct setup *s)
{
    struct world w = make(s);
    struct inet_stats st, st1;
    uint64_t start;

    establish(&w);
    start = wire_clock(w.wire);
    transfer(&w);
    inet_get_stats(w.inet[0], &st);
    inet_get_stats(w.inet[1], &st1);
    if (getenv("VERBOSE"))
        fprintf(
            stderr,
            "%-28s seed %3llu: %8.3f ms simulated, lost %llu of %llu, retransmits %llu+%llu, rto "
            "%llu+%llu, probes %llu+%llu\n",
            name, (unsigned long long)s->wire.seed, (double)(wire_clock(w.wire) - start) / 1e6,
            (unsigned long long)wire_counts(w.wire)->lost,
            (unsigned long long)wire_counts(w.wire)->carried, (unsigned long long)st.tx_retransmits,
            (unsigned long long)st1.tx_retransmits, (unsigned long long)st.tx_rto,
            (unsigned long long)st1.tx_rto, (unsigned long long)st.tx_probes,
            (unsigned long long)st1.tx_probes);
    finish(&w);
    return st;
}

static void
test_clean(void)
{
    struct setup s = {.wire = {.seed = 1, .offloads = OFFLOAD_ALL}, .bytes = {5000000, 3000000}};
    struct inet_stats st;

    st = exchange("clean", &s);
    CHECK_EQ(st.tx_retransmits, 0);
    s.bytes[0] = s.bytes[1] = 0;
    exchange("nothing", &s);
    s.bytes[0] = 1;
    exchange("one byte", &s);
    s.bytes[0] = 3000000;
    s.wire.offloads = 0;
    st = exchange("no offloads", &s);
    CHECK_EQ(st.tx_retransmits, 0);
    s.wire.offloads = OFFLOAD_CSUM;
    exchange("no tso", &s);
    s.wire.offloads = OFFLOAD_ALL;
    s.mtu = 9000;
    exchange("mtu 9000", &s);
    s.mtu = 65520;
    exchange("mtu 65520", &s);
    s.mtu = 65535;
    exchange("mtu 65535", &s);
    s.mtu = 296;
    s.bytes[0] = 300000;
    exchange("mtu 296", &s);
    s.mtu = 68;
    s.bytes[0] = 3000;
    exchange("mtu 68", &s);
    s.mtu = 1500;
    s.bytes[0] = 2000000;
    s.wire.segment = true;
    exchange("segmented", &s);
}

static void
test_harm(void)
{
    static const struct wire_faults harm[] = {
        {.lose = 100},
        {.lose = 1000},
        {.reorder = 2000},
        {.twice = 1000},
        {.cut = 200},
        {.damage = 200},
        {.lose = 300, .reorder = 300, .twice = 300, .cut = 100, .damage = 100},
    };
    static const char *const names[] = {"lose 1%", "lose 10%",  "reorder 20%", "twice 10%",
                                        "cut 2%",  "damage 2%", "everything"};
    unsigned seeds = getenv("SEEDS") ? (unsigned)atoi(getenv("SEEDS")) : 6;

    for (uint64_t seed = 1; seed <= seeds; seed++)
        for (unsigned i = 0; i < sizeof(harm) / sizeof(harm[0]); i++)
            for (unsigned kind = 0; kind < 2; kind++) {
                struct setup s = {.wire = {.seed = seed,
                                           .offloads = OFFLOAD_ALL,
                                           .segment = kind,
                                           .no_sack = seed % 3 == 0,
                                           .no_timestamps = seed % 4 == 3,
                                           .no_wscale = seed % 5 == 4},
                                  .faults = {harm[i], harm[i]},
                                  .bytes = {1500000, seed % 2 ? 700000 : 0}};

                exchange(names[i], &s);
            }
}

/* The reader stops until the window is shut, and the update that opens it again is lost. */
static void
test_zero_window(void)
{
    struct setup s = {
        .wire = {.seed = 5, .offloads = OFFLOAD_ALL}, .rcvbuf = 65536, .bytes = {400000, 0}};
    struct world w = make(&s);
    struct inet_stats st;

    establish(&w);
    w.stalled[1] = true;
    for (unsigned i = 0; i < 1000; i++) {
        feed(&w, 0);
        poll_both(&w);
        if (wire_next(w.wire) != UINT64_MAX)
            wire_advance(w.wire, wire_next(w.wire));
    }
    CHECK(info(&w, 1).readable > 65536 - 1448); /* the rest is not worth a segment yet */
    run_for(&w, 3000 * S);                      /* the peer answers probes: no reason to give up */
    CHECK(info(&w, 1).readable >= 65535);       /* the window is counted in twos */
    CHECK_EQ(info(&w, 0).snd_wnd, 0);
    CHECK_EQ(info(&w, 0).state, TCPS_FIN_WAIT_1);
    inet_get_stats(w.inet[0], &st);
    CHECK(st.tx_probes > 20);
    wire_set_faults(w.wire, 1, (struct wire_faults){.lose = 10000});
    w.stalled[1] = false;
    drain(&w, 1);
    poll_both(&w);
    wire_set_faults(w.wire, 1, (struct wire_faults){0});
    transfer(&w);
    finish(&w);
}

/* A window that opens by crumbs is not used by crumbs. */
static void
test_silly_window(void)
{
    struct setup s = {
        .wire = {.seed = 6, .offloads = OFFLOAD_ALL}, .rcvbuf = 20000, .bytes = {300000, 0}};
    struct world w = make(&s);
    struct inet_stats st;
    struct mbuf *m;
    uint64_t got = 0;

    establish(&w);
    for (unsigned i = 0; i < 300000 && got < 300000; i++) {
        feed(&w, 0);
        m = tcp_recv(w.conn[1], 100);
        got += m_length(m, NULL);
        m_freem(m);
        if (!poll_both(&w) && !m)
            pass(&w);
        else
            wire_advance(w.wire, wire_clock(w.wire) + 1000);
    }
    w.flow[0].got = got;
    CHECK_EQ(got, 300000);
    inet_get_stats(w.inet[0], &st);
    CHECK(st.tx_tcp < 600); /* 300,000 bytes in segments of 1448: 207 */
    transfer(&w);
    finish(&w);
}

static void
test_errors(void)
{
    struct setup s = {.wire = {.seed = 9, .offloads = OFFLOAD_ALL}, .bytes = {1 << 19, 0}};
    struct world w = make(&s);
    struct tcp_conn *c;

    /* no listener */
    CHECK_EQ(tcp_connect(w.inet[0], address(1), 99, 0, &w.conn[0]), 0);
    run_for(&w, 10 * MS);
    CHECK_EQ(info(&w, 0).error, ECONNREFUSED);
    CHECK_EQ(info(&w, 0).state, TCPS_CLOSED);
    tcp_close(w.conn[0]);
    /* no such host */
    CHECK_EQ(tcp_connect(w.inet[0], htonl(0x0a000009), 99, 0, &w.conn[0]), 0);
    run_for(&w, 10 * S);
    CHECK_EQ(info(&w, 0).error, EHOSTUNREACH);
    tcp_close(w.conn[0]);
    /* nowhere, and here */
    CHECK_EQ(tcp_connect(w.inet[0], htonl(0x0b000001), 99, 0, &c), -ENETUNREACH);
    CHECK_EQ(tcp_connect(w.inet[0], address(0), 99, 0, &c), -ENETUNREACH);
    CHECK_EQ(tcp_connect(w.inet[0], htonl(0x0a0000ff), 99, 0, &c), -ENETUNREACH);
    /* a deaf peer */
    wire_set_faults(w.wire, 1, (struct wire_faults){.lose = 10000});
    CHECK_EQ(tcp_connect(w.inet[0], address(1), PORT, 0, &w.conn[0]), 0);
    run_for(&w, 200 * S);
    CHECK(info(&w, 0).error == ETIMEDOUT || info(&w, 0).error == EHOSTUNREACH);
    tcp_close(w.conn[0]);
    wire_set_faults(w.wire, 1, (struct wire_faults){0});
    /* ports */
    CHECK_EQ(tcp_listen(w.inet[1], PORT, 4, &w.listener), 0);
    CHECK_EQ(tcp_listen(w.inet[1], PORT, 4, &c), -EADDRINUSE);
    tcp_close(w.listener);
    /* the wire breaks in the middle */
    establish(&w);
    feed(&w, 0);
    wire_set_faults(w.wire, 0, (struct wire_faults){.lose = 10000});
    run_for(&w, 600 * S);
    CHECK(info(&w, 0).error == ETIMEDOUT || info(&w, 0).error == EHOSTUNREACH);
    CHECK_EQ(tcp_send(w.conn[0], NULL), -info(&w, 0).error);
    wire_set_faults(w.wire, 0, (struct wire_faults){0});
    tcp_abort(w.conn[1]);
    tcp_close(w.conn[0]);
    tcp_close(w.listener);
    /* the peer aborts; what was received in order stays readable */
    w.conn[1] = NULL;
    w.flow[0] = (struct flow){.total = 4000};
    establish(&w);
    feed(&w, 0);
    run_for(&w, 100 * MS);
    tcp_reset(w.conn[0], EIO);
    CHECK_EQ(info(&w, 0).error, EIO);
    run_for(&w, 100 * MS);
    CHECK_EQ(info(&w, 1).error, ECONNRESET);
    CHECK_EQ(info(&w, 1).readable, 4000);
    drain(&w, 1);
    finish(&w);
}

/* Both connect to each other at the same time: one connection, RFC 9293 figure 7. */
static void
test_simultaneous_open(void)
{
    struct setup s = {.wire = {.seed = 12, .offloads = OFFLOAD_ALL}, .bytes = {100000, 200000}};
    struct world w = make(&s);

    CHECK_EQ(tcp_listen(w.inet[1], PORT, 1, &w.listener), 0);
    CHECK_EQ(tcp_connect(w.inet[0], address(1), 2000, 1000, &w.conn[0]), 0);
    CHECK_EQ(tcp_connect(w.inet[1], address(0), 1000, 2000, &w.conn[1]), 0);
    for (unsigned i = 0; i < 1000 && (info(&w, 0).state != TCPS_ESTABLISHED ||
                                      info(&w, 1).state != TCPS_ESTABLISHED);
         i++)
        if (!poll_both(&w))
            pass(&w);
    CHECK_EQ(info(&w, 0).state, TCPS_ESTABLISHED);
    CHECK_EQ(info(&w, 1).state, TCPS_ESTABLISHED);
    transfer(&w);
    finish(&w);
}

static void
test_closing(void)
{
    struct setup s = {.wire = {.seed = 14, .offloads = OFFLOAD_ALL}, .bytes = {0, 0}};
    struct world w = make(&s);

    /* at the same time: both go through CLOSING to TIME_WAIT */
    establish(&w);
    CHECK_EQ(tcp_shutdown(w.conn[0]), 0);
    CHECK_EQ(tcp_shutdown(w.conn[1]), 0);
    CHECK_EQ(tcp_shutdown(w.conn[1]), 0);
    poll_both(&w);
    run_for(&w, MS);
    CHECK_EQ(info(&w, 0).state, TCPS_TIME_WAIT);
    CHECK_EQ(info(&w, 1).state, TCPS_TIME_WAIT);
    run_for(&w, 2 * S);
    CHECK_EQ(info(&w, 0).state, TCPS_CLOSED);
    CHECK_EQ(info(&w, 0).error, 0);
    tcp_close(w.conn[0]);
    tcp_close(w.conn[1]);
    tcp_close(w.listener);
    /* one after the other; half-closed in between */
    w.conn[1] = NULL;
    establish(&w);
    CHECK_EQ(tcp_shutdown(w.conn[0]), 0);
    run_for(&w, MS);
    CHECK_EQ(info(&w, 0).state, TCPS_FIN_WAIT_2);
    CHECK_EQ(info(&w, 1).state, TCPS_CLOSE_WAIT);
    w.flow[1].total = 300000;
    while (w.flow[0].got + w.flow[1].got < 300000) {
        feed(&w, 1);
        if (!poll_both(&w) && !drain(&w, 0))
            CHECK(pass(&w));
    }
    run_for(&w, MS);
    CHECK(tcp_eof(w.conn[0]));
    CHECK_EQ(info(&w, 0).state, TCPS_TIME_WAIT);
    CHECK_EQ(info(&w, 1).state, TCPS_CLOSED);
    tcp_close(w.conn[0]);
    tcp_close(w.conn[1]);
    tcp_close(w.listener);
    /* closed with data unread: the peer is reset */
    w.conn[1] = NULL;
    w.flow[0] = (struct flow){.total = 5000};
    establish(&w);
    feed(&w, 0);
    run_for(&w, MS);
    tcp_close(w.conn[1]);
    run_for(&w, MS);
    CHECK_EQ(info(&w, 0).error, ECONNRESET);
    tcp_close(w.conn[0]);
    tcp_close(w.listener);
    /* a listener is closed with connections that were not accepted */
    CHECK_EQ(tcp_listen(w.inet[1], PORT, 4, &w.listener), 0);
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(tcp_connect(w.inet[0], address(1), PORT, 0, &w.conn[i]), 0);
    run_for(&w, MS);
    tcp_close(w.listener);
    run_for(&w, MS);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(info(&w, i).error, ECONNRESET);
        tcp_close(w.conn[i]);
    }
    unmake(&w);
}

/* Another user takes the receiver's pages: frames are dropped, and it continues when they are freed. */
static void
test_dry_pool(void)
{
    struct setup s = {.wire = {.seed = 21, .offloads = OFFLOAD_ALL},
                      .pages = 512 + 64,
                      .sndbuf = 1 << 16,
                      .rcvbuf = 1 << 20,
                      .bytes = {3000000, 0}};
    struct world w = make(&s);
    struct vm_page *elsewhere[64];
    struct nic_queue_stats st;
    uint64_t until;
    unsigned n = 0;

    w.chunk_max = 4000;
    establish(&w);
    w.stalled[1] = true;
    while (n < 64 && (elsewhere[n] = jumbo_alloc(w.machine[1]->jumbo, NULL)) != NULL)
        n++;
    for (until = wire_clock(w.wire) + 20 * S; wire_clock(w.wire) < until;) {
        feed(&w, 0);
        if (!poll_both(&w))
            pass(&w);
    }
    nic_get_stats(w.nic[1], 0, &st);
    CHECK(st.rx_drop_no_page > 0);
    while (n > 0)
        jumbo_free(w.machine[1]->jumbo, jumbo_kva(w.machine[1]->jumbo, elsewhere[--n]), NULL);
    w.stalled[1] = false;
    transfer(&w);
    finish(&w);
}

/* Crumbs: a page for each byte would be too many. */
static void
test_crumbs(void)
{
    struct setup s = {
        .wire = {.seed = 22, .offloads = OFFLOAD_ALL}, .rcvbuf = 1 << 16, .bytes = {20000, 0}};
    struct world w = make(&s);

    w.chunk_max = 1;
    establish(&w);
    w.stalled[1] = true;
    while (w.flow[0].sent < 20000) {
        uint8_t b;
        struct mbuf *m;

        stream(&w.flow[0], w.flow[0].sent, &b, 1);
        m = mb_frombytes(w.machine[0]->mbufs, w.machine[0]->jumbo, &b, 1);
        CHECK_EQ(tcp_send(w.conn[0], m), 0);
        tcp_output(w.conn[0]);
        w.flow[0].sent++;
        poll_both(&w);
        pass(&w);
    }
    run_for(&w, 10 * MS);
    CHECK_EQ(info(&w, 1).readable, 20000);
    w.stalled[1] = false;
    transfer(&w);
    finish(&w);
}

/* ---- what could have been sent blindly ---- */

struct forged {
    uint8_t flags;
    uint32_t seq, ack;
    bool ts;
    uint32_t tsval;
    unsigned window;
    unsigned len;
};

/* forge() - deliver a segment to side @to that claims to come from the other end of @c */
static void
forge(struct world *w, unsigned to, const struct tcp_conn *c, const struct forged *g)
{
    uint8_t f[600] = {0}, *ip = f + ETH_HLEN, *t = ip + IP_HLEN, *opt = t + TCP_HLEN;
    unsigned optlen = g->ts ? 24 : 12;

    memcpy(f, mac[to], 6);
    memcpy(f + ETH_SRC, mac[!to], 6);
    put16(f + ETH_TYPE, ETHERTYPE_IPV4);
    ip[IPH_VHL] = 0x45;
    put16(ip + IPH_LEN, (uint16_t)(IP_HLEN + TCP_HLEN + optlen + g->len));
    ip[IPH_TTL] = 64;
    ip[IPH_PROTO] = IPPROTO_TCP;
    put32(ip + IPH_SRC, ntohl(address(!to)));
    put32(ip + IPH_DST, ntohl(address(to)));
    put16(ip + IPH_CSUM, (uint16_t)~csum_bytes(ip, IP_HLEN));
    put16(t + TCPH_SPORT, c->peer_port);
    put16(t + TCPH_DPORT, c->local_port);
    put32(t + TCPH_SEQ, g->seq);
    put32(t + TCPH_ACK, g->ack);
    t[TCPH_OFF] = (uint8_t)((TCP_HLEN + optlen) << 2);
    t[TCPH_FLAGS] = g->flags;
    put16(t + TCPH_WIN, (uint16_t)g->window);
    if (g->ts) {
        put32(opt, 0x0101080a);
        put32(opt + 4, g->tsval);
        opt += 12;
    }
    put32(opt, 0x0101050a); /* all that is in flight, SACKed */
    put32(opt + 4, c->snd_una + 1);
    put32(opt + 8, c->snd_nxt);
    wire_tcp_sum(f, ETH_HLEN + IP_HLEN + TCP_HLEN + optlen + g->len);
    wire_inject(w->wire, !to, f, ETH_HLEN + IP_HLEN + TCP_HLEN + optlen + g->len, NULL);
    wire_advance(w->wire, wire_clock(w->wire) + 200000);
    while (inet_poll(w->inet[to]) > 0)
        ;
}

/* unchanged() - but for what an acknowledgement sent in answer writes down */
static void
unchanged(const struct tcp_conn *before, const struct tcp_conn *c, unsigned segment)
{
    struct tcp_conn now;

    memcpy(&now, c, sizeof(now));
    CHECK_EQ(c->dsack_start, c->dsack_end); /* reported */
    now.dsack_start = before->dsack_start;
    now.dsack_end = before->dsack_end;
    now.challenges = before->challenges;
    now.challenge_second = before->challenge_second;
    now.stray_next = before->stray_next;
    now.rcv_adv = before->rcv_adv;
    now.last_ack = before->last_ack;
    now.ack_now = before->ack_now;
    now.timer[TT_DELACK] = before->timer[TT_DELACK];
    now.output_link = before->output_link;
    for (size_t i = 0; i < sizeof(now); i++)
        if (((const char *)&now)[i] != ((const char *)before)[i])
            CHECK_FAIL("segment %u in state %u changed byte %zu", segment, before->state, i);
}

static struct tcp_conn *
conn_in(struct world *w, unsigned side, unsigned state)
{
    struct tcp_conn *c;

    TAILQ_FOREACH(c, &w->inet[side]->conns, all_link)
    if (c->state == state)
        return c;
    CHECK_FAIL("side %u has no connection in state %u", side, state);
    return NULL;
}

/* reach() - bring a connection of side 0 into @state; what side 1 sends in answer is not read yet */
static struct tcp_conn *
reach(struct world *w, unsigned state)
{
    if (state == TCPS_SYN_SENT || state == TCPS_SYN_RECEIVED) {
        unsigned side = state == TCPS_SYN_RECEIVED;

        CHECK_EQ(tcp_listen(w->inet[!side], PORT, 4, &w->listener), 0);
        CHECK_EQ(tcp_connect(w->inet[side], address(!side), PORT, 0, &w->conn[side]), 0);
        for (unsigned i = 0; i < 2; i++) { /* ARP, and the SYN */
            while (poll_both(w))
                ;
            wire_advance(w->wire, wire_next(w->wire));
        }
        inet_poll(w->inet[side]);
        wire_advance(w->wire, wire_clock(w->wire) + MS);
        if (side)
            inet_poll(w->inet[0]);
        return conn_in(w, 0, state);
    }
    establish(w);
    run_for(w, MS);
    switch (state) {
    case TCPS_ESTABLISHED:
        feed(w, 0);
        break;
    case TCPS_FIN_WAIT_1:
        tcp_shutdown(w->conn[0]);
        break;
    case TCPS_FIN_WAIT_2:
        tcp_shutdown(w->conn[0]);
        run_for(w, MS);
        break;
    case TCPS_CLOSING:
        tcp_shutdown(w->conn[0]);
        tcp_shutdown(w->conn[1]);
        poll_both(w);
        wire_advance(w->wire, wire_clock(w->wire) + MS);
        break;
    case TCPS_CLOSE_WAIT:
    case TCPS_LAST_ACK:
        tcp_shutdown(w->conn[1]);
        run_for(w, MS);
        if (state == TCPS_LAST_ACK)
            tcp_shutdown(w->conn[0]);
        break;
    case TCPS_TIME_WAIT:
        tcp_shutdown(w->conn[0]);
        run_for(w, MS);
        tcp_shutdown(w->conn[1]);
        run_for(w, MS);
        break;
    }
    inet_poll(w->inet[0]);
    return conn_in(w, 0, state);
}

/*
 * RFC 9293 3.10.7, RFC 7323 5.3, RFC 5961: whatever fails one of the checks changes nothing, in any state.
 *
 * Each also carries windows, options, SACK blocks, FINs and payload, which must be ignored.
 */
static void
test_validate_first(void)
{
    for (unsigned state = TCPS_SYN_SENT; state <= TCPS_TIME_WAIT; state++) {
        struct setup s = {.wire = {.seed = 30 + state, .offloads = OFFLOAD_ALL},
                          .bytes = {3000000, 0}};
        struct world w = make(&s);
        struct tcp_conn *c = reach(&w, state), *before = malloc(sizeof(*c));
        const uint32_t una = c->snd_una, nxt = c->snd_nxt, in_order = c->rcv_nxt;
        const uint32_t beyond = in_order + c->in->rcvbuf + 1, now = c->ts_recent,
                       later = now + 0x7ff00000;
        const uint32_t too_old = una - c->max_sndwnd - 1;
        const struct forged early[] = {
            {SYN_ACK, 1000, c->iss, true, 5, 9, 0}, /* of a SYN that is not ours */
            {SYN_ACK, 1000, nxt + 1, true, 5, 9, 0},
            {TF_RST | TF_ACK, 1000, nxt + 1, true, 5, 9, 0},
            {TF_RST, 1000, 0, true, 5, 9, 0},
            {TF_ACK, 1000, nxt, true, 5, 9, 100},
            {TF_FIN, 1000, nxt, true, 5, 9, 0},
        };
        const struct forged late[] = {
            {TF_ACK, in_order, nxt + 1, true, later, 9, 0}, /* of what was never sent */
            {TF_ACK | TF_FIN, in_order, nxt + 9998, true, later, 9, 100},
            {TF_ACK, in_order - 50, nxt + 1, true, later, 9, 100},
            {TF_ACK, in_order, too_old, true, later, 9, 100},
            {TF_ACK | TF_FIN, in_order, too_old, true, later, 9, 0},
            {TF_ACK, in_order - 200, nxt, true, later, 9, 100}, /* outside the window */
            {TF_ACK | TF_FIN, in_order - 200, nxt, true, later, 9, 100},
            {TF_ACK, in_order - 1, nxt, true, later, 0, 0},
            {TF_ACK | TF_FIN, beyond, nxt, true, later, 0, 100},
            {TF_ACK, in_order, nxt, true, now - 1, 0, 100}, /* older than what has come */
            {TF_ACK | TF_FIN, in_order, nxt, false, 0, 0, 100},
            {0, in_order, nxt, true, later, 0, 100}, /* without an acknowledgement */
            {TF_FIN, in_order, nxt, true, later, 0, 0},
            {TF_SYN, in_order, nxt, true, later, 0, 0},
            {TF_SYN, beyond + 70000, nxt, true, later, 0, 0},
            {SYN_ACK, in_order, nxt + 1, true, later, 0, 0},
            {TF_RST, in_order + 1, 0, true, later, 0, 0},
            {TF_RST | TF_ACK, in_order - 1, nxt, true, later, 0, 0},
            {TF_RST | TF_ACK, beyond, nxt, true, later, 0, 0},
        };
        const struct forged *all = state == TCPS_SYN_SENT ? early : late;
        unsigned n =
            state == TCPS_SYN_SENT ? sizeof(early) / sizeof(*early) : sizeof(late) / sizeof(*late);

        for (unsigned i = 0; i < n; i++) {
            memcpy(before, c, sizeof(*c));
            forge(&w, 0, c, &all[i]);
            unchanged(before, c, i);
        }
        free(before);
        if (state == TCPS_ESTABLISHED)
            transfer(&w);
        /* A listener's connection that was not finished goes with it. */
        for (unsigned i = 0; i < 2; i++)
            if (w.conn[i])
                tcp_abort(w.conn[i]);
        tcp_close(w.listener);
        run_for(&w, 700 * S);
        unmake(&w);
    }
}

/* One forged segment to each of two ends, and neither agrees with the other: no war of acknowledgements. */
static void
test_ack_war(void)
{
    struct setup s = {.wire = {.seed = 50, .offloads = OFFLOAD_ALL}};
    struct inet_stats before, after;

    /* PAWS alone: each holds the other's timestamps to be old; sequence numbers alone; both */
    for (unsigned kind = 1; kind <= 3; kind++) {
        struct world w = make(&s);
        struct forged g[2];

        establish(&w);
        run_for(&w, MS);
        for (unsigned i = 0; i < 2; i++) {
            const struct tcp_conn *c = w.conn[i];

            g[i] = (struct forged){TF_ACK,       c->rcv_nxt, c->snd_nxt,      true,
                                   c->ts_recent, 1000,       kind & 2 ? 9 : 0};
            if (kind & 1)
                g[i].tsval += 3600 * 1000;
        }
        for (unsigned i = 0; i < 2; i++)
            forge(&w, i, w.conn[i], &g[i]);
        if (kind == 1) /* a word to begin with */
            forge(&w, 0, w.conn[0],
                  &(struct forged){TF_ACK, g[0].seq - 1, g[0].ack, true, g[0].tsval, 1000, 0});
        run_for(&w, S);
        inet_get_stats(w.inet[0], &before);
        run_for(&w, 10 * S);
        inet_get_stats(w.inet[0], &after);
        CHECK(after.tx_tcp - before.tx_tcp <= 20); /* two a second */
        CHECK_EQ(info(&w, 0).state, TCPS_ESTABLISHED);
        for (unsigned i = 0; i < 2; i++)
            tcp_abort(w.conn[i]);
        tcp_close(w.listener);
        unmake(&w);
    }
}

int
main(void)
{
    test_clean();
    test_closing();
    test_errors();
    test_simultaneous_open();
    test_zero_window();
    test_silly_window();
    test_dry_pool();
    test_crumbs();
    test_validate_first();
    test_ack_war();
    test_harm();
    return 0;
}
