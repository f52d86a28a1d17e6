/* SPDX-License-Identifier: BSD-2-Clause */
#include "nic/nic.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/counter.h"
#include "base/guard.h"
#include "nic/csum.h"
#include "nic/gso.h"
#include "nic/headers.h"

#define ETHER_HDR_LEN 14u
#define ETHER_VLAN_LEN 4u

struct nic_queue {
    struct vring rx_ring, tx_ring;
    struct vq_driver rx, tx;
    struct net_hdr *tx_hdr; /* one per head of the transmit ring, in kmem */
    int device_fd;          /* readable while frames wait */
    int timer_fd, epoll_fd; /* with coalescing: the timer, and both together; otherwise -1 */
    bool rx_copy;           /* nic_rx_copy() */
    bool fresh;             /* frames came since the last decision when to wake the consumer */
    int wake_fd;            /* if the device works on its own; or -1 */
    struct nic_queue_stats stats;
};

struct nic {
    struct device *device;
    struct jumbo *jumbo;
    struct mbuf_zone *mbufs;
    struct arena *arena;
    struct nic_config config;
    uint32_t offloads;
    bool attached;
    struct nic_queue q[];
};

/* ---- receive ---- */

/*
 * A posted buffer is a page or, with header split, an mbuf whose internal bytes receive the headers
 * and which then becomes the packet's first mbuf. The ring's cookie tells which.
 */
static bool
is_page(const struct nic *n, const void *buf)
{
    return arena_owns_page(n->arena, buf);
}

/* buf_bytes() - where the device writes */
static char *
buf_bytes(const struct nic *n, void *buf)
{
    return is_page(n, buf) ? jumbo_kva(n->jumbo, buf) : ((struct mbuf *)buf)->m_pktdat;
}

/* post() - put a buffer on the receive ring, which has room because one was taken out before */
static void
post(struct nic *n, struct nic_queue *q, void *buf)
{
    struct vq_seg seg = {buf_bytes(n, buf), PAGE_SIZE};

    if (is_page(n, buf))
        vm_page_turn(buf, VPS_POSTED, VPE_POST);
    else
        seg.len = sizeof(struct net_hdr) + n->config.header_split;
    vq_driver_add(&q->rx, &seg, 0, 1, buf);
    counter_add(&q->stats.rx_posted, 1);
}

/*
 * post_run() - post buffers in the order that lets the device, which fills the newest first, meet
 * them in ascending order: it then reads adjacent ones as one piece
 */
static void
post_run(struct nic *n, struct nic_queue *q, void **buf, uint32_t count)
{
    if (count && buf_bytes(n, buf[0]) < buf_bytes(n, buf[count - 1])) {
        for (uint32_t i = count; i > 0; i--)
            post(n, q, buf[i - 1]);
    } else {
        for (uint32_t i = 0; i < count; i++)
            post(n, q, buf[i]);
    }
}

/* buf_get() - allocate a buffer for the ring; NULL if the pool is empty */
static void *
buf_get(struct nic *n, bool page)
{
    return page ? (void *)jumbo_alloc(n->jumbo, RETURN_SITE()) : (void *)mb_gethdr(n->mbufs);
}

/* alloc_fails() - should the next allocation fail, as an injected fault? */
static bool
alloc_fails(const struct nic *n, unsigned queue, bool tx)
{
    return n->config.alloc_fails && n->config.alloc_fails(n->config.alloc_arg, queue, tx);
}

/* buf_put() - free a buffer that is on no ring */
static void
buf_put(struct nic *n, void *buf)
{
    if (is_page(n, buf))
        jumbo_free(n->jumbo, jumbo_kva(n->jumbo, buf), RETURN_SITE());
    else
        m_free(buf);
}

/* buf_retire() - free a buffer that was on the ring */
static void
buf_retire(struct nic *n, void *buf)
{
    if (is_page(n, buf))
        vm_page_turn(buf, VPS_ALLOC, VPE_RECYCLE);
    buf_put(n, buf);
}

/* The buffers of a received frame while the driver handles it. */
struct rx_frame {
    unsigned n;
    void *buf[NET_FRAME_BUFFERS];
    uint32_t len[NET_FRAME_BUFFERS];
};

/* harvest() - take one used frame off the ring; false if there is none or the ring is broken */
static bool
harvest(struct nic *n, struct nic_queue *q, struct rx_frame *f)
{
    struct net_hdr h;

    f->buf[0] = vq_driver_get(&q->rx, &f->len[0]);
    if (f->buf[0] == NULL)
        return false;
    memcpy(&h, buf_bytes(n, f->buf[0]), sizeof(h));
    unsigned want = f->len[0] < sizeof(h) ? 1 : h.num_buffers;

    f->n = 1;
    if (want == 0 || want > NET_FRAME_BUFFERS)
        q->rx.error = VQ_ERR_MERGE;
    while (!q->rx.error && f->n < want) {
        void *buf = vq_driver_get(&q->rx, &f->len[f->n]);

        if (buf == NULL) {
            if (!q->rx.error)
                q->rx.error = VQ_ERR_MERGE;
            break;
        }
        f->buf[f->n++] = buf;
    }
    for (unsigned i = 0; i < f->n; i++) {
        if (is_page(n, f->buf[i]))
            vm_page_event(f->buf[i], VPE_RECEIVE);
    }
    counter_add(&q->stats.rx_returned, f->n);
    counter_add(&q->stats.rx_received, 1);
    return true;
}

