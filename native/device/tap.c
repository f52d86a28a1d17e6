/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/tap.h"
#include "base/counter.h"
#include "base/process.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20 /* Linux 6.2 */
#define TUN_F_USO6 0x40
#endif

/* tap_dup() - make a non-blocking duplicate of a TAP queue's descriptor; or -errno */
static int
tap_dup(int fd)
{
    struct ifreq ifr = {0};
    const int want = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

    if (ioctl(fd, TUNGETIFF, &ifr) < 0)
        return errno == EBADF ? -EBADF : -EINVAL;
    if ((ifr.ifr_flags & want) != want)
        return -EINVAL;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy < 0)
        return -errno;
    int flags = fcntl(copy, F_GETFL);

    if (flags < 0 || fcntl(copy, F_SETFL, flags | O_NONBLOCK) < 0) {
        int err = errno;

        close(copy);
        return -err;
    }
    return copy;
}

/* The kernel refuses unknown bits with EINVAL, so each feature is tried with those before it. */
static const struct {
    uint32_t offload;
    unsigned tun;
} feature[] = {
    {OFFLOAD_CSUM, TUN_F_CSUM},
    {OFFLOAD_TSO4, TUN_F_TSO4},
    {OFFLOAD_TSO6, TUN_F_TSO6},
    {OFFLOAD_ECN, TUN_F_TSO_ECN},
    {OFFLOAD_USO, TUN_F_USO4 | TUN_F_USO6}, /* only together */
};

/* tap_setup() - 12-byte headers, native byte order; clears the @offloads that this kernel refuses */
int
tap_setup(int fd, uint32_t *offloads)
{
    int hdr = sizeof(struct net_hdr);
    int little = 1;
    unsigned flags = 0;
    uint32_t got = 0;

    if (ioctl(fd, TUNSETVNETHDRSZ, &hdr) < 0)
        return -errno;
    /* virtio 1.x headers are little-endian, whatever the machine. */
    if (ioctl(fd, TUNSETVNETLE, &little) < 0 && errno != EINVAL)
        return -errno;
    for (size_t i = 0; i < sizeof(feature) / sizeof(feature[0]); i++) {
        /* Everything else depends on partial checksums. */
        if (!(*offloads & feature[i].offload) || (i > 0 && !(got & OFFLOAD_CSUM)))
            continue;
        if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)(flags | feature[i].tun)) == 0) {
            flags |= feature[i].tun;
            got |= feature[i].offload;
        }
    }
    if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)flags) < 0)
        return -errno;
    *offloads = got;
    return 0;
}

int
tap_init(struct tap *t, const struct device_ops *ops, const int *fds, unsigned nqueues)
{
    if (nqueues == 0 || nqueues > NIC_MAX_QUEUES)
        return -EINVAL;
    t->dev.ops = ops;
    for (unsigned i = 0; i < nqueues; i++) {
        t->q[i].fd = process_own(tap_dup(fds[i]));
        if (t->q[i].fd < 0) {
            int err = t->q[i].fd;

            tap_fini(t);
            return err;
        }
        t->nqueues++;
    }
    return 0;
}

void
tap_fini(struct tap *t)
{
    tap_detach(&t->dev);
    for (unsigned i = 0; i < t->nqueues; i++)
        process_close(t->q[i].fd);
    t->nqueues = 0;
}

int
tap_error(struct tap_queue *q, int err)
{
    switch (err) {
    case EAGAIN:
        return 0;
    case EIO:
        counter_add(&q->stats.link_down, 1);
        return -ENETDOWN;
    case EBADFD: /* the interface was deleted */
        return -ENODEV;
    default:
        return -err;
    }
}

/* ---- attach and detach ---- */

static int
stack_init(struct tap_stack *s, uint32_t size)
{
    s->first = s->size = size;
    s->iov = malloc(size * sizeof(*s->iov));
    s->head = malloc(size * sizeof(*s->head));
    return s->iov && s->head ? 0 : -ENOMEM;
}

