/* SPDX-License-Identifier: BSD-2-Clause */
/* Frame by frame: the host's answers to a hand-written peer, and to many kinds of invalid frames. */
#include <errno.h>
#include <string.h>

#include "machine/machine.h"
#include "check.h"
#include "inet/inet.h"
#include "wire.h"

#define US 0x0a000001u
#define PEER 0x0a000002u
#define S 1000000000ull
#define MS 1000000ull
#define FIN 1
#define SYN 2
#define RST 4
#define PSH 8
#define ACK 16

static const uint8_t our_mac[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t peer_mac[6] = {2, 0, 0, 0, 0, 2};

static struct machine *machine;
static struct wire *wire;
static struct nic *nic[2];
static struct inet *inet;

/* The frame that came last, and how many there were since they were counted last. */
static uint8_t last[70000];
static size_t last_len;

static void
set16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void
set32(uint8_t *p, uint32_t v)
{
    set16(p, v >> 16);
    set16(p + 2, v);
}

static unsigned
get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static uint32_t
get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static unsigned
sum(const uint8_t *p, size_t len, unsigned from)
{
    for (; len > 1; p += 2, len -= 2)
        from += get16(p);
    from += len ? (unsigned)*p << 8 : 0;
    while (from >> 16)
        from = (from & 0xffff) + (from >> 16);
    return from;
}

static uint32_t unclaimed; /* frames that the next host keeps */

static void
setup(uint64_t seed, uint32_t mtu)
{
    const struct machine_config mc = {.pages = 2048};
    const struct wire_config wc = {
        .seed = seed, .delay = 1000, .offloads = OFFLOAD_ALL, .segment = true};
    struct device *end[2];

    CHECK_EQ(machine_create(&mc, &machine), 0);
    wire = wire_create(&wc, end);
    for (unsigned i = 0; i < 2; i++) {
        struct nic_config nc = {.nqueues = 1,
                                .rx_ring_size = 256,
                                .tx_ring_size = 256,
                                .mtu = mtu,
                                .offloads = OFFLOAD_ALL};

        memcpy(nc.mac, i ? peer_mac : our_mac, 6);
        CHECK_EQ(nic_attach(machine->jumbo, machine->mbufs, end[i], &nc, &nic[i]), 0);
    }
    struct inet_config ic = {.addr = htonl(US),
                             .netmask = htonl(0xffffff00),
                             .gateway = htonl(0x0a0000fe),
                             .unclaimed = unclaimed,
                             .seed = seed,
                             .clock = wire_clock,
                             .clock_arg = wire};

    CHECK_EQ(inet_create(nic[0], &ic, &inet), 0);
}

static void
teardown(void)
{
    inet_destroy(inet);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(nic_check(nic[i]), 0);
        CHECK_EQ(nic_detach(nic[i]), 0);
    }
    wire_destroy(wire);
    CHECK_EQ(machine_idle(machine), 0);
    CHECK_EQ(machine_destroy(machine), 0);
}

