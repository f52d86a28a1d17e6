/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Just enough ARP, IPv4, ICMP and TCP to serve a stock peer over one NIC queue.
 *
 * One thread owns a struct inet and everything in it. Nothing happens behind its back: frames move
 * and timers run inside inet_poll().
 */
#ifndef NIC_HARNESS_INET_H
#define NIC_HARNESS_INET_H

#include <netinet/in.h>
#include <stdint.h>

#include "nic/nic.h"

struct inet;
struct tcp_conn;

struct inet_config {
    uint32_t addr;    /* our IPv4 address, network byte order */
    uint32_t netmask; /* network byte order */
    uint32_t gateway; /* 0: none */
    unsigned queue;   /* NIC queue it runs on */
    uint32_t sndbuf;  /* bytes a connection keeps unacknowledged or unsent; 0: 8 MiB */
    uint32_t rcvbuf;  /* bytes a connection keeps for its reader; 0: 4 MiB */
    uint32_t
        budget; /* pages of the arena it holds at most; 0: what the rings leave, less a quarter */
    uint32_t unclaimed;           /* frames kept for inet_recv_unclaimed(); 0: none */
    uint64_t seed;                /* of initial sequence numbers and ports; 0: from getrandom(2) */
    uint64_t (*clock)(void *arg); /* ns, never going back; NULL: CLOCK_MONOTONIC */
    void *clock_arg;
};

struct inet_stats {
#define COUNTER(name, what) uint64_t name;
#define DROP(name, why, what) uint64_t name;
#include "inet/counters.def"
};

/* What a stack holds at one moment, and may hold: pages of the arena, mbufs, connections. */
struct inet_memory {
    uint32_t pages_limit, pages_used, pages_promised;
    uint32_t mbufs_limit, mbufs_used;
    uint32_t conns_limit, conns; /* listeners counted */
    uint32_t half_open, orphans, time_wait;
};

/* inet_create() - a host at config->addr on a NIC; the NIC stays the caller's. 0 or -errno. */
int inet_create(struct nic *n, const struct inet_config *config, struct inet **out);
/* inet_destroy() - abort every connection and forget everything. */
void inet_destroy(struct inet *in);
/* inet_let_go() - inet_destroy(), and the pointer is NULL; nothing when it was. */
void inet_let_go(struct inet **in);

/*
 * inet_poll() - receive what waits, answer it, run the timers, transmit what may go
 *
 * Return: frames received; -ENETDOWN, -ENODEV or -EPROTO as nic_rx_burst().
 */
int inet_poll(struct inet *in);

/*
 * inet_wait() - sleep until a frame comes or a timer is due
 * @timeout_ns: at most so long
 *
 * Return: 1 something is there; 0 the time is over; -EINTR a signal.
 */
int inet_wait(struct inet *in, int64_t timeout_ns);

/*
 * inet_recv_unclaimed() - frames to us, or to a group, that no protocol here takes, oldest first
 *
 * That is: other EtherTypes than ARP and IPv4, other protocols over IPv4 than ICMP and TCP, and other
 * addresses than ours. Whole, as they came, fragments of those too (of ICMP and TCP to us they are
 * dropped, and counted as rx_fragments); they are the caller's to m_freem().
 *
 * Return: how many there were, at most @max. What does not fit into config->unclaimed is dropped, and
 * counted as rx_no_buffer.
 */
unsigned inet_recv_unclaimed(struct inet *in, struct mbuf **out, unsigned max);

/* inet_nic() - the NIC it runs on */
struct nic *inet_nic(const struct inet *in);
/* inet_queue() - and its queue */
unsigned inet_queue(const struct inet *in);
/* inet_sndbuf() - bytes a connection keeps unacknowledged or unsent */
uint32_t inet_sndbuf(const struct inet *in);
/* inet_timeout() - ns until inet_poll() has something to do without a frame; -1: nothing. */
int64_t inet_timeout(const struct inet *in);
/* inet_deadline() - when that is, by the clock of the config; 0: now; UINT64_MAX: never. */
uint64_t inet_deadline(const struct inet *in);

void inet_get_stats(const struct inet *in, struct inet_stats *out);
void inet_get_memory(const struct inet *in, struct inet_memory *out);

/* TCP states, RFC 9293 section 3.3.2. */
enum tcp_state {
    TCPS_CLOSED = 0,
    TCPS_LISTEN,
    TCPS_SYN_SENT,
    TCPS_SYN_RECEIVED,
    TCPS_ESTABLISHED,
    TCPS_CLOSE_WAIT,
    TCPS_FIN_WAIT_1,
    TCPS_CLOSING,
    TCPS_LAST_ACK,
    TCPS_FIN_WAIT_2,
    TCPS_TIME_WAIT,
};

