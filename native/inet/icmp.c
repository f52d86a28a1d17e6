/* SPDX-License-Identifier: BSD-2-Clause */
/* ICMP, RFC 792: answers echo requests, and passes destination unreachable to TCP. */
#include <string.h>

#include "inet/inet_var.h"

/*
 * icmp_echo() - answer an echo request with its own data
 * @m: the frame; consumed
 *
 * New headers go in front; the data stay in their receive pages.
 */
static void
icmp_echo(struct inet *in, struct mbuf *m, const struct ip_view *ip)
{
    const uint8_t *req = ip->frame + ETH_HLEN + ip->hlen;
    unsigned len = ETH_HLEN + IP_HLEN + ICMP_HLEN, data = ip->len - ip->hlen - ICMP_HLEN;
    struct mbuf *h = mb_gethdr(in->zone);
    uint8_t *frame, *icmp;

    if (!h || len + data > ETH_HLEN + in->mtu) {
        in->stats.rx_no_buffer += !h;
        m_freem(h);
        m_freem(m);
        return;
    }
    m_align(h, (int)len);
    frame = mtod(h, uint8_t *);
    ip_header(in, frame, ip->src, IPPROTO_ICMP, len - ETH_HLEN + data);
    icmp = frame + ETH_HLEN + IP_HLEN;
    memcpy(icmp, req, ICMP_HLEN);
    icmp[ICMPH_TYPE] = ICMP_T_ECHOREPLY;
    /* RFC 1624: only the type has changed, by 0x0800. */
    put16(icmp + ICMPH_CSUM, (uint16_t)~csum_fold((uint64_t)(uint16_t)~get16(req + ICMPH_CSUM) +
                                                  (uint16_t)~(ICMP_T_ECHO << 8)));
    m_adj(m, (int)(ETH_HLEN + ip->hlen + ICMP_HLEN));
    h->m_len = (int)len;
    h->m_pkthdr.len = (int)(len + data);
    m->m_flags &= ~(uint32_t)M_PKTHDR;
    h->m_next = m;
    in->stats.tx_icmp++;
    ip_output(in, ip->src, h);
}

/* icmp_unreach() - pass an error up; it quotes the IP header and 8 bytes of our packet. */
static void
icmp_unreach(struct inet *in, const struct ip_view *v)
{
    unsigned off = ETH_HLEN + v->hlen;
    const uint8_t *icmp = v->frame + off, *ip = icmp + ICMP_HLEN, *tcp;
    unsigned hlen;

    off += ICMP_HLEN;
    if (v->avail < off + IP_HLEN)
        return;
    hlen = (ip[IPH_VHL] & 15) * 4u;
    if (ip[IPH_VHL] >> 4 != 4 || hlen < IP_HLEN || v->avail < off + hlen + 8 ||
        ip[IPH_PROTO] != IPPROTO_TCP || get32(ip + IPH_SRC) != in->addr ||
        (get16(ip + IPH_OFF) & 0x1fff))
        return;
    tcp = ip + hlen;
    tcp_unreachable(in, get32(ip + IPH_DST), get16(tcp + TCPH_SPORT), get16(tcp + TCPH_DPORT),
                    get32(tcp + TCPH_SEQ), icmp[ICMPH_CODE], get16(icmp + ICMPH_MTU),
                    get16(ip + IPH_LEN));
}

void
icmp_input(struct inet *in, struct mbuf *m, const struct ip_view *ip)
{
    unsigned off = ETH_HLEN + ip->hlen, len = ip->len - ip->hlen;

    in->stats.rx_icmp++;
    if (len < ICMP_HLEN || ip->avail < off + ICMP_HLEN) {
        in->stats.rx_bad_icmp++;
        m_freem(m);
        return;
    }
    if (!(m->m_pkthdr.csum_flags & CSUM_DATA_VALID) && csum_mbuf(m, off, len, 0) != 0xffff) {
        in->stats.rx_bad_csum++;
        m_freem(m);
        return;
    }
    if (ip->frame[off + ICMPH_TYPE] == ICMP_T_ECHO && ip->frame[off + ICMPH_CODE] == 0) {
        icmp_echo(in, m, ip);
        return;
    }
    if (ip->frame[off + ICMPH_TYPE] == ICMP_T_UNREACH)
        icmp_unreach(in, ip);
    m_freem(m);
}