/* answers() - let time pass; frames that the host sent, the newest in `last` */
static unsigned
answers(uint64_t ns)
{
    uint64_t until = wire_clock(wire) + ns;
    unsigned n = 0;

    for (;;) {
        struct mbuf *m;
        uint64_t next;
        int64_t t;

        while (inet_poll(inet) > 0)
            ;
        while (nic_rx_burst(nic[1], 0, &m, 1) == 1) {
            last_len = (size_t)m->m_pkthdr.len;
            CHECK_EQ(m_copydata(m, 0, (int)last_len, (caddr_t)last), 0);
            m_freem(m);
            n++;
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
    return n;
}

static bool together; /* frames are put on the wire, to arrive with the next one */

static unsigned
send_frame(const void *frame, size_t len)
{
    wire_inject(wire, 1, frame, len, NULL);
    return together ? 0 : answers(MS);
}

static struct inet_stats
stats(void)
{
    struct inet_stats s;

    inet_get_stats(inet, &s);
    return s;
}

/* ---- ARP ---- */

static size_t
arp(uint8_t *f, unsigned op, uint32_t from, uint32_t to, const uint8_t *mac)
{
    memset(f, 0, 60);
    memset(f, 0xff, 6);
    memcpy(f + 6, mac, 6);
    set16(f + 12, 0x0806);
    set16(f + 14, 1);
    set16(f + 16, 0x0800);
    f[18] = 6;
    f[19] = 4;
    set16(f + 20, op);
    memcpy(f + 22, mac, 6);
    set32(f + 28, from);
    set32(f + 38, to);
    return 60;
}

static void
greet(void)
{
    uint8_t f[60];

    CHECK_EQ(send_frame(f, arp(f, 1, PEER, US, peer_mac)), 1);
}

static void
test_arp(void)
{
    static const uint8_t other_mac[6] = {2, 0, 0, 0, 0, 9};
    uint8_t f[60];
    struct tcp_conn *c;

    setup(1, 1500);
    greet();
    CHECK_EQ(last_len, 60);
    CHECK(!memcmp(last, peer_mac, 6) && !memcmp(last + 6, our_mac, 6));
    CHECK_EQ(get16(last + 20), 2);
    CHECK(!memcmp(last + 22, our_mac, 6) && !memcmp(last + 32, peer_mac, 6));
    CHECK_EQ(get32(last + 28), US);
    CHECK_EQ(get32(last + 38), PEER);
    /* not ours, cut, of another kind, from a group */
    CHECK_EQ(send_frame(f, arp(f, 1, PEER, PEER, peer_mac)), 0);
    arp(f, 1, PEER, US, peer_mac);
    CHECK_EQ(send_frame(f, 41), 0);
    f[15] = 6;
    CHECK_EQ(send_frame(f, 60), 0);
    arp(f, 1, PEER, US, peer_mac);
    f[22] = 1;
    CHECK_EQ(send_frame(f, 60), 0);
    CHECK_EQ(stats().rx_bad_arp, 3);
    /* a probe of RFC 5227 is answered */
    CHECK_EQ(send_frame(f, arp(f, 1, 0, US, peer_mac)), 1);
    /* learned from the request: no question before the SYN */
    CHECK_EQ(tcp_connect(inet, htonl(PEER), 80, 0, &c), 0);
    CHECK_EQ(answers(MS), 1);
    CHECK_EQ(get16(last + 12), 0x0800);
    /* it has moved, and says so unasked */
    CHECK_EQ(send_frame(f, arp(f, 2, PEER, PEER, other_mac)), 0);
    CHECK_EQ(answers(1100 * MS), 1); /* the SYN again */
    CHECK(!memcmp(last, other_mac, 6));
    tcp_abort(c);
    /* neither request nor reply; an answer to what was not asked */
    arp(f, 9, PEER, US, peer_mac);
    CHECK_EQ(send_frame(f, 60), 0);
    CHECK_EQ(stats().rx_bad_arp, 4);
    CHECK_EQ(tcp_connect(inet, htonl(PEER), 80, 0, &c), 0);
    CHECK_EQ(answers(MS), 1);
    CHECK(!memcmp(last, other_mac, 6));
    tcp_abort(c);
    CHECK_EQ(send_frame(f, arp(f, 2, 0x0a000007, US, other_mac)), 0);
    CHECK_EQ(tcp_connect(inet, htonl(0x0a000007), 80, 0, &c), 0);
    CHECK_EQ(answers(MS), 1);
    CHECK_EQ(get16(last + 12), 0x0806);
    tcp_abort(c);
    answers(3 * S); /* and is asked for no more */
    /* by the gateway, which is asked for three times */
    CHECK_EQ(tcp_connect(inet, htonl(0x08080808), 80, 0, &c), 0);
    CHECK_EQ(answers(MS), 1);
    CHECK_EQ(get16(last + 12), 0x0806);
    CHECK_EQ(get32(last + 38), 0x0a0000fe);
    CHECK_EQ(answers(2500 * MS), 2);
    arp(f, 2, 0x0a0000fe, US, other_mac);
    CHECK_EQ(send_frame(f, 60), 1);
    CHECK_EQ(get32(last + 30), 0x08080808);
    tcp_abort(c);
    teardown();
}

/* ---- IP and ICMP ---- */

static size_t
ip(uint8_t *f, unsigned proto, size_t payload)
{
    memset(f, 0, 34);
    memcpy(f, our_mac, 6);
    memcpy(f + 6, peer_mac, 6);
    set16(f + 12, 0x0800);
    f[14] = 0x45;
    set16(f + 16, (unsigned)(20 + payload));
    f[22] = 64;
    f[23] = (uint8_t)proto;
    set32(f + 26, PEER);
    set32(f + 30, US);
    set16(f + 24, ~sum(f + 14, 20, 0));
    return 34 + payload;
}

static size_t
echo(uint8_t *f, size_t data)
{
    uint8_t *icmp = f + 34;

    for (size_t i = 0; i < data; i++)
        icmp[8 + i] = (uint8_t)(i * 7 + (i >> 8));
    set32(icmp, 8u << 24);
    set32(icmp + 4, 0x12340001);
    set16(icmp + 2, ~sum(icmp, 8 + data, 0));
    return ip(f, 1, 8 + data);
}

static void
test_icmp(void)
{
    static const size_t sizes[] = {0, 1, 2, 56, 57, 1472, 4000, 4096, 8972, 65507};
    static uint8_t f[70000];
    struct inet_stats st;

    setup(2, 65535);
    greet();
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t len = echo(f, sizes[i]);

        CHECK_EQ(send_frame(f, len), 1);
        CHECK_EQ(last_len, len);
        CHECK(!memcmp(last, peer_mac, 6) && !memcmp(last + 6, our_mac, 6));
        CHECK_EQ(sum(last + 14, 20, 0), 0xffff);
        CHECK_EQ(get32(last + 26), US);
        CHECK_EQ(get32(last + 30), PEER);
        CHECK_EQ(last[34], 0);
        CHECK_EQ(sum(last + 34, len - 34, 0), 0xffff);
        CHECK(!memcmp(last + 38, f + 38, len - 38));
    }
    /* padded to the least Ethernet frame; with options, which are not sent back */
    echo(f, 0);
    CHECK_EQ(send_frame(f, 60), 1);
    CHECK_EQ(last_len, 42);
    echo(f, 100);
    memmove(f + 38, f + 34, 108);
    f[14] = 0x46;
    set32(f + 34, 0x01010100);
    set16(f + 16, 20 + 4 + 108);
    set16(f + 24, 0);
    set16(f + 24, ~sum(f + 14, 24, 0));
    CHECK_EQ(send_frame(f, 14 + 24 + 108), 1);
    CHECK_EQ(last_len, 14 + 20 + 108);
    CHECK_EQ(sum(last + 34, 108, 0), 0xffff);
    /* one bit wrong: in the data, in the IP header */
    echo(f, 56);
    f[60] ^= 4;
    CHECK_EQ(send_frame(f, 34 + 64), 0);
    echo(f, 56);
    f[22] ^= 1;
    CHECK_EQ(send_frame(f, 34 + 64), 0);
    CHECK_EQ(stats().rx_bad_csum, 2);
    /* fragments, other destinations, impossible sources, lengths that lie */
    for (unsigned i = 0; i < 12; i++) {
        size_t len = echo(f, 56);

        switch (i) {
        case 0:
            set16(f + 20, 0x2000);
            break;
        case 1:
            set16(f + 20, 0x0001);
            break;
        case 2:
            set32(f + 30, 0x0a0000ff);
            break;
        case 3:
            set32(f + 30, 0x0a000005);
            break;
        case 4:
            set32(f + 26, 0x0a0000ff);
            break;
        case 5:
            set32(f + 26, 0xe0000001);
            break;
        case 6:
            set32(f + 26, US);
            break;
        case 7:
            set32(f + 26, 0x7f000001);
            break;
        case 8:
            f[14] = 0x44;
            break;
        case 9:
            f[14] = 0x4f;
            break;
        case 10:
            set16(f + 16, 200);
            break;
        case 11:
            memset(f, 0xff, 6);
            break; /* to all, though the address is ours */
        }
        set16(f + 24, 0);
        set16(f + 24, ~sum(f + 14, (f[14] & 15) * 4u, 0));
        CHECK_EQ(send_frame(f, len), 0);
    }
    st = stats();
    CHECK_EQ(st.rx_fragments, 2);
    CHECK_EQ(st.rx_bad_ip, 8);
    /* every way to be cut short */
    for (size_t n = 14; n < 34 + 64; n++) {
        echo(f, 56);
        CHECK_EQ(send_frame(f, n), 0);
    }
    teardown();
}

/* ---- what no protocol here takes ---- */

static void
test_unclaimed(void)
{
    enum {
        OF_ANOTHER_TYPE,
        TO_A_GROUP,
        UDP,
        A_FRAGMENT,
        TO_ANOTHER_ADDRESS,
        TO_ALL,
        KEPT
    };
    static uint8_t f[KEPT + 1][100];
    struct mbuf *m[KEPT];

    for (unsigned i = 0; i < KEPT; i++) {
        ip(f[i], i == TO_ANOTHER_ADDRESS ? 6 : 17, 66);
        f[i][99] = (uint8_t)i;
    }
    set16(f[OF_ANOTHER_TYPE] + 12, 0x88b5);
    set16(f[TO_A_GROUP] + 12, 0x86dd);
    f[TO_A_GROUP][0] = 0x33;
    set16(f[A_FRAGMENT] + 20, 0x2000);
    set32(f[TO_ANOTHER_ADDRESS] + 30, 0x0a000005);
    memset(f[TO_ALL], 0xff, 6);
    set32(f[TO_ALL] + 26, 0);
    set32(f[TO_ALL] + 30, 0xffffffff);
    for (unsigned i = A_FRAGMENT; i < KEPT; i++) {
        set16(f[i] + 24, 0);
        set16(f[i] + 24, ~sum(f[i] + 14, 20, 0));
    }

    for (unsigned room = 0; room <= KEPT; room += KEPT / 2) {
        unclaimed = room;
        setup(3, 1500);
        greet();
        for (unsigned i = 0; i < KEPT; i++)
            CHECK_EQ(send_frame(f[i], 100), 0);
        /* answered here; to another MAC address; damaged: none of them is kept */
        CHECK_EQ(send_frame(f[KEPT], echo(f[KEPT], 56)), 1);
        ip(f[KEPT], 17, 66);
        f[KEPT][5] ^= 1;
        CHECK_EQ(send_frame(f[KEPT], 100), 0);
        f[KEPT][5] ^= 1;
        f[KEPT][22] ^= 1;
        CHECK_EQ(send_frame(f[KEPT], 100), 0);
        CHECK_EQ(stats().rx_other, KEPT + 1);
        CHECK_EQ(stats().rx_no_buffer, room ? KEPT - room : 0);
        for (unsigned got = 0; got < room; got++) {
            uint8_t copy[100];

            if (got == room / 2 && room == KEPT / 2)
                break; /* the host takes the others along */
            CHECK_EQ(inet_recv_unclaimed(inet, m, 1), 1);
            CHECK_EQ(m[0]->m_pkthdr.len, 100);
            CHECK(m[0]->m_pkthdr.rcv_tstmp > 0);
            CHECK_EQ(m_copydata(m[0], 0, 100, (caddr_t)copy), 0);
            CHECK(!memcmp(copy, f[got], 100));
            m_freem(m[0]);
        }
        if (room != KEPT / 2) {
            CHECK_EQ(inet_recv_unclaimed(inet, m, KEPT), 0);
            for (unsigned i = 0; room && i < KEPT; i++)
                CHECK_EQ(send_frame(f[i], 100), 0);
            CHECK_EQ(inet_recv_unclaimed(inet, m, KEPT), room);
            for (unsigned i = 0; i < room; i++)
                m_freem(m[i]);
        }
        teardown();
    }
    unclaimed = 0;
}

/* ---- TCP ---- */

struct puppet { /* the peer, whose every segment is written here */
    uint16_t port, our_port;
    uint32_t seq, ack;
    bool ts;
    uint32_t tsval, tsecr;
    unsigned window;
};

static struct puppet p;
static struct tcp_conn *listener, *conn;
static uint8_t payload[9000];

/* tcp() - a segment of the puppet; frames it is answered with */
static unsigned
tcp_options(unsigned flags, uint32_t seq, uint32_t ack, const void *opt, size_t optlen,
            const void *data, size_t len)
{
    static uint8_t f[70000];
    uint8_t *t = f + 34;
    size_t hlen = 20 + optlen;

    memset(t, 0, 20);
    set16(t, p.port);
    set16(t + 2, p.our_port);
    set32(t + 4, seq);
    set32(t + 8, ack);
    t[12] = (uint8_t)(hlen << 2);
    t[13] = (uint8_t)flags;
    set16(t + 14, p.window);
    memcpy(t + 20, opt, optlen);
    if (len)
        memcpy(t + hlen, data, len);
    ip(f, 6, hlen + len);
    wire_tcp_sum(f, 34 + hlen + len);
    return send_frame(f, 34 + hlen + len);
}

static unsigned
tcp(unsigned flags, uint32_t seq, uint32_t ack, const void *data, size_t len)
{
    uint8_t opt[12] = {1, 1, 8, 10};

    set32(opt + 4, p.tsval);
    set32(opt + 8, p.tsecr);
    return tcp_options(flags, seq, ack, opt, p.ts ? 12 : 0, data, len);
}

static unsigned
flags(void)
{
    return last[47];
}

static uint32_t
seq(void)
{
    return get32(last + 38);
}

static uint32_t
ack(void)
{
    return get32(last + 42);
}

static size_t
data_len(void)
{
    return get16(last + 16) - 20 - (last[46] >> 4) * 4u;
}

/* option() - a TCP option of the last frame; NULL: it has none such */
static const uint8_t *
option(unsigned kind)
{
    const uint8_t *o = last + 54, *end = last + 34 + (last[46] >> 4) * 4;

    while (o < end && *o) {
        if (*o == kind)
            return o;
        o += *o == 1 ? 1 : o[1];
    }
    return NULL;
}

static struct tcp_info_s
info(void)
{
    struct tcp_info_s i;

    tcp_get_info(conn, &i);
    return i;
}

/* establish() - the puppet connects, with timestamps, SACK and a window scale of 2 or without any */
static void
establish(bool options)
{
    uint8_t opt[20] = {2, 4, 1000 >> 8, 1000 & 255, 4, 2, 8, 10, 0, 0,
                       0, 0, 0,         0,          0, 0, 1, 3,  3, 2};

    p = (struct puppet){.port = 1234,
                        .our_port = 80,
                        .seq = 0xfffffff0,
                        .window = 16000,
                        .tsval = 1000,
                        .ts = options};
    set32(opt + 8, p.tsval);
    CHECK_EQ(tcp_listen(inet, 80, 2, &listener), 0);
    CHECK_EQ(tcp_options(SYN, p.seq, 0, opt, options ? 20 : 0, NULL, 0), 1);
    CHECK_EQ(flags(), SYN | ACK);
    CHECK_EQ(ack(), p.seq + 1);
    CHECK(option(2) && get16(option(2) + 2) == nic_mtu(nic[0]) - 40);
    CHECK_EQ(option(3) != NULL, options);
    CHECK_EQ(option(4) != NULL, options);
    CHECK_EQ(option(8) != NULL, options);
    if (options) {
        CHECK_EQ(get32(option(8) + 6), p.tsval);
        p.tsecr = get32(option(8) + 2);
    }
    p.seq++;
    p.ack = seq() + 1;
    CHECK_EQ(tcp(ACK, p.seq, p.ack, NULL, 0), 0);
    conn = tcp_accept(listener);
    CHECK(conn);
    tcp_close(listener);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    CHECK_EQ(info().mss, options ? 988 : 536);
    CHECK_EQ(info().snd_wnd, options ? 64000 : 16000);
}

static void
enqueue(size_t len)
{
    struct mbuf *m = mb_frombytes(machine->mbufs, machine->jumbo, payload, len);

    CHECK(m);
    CHECK_EQ(tcp_send(conn, m), 0);
    CHECK_EQ(tcp_output(conn), 0);
}

static void
test_no_connection(void)
{
    setup(3, 1500);
    greet();
    p = (struct puppet){.port = 1234, .our_port = 80};
    /* RFC 9293 3.5.2 */
    CHECK_EQ(tcp(SYN, 1000, 0, NULL, 0), 1);
    CHECK_EQ(flags(), RST | ACK);
    CHECK_EQ(seq(), 0);
    CHECK_EQ(ack(), 1001);
    CHECK_EQ(tcp(FIN | ACK, 1000, 5000, payload, 10), 1);
    CHECK_EQ(flags(), RST);
    CHECK_EQ(seq(), 5000);
    CHECK_EQ(tcp(FIN, 1000, 0, payload, 10), 1);
    CHECK_EQ(ack(), 1011);
    CHECK_EQ(tcp(RST, 1000, 0, NULL, 0), 0);
    CHECK_EQ(tcp(RST | ACK, 1000, 0, NULL, 0), 0);
    /* options that lie about their length: not a segment */
    CHECK_EQ(tcp_options(SYN, 1000, 0, "\x02\x00\x00\x00", 4, NULL, 0), 0);
    CHECK_EQ(tcp_options(SYN, 1000, 0, "\x01\x01\x01\x02", 4, NULL, 0), 0);
    CHECK_EQ(tcp_options(SYN, 1000, 0, "\x08\x0a\x00\x00", 4, NULL, 0), 0);
    CHECK_EQ(stats().rx_bad_tcp, 3);
    teardown();
}

/* RFC 5961: what could have been sent blindly changes nothing and is answered with an ACK. */
static void
test_blind(void)
{
    setup(4, 1500);
    greet();
    establish(true);
    CHECK_EQ(tcp(RST, p.seq + 1, 0, NULL, 0), 1);
    CHECK_EQ(flags(), ACK);
    CHECK_EQ(ack(), p.seq);
    CHECK_EQ(tcp(RST, p.seq - 1, 0, NULL, 0), 0);
    CHECK_EQ(tcp(RST, p.seq + info().rcv_wnd, 0, NULL, 0), 0);
    CHECK_EQ(tcp(SYN, p.seq, 0, NULL, 0), 1);
    CHECK_EQ(flags(), ACK);
    CHECK_EQ(tcp(ACK, p.seq, p.ack + 1, payload, 10), 1);     /* of what was never sent */
    CHECK_EQ(tcp(ACK, p.seq, p.ack - 70000, payload, 10), 1); /* older than the window */
    CHECK_EQ(stats().tx_challenge_ack, 4);
    CHECK_EQ(tcp(RST, p.seq + 1, 0, NULL, 0), 1);
    CHECK_EQ(tcp(RST, p.seq + 1, 0, NULL, 0), 0); /* five in a second */
    CHECK_EQ(info().readable, 0);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    /* PAWS: an old timestamp; none at all */
    p.tsval = 999;
    CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 10), 1);
    CHECK_EQ(stats().rx_paws, 1);
    p.tsval = 1001;
    p.ts = false;
    CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 10), 0);
    CHECK_EQ(info().readable, 0);
    p.ts = true;
    CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 10), 1);
    CHECK_EQ(get32(option(8) + 6), 1001);
    CHECK_EQ(info().readable, 10);
    /* exactly the next number: that is the peer */
    CHECK_EQ(tcp(RST, p.seq + 10, 0, NULL, 0), 0);
    CHECK_EQ(info().error, ECONNRESET);
    CHECK_EQ(info().readable, 10);
    tcp_close(conn);
    teardown();
}

