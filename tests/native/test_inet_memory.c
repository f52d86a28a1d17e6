/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The budget of a stack with many hand-written peers: some send without being read, some send tiny
 * pieces or out of order, some accept nothing, some only send SYNs. Whatever they do, the stack
 * stays within its budget, no window shrinks, and an honest peer is served.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "inet/tcp_var.h"
#include "machine/machine.h"
#include "wire.h"

#define US 0x0a000001u
#define PEER 0x0a000002u
#define MS 1000000ull
#define S 1000000000ull
#define PORT 80
#define FIN 1
#define SYN 2
#define RST 4
#define ACK 16
#define PEERS 400
#define MSS 1460u
#define FIRST_PORT 2000u

static const uint8_t our_mac[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t peer_mac[6] = {2, 0, 0, 0, 0, 2};

/* What our application and the peer do with the connection. */
enum kind {
    HONEST, /* both sides take what comes at once */
    UNREAD, /* the peer sends all that the window allows, and is not read */
    CRUMBS, /* likewise, a byte or a few at a time */
    GAPS,   /* the peer leaves out the first byte, and sends pieces behind it */
    GREEDY, /* we send by copy all that there is room for; the peer acknowledges nothing */
    ORPHAN, /* likewise, with a window that shuts, and we close */
    SILENT, /* the peer knocks and says no more */
    KINDS
};

struct peer {
    enum kind kind;
    bool used, open, reset;
    uint16_t port;
    struct tcp_conn *conn;       /* accepted */
    uint32_t iss, una, nxt;      /* what it sends */
    uint32_t edge;               /* right edge of our window */
    uint32_t irs, rcv_nxt;       /* what it receives */
    uint32_t window;             /* what it offers, unscaled */
    unsigned scale;              /* of our windows */
    uint64_t sent_at;            /* its retransmission timer */
    uint64_t to_send, to_get;    /* bytes in either direction, of an honest one */
    uint64_t read, written, got; /* by our application; by the peer */
    bool got_any;
};

static struct machine *machine[2];
static struct wire *wire;
static struct nic *nic[2];
static struct inet *inet;
static struct tcp_conn *listener;
static struct peer peer[PEERS];
static uint64_t rng;

static uint8_t
byte_at(const struct peer *p, uint64_t at)
{
    return (uint8_t)(at * 7 + (at >> 9) + p->port);
}

static void
setup(uint64_t seed, size_t pages, uint32_t ring, uint32_t mtu)
{
    const struct wire_config wc = {
        .seed = seed, .delay = 50000, .offloads = OFFLOAD_ALL, .segment = true};
    struct device *end[2];

    rng = seed;
    memset(peer, 0, sizeof(peer));
    wire = wire_create(&wc, end);
    for (unsigned i = 0; i < 2; i++) {
        const struct machine_config mc = {.pages = i ? 4096 : pages};
        struct nic_config nc = {.nqueues = 1,
                                .rx_ring_size = i ? 512 : ring,
                                .tx_ring_size = i ? 512 : 256,
                                .mtu = mtu,
                                .offloads = OFFLOAD_ALL};

        memcpy(nc.mac, i ? peer_mac : our_mac, 6);
        CHECK_EQ(machine_create(&mc, &machine[i]), 0);
        CHECK_EQ(nic_attach(machine[i]->jumbo, machine[i]->mbufs, end[i], &nc, &nic[i]), 0);
    }
    struct inet_config ic = {.addr = htonl(US),
                             .netmask = htonl(0xffffff00),
                             .seed = seed,
                             .clock = wire_clock,
                             .clock_arg = wire};

    CHECK_EQ(inet_create(nic[0], &ic, &inet), 0);
    CHECK_EQ(tcp_listen(inet, PORT, PEERS, &listener), 0);
}

static void
teardown(void)
{
    struct inet_memory mem;

    for (unsigned i = 0; i < PEERS; i++)
        if (peer[i].conn)
            tcp_abort(peer[i].conn);
    tcp_close(listener);
    inet_get_memory(inet, &mem);
    while (mem.conns) { /* orphans */
        tcp_abort(TAILQ_FIRST(&inet->conns));
        inet_get_memory(inet, &mem);
    }
    CHECK_EQ(mem.pages_used, 0);
    CHECK_EQ(mem.mbufs_used, 0);
    CHECK_EQ(mem.pages_promised, 0);
    CHECK_EQ(mem.half_open + mem.orphans + mem.time_wait, 0);
    inet_destroy(inet);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(nic_check(nic[i]), 0);
        CHECK_EQ(nic_detach(nic[i]), 0);
    }
    wire_destroy(wire);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(machine_idle(machine[i]), 0);
        CHECK_EQ(machine[i]->arena->misuse_total, 0);
        CHECK_EQ(machine_destroy(machine[i]), 0);
    }
}