/* recycle() - post the buffers of a dropped or copied frame again, so that the ring stays full */
static void
recycle(struct nic *n, struct nic_queue *q, struct rx_frame *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        if (is_page(n, f->buf[i]))
            vm_page_event(f->buf[i], VPE_RECYCLE);
        post(n, q, f->buf[i]);
    }
    counter_add(&q->stats.rx_recycled, f->n);
}

/* hdr_to_pkthdr() - translate the device's checksum and segmentation fields into the packet header */
static void
hdr_to_pkthdr(const struct net_hdr *h, struct pkthdr *p)
{
    if (h->flags & NET_HDR_F_NEEDS_CSUM) {
        p->csum_flags |= CSUM_PARTIAL;
        p->csum_start = h->csum_start;
        p->csum_data = h->csum_offset;
    }
    if (h->flags & NET_HDR_F_DATA_VALID)
        p->csum_flags |= CSUM_DATA_VALID;
    switch (h->gso_type & ~NET_HDR_GSO_ECN) {
    case NET_HDR_GSO_TCPV4:
        p->csum_flags |= CSUM_TSO4;
        break;
    case NET_HDR_GSO_TCPV6:
        p->csum_flags |= CSUM_TSO6;
        break;
    case NET_HDR_GSO_UDP_L4:
        p->csum_flags |= CSUM_USO;
        break;
    default:
        return;
    }
    if (h->gso_type & NET_HDR_GSO_ECN)
        p->csum_flags |= CSUM_ECN;
    p->tso_segsz = h->gso_size;
    p->hdr_len = h->hdr_len;
}

/* attach_page() - make the page external storage of an mbuf */
static void
attach_page(struct nic *n, struct mbuf *m, struct vm_page *pg, uint32_t len, uint32_t skip)
{
    char *kva = jumbo_kva(n->jumbo, pg);

    vm_page_turn(pg, VPS_MBUF, VPE_MBUF);
    m_extadd(m, kva, (unsigned)PAGE_SIZE, jumbo_freem, NULL, 0, EXT_DISPOSABLE);
    m->m_data = kva + skip;
    m->m_len = (int32_t)(len - skip);
}

/* count_split() - did the headers of a packet end where its pages begin? */
static void
count_split(struct nic_queue *q, const struct mbuf *m)
{
    struct headers h;

    if (m->m_next == NULL)
        return; /* one buffer holds it all: nothing was split */
    headers_parse(m->m_data, (uint32_t)m->m_len, &h);
    if (h.payload == (uint32_t)m->m_len)
        counter_add(&q->stats.rx_split_hit, 1);
    else
        counter_add(&q->stats.rx_split_miss, 1);
}

/*
 * copy_frame() - copy a small frame into mbufs, for lack of pages
 * @len: its bytes, including the device's header
 *
 * The caller keeps the buffers. Return: the packet; NULL if it is too large, or if out of mbufs.
 */
static struct mbuf *
copy_frame(struct nic *n, const struct rx_frame *f, uint64_t len)
{
    uint32_t skip = sizeof(struct net_hdr), total = (uint32_t)len - skip;
    struct mbuf *top, *m;

    if (total > NIC_RX_COPY_MAX)
        return NULL;
    top = m = mb_gethdr(n->mbufs);
    for (unsigned i = 0; m && i < f->n; i++, skip = 0) {
        const char *from = buf_bytes(n, f->buf[i]) + skip;
        uint32_t left = f->len[i] - skip;

        while (m && left > 0) {
            uint32_t part = (uint32_t)m_trailingspace(m);

            if (part == 0) {
                m = m->m_next = mb_get(n->mbufs);
                continue;
            }
            part = part < left ? part : left;
            memcpy(m->m_data + m->m_len, from, part);
            m->m_len += (int32_t)part;
            from += part;
            left -= part;
        }
    }
    if (m == NULL) {
        m_freem(top);
        return NULL;
    }
    arena_count_copy(n->arena, total);
    return top;
}

/* set_pkthdr() - fill in the packet header of a packet of @len bytes, from the device's header */
static void
set_pkthdr(struct nic *n, unsigned queue, struct mbuf *top, const struct net_hdr *h, uint64_t len)
{
    hdr_to_pkthdr(h, &top->m_pkthdr);
    top->m_pkthdr.len = (int32_t)len;
    top->m_pkthdr.queue = (uint16_t)queue;
    top->m_pkthdr.rcvif = n;
}

/*
 * deliver() - turn a frame into a packet, and replace its buffers on the ring
 *
 * Everything that can fail is allocated first: replacement buffers, and mbufs to carry the pages.
 *
 * Return: the packet; NULL if the frame was dropped and counted. The buffers of a dropped or copied
 * frame are posted again.
 */
