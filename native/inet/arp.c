/* SPDX-License-Identifier: BSD-2-Clause */
/* ARP for IPv4 over Ethernet, RFC 826: requests, replies and a cache of the answers. */
#include <string.h>

#include "inet/inet_var.h"

static struct arp_entry *
arp_find(struct inet *in, uint32_t addr)
{
    for (unsigned i = 0; i < ARP_ENTRIES; i++)
        if (in->arp[i].state != ARP_FREE && in->arp[i].addr == addr)
            return &in->arp[i];
    return NULL;
}

/* queue_count() - account for a frame that joins or leaves an entry's queue */
static void
queue_count(struct inet *in, const struct mbuf *m, bool joins)
{
    uint32_t pages, mbufs;

    mem_count(in, m, &pages, &mbufs);
    if (joins) {
        in->arp_pages += pages;
        in->arp_mbufs += mbufs;
        mem_take(in, pages, mbufs);
    } else {
        in->arp_pages -= pages;
        in->arp_mbufs -= mbufs;
        mem_give(in, pages, mbufs);
    }
}

static void
queue_drop(struct inet *in, struct mbuf *m)
{
    queue_count(in, m, false);
    m_freem(m);
}

static void
arp_drop(struct inet *in, struct arp_entry *e)
{
    for (unsigned i = 0; i < e->nqueue; i++)
        queue_drop(in, e->queue[i]);
    if (e->state == ARP_VALID)
        in->arp_gen++;
    memset(e, 0, sizeof(*e));
}

/* older() - should this entry be evicted before another? Entries that were never answered go first. */
static bool
older(const struct arp_entry *e, const struct arp_entry *than)
{
    if (e->state != than->state)
        return e->state == ARP_INCOMPLETE;
    return e->confirmed < than->confirmed;
}

/* arp_new() - allocate an entry for an address, evicting another if all are in use. */
static struct arp_entry *
arp_new(struct inet *in, uint32_t addr)
{
    struct arp_entry *e = &in->arp[0];

    for (unsigned i = 0; i < ARP_ENTRIES; i++) {
        if (in->arp[i].state == ARP_FREE) {
            e = &in->arp[i];
            break;
        }
        if (older(&in->arp[i], e))
            e = &in->arp[i];
    }
    if (e->state != ARP_FREE)
        arp_drop(in, e);
    e->addr = addr;
    e->state = ARP_INCOMPLETE;
    e->confirmed = in->now;
    return e;
}

static void
arp_send(struct inet *in, uint16_t op, uint32_t addr, const uint8_t *to, const uint8_t *target)
{
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct mbuf *m = mb_gethdr(in->zone);
    uint8_t *p, *arp;

    if (!m)
        return;
    m_align(m, ETH_MINLEN);
    m->m_len = m->m_pkthdr.len = ETH_MINLEN;
    p = mtod(m, uint8_t *);
    memset(p, 0, ETH_MINLEN);
    memcpy(p + ETH_DST, to ? to : broadcast, 6);
    memcpy(p + ETH_SRC, in->mac, 6);
    put16(p + ETH_TYPE, ETHERTYPE_ARP4);
    arp = p + ETH_HLEN;
    put16(arp + ARPH_HRD, 1);
    put16(arp + ARPH_PRO, ETHERTYPE_IPV4);
    arp[ARPH_HLN] = 6;
    arp[ARPH_PLN] = 4;
    put16(arp + ARPH_OP, op);
    memcpy(arp + ARPH_SHA, in->mac, 6);
    put32(arp + ARPH_SPA, in->addr);
    if (target)
        memcpy(arp + ARPH_THA, target, 6);
    put32(arp + ARPH_TPA, addr);
    in->stats.tx_arp++;
    inet_tx_or_free(in, m);
}

static void
arp_request(struct inet *in, struct arp_entry *e)
{
    e->tries++;
    e->next_try = in->now + ARP_RETRY_NS;
    inet_timer(in, e->next_try);
    arp_send(in, ARP_REQUEST, e->addr, e->state == ARP_VALID ? e->mac : NULL, NULL);
}

/* arp_confirm() - record the address that a neighbour gave. */
static void
arp_confirm(struct inet *in, struct arp_entry *e, const uint8_t *mac)
{
    bool changed = e->state != ARP_VALID || memcmp(e->mac, mac, 6);
    unsigned n = e->nqueue;

    memcpy(e->mac, mac, 6);
    e->state = ARP_VALID;
    e->tries = 0;
    e->used = false;
    e->confirmed = in->now;
    e->next_try = in->now + ARP_REFRESH_NS;
    inet_timer(in, e->next_try);
    if (!changed)
        return;
    in->arp_gen++;
    e->nqueue = 0;
    for (unsigned i = 0; i < n; i++) {
        queue_count(in, e->queue[i], false);
        memcpy(mtod(e->queue[i], uint8_t *) + ETH_DST, mac, 6);
        inet_tx_or_free(in, e->queue[i]);
    }
    tcp_neighbour(in, e->addr, true);
}

