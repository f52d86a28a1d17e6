/* SPDX-License-Identifier: BSD-2-Clause */
/* A TCP connection, and what the tcp_*.c files share. */
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
#define TCP_MSS_MIN 64      /* a peer asks for less only to make us work */
#define TCP_PMTU_MIN 552    /* below this, routers may fragment; as Linux's min_pmtu */
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
#define TCP_QUICKACKS 16     /* segments acknowledged at once on a new connection */
#define TCP_SYN_RETRIES 5    /* a minute in all */
#define TCP_RETRIES 11       /* three to five minutes; RFC 9293 3.8.3 wants 100 seconds at least */
#define TCP_ORPHAN_RETRIES 7 /* once its user has closed it */
#define TCP_MSL (500 * NS_PER_MS)            /* one wire, no routers that could keep a segment */
#define TCP_FIN_WAIT_2 (60 * NS_PER_S)       /* for a peer that never finishes, after our close */
#define TCP_CHALLENGES_PER_S 5               /* per connection, RFC 5961 7 */
#define TCP_STRAY_INTERVAL (500 * NS_PER_MS) /* between answers to unacceptable segments */
#define TCP_PAWS_IDLE (24ull * 86400 * NS_PER_S) /* RFC 7323 5.5 */

#define TCP_CONNS_MAX 16384u    /* fewer with few mbufs: see mem.c */
#define TCP_HALF_OPEN_MAX 128u  /* then SYN cookies */
#define TCP_ORPHANS_MAX 1024u   /* closed by their users, but not finished */
#define TCP_TIME_WAIT_MAX 4096u /* 2 MSL are a second */

#define TCP_OUTPUT_FRAMES 64 /* transmitted in one go, before checking for acknowledgements */
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
/* State of congestion control, RFC 5681. */
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

/* Bytes sent and not SACKed, below bytes that were: [start, rxmit) has been retransmitted. */
struct tcp_hole {
    uint32_t start, end, rxmit;
    uint32_t mark; /* snd_nxt at its last retransmission */
};

/*
 * What the peer has reported as received, RFC 6675. Everything in [snd_una, fack) outside the holes
 * was SACKed, and nothing at or above fack. The first @nlost holes are considered lost.
 */
struct tcp_scoreboard {
    uint32_t fack;
    uint32_t sacked;    /* bytes */
    uint32_t lost_upto; /* a timeout marked everything below as lost */
    unsigned n, nlost;
    struct tcp_hole hole[TCP_MAX_HOLES];
};

/* Bytes received out of order. */
struct tcp_range {
    uint32_t start, end;
    uint32_t stamp; /* when it last grew; orders the SACK blocks */
    struct mbuf *head, *tail;
};

struct tcp_conn {
    /* used by output and acknowledgement */
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
    bool force_rtx; /* one retransmission regardless of cwnd */
    bool rtt_active;
    bool arp_wait;
    bool probe_out; /* tail loss probe sent since the last new data */
    bool active;    /* opened by tcp_connect() */
    bool rcv_fin_known, rcv_fin_done;

    uint32_t snd_una, snd_nxt, snd_wnd, snd_wl1;
    uint32_t max_sndwnd, iss;
    uint32_t cwnd, ssthresh, recover;
    uint32_t max_flight; /* at the last transmission: does cwnd limit us? RFC 7661 */
    uint32_t avoid_acked;
    uint32_t mss, peer_mss; /* @mss: payload bytes, less options */
    uint32_t gso_max;       /* payload bytes of the largest frame */
    uint32_t dupacks;
    uint32_t probe_end;
    uint64_t last_sent;

    /* the send buffer: head_seq <= snd_una <= snd_nxt <= end_seq (+ 1 for FIN) */
    struct mbuf *snd_head, *snd_tail;
    uint32_t snd_head_seq, snd_end_seq;
    uint32_t snd_pages, snd_mbufs; /* held by the send buffer */
    struct tcp_cursor nxt_cur, rtx_cur;

    uint64_t timer[TT_COUNT]; /* ns; NEVER */
    uint64_t srtt, rttvar, rto, rtt_start;
    uint32_t rtt_seq;
    unsigned backoff, retries;
    unsigned probes; /* zero-window probes since the window was open or anything was acknowledged */

    /* header template of every frame: Ethernet, IP, TCP, timestamps */
    uint8_t tmpl[ETH_HLEN + IP_HLEN + TCP_HLEN + TCPO_TS_ALIGNED];
    unsigned tmpl_len;
    uint32_t ip_sum, tcp_sum; /* sums over the constant parts of the IP and pseudo headers */
    uint32_t arp_gen;         /* inet.arp_gen when the MAC address was looked up */
    uint32_t nexthop;

