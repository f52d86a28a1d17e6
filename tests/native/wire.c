/* SPDX-License-Identifier: BSD-2-Clause */
#include "wire.h"

#include <string.h>

#include "check.h"

#define ETH 14u
#define TCP_SYN 0x02

struct frame {
    struct frame *next;
    uint64_t at;
    struct net_hdr h;
    size_t len;
    uint8_t data[];
};

struct end {
    struct device dev;
    struct wire *wire;
    unsigned number;
    bool attached, destroyed;
    uint32_t offloads;
    struct vq_device rx, tx;
    struct frame *in; /* on their way here, by time of arrival */
    unsigned nin;
    struct wire_faults faults; /* of what it sends */
    struct device_queue_stats stats;
};

struct wire {
    struct wire_config config;
    uint64_t now, rng;
    struct end end[2];
    struct wire_counts counts;
};

uint64_t
wire_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static bool
chance(struct wire *w, unsigned parts)
{
    return parts && wire_random(&w->rng) % 10000 < parts;
}

static unsigned
be16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static void
set16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static unsigned
sum16(const uint8_t *p, size_t len, unsigned sum)
{
    for (; len > 1; p += 2, len -= 2) {
        sum += be16(p);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    if (len)
        sum += (unsigned)*p << 8;
    return (sum & 0xffff) + (sum >> 16);
}

void
wire_tcp_sum(uint8_t *frame, size_t len)
{
    uint8_t *ip = frame + ETH, *tcp = ip + 4 * (ip[0] & 15);
    size_t hlen = (size_t)(tcp - frame), tlen;

    if (len < hlen + 20)
        return;
    tlen = len - hlen;
    set16(ip + 10, 0);
    set16(ip + 10, ~sum16(ip, (size_t)(tcp - ip), 0));
    set16(tcp + 16, 0);
    set16(tcp + 16, ~sum16(tcp, tlen, sum16(ip + 12, 8, 6 + (unsigned)tlen)));
}

static void
enqueue(struct end *to, struct frame *f)
{
    struct frame **p = &to->in;

    if (to->nin >= (to->wire->config.queue ? to->wire->config.queue : 4096)) {
        to->wire->counts.lost++;
        free(f);
        return;
    }
    while (*p && (*p)->at <= f->at)
        p = &(*p)->next;
    f->next = *p;
    *p = f;
    to->nin++;
    to->wire->counts.carried++;
}

static void
carry(struct wire *w, unsigned from, const void *data, size_t len, const struct net_hdr *h,
      bool harm)
{
    struct end *to = &w->end[!from];
    const struct wire_faults *x = &w->end[from].faults;
    struct frame *f = malloc(sizeof(*f) + len);

    CHECK(f);
    memcpy(f->data, data, len);
    f->h = *h;
    f->len = len;
    f->at = w->now + w->config.delay;
    if (harm) {
        if (chance(w, x->lose) ||
            (w->config.look && !w->config.look(w->config.arg, from, f->data, len, &f->h))) {
            w->counts.lost++;
            free(f);
            return;
        }
        if (chance(w, x->reorder)) {
            w->counts.reordered++;
            f->at += wire_random(&w->rng) % (4 * w->config.delay + 1);
        }
        if (chance(w, x->damage) && !(f->h.flags & NET_HDR_F_NEEDS_CSUM)) {
            w->counts.damaged++;
            f->data[ETH + wire_random(&w->rng) % (len - ETH)] ^= (uint8_t)(1u << (w->rng & 7));
        }
        if (chance(w, x->cut)) {
            w->counts.cut++;
            f->len = ETH + wire_random(&w->rng) % (len - ETH);
        }
        if (chance(w, x->twice)) {
            w->counts.doubled++;
            carry(w, from, data, len, h, false);
        }
    }
    enqueue(to, f);
}

/* blot() - NOPs over options of a SYN */
static void
blot(const struct wire *w, uint8_t *frame, size_t len)
{
    uint8_t *tcp = frame + ETH + 20, *p = tcp + 20, *end = tcp + (tcp[12] >> 4) * 4;

    if (len < ETH + 40 || be16(frame + 12) != 0x0800 || frame[ETH + 9] != 6 ||
        !(tcp[13] & TCP_SYN) || end > frame + len)
        return;
    while (p + 1 < end && *p) {
        uint8_t kind = *p, size = kind == 1 ? 1 : p[1];

        if ((kind == 4 && w->config.no_sack) || (kind == 8 && w->config.no_timestamps) ||
            (kind == 3 && w->config.no_wscale))
            memset(p, 1, size);
        p += size;
    }
}

/* segment() - what a card does with a super-frame: segments with headers and sums of their own */
static void
segment(struct wire *w, unsigned from, uint8_t *frame, size_t len, const struct net_hdr *h)
{
    static const struct net_hdr plain = {.num_buffers = 1};
    unsigned hlen = h->hdr_len, size = h->gso_size, i = 0;
    unsigned id = be16(frame + ETH + 4);
    uint32_t seq = (uint32_t)be16(frame + 38) << 16 | be16(frame + 40);
    uint8_t copy[65536];

    for (size_t off = hlen; off < len; off += size, i++) {
        size_t n = len - off < size ? len - off : size;
        uint8_t *tcp = copy + ETH + 20;

        memcpy(copy, frame, hlen);
        memcpy(copy + hlen, frame + off, n);
        set16(copy + ETH + 2, (unsigned)(hlen - ETH + n));
        set16(copy + ETH + 4, id + i);
        set16(tcp + 4, (seq + i * size) >> 16);
        set16(tcp + 6, seq + i * size);
        if (off + n < len)
            tcp[13] &= (uint8_t)~0x09; /* FIN and PSH belong to the last */
        wire_tcp_sum(copy, hlen + n);
        carry(w, from, copy, hlen + n, &plain, true);
    }
}

static int
end_kick(struct device *d, unsigned queue)
{
    struct end *e = (struct end *)(void *)d;
    struct wire *w = e->wire;
    struct vq_seg seg[NET_TX_SEGS];
    struct vq_chain c;
    int got, sent = 0;

    (void)queue;
    while ((got = vq_device_get(&e->tx, seg, NET_TX_SEGS, &c)) == 1) {
        static uint8_t frame[NET_FRAME_MAX];
        struct net_hdr h;
        size_t len = 0;

        /* The header may share its segment with the frame (virtio 1.x, 2.7.4). */
        CHECK(seg[0].len >= sizeof(h));
        memcpy(&h, seg[0].addr, sizeof(h));
        h.num_buffers = 1;
        seg[0].addr = (uint8_t *)seg[0].addr + sizeof(h);
        seg[0].len -= sizeof(h);
        for (unsigned i = 0; i < c.nout; i++) {
            memcpy(frame + len, seg[i].addr, seg[i].len);
            len += seg[i].len;
        }
        vq_device_put(&e->tx, c.head, 0);
        sent++;
        e->stats.tx_frames++;
        blot(w, frame, len);
        if (w->config.segment && h.gso_type == NET_HDR_GSO_TCPV4) {
            segment(w, e->number, frame, len, &h);
            continue;
        }
        if (w->config.segment && (h.flags & NET_HDR_F_NEEDS_CSUM)) {
            uint8_t *at = frame + h.csum_start;

            /* As the specification defines it, not specially for TCP: sum the bytes as they are. */
            set16(at + h.csum_offset, ~sum16(at, len - h.csum_start, 0));
            h.flags = 0;
        }
        carry(w, e->number, frame, len, &h, true);
    }
    vq_device_publish(&e->tx);
    return got < 0 ? got : sent;
}

static int
end_poll(struct device *d, unsigned queue, unsigned budget)
{
    struct end *e = (struct end *)(void *)d;
    unsigned moved = 0;

    (void)queue;
    while (moved < budget && e->in && e->in->at <= e->wire->now) {
        struct frame *f = e->in;
        struct vq_chain c[NET_FRAME_PAGES];
        struct vq_seg seg[NET_FRAME_PAGES] = {{0}};
        size_t room = 0, off = 0, skip = sizeof(f->h);
        uint16_t n = 0;
        int got = 1;

        while (room < f->len + skip && (got = vq_device_get(&e->rx, &seg[n], 1, &c[n])) == 1)
            room += seg[n++].len;
        CHECK(got >= 0);
        if (room < f->len + skip) { /* it waits, as in a card's memory */
            vq_device_unget(&e->rx, n);
            break;
        }
        f->h.num_buffers = n;
        memcpy(seg[0].addr, &f->h, skip);
        for (unsigned i = 0; i < n; i++, skip = 0) {
            size_t part = f->len - off < seg[i].len - skip ? f->len - off : seg[i].len - skip;

            memcpy((uint8_t *)seg[i].addr + skip, f->data + off, part);
            vq_device_put(&e->rx, c[i].head, (uint32_t)(part + skip));
            off += part;
        }
        e->in = f->next;
        e->nin--;
        free(f);
        e->stats.rx_frames++;
        moved++;
    }
    vq_device_publish(&e->rx);
    return (int)moved;
}

static int
end_attach(struct device *d, struct device_attach *at)
{
    struct end *e = (struct end *)(void *)d;

    vq_device_init(&e->rx, at->queue[0].rx);
    vq_device_init(&e->tx, at->queue[0].tx);
    at->offloads &= e->wire->config.offloads;
    e->offloads = at->offloads;
    e->attached = true;
    return 0;
}

static int
end_detach(struct device *d)
{
    struct end *e = (struct end *)(void *)d;

    e->attached = false;
    return 0;
}

static void
end_describe(struct device *d, struct device_info *out)
{
    struct end *e = (struct end *)(void *)d;

    memset(out, 0, sizeof(*out));
    out->name = "wire";
    out->offloads = e->offloads;
    out->nqueues = 1;
    out->queue[0] = e->stats;
    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++)
        out->wait_fd[i] = out->wake_fd[i] = -1;
}