static struct mbuf *
deliver(struct nic *n, unsigned queue, struct nic_queue *q, struct rx_frame *f)
{
    void *successor[NET_FRAME_BUFFERS];
    struct mbuf *carrier[NET_FRAME_BUFFERS];
    unsigned have = 0, carriers = 0, headers = 0;
    struct mbuf *top = NULL;
    struct net_hdr h;
    uint64_t len = 0;

    for (unsigned i = 0; i < f->n; i++)
        len += f->len[i];
    if (len < sizeof(struct net_hdr) + ETHER_HDR_LEN || f->len[0] < sizeof(struct net_hdr)) {
        counter_add(&q->stats.rx_drop_short, 1);
        recycle(n, q, f);
        return NULL;
    }
    memcpy(&h, buf_bytes(n, f->buf[0]), sizeof(h));
    for (; carriers < f->n; carriers++) {
        if (!is_page(n, f->buf[carriers]))
            carrier[carriers] = f->buf[carriers];
        else if (alloc_fails(n, queue, false))
            carrier[carriers] = NULL;
        else
            carrier[carriers] = carriers ? mb_get(n->mbufs) : mb_gethdr(n->mbufs);
        if (carrier[carriers] == NULL) {
            counter_add(&q->stats.rx_drop_no_mbuf, 1);
            goto back;
        }
    }
    for (; have < f->n; have++) {
        bool page = is_page(n, f->buf[have]);

        successor[have] = alloc_fails(n, queue, false) ? NULL : buf_get(n, page);
        if (successor[have] == NULL) {
            if (page && q->rx_copy)
                top = copy_frame(n, f, len);
            if (top) {
                len -= sizeof(h);
                set_pkthdr(n, queue, top, &h, len);
                counter_add(&q->stats.rx_copied, 1);
                counter_add(&q->stats.rx_delivered, 1);
                counter_add(&q->stats.rx_bytes, len);
            } else if (page) {
                counter_add(&q->stats.rx_drop_no_page, 1);
            } else {
                counter_add(&q->stats.rx_drop_no_mbuf, 1);
            }
            goto back;
        }
    }
    top = carrier[0];
    for (unsigned i = 0; i < f->n; i++) {
        struct mbuf *m = carrier[i];
        uint32_t skip = i ? 0 : sizeof(h);

        if (is_page(n, f->buf[i])) {
            attach_page(n, m, f->buf[i], f->len[i], skip);
        } else {
            m->m_data = m->m_pktdat + skip;
            m->m_len = (int32_t)(f->len[i] - skip);
            if (i) /* a device may use buffers in any order */
                m->m_flags &= ~(uint32_t)M_PKTHDR;
            headers++;
        }
        m->m_next = i + 1 < f->n ? carrier[i + 1] : NULL;
    }
    len -= sizeof(h);
    set_pkthdr(n, queue, top, &h, len);
    unsigned first = headers && !is_page(n, f->buf[0]);

    post_run(n, q, successor, first);
    post_run(n, q, successor + first, f->n - first);
    counter_add(&q->stats.rx_delivered, 1);
    counter_add(&q->stats.rx_pages_delivered, f->n - headers);
    counter_add(&q->stats.rx_bytes, len);
    if (n->config.header_split) {
        counter_add(&q->stats.rx_headers_delivered, headers);
        count_split(q, top);
    }
    return top;

back:
    while (have > 0)
        buf_put(n, successor[--have]);
    while (carriers > 0) {
        if (is_page(n, f->buf[--carriers]))
            m_free(carrier[carriers]);
    }
    recycle(n, q, f);
    return top;
}

/* ---- waking the consumer ---- */

/*
 * rest() - the consumer may sleep now: decide what wakes it
 * @drained: it has taken all frames
 */
static void
rest(struct nic *n, struct nic_queue *q, bool drained)
{
    uint16_t after = 1;

    if (q->timer_fd >= 0 && drained) {
        const uint32_t us = q->fresh ? n->config.coalesce_us : 0;
        const struct itimerspec when = {
            .it_value = {us / 1000000, (long)(us % 1000000) * 1000}}; /* 0: stop */
        struct epoll_event ev = {.events = us && q->wake_fd < 0 ? 0 : EPOLLIN};

        timerfd_settime(q->timer_fd, 0, &when, NULL);
        epoll_ctl(q->epoll_fd, EPOLL_CTL_MOD, q->device_fd, &ev);
        if (us && n->config.coalesce_frames)
            after = (uint16_t)n->config.coalesce_frames;
        q->fresh = false;
    }
    /* More frames came before the device knew that we want a notification: raise it ourselves. */
    if (q->wake_fd >= 0 && !q->rx.error && vq_driver_enable_notify(&q->rx, after))
        eventfd_write(q->wake_fd, 1);
}