struct tcp_info_s {
    uint32_t state; /* enum tcp_state */
    /*
     * 0 or a positive errno: ECONNREFUSED, ECONNRESET, ETIMEDOUT, ECONNABORTED, EHOSTUNREACH; EIO when pages
     * of a file in the send buffer have gone, because it shrank or could not be read.
     */
    int32_t error;
    uint32_t mss;                              /* payload bytes per segment towards the peer */
    uint32_t snd_wnd, rcv_wnd, cwnd, ssthresh; /* bytes */
    uint32_t unsent, unacked;                  /* bytes in the send buffer */
    uint32_t readable;                         /* bytes in the receive buffer */
    uint32_t srtt_us, rto_us;
    uint32_t local_addr, peer_addr;
    uint16_t local_port, peer_port;
    uint8_t timestamps, wscale_ok, snd_wscale, rcv_wscale;
    uint64_t bytes_acked, bytes_received;
    uint64_t retransmits;
};

/*
 * tcp_connect() - active open; the handshake goes on in inet_poll()
 * @addr, @port: peer, network byte order / host byte order
 * @local_port: 0: any
 *
 * Return: 0; -EADDRINUSE; -ENETUNREACH when no route leads there; -ENOMEM.
 */
int tcp_connect(struct inet *in, uint32_t addr, uint16_t port, uint16_t local_port,
                struct tcp_conn **out);
/* tcp_listen() - passive open on a port; 0, -EADDRINUSE, -ENOMEM. */
int tcp_listen(struct inet *in, uint16_t port, unsigned backlog, struct tcp_conn **out);
/* tcp_accept() - next established connection of a listener; NULL when there is none. */
struct tcp_conn *tcp_accept(struct tcp_conn *listener);

/* tcp_accept_into() - tcp_accept() into a pointer that has an owner already; false: there is none. */
bool tcp_accept_into(struct tcp_conn *listener, struct tcp_conn **out);

/* tcp_send_room() - bytes the send buffer takes now; 0 when the connection cannot send. */
uint32_t tcp_send_room(const struct tcp_conn *c);
/* tcp_send_starved() - the send buffer has room, and the budget has no mbuf for it */
bool tcp_send_starved(const struct tcp_conn *c);
/*
 * tcp_copy_room() - bytes that may be copied into pages of the arena and sent now
 *
 * Not more than tcp_send_room(), and not more than the budget has pages for. When it is 0 for want of
 * pages, inet_timeout() says when to ask again.
 */
uint32_t tcp_copy_room(struct tcp_conn *c);
/*
 * tcp_send() - append a chain to the send buffer
 * @m: chain; its storage is held until the peer has acknowledged its bytes
 *
 * Consumes @m on success only.
 *
 * Return: 0; -EAGAIN when it does not fit now; -EMSGSIZE when it never will; -EPIPE after
 * tcp_shutdown(); -ENOTCONN; the connection's error, negative (-ECONNRESET and the like).
 */
int tcp_send(struct tcp_conn *c, struct mbuf *m);

/*
 * Something to send that may be longer than the send buffer: it is taken piece by piece. What @data or
 * @chain points at stays the user's, and has to stay as it is until @done has reached @len.
 */
struct tcp_source {
    const void *data;   /* bytes, copied into pages; NULL: */
    struct mbuf *chain; /* shared from where it lies */
    size_t len;
    size_t done; /* bytes that the send buffer has taken */
};

/*
 * tcp_send_some() - append the next piece of a source to the send buffer
 *
 * Return: 1 it has taken everything; 0 not yet, look at @done for how much: for want of room, or of pages or mbufs,
 * when inet_timeout() says when to ask again; what tcp_send() says.
 */
int tcp_send_some(struct tcp_conn *c, struct tcp_source *s);
/*
 * tcp_set_more() - more will follow soon
 *
 * While it is set, a last frame that is not full waits for what follows, as long as other data are
 * on their way. tcp_shutdown() and tcp_close() clear it.
 */
void tcp_set_more(struct tcp_conn *c, bool more);
/* tcp_output() - transmit what the windows allow now, without waiting for inet_poll(). */
int tcp_output(struct tcp_conn *c);
/*
 * tcp_recv() - up to @max bytes in order
 *
 * Return: a chain without a packet header, its data still in the pages they came in, the caller's to
 * m_freem(); NULL when there is none.
 */
struct mbuf *tcp_recv(struct tcp_conn *c, uint32_t max);
/* tcp_eof() - the peer has finished and everything was read */
bool tcp_eof(const struct tcp_conn *c);
/* tcp_shutdown() - no more will be sent: FIN after what is in the send buffer. 0 or -ENOTCONN. */
int tcp_shutdown(struct tcp_conn *c);
/* tcp_close() - the caller is done with it: FIN if need be, the rest goes on in inet_poll(). */
void tcp_close(struct tcp_conn *c);
/* tcp_abort() - RST to the peer, everything freed. */
void tcp_abort(struct tcp_conn *c);
/* tcp_let_go() - tcp_close(), or tcp_abort(), and the pointer is NULL; nothing when it was. */
void tcp_let_go(struct tcp_conn **c, bool reset);
/*
 * tcp_reset() - RST to the peer, buffers freed; the connection stays, closed, with @error for its owner
 * @error: a positive errno, what tcp_get_info() reports from now on
 */
void tcp_reset(struct tcp_conn *c, int error);
void tcp_get_info(const struct tcp_conn *c, struct tcp_info_s *out);

#endif
