/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/capture.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/guard.h"
#include "base/spin.h"
#include "device/shim.h"

/*
 * Records go into a byte ring. Queues on different threads share it, and hold a lock for the length
 * of a copy. The reader needs no lock: it owns the tail, and the writers own the head.
 */
struct capture {
    struct shim shim;
    uint32_t snaplen;
    size_t size;
    char *ring;
    struct spin lock;
    _Atomic size_t head, tail; /* these do not wrap */
    struct capture_stats stats;
};

static struct capture *
capture_of(struct shim *s)
{
    return (struct capture *)(void *)s;
}

static void
ring_write(struct capture *c, size_t at, const void *data, size_t len)
{
    size_t off = at & (c->size - 1);
    size_t part = len < c->size - off ? len : c->size - off;

    memcpy(c->ring + off, data, part);
    memcpy(c->ring, (const char *)data + part, len - part);
}

static void
ring_read(const struct capture *c, size_t at, void *data, size_t len)
{
    size_t off = at & (c->size - 1);
    size_t part = len < c->size - off ? len : c->size - off;

    memcpy(data, c->ring + off, part);
    memcpy((char *)data + part, c->ring, len - part);
}

/* One frame as segments, without its header. */
struct frame {
    struct capture *capture;
    struct vq_seg seg[NET_TX_SEGS];
    unsigned n;
    size_t at;
    uint32_t caplen;
};

/* copy_frame() - copy under a guard, as transmitted pages may belong to a file that has shrunk */
static int
copy_frame(void *arg)
{
    struct frame *f = arg;
    uint32_t left = f->caplen;
    size_t at = f->at;

    for (unsigned i = 0; i < f->n && left > 0; i++) {
        uint32_t part = f->seg[i].len < left ? (uint32_t)f->seg[i].len : left;

        ring_write(f->capture, at, f->seg[i].addr, part);
        at += part;
        left -= part;
    }
    return 0;
}

static void
keep(struct shim *s, unsigned queue, struct frame *f, bool outbound)
{
    struct capture *c = capture_of(s);
    struct capture_record r = {.queue = (uint16_t)queue, .outbound = outbound};

    r.timestamp = clock_wall();
    for (unsigned i = 0; i < f->n; i++)
        r.len += (uint32_t)f->seg[i].len;
    r.caplen = r.len < c->snaplen ? r.len : c->snaplen;
    size_t need = (sizeof(r) + r.caplen + 7) & ~(size_t)7;

    spin_lock(&c->lock);
    size_t head = atomic_load_explicit(&c->head, memory_order_relaxed);
    size_t used = head - atomic_load_explicit(&c->tail, memory_order_acquire);
    bool room = need <= c->size - used;

    c->stats.received += !outbound;
    c->stats.sent += outbound;
    c->stats.kept += room;
    c->stats.dropped += !room;
    if (room) {
        f->capture = c;
        f->at = head + sizeof(r);
        f->caplen = r.caplen;
        if (guard_run(copy_frame, f) < 0) {
            /* The bytes are lost: the record says only that there was a frame, and its length. */
            r.caplen = 0;
            need = sizeof(r);
        }
        ring_write(c, head, &r, sizeof(r));
        atomic_store_explicit(&c->head, head + need, memory_order_release);
    }
    spin_unlock(&c->lock);
    if (room)
        arena_count_copy(s->arena, r.caplen);
}

static void
capture_rx(struct shim *s, unsigned queue, struct shim_rx *r)
{
    struct frame f = {.n = 0};

    for (unsigned i = 0; i < r->n; i++)
        f.seg[f.n++] = (struct vq_seg){r->buffer[i]->addr, r->len[i]};
    if (f.n && f.seg[0].len >= sizeof(struct net_hdr)) {
        f.seg[0].addr = (char *)f.seg[0].addr + sizeof(struct net_hdr);
        f.seg[0].len -= sizeof(struct net_hdr);
        keep(s, queue, &f, false);
    }
    shim_rx_give(s, queue, r);
}

static void
capture_tx(struct shim *s, unsigned queue, struct shim_tx *c)
{
    struct frame f = {.n = c->n};
    size_t skip = sizeof(struct net_hdr);

    memcpy(f.seg, c->seg, c->n * sizeof(f.seg[0]));
    for (unsigned i = 0; i < f.n && skip > 0; i++) {
        size_t part = f.seg[i].len < skip ? f.seg[i].len : skip;

        f.seg[i].addr = (char *)f.seg[i].addr + part;
        f.seg[i].len -= part;
        skip -= part;
    }
    keep(s, queue, &f, true);
    if (!shim_tx_send(s, queue, c, NULL, 0))
        shim_tx_done(s, queue, c);
}

static void
capture_fini(struct shim *s)
{
    free(capture_of(s)->ring);
}

static const struct shim_ops capture_ops = {
    .name = "capture",
    .rx = capture_rx,
    .tx = capture_tx,
    .done = shim_tx_done,
    .fini = capture_fini,
};

int
capture_create(struct device *inner, uint32_t snaplen, size_t buffer, struct device **out)
{
    size_t size = 4096;

    if (snaplen == 0 || buffer > (size_t)1 << 32)
        return -EINVAL;
    while (size < buffer)
        size *= 2;
    struct capture *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return -ENOMEM;
    c->ring = malloc(size);
    if (c->ring == NULL) {
        free(c);
        return -ENOMEM;
    }
    c->size = size;
    c->snaplen = snaplen;
    shim_init(&c->shim, &capture_ops, inner);
    *out = &c->shim.dev;
    return 0;
}

size_t
capture_read(struct device *d, void *out, size_t size)
{
    struct capture *c = capture_of(shim_of(d));
    size_t head = atomic_load_explicit(&c->head, memory_order_acquire);
    size_t tail = atomic_load_explicit(&c->tail, memory_order_relaxed);
    size_t done = 0;

    while (tail + done != head) {
        struct capture_record r;

        ring_read(c, tail + done, &r, sizeof(r));
        size_t n = (sizeof(r) + r.caplen + 7) & ~(size_t)7;

        if (n > size - done)
            break;
        ring_read(c, tail + done, (char *)out + done, n);
        done += n;
    }
    atomic_store_explicit(&c->tail, tail + done, memory_order_release);
    return done;
}

void
capture_get_stats(const struct device *d, struct capture_stats *out)
{
    struct capture *c = (struct capture *)(uintptr_t)d;

    spin_lock(&c->lock);
    *out = c->stats;
    spin_unlock(&c->lock);
}
