/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Transmission: super-frames of the send buffer's own pages after a header made from a template,
 * retransmissions from the same pages, acknowledgements, resets.
 */
#include <string.h>

#include "inet/tcp_var.h"

/* route() - put the neighbour's address into the template; false: it is being requested. */
static bool
route(struct tcp_conn *c)
{
    struct inet *in = c->in;
    const uint8_t *mac;

    if (__builtin_expect(c->arp_gen == in->arp_gen, 1))
        return true;
    mac = arp_lookup(in, c->nexthop);
    if (!mac) {
        c->arp_wait = true;
        return false;
    }
    memcpy(c->tmpl + ETH_DST, mac, 6);
    c->arp_gen = in->arp_gen;
    c->arp_wait = false;
    return true;
}

/* fill_header() - fill in what differs between frames: sequence numbers, window, lengths, checksums. */
static void
fill_header(struct tcp_conn *c, uint8_t *frame, unsigned hlen, uint32_t seq, uint32_t len,
            uint8_t flags)
{
    uint8_t *ip = frame + ETH_HLEN, *tcp = ip + IP_HLEN;
    uint32_t total = hlen - ETH_HLEN + len, window, adv;

    put16(ip + IPH_LEN, (uint16_t)total);
    put16(ip + IPH_ID, c->in->ip_id);
    put16(ip + IPH_CSUM, (uint16_t)~csum_fold((uint64_t)c->ip_sum + total + c->in->ip_id));
    /* Each segment cut from a super-frame has its own identification. */
    c->in->ip_id += (uint16_t)(len > c->mss ? (len + c->mss - 1) / c->mss : 1);

    put32(tcp + TCPH_SEQ, seq);
    put32(tcp + TCPH_ACK, flags & TF_ACK ? c->rcv_nxt : 0);
    tcp[TCPH_OFF] = (uint8_t)((hlen - ETH_HLEN - IP_HLEN) << 2);
    tcp[TCPH_FLAGS] = flags;
    window = flags & TF_RST ? 0 : tcp_rcv_window(c);
    if (flags & TF_SYN) { /* RFC 7323 2.2: never scaled */
        window = u32_min(window, 65535);
        put16(tcp + TCPH_WIN, (uint16_t)window);
        adv = window;
        if (!(flags & TF_ACK)) /* the window's position is known only once the peer has answered */
            c->rcv_adv = u32_max(c->rcv_adv, window);
    } else {
        uint32_t have = c->rcv_adv - c->rcv_nxt;
        uint32_t field = window >> c->rcv_wscale;

        /* Rounding must not move the right edge back. */
        if (field << c->rcv_wscale < have)
            field = (have + (1u << c->rcv_wscale) - 1) >> c->rcv_wscale;
        field = u32_min(field, 65535);
        put16(tcp + TCPH_WIN, (uint16_t)field);
        adv = field << c->rcv_wscale;
    }
    if (flags & TF_ACK && !(flags & TF_RST)) {
        c->rcv_adv = seq_max(c->rcv_adv, c->rcv_nxt + adv);
        tcp_mem_promise(c);
        c->last_ack = c->rcv_nxt;
        c->ack_now = false;
        c->timer[TT_DELACK] = NEVER;
    }
    if (c->ts_ok && !(flags & TF_SYN)) {
        put32(tcp + TCP_HLEN + 4, tcp_ts_now(c));
        put32(tcp + TCP_HLEN + 8, c->ts_recent);
    }
    put16(tcp + TCPH_CSUM, csum_fold((uint64_t)c->tcp_sum + total - IP_HLEN));
}

void
tcp_fill_pkthdr(struct mbuf *m, uint32_t len)
{
    m->m_pkthdr.len = (int32_t)len;
    m->m_pkthdr.csum_flags = CSUM_PARTIAL;
    m->m_pkthdr.csum_start = ETH_HLEN + IP_HLEN;
    m->m_pkthdr.csum_data = TCPH_CSUM;
}