/*
 * An unacceptable segment is answered with our state: without payload at most every 500 ms, as
 * Linux does (tcp_invalid_ratelimit); with payload always, because our acknowledgement may have
 * been lost.
 */
static void
test_in_measure(void)
{
    setup(14, 1500);
    greet();
    establish(true);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(tcp(ACK, p.seq - 1, p.ack, NULL, 0), 1);
        CHECK_EQ(ack(), p.seq);
        CHECK_EQ(tcp(ACK, p.seq - 1, p.ack, NULL, 0), 0); /* before the window */
        CHECK_EQ(tcp(ACK, p.seq + (1 << 30), p.ack, NULL, 0), 0);
        p.tsval -= 10;
        CHECK_EQ(tcp(ACK, p.seq, p.ack, NULL, 0), 0); /* PAWS */
        p.tsval += 10;
        CHECK_EQ(tcp(ACK, p.seq - 10, p.ack, payload, 5), 1);
        CHECK_EQ(tcp(ACK, p.seq + (1 << 30), p.ack, payload, 5), 1);
        CHECK_EQ(answers(500 * MS), 0);
    }
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    tcp_abort(conn);
    answers(MS);
    /* a SYN that comes again before its answer can have been missed */
    p.ts = false;
    CHECK_EQ(tcp_listen(inet, 80, 2, &listener), 0);
    CHECK_EQ(tcp(SYN, 5000, 0, NULL, 0), 1);
    CHECK_EQ(tcp(SYN, 5000, 0, NULL, 0), 1);
    CHECK_EQ(flags(), SYN | ACK);
    CHECK_EQ(tcp(SYN, 5000, 0, NULL, 0), 0);
    CHECK_EQ(answers(500 * MS), 0);
    CHECK_EQ(tcp(SYN, 5000, 0, NULL, 0), 1);
    CHECK_EQ(ack(), 5001);
    tcp_close(listener);
    teardown();
}

