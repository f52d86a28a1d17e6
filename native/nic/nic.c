/* SPDX-License-Identifier: BSD-2-Clause */
#include "nic/nic.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "arena/guard.h"
#include "nic/csum.h"

#define ETHER_HDR_LEN 14u
#define ETHER_VLAN_LEN 4u

/*
 * Counters are written by the queue's thread and read by any: relaxed accesses, and no
 * read-modify-write, which is all that one writer needs.
 */
#define COUNT(counter, n)                                                                          \
    __atomic_store_n(&(counter), __atomic_load_n(&(counter), __ATOMIC_RELAXED) + (uint64_t)(n),    \
                     __ATOMIC_RELAXED)

struct nic_queue {
    struct vring rx_ring, tx_ring;
    struct vq_driver rx, tx;
    struct net_hdr *tx_hdr; /* one for each head of the transmit ring, in kmem */
    int wake_fd;            /* of an async device */
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
    bool async; /* the device works on its own and signals an eventfd */
    struct nic_queue q[];
};

/* ---- receive ---- */

/* post() - put a page on the receive ring; the ring has room, for a page goes in for each that came out */
static void
post(struct nic *n, struct nic_queue *q, struct vm_page *pg)
{
    struct vq_seg seg = {jumbo_kva(n->jumbo, pg), PAGE_SIZE};

    vm_page_turn(pg, VPS_POSTED, VPE_POST);
    vq_driver_add(&q->rx, &seg, 0, 1, pg);
    COUNT(q->stats.rx_posted, 1);
}

/*
 * post_run() - put pages on the receive ring so that the device, which fills the newest first, meets them
 * in ascending order: a read into neighbours is a read into one piece
 */
static void
post_run(struct nic *n, struct nic_queue *q, struct vm_page **pg, uint32_t count)
{
    if (pg[0]->slot < pg[count - 1]->slot) {
        for (uint32_t i = count; i > 0; i--)
            post(n, q, pg[i - 1]);
    } else {
        for (uint32_t i = 0; i < count; i++)
            post(n, q, pg[i]);
    }
}

/* What one received frame is made of, while it is in the driver's hands. */
struct rx_frame {
    unsigned npages;
    struct vm_page *page[NET_FRAME_PAGES];
    uint32_t len[NET_FRAME_PAGES];
};

/* harvest() - take one used frame off the ring; false when there is none or the ring is broken */
static bool
harvest(struct nic *n, struct nic_queue *q, struct rx_frame *f)
{
    f->page[0] = vq_driver_get(&q->rx, &f->len[0]);
    if (f->page[0] == NULL)
        return false;
    const struct net_hdr *h = jumbo_kva(n->jumbo, f->page[0]);
    unsigned want = f->len[0] < sizeof(*h) ? 1 : h->num_buffers;

    f->npages = 1;
    if (want == 0 || want > NET_FRAME_PAGES)
        q->rx.error = VQ_ERR_MERGE;
    while (!q->rx.error && f->npages < want) {
        struct vm_page *pg = vq_driver_get(&q->rx, &f->len[f->npages]);

        if (pg == NULL) {
            if (!q->rx.error)
                q->rx.error = VQ_ERR_MERGE;
            break;
        }
        f->page[f->npages++] = pg;
    }
    for (unsigned i = 0; i < f->npages; i++)
        vm_page_event(f->page[i], VPE_RECEIVE);
    COUNT(q->stats.rx_returned, f->npages);
    COUNT(q->stats.rx_received, 1);
    return true;
}

/* recycle() - a dropped frame's pages are posted again: never a hole in the ring */
static void
recycle(struct nic *n, struct nic_queue *q, struct rx_frame *f)
{
    for (unsigned i = 0; i < f->npages; i++) {
        vm_page_event(f->page[i], VPE_RECYCLE);
        post(n, q, f->page[i]);
    }
    COUNT(q->stats.rx_recycled, f->npages);
}

/* hdr_to_pkthdr() - what the device says of sums and segments, in the packet header */
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

/* attach_page() - the page becomes external storage of an mbuf */
static void
attach_page(struct nic *n, struct mbuf *m, struct vm_page *pg, uint32_t len, uint32_t skip)
{
    char *kva = jumbo_kva(n->jumbo, pg);

    vm_page_turn(pg, VPS_MBUF, VPE_MBUF);
    m_extadd(m, kva, (unsigned)PAGE_SIZE, jumbo_freem, NULL, 0, EXT_DISPOSABLE);
    m->m_data = kva + skip;
    m->m_len = (int32_t)(len - skip);
}

/*
 * deliver() - turn a frame into a packet, its pages replaced on the ring
 *
 * Everything that can fail is taken first: successors for the pages, mbufs to carry them.
 *
 * Return: the packet; NULL when the frame was dropped, counted, and its pages posted again.
 */
