/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/faults.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/counter.h"
#include "base/guard.h"
#include "base/in_cksum.h"
#include "device/shim.h"

/* Longest frame with its header: the copy that a corrupted transmit frame needs. */
#define SCRATCH_BYTES (NET_FRAME_MAX + sizeof(struct net_hdr))
#define SCRATCHES 4u
/* Most frames that overtake a reordered one. */
#define REORDER_MAX 8u

/* A queue belongs to one thread, including the state of its faults. */
struct faults_queue {
    uint64_t rng;
    struct faults_stats stats;
    struct shim_rx *rx_kept; /* delayed and reordered frames, soonest due first */
    struct shim_tx *tx_kept;
    struct shim_tx *late;        /* completions to deliver later */
    uint64_t rx_count, tx_count; /* frames seen; the unit of reordering */
    uint32_t stall;              /* polls left to skip */
    char *scratch;
    struct shim_tx *scratch_user[SCRATCHES];
};

struct faults {
    struct shim shim;
    struct faults_config config;
    struct faults_queue q[NIC_MAX_QUEUES];
};

const char *
fault_name(enum fault f)
{
    static const char *const name[FAULT_COUNT] = {"drop",    "duplicate", "reorder",    "truncate",
                                                  "corrupt", "delay",     "short_used", "late",
                                                  "stall",   "alloc",     "trailer"};

    return (unsigned)f < FAULT_COUNT ? name[f] : "unknown";
}

static struct faults *
faults_of(struct shim *s)
{
    return (struct faults *)(void *)s;
}

/* rnd() - xorshift64*: the same seed gives the same faults */
static uint32_t
rnd(struct faults_queue *q, uint32_t below)
{
    q->rng ^= q->rng >> 12;
    q->rng ^= q->rng << 25;
    q->rng ^= q->rng >> 27;
    return (uint32_t)(((q->rng * 0x2545f4914f6cdd1du >> 32) * below) >> 32);
}

/* strikes() - does this fault occur now? It is counted once it is done. */
static bool
strikes(struct faults_queue *q, const uint32_t *rate, enum fault kind)
{
    return rate[kind] != 0 && rnd(q, FAULT_RATE_ONE) < rate[kind];
}

/* happens() - does this fault, which cannot fail, occur now? Counts it. */
static bool
happens(struct faults_queue *q, const uint32_t *rate, uint64_t *count, enum fault kind)
{
    bool yes = strikes(q, rate, kind);

    if (yes)
        counter_add(&count[kind], 1);
    return yes;
}

/*
 * finish_sum() - complete a partial checksum, as on a wire; a super-frame gets one sum
 * @seg: a frame after its header, which is in one piece
 *
 * Call it before flipping a bit: a receiver does not check a partial checksum, and would accept the
 * corrupted frame.
 */
static void
finish_sum(const struct vq_seg *seg, unsigned n)
{
    struct net_hdr h;

    memcpy(&h, seg[0].addr, sizeof(h));
    size_t start = sizeof(h) + h.csum_start, at = 0;
    unsigned char *field[2] = {NULL, NULL};
    uint64_t sum = 0;
    bool odd = false;

    for (unsigned i = 0; i < n && h.flags & NET_HDR_F_NEEDS_CSUM; at += seg[i++].len) {
        unsigned char *p = seg[i].addr;
        size_t off = at < start ? start - at : 0;

        for (unsigned k = 0; k < 2; k++) {
            if (start + h.csum_offset + k - at < seg[i].len)
                field[k] = p + (start + h.csum_offset + k - at);
        }
        if (off < seg[i].len) {
            sum = csum_add(sum, p + off, seg[i].len - off, odd);
            odd ^= (seg[i].len - off) & 1;
        }
    }
    if (field[0] && field[1]) {
        uint16_t v = csum_final(sum);

        memcpy(field[0], &v, 1);
        memcpy(field[1], (char *)&v + 1, 1);
    }
    h = (struct net_hdr){.num_buffers = h.num_buffers};
    memcpy(seg[0].addr, &h, sizeof(h));
}

/* ---- receive ---- */

static uint32_t
rx_bytes(const struct shim_rx *r)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < r->n; i++)
        sum += r->len[i];
    return sum;
}

