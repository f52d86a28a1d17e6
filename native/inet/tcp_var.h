/* SPDX-License-Identifier: BSD-2-Clause */
/* A TCP connection, and what its files share. */
#ifndef NIC_HARNESS_TCP_VAR_H
#define NIC_HARNESS_TCP_VAR_H

#include "inet/inet_var.h"

/* Sequence numbers wrap, RFC 9293 3.4. */
#define SEQ_LT(a, b) ((int32_t)((a) - (b)) < 0)
#define SEQ_LEQ(a, b) ((int32_t)((a) - (b)) <= 0)
#define SEQ_GT(a, b) ((int32_t)((a) - (b)) > 0)
#define SEQ_GEQ(a, b) ((int32_t)((a) - (b)) >= 0)

static inline uint32_t
seq_max(uint32_t a, uint32_t b)
{
    return SEQ_GT(a, b) ? a : b;
}

static inline uint32_t
seq_min(uint32_t a, uint32_t b)
{
    return SEQ_LT(a, b) ? a : b;
}

#define TCP_MSS_DEFAULT 536 /* RFC 9293 3.7.1 */
#define TCP_MSS_MIN 64      /* less is asked for only to make us work */
#define TCP_PMTU_MIN 552    /* a router that says less may fragment: as Linux's min_pmtu */
#define TCP_DUPTHRESH 3     /* RFC 5681, RFC 6675 */
#define TCP_MAX_HOLES 128   /* of the scoreboard */
#define TCP_MAX_RANGES 64   /* received out of order */
#define TCP_SACK_BLOCKS 4   /* that fit the option field */

#define TCP_RTO_INIT NS_PER_S           /* RFC 6298 2.1 */
#define TCP_RTO_FALLBACK (3 * NS_PER_S) /* 5.7 */
#define TCP_RTO_MIN (200 * NS_PER_MS)
#define TCP_RTO_MAX (60 * NS_PER_S)
#define TCP_PTO_MIN (5 * NS_PER_MS)
#define TCP_DELACK (40 * NS_PER_MS)
#define TCP_QUICKACKS 16     /* segments acknowledged at once when a connection is young */
#define TCP_SYN_RETRIES 5    /* a minute in all */
#define TCP_RETRIES 11       /* three to five minutes; RFC 9293 3.8.3 wants 100 seconds at least */
#define TCP_ORPHAN_RETRIES 7 /* once nobody waits for it */
#define TCP_MSL (500 * NS_PER_MS)            /* one wire, no routers that could keep a segment */
#define TCP_FIN_WAIT_2 (60 * NS_PER_S)       /* for a peer that never finishes, once nobody waits */
#define TCP_CHALLENGES_PER_S 5               /* of one connection, RFC 5961 7 */
#define TCP_STRAY_INTERVAL (500 * NS_PER_MS) /* between answers to segments of no use */
#define TCP_PAWS_IDLE (24ull * 86400 * NS_PER_S) /* RFC 7323 5.5 */

#define TCP_CONNS_MAX 16384u    /* fewer when there are fewer mbufs: mem.c */
#define TCP_HALF_OPEN_MAX 128u  /* then SYN cookies */
#define TCP_ORPHANS_MAX 1024u   /* closed by their users, and not finished */
#define TCP_TIME_WAIT_MAX 4096u /* 2 MSL are a second */

#define TCP_OUTPUT_FRAMES 64 /* transmitted in one go, before acknowledgements are looked at */
#define TCP_TX_SEGS (NET_TX_SEGS - 3) /* mbufs of payload in a frame */

enum tcp_timer {
    TT_REXMT = 0,
    TT_DELACK,
    TT_2MSL,
    TT_COUNT
};
/* What TT_REXMT is set for. */
enum tcp_rexmt {
    RM_RTO = 0,
    RM_PROBE,
    RM_PERSIST
};
/* Where congestion control is: RFC 5681. */
enum tcp_cc {
    CC_OPEN = 0,
    CC_RECOVERY,
    CC_LOSS
};

/* A place in the send buffer: an mbuf and the sequence number of its first byte. */
struct tcp_cursor {
    struct mbuf *m; /* NULL: the head */
    uint32_t seq;
};

/* Bytes sent and not SACKed, below something that was: [start, rxmit) has been sent again. */
struct tcp_hole {
    uint32_t start, end, rxmit;
    uint32_t mark; /* snd_nxt when it was last sent again */
};

/*
 * What the peer has told of what it received, RFC 6675. Everything in [snd_una, fack) that is in no
 * hole was SACKed; nothing at or above fack was. The first @nlost holes are taken to be lost.
 */
struct tcp_scoreboard {
    uint32_t fack;
    uint32_t sacked;    /* bytes */
    uint32_t lost_upto; /* everything below was given up by a timeout */
    unsigned n, nlost;
    struct tcp_hole hole[TCP_MAX_HOLES];
};

