/* SPDX-License-Identifier: BSD-2-Clause */
/* Processing of received segments: RFC 9293 3.10.7, with RFC 5961, RFC 7323 and RFC 5681/6582/6675. */
#include <errno.h>

#include "inet/tcp_var.h"

/* ack_now() - acknowledge once this burst has been processed. */
static void
ack_now(struct tcp_conn *c)
{
    c->ack_now = true;
    tcp_want_output(c);
}

/* challenge() - RFC 5961: send a rate-limited acknowledgement that lets a genuine peer prove itself. */
static void
challenge(struct tcp_conn *c)
{
    struct inet *in = c->in;
    uint64_t second = in->now / NS_PER_S;

    if (c->challenge_second != second) {
        c->challenge_second = second;
        c->challenges = 0;
    }
    /* A shared limit would let one connection learn about others (RFC 5961 7). */
    if (c->challenges >= TCP_CHALLENGES_PER_S)
        return;
    c->challenges++;
    in->stats.tx_challenge_ack++;
    ack_now(c);
}

/* stray_allowed() - may an unacceptable segment be answered now? */
static bool
stray_allowed(struct tcp_conn *c)
{
    if (c->in->now < c->stray_next)
        return false;
    c->stray_next = c->in->now + TCP_STRAY_INTERVAL;
    return true;
}

/*
 * answer_stray() - RFC 9293 3.10.7.4, first: answer an unacceptable segment with our state
 *
 * Answers to segments without payload are rate-limited, because two ends that disagree would
 * otherwise answer each other for ever. A segment with payload is not an answer, and may be a
 * retransmission because our acknowledgement was lost.
 */
static void
answer_stray(struct tcp_conn *c, const struct tcp_seg *seg)
{
    if (seg->len || (seg->flags & TF_FIN) || stray_allowed(c))
        ack_now(c);
}

/* ack_acceptable() - RFC 5961 5.2: it covers data that were sent, and is no older than the largest window */
static bool
ack_acceptable(const struct tcp_conn *c, const struct tcp_seg *seg)
{
    return (seg->flags & TF_ACK) && SEQ_LEQ(seg->ack, c->snd_nxt) &&
           SEQ_GEQ(seg->ack, c->snd_una - c->max_sndwnd);
}

void
tcp_take_options(struct tcp_conn *c, const struct tcp_seg *seg)
{
    c->ts_ok = seg->has_ts;
    c->sack_ok = seg->sackok;
    c->wscale_ok = seg->wscale != 255;
    c->snd_wscale = c->wscale_ok ? seg->wscale : 0;
    if (seg->mss)
        c->peer_mss = seg->mss;
    if (c->ts_ok) {
        c->ts_recent = seg->tsval;
        c->ts_recent_age = c->in->now;
    }
    c->irs = seg->seq;
    c->rcv_nxt = c->last_ack = seg->seq + 1;
    c->snd_wnd = c->max_sndwnd = seg->wnd; /* a SYN's window is not scaled */
    c->snd_wl1 = seg->seq;
    tcp_negotiated(c);
}

/* syn_sent_input() - RFC 9293 3.10.7.3 */
static void
syn_sent_input(struct tcp_conn *c, const struct tcp_seg *seg)
{
    bool ack = seg->flags & TF_ACK;
    uint32_t offered = c->rcv_adv - c->rcv_nxt; /* our SYN's window */

    if (ack && (SEQ_LEQ(seg->ack, c->iss) || SEQ_GT(seg->ack, c->snd_nxt))) {
        tcp_reset_for(c->in, c->peer, c->local_port, c->peer_port, seg);
        return;
    }
    if (seg->flags & TF_RST) {
        if (ack)
            tcp_closed(c, ECONNREFUSED);
        return;
    }
    if (!(seg->flags & TF_SYN))
        return;
    tcp_take_options(c, seg);
    if (!ack) { /* simultaneous open: send our SYN again, with an acknowledgement */
        c->rcv_adv = c->rcv_nxt + offered;
        tcp_set_state(c, TCPS_SYN_RECEIVED);
        c->force_rtx = true;
        c->rtt_active = false;
        tcp_want_output(c);
        return;
    }
    c->rcv_adv = c->rcv_nxt + offered;
    c->snd_una = seg->ack;
    if (c->rtt_active)
        tcp_rtt_sample(c, c->in->now - c->rtt_start);
    c->rtt_active = false;
    tcp_sb_reset(c);
    tcp_established(c);
    ack_now(c);
}