    /* the receive side */
    uint32_t rcv_nxt, rcv_adv, irs, last_ack; /* rcv_adv: right edge of the window advertised */
    uint32_t rcv_fin;
    uint32_t rcv_mss;   /* observed size of the peer's segments */
    uint32_t rcv_cc;    /* bytes for the reader */
    uint32_t rcv_held;  /* bytes waiting for the reader and in ranges */
    uint32_t rcv_mbufs; /* mbufs holding these */
    uint32_t rcv_pages; /* pages holding these */
    uint32_t rcv_fill;  /* bytes per page, from recent frames */
    uint32_t rcv_limit; /* largest window, bytes; grows as data arrive */
    uint32_t promised;  /* pages set aside for the window */
    unsigned quickacks;
    struct mbuf *rcv_head, *rcv_tail;
    unsigned nranges;
    uint32_t range_stamp;
    uint64_t range_moved;            /* when the ranges last changed */
    uint32_t dsack_start, dsack_end; /* RFC 2883, reported once; equal: none */
    uint32_t ts_recent, ts_offset;
    uint64_t ts_recent_age;

    /* names and lists */
    uint32_t peer;
    uint16_t peer_port, local_port;
    int error, soft_error;
    struct tcp_conn *listener;
    struct tcp_list accept_queue; /* of a listener: established, not accepted */
    unsigned backlog, naccept;    /* of a listener: limit and length of that queue */
    bool in_accept;
    uint8_t class;  /* enum tcp_class */
    uint64_t moved; /* as an orphan: when it last made progress */
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
/* tcp_new() - add a connection to the table, with its initial sequence number and nothing negotiated. */
struct tcp_conn *tcp_new(struct inet *in, uint32_t peer, uint16_t peer_port, uint16_t local_port);
/* tcp_negotiated() - both sides' options are known: set the segment sizes, the template and the first window. */
void tcp_negotiated(struct tcp_conn *c);
/* tcp_set_mss() - set the payload bytes per segment, and thus per frame. */
void tcp_set_mss(struct tcp_conn *c, uint32_t mss);
/* tcp_set_state() - change the state, and do everything that follows from the state alone. */
void tcp_set_state(struct tcp_conn *c, enum tcp_state state);
/* tcp_classify() - move it to the right list after its state, owner or listener changed. */
void tcp_classify(struct tcp_conn *c);
/* tcp_let_fragment() - from now on, let routers fragment its packets; false if they already may. */
bool tcp_let_fragment(struct tcp_conn *c);
void tcp_established(struct tcp_conn *c);
/* tcp_closed() - the connection has ended, with or without an error; frees @c if there is no handle. */
void tcp_closed(struct tcp_conn *c, int error);
void tcp_free(struct tcp_conn *c);
/* tcp_may_send() - 0 if the user may add to the send buffer; otherwise -errno. */
int tcp_may_send(const struct tcp_conn *c);
/* tcp_want_output() - visit the connection when output runs next. */
void tcp_want_output(struct tcp_conn *c);
/* tcp_sndbuf_ack() - free the mbufs that lie wholly below snd_una. */
void tcp_sndbuf_ack(struct tcp_conn *c);
void tcp_sndbuf_free(struct tcp_conn *c);
/*
 * tcp_check_sndbuf() - abort with EIO unless all pages of the send buffer still exist
 *
 * If bytes promised to the peer are lost, no stream is better than a wrong one. False: the
 * connection was aborted, and may be freed.
 */
bool tcp_check_sndbuf(struct tcp_conn *c);

static inline bool
tcp_synchronized(const struct tcp_conn *c)
{
    return c->state >= TCPS_ESTABLISHED;
}

/* tcp_flight() - sequence numbers sent but not acknowledged. */
static inline uint32_t
tcp_flight(const struct tcp_conn *c)
{
    return c->snd_nxt - c->snd_una;
}

/* tcp_snd_window() - sequence numbers left in the peer's window; 0 if the window has shrunk below snd_nxt. */
static inline uint32_t
tcp_snd_window(const struct tcp_conn *c)
{
    uint32_t window = c->snd_una + c->snd_wnd - c->snd_nxt;

    return (int32_t)window < 0 ? 0 : window;
}

/* tcp_window_shrunk() - has the peer shrunk its window below the data in flight? */
static inline bool
tcp_window_shrunk(const struct tcp_conn *c)
{
    return SEQ_LT(c->snd_una + c->snd_wnd + c->fin_sent, c->snd_nxt);
}

/* tcp_ts_offset() - per-peer offset of our timestamps, RFC 7323 7.1 */
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

/* tcp_mem_window() - bytes that can be promised to the peer */
uint32_t tcp_mem_window(const struct tcp_conn *c);
/* tcp_mem_promise() - account for a change of the advertised window. */
void tcp_mem_promise(struct tcp_conn *c);
/* tcp_mem_arrived() - account for @len bytes that arrived in @pages. */
void tcp_mem_arrived(struct tcp_conn *c, uint32_t len, uint32_t pages);
/* tcp_mem_saving() - is a small segment worth copying? */
bool tcp_mem_saving(const struct tcp_conn *c);
/* tcp_mem_pages(), tcp_mem_mbufs() - pages and mbufs that the receive queue may take now, for data in order or not */
uint32_t tcp_mem_pages(const struct tcp_conn *c, bool ordered);
uint32_t tcp_mem_mbufs(const struct tcp_conn *c, bool ordered);
/* tcp_mem_send_mbufs() - mbufs that the send buffer may take now */
uint32_t tcp_mem_send_mbufs(const struct tcp_conn *c);

/* -- tcp_option.c -- */

/* tcp_parse_options() - parse @len bytes after the fixed header; false if malformed. */
bool tcp_parse_options(const uint8_t *p, unsigned len, struct tcp_seg *seg);
/* tcp_syn_options() - write the options that we offer, or agree to; returns bytes written, a multiple of 4. */
unsigned tcp_syn_options(const struct tcp_conn *c, uint8_t *p);
/* tcp_sack_option() - write the SACK option, at most @room bytes; returns bytes written. */
unsigned tcp_sack_option(struct tcp_conn *c, uint8_t *p, unsigned room);

/* -- tcp_output.c -- */

/* tcp_transmit() - put whatever may be sent now on the ring, without flushing it. */
void tcp_transmit(struct tcp_conn *c);
/* tcp_send_control() - send a segment without data; 0 or -errno. */
int tcp_send_control(struct tcp_conn *c, uint32_t seq, uint8_t flags);
/* tcp_send_probe() - send a tail loss probe: one segment that elicits an acknowledgement. */
void tcp_send_probe(struct tcp_conn *c);
/* tcp_send_persist() - probe the peer's window, or use what little there is. */
void tcp_send_persist(struct tcp_conn *c);
/* tcp_reset_for() - answer a segment without a connection with an RST. */
void tcp_reset_for(struct inet *in, uint32_t dst, uint16_t sport, uint16_t dport,
                   const struct tcp_seg *seg);
/* tcp_rcv_window() - bytes that the peer may send from rcv_nxt on; never less than what was promised. */
uint32_t tcp_rcv_window(const struct tcp_conn *c);

/* tcp_fill_pkthdr() - describe a frame of @len bytes, with a TCP segment after an IP header without options */
void tcp_fill_pkthdr(struct mbuf *m, uint32_t len);

/* -- tcp_input.c -- */

/* tcp_take_options() - take the options of the peer's SYN; our SYN has offered all of them, or our answer will. */
void tcp_take_options(struct tcp_conn *c, const struct tcp_seg *seg);

/* -- tcp_listen.c -- */

/*
 * tcp_listen_input() - process a segment for a listener, RFC 9293 3.10.7.2
 *
 * Return: the connection, if the segment brought a valid cookie; NULL if it has been dealt with.
 */
struct tcp_conn *tcp_listen_input(struct tcp_conn *l, uint32_t src, uint16_t sport,
                                  const struct tcp_seg *seg);

/* -- tcp_timer.c -- */

void tcp_arm(struct tcp_conn *c, enum tcp_timer t, uint64_t delay);
/* tcp_arm_rexmt() - arm the timeout or tail loss probe for the data in flight. */
void tcp_arm_rexmt(struct tcp_conn *c);
/* tcp_rtt_sample() - RFC 6298 2: record a valid round trip, which ends any back-off */
void tcp_rtt_sample(struct tcp_conn *c, uint64_t rtt);
/* tcp_rto() - the retransmission timeout, including back-off */
uint64_t tcp_rto(const struct tcp_conn *c);

/* -- tcp_sack.c: the scoreboard -- */

void tcp_sb_reset(struct tcp_conn *c);
/* tcp_sb_ack() - account for an advance of snd_una. */
void tcp_sb_ack(struct tcp_conn *c);
/* tcp_sb_sack() - enter the SACK blocks of a segment; returns bytes newly SACKed. */
uint32_t tcp_sb_sack(struct tcp_conn *c, const struct tcp_seg *seg);
/* tcp_sb_lose_first() - mark the segment at snd_una as lost. */
void tcp_sb_lose_first(struct tcp_conn *c);
/* tcp_sb_lose_all() - mark everything in flight as lost, and nothing as retransmitted. */
void tcp_sb_lose_all(struct tcp_conn *c);
/* tcp_sb_next() - the first hole with lost bytes that were not retransmitted; NULL: none. */
struct tcp_hole *tcp_sb_next(struct tcp_conn *c);
/* tcp_sb_pipe() - estimate of the bytes in flight, RFC 6675 section 4. */
uint32_t tcp_sb_pipe(const struct tcp_conn *c);

/* -- tcp_reass.c: the receive queue -- */

/* tcp_reass() - add a segment's data, trimmed to the window; consumes @m; true if any of it is new. */
bool tcp_reass(struct tcp_conn *c, uint32_t seq, uint32_t len, struct mbuf *m);
void tcp_reass_free(struct tcp_conn *c);
/* tcp_rcv_tell() - send a window update if the window has grown enough to matter. */
void tcp_rcv_tell(struct tcp_conn *c);
void tcp_rcv_free(struct tcp_conn *c);

#endif