/* Out-of-order data are reported, newest first, and so are duplicates. */
static void
test_sack(void)
{
    const uint8_t *o;
    struct mbuf *m;

    setup(5, 1500);
    greet();
    establish(true);
    CHECK_EQ(tcp(ACK, p.seq + 100, p.ack, payload, 100), 1);
    o = option(5);
    CHECK(o && o[1] == 10);
    CHECK_EQ(ack(), p.seq);
    CHECK_EQ(get32(o + 2), p.seq + 100);
    CHECK_EQ(get32(o + 6), p.seq + 200);
    CHECK_EQ(tcp(ACK, p.seq + 300, p.ack, payload, 100), 1);
    CHECK_EQ(tcp(ACK, p.seq + 500, p.ack, payload, 100), 1);
    CHECK_EQ(tcp(ACK, p.seq + 700, p.ack, payload, 100), 1);
    CHECK_EQ(tcp(ACK, p.seq + 400, p.ack, payload, 50), 1);
    o = option(5);
    CHECK(o && o[1] == 26); /* beside timestamps there is room for three */
    CHECK_EQ(get32(o + 2), p.seq + 300);
    CHECK_EQ(get32(o + 6), p.seq + 450);
    CHECK_EQ(get32(o + 10), p.seq + 700);
    CHECK_EQ(get32(o + 18), p.seq + 500);
    /* a duplicate, RFC 2883 */
    CHECK_EQ(tcp(ACK, p.seq + 310, p.ack, payload, 20), 1);
    o = option(5);
    CHECK_EQ(get32(o + 2), p.seq + 310);
    CHECK_EQ(get32(o + 6), p.seq + 330);
    /* the gaps, with overlaps on both sides */
    CHECK_EQ(tcp(ACK, p.seq + 440, p.ack, payload, 300), 1);
    CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 350), 1);
    CHECK_EQ(ack(), p.seq + 800);
    CHECK(!option(5));
    CHECK_EQ(info().readable, 800);
    CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 50), 1);
    CHECK_EQ(get32(option(5) + 6), p.seq + 50);
    m = tcp_recv(conn, 10000);
    CHECK_EQ(m_length(m, NULL), 800);
    m_freem(m);
    CHECK_EQ(machine->arena->misuse_total, 0);
    tcp_abort(conn);
    teardown();
}

/* Three segments' worth of SACKed bytes make a hole lost; it alone is sent again, and at once. */
static void
test_recovery(void)
{
    uint8_t opt[24] = {1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 10};
    uint32_t una;

    setup(6, 1500);
    greet();
    establish(true);
    una = p.ack;
    enqueue(9 * 988);
    CHECK_EQ(answers(MS), 9); /* super-frames, cut on the wire */
    set32(opt + 4, p.tsval);
    set32(opt + 16, una + 988);
    set32(opt + 20, una + 3 * 988);
    CHECK_EQ(tcp_options(ACK, p.seq, una, opt, 24, NULL, 0), 0); /* two segments: not yet */
    set32(opt + 20, una + 4 * 988);
    CHECK(tcp_options(ACK, p.seq, una, opt, 24, NULL, 0) >= 1);
    CHECK_EQ(stats().tx_fast_retransmits, 1);
    CHECK_EQ(stats().tx_payload_retransmitted, 988);
    CHECK_EQ(tcp(ACK, p.seq, una + 8892, NULL, 0), 0);
    CHECK_EQ(info().unacked, 0);
    tcp_abort(conn);
    teardown();
}

/* Blocks that begin below the acknowledgement, or end beyond what was sent, say nothing of a loss. */
static void
test_blocks_of_no_use(void)
{
    uint8_t opt[24] = {1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 10};
    uint32_t una;

    setup(25, 1500);
    greet();
    establish(true);
    una = p.ack + 988;
    enqueue(9 * 988);
    CHECK_EQ(answers(MS), 9);
    set32(opt + 4, p.tsval);
    for (unsigned i = 0; i < 4; i++) {
        set32(opt + 16, i < 2 ? una - 100 * i - 988 : una + 988);
        set32(opt + 20, i < 2 ? una + 5 * 988 : i == 2 ? una + 8 * 988 + 1 : una);
        tcp_options(ACK, p.seq, una, opt, 24, NULL, 0);
    }
    CHECK_EQ(stats().tx_retransmits, 0);
    set32(opt + 20, una + 5 * 988);
    CHECK(tcp_options(ACK, p.seq, una, opt, 24, NULL, 0) >= 1);
    CHECK_EQ(stats().tx_fast_retransmits, 1);
    tcp_abort(conn);
    teardown();
}

/* Without SACK: three duplicate acknowledgements, RFC 5681; the timer, RFC 6298. */
static void
test_duplicates(void)
{
    uint32_t una;

    setup(7, 1500);
    greet();
    establish(false);
    una = p.ack;
    enqueue(3000);
    CHECK_EQ(answers(MS), 6);
    CHECK_EQ(tcp(ACK, p.seq, una, NULL, 0), 0);
    CHECK_EQ(tcp(ACK, p.seq, una, NULL, 0), 0);
    CHECK_EQ(tcp(ACK, p.seq, una, NULL, 0), 1);
    CHECK_EQ(seq(), una);
    CHECK_EQ(data_len(), 536);
    /* a partial acknowledgement names the next one lost */
    CHECK_EQ(tcp(ACK, p.seq, una + 1072, NULL, 0), 1);
    CHECK_EQ(seq(), una + 1072);
    CHECK_EQ(tcp(ACK, p.seq, una + 3000, NULL, 0), 0);
    CHECK_EQ(info().unacked, 0);
    /* the timer: 200 ms, 400, 800 */
    una += 3000;
    enqueue(100);
    CHECK_EQ(answers(100 * MS), 1);
    CHECK_EQ(answers(150 * MS), 1);
    CHECK_EQ(seq(), una);
    CHECK_EQ(answers(300 * MS), 0);
    CHECK_EQ(answers(150 * MS), 1);
    CHECK_EQ(answers(700 * MS), 0);
    CHECK_EQ(answers(150 * MS), 1);
    CHECK_EQ(stats().tx_rto, 3);
    CHECK_EQ(answers(3600 * S) > 5, true);
    CHECK_EQ(info().error, EHOSTUNREACH); /* because ARP is no longer answered */
    CHECK_EQ(info().unacked, 0);
    tcp_close(conn);
    teardown();
}

static void
test_acknowledging(void)
{
    setup(8, 1500);
    greet();
    establish(false);
    /* at once while the connection is young, then the second one or 40 ms */
    for (unsigned i = 0; i < 16; i++, p.seq += 100)
        CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 100), 1);
    CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 100), 0);
    CHECK_EQ(answers(30 * MS), 0);
    CHECK_EQ(answers(10 * MS), 1);
    CHECK_EQ(ack(), p.seq + 100);
    p.seq += 100;
    CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 536), 0);
    CHECK_EQ(tcp(ACK, p.seq + 536, p.ack, payload, 536), 1);
    p.seq += 1072;
    /* beyond the window, and a probe of a window that is not shut */
    CHECK_EQ(tcp(ACK, p.seq + info().rcv_wnd + 1, p.ack, payload, 10), 1);
    CHECK_EQ(tcp(ACK, p.seq - 1, p.ack, NULL, 0), 1);
    CHECK_EQ(ack(), p.seq);
    /* the end, twice */
    CHECK_EQ(tcp(FIN | ACK, p.seq, p.ack, NULL, 0), 1);
    CHECK_EQ(ack(), p.seq + 1);
    CHECK_EQ(info().state, TCPS_CLOSE_WAIT);
    CHECK_EQ(tcp(FIN | ACK, p.seq, p.ack, NULL, 0), 1);
    CHECK(!tcp_eof(conn)); /* there is something to read */
    m_freem(tcp_recv(conn, 1 << 20));
    CHECK(tcp_eof(conn));
    tcp_close(conn);
    CHECK_EQ(answers(MS), 1);
    CHECK_EQ(flags(), FIN | ACK);
    CHECK_EQ(tcp(ACK, p.seq + 1, p.ack + 1, NULL, 0), 0);
    CHECK_EQ(answers(10 * S), 0);
    teardown();
}