/* grow() - grow cwnd after @acked bytes were acknowledged, RFC 5681 3.1 */
static void
grow(struct tcp_conn *c, uint32_t acked)
{
    uint32_t limit = u32_min(2 * c->in->sndbuf, 1u << 30);

    if (c->cwnd >= limit)
        return;
    if (c->cwnd < c->ssthresh) {
        /*
         * RFC 7661: grow only while cwnd limits us. All acknowledged bytes count (RFC 3465 without
         * its limit), because one acknowledgement covers a super-frame of many segments.
         */
        if (c->cwnd / 2 < c->max_flight)
            c->cwnd += u32_min(acked, c->ssthresh - c->cwnd);
    } else if (c->max_flight + c->gso_max >= c->cwnd) {
        c->avoid_acked += acked;
        while (c->avoid_acked >= c->cwnd) {
            c->avoid_acked -= c->cwnd;
            c->cwnd += c->mss;
        }
    }
    c->cwnd = u32_min(c->cwnd, limit);
}

static void
enter_recovery(struct tcp_conn *c)
{
    c->cc = CC_RECOVERY;
    c->recover = c->snd_nxt;
    c->ssthresh = u32_max(tcp_flight(c) / 2, 2 * c->mss);
    c->cwnd = c->ssthresh;
    c->avoid_acked = 0;
    c->force_rtx = true;
    c->rtt_active = false;
    c->in->stats.tx_fast_retransmits++;
    tcp_sb_lose_first(c);
    tcp_arm_rexmt(c);
}

/*
 * sample_timestamp() - measure a round trip from the echoed timestamp, RFC 7323 4.1
 *
 * Only this distinguishes a retransmission from the original (RFC 6298 3). The unit is
 * milliseconds, rounded up.
 */
static void
sample_timestamp(struct tcp_conn *c, const struct tcp_seg *seg)
{
    uint32_t ms = tcp_ts_now(c) - seg->tsecr;

    if (c->ts_ok && seg->has_ts && (int32_t)ms >= 0)
        tcp_rtt_sample(c, u64_min((ms + 1ull) * NS_PER_MS, TCP_RTO_MAX));
}