/* Bytes received out of order. */
struct tcp_range {
    uint32_t start, end;
    uint32_t stamp; /* when it last grew, for the order of SACK blocks */
    struct mbuf *head, *tail;
};

struct tcp_conn {
    /* what output and acknowledgement touch */
    struct inet *in;
    uint8_t state; /* enum tcp_state */
    uint8_t cc;    /* enum tcp_cc */
    uint8_t rexmt; /* enum tcp_rexmt */
    uint8_t snd_wscale, rcv_wscale;
    bool ts_ok, wscale_ok, sack_ok;
    bool owned;  /* the user has a handle */
    bool queued; /* on inet.output */
    bool ack_now;
    bool more;       /* tcp_set_more() */
    bool fin_wanted; /* tcp_shutdown() */
    bool fin_sent;
    bool force_rtx; /* one retransmission whatever cwnd says */
    bool rtt_active;
    bool arp_wait;
    bool probe_out; /* a tail loss probe since the last new data */
    bool active;    /* opened by tcp_connect() */
    bool rcv_fin_known, rcv_fin_done;

    uint32_t snd_una, snd_nxt, snd_wnd, snd_wl1;
    uint32_t max_sndwnd, iss;
    uint32_t cwnd, ssthresh, recover;
    uint32_t max_flight; /* when last transmitted: is cwnd what limits us? RFC 7661 */
    uint32_t avoid_acked;
    uint32_t mss, peer_mss; /* @mss: payload bytes, options taken off */
    uint32_t gso_max;       /* payload bytes of the largest frame */
    uint32_t dupacks;
    uint32_t probe_end;
    uint64_t last_sent;

    /* the send buffer: head_seq <= snd_una <= snd_nxt <= end_seq (+ 1 for FIN) */
    struct mbuf *snd_head, *snd_tail;
    uint32_t snd_head_seq, snd_end_seq;
    uint32_t snd_pages, snd_mbufs; /* that it keeps */
    struct tcp_cursor nxt_cur, rtx_cur;

    uint64_t timer[TT_COUNT]; /* ns; NEVER */
    uint64_t srtt, rttvar, rto, rtt_start;
    uint32_t rtt_seq;
    unsigned backoff, retries;
    unsigned
        probes; /* of a shut window since it was last open, or since anything was acknowledged */

    /* frames start with this: Ethernet, IP, TCP, timestamps */
    uint8_t tmpl[ETH_HLEN + IP_HLEN + TCP_HLEN + TCPO_TS_ALIGNED];
    unsigned tmpl_len;
    uint32_t ip_sum, tcp_sum; /* of what is constant in the IP header and the pseudo header */
    uint32_t arp_gen;         /* inet.arp_gen when the MAC address was looked up */
    uint32_t nexthop;

    /* the receive side */
    uint32_t rcv_nxt, rcv_adv, irs, last_ack; /* rcv_adv: right edge of the window advertised */
    uint32_t rcv_fin;
    uint32_t rcv_mss;   /* of the peer's segments, as seen */
    uint32_t rcv_cc;    /* bytes for the reader */
    uint32_t rcv_held;  /* bytes for the reader and in ranges */
    uint32_t rcv_mbufs; /* that these keep */
    uint32_t rcv_pages; /* likewise */
    uint32_t rcv_fill;  /* bytes that a page holds, by the frames of late */
    uint32_t rcv_limit; /* bytes of the largest window: grows by what arrives */
    uint32_t promised;  /* pages set aside for the window */
    unsigned quickacks;
    struct mbuf *rcv_head, *rcv_tail;
    unsigned nranges;
    uint32_t range_stamp;
    uint64_t range_moved;            /* when the last one came or went */
    uint32_t dsack_start, dsack_end; /* RFC 2883: to be reported once; equal: none */
    uint32_t ts_recent, ts_offset;
    uint64_t ts_recent_age;

    /* names and lists */
    uint32_t peer;
    uint16_t peer_port, local_port;
    int error, soft_error;
    struct tcp_conn *listener;
    struct tcp_list accept_queue; /* of a listener: established, not taken */
    unsigned backlog, naccept;    /* of a listener: how many may be there, and are */
    bool in_accept;
    uint8_t class;  /* enum tcp_class */
    uint64_t moved; /* when it was last seen to make progress, as an orphan */
    TAILQ_ENTRY(tcp_conn) all_link, hash_link, output_link, accept_link, class_link;

    uint64_t bytes_acked, bytes_received, retransmits;
    uint64_t challenge_second, stray_next;
    unsigned challenges;

    struct tcp_scoreboard sb;
    struct tcp_range range[TCP_MAX_RANGES];
};

struct tcp_sack_block {
    uint32_t start, end;
};