/* still_there() - the peer's ARP entry is fresh again */
static void
still_there(void)
{
    uint8_t f[60];

    send_frame(f, arp(f, 1, PEER, US, peer_mac));
}

/* RFC 6298 5: backing off ends with a valid sample, which the answer to a retransmission is only with timestamps. */
static void
test_karn(void)
{
    uint32_t rto, srtt, var;

    setup(17, 1500);
    greet();
    establish(false);
    enqueue(100);
    CHECK_EQ(answers(150 * MS), 1);
    p.ack += 100;
    CHECK_EQ(tcp(ACK, p.seq, p.ack, NULL, 0), 0); /* 150 ms: a sample */
    rto = info().rto_us;
    CHECK(rto >= 200000 && rto < 600000);
    for (unsigned i = 1; i <= 3; i++) { /* the path is longer now than each timeout */
        enqueue(100);
        CHECK_EQ(answers(rto * 1000ull + 2 * MS), 2);
        CHECK_EQ(seq(), p.ack);
        p.ack += 100;
        CHECK_EQ(tcp(ACK, p.seq, p.ack, NULL, 0), 0);
        CHECK_EQ(info().rto_us, 2 * rto);
        rto *= 2;
    }
    srtt = info().srtt_us;
    enqueue(100);
    CHECK_EQ(answers((rto - 10000) * 1000ull), 1); /* sent once: 2.3 */
    p.ack += 100;
    CHECK_EQ(tcp(ACK, p.seq, p.ack, NULL, 0), 0);
    CHECK(info().srtt_us > srtt + (rto - srtt - 20000) / 8);
    var = (info().rto_us - info().srtt_us) / 4;
    CHECK(var > (rto - 20000 - srtt) / 4 && var < rto / 2);
    tcp_abort(conn);
    teardown();

    setup(18, 1500);
    greet();
    establish(true);
    enqueue(100);
    CHECK_EQ(answers(650 * MS), 3); /* 200 ms, 400 */
    p.tsecr = get32(option(8) + 2);
    p.ack += 100;
    CHECK_EQ(info().rto_us, 800000);
    CHECK_EQ(tcp(ACK, p.seq, p.ack, NULL, 0), 0);
    CHECK(info().srtt_us > 0 && info().srtt_us < 50000); /* it was the last one that arrived */
    CHECK_EQ(info().rto_us, 200000);
    tcp_abort(conn);
    teardown();
}

/* RFC 6298 5.7: a handshake that was repeated leaves 3 seconds for the first data, on both sides. */
static void
test_syn_timeout(void)
{
    setup(19, 1500);
    greet();
    CHECK_EQ(tcp_connect(inet, htonl(PEER), 1234, 4321, &conn), 0);
    CHECK_EQ(answers(1100 * MS), 2);
    p = (struct puppet){
        .port = 1234, .our_port = 4321, .seq = 500, .ack = seq() + 1, .window = 9000};
    CHECK_EQ(tcp(SYN | ACK, p.seq, p.ack, NULL, 0), 1);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    CHECK_EQ(info().rto_us, 3000000);
    enqueue(100);
    CHECK_EQ(answers(2900 * MS), 1);
    CHECK_EQ(answers(200 * MS), 1);
    CHECK_EQ(seq(), p.ack);
    tcp_abort(conn);
    answers(MS);

    CHECK_EQ(tcp_listen(inet, 4321, 2, &listener), 0);
    CHECK_EQ(tcp(SYN, p.seq, 0, NULL, 0), 1);
    CHECK_EQ(answers(1100 * MS), 1);
    p.ack = seq() + 1;
    CHECK_EQ(tcp(ACK, p.seq + 1, p.ack, NULL, 0), 0);
    conn = tcp_accept(listener);
    CHECK_EQ(info().rto_us, 3000000);
    tcp_abort(conn);
    tcp_close(listener);
    teardown();
}

/*
 * RFC 9293 3.8.6: a peer shrinks its window below the data in flight, with an acknowledgement of
 * nothing new. It discards what arrives, and answers. The connection survives this for any time,
 * with an occasional segment; once the window is open, everything continues at once.
 */
static void
test_window_taken_back(bool options)
{
    const unsigned mss = options ? 988 : 536;
    uint32_t una;
    uint64_t since = 0, longest = 0;
    unsigned probes = 0;

    setup(20, 1500);
    greet();
    establish(options);
    enqueue(5000);
    CHECK(answers(MS) >= 5000 / mss);
    una = p.ack + 2 * mss;
    tcp(ACK, p.seq, una, NULL, 0);
    p.window = 0;
    tcp(ACK, p.seq, una, NULL, 0);
    CHECK_EQ(info().snd_wnd, 0);
    while (probes < 100) {
        since += 100 * MS;
        CHECK(since <= 70 * S);
        last_len = 0;
        if (since % S == 0)
            still_there();
        answers(100 * MS);
        if (!last_len || get16(last + 12) != 0x0800)
            continue;
        CHECK_EQ(seq(), una);
        CHECK(data_len() <= mss);
        if (++probes % 2) /* every second answer is lost */
            CHECK_EQ(tcp(ACK, p.seq, una, NULL, 0), 0);
        longest = since > longest ? since : longest;
        since = 0;
    }
    CHECK(longest >= 59 * S);
    CHECK_EQ(info().error, 0);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    /* open, by less than what was in flight: nothing beyond it */
    still_there();
    p.window = options ? 3000 / 4 : 3000;
    CHECK(tcp(ACK, p.seq, una, NULL, 0) >= 1);
    CHECK((int32_t)(seq() + data_len() - una - 3000) <= 0);
    for (p.ack += 5000; una != p.ack;) {
        una += mss;
        una = (int32_t)(una - p.ack) > 0 ? p.ack : una;
        if (tcp(ACK, p.seq, una, NULL, 0))
            CHECK((int32_t)(seq() + data_len() - una - 3000) <= 0);
    }
    CHECK_EQ(info().unacked, 0);
    CHECK_EQ(info().rto_us, 200000); /* no loss of the path's: nothing to back off from */
    tcp_abort(conn);
    teardown();
}

/* A window smaller than a segment is filled by a retransmission; what lies beyond it waits. */
static void
test_window_smaller(void)
{
    setup(21, 1500);
    greet();
    establish(false);
    enqueue(3000);
    CHECK_EQ(answers(MS), 6);
    p.window = 100;
    CHECK_EQ(tcp(ACK, p.seq, p.ack, NULL, 0), 0);
    CHECK_EQ(info().snd_wnd, 100);
    CHECK_EQ(answers(250 * MS), 1);
    CHECK_EQ(seq(), p.ack);
    CHECK_EQ(data_len(), 100);
    CHECK_EQ(tcp(ACK, p.seq, p.ack + 100, NULL, 0), 1);
    CHECK_EQ(seq(), p.ack + 100);
    CHECK_EQ(data_len(), 100);
    /* an older segment's window is not believed */
    p.seq += 10;
    p.window = 5000;
    CHECK(tcp(ACK | PSH, p.seq - 10, p.ack + 100, payload, 10) >= 1);
    CHECK_EQ(info().snd_wnd, 5000);
    p.window = 50;
    tcp(ACK | PSH, p.seq, p.ack + 100, payload, 10);
    CHECK_EQ(info().snd_wnd, 50);
    p.window = 7000;
    tcp(ACK | PSH, p.seq - 10, p.ack + 100, payload, 10);
    CHECK_EQ(info().snd_wnd, 50);
    tcp_abort(conn);
    teardown();
}