/* ack_input() - process a segment's acceptable acknowledgement: RFC 9293 3.10.7.4, fifth */
static void
ack_input(struct tcp_conn *c, const struct tcp_seg *seg)
{
    struct inet *in = c->in;
    uint32_t acked, sacked = 0;
    bool update, opened;

    if (SEQ_LT(seg->ack, c->snd_una))
        return; /* old */
    /*
     * A peer that answers is alive, even if its window is shut (RFC 9293 3.8.6.1); but an orphan
     * does not wait for ever.
     */
    if ((!c->snd_wnd || c->rexmt == RM_PERSIST) && c->class != TC_ORPHAN)
        c->retries = 0;
    acked = seg->ack - c->snd_una;
    /* SND.WL2 is at most SND.UNA, so any update that is not older counts, even one with a smaller window. */
    update = acked || SEQ_GEQ(seg->seq, c->snd_wl1);

    if (acked) {
        c->snd_una = seg->ack;
        c->bytes_acked += acked - (c->fin_sent && seg->ack == c->snd_end_seq + 1);
        tcp_sndbuf_ack(c);
        tcp_sb_ack(c);
        c->retries = c->probes = 0;
        c->soft_error = 0;
        if (c->rtt_active && SEQ_GEQ(seg->ack, c->rtt_seq)) {
            c->rtt_active = false;
            tcp_rtt_sample(c, in->now - c->rtt_start);
        } else if (c->backoff) {
            sample_timestamp(c, seg);
        }
        if (!c->sack_ok) {
            /* Each acknowledged segment but the first may have caused a duplicate acknowledgement. */
            uint32_t segs = acked / c->mss;

            c->dupacks -= u32_min(c->dupacks, c->cc == CC_OPEN ? c->dupacks : segs ? segs - 1 : 0);
        }
    }
    if (seg->nsack && c->sack_ok)
        sacked = tcp_sb_sack(c, seg);
    if (c->sack_ok) {
        if (acked)
            c->dupacks = 0;
        else if (sacked)
            c->dupacks++;
    } else if (!acked && !seg->len && !(seg->flags & TF_FIN) && tcp_flight(c) &&
               seg->wnd == c->snd_wnd) {
        c->dupacks++; /* RFC 5681 2 */
    }

    if (update) {
        opened = seg->wnd && !c->snd_wnd && c->probes && tcp_flight(c);
        if (seg->wnd > c->snd_wnd || acked)
            tcp_want_output(c);
        c->snd_wnd = seg->wnd;
        c->snd_wl1 = seg->seq;
        c->max_sndwnd = u32_max(c->max_sndwnd, seg->wnd);
        if (c->rexmt == RM_PERSIST && c->snd_una == c->snd_nxt && tcp_snd_window(c) >= c->mss) {
            c->timer[TT_REXMT] = NEVER;
            c->probes = 0;
        }
        if (opened) { /* resend refused data now, not when the next probe is due */
            c->probes = 0;
            c->dupacks = 0;
            c->force_rtx = true;
            tcp_sb_lose_all(c);
            tcp_arm_rexmt(c);
        }
    }
    /* RFC 8985 7.4: the probe arrived, two round trips after the data missing below it. */
    if (sacked && c->probe_out && SEQ_GEQ(c->sb.fack, c->probe_end)) {
        c->sb.nlost = c->sb.n;
        c->probe_out = false;
    }

    switch (c->cc) {
    case CC_OPEN:
        if (c->sb.nlost || c->dupacks >= TCP_DUPTHRESH) {
            /* RFC 6582 3.2 (2): duplicates of data resent after a timeout are not a new loss. */
            if (c->sack_ok || SEQ_GT(seg->ack, c->recover))
                enter_recovery(c);
            else
                c->dupacks = 0;
        } else if (acked) {
            grow(c, acked);
        }
        break;
    case CC_RECOVERY:
        if (SEQ_GEQ(seg->ack, c->recover)) {
            c->cc = CC_OPEN;
            c->dupacks = 0;
            c->cwnd = c->ssthresh;
        } else if (acked && (!c->sack_ok || !c->sb.n)) {
            /* RFC 6582 3.2 (3): a partial acknowledgement identifies the next lost segment. */
            tcp_sb_lose_first(c);
            c->force_rtx = true;
        }
        break;
    case CC_LOSS:
        if (acked)
            grow(c, acked);
        if (SEQ_GEQ(seg->ack, c->recover)) {
            c->cc = CC_OPEN;
            c->dupacks = 0;
        }
        break;
    }
    if (acked) {
        /* RFC 6298 5.2, 5.3 */
        if (c->snd_una == c->snd_nxt) {
            c->timer[TT_REXMT] = NEVER;
            c->probe_out = false;
        } else {
            tcp_arm_rexmt(c);
        }
    }
    if (acked || sacked || c->dupacks)
        tcp_want_output(c);
}

/* fin_acked() - process the acknowledgement of our FIN; false: @c was freed. */
static bool
fin_acked(struct tcp_conn *c)
{
    if (!c->fin_sent || c->snd_una != c->snd_end_seq + 1)
        return true;
    switch (c->state) {
    case TCPS_FIN_WAIT_1:
        tcp_set_state(c, TCPS_FIN_WAIT_2);
        if (!c->owned)
            tcp_arm(c, TT_2MSL, TCP_FIN_WAIT_2);
        return true;
    case TCPS_CLOSING:
        tcp_set_state(c, TCPS_TIME_WAIT);
        tcp_arm(c, TT_2MSL, 2 * TCP_MSL);
        return true;
    case TCPS_LAST_ACK:
        tcp_closed(c, 0);
        return false;
    default:
        return true;
    }
}

/* fin_received() - everything up to the peer's FIN has arrived: RFC 9293 3.10.7.4, eighth */
static void
fin_received(struct tcp_conn *c)
{
    c->rcv_fin_done = true;
    c->rcv_nxt++;
    c->rcv_adv = seq_max(c->rcv_adv, c->rcv_nxt);
    tcp_reass_free(c); /* nothing can follow it */
    ack_now(c);
    switch (c->state) {
    case TCPS_ESTABLISHED:
        tcp_set_state(c, TCPS_CLOSE_WAIT);
        break;
    case TCPS_FIN_WAIT_1:
        tcp_set_state(c, TCPS_CLOSING);
        break;
    case TCPS_FIN_WAIT_2:
        tcp_set_state(c, TCPS_TIME_WAIT);
        tcp_arm(c, TT_2MSL, 2 * TCP_MSL);
        break;
    }
}