static void
end_destroy(struct device *d)
{
    struct end *e = (struct end *)(void *)d;

    e->destroyed = true;
}

static const struct device_ops end_ops = {
    .attach = end_attach,
    .kick = end_kick,
    .poll = end_poll,
    .detach = end_detach,
    .describe = end_describe,
    .destroy = end_destroy,
};

struct wire *
wire_create(const struct wire_config *config, struct device *end[2])
{
    struct wire *w = calloc(1, sizeof(*w));

    CHECK(w);
    w->config = *config;
    w->rng = config->seed;
    w->now = 1000000000;
    for (unsigned i = 0; i < 2; i++) {
        w->end[i].dev.ops = &end_ops;
        w->end[i].wire = w;
        w->end[i].number = i;
        end[i] = &w->end[i].dev;
    }
    return w;
}

void
wire_destroy(struct wire *w)
{
    for (unsigned i = 0; i < 2; i++) {
        CHECK(w->end[i].destroyed);
        while (w->end[i].in) {
            struct frame *f = w->end[i].in;

            w->end[i].in = f->next;
            free(f);
        }
    }
    free(w);
}

void
wire_set_faults(struct wire *w, unsigned from, struct wire_faults f)
{
    w->end[from].faults = f;
}

void
wire_inject(struct wire *w, unsigned from, const void *frame, size_t len, const struct net_hdr *h)
{
    static const struct net_hdr plain = {.num_buffers = 1};

    carry(w, from, frame, len, h ? h : &plain, false);
}

uint64_t
wire_clock(void *w)
{
    return ((struct wire *)w)->now;
}

void
wire_advance(struct wire *w, uint64_t when)
{
    if (when > w->now)
        w->now = when;
}

uint64_t
wire_next(const struct wire *w)
{
    uint64_t at = UINT64_MAX;

    for (unsigned i = 0; i < 2; i++)
        if (w->end[i].in && w->end[i].in->at < at)
            at = w->end[i].in->at;
    return at;
}

const struct wire_counts *
wire_counts(const struct wire *w)
{
    return &w->counts;
}