/* open_to() - our SYN is out, and the puppet knows it */
static void
open_to(uint16_t port)
{
    CHECK_EQ(tcp_connect(inet, htonl(PEER), 1234, port, &conn), 0);
    CHECK_EQ(answers(MS), 1);
    CHECK_EQ(flags(), SYN);
    p = (struct puppet){
        .port = 1234, .our_port = port, .seq = 7000, .ack = seq() + 1, .window = 9000};
}

/* RFC 9293 figure 7, and what may happen on the way. */
static void
test_simultaneous_open(void)
{
    static const uint8_t opt[20] = {2, 4, 1000 >> 8, 1000 & 255, 4, 2, 8, 10, 0, 0,
                                    0, 9, 0,         0,          0, 0, 1, 3,  3, 2};

    setup(23, 1500);
    greet();
    for (unsigned i = 0; i < 2; i++) {
        open_to((uint16_t)(4000 + i));
        CHECK_EQ(tcp(SYN, p.seq, 0, NULL, 0), 1);
        CHECK_EQ(flags(), SYN | ACK);
        CHECK_EQ(seq(), p.ack - 1);
        CHECK_EQ(ack(), p.seq + 1);
        CHECK_EQ(info().state, TCPS_SYN_RECEIVED);
        enqueue(100); /* waits */
        CHECK_EQ(answers(MS), 0);
        CHECK_EQ(info().unsent, 100);
        if (i) /* either the same SYN with an acknowledgement, or an acknowledgement alone */
            CHECK_EQ(tcp(SYN | ACK, p.seq, p.ack, NULL, 0), 1);
        else
            CHECK_EQ(tcp(ACK, p.seq + 1, p.ack, NULL, 0), 1);
        CHECK_EQ(info().state, TCPS_ESTABLISHED);
        CHECK_EQ(ack(), p.seq + 1);
        CHECK_EQ(data_len(), 100);
        tcp_abort(conn);
        answers(MS);
    }
    /* both of the peer's segments in one burst */
    open_to(4002);
    together = true;
    tcp(SYN, p.seq, 0, NULL, 0);
    together = false;
    tcp(SYN | ACK, p.seq, p.ack, NULL, 0);
    CHECK_EQ(stats().tx_rst, 2);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    tcp_abort(conn);
    answers(MS);
    /* an answer after the SYN was repeated */
    open_to(4003);
    CHECK_EQ(answers(S + 100 * MS), 1);
    CHECK_EQ(tcp(SYN | ACK, p.seq, p.ack, NULL, 0), 1);
    CHECK_EQ(flags(), ACK);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    tcp_abort(conn);
    answers(MS);
    /* A SYN, which anyone can forge, does not keep out the peer, whose answer has our number. */
    open_to(4004);
    CHECK_EQ(tcp(SYN, 99, 0, NULL, 0), 1);
    CHECK_EQ(info().state, TCPS_SYN_RECEIVED);
    CHECK_EQ(tcp_options(SYN | ACK, p.seq, p.ack + 1, opt, 20, NULL, 0), 1);
    CHECK_EQ(info().state, TCPS_SYN_RECEIVED);
    CHECK_EQ(tcp_options(SYN | ACK, p.seq, p.ack, opt, 20, NULL, 0), 1);
    CHECK_EQ(flags(), ACK);
    CHECK_EQ(ack(), p.seq + 1);
    CHECK(option(8) && get32(option(8) + 6) == 9);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    CHECK_EQ(info().mss, 988);
    CHECK_EQ(info().snd_wscale, 2);
    CHECK(info().rcv_wscale > 0);
    p.ts = true;
    p.tsval = 10;
    CHECK_EQ(tcp(ACK, p.seq + 1, p.ack, payload, 100), 1);
    CHECK_EQ(info().readable, 100);
    tcp_abort(conn);
    teardown();
}

/* Data after a FIN, and a FIN that arrives before its data. */
static void
test_fin_early(void)
{
    setup(9, 1500);
    greet();
    establish(true);
    CHECK_EQ(tcp(FIN | ACK, p.seq + 100, p.ack, payload, 100), 1);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    CHECK_EQ(tcp(ACK, p.seq + 150, p.ack, payload, 100), 1);
    CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 100), 1);
    CHECK_EQ(ack(), p.seq + 201);
    CHECK_EQ(info().state, TCPS_CLOSE_WAIT);
    CHECK_EQ(info().readable, 200);
    CHECK_EQ(tcp(ACK, p.seq + 201, p.ack, payload, 100), 1);
    CHECK_EQ(info().readable, 200);
    tcp_abort(conn);
    teardown();
}

/* A FIN below bytes already received: one of the two is forged, and the stream continues. */
static void
test_fin_contradicted(void)
{
    setup(15, 1500);
    greet();
    establish(true);
    CHECK_EQ(tcp(ACK, p.seq + 100, p.ack, payload, 100), 1);
    CHECK_EQ(tcp(FIN | ACK, p.seq + 50, p.ack, payload, 50), 1);
    CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 50), 1);
    CHECK_EQ(ack(), p.seq + 200);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    CHECK_EQ(tcp(FIN | ACK, p.seq + 200, p.ack, payload, 50), 1);
    CHECK_EQ(ack(), p.seq + 251);
    CHECK_EQ(info().state, TCPS_CLOSE_WAIT);
    CHECK_EQ(info().readable, 250);
    tcp_abort(conn);
    teardown();
}

/* TIME_WAIT begins anew with a retransmitted FIN only: RFC 9293 3.10.7.4, eighth. */
static void
test_time_wait(void)
{
    setup(16, 1500);
    greet();
    establish(true);
    tcp_shutdown(conn);
    CHECK_EQ(answers(MS), 1);
    p.ack++;
    CHECK_EQ(tcp(FIN | ACK, p.seq, p.ack, NULL, 0), 1);
    CHECK_EQ(info().state, TCPS_TIME_WAIT);
    answers(600 * MS);
    CHECK_EQ(tcp(FIN | ACK, p.seq, p.ack, NULL, 0), 1); /* 2 MSL: a second from now */
    answers(600 * MS);
    CHECK_EQ(info().state, TCPS_TIME_WAIT);
    CHECK_EQ(tcp(FIN | ACK, p.seq - 100, p.ack, payload, 10), 1);
    CHECK_EQ(tcp(FIN | ACK, p.seq + 1, p.ack, payload, 10), 1);
    CHECK_EQ(tcp(ACK, p.seq + 1, p.ack, payload, 10), 1);
    CHECK_EQ(tcp(ACK, p.seq, p.ack + 1, NULL, 0), 1);
    answers(500 * MS);
    CHECK_EQ(info().state, TCPS_CLOSED);
    tcp_close(conn);
    teardown();

    /* RFC 9293 3.6.1: a SYN may follow at once, but not if there is no room for it */
    setup(24, 1500);
    greet();
    establish(false);
    tcp_close(conn);
    CHECK_EQ(answers(MS), 1);
    CHECK_EQ(tcp(FIN | ACK, p.seq, p.ack + 1, NULL, 0), 1);
    for (unsigned i = 0; i < 2; i++) {
        struct puppet old = p;

        CHECK_EQ(tcp_listen(inet, 80, 1, &listener), 0);
        if (!i) {
            p.port++;
            CHECK_EQ(tcp(SYN, p.seq, 0, NULL, 0), 1);
            CHECK_EQ(tcp(ACK, p.seq + 1, seq() + 1, NULL, 0), 0);
        }
        p = old;
        CHECK_EQ(tcp(SYN, p.seq + 1000, 0, NULL, 0), 1);
        CHECK_EQ(flags(), i ? SYN | ACK : ACK); /* the old one's, still */
        tcp_close(listener);
        answers(MS);
    }
    teardown();
}

static unsigned
too_big(unsigned code, unsigned mtu, uint32_t about, unsigned len)
{
    uint8_t f[100];
    uint8_t *icmp = f + 34;

    memset(icmp, 0, 36);
    icmp[0] = 3;
    icmp[1] = (uint8_t)code;
    set16(icmp + 6, mtu);
    ip(f, 6, len - 20);
    memcpy(icmp + 8, f + 14, 20);
    set32(icmp + 20, US);
    set32(icmp + 24, PEER);
    set16(icmp + 28, p.our_port);
    set16(icmp + 30, p.port);
    set32(icmp + 32, about);
    set16(icmp + 2, ~sum(icmp, 36, 0));
    return send_frame(f, ip(f, 1, 36));
}