/* rx_corrupt() - flip one of the bits after the header */
static void
rx_corrupt(struct faults_queue *q, struct shim_rx *r, uint32_t at)
{
    struct vq_seg seg[NET_FRAME_BUFFERS];
    unsigned i = 0;

    for (unsigned k = 0; k < r->n; k++)
        seg[k] = (struct vq_seg){r->buffer[k]->addr, r->len[k]};
    finish_sum(seg, r->n);
    for (; at >= r->len[i]; i++)
        at -= r->len[i];
    ((char *)seg[i].addr)[at] ^= (char)(1 << rnd(q, 8));
}

/* rx_cut() - keep the first @len bytes; emptied buffers go back to the inner device */
static void
rx_cut(struct shim *s, unsigned queue, struct shim_rx *r, uint32_t len)
{
    struct shim_rx *rest = calloc(1, sizeof(*rest));
    unsigned n = 0;

    if (rest == NULL)
        return;
    while (n < r->n && (len > 0 || n == 0)) {
        r->len[n] = r->len[n] < len ? r->len[n] : len;
        len -= r->len[n];
        n++;
    }
    for (unsigned i = n; i < r->n; i++)
        rest->buffer[rest->n++] = r->buffer[i];
    r->n = n;
    shim_rx_drop(s, queue, rest);
}

/* rx_trailer() - put zero bytes behind a frame, where its last buffer has room */
static bool
rx_trailer(struct faults_queue *q, struct shim_rx *r)
{
    struct shim_buffer *b = r->buffer[r->n - 1];
    uint32_t *len = &r->len[r->n - 1], room = (uint32_t)b->len - *len;
    uint32_t more = 1 + rnd(q, room < FAULT_TRAILER_MAX ? room : FAULT_TRAILER_MAX);

    if (room == 0)
        return false;
    memset((char *)b->addr + *len, 0, more);
    *len += more;
    return true;
}

static struct shim_rx *
rx_duplicate(struct shim *s, unsigned queue, const struct shim_rx *r)
{
    struct shim_rx *d = calloc(1, sizeof(*d));

    if (d == NULL)
        return NULL;
    for (; d->n < r->n; d->n++) {
        struct shim_buffer *b = shim_spare(s, queue);

        if (b == NULL || b->len < r->len[d->n]) {
            if (b)
                d->buffer[d->n++] = b;
            shim_rx_drop(s, queue, d);
            return NULL;
        }
        memcpy(b->addr, r->buffer[d->n]->addr, r->len[d->n]);
        arena_count_copy(s->arena, r->len[d->n]);
        d->buffer[d->n] = b;
        d->len[d->n] = r->len[d->n];
    }
    return d;
}

/* keep_rx() - keep a frame until @due; the list is sorted by due time */
static void
keep_rx(struct faults_queue *q, struct shim_rx *r, uint64_t due)
{
    struct shim_rx **p = &q->rx_kept;

    r->due = due;
    while (*p && (*p)->due <= due)
        p = &(*p)->next;
    r->next = *p;
    *p = r;
}

static void
faults_rx(struct shim *s, unsigned queue, struct shim_rx *r)
{
    struct faults *f = faults_of(s);
    struct faults_queue *q = &f->q[queue];
    const uint32_t *rate = f->config.rx;
    uint64_t *count = q->stats.rx;
    uint32_t frame = rx_bytes(r);

    q->rx_count++;
    if (happens(q, rate, count, FAULT_DROP)) {
        shim_rx_drop(s, queue, r);
        return;
    }
    if (frame > sizeof(struct net_hdr)) {
        uint32_t len = frame - (uint32_t)sizeof(struct net_hdr);

        if (r->len[0] >= sizeof(struct net_hdr) && happens(q, rate, count, FAULT_CORRUPT))
            rx_corrupt(q, r, (uint32_t)sizeof(struct net_hdr) + rnd(q, len));
        if (happens(q, rate, count, FAULT_TRUNCATE))
            rx_cut(s, queue, r, (uint32_t)sizeof(struct net_hdr) + rnd(q, len));
        else if (happens(q, rate, count, FAULT_SHORT_USED) && r->len[r->n - 1] > 0)
            r->len[r->n - 1] -= 1 + rnd(q, r->len[r->n - 1]);
    }
    if (strikes(q, rate, FAULT_TRAILER) && rx_trailer(q, r))
        counter_add(&count[FAULT_TRAILER], 1);
    struct shim_rx *twin = strikes(q, rate, FAULT_DUPLICATE) ? rx_duplicate(s, queue, r) : NULL;

    if (happens(q, rate, count, FAULT_DELAY))
        keep_rx(q, r, clock_now() + rnd(q, UINT32_MAX) % (f->config.delay_ns + 1));
    else if (happens(q, rate, count, FAULT_REORDER))
        keep_rx(q, r, clock_now() + f->config.delay_ns / 8 * rnd(q, REORDER_MAX));
    else
        shim_rx_give(s, queue, r);
    if (twin) {
        counter_add(&count[FAULT_DUPLICATE], 1);
        shim_rx_give(s, queue, twin);
    }
}

