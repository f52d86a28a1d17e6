/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

/* ---- receive ---- */

static void
post_inner(struct shim_queue *q, struct shim_buffer *b)
{
    struct vq_seg seg = {b->addr, b->len};

    /* There is room: the inner ring is as large as the outer one, and holds each buffer once. */
    vq_driver_add(&q->inner_rx, &seg, 0, 1, b);
}

/* relay_posted() - move the driver's posted buffers to the inner ring, except the spares */
static int
relay_posted(struct shim *s, struct shim_queue *q)
{
    struct vq_seg seg;
    struct vq_chain c;
    int got;

    while ((got = vq_device_get(&q->outer_rx, &seg, 1, &c)) == 1) {
        if (c.nout || c.in_len < sizeof(struct net_hdr)) {
            q->outer_rx.error = VQ_ERR_ORDER;
            return -EPROTO;
        }
        struct shim_buffer *b = &q->buffer[c.head];

        *b = (struct shim_buffer){.addr = seg.addr, .len = c.in_len, .head = c.head};
        /* A small ring keeps most of its buffers posted. */
        if (q->nspare < s->ops->spare && q->nspare < q->ring_rx.num / 4) {
            b->next = q->spare;
            q->spare = b;
            q->nspare++;
        } else {
            post_inner(q, b);
        }
    }
    vq_driver_publish(&q->inner_rx);
    return got;
}

struct shim_buffer *
shim_spare(struct shim *s, unsigned queue)
{
    struct shim_queue *q = &s->q[queue];
    struct shim_buffer *b = q->spare;

    if (b) {
        q->spare = b->next;
        q->nspare--;
    }
    return b;
}

void
shim_rx_give(struct shim *s, unsigned queue, struct shim_rx *f)
{
    struct shim_queue *q = &s->q[queue];

    if (f->n && f->len[0] >= sizeof(struct net_hdr))
        ((struct net_hdr *)f->buffer[0]->addr)->num_buffers = (uint16_t)f->n;
    for (unsigned i = 0; i < f->n; i++)
        vq_device_put(&q->outer_rx, f->buffer[i]->head, f->len[i]);
    free(f);
}

void
shim_rx_drop(struct shim *s, unsigned queue, struct shim_rx *f)
{
    for (unsigned i = 0; i < f->n; i++)
        post_inner(&s->q[queue], f->buffer[i]);
    free(f);
}

/* collect() - collect one frame from the inner device; NULL if there is none */
static struct shim_rx *
collect(struct shim_queue *q)
{
    uint32_t len;
    struct shim_buffer *b = vq_driver_get(&q->inner_rx, &len);

    if (b == NULL)
        return NULL;
    struct shim_rx *f = calloc(1, sizeof(*f));

    if (f == NULL) {
        /* No memory to describe it: the frame is lost, but not its buffer. */
        post_inner(q, b);
        return NULL;
    }
    unsigned want = len < sizeof(struct net_hdr) ? 1 : ((struct net_hdr *)b->addr)->num_buffers;

    f->buffer[0] = b;
    f->len[0] = len;
    f->n = 1;
    while (f->n < want && f->n < NET_FRAME_BUFFERS) {
        b = vq_driver_get(&q->inner_rx, &f->len[f->n]);
        if (b == NULL)
            break;
        f->buffer[f->n++] = b;
    }
    return f;
}

/* ---- transmit ---- */

bool
shim_tx_send(struct shim *s, unsigned queue, struct shim_tx *c, const struct vq_seg *seg,
             unsigned n)
{
    struct shim_queue *q = &s->q[queue];

    if (vq_driver_add(&q->inner_tx, seg ? seg : c->seg, seg ? n : c->n, 0, c) < 0)
        return false;
    c->copies++;
    return true;
}

void
shim_tx_done(struct shim *s, unsigned queue, struct shim_tx *c)
{
    vq_device_put(&s->q[queue].outer_tx, c->head, 0);
}

static void
reap_inner(struct shim *s, unsigned queue)
{
    struct shim_queue *q = &s->q[queue];
    struct shim_tx *c;
    uint32_t len;

    while ((c = vq_driver_get(&q->inner_tx, &len)) != NULL) {
        if (--c->copies == 0)
            s->ops->done(s, queue, c);
    }
}

/* send_inner() - let the inner device transmit; frames sent or -errno */
static int
send_inner(struct shim *s, unsigned queue)
{
    struct shim_queue *q = &s->q[queue];
    int sent = 0;

    vq_driver_publish(&q->inner_tx);
    if (vq_driver_outstanding(&q->inner_tx) || q->wake_fd >= 0)
        sent = s->inner->ops->kick(s->inner, queue);
    reap_inner(s, queue);
    return sent;
}

static int
shim_kick(struct device *d, unsigned queue)
{
    struct shim *s = shim_of(d);
    struct shim_queue *q = &s->q[queue];
    struct vq_seg seg[NET_TX_SEGS];
    struct vq_chain vc;
    int got = 0;
    int sent = 0;

    if (!s->ops->tick || s->ops->tick(s, queue)) {
        while ((got = vq_device_get(&q->outer_tx, seg, NET_TX_SEGS, &vc)) == 1) {
            struct shim_tx *c = &q->chain[vc.head];

            *c = (struct shim_tx){.head = vc.head, .n = vc.nout};
            memcpy(c->seg, seg, vc.nout * sizeof(seg[0]));
            s->ops->tx(s, queue, c);
        }
        sent = send_inner(s, queue);
        if (sent >= 0 && q->fault)
            sent = -EFAULT;
        q->fault = false;
    }
    vq_device_publish(&q->outer_tx);
    return got < 0 ? got : sent;
}