/* A segment received. */
struct tcp_seg {
    uint32_t seq, ack, wnd, len;
    uint32_t tsval, tsecr;
    uint16_t mss; /* 0: no option */
    uint8_t flags;
    uint8_t wscale; /* 255: no option */
    bool has_ts, sackok;
    uint8_t nsack;
    struct tcp_sack_block sack[TCP_SACK_BLOCKS];
};

/* -- tcp_conn.c -- */

struct tcp_conn *tcp_find(struct inet *in, uint32_t peer, uint16_t peer_port, uint16_t local_port);
/* tcp_new() - a connection in the table, with its initial sequence number and nothing negotiated. */
struct tcp_conn *tcp_new(struct inet *in, uint32_t peer, uint16_t peer_port, uint16_t local_port);
/* tcp_negotiated() - both sides' options are known: segment sizes, the template, the first window. */
void tcp_negotiated(struct tcp_conn *c);
/* tcp_set_mss() - payload bytes per segment, and with them per frame. */
void tcp_set_mss(struct tcp_conn *c, uint32_t mss);
/* tcp_set_state() - everything that follows from the state alone is done here. */
void tcp_set_state(struct tcp_conn *c, enum tcp_state state);
/* tcp_classify() - its state, its owner or its listener changed: the list it is on. */
void tcp_classify(struct tcp_conn *c);
/* tcp_let_fragment() - from now on routers may cut what their next hop does not take; false: they may already. */
bool tcp_let_fragment(struct tcp_conn *c);
void tcp_established(struct tcp_conn *c);
/* tcp_closed() - over, with an error or without; @c is gone afterwards when nobody has a handle. */
void tcp_closed(struct tcp_conn *c, int error);
void tcp_free(struct tcp_conn *c);
/* tcp_may_send() - 0 while the user may add to the send buffer, or why not: -errno. */
int tcp_may_send(const struct tcp_conn *c);
/* tcp_want_output() - have the connection looked at when output is next run. */
void tcp_want_output(struct tcp_conn *c);
/* tcp_sndbuf_ack() - let go of the mbufs that lie wholly below snd_una. */
void tcp_sndbuf_ack(struct tcp_conn *c);
void tcp_sndbuf_free(struct tcp_conn *c);
/*
 * tcp_check_sndbuf() - are all pages of the send buffer still there? If not, it is over: EIO
 *
 * Bytes that were promised to the peer have gone: better no stream than a wrong one. False: the connection
 * was aborted, and may be gone.
 */
bool tcp_check_sndbuf(struct tcp_conn *c);

static inline bool
tcp_synchronized(const struct tcp_conn *c)
{
    return c->state >= TCPS_ESTABLISHED;
}

/* tcp_flight() - sequence numbers sent and not acknowledged. */
static inline uint32_t
tcp_flight(const struct tcp_conn *c)
{
    return c->snd_nxt - c->snd_una;
}

/* tcp_snd_window() - sequence numbers that the peer's window leaves; 0 when it has shrunk below. */
static inline uint32_t
tcp_snd_window(const struct tcp_conn *c)
{
    uint32_t window = c->snd_una + c->snd_wnd - c->snd_nxt;

    return (int32_t)window < 0 ? 0 : window;
}

/* tcp_window_shrunk() - has the peer's window been taken back from below what is in flight? */
static inline bool
tcp_window_shrunk(const struct tcp_conn *c)
{
    return SEQ_LT(c->snd_una + c->snd_wnd + c->fin_sent, c->snd_nxt);
}

/* tcp_ts_offset() - what sets our timestamps for one peer apart from those for others: RFC 7323 7.1 */
static inline uint32_t
tcp_ts_offset(const struct inet *in, uint32_t peer)
{
    return (uint32_t)inet_hash(in, peer, 0, 0, 2);
}

static inline uint32_t
tcp_ts_now(const struct tcp_conn *c)
{
    return (uint32_t)(c->in->now / NS_PER_MS) + c->ts_offset; /* RFC 7323 5.4: 1 ms */
}

/* -- mem.c: its share of the budget -- */

/* tcp_mem_window() - bytes that may be promised to the peer */
uint32_t tcp_mem_window(const struct tcp_conn *c);
/* tcp_mem_promise() - the window advertised is another. */
void tcp_mem_promise(struct tcp_conn *c);
/* tcp_mem_arrived() - @len bytes came in @pages. */
void tcp_mem_arrived(struct tcp_conn *c, uint32_t len, uint32_t pages);
/* tcp_mem_saving() - is a small segment worth copying? */
bool tcp_mem_saving(const struct tcp_conn *c);
/* tcp_mem_pages(), tcp_mem_mbufs() - that the receive queue may take now, for data in order or not */
uint32_t tcp_mem_pages(const struct tcp_conn *c, bool ordered);
uint32_t tcp_mem_mbufs(const struct tcp_conn *c, bool ordered);
/* tcp_mem_send_mbufs() - that the send buffer may take now */
uint32_t tcp_mem_send_mbufs(const struct tcp_conn *c);