/* ---- transmit ---- */

static uint32_t
tx_bytes(const struct shim_tx *c)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < c->n; i++)
        sum += (uint32_t)c->seg[i].len;
    return sum;
}

static void
keep_tx(struct shim_tx **list, struct shim_tx *c, uint64_t due)
{
    while (*list && (*list)->due <= due)
        list = &(*list)->next;
    c->due = due;
    c->next = *list;
    *list = c;
}

/* send_corrupted() - send a copy with one bit flipped, because the pages may belong to a file */
static bool
send_corrupted(struct faults *f, unsigned queue, struct shim_tx *c)
{
    struct faults_queue *q = &f->q[queue];
    uint32_t len = tx_bytes(c);
    unsigned k = 0;

    if (q->scratch == NULL)
        q->scratch = kmem_alloc(f->shim.arena, SCRATCHES * SCRATCH_BYTES);
    while (k < SCRATCHES && q->scratch_user[k])
        k++;
    if (q->scratch == NULL || k == SCRATCHES || len <= sizeof(struct net_hdr) ||
        len > SCRATCH_BYTES)
        return false;
    char *to = q->scratch + k * SCRATCH_BYTES;
    uint32_t off = 0;

    for (unsigned i = 0; i < c->n; off += (uint32_t)c->seg[i++].len) {
        if (guard_copy(to + off, c->seg[i].addr, c->seg[i].len) < 0)
            return false; /* a file shrank: the device will find and report the same */
    }
    arena_count_copy(f->shim.arena, len);
    finish_sum(&(struct vq_seg){to, len}, 1);
    to[sizeof(struct net_hdr) + rnd(q, len - (uint32_t)sizeof(struct net_hdr))] ^=
        (char)(1 << rnd(q, 8));
    struct vq_seg seg[2] = {{to, sizeof(struct net_hdr)},
                            {to + sizeof(struct net_hdr), len - sizeof(struct net_hdr)}};

    if (!shim_tx_send(&f->shim, queue, c, seg, 2))
        return false;
    q->scratch_user[k] = c;
    return true;
}

/* tx_cut() - keep the first @len bytes of a chain */
static void
tx_cut(struct shim_tx *c, uint32_t len)
{
    unsigned n = 0;

    while (n < c->n && len > 0) {
        c->seg[n].len = c->seg[n].len < len ? c->seg[n].len : len;
        len -= (uint32_t)c->seg[n].len;
        n++;
    }
    c->n = n;
}

static void
send_or_done(struct shim *s, unsigned queue, struct shim_tx *c)
{
    if (!shim_tx_send(s, queue, c, NULL, 0))
        shim_tx_done(s, queue, c); /* no room in the inner ring: lost, as on a wire */
}

static void
faults_tx(struct shim *s, unsigned queue, struct shim_tx *c)
{
    struct faults *f = faults_of(s);
    struct faults_queue *q = &f->q[queue];
    const uint32_t *rate = f->config.tx;
    uint64_t *count = q->stats.tx;
    uint32_t len = tx_bytes(c);

    q->tx_count++;
    if (happens(q, rate, count, FAULT_DROP)) {
        shim_tx_done(s, queue, c);
        return;
    }
    if (len > sizeof(struct net_hdr) + 14 && happens(q, rate, count, FAULT_TRUNCATE))
        tx_cut(c, (uint32_t)sizeof(struct net_hdr) + 14 +
                      rnd(q, len - (uint32_t)sizeof(struct net_hdr) - 14));
    if (strikes(q, rate, FAULT_CORRUPT) && send_corrupted(f, queue, c)) {
        counter_add(&count[FAULT_CORRUPT], 1);
        return;
    }
    if (happens(q, rate, count, FAULT_DELAY)) {
        keep_tx(&q->tx_kept, c, clock_now() + rnd(q, UINT32_MAX) % (f->config.delay_ns + 1));
        return;
    }
    if (happens(q, rate, count, FAULT_REORDER)) {
        keep_tx(&q->tx_kept, c, clock_now() + f->config.delay_ns / 8 * rnd(q, REORDER_MAX));
        return;
    }
    if (strikes(q, rate, FAULT_DUPLICATE) && shim_tx_send(s, queue, c, NULL, 0))
        counter_add(&count[FAULT_DUPLICATE], 1);
    send_or_done(s, queue, c);
}

