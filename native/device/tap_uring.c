/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The TAP in batches: one io_uring submission transmits all waiting frames, with a WRITE or WRITEV
 * for each, and another receives frames with READs.
 *
 * The requests are neither linked nor asynchronous: the kernel executes them in order within the
 * system call, and all are complete when it returns. So nothing is in flight between two calls, and
 * detach has nothing to cancel or wait for. (Linked writes cost half as much again as unlinked
 * ones.)
 *
 * A batch of reads has to guess how many frames wait. The guess doubles while every read finds a
 * frame, and falls to the number found when one does not. A multishot read into provided buffers is
 * slower: in the bare loops of tools/limits, batched READs of 64 B take 0.87 of the time of read(2)
 * and a multishot read 1.0; for 1514 B it is 0.94 and 1.07.
 */
#include <stdlib.h>
#include <string.h>

#include "base/counter.h"
#include "device/tap.h"
#include "ring/uring.h"

#define BATCH 64u
/* For fewer frames, a system call each is cheaper than one submission for all. */
#define BATCH_MIN 4u
/* Segments of one batch; the longest chain always fits. */
#define BATCH_SEGS (8 * NET_TX_SEGS)

struct batch {
    struct uring ring;
    unsigned n, nseg;
    uint16_t chain[BATCH];       /* transmit: head of each */
    struct tap_read read[BATCH]; /* receive */
    uint16_t at[BATCH];          /* its first segment */
    uint16_t count[BATCH];       /* its number of segments */
    int32_t res[BATCH];
    struct vq_seg seg[BATCH_SEGS];

    unsigned guess;     /* frames that may be waiting in the kernel */
    size_t frame_bytes; /* length of the last frames */
};

struct tap_uring {
    struct tap tap;
    int rw_flags;
    struct batch *batch[NIC_MAX_QUEUES];
};

static struct tap_uring *
tap_uring_of(struct device *d)
{
    return (struct tap_uring *)(void *)d;
}

/* ---- the ring ---- */

/* stop() - close the ring; the interface is released at once, not whenever the kernel gets round to it */
static void
stop(struct batch *b)
{
    if (b->ring.fd >= 0)
        uring_unregister_files(&b->ring);
    uring_destroy(&b->ring);
}

/* add() - add a request, with @n segments that follow those of the requests before it */
static void
add(struct batch *b, unsigned n)
{
    b->at[b->n] = (uint16_t)b->nseg;
    b->count[b->n] = (uint16_t)n;
    b->n++;
    b->nseg += n;
}

static void
prepare(struct tap_uring *t, struct batch *b, int op, int opv)
{
    for (unsigned i = 0; i < b->n; i++) {
        struct io_uring_sqe *e = uring_get_sqe(&b->ring);
        const struct vq_seg *s = &b->seg[b->at[i]];

        if (b->count[i] == 1)
            uring_prep_rw(e, op, 0, s->addr, (uint32_t)s->len, 0);
        else
            uring_prep_rw(e, opv, 0, s, b->count[i], 0);
        e->flags = IOSQE_FIXED_FILE;
        e->rw_flags = t->rw_flags;
        e->user_data = i;
        b->res[i] = -EAGAIN; /* not executed: to be made again, or otherwise */
    }
}

/* submit() - submit a batch; returns how many requests were completed, always a prefix */
static unsigned
submit(struct tap_uring *t, struct tap_queue *q, struct batch *b, int op, int opv)
{
    unsigned done = 0;

    if (b->ring.fd < 0)
        return 0;
    prepare(t, b, op, opv);
    int r = uring_submit(&b->ring);

    for (;;) {
        uint32_t at;
        uint32_t n = uring_peek(&b->ring, &at);

        counter_add(&q->stats.syscalls, 1);
        for (uint32_t i = 0; i < n; i++) {
            const struct io_uring_cqe *c = uring_cqe(&b->ring, at + i);

            b->res[c->user_data] = c->res;
        }
        uring_advance(&b->ring, n);
        done += n;
        if (done == b->n)
            return done;
        /* An error, and all accepted requests are complete: the kernel takes no more, for lack of memory. */
        if (r < 0 && done + uring_pending(&b->ring) == b->n)
            break;
        /* A kernel without IORING_SETUP_SUBMIT_ALL stops at a failing request: continue after it. */
        r = uring_submit_and_wait(&b->ring, 1, 100000000);
    }
    stop(b);
    return done;
}

/* ---- receive ---- */