static int
wait_init(struct nic *n, struct nic_queue *q, int device_fd)
{
    struct epoll_event ev = {.events = EPOLLIN};

    q->device_fd = device_fd;
    if (n->config.coalesce_us == 0 || device_fd < 0)
        return 0;
    q->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    q->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (q->timer_fd < 0 || q->epoll_fd < 0 ||
        epoll_ctl(q->epoll_fd, EPOLL_CTL_ADD, q->timer_fd, &ev) < 0 ||
        epoll_ctl(q->epoll_fd, EPOLL_CTL_ADD, device_fd, &ev) < 0)
        return -errno;
    return 0;
}

static void
wait_fini(struct nic_queue *q)
{
    if (q->epoll_fd >= 0)
        close(q->epoll_fd);
    if (q->timer_fd >= 0)
        close(q->timer_fd);
}

/* is_parents() - in a forked child: the parent is using the rings and their contents */
static bool
is_parents(const struct nic *n)
{
    return __builtin_expect(n->arena->inherited, 0);
}

int
nic_rx_burst(struct nic *n, unsigned queue, struct mbuf **out, unsigned max)
{
    if (is_parents(n))
        return -EOWNERDEAD;
    if (queue >= n->config.nqueues)
        return -EINVAL;
    struct nic_queue *q = &n->q[queue];
    struct rx_frame f;
    unsigned got = 0;
    int err = 0;

    if (!q->rx.error)
        err = device_poll(n->device, queue, max);
    while (got < max && harvest(n, q, &f)) {
        if (q->rx.error) {
            /* Put the parts of the broken frame where they can do no harm. */
            for (unsigned i = 0; i < f.n; i++)
                buf_retire(n, f.buf[i]);
            break;
        }
        struct mbuf *m = deliver(n, queue, q, &f);

        if (m)
            out[got++] = m;
    }
    /* One store makes the whole refill visible. */
    if (n->config.rx_low_water == 0 ||
        (uint16_t)(q->rx.published_idx - q->rx.used_idx) < n->config.rx_low_water)
        vq_driver_publish(&q->rx);
    /* Only now; otherwise a device without buffers and a sleeping driver could wait for each other. */
    if (!q->rx.error) {
        int told = device_posted(n->device, queue);

        err = told < 0 ? told : err;
    }
    q->fresh |= got > 0;
    rest(n, q, got < max);
    if (got)
        return (int)got;
    if (q->rx.error)
        return -EPROTO;
    return err < 0 ? err : 0;
}

void
nic_rx_copy(struct nic *n, unsigned queue, bool on)
{
    if (queue < n->config.nqueues)
        n->q[queue].rx_copy = on;
}

/* ---- transmit ---- */

/* reap() - free the chains of completed frames */
static void
reap(struct nic_queue *q)
{
    struct mbuf *m;
    uint32_t len;

    while ((m = vq_driver_get(&q->tx, &len)) != NULL) {
        m_freem(m);
        counter_add(&q->stats.tx_completed, 1);
    }
}

/* gso_of() - GSO type of a packet, and in *@need the offload for it; negative if invalid */
static int
gso_of(const struct pkthdr *p, uint32_t *need)
{
    switch (p->csum_flags & CSUM_GSO) {
    case 0:
        *need = 0;
        return NET_HDR_GSO_NONE;
    case CSUM_TSO4:
        *need = OFFLOAD_TSO4;
        return NET_HDR_GSO_TCPV4;
    case CSUM_TSO6:
        *need = OFFLOAD_TSO6;
        return NET_HDR_GSO_TCPV6;
    case CSUM_USO:
        *need = OFFLOAD_USO;
        return NET_HDR_GSO_UDP_L4;
    default:
        return -EINVAL;
    }
}

/*
 * is_tagged() - does a VLAN tag allow four bytes more than the MTU?
 *
 * Called only for frames that are too long otherwise. A fragmented Ethernet header counts as
 * untagged.
 */
static bool
is_tagged(const struct mbuf *m)
{
    uint8_t type[2];

    return m->m_len >= (int32_t)ETHER_HDR_LEN &&
           guard_copy(type, m->m_data + ETHER_HDR_LEN - sizeof(type), sizeof(type)) == 0 &&
           ((type[0] == 0x81 && type[1] == 0x00) || (type[0] == 0x88 && type[1] == 0xa8));
}

/* check_tx() - check a packet; returns its GSO type, with the offload it needs in *@need, or a negative errno */
static int
check_tx(const struct nic *n, const struct mbuf *m, uint32_t *need)
{
    if (!(m->m_flags & M_PKTHDR) || m->m_pkthdr.len < (int32_t)ETHER_HDR_LEN)
        return -EINVAL;
    const struct pkthdr *p = &m->m_pkthdr;
    uint32_t len = (uint32_t)p->len;
    uint32_t link_max = n->config.mtu + ETHER_HDR_LEN;
    int gso = gso_of(p, need);

    if (gso < 0)
        return gso;
    if ((p->csum_flags & CSUM_PARTIAL) && (uint32_t)p->csum_start + p->csum_data + 2u > len)
        return -EINVAL;
    if ((gso == NET_HDR_GSO_NONE ? len : (uint32_t)p->hdr_len + p->tso_segsz) > link_max &&
        is_tagged(m))
        link_max += ETHER_VLAN_LEN;
    if (gso == NET_HDR_GSO_NONE)
        return len > link_max ? -EMSGSIZE : 0;
    /* The kernel checksums each segment anew, so a super-frame without a partial sum is invalid. */
    if (!(p->csum_flags & CSUM_PARTIAL) || p->tso_segsz == 0 || p->hdr_len < ETHER_HDR_LEN ||
        p->hdr_len > len)
        return -EINVAL;
    if (len > NET_FRAME_MAX || (uint32_t)p->hdr_len + p->tso_segsz > link_max)
        return -EMSGSIZE;
    return gso;
}