int
tcp_send_control(struct tcp_conn *c, uint32_t seq, uint8_t flags)
{
    struct inet *in = c->in;
    unsigned hlen = c->tmpl_len, more = 0;
    struct mbuf *m;
    uint8_t *p;
    int rc;

    if (!route(c))
        return -EAGAIN;
    m = mb_gethdr(in->zone);
    if (!m)
        return -ENOBUFS;
    m_align(m, FRAME_HDR_MAX);
    p = mtod(m, uint8_t *);
    memcpy(p, c->tmpl, hlen);
    if (flags & TF_SYN) {
        hlen = ETH_HLEN + IP_HLEN + TCP_HLEN;
        more = tcp_syn_options(c, p + hlen);
    } else if ((c->nranges || c->dsack_start != c->dsack_end) && c->sack_ok &&
               (flags & (TF_ACK | TF_RST | TF_FIN)) == TF_ACK) {
        more = tcp_sack_option(c, p + hlen, ETH_HLEN + IP_HLEN + TCP_HLEN_MAX - hlen);
    }
    hlen += more;
    fill_header(c, p, hlen, seq, 0, flags);
    m->m_len = (int32_t)hlen;
    tcp_fill_pkthdr(m, hlen);
    rc = inet_tx(in, m);
    if (rc) {
        m_freem(m);
        if (flags & TF_ACK)
            c->ack_now = true;
        return rc;
    }
    in->stats.tx_tcp++;
    in->stats.tx_rst += (flags & TF_RST) != 0;
    return 0;
}

/* cursor_seek() - make a cursor point at the mbuf that holds @seq. */
static struct mbuf *
cursor_seek(struct tcp_conn *c, struct tcp_cursor *cur, uint32_t seq)
{
    if (!cur->m || SEQ_LT(seq, cur->seq)) {
        cur->m = c->snd_head;
        cur->seq = c->snd_head_seq;
    }
    while (cur->m && SEQ_GEQ(seq, cur->seq + (uint32_t)cur->m->m_len) && cur->m->m_next) {
        cur->seq += (uint32_t)cur->m->m_len;
        cur->m = cur->m->m_next;
    }
    return cur->m;
}

/*
 * send_data() - send one frame from the send buffer
 * @seq: its first sequence number
 * @len: sequence numbers, including a FIN at the end of the buffer; at least 1
 * @cur: cursor near @seq
 *
 * Return: sequence numbers sent, fewer than @len if the frame had too many pieces; or -errno.
 */
static int64_t
send_data(struct tcp_conn *c, uint32_t seq, uint32_t len, struct tcp_cursor *cur)
{
    struct inet *in = c->in;
    unsigned hlen = c->tmpl_len, pieces = 0;
    uint8_t flags = TF_ACK;
    uint32_t have = 0;
    bool fin = SEQ_GT(seq + len, c->snd_end_seq);
    struct mbuf *m, *first = NULL;
    int rc;

    len -= fin;
    m = mb_gethdr(in->zone);
    if (!m)
        return -ENOBUFS;
    m_align(m, (int)hlen);
    if (len) {
        first = cursor_seek(c, cur, seq);
        /* Use no more pieces than the ring accepts, and then end the frame with a whole segment. */
        for (const struct mbuf *n = first; n && have < len; n = n->m_next) {
            have += (uint32_t)n->m_len - (n == first ? seq - cur->seq : 0);
            if (++pieces == TCP_TX_SEGS)
                break;
        }
        if (have < len) {
            len = have > c->mss ? have - have % c->mss : have;
            fin = false;
        }
        m->m_next = m_copym(first, (int)(seq - cur->seq), (int)len, M_NOWAIT);
        if (!m->m_next) {
            m_freem(m);
            return -ENOBUFS;
        }
    }
    if (fin)
        flags |= TF_FIN;
    if (len && seq + len == c->snd_end_seq)
        flags |= TF_PSH;
    memcpy(mtod(m, uint8_t *), c->tmpl, hlen);
    fill_header(c, mtod(m, uint8_t *), hlen, seq, len, flags);
    m->m_len = (int32_t)hlen;
    tcp_fill_pkthdr(m, hlen + len);
    if (len > c->mss) {
        m->m_pkthdr.csum_flags |= CSUM_TSO4;
        m->m_pkthdr.tso_segsz = (uint16_t)c->mss;
        m->m_pkthdr.hdr_len = (uint16_t)hlen;
    }
    rc = inet_tx(in, m);
    if (rc) {
        m_freem(m);
        c->ack_now = true;
        return rc;
    }
    in->stats.tx_tcp++;
    in->stats.tx_payload += len;
    c->last_sent = in->now;
    return (int64_t)len + fin;
}