/* within_budget() - the stack's figures match what it really holds, and stay within the limits */
static void
within_budget(void)
{
    const struct inet_pool *p = &inet->page;
    uint32_t pages = inet->arp_pages, mbufs = inet->arp_mbufs, promised = 0, n[TC_COUNT] = {0};
    struct inet_memory mem;
    struct tcp_conn *c;

    TAILQ_FOREACH(c, &inet->conns, all_link)
    {
        const struct mbuf *chain[TCP_MAX_RANGES + 2] = {c->rcv_head, c->snd_head};

        for (unsigned i = 0; i < c->nranges; i++)
            chain[2 + i] = c->range[i].head;
        for (unsigned i = 0; i < c->nranges + 2; i++) {
            for (const struct mbuf *m = chain[i]; m; m = m->m_next) {
                pages += (m->m_flags & M_EXT) != 0;
                mbufs++;
            }
        }
        promised += c->promised;
        n[c->class]++;
        CHECK(c->rcv_pages <= c->rcv_mbufs && c->snd_pages <= c->snd_mbufs);
    }
    inet_get_memory(inet, &mem);
    CHECK_EQ(mem.pages_used, pages);
    CHECK_EQ(mem.mbufs_used, mbufs);
    CHECK_EQ(mem.pages_promised, promised);
    CHECK_EQ(mem.half_open, n[TC_HALF_OPEN]);
    CHECK_EQ(mem.orphans, n[TC_ORPHAN]);
    CHECK_EQ(mem.time_wait, n[TC_TIME_WAIT]);
    CHECK(mem.pages_used <= p->limit + p->floor);
    CHECK(mem.mbufs_used <= inet->mbuf.limit + inet->mbuf.floor);
    CHECK(mem.half_open <= TCP_HALF_OPEN_MAX);
    CHECK_EQ(nic_check(nic[0]), 0);
}

/* ---- the wire ---- */

static void
send_segment(const struct peer *p, unsigned flags, uint32_t seq, uint64_t at, size_t len)
{
    static uint8_t f[70000];
    static const uint8_t offer[12] = {2, 4, MSS >> 8, MSS & 255, 1, 1, 4, 2, 1, 3, 3, 7};
    uint8_t *t = f + 34, *data;
    unsigned opt = flags & SYN ? sizeof(offer) : 0;

    memset(f, 0, 54);
    memcpy(f, our_mac, 6);
    memcpy(f + 6, peer_mac, 6);
    put16(f + 12, 0x0800);
    f[14] = 0x45;
    put16(f + 16, (uint16_t)(40 + opt + len));
    f[22] = 64;
    f[23] = 6;
    put32(f + 26, PEER);
    put32(f + 30, US);
    put16(t, p->port);
    put16(t + 2, PORT);
    put32(t + 4, seq);
    put32(t + 8, flags & ACK ? p->rcv_nxt : 0);
    t[12] = (uint8_t)((20 + opt) << 2);
    t[13] = (uint8_t)flags;
    put16(t + 14, (uint16_t)p->window);
    memcpy(t + 20, offer, opt);
    data = t + 20 + opt;
    for (size_t i = 0; i < len; i++)
        data[i] = byte_at(p, at + i);
    wire_tcp_sum(f, 54 + opt + len);
    wire_inject(wire, 1, f, 54 + opt + len, NULL);
}