static struct mbuf *
deliver(struct nic *n, unsigned queue, struct nic_queue *q, struct rx_frame *f)
{
    struct vm_page *successor[NET_FRAME_PAGES];
    struct mbuf *top = NULL;
    struct mbuf **tail = &top;
    unsigned have = 0;
    uint64_t len = 0;

    for (unsigned i = 0; i < f->npages; i++)
        len += f->len[i];
    if (len < sizeof(struct net_hdr) + ETHER_HDR_LEN || f->len[0] < sizeof(struct net_hdr)) {
        COUNT(q->stats.rx_drop_short, 1);
        recycle(n, q, f);
        return NULL;
    }
    for (unsigned i = 0; i < f->npages; i++) {
        *tail = i ? mb_get(n->mbufs) : mb_gethdr(n->mbufs);
        if (*tail == NULL) {
            COUNT(q->stats.rx_drop_no_mbuf, 1);
            goto drop;
        }
        tail = &(*tail)->m_next;
    }
    for (; have < f->npages; have++) {
        successor[have] = jumbo_alloc(n->jumbo, RETURN_SITE());
        if (successor[have] == NULL) {
            COUNT(q->stats.rx_drop_no_page, 1);
            goto drop;
        }
    }
    len -= sizeof(struct net_hdr);
    hdr_to_pkthdr(jumbo_kva(n->jumbo, f->page[0]), &top->m_pkthdr);
    top->m_pkthdr.len = (int32_t)len;
    top->m_pkthdr.queue = (uint16_t)queue;
    top->m_pkthdr.rcvif = n;
    struct mbuf *m = top;

    for (unsigned i = 0; i < f->npages; i++, m = m->m_next)
        attach_page(n, m, f->page[i], f->len[i], i ? 0 : sizeof(struct net_hdr));
    post_run(n, q, successor, f->npages);
    COUNT(q->stats.rx_delivered, 1);
    COUNT(q->stats.rx_pages_delivered, f->npages);
    COUNT(q->stats.rx_bytes, len);
    return top;

drop:
    while (have > 0)
        jumbo_free(n->jumbo, jumbo_kva(n->jumbo, successor[--have]), RETURN_SITE());
    m_freem(top);
    recycle(n, q, f);
    return NULL;
}

int
nic_rx_burst(struct nic *n, unsigned queue, struct mbuf **out, unsigned max)
{
    if (queue >= n->config.nqueues)
        return -EINVAL;
    struct nic_queue *q = &n->q[queue];
    struct rx_frame f;
    unsigned got = 0;
    int err = 0;

    if (!q->rx.error && !n->async)
        err = n->device->ops->poll(n->device, queue, max);
    while (got < max && harvest(n, q, &f)) {
        if (q->rx.error) {
            /* Whatever came back of the broken frame goes where it can do no harm. */
            for (unsigned i = 0; i < f.npages; i++) {
                vm_page_turn(f.page[i], VPS_ALLOC, VPE_RECYCLE);
                jumbo_free(n->jumbo, jumbo_kva(n->jumbo, f.page[i]), RETURN_SITE());
            }
            break;
        }
        struct mbuf *m = deliver(n, queue, q, &f);

        if (m)
            out[got++] = m;
    }
    /* One store makes the whole refill visible. */
    vq_driver_publish(&q->rx);
    if (n->async && !q->rx.error) {
        /* Only now, or a device that ran out of buffers and a driver that sleeps wait for each other. */
        err = n->device->ops->poll(n->device, queue, max);
        /* More came before the device knew that we want to hear of it: say so ourselves. */
        if (vq_driver_enable_notify(&q->rx))
            eventfd_write(q->wake_fd, 1);
    }
    if (got)
        return (int)got;
    if (q->rx.error)
        return -EPROTO;
    return err < 0 ? err : 0;
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
        COUNT(q->stats.tx_completed, 1);
    }
}

/* gso_of() - GSO type of a packet; the offload it needs in *@need; negative for nonsense */
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
 * is_tagged() - does a VLAN tag make the frame four bytes longer than the MTU says?
 *
 * Asked only of a frame that is too long otherwise. An Ethernet header in pieces is one without a tag.
 */
static bool
is_tagged(const struct mbuf *m)
{
    uint8_t type[2];

    return m->m_len >= (int32_t)ETHER_HDR_LEN &&
           guard_copy(type, m->m_data + ETHER_HDR_LEN - sizeof(type), sizeof(type)) == 0 &&
           ((type[0] == 0x81 && type[1] == 0x00) || (type[0] == 0x88 && type[1] == 0xa8));
}

