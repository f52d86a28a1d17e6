/* SPDX-License-Identifier: BSD-2-Clause */
/* IPv4, RFC 791 and the host's part of RFC 1122: checks, no fragments, one interface, one gateway. */
#include <string.h>

#include "inet/inet_var.h"

uint16_t
csum_bytes(const uint8_t *p, size_t len)
{
    return ntohs(csum_fold(csum_add(0, p, len, false)));
}

uint16_t
csum_mbuf(const struct mbuf *m, unsigned off, unsigned len, uint32_t init)
{
    uint64_t sum = init;
    bool odd = false;

    for (; m && len; m = m->m_next) {
        unsigned have = (unsigned)m->m_len, n;
        uint16_t part;

        if (off >= have) {
            off -= have;
            continue;
        }
        n = u32_min(have - off, len);
        part = csum_bytes(mtod(m, const uint8_t *) + off, n);
        /* RFC 1071, 2(B): a part at an odd offset counts with its bytes swapped. */
        sum += odd ? (uint16_t)(part << 8 | part >> 8) : part;
        odd ^= n & 1;
        len -= n;
        off = 0;
    }
    return csum_fold(sum);
}

static bool
ip_source_ok(const struct inet *in, uint32_t src)
{
    uint32_t host = ~in->netmask;

    return src && src != in->addr && src < 0xe0000000 && src >> 24 != 127 &&
           !(host > 1 && ((src ^ in->addr) & in->netmask) == 0 && (src & host) == host);
}

/* headers_at_hand() - do @avail contiguous bytes hold all of a TCP segment's headers? */
static bool
headers_at_hand(const uint8_t *frame, unsigned avail)
{
    unsigned off = ETH_HLEN + IP_HLEN + TCP_HLEN;

    if (avail < off || frame[ETH_HLEN + IPH_PROTO] != IPPROTO_TCP)
        return false;
    off = ETH_HLEN + (frame[ETH_HLEN + IPH_VHL] & 15) * 4u + TCP_HLEN;
    return avail >= off && avail >= off - TCP_HLEN + (frame[off - TCP_HLEN + TCPH_OFF] >> 4) * 4u;
}

void
ip_input(struct inet *in, struct mbuf *m)
{
    uint8_t copy[FRAME_HDR_MAX];
    struct ip_view v;
    const uint8_t *ip;

    in->stats.rx_ip++;
    v.avail = u32_min((uint32_t)m->m_len, FRAME_HDR_MAX);
    v.frame = mtod(m, const uint8_t *);
    if (!headers_at_hand(v.frame, v.avail)) {
        v.avail = frame_head(m, copy, sizeof(copy));
        v.frame = copy;
    }
    if (v.avail < ETH_HLEN + IP_HLEN)
        goto bad;
    ip = v.frame + ETH_HLEN;
    v.hlen = (ip[IPH_VHL] & 15) * 4u;
    v.len = get16(ip + IPH_LEN);
    v.src = get32(ip + IPH_SRC);
    v.dst = get32(ip + IPH_DST);
    if (ip[IPH_VHL] >> 4 != 4 || v.hlen < IP_HLEN || v.len < v.hlen ||
        v.avail < ETH_HLEN + v.hlen || v.len > (unsigned)m->m_pkthdr.len - ETH_HLEN)
        goto bad;
    if (csum_bytes(ip, v.hlen) != 0xffff) {
        in->stats.rx_bad_csum++;
        goto bad;
    }
    if (v.dst != in->addr) { /* broadcast, multicast, or for another host */
        inet_unclaimed(in, m);
        return;
    }
    if ((v.frame[ETH_DST] & 1) || !ip_source_ok(in, v.src)) /* RFC 1122, 3.2.1.3 */
        goto bad;
    if (ip[IPH_PROTO] != IPPROTO_TCP && ip[IPH_PROTO] != IPPROTO_ICMP) {
        inet_unclaimed(in, m);
        return;
    }
    if (get16(ip + IPH_OFF) & IP_OFF_FRAGMENT) {
        in->stats.rx_fragments++;
        m_freem(m);
        return;
    }
    if ((unsigned)m->m_pkthdr.len > ETH_HLEN + v.len) /* padding */
        m_adj(m, -(int)((unsigned)m->m_pkthdr.len - ETH_HLEN - v.len));
    v.avail = u32_min(v.avail, ETH_HLEN + v.len);
    if (ip[IPH_PROTO] == IPPROTO_TCP)
        tcp_input(in, m, &v);
    else
        icmp_input(in, m, &v);
    return;
bad:
    in->stats.rx_bad_ip++;
    m_freem(m);
}

uint32_t
ip_nexthop(const struct inet *in, uint32_t dst)
{
    uint32_t host = ~in->netmask;

    if (!dst || dst == in->addr || dst >= 0xe0000000 || dst >> 24 == 127)
        return 0;
    if (((dst ^ in->addr) & in->netmask) == 0)
        return host > 1 && ((dst & host) == host || (dst & host) == 0) ? 0 : dst;
    return in->gateway;
}

void
ip_header(struct inet *in, uint8_t *frame, uint32_t dst, uint8_t proto, uint32_t len)
{
    uint8_t *ip = frame + ETH_HLEN;

    memset(frame, 0, ETH_HLEN + IP_HLEN);
    memcpy(frame + ETH_SRC, in->mac, 6);
    put16(frame + ETH_TYPE, ETHERTYPE_IPV4);
    ip[IPH_VHL] = 4 << 4 | IP_HLEN / 4;
    put16(ip + IPH_LEN, (uint16_t)len);
    put16(ip + IPH_ID, in->ip_id++);
    put16(ip + IPH_OFF, IP_OFF_DF);
    ip[IPH_TTL] = IP_TTL_DEFAULT;
    ip[IPH_PROTO] = proto;
    put32(ip + IPH_SRC, in->addr);
    put32(ip + IPH_DST, dst);
    put16(ip + IPH_CSUM, (uint16_t)~csum_bytes(ip, IP_HLEN));
}

void
ip_output(struct inet *in, uint32_t dst, struct mbuf *m)
{
    uint32_t nexthop = ip_nexthop(in, dst);

    if (!nexthop) {
        m_freem(m);
        return;
    }
    arp_output(in, nexthop, m);
}