/* offer() - offer room for up to @want frames, as buffers allow; returns how many */
static unsigned
offer(struct tap_queue *q, struct batch *b, unsigned want)
{
    uint32_t page = q->page.first;
    uint32_t header = q->header.first;

    b->n = b->nseg = 0;
    while (b->n < want && b->nseg + TAP_READ_SEGS <= BATCH_SEGS) {
        struct tap_read *r = &b->read[b->n];

        if (!tap_read_room(q, page, header, &b->seg[b->nseg], r))
            break;
        page += r->npages;
        header += q->header_bytes != 0;
        add(b, r->nseg);
    }
    return b->n;
}

static void
move(struct tap_stack *s, uint32_t to, uint32_t from)
{
    s->iov[to] = s->iov[from];
    s->head[to] = s->head[from];
}

/*
 * take() - take the frames of a batch of reads, in order; returns how many
 *
 * Offered but unused buffers stay on the stacks, in order.
 */
static unsigned
take(struct tap_queue *q, struct batch *b, unsigned done, size_t *bytes)
{
    const struct tap_read *last = &b->read[b->n - 1];
    uint32_t page = last->page + last->npages;
    uint32_t header = last->header + (q->header_bytes != 0);
    struct tap_used used[BATCH];
    unsigned moved = 0;

    for (unsigned i = 0; i < b->n; i++) {
        used[i] = tap_read_done(q, &b->read[i], i < done ? b->res[i] : -EAGAIN);
        if (i < done && b->res[i] >= 0) {
            b->frame_bytes = (size_t)b->res[i];
            *bytes += b->frame_bytes;
            moved++;
        }
    }
    for (unsigned i = b->n; i > 0; i--) {
        const struct tap_read *r = &b->read[i - 1];

        for (uint32_t k = r->npages; k > used[i - 1].pages; k--)
            move(&q->page, --page, r->page + k - 1);
        if (q->header_bytes && !used[i - 1].headers)
            move(&q->header, --header, r->header);
    }
    q->page.first = page;
    q->header.first = header;
    return moved;
}

static int
tap_uring_poll(struct device *d, unsigned queue, unsigned budget)
{
    struct tap_uring *t = tap_uring_of(d);
    struct tap_queue *q = &t->tap.q[queue];
    struct batch *b = t->batch[queue];
    unsigned moved = 0;
    size_t bytes = 0;
    int err = 0;

    /* Few frames, or few because they are long: separate reads are cheaper. */
    if (b->guess < BATCH_MIN || b->frame_bytes > TAP_POLL_BYTES / BATCH_MIN || !t->rw_flags ||
        b->ring.fd < 0) {
        uint64_t before = q->stats.rx_bytes;

        err = tap_poll(d, queue, budget);
        b->guess = err > 0 ? (unsigned)err : 0;
        if (err > 0)
            b->frame_bytes = (size_t)(q->stats.rx_bytes - before) / (unsigned)err;
        return err;
    }
    err = tap_take_posted(q);
    while (!err && moved < budget && bytes < TAP_POLL_BYTES) {
        unsigned want = b->guess < BATCH ? b->guess : BATCH;
        unsigned most = (unsigned)((TAP_POLL_BYTES - bytes) / (b->frame_bytes + 1)) + 1;

        want = want < budget - moved ? want : budget - moved;
        want = want < most ? want : most;
        if (offer(q, b, want) == 0) {
            counter_add(&q->stats.rx_no_buffer, 1);
            break;
        }
        unsigned done = submit(t, q, b, IORING_OP_READ, IORING_OP_READV);
        unsigned got = take(q, b, done, &bytes);

        moved += got;
        if (got < b->n) {
            /* The first that failed says why: an empty queue, or an error of the TAP. */
            for (unsigned i = 0; i < b->n && !err; i++)
                err = b->res[i] < 0 ? tap_error(q, -b->res[i]) : 0;
            b->guess = moved;
            break;
        }
        b->guess = 2 * want < BATCH ? 2 * want : BATCH;
    }
    vq_device_publish(&q->rx);
    return err ? err : (int)moved;
}

/* ---- transmit ---- */

/* collect() - take chains off the ring while they fit; returns like vq_device_get() */
static int
collect(struct tap_queue *q, struct batch *b)
{
    int got = 0;

    b->n = b->nseg = 0;
    while (b->n < BATCH && b->nseg + NET_TX_SEGS <= BATCH_SEGS) {
        struct vq_chain c;

        got = vq_device_get(&q->tx, &b->seg[b->nseg], NET_TX_SEGS, &c);
        if (got <= 0)
            break;
        b->chain[b->n] = c.head;
        add(b, c.nout);
    }
    return got < 0 ? got : 0;
}