void
arp_input(struct inet *in, struct mbuf *m)
{
    uint8_t frame[ETH_HLEN + ARP_LEN];
    const uint8_t *arp = frame + ETH_HLEN, *mac = arp + ARPH_SHA;
    struct arp_entry *e;
    uint32_t from, to;
    uint16_t op;
    unsigned len = frame_head(m, frame, sizeof(frame));

    m_freem(m);
    in->stats.rx_arp++;
    op = len < sizeof(frame) ? 0 : get16(arp + ARPH_OP);
    if (len < sizeof(frame) || get16(arp + ARPH_HRD) != 1 ||
        get16(arp + ARPH_PRO) != ETHERTYPE_IPV4 || arp[ARPH_HLN] != 6 || arp[ARPH_PLN] != 4 ||
        (op != ARP_REQUEST && op != ARP_REPLY) || (mac[0] & 1)) {
        in->stats.rx_bad_arp++;
        return;
    }
    from = get32(arp + ARPH_SPA);
    to = get32(arp + ARPH_TPA);
    if (from == in->addr)
        return; /* another host claims our address: learn nothing */
    /* RFC 826: any packet updates a known entry, but only requests to us create one. */
    e = from ? arp_find(in, from) : NULL;
    if (!e && from && op == ARP_REQUEST && to == in->addr && ip_nexthop(in, from) == from)
        e = arp_new(in, from);
    if (e)
        arp_confirm(in, e, mac);
    if (to == in->addr && op == ARP_REQUEST)
        arp_send(in, ARP_REPLY, from, mac, mac);
}

const uint8_t *
arp_lookup(struct inet *in, uint32_t addr)
{
    struct arp_entry *e = arp_find(in, addr);

    if (!e)
        e = arp_new(in, addr);
    e->used = true;
    if (e->state == ARP_VALID)
        return e->mac;
    if (!e->tries)
        arp_request(in, e);
    return NULL;
}

void
arp_output(struct inet *in, uint32_t addr, struct mbuf *m)
{
    const uint8_t *mac = arp_lookup(in, addr);
    uint32_t pages, mbufs;
    struct arp_entry *e;

    if (mac) {
        memcpy(mtod(m, uint8_t *) + ETH_DST, mac, 6);
        inet_tx_or_free(in, m);
        return;
    }
    e = arp_find(in, addr);
    if (e->nqueue == ARP_QUEUE) { /* RFC 1122, 2.3.2.2: keep at least the latest */
        queue_drop(in, e->queue[0]);
        memmove(&e->queue[0], &e->queue[1], (ARP_QUEUE - 1) * sizeof(e->queue[0]));
        e->nqueue--;
    }
    mem_count(in, m, &pages, &mbufs);
    if (!mem_queue_ok(in, pages, mbufs, in->arp_pages, in->arp_mbufs)) {
        in->stats.tx_no_memory++;
        m_freem(m);
        return;
    }
    queue_count(in, m, true);
    e->queue[e->nqueue++] = m;
}

void
arp_timers(struct inet *in)
{
    for (unsigned i = 0; i < ARP_ENTRIES; i++) {
        struct arp_entry *e = &in->arp[i];
        uint32_t addr = e->addr;

        if (e->state == ARP_FREE)
            continue;
        if (in->now >= e->next_try) {
            if (e->state == ARP_INCOMPLETE && e->tries >= ARP_TRIES) {
                arp_drop(in, e);
                tcp_neighbour(in, addr, false);
                continue;
            }
            if (e->state == ARP_VALID && in->now - e->confirmed >= ARP_EXPIRE_NS) {
                arp_drop(in, e);
                continue;
            }
            if (e->state == ARP_INCOMPLETE ||
                (e->tries < ARP_TRIES && (e->used || tcp_neighbour_wanted(in, addr))))
                arp_request(in, e);
            else
                e->next_try = u64_min(e->confirmed + ARP_EXPIRE_NS, in->now + ARP_EXPIRE_NS);
        }
        inet_timer(in, e->next_try);
    }
}

void
arp_destroy(struct inet *in)
{
    for (unsigned i = 0; i < ARP_ENTRIES; i++)
        if (in->arp[i].state != ARP_FREE)
            arp_drop(in, &in->arp[i]);
}