static int
shim_poll(struct device *d, unsigned queue, unsigned budget)
{
    struct shim *s = shim_of(d);
    struct shim_queue *q = &s->q[queue];
    struct shim_rx *f;
    int moved = relay_posted(s, q);

    if (moved < 0)
        return moved;
    if (s->ops->tick && !s->ops->tick(s, queue)) {
        vq_device_publish(&q->outer_rx);
        return 0;
    }
    moved = device_poll(s->inner, queue, budget);
    for (unsigned i = 0; i < budget && (f = collect(q)) != NULL; i++)
        s->ops->rx(s, queue, f);
    vq_driver_publish(&q->inner_rx);
    /* As in nic_rx_burst(): tell the device of the dropped frames' buffers, and ask for new frames. */
    int told = device_posted(s->inner, queue);

    moved = told < 0 ? told : moved;
    if (q->wake_fd >= 0 && vq_driver_enable_notify(&q->inner_rx, 1))
        eventfd_write(q->wake_fd, 1);
    if (q->inner_rx.error) {
        q->outer_rx.error = q->inner_rx.error;
        moved = -EPROTO;
    }
    vq_device_publish(&q->outer_rx);
    if (send_inner(s, queue) == -EFAULT) /* kept frames that are due now */
        q->fault = true;
    vq_device_publish(&q->outer_tx);
    return moved;
}

/* ---- life ---- */

static void
queue_fini(struct shim_queue *q)
{
    vq_driver_fini(&q->inner_rx);
    vq_driver_fini(&q->inner_tx);
    vring_destroy(&q->ring_rx);
    vring_destroy(&q->ring_tx);
    free(q->buffer);
    free(q->chain);
    memset(q, 0, sizeof(*q));
}

static int
shim_attach(struct device *d, struct device_attach *at)
{
    struct shim *s = shim_of(d);
    struct device_attach inner = *at;
    struct device_info info;
    int err = 0;

    s->arena = at->arena;
    s->nqueues = at->nqueues;
    for (unsigned i = 0; i < at->nqueues && !err; i++) {
        struct shim_queue *q = &s->q[i];
        struct vring *rx = at->queue[i].rx;
        struct vring *tx = at->queue[i].tx;
        /* Room for sending every chain twice. */
        uint32_t tx_num = tx->num < VQ_NUM_MAX ? 2 * tx->num : tx->num;

        q->buffer = calloc(rx->num, sizeof(*q->buffer));
        q->chain = calloc(tx->num, sizeof(*q->chain));
        if (q->buffer == NULL || q->chain == NULL)
            err = -ENOMEM;
        if (!err)
            err = vring_create(at->arena, rx->num, rx->event_idx, &q->ring_rx);
        if (!err)
            err = vring_create(at->arena, tx_num, tx->event_idx, &q->ring_tx);
        if (!err)
            err = vq_driver_init(&q->inner_rx, &q->ring_rx);
        if (!err)
            err = vq_driver_init(&q->inner_tx, &q->ring_tx);
        vq_device_init(&q->outer_rx, rx);
        vq_device_init(&q->outer_tx, tx);
        inner.queue[i] = (struct device_queue){&q->ring_rx, &q->ring_tx};
    }
    if (!err)
        err = s->inner->ops->attach(s->inner, &inner);
    if (err) {
        for (unsigned i = 0; i < at->nqueues; i++)
            queue_fini(&s->q[i]);
        return err;
    }
    at->offloads = inner.offloads;
    at->split_done = inner.split_done;
    s->inner->ops->describe(s->inner, &info);
    for (unsigned i = 0; i < at->nqueues; i++)
        s->q[i].wake_fd = info.wake_fd[i];
    snprintf(s->name, sizeof(s->name), "%s(%s)", s->ops->name, info.name);
    return 0;
}

static int
shim_detach(struct device *d)
{
    struct shim *s = shim_of(d);
    int err = s->inner->ops->detach(s->inner);

    /* Frames on the inner rings or kept are taken but not used on the outer rings, so the driver reclaims them. */
    for (unsigned i = 0; i < s->nqueues; i++)
        queue_fini(&s->q[i]);
    return err;
}

static void
shim_describe(struct device *d, struct device_info *out)
{
    struct shim *s = shim_of(d);

    s->inner->ops->describe(s->inner, out);
    out->name = s->name;
    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++)
        out->wake_fd[i] = -1; /* frames pass through us only when we are polled */
}

static void
shim_destroy(struct device *d)
{
    struct shim *s = shim_of(d);

    s->inner->ops->destroy(s->inner);
    if (s->ops->fini)
        s->ops->fini(s);
    free(s);
}

static const struct device_ops shim_device_ops = {
    .attach = shim_attach,
    .kick = shim_kick,
    .poll = shim_poll,
    .detach = shim_detach,
    .describe = shim_describe,
    .destroy = shim_destroy,
};

void
shim_init(struct shim *s, const struct shim_ops *ops, struct device *inner)
{
    s->dev.ops = &shim_device_ops;
    s->ops = ops;
    s->inner = inner;
    snprintf(s->name, sizeof(s->name), "%s", ops->name);
}