/* send_data() - @len bytes of the stream from @seq on */
static void
send_data(struct peer *p, uint32_t seq, size_t len)
{
    send_segment(p, ACK, seq, seq - p->iss - 1, len);
    p->sent_at = wire_clock(wire);
}

static void
answer_arp(const uint8_t *f)
{
    uint8_t r[60] = {0};

    memcpy(r, our_mac, 6);
    memcpy(r + 6, peer_mac, 6);
    memcpy(r + 12, f + 12, 8);
    put16(r + 20, 2);
    memcpy(r + 22, peer_mac, 6);
    memcpy(r + 28, f + 38, 4);
    memcpy(r + 32, f + 22, 10);
    if (get16(f + 20) == 1 && get32(f + 38) == PEER)
        wire_inject(wire, 1, r, sizeof(r), NULL);
}

/* hear() - deliver one of our frames to its peer */
static void
hear(const uint8_t *f, size_t len)
{
    const uint8_t *t = f + 34, *data;
    unsigned hlen = (t[12] >> 4) * 4u, flags = t[13], n = get16(f + 16) - 20 - hlen;
    uint32_t seq = get32(t + 4), ack = get32(t + 8), window = get16(t + 14);
    struct peer *p;

    if (get16(f + 12) == 0x0806) {
        answer_arp(f);
        return;
    }
    CHECK(len >= 54 && f[23] == 6);
    p = &peer[get16(t + 2) - FIRST_PORT];
    CHECK(p < peer + PEERS && p->used);
    data = t + hlen;
    if (flags & RST) {
        p->reset = true;
        return;
    }
    if (flags & SYN) {
        if (p->kind == SILENT)
            return;
        p->irs = seq;
        p->rcv_nxt = seq + 1;
        p->una = p->nxt = p->iss + 1;
        if (!p->open)
            p->edge = ack + window;
        /* A cookie, where timestamps are missing, agrees to no scale: the SYN's answer is short then. */
        p->scale = hlen > 24 ? 7 : 0;
        p->open = true;
        send_segment(p, ACK, p->nxt, 0, 0);
        return;
    }
    if (!p->open)
        return;
    if (SEQ_GT(ack, p->una)) {
        p->una = ack;
        p->sent_at = wire_clock(wire);
    }
    if (SEQ_LT(p->nxt, p->una))
        p->nxt = p->una;
    /* RFC 9293 3.8.6: a window does not shrink. Acknowledgements stay in order on this wire. */
    CHECK(SEQ_GEQ(ack + (window << p->scale), p->edge - 127));
    p->edge = seq_max(p->edge, ack + (window << p->scale));
    if (p->kind != HONEST) {
        if (p->kind == ORPHAN) {
            p->window = 0;
            send_segment(p, ACK, p->nxt, 0, 0);
        }
        return;
    }
    if (SEQ_LEQ(seq, p->rcv_nxt) && SEQ_GT(seq + n, p->rcv_nxt)) {
        uint32_t skip = p->rcv_nxt - seq;

        for (unsigned i = skip; i < n; i++)
            CHECK_EQ(data[i], byte_at(p, p->got + i - skip));
        p->got += n - skip;
        p->rcv_nxt += n - skip;
    }
    if (flags & FIN && seq + n == p->rcv_nxt) {
        p->rcv_nxt++;
        send_segment(p, FIN | ACK, p->nxt++, 0, 0);
    } else if (n) {
        send_segment(p, ACK, p->nxt, 0, 0);
    }
}

/* run() - let time pass */
static void
run(uint64_t ns)
{
    uint64_t until = wire_clock(wire) + ns;

    for (;;) {
        uint64_t next;
        struct mbuf *m;
        int64_t t;

        while (inet_poll(inet) > 0)
            ;
        while (nic_rx_burst(nic[1], 0, &m, 1) == 1) {
            static uint8_t f[70000];
            int len = m->m_pkthdr.len;

            CHECK_EQ(m_copydata(m, 0, len, (caddr_t)f), 0);
            m_freem(m);
            hear(f, (size_t)len);
        }
        next = wire_next(wire);
        t = inet_timeout(inet);
        if (t >= 0 && wire_clock(wire) + (uint64_t)t < next)
            next = wire_clock(wire) + (uint64_t)t;
        if (next > until)
            break;
        wire_advance(wire, next);
    }
    wire_advance(wire, until);
}