/* text_input() - process payload and FIN: RFC 9293 3.10.7.4, seventh; consumes @m, which holds the payload. */
static void
text_input(struct tcp_conn *c, const struct tcp_seg *seg, struct mbuf *m, uint32_t segsz)
{
    uint32_t seq = seg->seq, len = seg->len, end, before = c->rcv_nxt;
    bool fin = seg->flags & TF_FIN;

    if (c->rcv_fin_done) { /* it has finished: acknowledge anything that is resent */
        if (len || fin) {
            ack_now(c);
            /* RFC 9293 3.10.7.4, eighth: a retransmission of its FIN, and nothing else */
            if (fin && seq + len + 1 == c->rcv_nxt && c->state == TCPS_TIME_WAIT)
                tcp_arm(c, TT_2MSL, 2 * TCP_MSL);
        }
        m_freem(m);
        return;
    }
    /* Trim to the window, and to the end of the stream once it is known. */
    if (SEQ_LT(seq, c->rcv_nxt)) {
        uint32_t over = c->rcv_nxt - seq;

        if (len) {
            c->in->stats.rx_duplicate++;
            c->dsack_start = seq;
            c->dsack_end = seq_min(seq + len, c->rcv_nxt);
            ack_now(c);
        }
        if (over > len) {
            m_freem(m);
            return;
        }
        m_adj(m, (int)over);
        seq += over;
        len -= over;
    }
    end = seq + len;
    if (SEQ_GT(end, c->rcv_adv)) {
        uint32_t over = end - c->rcv_adv;

        c->in->stats.rx_beyond_window++;
        ack_now(c);
        fin = false;
        if (over >= len) {
            m_freem(m);
            return;
        }
        m_adj(m, -(int)over);
        len -= over;
        end -= over;
    }
    if (c->rcv_fin_known && SEQ_GT(end, c->rcv_fin)) {
        uint32_t over = end - c->rcv_fin;

        ack_now(c);
        if (over >= len) {
            m_freem(m);
            return;
        }
        m_adj(m, -(int)over);
        len -= over;
        end -= over;
    }
    /* Bytes received beyond it contradict a FIN: one of the two is not from the peer. */
    if (fin && c->nranges && SEQ_GT(c->range[c->nranges - 1].end, end)) {
        ack_now(c);
        fin = false;
    }
    if (fin && !c->rcv_fin_known) {
        c->rcv_fin_known = true;
        c->rcv_fin = end;
    }
    if (len) {
        c->rcv_mss = u32_max(c->rcv_mss, u32_min(segsz, c->in->mtu));
        /* RFC 5681 4.2: acknowledge out-of-order data, and data that fill a gap, at once. */
        if (seq != c->rcv_nxt || c->nranges)
            ack_now(c);
        if (!tcp_reass(c, seq, len, m))
            ack_now(c);
        /* With SACK, one acknowledgement per burst is enough; without it, the peer counts duplicates. */
        if (!c->sack_ok && c->rcv_nxt == before)
            tcp_send_control(c, c->snd_nxt, TF_ACK);
    } else {
        m_freem(m);
    }
    if (c->rcv_fin_known && c->rcv_nxt == c->rcv_fin) {
        fin_received(c);
        return;
    }
    if (c->rcv_nxt == before || c->ack_now)
        return;
    if (c->quickacks) {
        c->quickacks--;
        ack_now(c);
    } else if (c->rcv_nxt - c->last_ack >= 2 * c->rcv_mss) {
        ack_now(c);
    } else if (c->timer[TT_DELACK] == NEVER) {
        tcp_arm(c, TT_DELACK, TCP_DELACK);
    }
}

/* timestamps_ok() - RFC 7323 5.3; false: drop it */
static bool
timestamps_ok(struct tcp_conn *c, const struct tcp_seg *seg)
{
    if (!c->ts_ok || (seg->flags & TF_RST))
        return true;
    if (!seg->has_ts)
        return false; /* 3.2 */
    if (SEQ_GEQ(seg->tsval, c->ts_recent))
        return true;
    if (c->in->now - c->ts_recent_age > TCP_PAWS_IDLE)
        return true; /* 5.5: the peer's clock may have wrapped since */
    c->in->stats.rx_paws++;
    answer_stray(c, seg);
    return false;
}

