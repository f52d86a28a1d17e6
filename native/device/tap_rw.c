/* SPDX-License-Identifier: BSD-2-Clause */
/* The TAP through readv and writev: one system call per frame, directly from and to the posted pages. */
#include <stdlib.h>

#include "device/tap.h"

static int
tap_rw_kick(struct device *d, unsigned queue)
{
    struct tap_queue *q = &tap_of(d)->q[queue];
    struct vq_seg seg[NET_TX_SEGS];
    struct vq_chain c;
    struct tap_sent sum = {0};
    int got;

    while ((got = vq_device_get(&q->tx, seg, NET_TX_SEGS, &c)) == 1) {
        int64_t res = tap_write(q, seg, c.nout);

        if (tap_retry(res)) {
            /* The frame stays on the ring until the interface accepts frames again. */
            vq_device_unget(&q->tx, 1);
            got = tap_error(q, (int)-res);
            break;
        }
        tap_sent(q, res, &sum);
        vq_device_put(&q->tx, c.head, 0);
    }
    vq_device_publish(&q->tx);
    return got < 0 ? got : tap_kicked(&sum);
}

static void
tap_rw_describe(struct device *d, struct device_info *out)
{
    tap_describe(d, out);
    out->name = "tap_rw";
}

static void
tap_rw_destroy(struct device *d)
{
    tap_fini(tap_of(d));
    free(tap_of(d));
}

static const struct device_ops tap_rw_ops = {
    .attach = tap_attach,
    .kick = tap_rw_kick,
    .poll = tap_poll,
    .detach = tap_detach,
    .describe = tap_rw_describe,
    .destroy = tap_rw_destroy,
};

int
tap_rw_create(const int *fds, unsigned nqueues, struct device **out)
{
    struct tap *t = calloc(1, sizeof(*t));
    int err = t ? tap_init(t, &tap_rw_ops, fds, nqueues) : -ENOMEM;

    if (err) {
        free(t);
        return err;
    }
    *out = &t->dev;
    return 0;
}