/* -- tcp_option.c -- */

/* tcp_parse_options() - @len bytes behind the fixed header; false: malformed. */
bool tcp_parse_options(const uint8_t *p, unsigned len, struct tcp_seg *seg);
/* tcp_syn_options() - what we offer, or agree to; bytes written, a multiple of 4. */
unsigned tcp_syn_options(const struct tcp_conn *c, uint8_t *p);
/* tcp_sack_option() - what we hold out of order, @room bytes at most; bytes written. */
unsigned tcp_sack_option(struct tcp_conn *c, uint8_t *p, unsigned room);

/* -- tcp_output.c -- */

/* tcp_transmit() - send what may go now; the frames are on the ring, not flushed. */
void tcp_transmit(struct tcp_conn *c);
/* tcp_send_control() - a segment without data; 0 or -errno. */
int tcp_send_control(struct tcp_conn *c, uint32_t seq, uint8_t flags);
/* tcp_send_probe() - one segment that asks for an acknowledgement: a tail loss probe. */
void tcp_send_probe(struct tcp_conn *c);
/* tcp_send_persist() - ask for the window, or use the little there is. */
void tcp_send_persist(struct tcp_conn *c);
/* tcp_reset_for() - RST that answers a segment of no connection. */
void tcp_reset_for(struct inet *in, uint32_t dst, uint16_t sport, uint16_t dport,
                   const struct tcp_seg *seg);
/* tcp_rcv_window() - bytes the peer may send from rcv_nxt on; never takes back what was promised. */
uint32_t tcp_rcv_window(const struct tcp_conn *c);

/* tcp_fill_pkthdr() - a frame of @len bytes with a TCP segment behind a plain IP header */
void tcp_fill_pkthdr(struct mbuf *m, uint32_t len);

/* -- tcp_input.c -- */

/* tcp_take_options() - what the peer's SYN offers: our own has offered all of it, or our answer will. */
void tcp_take_options(struct tcp_conn *c, const struct tcp_seg *seg);

/* -- tcp_listen.c -- */

/*
 * tcp_listen_input() - a segment for a listener: RFC 9293 3.10.7.2
 *
 * Return: a connection that it belongs to, which it brought a cookie of; NULL: it has been dealt with.
 */
struct tcp_conn *tcp_listen_input(struct tcp_conn *l, uint32_t src, uint16_t sport,
                                  const struct tcp_seg *seg);

/* -- tcp_timer.c -- */

void tcp_arm(struct tcp_conn *c, enum tcp_timer t, uint64_t delay);
/* tcp_arm_rexmt() - timeout or tail loss probe for what is in flight. */
void tcp_arm_rexmt(struct tcp_conn *c);
/* tcp_rtt_sample() - RFC 6298 2: a valid round trip, which ends what backing off there was */
void tcp_rtt_sample(struct tcp_conn *c, uint64_t rtt);
/* tcp_rto() - the retransmission timeout, backed off */
uint64_t tcp_rto(const struct tcp_conn *c);

/* -- tcp_sack.c: the scoreboard -- */

void tcp_sb_reset(struct tcp_conn *c);
/* tcp_sb_ack() - snd_una moved. */
void tcp_sb_ack(struct tcp_conn *c);
/* tcp_sb_sack() - enter the blocks of an acknowledgement; bytes newly SACKed. */
uint32_t tcp_sb_sack(struct tcp_conn *c, const struct tcp_seg *seg);
/* tcp_sb_lose_first() - take the segment at snd_una to be lost. */
void tcp_sb_lose_first(struct tcp_conn *c);
/* tcp_sb_lose_all() - take everything in flight to be lost, and nothing to have been sent again. */
void tcp_sb_lose_all(struct tcp_conn *c);
/* tcp_sb_next() - the first hole with something lost and not sent again; NULL: none. */
struct tcp_hole *tcp_sb_next(struct tcp_conn *c);
/* tcp_sb_pipe() - bytes thought to be on their way, RFC 6675 section 4. */
uint32_t tcp_sb_pipe(const struct tcp_conn *c);

/* -- tcp_reass.c: the receive queue -- */

/* tcp_reass() - data of a segment, trimmed to the window; consumes @m; true: something is new. */
bool tcp_reass(struct tcp_conn *c, uint32_t seq, uint32_t len, struct mbuf *m);
void tcp_reass_free(struct tcp_conn *c);
/* tcp_rcv_tell() - let the peer know when there is so much more room that it matters. */
void tcp_rcv_tell(struct tcp_conn *c);
void tcp_rcv_free(struct tcp_conn *c);

#endif