/* reset_input() - RFC 5961 3.2 */
static void
reset_input(struct tcp_conn *c, const struct tcp_seg *seg)
{
    uint32_t window = u32_max(c->rcv_adv - c->rcv_nxt, 1);

    if (seg->seq != c->rcv_nxt) {
        if (SEQ_GT(seg->seq, c->rcv_nxt) && SEQ_LT(seg->seq, c->rcv_nxt + window))
            challenge(c);
        return;
    }
    if (c->state == TCPS_TIME_WAIT)
        return; /* RFC 1337 */
    if (c->state == TCPS_SYN_RECEIVED)
        tcp_closed(c, ECONNREFUSED);
    else if (c->state == TCPS_LAST_ACK || c->state == TCPS_CLOSING)
        tcp_closed(c, 0);
    else
        tcp_closed(c, ECONNRESET);
}

/* outside_window() - RFC 9293 3.10.7.4, first; a segment at the right edge may still carry an ACK. */
static bool
outside_window(struct tcp_conn *c, const struct tcp_seg *seg, uint32_t end)
{
    if (SEQ_LT(end, c->rcv_nxt)) {
        if (seg->len) {
            c->in->stats.rx_duplicate++;
            if (ack_acceptable(c, seg)) {
                c->dsack_start = seg->seq;
                c->dsack_end = seg->seq + seg->len;
            }
        }
        return true;
    }
    if (SEQ_GT(seg->seq, c->rcv_adv)) {
        c->in->stats.rx_beyond_window += seg->len != 0;
        return true;
    }
    return false;
}

/* keep_timestamp() - RFC 7323 4.3 (2), once the segment is known to be from the peer */
static void
keep_timestamp(struct tcp_conn *c, const struct tcp_seg *seg)
{
    if (c->ts_ok && SEQ_LEQ(seg->seq, c->last_ack) &&
        (SEQ_GEQ(seg->tsval, c->ts_recent) || c->in->now - c->ts_recent_age > TCP_PAWS_IDLE)) {
        c->ts_recent = seg->tsval;
        c->ts_recent_age = c->in->now;
    }
}

/*
 * conn_input() - RFC 9293 3.10.7.4: process a segment in any other state; consumes @m
 *
 * Nothing in the connection changes, including its timestamp and timers, until sequence number,
 * flags and acknowledgement have all been accepted.
 */
static void
conn_input(struct tcp_conn *c, const struct tcp_seg *seg, struct mbuf *m, uint32_t segsz)
{
    uint32_t end = seg->seq + seg->len + ((seg->flags & TF_FIN) != 0);
    struct tcp_seg behind_syn;

    /* Simultaneous open, RFC 9293 figure 7: the peer repeats its SYN after seeing ours. */
    if (c->state == TCPS_SYN_RECEIVED && c->active && seg->ack == c->snd_nxt &&
        (seg->flags & (TF_SYN | TF_ACK | TF_RST)) == (TF_SYN | TF_ACK)) {
        if (seg->seq != c->irs) {
            /* The earlier SYN, which proved nothing, came from another host. */
            syn_sent_input(c, seg);
            goto drop;
        }
        behind_syn = *seg;
        behind_syn.seq++;
        behind_syn.flags &= (uint8_t)~TF_SYN;
        seg = &behind_syn;
        end++;
        ack_now(c); /* not every peer accepts our SYN as its acknowledgement */
    }
    /* The answer to the handshake was lost: answer again. */
    if (c->state == TCPS_SYN_RECEIVED && (seg->flags & (TF_SYN | TF_ACK | TF_RST)) == TF_SYN &&
        seg->seq == c->irs) {
        if (c->snd_nxt != c->iss && stray_allowed(c)) {
            c->rtt_active = false; /* Karn: which of the two will be acknowledged? */
            tcp_send_control(c, c->iss, TF_SYN | TF_ACK);
        }
        goto drop;
    }
    if (seg->flags & TF_RST) {
        reset_input(c, seg);
        goto drop;
    }
    if (seg->flags & TF_SYN) { /* RFC 5961 4.2: wherever it lies */
        challenge(c);
        goto drop;
    }
    if (!timestamps_ok(c, seg))
        goto drop;
    if (outside_window(c, seg, end)) {
        answer_stray(c, seg);
        goto drop;
    }
    if (!(seg->flags & TF_ACK))
        goto drop;
    if (c->state == TCPS_SYN_RECEIVED) {
        if (SEQ_LEQ(seg->ack, c->iss) || SEQ_GT(seg->ack, c->snd_nxt)) {
            tcp_reset_for(c->in, c->peer, c->local_port, c->peer_port, seg);
            goto drop;
        }
        if (c->listener && c->listener->naccept >= c->listener->backlog) {
            c->in->stats.backlog_full++; /* our answer will be resent, and so will this segment */
            goto drop;
        }
    } else if (!ack_acceptable(c, seg)) {
        challenge(c);
        goto drop;
    }

    if (SEQ_GEQ(seg->ack, c->snd_una))
        keep_timestamp(c, seg);
    if (c->state == TCPS_SYN_RECEIVED) {
        c->snd_una = c->iss + 1;
        tcp_sb_reset(c);
        if (c->rtt_active)
            tcp_rtt_sample(c, c->in->now - c->rtt_start);
        c->rtt_active = false;
        c->snd_wnd = seg->wnd;
        c->snd_wl1 = seg->seq;
        c->max_sndwnd = u32_max(c->max_sndwnd, seg->wnd);
        tcp_established(c);
    }
    ack_input(c, seg);
    if (!fin_acked(c))
        goto drop;
    if (!seg->len && !(seg->flags & TF_FIN))
        goto drop; /* by far the most frequent case while sending */
    /* RFC 9293 3.6.1: data for a user that has closed end the connection. */
    if (seg->len && !c->owned && !c->listener && !c->rcv_fin_done && SEQ_GT(end, c->rcv_nxt)) {
        m_freem(m);
        tcp_abort(c);
        return;
    }
    text_input(c, seg, m, segsz);
    return;
drop:
    m_freem(m);
}