/* ---- peers ---- */

static struct peer *
knock(enum kind kind)
{
    for (unsigned i = 0; i < PEERS; i++) {
        struct peer *p = &peer[i];

        if (p->used)
            continue;
        CHECK(i + 1 < PEERS);
        *p = (struct peer){.kind = kind,
                           .used = true,
                           .port = (uint16_t)(FIRST_PORT + i),
                           .iss = (uint32_t)wire_random(&rng),
                           .window = kind == ORPHAN ? 100 : 512};
        send_segment(p, SYN, p->iss, 0, 0);
        p->sent_at = wire_clock(wire);
        return p;
    }
    return NULL;
}

static void
accept_all(void)
{
    struct tcp_conn *c;

    while ((c = tcp_accept(listener)) != NULL) {
        struct tcp_info_s i;

        tcp_get_info(c, &i);
        peer[i.peer_port - FIRST_PORT].conn = c;
    }
}

/* write_some() - send by copy, as much as there is room for; the application's stream is the peer's */
static void
write_some(struct peer *p, uint64_t most)
{
    static uint8_t bytes[1 << 16];
    uint32_t room;

    while (most && (room = tcp_copy_room(p->conn)) != 0) {
        size_t len = room < most ? room : most;
        struct mbuf *m;

        len = len < sizeof(bytes) ? len : sizeof(bytes);
        for (size_t i = 0; i < len; i++)
            bytes[i] = byte_at(p, p->written + i);
        m = mb_frombytes(machine[0]->mbufs, machine[0]->jumbo, bytes, len);
        if (!m)
            break;
        CHECK_EQ(tcp_send(p->conn, m), 0);
        CHECK_EQ(tcp_output(p->conn), 0);
        p->written += len;
        most -= len;
    }
}

static void
read_some(struct peer *p)
{
    struct mbuf *m;

    while ((m = tcp_recv(p->conn, 1 + (uint32_t)(wire_random(&rng) % 20000))) != NULL) {
        for (const struct mbuf *n = m; n; n = n->m_next)
            for (int i = 0; i < n->m_len; i++)
                CHECK_EQ((uint8_t)n->m_data[i], byte_at(p, p->read++));
        m_freem(m);
    }
}

/* act() - one step of a peer, or of our application */
static void
act(struct peer *p)
{
    size_t len = 1 + wire_random(&rng) % 9000;
    uint32_t left;

    if (p->reset || !p->open || !p->conn)
        return;
    left = SEQ_GT(p->edge, p->nxt) ? p->edge - p->nxt : 0;
    switch (p->kind) {
    case CRUMBS:
        len = 1 + len % 20;
        /* fall through */
    case UNREAD:
        if (!left && SEQ_GT(p->nxt, p->una) && wire_clock(wire) - p->sent_at > 200 * MS) {
            p->nxt = p->una; /* what was dropped comes again */
            left = p->edge - p->nxt;
        }
        len = len < left ? len : left;
        if (len) {
            send_data(p, p->nxt, len);
            p->nxt += (uint32_t)len;
        }
        break;
    case GAPS:
        len = 1 + wire_random(&rng) % (wire_random(&rng) % 2 ? 4 : 1460);
        left = 1 + (uint32_t)(wire_random(&rng) % 60000);
        if (SEQ_LEQ(p->una + left + (uint32_t)len, p->edge))
            send_data(p, p->una + left, len);
        break;
    case GREEDY:
        write_some(p, 1 << 16);
        break;
    case ORPHAN:
        write_some(p, 20000);
        tcp_close(p->conn);
        p->conn = NULL;
        break;
    default:
        break;
    }
}

