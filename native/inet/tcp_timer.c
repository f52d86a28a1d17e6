/* SPDX-License-Identifier: BSD-2-Clause */
/* Timers: retransmission (RFC 6298), tail loss probe (RFC 8985 7), persist, delayed ACK, 2 MSL. */
#include <errno.h>

#include "inet/tcp_var.h"

void
tcp_arm(struct tcp_conn *c, enum tcp_timer t, uint64_t delay)
{
    c->timer[t] = c->in->now + delay;
    inet_timer(c->in, c->timer[t]);
}

uint64_t
tcp_rto(const struct tcp_conn *c)
{
    return u64_min(c->rto << u32_min(c->backoff + c->probes, 16), TCP_RTO_MAX);
}

void
tcp_arm_rexmt(struct tcp_conn *c)
{
    uint64_t delay = tcp_rto(c), pto;

    c->rexmt = RM_RTO;
    /*
     * RFC 8985 7.2: probe for an acknowledgement two round trips after the last segment of a
     * flight, unless a loss is known already. The acknowledgement of a single segment may be
     * delayed longer.
     */
    if (c->sack_ok && c->cc == CC_OPEN && !c->probe_out && !c->backoff && c->srtt &&
        !c->sb.sacked && tcp_synchronized(c) && tcp_flight(c) > c->mss && !tcp_window_shrunk(c)) {
        pto = 2 * c->srtt;
        if (pto < TCP_PTO_MIN)
            pto = TCP_PTO_MIN;
        if (pto < delay) {
            c->rexmt = RM_PROBE;
            delay = pto;
        }
    }
    tcp_arm(c, TT_REXMT, delay);
}

void
tcp_rtt_sample(struct tcp_conn *c, uint64_t rtt)
{
    uint64_t dev;

    if (!rtt)
        rtt = 1;
    if (!c->srtt) { /* RFC 6298 2.2 */
        c->srtt = rtt;
        c->rttvar = rtt / 2;
    } else { /* 2.3 */
        dev = c->srtt > rtt ? c->srtt - rtt : rtt - c->srtt;
        c->rttvar = (3 * c->rttvar + dev) / 4;
        c->srtt = (7 * c->srtt + rtt) / 8;
    }
    c->rto = c->srtt + 4 * c->rttvar;
    if (c->rto < TCP_RTO_MIN)
        c->rto = TCP_RTO_MIN;
    if (c->rto > TCP_RTO_MAX)
        c->rto = TCP_RTO_MAX;
    /* 5: only now, and not for the acknowledgement of a retransmission */
    c->backoff = 0;
}

/* too_often() - count a retransmission; true: the connection was given up, and may be freed. */
static bool
too_often(struct tcp_conn *c)
{
    unsigned limit = !tcp_synchronized(c) ? TCP_SYN_RETRIES
                     : c->owned           ? TCP_RETRIES
                                          : TCP_ORPHAN_RETRIES;

    if (++c->retries <= limit)
        return false;
    if (c->class == TC_ORPHAN) { /* its peer may be alive, but accept nothing */
        c->in->stats.orphans_dropped++;
        tcp_abort(c);
        return true;
    }
    tcp_closed(c, c->soft_error ? c->soft_error : ETIMEDOUT);
    return true;
}

static void
timeout(struct tcp_conn *c)
{
    /* The data may be missing because they can no longer be read: not every device reports that. */
    if (too_often(c) || !tcp_check_sndbuf(c))
        return;
    /* RFC 9293 3.8.6.1: with a shut window it is a probe, and says nothing about the path. */
    if (tcp_synchronized(c) && !c->snd_wnd) {
        c->in->stats.tx_probes++;
        c->probes++;
    } else {
        c->in->stats.tx_rto++;
        c->backoff++;
    }
    c->rtt_active = false;
    if (!tcp_synchronized(c)) {
        /* Send the handshake's segment again, or for the first time; an answer to the first still counts. */
        c->force_rtx = true;
        c->cwnd = c->mss; /* RFC 5681 3.1: after a lost SYN one segment */
        c->in->stats.tx_retransmits++;
        tcp_arm_rexmt(c);
        tcp_transmit(c);
        return;
    }
    /* RFC 5681 (4): ssthresh follows the amount in flight once, not again if the retransmission is lost too. */
    if (c->retries == 1) {
        c->ssthresh = u32_max(tcp_flight(c) / 2, 2 * c->mss);
        if (c->cc != CC_LOSS)
            c->recover = c->snd_nxt;
    }
    c->recover = seq_max(c->recover, c->snd_nxt);
    c->cc = CC_LOSS;
    c->cwnd = c->mss;
    c->avoid_acked = 0;
    c->dupacks = 0;
    c->force_rtx = true;
    tcp_sb_lose_all(c);
    tcp_arm_rexmt(c);
    tcp_transmit(c);
}

static void
rexmt_timer(struct tcp_conn *c)
{
    c->timer[TT_REXMT] = NEVER;
    if (c->rexmt == RM_PERSIST) {
        if (c->snd_una != c->snd_nxt || c->fin_sent || c->snd_end_seq == c->snd_nxt)
            return;
        if (too_often(c) || !tcp_check_sndbuf(c))
            return;
        c->probes++;
        tcp_send_persist(c);
        if (c->snd_una != c->snd_nxt) {
            c->probes = 0;
            tcp_arm_rexmt(c);
        } else {
            tcp_arm(c, TT_REXMT, tcp_rto(c));
        }
        return;
    }
    if (tcp_synchronized(c) && c->snd_una == c->snd_nxt)
        return;
    if (c->rexmt == RM_PROBE) {
        if (!tcp_window_shrunk(c))
            tcp_send_probe(c);
        tcp_arm_rexmt(c); /* probe_out, or shrunk: now the timeout */
        return;
    }
    timeout(c);
}

void
tcp_timers(struct inet *in)
{
    struct tcp_conn *next;

    for (struct tcp_conn *c = TAILQ_FIRST(&in->conns); c; c = next) {
        next = TAILQ_NEXT(c, all_link);
        if (in->now >= c->timer[TT_2MSL]) {
            tcp_closed(c, c->error);
            continue;
        }
        if (in->now >= c->timer[TT_DELACK]) {
            c->timer[TT_DELACK] = NEVER;
            c->ack_now = true;
            tcp_want_output(c);
        }
        for (unsigned t = 0; t < TT_COUNT; t++)
            if (t != TT_REXMT)
                inet_timer(in, c->timer[t]);
        if (in->now >= c->timer[TT_REXMT])
            rexmt_timer(c); /* it may be freed */
        else
            inet_timer(in, c->timer[TT_REXMT]);
    }
}