/*
 * gather() - list the segments of a chain, with the device's header in front
 *
 * The header goes into the leading space of the first mbuf if it fits there and the bytes are not
 * shared. That saves a segment, which is half of a small frame's. Otherwise the caller fills in
 * @seg[0].
 *
 * @lead: where the header goes; set to NULL if it goes to @seg[0]
 *
 * Return: segments, including the header's; 0 if they are too many or not all in the arena.
 */
static unsigned
gather(const struct nic *n, const struct mbuf *m, struct vq_seg *seg, char **lead)
{
    unsigned nseg = 1;

    *lead = NULL;
    if (m->m_len > 0 && m_leadingspace(m) >= (int)sizeof(struct net_hdr)) {
        *lead = m->m_data - sizeof(struct net_hdr);
        seg[0] = (struct vq_seg){*lead, (size_t)m->m_len + sizeof(struct net_hdr)};
        if (!arena_contains(n->arena, (uint64_t)(uintptr_t)seg[0].addr, seg[0].len))
            return 0;
        m = m->m_next;
    }
    for (; m; m = m->m_next) {
        if (m->m_len == 0)
            continue;
        if (nseg == NET_TX_SEGS ||
            !arena_contains(n->arena, (uint64_t)(uintptr_t)m->m_data, (size_t)m->m_len))
            return 0;
        seg[nseg++] = (struct vq_seg){m->m_data, (size_t)m->m_len};
    }
    return nseg;
}

/* linearize() - copy the packet into as few pages as possible; NULL if there are not enough */
static struct mbuf *
linearize(struct nic *n, struct nic_queue *q, struct mbuf *m)
{
    if (alloc_fails(n, (unsigned)(q - n->q), true))
        return NULL;
    uint32_t left = (uint32_t)m->m_pkthdr.len;
    struct mbuf *top = mb_gethdr(n->mbufs);
    uint32_t off = 0;
    uint32_t skip = sizeof(struct net_hdr);

    for (struct mbuf *c = top; c; c = c->m_next, skip = 0) {
        struct vm_page *pg = jumbo_alloc(n->jumbo, RETURN_SITE());
        uint32_t room = (uint32_t)PAGE_SIZE - skip;
        uint32_t part = left < room ? left : room;

        if (pg == NULL)
            break;
        attach_page(n, c, pg, skip + part, skip);
        if (csum_guarded_copy(m, off, part, c->m_data) < 0)
            break;
        off += part;
        left -= part;
        if (left == 0) {
            top->m_pkthdr = m->m_pkthdr;
            counter_add(&q->stats.tx_linearized, 1);
            return top;
        }
        c->m_next = mb_get(n->mbufs);
    }
    m_freem(top);
    return NULL;
}

/* reserve() - make sure that enough descriptors are free, reaping completed chains if needed; 0 or -errno */
static int
reserve(struct nic_queue *q, unsigned nseg)
{
    if (nseg > q->tx.num)
        return -EMSGSIZE;
    if (nseg > q->tx.num_free)
        reap(q);
    if (nseg <= q->tx.num_free)
        return 0;
    counter_add(&q->stats.tx_busy, 1);
    return -ENOBUFS;
}

/* finish_sum() - finish a checksum that the device does not; 0 or -errno */
static int
finish_sum(struct nic_queue *q, struct mbuf *m)
{
    int err = csum_finish(m);

    if (err)
        counter_add(&q->stats.tx_fault, 1);
    else
        counter_add(&q->stats.tx_csum_soft, 1);
    return err;
}