/*
 * window_at() - bytes from @seq on, sent before, that fit the peer's window
 *
 * RFC 9293 3.8.6: data beyond a window that has shrunk are not resent. If the window is shut, the
 * first segment is, as a probe (3.8.6.1).
 */
static uint32_t
window_at(const struct tcp_conn *c, uint32_t seq)
{
    uint32_t edge = c->snd_una + c->snd_wnd;

    if (!tcp_window_shrunk(c))
        return UINT32_MAX;
    if (SEQ_LT(seq, edge))
        return edge - seq;
    return seq == c->snd_una ? c->mss : 0;
}

/* retransmit() - resend one frame of lost data; returns sequence numbers sent, 0 if cwnd is full, or -errno. */
static int64_t
retransmit(struct tcp_conn *c, struct tcp_hole *h, uint32_t room)
{
    uint32_t left = h->end - h->rxmit, window = window_at(c, h->rxmit), len;
    int64_t sent;

    if (c->force_rtx)
        room = u32_max(room, c->mss);
    len = u32_min(u32_min(left, window), u32_min(room, c->gso_max));
    if (len < left) {
        if (len >= c->mss)
            len -= len % c->mss;
        else if (len != window || h->rxmit != c->snd_una)
            return 0;
    }
    sent = send_data(c, h->rxmit, len, &c->rtx_cur);
    if (sent <= 0)
        return sent;
    h->rxmit += (uint32_t)sent;
    h->mark = c->snd_nxt;
    c->force_rtx = false;
    c->rtt_active = false; /* Karn: RFC 6298 3 */
    c->retransmits++;
    c->in->stats.tx_retransmits++;
    c->in->stats.tx_payload_retransmitted += (uint32_t)sent;
    return sent;
}

/*
 * new_length() - sequence numbers of the next frame of new data
 * @avail: bytes not sent yet
 * @room: bytes left in cwnd
 * @window: bytes left in the peer's window
 *
 * This avoids silly windows (RFC 9293 3.8.6.2.1); and while acknowledgements are due, a frame that
 * could be larger after the next one waits for it.
 */
static uint32_t
new_length(const struct tcp_conn *c, uint32_t avail, uint32_t room, uint32_t window)
{
    uint32_t flight = tcp_flight(c), len, largest;

    /* With few frames in flight a loss is noticed late, so keep at least two. */
    largest = u32_min(c->gso_max, u32_max(2 * c->mss, c->cwnd / 2));
    largest -= largest % c->mss;
    len = u32_min(u32_min(avail, largest), u32_min(room, window));
    if (len == avail) {
        if (c->more && len < largest && (flight || len < c->mss))
            return 0;
        return len;
    }
    if (len == largest)
        return len;
    if (len >= c->mss) {
        len -= len % c->mss;
        if (flight && c->cc == CC_OPEN && len < u32_min(largest, u32_min(c->cwnd, c->snd_wnd) / 4))
            return 0;
        return len;
    }
    if (room < window && room < c->mss)
        return flight ? 0 : len;
    return len && len >= c->max_sndwnd / 2 ? len : 0;
}