static void
stack_fini(struct tap_stack *s)
{
    free(s->iov);
    free(s->head);
    *s = (struct tap_stack){0};
}

int
tap_detach(struct device *d)
{
    struct tap *t = tap_of(d);

    /* Nothing is in flight between calls, so the driver reclaims everything taken from the rings. */
    for (unsigned i = 0; i < t->nqueues; i++) {
        struct tap_queue *q = &t->q[i];

        stack_fini(&q->page);
        stack_fini(&q->header);
    }
    return 0;
}

int
tap_attach(struct device *d, struct device_attach *at)
{
    const uint32_t super = OFFLOAD_TSO4 | OFFLOAD_TSO6 | OFFLOAD_USO;
    struct tap *t = tap_of(d);

    if (at->nqueues != t->nqueues)
        return -EINVAL;
    for (unsigned i = 0; i < t->nqueues; i++) {
        struct tap_queue *q = &t->q[i];
        int err = tap_setup(q->fd, &at->offloads);

        if (err) {
            tap_detach(d);
            return err;
        }
        uint32_t frame =
            at->frame_max == 0 || (at->offloads & super) ? NET_FRAME_MAX : at->frame_max;

        /* One byte more, so that a frame that fills all the room is known to be cut. */
        q->need = sizeof(struct net_hdr) + frame + 1;
        vq_device_init(&q->rx, at->queue[i].rx);
        vq_device_init(&q->tx, at->queue[i].tx);
        q->header_bytes = at->header_split ? sizeof(struct net_hdr) + at->header_split : 0;
        if (stack_init(&q->page, at->queue[i].rx->num) < 0 ||
            stack_init(&q->header, at->queue[i].rx->num) < 0) {
            tap_detach(d);
            return -ENOMEM;
        }
    }
    t->offloads = at->offloads;
    at->split_done = true;
    return 0;
}

void
tap_describe(struct device *d, struct device_info *out)
{
    struct tap *t = tap_of(d);

    memset(out, 0, sizeof(*out));
    out->offloads = t->offloads;
    out->nqueues = t->nqueues;
    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++) {
        out->wait_fd[i] = i < t->nqueues ? t->q[i].fd : -1;
        out->wake_fd[i] = -1;
    }
    for (unsigned i = 0; i < t->nqueues; i++) {
        const uint64_t *from = (const uint64_t *)(const void *)&t->q[i].stats;
        uint64_t *to = (uint64_t *)(void *)&out->queue[i];

        for (size_t k = 0; k < sizeof(out->queue[i]) / sizeof(*to); k++)
            to[k] = __atomic_load_n(&from[k], __ATOMIC_RELAXED);
    }
}

/* ---- receive ---- */

int
tap_take_posted(struct tap_queue *q)
{
    struct vq_chain c;
    struct vq_seg seg;
    int got;

    /* A posted buffer is one writable segment, because our driver half posts it so. */
    while ((got = vq_device_get(&q->rx, &seg, 1, &c)) == 1) {
        struct tap_stack *s =
            q->header_bytes && c.in_len == q->header_bytes ? &q->header : &q->page;

        if (c.nout || c.in_len < sizeof(struct net_hdr) || s->first == 0) {
            q->rx.error = VQ_ERR_ORDER;
            return -EPROTO;
        }
        s->first--;
        s->iov[s->first] = seg;
        s->head[s->first] = c.head;
    }
    return got;
}

bool
tap_read_room(struct tap_queue *q, uint32_t page, uint32_t header, struct vq_seg *seg,
              struct tap_read *r)
{
    const struct vq_seg *b = &q->page.iov[page];
    uint32_t have = q->page.size - page;
    unsigned nseg = 0;
    uint32_t n = 0;
    size_t room = 0;