/* tx_packet() - put one packet that the device accepts on the ring; otherwise like nic_tx() */
static int
tx_packet(struct nic *n, struct nic_queue *q, struct mbuf *m, int gso)
{
    struct vq_seg seg[NET_TX_SEGS];
    struct mbuf *copy = NULL;
    struct pkthdr *p = &m->m_pkthdr;
    bool soft = (p->csum_flags & CSUM_PARTIAL) && !(n->offloads & OFFLOAD_CSUM);
    char *lead;
    unsigned nseg = gather(n, m, seg, &lead);

    if (nseg == 0 || nseg > q->tx.num || (soft && !csum_field_writable(m))) {
        copy = linearize(n, q, m);
        if (copy == NULL)
            return -ENOMEM;
        nseg = gather(n, copy, seg, &lead);
    }
    int err = reserve(q, nseg);

    if (!err && soft)
        err = finish_sum(q, copy ? copy : m);
    if (err) {
        m_freem(copy);
        return err;
    }

    struct net_hdr h = {0};

    if ((p->csum_flags & CSUM_PARTIAL) && !soft) {
        h.flags = NET_HDR_F_NEEDS_CSUM;
        h.csum_start = p->csum_start;
        h.csum_offset = p->csum_data;
    }
    if (gso != NET_HDR_GSO_NONE) {
        h.gso_type = (uint8_t)(gso | (p->csum_flags & CSUM_ECN ? NET_HDR_GSO_ECN : 0));
        h.gso_size = p->tso_segsz;
        h.hdr_len = p->hdr_len;
    }
    if (lead == NULL) {
        /* The next head is the first free descriptor, so its header slot is free too. */
        lead = (char *)&q->tx_hdr[q->tx.free_head];
        seg[0] = (struct vq_seg){lead, sizeof(h)};
    }
    memcpy(lead, &h, sizeof(h)); /* may be unaligned */
    counter_add(&q->stats.tx_queued, 1);
    counter_add(&q->stats.tx_bytes, p->len);
    vq_driver_add(&q->tx, seg, nseg, 0, copy ? copy : m);
    if (copy)
        m_freem(m);
    return 0;
}

/* tx_cut() - cut a super-frame that the device does not, and put all of its frames on the ring, or none */
static int
tx_cut(struct nic *n, struct nic_queue *q, struct mbuf *m)
{
    struct vq_seg seg[NET_TX_SEGS];
    struct mbuf *list, *copy = NULL;
    unsigned nseg = 0;
    char *lead;

    /* Everything that can fail for any frame fails before the first is on the ring. */
    if (gather(n, m, seg, &lead) == 0) {
        copy = linearize(n, q, m);
        if (copy == NULL)
            return -ENOMEM;
    }
    int err =
        alloc_fails(n, (unsigned)(q - n->q), true) ? -ENOMEM : gso_cut(copy ? copy : m, &list);

    m_freem(copy); /* the frames hold references to its pages */
    if (err < 0)
        return err;
    for (const struct mbuf *f = list; f; f = f->m_nextpkt)
        nseg += gather(n, f, seg, &lead);
    err = reserve(q, nseg);
    for (struct mbuf *f = list; f && !err && !(n->offloads & OFFLOAD_CSUM); f = f->m_nextpkt) {
        err = finish_sum(q, f);
        f->m_pkthdr.csum_flags = 0;
    }
    if (err) {
        gso_free(list);
        return err;
    }
    while (list) {
        struct mbuf *f = list;

        list = f->m_nextpkt;
        f->m_nextpkt = NULL;
        tx_packet(n, q, f, NET_HDR_GSO_NONE);
    }
    counter_add(&q->stats.tx_gso_soft, 1);
    m_freem(m);
    return 0;
}

int
nic_tx(struct nic *n, unsigned queue, struct mbuf *m)
{
    if (is_parents(n))
        return -EOWNERDEAD;
    if (queue >= n->config.nqueues)
        return -EINVAL;
    struct nic_queue *q = &n->q[queue];
    uint32_t need;
    int gso = check_tx(n, m, &need);

    if (gso < 0) {
        counter_add(&q->stats.tx_drop_size, gso == -EMSGSIZE);
        return gso;
    }
    if (q->tx.error)
        return -EPROTO;
    return need & ~n->offloads ? tx_cut(n, q, m) : tx_packet(n, q, m, gso);
}

int
nic_tx_flush(struct nic *n, unsigned queue)
{
    if (is_parents(n))
        return -EOWNERDEAD;
    if (queue >= n->config.nqueues)
        return -EINVAL;
    struct nic_queue *q = &n->q[queue];
    int sent = 0;

    vq_driver_publish(&q->tx);
    /* A device that works on its own may have to report on an earlier frame. */
    if (vq_driver_outstanding(&q->tx) || q->wake_fd >= 0)
        sent = n->device->ops->kick(n->device, queue);
    reap(q);
    return q->tx.error ? -EPROTO : sent;
}

void
nic_tx_reap(struct nic *n, unsigned queue)
{
    if (queue < n->config.nqueues && !is_parents(n))
        reap(&n->q[queue]);
}

unsigned
nic_tx_room(const struct nic *n, unsigned queue, unsigned segs)
{
    return n->q[queue].tx.num_free / (segs + 1);
}

/* ---- attach and detach ---- */

static void
queue_fini(struct nic *n, struct nic_queue *q)
{
    if (q->tx_hdr)
        kmem_free(n->arena, q->tx_hdr, sizeof(*q->tx_hdr) * n->config.tx_ring_size);
    vq_driver_fini(&q->rx);
    vq_driver_fini(&q->tx);
    vring_destroy(&q->rx_ring);
    vring_destroy(&q->tx_ring);
}