/* transmit_syn() - send the handshake's segments. */
static void
transmit_syn(struct tcp_conn *c)
{
    if (c->snd_nxt != c->iss && !c->force_rtx) {
        if (c->ack_now && c->state == TCPS_SYN_RECEIVED)
            tcp_send_control(c, c->snd_nxt, TF_ACK);
        return;
    }
    if (tcp_send_control(c, c->iss, c->state == TCPS_SYN_SENT ? TF_SYN : TF_SYN | TF_ACK))
        return;
    c->force_rtx = false;
    if (c->snd_nxt == c->iss) {
        c->snd_nxt++;
        c->rtt_active = true;
        c->rtt_seq = c->snd_nxt;
        c->rtt_start = c->in->now;
    }
    tcp_arm_rexmt(c);
}

void
tcp_transmit(struct tcp_conn *c)
{
    struct inet *in = c->in;
    uint32_t pipe, avail, window;
    bool fresh = false, sent_any = false;
    int64_t sent = 0;

    if (c->state == TCPS_CLOSED || c->state == TCPS_LISTEN || !route(c))
        return;
    if (!tcp_synchronized(c)) {
        transmit_syn(c);
        return;
    }
    /* SACK blocks do not fit beside full-sized data, so they get a segment of their own. */
    if (c->ack_now && (c->nranges || c->dsack_start != c->dsack_end))
        sent = tcp_send_control(c, c->snd_nxt, TF_ACK);

    /* RFC 5681 4.1: after a pause the old cwnd says nothing about the path. */
    if (c->snd_una == c->snd_nxt && c->last_sent && in->now - c->last_sent > c->rto)
        c->cwnd = u32_min(c->cwnd, 10 * c->mss);

    pipe = tcp_sb_pipe(c);
    for (unsigned frames = 0; sent >= 0; frames++) {
        uint32_t room = c->cwnd > pipe ? c->cwnd - pipe : 0, len;
        struct tcp_hole *h = c->sb.nlost ? tcp_sb_next(c) : NULL;

        if (frames == TCP_OUTPUT_FRAMES) {
            in->work = true;
            tcp_want_output(c);
            break;
        }
        if (h) {
            sent = retransmit(c, h, room);
            if (sent <= 0)
                break;
            pipe += (uint32_t)sent;
            sent_any = true;
            continue;
        }
        c->force_rtx = false;
        if (c->fin_sent)
            break;
        avail = c->snd_end_seq - c->snd_nxt;
        window = tcp_snd_window(c);
        len = avail ? new_length(c, avail, room, window) : 0;
        if (c->fin_wanted && len == avail)
            len++;
        if (!len)
            break;
        sent = send_data(c, c->snd_nxt, len, &c->nxt_cur);
        if (sent < 0)
            break;
        if (SEQ_GT(c->snd_nxt + (uint32_t)sent, c->snd_end_seq))
            c->fin_sent = true;
        if (!c->rtt_active && c->cc == CC_OPEN) {
            c->rtt_active = true;
            c->rtt_seq = c->snd_nxt + (uint32_t)sent;
            c->rtt_start = in->now;
        }
        /* With nothing SACKed, the scoreboard's edge is snd_una and stays there. */
        c->snd_nxt += (uint32_t)sent;
        pipe += (uint32_t)sent;
        fresh = sent_any = true;
    }
    if (c->ack_now && sent >= 0)
        sent = tcp_send_control(c, c->snd_nxt, TF_ACK);
    if (sent < 0 && sent != -EAGAIN) { /* no mbuf, or a full ring: retry soon */
        tcp_want_output(c);
        inet_timer(in, in->now + INET_RETRY_NS);
    }
    if (fresh) {
        c->max_flight = tcp_flight(c);
        c->probe_out = false;
        c->probes = 0;
    }
    if (c->snd_una != c->snd_nxt) {
        if (fresh || c->timer[TT_REXMT] == NEVER || (sent_any && c->rexmt == RM_PERSIST))
            tcp_arm_rexmt(c);
        return;
    }
    avail = c->fin_sent ? 0 : c->snd_end_seq - c->snd_nxt;
    if (tcp_snd_window(c) < u32_min(avail, c->mss) && c->timer[TT_REXMT] == NEVER) {
        /* Data wait, but nothing in flight could bring an acknowledgement: RFC 9293 3.8.6.1. */
        c->rexmt = RM_PERSIST;
        c->probes = 0;
        c->retries = 0;
        tcp_arm(c, TT_REXMT, tcp_rto(c));
    }
}