    if (q->header_bytes) {
        if (header == q->header.size)
            return false;
        seg[nseg++] = q->header.iov[header];
        room = q->header_bytes;
    }
    for (unsigned first = nseg; n < have && room < q->need; n++) {
        if (nseg > first && (char *)seg[nseg - 1].addr + seg[nseg - 1].len == b[n].addr) {
            seg[nseg - 1].len += b[n].len;
        } else {
            if (nseg == TAP_READ_SEGS)
                break;
            seg[nseg++] = b[n];
        }
        room += b[n].len;
    }
    *r = (struct tap_read){page, n, header, nseg, room};
    if (room >= q->need)
        return true;
    /* Unless the ring has only these, or they are too small for more to be offered. */
    return n > 0 && (have + q->header.size - header == q->page.size || nseg == TAP_READ_SEGS);
}

struct tap_used
tap_read_done(struct tap_queue *q, const struct tap_read *r, int64_t res)
{
    struct tap_used used = {0, 0};
    size_t left = (size_t)res;
    struct net_hdr *h;

    if (res < 0)
        return used;
    if ((size_t)res == r->room || (size_t)res < sizeof(*h)) {
        /* The kernel cut it silently: drop all of it, and keep the buffers. */
        counter_add(&q->stats.rx_truncated, 1);
        return used;
    }
    counter_add(&q->stats.rx_frames, 1);
    counter_add(&q->stats.rx_bytes, left - sizeof(*h));
    if (q->header_bytes) {
        size_t part = left < q->header_bytes ? left : q->header_bytes;

        h = q->header.iov[r->header].addr;
        vq_device_put(&q->rx, q->header.head[r->header], (uint32_t)part);
        left -= part;
        used.headers = 1;
    } else {
        h = q->page.iov[r->page].addr;
    }
    for (; left > 0; used.pages++) {
        size_t len = q->page.iov[r->page + used.pages].len;
        size_t part = left < len ? left : len;

        vq_device_put(&q->rx, q->page.head[r->page + used.pages], (uint32_t)part);
        left -= part;
    }
    h->num_buffers = (uint16_t)(used.pages + used.headers);
    return used;
}

int
tap_poll(struct device *d, unsigned queue, unsigned budget)
{
    struct tap_queue *q = &tap_of(d)->q[queue];
    int err = tap_take_posted(q);
    unsigned moved = 0;
    size_t bytes = 0;

    while (!err && moved < budget && bytes < TAP_POLL_BYTES) {
        struct vq_seg seg[TAP_READ_SEGS];
        struct tap_read r;

        if (!tap_read_room(q, q->page.first, q->header.first, seg, &r)) {
            counter_add(&q->stats.rx_no_buffer, 1);
            break;
        }
        ssize_t got = r.nseg == 1
                          ? read(q->fd, seg[0].addr, seg[0].len)
                          : readv(q->fd, (const struct iovec *)(const void *)seg, (int)r.nseg);

        counter_add(&q->stats.syscalls, 1);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            err = tap_error(q, errno);
            break;
        }
        struct tap_used used = tap_read_done(q, &r, got);

        q->page.first += used.pages;
        q->header.first += used.headers;
        bytes += (size_t)got;
        moved++;
    }
    vq_device_publish(&q->rx);
    return err ? err : (int)moved;
}

/* ---- transmit ---- */

int64_t
tap_write(struct tap_queue *q, const struct vq_seg *seg, unsigned n)
{
    ssize_t done;

    do {
        done = n == 1 ? write(q->fd, seg->addr, seg->len)
                      : writev(q->fd, (const struct iovec *)(const void *)seg, (int)n);
        counter_add(&q->stats.syscalls, 1);
    } while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
}

void
tap_sent(struct tap_queue *q, int64_t res, struct tap_sent *sum)
{
    if (res == -EFAULT) {
        counter_add(&q->stats.tx_fault, 1);
        sum->fault = true;
    } else if (res < 0) {
        counter_add(&q->stats.tx_refused, 1);
    } else {
        counter_add(&q->stats.tx_frames, 1);
        counter_add(&q->stats.tx_bytes, (uint64_t)res - sizeof(struct net_hdr));
        sum->frames++;
    }
}