static unsigned
unreachable(unsigned code, unsigned mtu, uint32_t about)
{
    return too_big(code, mtu, about, 40);
}

static void
test_unreachable(void)
{
    setup(10, 1500);
    greet();
    /* while connecting it is the end, if it is about our SYN */
    CHECK_EQ(tcp_connect(inet, htonl(PEER), 1234, 4321, &conn), 0);
    CHECK_EQ(answers(MS), 1);
    p = (struct puppet){.port = 1234, .our_port = 4321};
    unreachable(3, 0, seq() + 10);
    CHECK_EQ(info().state, TCPS_SYN_SENT);
    unreachable(3, 0, seq());
    CHECK_EQ(info().error, ECONNREFUSED);
    tcp_close(conn);
    /* later it is not */
    establish(true);
    enqueue(2000);
    CHECK_EQ(answers(MS), 3);
    unreachable(1, 0, p.ack);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    /* a path with a smaller MTU */
    CHECK(unreachable(4, 800, p.ack) >= 1);
    CHECK_EQ(info().mss, 748);
    CHECK(data_len() <= 748);
    CHECK_EQ(get16(last + 20), 0x4000);
    /* neither for data not in flight, nor for a known MTU */
    CHECK_EQ(unreachable(4, 600, p.ack - 1), 0);
    CHECK_EQ(unreachable(4, 600, p.ack + 2000), 0);
    CHECK_EQ(unreachable(4, 800, p.ack), 0);
    CHECK_EQ(unreachable(4, 1400, p.ack), 0);
    CHECK_EQ(info().mss, 748);
    tcp_abort(conn);
    teardown();
}

/* knock() - a SYN of some other host, which is never heard of again; frames it is answered with */
static unsigned
knock(unsigned port)
{
    p = (struct puppet){.port = (uint16_t)port, .our_port = 80, .window = 16000};
    return tcp(SYN, 1000, 0, NULL, 0);
}

/*
 * With 128 connections half open, a SYN is answered with a cookie (RFC 4987): nothing is kept, and the
 * acknowledgement makes the connection with all that its SYN offered, as far as timestamps carry it.
 */
static void
test_cookies(void)
{
    static const uint8_t sackok_ts[20] = {2, 4, 5, 0xb4, 4, 2, 8, 10};
    struct inet_memory mem;
    struct mbuf *m;

    for (unsigned with_ts = 0; with_ts < 2; with_ts++) {
        struct tcp_conn *l;
        uint8_t opt[20];
        uint32_t cookie;

        setup(11 + with_ts, 1500);
        greet();
        CHECK_EQ(tcp_listen(inet, 80, 1, &l), 0);
        for (unsigned i = 0; i < 128; i++)
            CHECK_EQ(knock(3000 + i), 1);
        CHECK_EQ(stats().cookies_sent, 0);
        inet_get_memory(inet, &mem);
        CHECK_EQ(mem.half_open, 128);
        for (unsigned i = 0; i < 300; i++)
            CHECK_EQ(knock(4000 + i), 1);
        CHECK_EQ(stats().cookies_sent, 300);
        inet_get_memory(inet, &mem);
        CHECK_EQ(mem.conns, 129);

        /* an honest one: MSS 1460, SACK, timestamps, a window scale of 2 */
        p = (struct puppet){.port = 1234,
                            .our_port = 80,
                            .seq = 0xfffffff0,
                            .window = 16000,
                            .tsval = 1000,
                            .ts = with_ts};
        memcpy(opt, sackok_ts, sizeof(opt));
        set32(opt + 8, p.tsval);
        memcpy(opt + 16, "\x01\x03\x03\x02", 4);
        CHECK_EQ(tcp_options(SYN, p.seq, 0, opt, with_ts ? 20 : 4, NULL, 0), 1);
        CHECK_EQ(flags(), SYN | ACK);
        CHECK_EQ(ack(), p.seq + 1);
        CHECK(option(2) && get16(option(2) + 2) == 1460);
        CHECK_EQ(option(3) && option(4) && option(8), with_ts);
        CHECK(get16(last + 48) > 0);
        cookie = seq();
        if (with_ts) {
            CHECK_EQ(get32(option(8) + 6), p.tsval);
            p.tsecr = get32(option(8) + 2);
        }
        p.seq++;
        p.ack = cookie + 1;
        /* neither another number, nor another's cookie */
        CHECK_EQ(tcp(ACK, p.seq, p.ack + 1, NULL, 0), 1);
        CHECK_EQ(flags(), RST);
        CHECK_EQ(tcp(ACK, p.seq + 1, p.ack, NULL, 0), 1);
        CHECK_EQ(flags(), RST);
        p.port++;
        CHECK_EQ(tcp(ACK, p.seq, p.ack, NULL, 0), 1);
        CHECK_EQ(flags(), RST);
        p.port--;
        CHECK(!tcp_accept(l));
        /* it comes back with the first data, for its acknowledgement was lost; a minute later still */
        answers(64 * S);
        greet();
        CHECK(tcp(ACK, p.seq, p.ack, payload, 100) >= 1);
        CHECK_EQ(stats().cookies_taken, 1);
        conn = tcp_accept(l);
        CHECK(conn);
        CHECK_EQ(info().state, TCPS_ESTABLISHED);
        CHECK_EQ(info().timestamps, with_ts);
        CHECK_EQ(info().mss, with_ts ? 1448 : 1460);
        CHECK_EQ(info().snd_wnd, with_ts ? 64000 : 16000);
        m = tcp_recv(conn, 1000);
        CHECK_EQ(m_length(m, NULL), 100);
        m_freem(m);
        p.seq += 100;
        CHECK_EQ(tcp(ACK, p.seq + 100, p.ack, payload, 100), 1);
        CHECK_EQ(option(5) != NULL, with_ts);
        CHECK_EQ(ack(), p.seq);
        CHECK_EQ(tcp(ACK, p.seq, p.ack, payload, 100), 1);
        CHECK_EQ(ack(), p.seq + 200);
        enqueue(3000);
        CHECK_EQ(answers(MS), 3);
        CHECK_EQ(tcp(ACK, p.seq + 200, p.ack + 3000, NULL, 0), 0);
        CHECK_EQ(info().unacked, 0);
        tcp_abort(conn);
        /* three periods later the cookie is stale, and later still none is expected */
        answers(3 * 64 * S);
        greet();
        CHECK_EQ(tcp(ACK, p.seq - 100, cookie + 1, NULL, 0), 1);
        CHECK_EQ(flags(), RST);
        CHECK_EQ(stats().cookies_taken, 1);
        tcp_close(l);
        teardown();
    }
}

/* A backlog counts what is established and not accepted; the next one finishes when there is room. */
static void
test_backlog(void)
{
    struct tcp_conn *l, *first;
    uint32_t second;

    setup(13, 1500);
    greet();
    CHECK_EQ(tcp_listen(inet, 80, 1, &l), 0);
    for (unsigned i = 0; i < 20; i++) {
        CHECK_EQ(knock(3000 + i), 1);
        CHECK_EQ(flags(), SYN | ACK);
    }
    /* two finish: the first is established, the second finds the backlog full */
    p.port = 3000;
    p.seq = 1001;
    CHECK_EQ(knock(3000), 1);
    p.ack = seq() + 1;
    CHECK_EQ(tcp(ACK, 1001, p.ack, NULL, 0), 0);
    CHECK_EQ(knock(3001), 1);
    second = seq() + 1;
    CHECK_EQ(tcp(ACK, 1001, second, NULL, 0), 0);
    CHECK_EQ(stats().backlog_full, 1);
    CHECK_EQ(knock(5000), 0);
    CHECK_EQ(stats().backlog_full, 2);
    first = tcp_accept(l);
    CHECK(first && !tcp_accept(l));
    /* our answer goes out again, and is acknowledged again */
    p.port = 3001;
    CHECK(answers(1100 * MS) >= 1);
    CHECK_EQ(tcp(ACK, 1001, second, NULL, 0), 0);
    conn = tcp_accept(l);
    CHECK(conn);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    tcp_abort(conn);
    tcp_abort(first);
    tcp_close(l);
    teardown();
}