static void
faults_done(struct shim *s, unsigned queue, struct shim_tx *c)
{
    struct faults *f = faults_of(s);
    struct faults_queue *q = &f->q[queue];

    for (unsigned k = 0; k < SCRATCHES; k++) {
        if (q->scratch_user[k] == c)
            q->scratch_user[k] = NULL;
    }
    if (happens(q, f->config.tx, q->stats.tx, FAULT_LATE))
        keep_tx(&q->late, c, clock_now() + rnd(q, UINT32_MAX) % (f->config.delay_ns + 1));
    else
        shim_tx_done(s, queue, c);
}

static bool
faults_tick(struct shim *s, unsigned queue)
{
    struct faults *f = faults_of(s);
    struct faults_queue *q = &f->q[queue];

    if (q->stall > 0) {
        q->stall--;
        return false;
    }
    if (happens(q, f->config.rx, q->stats.rx, FAULT_STALL)) {
        q->stall = rnd(q, f->config.stall_polls + 1);
        return false;
    }
    uint64_t now = q->rx_kept || q->tx_kept || q->late ? clock_now() : 0;

    while (q->rx_kept && q->rx_kept->due <= now) {
        struct shim_rx *r = q->rx_kept;

        q->rx_kept = r->next;
        shim_rx_give(s, queue, r);
    }
    while (q->tx_kept && q->tx_kept->due <= now) {
        struct shim_tx *c = q->tx_kept;

        q->tx_kept = c->next;
        send_or_done(s, queue, c);
    }
    while (q->late && q->late->due <= now) {
        struct shim_tx *c = q->late;

        q->late = c->next;
        shim_tx_done(s, queue, c);
    }
    return true;
}

static void
faults_fini(struct shim *s)
{
    struct faults *f = faults_of(s);

    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++) {
        struct faults_queue *q = &f->q[i];

        while (q->rx_kept) {
            struct shim_rx *r = q->rx_kept;

            q->rx_kept = r->next;
            free(r);
        }
        if (q->scratch)
            kmem_free(s->arena, q->scratch, SCRATCHES * SCRATCH_BYTES);
    }
}

static const struct shim_ops faults_ops = {
    .name = "faults",
    .spare = NET_FRAME_PAGES,
    .rx = faults_rx,
    .tx = faults_tx,
    .done = faults_done,
    .tick = faults_tick,
    .fini = faults_fini,
};

int
faults_create(struct device *inner, const struct faults_config *config, struct device **out)
{
    for (unsigned i = 0; i < FAULT_COUNT; i++) {
        if (config->rx[i] > FAULT_RATE_ONE || config->tx[i] > FAULT_RATE_ONE)
            return -EINVAL;
    }
    struct faults *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return -ENOMEM;
    f->config = *config;
    for (uint64_t i = 0; i < NIC_MAX_QUEUES; i++)
        f->q[i].rng = (config->seed ? config->seed : 1) + (i << 32);
    shim_init(&f->shim, &faults_ops, inner);
    *out = &f->shim.dev;
    return 0;
}

void
faults_get_stats(const struct device *d, struct faults_stats *out)
{
    const struct faults *f = (const struct faults *)(const void *)d;

    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++) {
        const struct faults_stats *st = &f->q[i].stats;

        for (unsigned k = 0; k < FAULT_COUNT; k++) {
            out->rx[k] += __atomic_load_n(&st->rx[k], __ATOMIC_RELAXED);
            out->tx[k] += __atomic_load_n(&st->tx[k], __ATOMIC_RELAXED);
        }
    }
}

bool
faults_alloc_fails(void *faults, unsigned queue, bool tx)
{
    struct faults *f = faults_of(shim_of(faults));
    struct faults_queue *q = &f->q[queue];

    return happens(q, tx ? f->config.tx : f->config.rx, tx ? q->stats.tx : q->stats.rx,
                   FAULT_ALLOC);
}