/* check_tx() - may this packet go out? GSO type, or a negative errno */
static int
check_tx(const struct nic *n, const struct mbuf *m)
{
    if (!(m->m_flags & M_PKTHDR) || m->m_pkthdr.len < (int32_t)ETHER_HDR_LEN)
        return -EINVAL;
    const struct pkthdr *p = &m->m_pkthdr;
    uint32_t len = (uint32_t)p->len;
    uint32_t link_max = n->config.mtu + ETHER_HDR_LEN;
    uint32_t need;
    int gso = gso_of(p, &need);

    if (gso < 0)
        return gso;
    if ((p->csum_flags & CSUM_PARTIAL) && (uint32_t)p->csum_start + p->csum_data + 2u > len)
        return -EINVAL;
    if ((gso == NET_HDR_GSO_NONE ? len : (uint32_t)p->hdr_len + p->tso_segsz) > link_max &&
        is_tagged(m))
        link_max += ETHER_VLAN_LEN;
    if (gso == NET_HDR_GSO_NONE)
        return len > link_max ? -EMSGSIZE : 0;
    if (!(n->offloads & need))
        return -EOPNOTSUPP;
    /* The kernel sums each segment anew: a super-frame without a partial sum means nothing. */
    if (!(p->csum_flags & CSUM_PARTIAL) || p->tso_segsz == 0 || p->hdr_len < ETHER_HDR_LEN ||
        p->hdr_len > len)
        return -EINVAL;
    if (len > NET_FRAME_MAX || (uint32_t)p->hdr_len + p->tso_segsz > link_max)
        return -EMSGSIZE;
    return gso;
}

/*
 * gather() - segments of a chain, with the device's header in front
 *
 * The header goes into the leading space of the first mbuf when it fits there and nobody else sees those
 * bytes: one segment less, which for a small frame is half of them. Otherwise @seg[0] is left to
 * the caller.
 *
 * @lead: set to where the header goes; NULL: to @seg[0]
 *
 * Return: segments, the header's included; 0 when they are too many or not all in the arena.
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

/* linearize() - a copy of the packet in as few pages as it needs; NULL when out of them */
static struct mbuf *
linearize(struct nic *n, struct mbuf *m)
{
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
            return top;
        }
        c->m_next = mb_get(n->mbufs);
    }
    m_freem(top);
    return NULL;
}

int
nic_tx(struct nic *n, unsigned queue, struct mbuf *m)
{
    if (queue >= n->config.nqueues)
        return -EINVAL;
    struct nic_queue *q = &n->q[queue];
    struct vq_seg seg[NET_TX_SEGS];
    struct mbuf *copy = NULL;
    int gso = check_tx(n, m);

    if (gso < 0) {
        COUNT(q->stats.tx_drop_size, gso == -EMSGSIZE);
        return gso;
    }
    if (q->tx.error)
        return -EPROTO;
    struct pkthdr *p = &m->m_pkthdr;
    bool soft = (p->csum_flags & CSUM_PARTIAL) && !(n->offloads & OFFLOAD_CSUM);
    char *lead;
    unsigned nseg = gather(n, m, seg, &lead);

    if (nseg == 0 || nseg > q->tx.num || (soft && !csum_field_writable(m))) {
        copy = linearize(n, m);
        nseg = copy ? gather(n, copy, seg, &lead) : 0;
        if (nseg == 0 || nseg > q->tx.num) {
            m_freem(copy);
            return copy ? -EMSGSIZE : -ENOMEM;
        }
        COUNT(q->stats.tx_linearized, 1);
    }
    if (nseg > q->tx.num_free)
        reap(q);
    if (nseg > q->tx.num_free) {
        m_freem(copy);
        COUNT(q->stats.tx_busy, 1);
        return -ENOBUFS;
    }
    if (soft) {
        int err = csum_finish(copy ? copy : m);

        if (err) {
            COUNT(q->stats.tx_fault, 1);
            m_freem(copy);
            return err;
        }
        COUNT(q->stats.tx_csum_soft, 1);
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
        /* The next head is the first free descriptor: its header slot is free with it. */
        lead = (char *)&q->tx_hdr[q->tx.free_head];
        seg[0] = (struct vq_seg){lead, sizeof(h)};
    }
    memcpy(lead, &h, sizeof(h)); /* of any alignment */
    COUNT(q->stats.tx_queued, 1);
    COUNT(q->stats.tx_bytes, p->len);
    vq_driver_add(&q->tx, seg, nseg, 0, copy ? copy : m);
    if (copy)
        m_freem(m);
    return 0;
}

int
nic_tx_flush(struct nic *n, unsigned queue)
{
    if (queue >= n->config.nqueues)
        return -EINVAL;
    struct nic_queue *q = &n->q[queue];
    int sent = 0;

    vq_driver_publish(&q->tx);
    if (vq_driver_outstanding(&q->tx))
        sent = n->device->ops->kick(n->device, queue);
    reap(q);
    return q->tx.error ? -EPROTO : sent;
}