/* serve() - an honest peer and its application, until both streams are there */
static void
serve(struct peer *p, uint64_t to_send, uint64_t to_get)
{
    uint64_t tries = 0;

    p->to_send = to_send;
    p->to_get = to_get;
    while (p->read < to_send || p->got < to_get) {
        uint32_t end = p->iss + 1 + (uint32_t)to_send, edge = seq_min(p->edge, end);

        CHECK(!p->reset);
        CHECK(++tries < 100000);
        accept_all();
        if (!p->open) {
            if (wire_clock(wire) - p->sent_at > S)
                p->sent_at = wire_clock(wire), send_segment(p, SYN, p->iss, 0, 0);
        } else {
            if (SEQ_GT(p->nxt, p->una) && wire_clock(wire) - p->sent_at > 200 * MS)
                p->nxt = p->una;
            while (SEQ_LT(p->nxt, edge)) {
                uint32_t len = u32_min(edge - p->nxt, MSS);

                send_data(p, p->nxt, len);
                p->nxt += len;
            }
        }
        if (p->conn) {
            read_some(p);
            write_some(p, to_get - p->written);
        }
        run(5 * MS);
        within_budget();
    }
}

/* Any mix of peers, on an arena of any size. */
static void
test_mix(uint64_t seed, size_t pages, unsigned peers, unsigned kinds)
{
    struct inet_memory mem;
    struct inet_stats st;

    setup(seed, pages, 64, 9000);
    for (unsigned round = 0; round < 4 * peers; round++) {
        enum kind kind;

        do {
            kind = (enum kind)(UNREAD + wire_random(&rng) % (KINDS - UNREAD));
        } while (!(kinds & 1u << kind));
        if (round < peers)
            knock(kind);
        accept_all();
        for (unsigned i = 0; i < 10; i++)
            act(&peer[wire_random(&rng) % (round < peers ? round + 1 : peers)]);
        run(wire_random(&rng) % (20 * MS));
        within_budget();
    }
    struct peer *p = knock(HONEST);

    serve(p, 20000, 20000);
    /* Then everybody is read, and gets what was promised. */
    for (unsigned i = 0; i < PEERS; i++)
        if (peer[i].conn && peer[i].kind != GREEDY)
            read_some(&peer[i]);
    run(S);
    within_budget();
    inet_get_memory(inet, &mem);
    inet_get_stats(inet, &st);
    if (getenv("VERBOSE"))
        fprintf(
            stderr,
            "seed %llu, %zu pages, %u peers, kinds %02x: limit %u used %u promised %u mbufs %u/%u "
            "conns %u half %u orphans %u; no_memory %llu compacted %llu pruned %llu tx %llu "
            "orphans %llu no_buffer %llu; %.3f s\n",
            (unsigned long long)seed, pages, peers, kinds, mem.pages_limit, mem.pages_used,
            mem.pages_promised, mem.mbufs_used, mem.mbufs_limit, mem.conns, mem.half_open,
            mem.orphans, (unsigned long long)st.rx_no_memory, (unsigned long long)st.rx_compacted,
            (unsigned long long)st.rx_pruned, (unsigned long long)st.tx_no_memory,
            (unsigned long long)st.orphans_dropped, (unsigned long long)st.rx_no_buffer,
            (double)wire_clock(wire) / 1e9);
    teardown();
}

/* More knock than may be half open: the next one is let in by a cookie. */
static void
test_flood(void)
{
    struct inet_stats st;

    setup(3, 4096, 64, 1500);
    for (unsigned i = 0; i < 300; i++)
        knock(SILENT);
    run(10 * MS);
    within_budget();
    serve(knock(HONEST), 100000, 100000);
    inet_get_stats(inet, &st);
    CHECK_EQ(st.cookies_taken, 1);
    CHECK_EQ(st.cookies_sent, 300 - TCP_HALF_OPEN_MAX + 1);
    teardown();
}

/* Connections that were closed with data left, whose peers live and take nothing, are given up in the end. */
static void
test_orphans(void)
{
    struct inet_memory mem;
    struct inet_stats st;

    setup(5, 4096, 64, 1500);
    for (unsigned i = 0; i < 77; i++) {
        struct peer *p = knock(ORPHAN);

        run(MS);
        accept_all();
        act(p);
    }
    run(10 * S);
    inet_get_memory(inet, &mem);
    CHECK_EQ(mem.orphans, 77);
    run(60 * S);
    inet_get_memory(inet, &mem);
    CHECK_EQ(mem.orphans, 0);
    CHECK_EQ(mem.pages_used, 0);
    inet_get_stats(inet, &st);
    CHECK_EQ(st.orphans_dropped, 77);
    for (unsigned i = 0; i < 77; i++)
        CHECK(peer[i].reset);
    teardown();
}

