/* SPDX-License-Identifier: BSD-2-Clause */
#include "nic/frames.h"

#include "arena/arena.h"
#include "base/clock.h"

#define BURST 64u

unsigned
frame_segs(const struct mbuf *m, struct frame_seg *out, unsigned max)
{
    unsigned n = 0;

    for (; m; m = m->m_next) {
        if (m->m_len == 0)
            continue;
        if (n < max)
            out[n] = (struct frame_seg){m->m_data, (size_t)m->m_len};
        n++;
    }
    return n;
}

void
frame_describe(struct mbuf *m, struct frame *out)
{
    static const struct pkthdr none;
    const struct pkthdr *p = m->m_flags & M_PKTHDR ? &m->m_pkthdr : &none;
    struct frame_seg first = {m->m_data, 0};

    out->m = m;
    out->nsegs = frame_segs(m, &first, 1);
    out->data = first.data;
    out->data_len = (uint32_t)first.len;
    out->len = m_length(m, NULL);
    out->timestamp = p->rcv_tstmp;
    out->csum_flags = p->csum_flags;
    out->csum_start = p->csum_start;
    out->csum_offset = p->csum_data;
    out->gso_size = p->tso_segsz;
    out->hdr_len = p->hdr_len;
}

void
frame_copied(const struct mbuf *m, size_t bytes)
{
    arena_count_copy(m->m_zone->arena, bytes);
}

int
nic_rx_frames(struct nic *n, unsigned queue, struct frame *out, unsigned max)
{
    struct mbuf *m[BURST];
    int got = nic_rx_burst(n, queue, m, max < BURST ? max : BURST);
    uint64_t now = got > 0 ? clock_wall() : 0;

    /* A caller that only receives also needs its earlier transmissions reaped. */
    nic_tx_reap(n, queue);

    for (int i = 0; i < got; i++) {
        frame_describe(m[i], &out[i]);
        if (out[i].timestamp == 0)
            out[i].timestamp = now;
    }
    return got;
}

void
frames_taken(const struct frame *f, unsigned n, const void *site)
{
    for (unsigned i = 0; i < n; i++) {
        struct jumbo *j = f[i].m ? f[i].m->m_zone->arena->owner[REGION_JUMBO] : NULL;

        for (const struct mbuf *m = f[i].m; j && m; m = m->m_next) {
            struct vm_page *page = m->m_flags & M_EXT ? jumbo_page_at(j, m->m_data) : NULL;

            if (page)
                __atomic_store_n(&page->alloc_site, (uintptr_t)site, __ATOMIC_RELAXED);
        }
    }
}

void
frames_free(struct frame *f, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        m_freem(f[i].m);
        f[i].m = NULL;
    }
}

/* packet_of() - make our own chain for a frame to send; NULL if out of mbufs or pages */
static struct mbuf *
packet_of(struct nic *n, const struct frame_tx *in)
{
    struct mbuf *m = in->m ? m_copypacket(in->m, M_NOWAIT)
                           : mb_frombytes_lead(nic_mbuf_zone(n), nic_jumbo(n), in->data, in->len,
                                               sizeof(struct net_hdr));

    if (m) {
        m->m_pkthdr.csum_flags = in->csum_flags;
        m->m_pkthdr.csum_start = in->csum_start;
        m->m_pkthdr.csum_data = in->csum_offset;
        m->m_pkthdr.tso_segsz = in->gso_size;
        m->m_pkthdr.hdr_len = in->hdr_len;
    }
    return m;
}

int
nic_tx_frames(struct nic *n, unsigned queue, const struct frame_tx *in, unsigned count,
              unsigned *taken)
{
    int err = 0;

    for (*taken = 0; *taken < count; ++*taken) {
        struct mbuf *m = packet_of(n, &in[*taken]);

        err = m ? nic_tx(n, queue, m) : -ENOMEM;
        if (err == -ENOBUFS) {
            int sent = nic_tx_flush(n, queue);

            err = sent == -EPROTO ? sent : nic_tx(n, queue, m);
        }
        if (err) {
            m_freem(m);
            break;
        }
    }
    int sent = nic_tx_flush(n, queue);

    return err ? err : sent == -EPROTO || sent == -ENODEV ? sent : 0;
}