void
nic_tx_reap(struct nic *n, unsigned queue)
{
    if (queue < n->config.nqueues)
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

/* drain() - after the device let go: give every page and chain of a queue back */
static void
drain(struct nic *n, struct nic_queue *q)
{
    struct vm_page *pg;
    struct mbuf *m;

    reap(q);
    while ((m = vq_driver_reclaim(&q->tx)) != NULL) {
        m_freem(m);
        COUNT(q->stats.tx_stopped, 1);
    }
    while ((pg = vq_driver_reclaim(&q->rx)) != NULL) {
        vm_page_turn(pg, VPS_ALLOC, VPE_RECYCLE);
        jumbo_free(n->jumbo, jumbo_kva(n->jumbo, pg), RETURN_SITE());
    }
}

static void
destroy(struct nic *n)
{
    if (n->attached)
        n->device->ops->detach(n->device);
    for (unsigned i = 0; i < n->config.nqueues; i++) {
        if (n->q[i].rx.slot && n->q[i].tx.slot)
            drain(n, &n->q[i]);
        queue_fini(n, &n->q[i]);
    }
    n->device->ops->destroy(n->device);
    free(n);
}

/* fill() - the receive ring full of pages; -ENOMEM when the pool is too small */
static int
fill(struct nic *n, struct nic_queue *q)
{
    uint32_t want = n->config.rx_ring_size;
    struct vm_page **pg = malloc(want * sizeof(struct vm_page *));
    uint32_t have = 0;

    while (pg && have < want && (pg[have] = jumbo_alloc(n->jumbo, RETURN_SITE())) != NULL)
        have++;
    if (have == want) {
        post_run(n, q, pg, want);
        vq_driver_publish(&q->rx);
    }
    while (have > 0 && have < want)
        jumbo_free(n->jumbo, jumbo_kva(n->jumbo, pg[--have]), RETURN_SITE());
    free(pg);
    return have ? 0 : -ENOMEM;
}

int
nic_attach(struct jumbo *j, struct mbuf_zone *z, struct device *d, const struct nic_config *config,
           struct nic **out)
{
    struct nic *n = NULL;
    int err = -EINVAL;

    if (config->nqueues >= 1 && config->nqueues <= NIC_MAX_QUEUES && config->mtu >= NIC_MTU_MIN &&
        config->mtu <= NIC_MTU_MAX) {
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
    };

    for (unsigned i = 0; i < config->nqueues && !err; i++) {
        err = queue_init(n, &n->q[i]);
        at.queue[i] = (struct device_queue){&n->q[i].rx_ring, &n->q[i].tx_ring};
    }
    if (!err)
        err = d->ops->attach(d, &at);
    if (!err) {
        n->attached = true;
        n->offloads = at.offloads;
    }
    struct device_info info;

    for (unsigned i = 0; i < config->nqueues && !err; i++)
        err = fill(n, &n->q[i]);
    d->ops->describe(d, &info);
    n->async = info.async;
    for (unsigned i = 0; i < config->nqueues && !err && n->async; i++) {
        n->q[i].wake_fd = info.wake_fd[i];
        vq_driver_enable_notify(&n->q[i].rx);
        err = d->ops->poll(d, i, 0); /* buffers are posted: the device may begin */
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
    destroy(n);
    return 0;
}

/* ---- questions ---- */

int
nic_wait_fd(const struct nic *n, unsigned queue)
{
    struct device_info info;

    if (queue >= n->config.nqueues)
        return -1;
    n->device->ops->describe(n->device, &info);
    return info.wait_fd[queue];
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
    for (unsigned i = 0; i < n->config.nqueues; i++) {
        struct nic_queue *q = &n->q[i];
        unsigned posted = 0;
        unsigned chains = 0;
        unsigned descs = 0;

        for (uint32_t k = 0; k < q->rx.num; k++) {
            const struct vm_page *pg = q->rx.slot[k].cookie;

            if (q->rx.slot[k].ndesc == 0)
                continue;
            if (vm_page_state(pg) != VPS_POSTED ||
                jumbo_page_at(n->jumbo, jumbo_kva(n->jumbo, pg)) != pg)
                return -EINVAL;
            posted++;
        }
        for (uint32_t k = 0; k < q->tx.num; k++) {
            chains += q->tx.slot[k].ndesc != 0;
            descs += q->tx.slot[k].ndesc;
        }
        if (!q->rx.error && posted != n->config.rx_ring_size)
            return -EINVAL;
        if (chains != vq_driver_outstanding(&q->tx) || descs + q->tx.num_free != q->tx.num)
            return -EINVAL;
    }
    return 0;
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