static int
queue_init(struct nic *n, struct nic_queue *q)
{
    const struct nic_config *c = &n->config;
    int err;

    if ((err = vring_create(n->arena, c->rx_ring_size, true, &q->rx_ring)) ||
        (err = vring_create(n->arena, c->tx_ring_size, true, &q->tx_ring)) ||
        (err = vq_driver_init(&q->rx, &q->rx_ring)) || (err = vq_driver_init(&q->tx, &q->tx_ring)))
        return err;
    q->tx_hdr = kmem_alloc(n->arena, sizeof(*q->tx_hdr) * c->tx_ring_size);
    return q->tx_hdr ? 0 : -ENOMEM;
}

/* drain() - after the device has detached: release every page and chain of a queue */
static void
drain(struct nic *n, struct nic_queue *q)
{
    struct mbuf *m;
    void *buf;

    reap(q);
    while ((m = vq_driver_reclaim(&q->tx)) != NULL) {
        m_freem(m);
        counter_add(&q->stats.tx_stopped, 1);
    }
    while ((buf = vq_driver_reclaim(&q->rx)) != NULL)
        buf_retire(n, buf);
}

static void
destroy(struct nic *n)
{
    if (n->attached)
        n->device->ops->detach(n->device);
    for (unsigned i = 0; i < n->config.nqueues; i++) {
        if (n->q[i].rx.slot && n->q[i].tx.slot)
            drain(n, &n->q[i]);
        wait_fini(&n->q[i]);
        queue_fini(n, &n->q[i]);
    }
    n->device->ops->destroy(n->device);
    free(n);
}

/* ring_headers() - how many buffers on a receive ring are for headers */
static uint32_t
ring_headers(const struct nic *n)
{
    return n->config.header_split ? n->config.rx_ring_size / 4 : 0;
}

/* fill() - fill the receive ring; -ENOMEM if a pool is too small */
static int
fill(struct nic *n, struct nic_queue *q)
{
    uint32_t want = n->config.rx_ring_size;
    uint32_t headers = ring_headers(n);
    void **buf = malloc(want * sizeof(void *));
    uint32_t have = 0;

    while (buf && have < want && (buf[have] = buf_get(n, have >= headers)) != NULL)
        have++;
    if (have == want) {
        post_run(n, q, buf, headers);
        post_run(n, q, buf + headers, want - headers);
        vq_driver_publish(&q->rx);
    }
    while (have > 0 && have < want)
        buf_put(n, buf[--have]);
    free(buf);
    return have ? 0 : -ENOMEM;
}

static bool
config_ok(const struct nic_config *c)
{
    return c->nqueues >= 1 && c->nqueues <= NIC_MAX_QUEUES && c->mtu >= NIC_MTU_MIN &&
           c->mtu <= NIC_MTU_MAX &&
           (c->header_split == 0 || (c->header_split >= ETHER_HDR_LEN &&
                                     c->header_split <= NIC_SPLIT_MAX && c->rx_ring_size >= 4)) &&
           (c->rx_low_water == 0 ||
            (c->rx_low_water >= NET_FRAME_BUFFERS && c->rx_low_water <= c->rx_ring_size)) &&
           c->coalesce_frames < c->rx_ring_size && (c->coalesce_us || !c->coalesce_frames);
}

int
nic_attach(struct jumbo *j, struct mbuf_zone *z, struct device *d, const struct nic_config *config,
           struct nic **out)
{
    struct nic *n = NULL;
    int err = -EINVAL;

    if (config_ok(config)) {
        n = calloc(1, sizeof(*n) + config->nqueues * sizeof(n->q[0]));
        err = n ? 0 : -ENOMEM;
    }
    if (err) {
        d->ops->destroy(d);
        return err;
    }
    n->device = d;
    n->jumbo = j;
    n->mbufs = z;
    n->arena = j->arena;
    n->config = *config;

    struct device_attach at = {
        .arena = n->arena,
        .nqueues = config->nqueues,
        .offloads = config->offloads,
        .frame_max = config->mtu + ETHER_HDR_LEN + ETHER_VLAN_LEN,
        .header_split = config->header_split,
    };

    for (unsigned i = 0; i < config->nqueues; i++)
        n->q[i].device_fd = n->q[i].timer_fd = n->q[i].epoll_fd = n->q[i].wake_fd = -1;
    for (unsigned i = 0; i < config->nqueues && !err; i++) {
        err = queue_init(n, &n->q[i]);
        at.queue[i] = (struct device_queue){&n->q[i].rx_ring, &n->q[i].tx_ring};
    }
    if (!err)
        err = d->ops->attach(d, &at);
    if (!err) {
        n->attached = true;
        n->offloads = at.offloads;
        if (config->header_split && !at.split_done)
            err = -EOPNOTSUPP;
    }
    struct device_info info;