void
tcp_send_persist(struct tcp_conn *c)
{
    uint32_t len = u32_min(u32_min(c->snd_end_seq - c->snd_nxt, c->mss), tcp_snd_window(c));
    int64_t sent;

    c->in->stats.tx_probes++;
    if (!len) {
        /* Below the window, so that every peer answers with an acknowledgement that gives its window. */
        tcp_send_control(c, c->snd_una - 1, TF_ACK);
        return;
    }
    /* The window has been too small for too long: RFC 9293 3.8.6.2.1, case (4). */
    if (!route(c))
        return;
    sent = send_data(c, c->snd_nxt, len, &c->nxt_cur);
    if (sent > 0)
        c->snd_nxt += (uint32_t)sent;
}

void
tcp_send_probe(struct tcp_conn *c)
{
    uint32_t avail = c->fin_sent ? 0 : c->snd_end_seq - c->snd_nxt, window = tcp_snd_window(c), len;
    int64_t sent;

    if (!route(c))
        return;
    c->in->stats.tx_probes++;
    /* RFC 8985 7.3: a new segment if there is one and the window allows it, otherwise the last one again. */
    if (avail && window >= u32_min(avail, c->mss)) {
        len = u32_min(u32_min(avail, c->mss), window);
        sent = send_data(c, c->snd_nxt, len, &c->nxt_cur);
        if (sent > 0)
            c->snd_nxt += (uint32_t)sent;
    } else {
        len = u32_min(tcp_flight(c), c->mss);
        sent = send_data(c, c->snd_nxt - len, len, &c->rtx_cur);
        if (sent > 0) {
            c->rtt_active = false;
            c->retransmits++;
            c->in->stats.tx_retransmits++;
            c->in->stats.tx_payload_retransmitted += (uint32_t)sent;
        }
    }
    c->probe_out = true;
    c->probe_end = c->snd_nxt;
}

void
tcp_reset_for(struct inet *in, uint32_t dst, uint16_t sport, uint16_t dport,
              const struct tcp_seg *seg)
{
    unsigned len = ETH_HLEN + IP_HLEN + TCP_HLEN;
    struct mbuf *m;
    uint8_t *p, *tcp;

    if ((seg->flags & TF_RST) || !inet_allow(in, &in->rst_sent, INET_RST_PER_S))
        return;
    m = mb_gethdr(in->zone);
    if (!m)
        return;
    m_align(m, (int)len);
    p = mtod(m, uint8_t *);
    ip_header(in, p, dst, IPPROTO_TCP, len - ETH_HLEN);
    tcp = p + ETH_HLEN + IP_HLEN;
    memset(tcp, 0, TCP_HLEN);
    put16(tcp + TCPH_SPORT, sport);
    put16(tcp + TCPH_DPORT, dport);
    /* RFC 9293 3.5.2, group 1 */
    if (seg->flags & TF_ACK) {
        put32(tcp + TCPH_SEQ, seg->ack);
        tcp[TCPH_FLAGS] = TF_RST;
    } else {
        put32(tcp + TCPH_ACK,
              seg->seq + seg->len + ((seg->flags & TF_SYN) != 0) + (seg->flags & TF_FIN));
        tcp[TCPH_FLAGS] = TF_RST | TF_ACK;
    }
    tcp[TCPH_OFF] = TCP_HLEN / 4 << 4;
    put16(tcp + TCPH_CSUM, csum_fold(csum_pseudo(in->addr, dst, IPPROTO_TCP, TCP_HLEN)));
    m->m_len = (int32_t)len;
    tcp_fill_pkthdr(m, len);
    in->stats.tx_tcp++;
    in->stats.tx_rst++;
    ip_output(in, dst, m);
}