/* close_first() - so many connections are made, and closed by us first; those that ask answer */
static void
close_first(enum kind kind, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct peer *p = knock(kind);

        run(MS);
        accept_all();
        CHECK(p->conn);
        if (kind == ORPHAN)
            act(p);
        else
            tcp_close(p->conn);
        p->conn = NULL;
        run(MS);
        within_budget();
    }
}

/* Orphans and connections in TIME_WAIT may be a quarter of all; the oldest are ended first. */
static void
test_limits(void)
{
    struct inet_memory mem;
    struct inet_stats st;

    setup(6, 4096, 64, 1500);
    inet->max_conns = 200;
    close_first(ORPHAN, 60);
    inet_get_memory(inet, &mem);
    CHECK_EQ(mem.orphans, 50);
    for (unsigned i = 0; i < 60; i++)
        CHECK_EQ(peer[i].reset, i < 10);
    close_first(HONEST, 60);
    inet_get_memory(inet, &mem);
    CHECK_EQ(mem.time_wait, 50);
    inet_get_stats(inet, &st);
    CHECK_EQ(st.orphans_dropped, 11); /* one is, for a moment, on its way to TIME_WAIT */
    CHECK_EQ(st.time_wait_dropped, 10);
    /* When the table is nearly full, they go before anybody is refused. */
    for (unsigned i = 0; i < 180; i++) {
        knock(UNREAD);
        run(MS);
        accept_all();
        within_budget();
    }
    inet_get_stats(inet, &st);
    CHECK_EQ(st.conns_refused, 0);
    inet_get_memory(inet, &mem);
    CHECK(mem.orphans < 50);
    CHECK_EQ(mem.time_wait, 0);
    teardown();
}

/* echo() - a ping from a neighbour that does not answer ARP */
static void
echo(uint32_t from, size_t len)
{
    static uint8_t f[70000];

    memset(f, 0, 42 + len);
    memcpy(f, our_mac, 6);
    memcpy(f + 6, peer_mac, 6);
    put16(f + 12, 0x0800);
    f[14] = 0x45;
    put16(f + 16, (uint16_t)(28 + len));
    f[22] = 64;
    f[23] = 1;
    put32(f + 26, from);
    put32(f + 30, US);
    put16(f + 24, (uint16_t)~csum_bytes(f + 14, 20));
    f[34] = 8;
    put16(f + 36, (uint16_t)~csum_bytes(f + 34, 8 + len));
    wire_inject(wire, 1, f, 42 + len, NULL);
}

/* Answers that wait for an address are part of the budget. */
static void
test_pings(void)
{
    struct inet_memory mem;

    setup(4, 256, 64, 65535);
    for (unsigned i = 0; i < 250; i++) {
        echo(0x0a000003 + i % 60, 60000);
        run(100000);
        within_budget();
        inet_get_memory(inet, &mem);
        CHECK(mem.pages_used <= mem.pages_limit * 2 / 3);
    }
    CHECK(mem.pages_used > 0);
    serve(knock(HONEST), 100000, 100000);
    run(5 * S); /* no answer came */
    inet_get_memory(inet, &mem);
    CHECK_EQ(mem.pages_used, 0);
    teardown();
}

int
main(void)
{
    static const size_t pages[] = {64, 68, 96, 256, 1024};
    unsigned seeds = getenv("SEEDS") ? (unsigned)atoi(getenv("SEEDS")) : 2;

    test_flood();
    test_orphans();
    test_limits();
    test_pings();
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        for (unsigned i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
            for (unsigned kind = UNREAD; kind < KINDS; kind++)
                test_mix(seed, pages[i], 60, 1u << kind);
            test_mix(seed, pages[i], 300, ~0u);
        }
    }
    return 0;
}