/* Hosts that never answered do not evict those that have. */
static void
test_arp_flood(void)
{
    uint8_t f[60];
    struct tcp_conn *c;

    setup(14, 1500);
    greet();
    for (unsigned i = 0; i < 200; i++) {
        CHECK_EQ(tcp_connect(inet, htonl(0x0a000010 + i), 80, 0, &c), 0);
        tcp_abort(c);
    }
    answers(MS);
    CHECK_EQ(tcp_connect(inet, htonl(PEER), 80, 0, &c), 0);
    CHECK_EQ(answers(MS), 1);
    CHECK_EQ(get16(last + 12), 0x0800);
    CHECK_EQ(send_frame(f, arp(f, 1, PEER, US, peer_mac)), 1);
    tcp_abort(c);
    teardown();
}

/*
 * RFC 1191 5 and 7: a router that does not give its MTU. Whatever it gives, segments stay at
 * 552-byte packets or more, like Linux's min_pmtu; below that the path may fragment them.
 */
static void
test_path_mtu(void)
{
    setup(22, 1500);
    greet();
    establish(true);
    enqueue(3 * 988);
    CHECK_EQ(answers(MS), 3);
    CHECK_EQ(too_big(4, 0, p.ack, 1028), 1); /* slow start */
    CHECK_EQ(info().mss, 1006 - 52);
    CHECK_EQ(seq(), p.ack);
    CHECK_EQ(get16(last + 16), 1006);
    CHECK_EQ(get16(last + 20), 0x4000);
    CHECK_EQ(info().ssthresh, 0x7fffffff);         /* nothing is congested */
    CHECK_EQ(too_big(4, 0, p.ack + 988, 1028), 0); /* about the others */
    CHECK_EQ(too_big(4, 0, p.ack + 1976, 40000),
             1); /* of a super-frame that a router did not cut */
    CHECK_EQ(info().mss, 552 - 52);
    CHECK_EQ(get16(last + 16), 552);
    CHECK_EQ(get16(last + 20), 0);
    CHECK_EQ(sum(last + 14, 20, 0), 0xffff);
    /* no less, however often */
    CHECK_EQ(too_big(4, 0, p.ack, 552), 0);
    CHECK_EQ(too_big(4, 68, p.ack, 552), 0);
    CHECK_EQ(info().mss, 500);
    CHECK_EQ(info().state, TCPS_ESTABLISHED);
    tcp_abort(conn);
    answers(MS);
    /* a small one that is named; packets that are small already */
    for (unsigned i = 0; i < 2; i++) {
        establish(!i);
        enqueue(500);
        CHECK_EQ(answers(MS), 1);
        if (i) {
            CHECK_EQ(too_big(4, 552, p.ack, 576), 1);
            CHECK_EQ(info().mss, 512);
            CHECK_EQ(get16(last + 20), 0x4000);
        }
        CHECK_EQ(too_big(4, 400, p.ack, 552), 1);
        CHECK_EQ(get16(last + 16), i ? 540 : 552);
        CHECK_EQ(get16(last + 20), 0);
        CHECK_EQ(info().mss, i ? 512 : 500);
        tcp_abort(conn);
        answers(MS);
    }
    teardown();
}

/* ---- nonsense ---- */

/*
 * A conversation whose frames are altered by a seed before they arrive, with checksums that are
 * correct or that the device vouches for. No byte outside is ever touched, and everything is
 * returned.
 */
static void
test_nonsense(uint64_t seed)
{
    static uint8_t f[70000];
    uint64_t rng = seed;

    setup(seed, 9000);
    greet();
    for (unsigned round = 0; round < 40; round++) {
        establish(wire_random(&rng) & 1);
        enqueue(1 + wire_random(&rng) % 3000);
        for (unsigned i = 0; i < 60; i++) {
            uint8_t opt[40];
            size_t optlen = wire_random(&rng) % 11 * 4, len = 0, dlen = wire_random(&rng) % 2000;
            uint8_t *t = f + 34;
            struct net_hdr h = {.flags = NET_HDR_F_DATA_VALID, .num_buffers = 1};
            struct mbuf *m;

            for (size_t k = 0; k < optlen; k++)
                opt[k] =
                    (uint8_t)(wire_random(&rng) % 3 ? wire_random(&rng) % 12 : wire_random(&rng));
            if (p.ts && wire_random(&rng) % 4) {
                memcpy(opt, "\x01\x01\x08\x0a", 4);
                optlen = optlen < 12 ? 12 : optlen;
                set32(opt + 4, p.tsval);
                set32(opt + 8, p.tsecr);
                if (optlen >= 24 && wire_random(&rng) % 2) {
                    memcpy(opt + 12, "\x01\x01\x05", 3);
                    opt[15] = (uint8_t)(2 + (optlen - 16) / 8 * 8);
                    for (size_t k = 16; k + 4 <= optlen; k += 4)
                        set32(opt + k, p.ack + (uint32_t)(wire_random(&rng) % 6000));
                }
            }
            memset(t, 0, 20);
            set16(t, p.port);
            set16(t + 2, p.our_port);
            set32(t + 4, p.seq + (uint32_t)(wire_random(&rng) % 6000) - 1000);
            set32(t + 8, p.ack + (uint32_t)(wire_random(&rng) % 4000) - 100);
            t[12] = (uint8_t)((20 + optlen) << 2);
            t[13] = (uint8_t)(wire_random(&rng) % 8 ? ACK : wire_random(&rng));
            if (wire_random(&rng) % 8)
                t[13] &= (uint8_t)~(RST | SYN);
            set16(t + 14, (unsigned)wire_random(&rng) % 65536);
            memcpy(t + 20, opt, optlen);
            len = ip(f, 6, 20 + optlen + dlen);
            for (unsigned k = (unsigned)(wire_random(&rng) % 4); k > 1; k--) {
                size_t at = 14 + wire_random(&rng) % (40 + optlen);

                f[at] = (uint8_t)wire_random(&rng);
            }
            if (wire_random(&rng) % 4)
                set16(f + 24, 0), set16(f + 24, ~sum(f + 14, (f[14] & 15) * 4u, 0));
            if (wire_random(&rng) % 10 == 0)
                len = 14 + wire_random(&rng) % (len - 14);
            wire_inject(wire, 1, f, len, &h);
            answers(wire_random(&rng) % 100 ? 10000 : 3 * S);
            if (wire_random(&rng) % 3 == 0) {
                m = tcp_recv(conn, 1 + (uint32_t)(wire_random(&rng) % 3000));
                CHECK_EQ(mb_check(m), 0);
                m_freem(m);
            }
            if (wire_random(&rng) % 20 == 0 && tcp_send_room(conn) > 2000)
                enqueue(1 + wire_random(&rng) % 2000);
            if (wire_random(&rng) % 50 == 0)
                tcp_shutdown(conn);
        }
        if (wire_random(&rng) & 1)
            tcp_close(conn);
        else
            tcp_abort(conn);
        answers(wire_random(&rng) & 1 ? S : 1000 * S);
        CHECK_EQ(nic_check(nic[0]), 0);
        /* whatever is left of it is of another port */
        teardown();
        setup(seed + round + 1, 9000);
        greet();
    }
    teardown();
}

int
main(void)
{
    for (size_t i = 0; i < sizeof(payload); i++)
        payload[i] = (uint8_t)(i * 13 + (i >> 7));
    test_arp();
    test_icmp();
    test_unclaimed();
    test_no_connection();
    test_blind();
    test_in_measure();
    test_sack();
    test_recovery();
    test_blocks_of_no_use();
    test_duplicates();
    test_acknowledging();
    test_simultaneous_open();
    test_karn();
    test_syn_timeout();
    test_window_taken_back(true);
    test_window_taken_back(false);
    test_window_smaller();
    test_fin_early();
    test_fin_contradicted();
    test_time_wait();
    test_unreachable();
    test_cookies();
    test_backlog();
    test_arp_flood();
    test_path_mtu();
    for (uint64_t seed = 1; seed <= (getenv("SEEDS") ? (unsigned)atoi(getenv("SEEDS")) : 5); seed++)
        test_nonsense(seed * 1000);
    return 0;
}
