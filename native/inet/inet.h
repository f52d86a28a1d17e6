/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Enough ARP, IPv4, ICMP and TCP to serve a stock peer over one NIC queue.
 *
 * One thread owns a struct inet and everything in it. There is no background work: frames move and
 * timers run inside inet_poll().
 */
#ifndef NIC_HARNESS_INET_H
#define NIC_HARNESS_INET_H

#include <netinet/in.h>
#include <stdint.h>

#include "nic/nic.h"

struct inet;
struct tcp_conn;

/* What sndbuf and rcvbuf may be, bytes; the most is half of what RFC 7323 allows a window to be. */
#define INET_BUF_MIN 2048u
#define INET_BUF_MAX (512u << 20)

struct inet_config {
    uint32_t addr;      /* our IPv4 address, network byte order */
    uint32_t netmask;   /* network byte order */
    uint32_t gateway;   /* 0: none */
    unsigned queue;     /* NIC queue to use */
    uint32_t sndbuf;    /* bytes that a connection keeps unacknowledged or unsent; 0: 8 MiB */
    uint32_t rcvbuf;    /* bytes that a connection keeps for its reader; 0: 4 MiB */
    uint32_t budget;    /* most arena pages to hold; 0: what the rings leave, less a quarter */
    uint32_t unclaimed; /* frames kept for inet_recv_unclaimed(); 0: none */
    uint64_t seed;      /* for initial sequence numbers and ports; 0: from getrandom(2) */
    uint64_t (*clock)(void *arg); /* ns, monotonic; NULL: CLOCK_MONOTONIC */
    void *clock_arg;
};

struct inet_stats {
#define COUNTER(name, what) uint64_t name;
#define DROP(name, why, what) uint64_t name;
#include "inet/counters.def"
};

/* What a stack holds now, and its limits: arena pages, mbufs, connections. */
struct inet_memory {
    uint32_t pages_limit, pages_used, pages_promised;
    uint32_t mbufs_limit, mbufs_used;
    uint32_t conns_limit, conns; /* including listeners */
    uint32_t half_open, orphans, time_wait;
};

/* inet_create() - create a host at config->addr on a NIC, which the caller keeps; 0 or -errno. */
int inet_create(struct nic *n, const struct inet_config *config, struct inet **out);
/* inet_destroy() - abort every connection and free everything. */
void inet_destroy(struct inet *in);
/* inet_let_go() - inet_destroy(), and set the pointer to NULL; does nothing if it is NULL. */
void inet_let_go(struct inet **in);

/*
 * inet_poll() - receive and answer waiting frames, run the timers, transmit whatever may go
 *
 * Return: frames received; -ENETDOWN, -ENODEV or -EPROTO as nic_rx_burst().
 */
int inet_poll(struct inet *in);

/*
 * inet_wait() - sleep until a frame arrives or a timer is due
 * @timeout_ns: longest wait
 *
 * Return: 1 if there is something to do; 0 after the timeout; -EINTR on a signal.
 */
int inet_wait(struct inet *in, int64_t timeout_ns);

/*
 * inet_recv_unclaimed() - take frames to us, or to a group, that no protocol here handles, oldest
 * first
 *
 * These are frames with EtherTypes other than ARP and IPv4, IPv4 protocols other than ICMP and TCP,
 * or addresses other than ours. They are complete, as received, and the caller frees them with
 * m_freem(). They include IP fragments, except those of ICMP and TCP to us, which are dropped and
 * counted as rx_fragments.
 *
 * Return: number of frames, at most @max. Frames that exceed config->unclaimed are dropped, and
 * counted as rx_no_buffer.
 */
unsigned inet_recv_unclaimed(struct inet *in, struct mbuf **out, unsigned max);

/* inet_nic() - its NIC */
struct nic *inet_nic(const struct inet *in);
/* inet_queue() - its queue on the NIC */
unsigned inet_queue(const struct inet *in);
/* inet_sndbuf() - bytes that a connection keeps unacknowledged or unsent */
uint32_t inet_sndbuf(const struct inet *in);
/* inet_timeout() - ns until inet_poll() has something to do even without a frame; -1: nothing. */
int64_t inet_timeout(const struct inet *in);
/* inet_deadline() - the time when that is, by the configured clock; 0: now; UINT64_MAX: never. */
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
     * 0 or a positive errno: ECONNREFUSED, ECONNRESET, ETIMEDOUT, ECONNABORTED, EHOSTUNREACH; EIO
     * if file pages in the send buffer were lost, because the file shrank or could not be read.
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
 * tcp_connect() - active open; the handshake proceeds in inet_poll()
 * @addr, @port: peer, network byte order / host byte order
 * @local_port: 0: any
 *
 * Return: 0; -EADDRINUSE; -ENETUNREACH if there is no route; -ENOMEM.
 */