    for (unsigned i = 0; i < config->nqueues && !err; i++)
        err = fill(n, &n->q[i]);
    d->ops->describe(d, &info);
    for (unsigned i = 0; i < config->nqueues && !err; i++) {
        n->q[i].wake_fd = info.wake_fd[i];
        err = wait_init(n, &n->q[i], info.wait_fd[i]);
        if (n->q[i].wake_fd >= 0)
            vq_driver_enable_notify(&n->q[i].rx, 1);
        if (!err)
            err = device_posted(d, i); /* the device may begin */
    }
    if (err) {
        destroy(n);
        return err;
    }
    *out = n;
    return 0;
}

int
nic_detach(struct nic *n)
{
    if (is_parents(n))
        return 0;
    destroy(n);
    return 0;
}

/* ---- queries ---- */

int
nic_wait_fd(const struct nic *n, unsigned queue)
{
    if (queue >= n->config.nqueues)
        return -1;
    return n->q[queue].epoll_fd >= 0 ? n->q[queue].epoll_fd : n->q[queue].device_fd;
}

int
nic_wait(struct nic *n, unsigned queue, int64_t timeout_ns)
{
    struct pollfd p = {.fd = nic_wait_fd(n, queue), .events = POLLIN};
    struct timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int r = ppoll(&p, 1, timeout_ns < 0 ? NULL : &ts, NULL);

    return r < 0 ? -errno : r;
}

enum vq_error
nic_queue_error(const struct nic *n, unsigned queue)
{
    const struct nic_queue *q = &n->q[queue];

    return q->rx.error ? q->rx.error : q->tx.error;
}

int
nic_check(struct nic *n)
{
    if (is_parents(n))
        return -EOWNERDEAD;
    for (unsigned i = 0; i < n->config.nqueues; i++) {
        struct nic_queue *q = &n->q[i];
        unsigned posted = 0;
        unsigned headers = 0;
        unsigned chains = 0;
        unsigned descs = 0;

        for (uint32_t k = 0; k < q->rx.num; k++) {
            const void *buf = q->rx.slot[k].cookie;

            if (q->rx.slot[k].ndesc == 0)
                continue;
            if (is_page(n, buf)) {
                const struct vm_page *pg = buf;

                if (vm_page_state(pg) != VPS_POSTED ||
                    jumbo_page_at(n->jumbo, jumbo_kva(n->jumbo, pg)) != pg)
                    return -EINVAL;
            } else {
                const struct mbuf *m = buf;

                if (m->m_flags != M_PKTHDR || m->m_next)
                    return -EINVAL;
                headers++;
            }
            posted++;
        }
        for (uint32_t k = 0; k < q->tx.num; k++) {
            chains += q->tx.slot[k].ndesc != 0;
            descs += q->tx.slot[k].ndesc;
        }
        if (!q->rx.error && (posted != n->config.rx_ring_size || headers != ring_headers(n)))
            return -EINVAL;
        if (chains != vq_driver_outstanding(&q->tx) || descs + q->tx.num_free != q->tx.num)
            return -EINVAL;
    }
    return 0;
}

void
nic_get_ring(const struct nic *n, unsigned queue, bool tx, struct nic_ring *out)
{
    const struct nic_queue *q = &n->q[queue];
    const struct vring *r = tx ? &q->tx_ring : &q->rx_ring;
    const uint64_t *taken = tx ? &q->stats.tx_completed : &q->stats.rx_returned;

    /* Read in this order, so that no index appears ahead of the next, whatever happens meanwhile. */
    out->size = r->num;
    out->taken = (uint16_t)__atomic_load_n(taken, __ATOMIC_ACQUIRE);
    out->used = __atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE);
    out->avail = __atomic_load_n(&r->avail->idx, __ATOMIC_ACQUIRE);
}

void
nic_get_stats(struct nic *n, unsigned queue, struct nic_queue_stats *out)
{
    const struct nic_queue *q = &n->q[queue];
    const uint64_t *from = (const uint64_t *)(const void *)&q->stats;
    uint64_t *to = (uint64_t *)(void *)out;

    for (size_t i = 0; i < sizeof(*out) / sizeof(*to); i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    out->rx_outstanding = out->rx_posted - out->rx_returned;
    out->tx_outstanding = out->tx_queued - out->tx_completed;
}

void
nic_describe(struct nic *n, struct device_info *out)
{
    n->device->ops->describe(n->device, out);
    for (unsigned i = 0; i < n->config.nqueues; i++)
        out->wait_fd[i] = nic_wait_fd(n, i);
}

const struct vring *
nic_vring(const struct nic *n, unsigned queue, bool tx)
{
    return tx ? n->q[queue].tx.r : n->q[queue].rx.r;
}

const uint8_t *
nic_mac(const struct nic *n)
{
    return n->config.mac;
}

uint32_t
nic_mtu(const struct nic *n)
{
    return n->config.mtu;
}

uint32_t
nic_offloads(const struct nic *n)
{
    return n->offloads;
}

unsigned
nic_nqueues(const struct nic *n)
{
    return n->config.nqueues;
}

struct mbuf_zone *
nic_mbuf_zone(const struct nic *n)
{
    return n->mbufs;
}

struct jumbo *
nic_jumbo(const struct nic *n)
{
    return n->jumbo;
}