/* time_wait_reuse() - may this SYN begin a new connection? RFC 6191, RFC 9293 3.6.1 */
static bool
time_wait_reuse(const struct tcp_conn *c, const struct tcp_seg *seg)
{
    const struct tcp_conn *l = tcp_find(c->in, 0, 0, c->local_port);

    if ((seg->flags & (TF_SYN | TF_ACK | TF_RST | TF_FIN)) != TF_SYN)
        return false;
    if (!l || l->state != TCPS_LISTEN || l->naccept >= l->backlog)
        return false; /* keep the old one unless there will be a new one */
    if (c->ts_ok && seg->has_ts && seg->tsval != c->ts_recent)
        return SEQ_GT(seg->tsval, c->ts_recent);
    return SEQ_GT(seg->seq, c->rcv_nxt);
}

void
tcp_input(struct inet *in, struct mbuf *m, const struct ip_view *ip)
{
    unsigned off = ETH_HLEN + ip->hlen, tlen = ip->len - ip->hlen, hlen;
    const uint8_t *tcp = ip->frame + off;
    uint16_t sport, dport;
    struct tcp_conn *c;
    struct tcp_seg seg;
    uint32_t segsz;

    in->stats.rx_tcp++;
    if (tlen < TCP_HLEN || ip->avail < off + TCP_HLEN)
        goto bad;
    hlen = (tcp[TCPH_OFF] >> 4) * 4u;
    if (hlen < TCP_HLEN || hlen > tlen || ip->avail < off + hlen)
        goto bad;
    if (!(m->m_pkthdr.csum_flags & (CSUM_PARTIAL | CSUM_DATA_VALID)) &&
        csum_mbuf(m, off, tlen, csum_pseudo(ip->src, ip->dst, IPPROTO_TCP, tlen)) != 0xffff) {
        in->stats.rx_bad_csum++;
        goto bad;
    }
    sport = get16(tcp + TCPH_SPORT);
    dport = get16(tcp + TCPH_DPORT);
    seg.seq = get32(tcp + TCPH_SEQ);
    seg.ack = get32(tcp + TCPH_ACK);
    seg.flags = tcp[TCPH_FLAGS];
    seg.wnd = get16(tcp + TCPH_WIN);
    seg.len = tlen - hlen;
    if (!sport || !dport || !tcp_parse_options(tcp + TCP_HLEN, hlen - TCP_HLEN, &seg))
        goto bad;
    segsz = m->m_pkthdr.csum_flags & CSUM_TSO ? m->m_pkthdr.tso_segsz : seg.len;

    c = tcp_find(in, ip->src, sport, dport);
    if (c && c->state == TCPS_CLOSED)
        c = NULL; /* only a user's handle is left */
    else if (c && c->state == TCPS_TIME_WAIT && !c->owned && time_wait_reuse(c, &seg)) {
        tcp_free(c);
        c = NULL;
    } else if (c) {
        if (c->state == TCPS_SYN_SENT) {
            syn_sent_input(c, &seg);
            m_freem(m); /* the peer resends data that came with a SYN */
            return;
        }
    }
    if (!c) {
        c = tcp_find(in, 0, 0, dport);
        if (c && c->state == TCPS_LISTEN) {
            c = tcp_listen_input(c, ip->src, sport, &seg);
        } else {
            c = NULL;
            in->stats.rx_no_conn++;
            tcp_reset_for(in, ip->src, dport, sport, &seg);
        }
        if (!c) {
            m_freem(m);
            return;
        }
    }
    if (!(seg.flags & TF_SYN))
        seg.wnd <<= c->snd_wscale;
    m_adj(m, (int)(off + hlen));
    conn_input(c, &seg, m, segsz);
    return;
bad:
    in->stats.rx_bad_tcp++;
    m_freem(m);
}