/* one_by_one() - send a batch by system calls from @i on, up to the first frame that must stay on the ring */
static void
one_by_one(struct tap_queue *q, struct batch *b, unsigned i)
{
    int64_t res = 0;

    for (; i < b->n; i++) {
        if (!tap_retry(res))
            res = tap_write(q, &b->seg[b->at[i]], b->count[i]);
        b->res[i] = (int32_t)res;
    }
}

/*
 * settle() - return the frames that were sent or refused, and leave the others on the ring
 *
 * If the interface comes up in the middle of a batch, later frames were sent although earlier ones
 * were not. The earlier ones are returned as refused, rather than sent out of order.
 *
 * Return: 0, or tap_error()'s result for the first frame that stays.
 */
static int
settle(struct tap_queue *q, struct batch *b, struct tap_sent *sum)
{
    unsigned n = b->n;

    while (n > 0 && tap_retry(b->res[n - 1]))
        n--;
    for (unsigned i = 0; i < n; i++) {
        tap_sent(q, b->res[i], sum);
        vq_device_put(&q->tx, b->chain[i], 0);
    }
    if (n == b->n)
        return 0;
    vq_device_unget(&q->tx, b->n - n);
    return tap_error(q, -b->res[n]);
}

static int
tap_uring_kick(struct device *d, unsigned queue)
{
    struct tap_uring *t = tap_uring_of(d);
    struct tap_queue *q = &t->tap.q[queue];
    struct batch *b = t->batch[queue];
    struct tap_sent sum = {0};
    int err;

    do {
        err = collect(q, b);
        one_by_one(q, b, b->n < BATCH_MIN ? 0 : submit(t, q, b, IORING_OP_WRITE, IORING_OP_WRITEV));
        int stays = settle(q, b, &sum);

        if (stays)
            err = stays;
        /* Frames that stay on the ring wait for the next kick. */
    } while (!err && b->n > 0 && !tap_retry(b->res[b->n - 1]));
    vq_device_publish(&q->tx);
    return err ? err : tap_kicked(&sum);
}

/* ---- life ---- */

/*
 * can_nowait() - does this kernel's TAP take RWF_NOWAIT? (Linux 6.4)
 *
 * Without it, older kernels write at once because the descriptor is non-blocking, but newer ones
 * wait in the background for room. The probe sends no frame: it is shorter than the header.
 */
static bool
can_nowait(int fd)
{
    char byte = 0;
    struct iovec iov = {&byte, 1};

    return pwritev2(fd, &iov, 1, -1, RWF_NOWAIT) < 0 && errno != EOPNOTSUPP;
}

static void
tap_uring_describe(struct device *d, struct device_info *out)
{
    tap_describe(d, out);
    out->name = "tap_uring";
}

static void
tap_uring_destroy(struct device *d)
{
    struct tap_uring *t = tap_uring_of(d);

    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++) {
        if (t->batch[i])
            stop(t->batch[i]);
        free(t->batch[i]);
    }
    tap_fini(&t->tap);
    free(t);
}

static const struct device_ops tap_uring_ops = {
    .attach = tap_attach,
    .kick = tap_uring_kick,
    .poll = tap_uring_poll,
    .detach = tap_detach,
    .describe = tap_uring_describe,
    .destroy = tap_uring_destroy,
};

int
tap_uring_create(const int *fds, unsigned nqueues, struct device **out)
{
    struct tap_uring *t = calloc(1, sizeof(*t));
    int err = t ? tap_init(&t->tap, &tap_uring_ops, fds, nqueues) : -ENOMEM;

    if (err) {
        free(t);
        return err;
    }
    t->rw_flags = can_nowait(t->tap.q[0].fd) ? RWF_NOWAIT : 0;
    for (unsigned i = 0; i < nqueues && !err; i++) {
        t->batch[i] = malloc(sizeof(*t->batch[i]));
        if (t->batch[i] == NULL) {
            err = -ENOMEM;
            break;
        }
        /*
         * Not bound to a thread: that would save 4 %, but then only that thread could release the
         * interface, and another thread may close the NIC.
         */
        err = uring_create(BATCH, 0, 0, &t->batch[i]->ring);
        if (!err)
            err = uring_register_files(&t->batch[i]->ring, &t->tap.q[i].fd, 1);
    }
    if (err) {
        tap_uring_destroy(&t->tap.dev);
        return err;
    }
    *out = &t->tap.dev;
    return 0;
}