int tcp_connect(struct inet *in, uint32_t addr, uint16_t port, uint16_t local_port,
                struct tcp_conn **out);
/* tcp_listen() - passive open on a port; 0, -EADDRINUSE, -ENOMEM. */
int tcp_listen(struct inet *in, uint16_t port, unsigned backlog, struct tcp_conn **out);
/* tcp_accept() - next established connection of a listener; NULL if there is none. */
struct tcp_conn *tcp_accept(struct tcp_conn *listener);

/* tcp_accept_into() - tcp_accept() into a pointer that already has an owner; false if there is no connection. */
bool tcp_accept_into(struct tcp_conn *listener, struct tcp_conn **out);

/* tcp_send_room() - bytes that fit into the send buffer now; 0 if the connection cannot send. */
uint32_t tcp_send_room(const struct tcp_conn *c);
/* tcp_send_starved() - true if the send buffer has room, but the budget has no mbuf for it */
bool tcp_send_starved(const struct tcp_conn *c);
/*
 * tcp_copy_room() - bytes that can be copied into arena pages and sent now
 *
 * At most tcp_send_room(), and at most what the budget has pages for. If it is 0 for lack of pages,
 * inet_timeout() says when to ask again.
 */
uint32_t tcp_copy_room(struct tcp_conn *c);
/*
 * tcp_send() - append a chain to the send buffer
 * @m: chain; its storage is held until the peer acknowledges its bytes
 *
 * Consumes @m on success only.
 *
 * Return: 0; -EAGAIN if it does not fit now; -EMSGSIZE if it never will; -EPIPE after
 * tcp_shutdown(); -ENOTCONN; the connection's error, negative (-ECONNRESET and the like).
 */
int tcp_send(struct tcp_conn *c, struct mbuf *m);

/*
 * Data to send that may be longer than the send buffer, which takes them piece by piece. The user
 * owns what @data or
 * @chain points to, and must not change it until @done has reached @len.
 */
struct tcp_source {
    const void *data;   /* bytes, copied into pages; NULL: use @chain */
    struct mbuf *chain; /* sent without a copy, sharing its storage */
    size_t len;
    size_t done; /* bytes already in the send buffer */
};

/*
 * tcp_send_some() - append the next piece of a source to the send buffer
 *
 * Return: 1 if everything was taken; 0 if not yet (@done says how much), for lack of room, or of
 * pages or mbufs, in which case inet_timeout() says when to ask again; an error of tcp_send().
 */
int tcp_send_some(struct tcp_conn *c, struct tcp_source *s);
/*
 * tcp_set_more() - say whether more data will follow soon
 *
 * While it is set, a partial last frame waits for more data as long as other data are in flight.
 * tcp_shutdown() and tcp_close() clear it.
 */
void tcp_set_more(struct tcp_conn *c, bool more);
/* tcp_output() - transmit what the windows allow now, without waiting for inet_poll(). */
int tcp_output(struct tcp_conn *c);
/*
 * tcp_recv() - receive up to @max bytes, in order
 *
 * Return: a chain without a packet header, with its data still in the receive pages; the caller
 * frees it with m_freem(). NULL if there are no data.
 */
struct mbuf *tcp_recv(struct tcp_conn *c, uint32_t max);
/* tcp_eof() - true if the peer has finished and everything has been read */
bool tcp_eof(const struct tcp_conn *c);
/* tcp_shutdown() - send a FIN after the contents of the send buffer; 0 or -ENOTCONN. */
int tcp_shutdown(struct tcp_conn *c);
/* tcp_close() - release the connection: sends a FIN if needed, and inet_poll() finishes the rest. */
void tcp_close(struct tcp_conn *c);
/* tcp_abort() - send an RST to the peer and free everything. */
void tcp_abort(struct tcp_conn *c);
/* tcp_let_go() - tcp_close() or tcp_abort(), and set the pointer to NULL; does nothing if it is NULL. */
void tcp_let_go(struct tcp_conn **c, bool reset);
/*
 * tcp_reset() - send an RST and free the buffers; the owner keeps the closed connection, with
 * @error
 * @error: a positive errno, which tcp_get_info() reports from now on
 */
void tcp_reset(struct tcp_conn *c, int error);
void tcp_get_info(const struct tcp_conn *c, struct tcp_info_s *out);

#endif