/* plateau() - the next usual MTU below a size that was too big: RFC 1191 7.1 */
static uint32_t
plateau(uint32_t size)
{
    static const uint16_t mtus[] = {32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296};

    for (unsigned i = 0; i < sizeof(mtus) / sizeof(mtus[0]); i++)
        if (mtus[i] < size)
            return mtus[i];
    return 68;
}

/*
 * path_mtu() - a packet of @len bytes was dropped because a hop's MTU is @mtu bytes; 0: unknown
 *
 * Old routers do not give the MTU (RFC 1191 5). A very small MTU may be an attack (RFC 5927 7.2)
 * and is not followed literally: segments stay at TCP_PMTU_MIN or more, but routers may fragment
 * them.
 */
static void
path_mtu(struct tcp_conn *c, uint32_t mtu, uint32_t len)
{
    uint32_t headers = c->tmpl_len - ETH_HLEN, now = headers + c->mss;
    bool cut = false;

    if (!mtu) /* a super-frame's length is not that of the segment that was too big */
        mtu = plateau(len > c->in->mtu ? now : len);
    if (mtu >= now)
        return; /* about a packet sent before we knew */
    if (mtu < TCP_PMTU_MIN) {
        mtu = TCP_PMTU_MIN;
        cut = tcp_let_fragment(c);
    }
    if (mtu < now)
        tcp_set_mss(c, mtu - headers);
    else if (!cut)
        return;
    /* RFC 1191 6.4: resend everything in flight, by slow start; but this is not congestion. */
    if (c->cc != CC_LOSS)
        c->recover = c->snd_nxt;
    c->cc = CC_LOSS;
    c->ssthresh = u32_max(c->ssthresh, c->cwnd);
    c->cwnd = c->mss;
    c->avoid_acked = 0;
    c->dupacks = 0;
    c->force_rtx = true;
    tcp_sb_lose_all(c);
    tcp_arm_rexmt(c);
    tcp_want_output(c);
}

void
tcp_unreachable(struct inet *in, uint32_t dst, uint16_t sport, uint16_t dport, uint32_t seq,
                unsigned code, uint32_t mtu, uint32_t len)
{
    struct tcp_conn *c = tcp_find(in, dst, dport, sport);

    if (!c || c->state == TCPS_LISTEN || c->state == TCPS_CLOSED)
        return;
    /* RFC 5927 4.1: accept it only for data in flight. */
    if (SEQ_LT(seq, c->snd_una) || !SEQ_LT(seq, c->snd_nxt))
        return;
    if (code == ICMP_C_NEEDFRAG) {
        if (tcp_synchronized(c))
            path_mtu(c, mtu, len);
        return;
    }
    if (c->state == TCPS_SYN_SENT || c->state == TCPS_SYN_RECEIVED)
        tcp_closed(c, code == ICMP_C_PORT || code == ICMP_C_PROTOCOL ? ECONNREFUSED : EHOSTUNREACH);
    else
        c->soft_error = EHOSTUNREACH; /* RFC 9293 3.9.2.2 */
}
