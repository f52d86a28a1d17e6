/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kernel's vhost-net as the NIC: its worker takes posted buffers and chains directly from our
 * rings and moves frames between them and the TAP. The device half is not our code.
 *
 * One vhost device for each queue pair; ring 0 receives, ring 1 transmits. Ring and buffer
 * addresses are addresses of this process: the memory table maps each whole region of the arena
 * onto itself, so growing a pool or mapping a file does not change it.
 */
#include <fcntl.h>
/* The kernel's header defines its own struct vring. */
#define vring linux_vring
#include <linux/vhost.h>
#undef vring
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/process.h"
#include "base/counter.h"
#include "base/guard.h"
#include "device/tap.h"

#define FEATURE(bit) (UINT64_C(1) << (bit))
#define F_MRG_RXBUF FEATURE(15)
#define F_INDIRECT_DESC FEATURE(28)
#define F_EVENT_IDX FEATURE(29)
#define F_VERSION_1 FEATURE(32)

/* How long a frame may remain the next to send before it is checked. */
#define STUCK_NS 1000000u

enum {
    RX,
    TX,
    RINGS
};

/* Sources of events. */
enum {
    NEWS_CALL, /* used receive buffers */
    NEWS_ERR,  /* a broken ring */
    NEWS_TAP,  /* the interface was deleted */
    NEWS_LOOK, /* time to check the transmit ring */
};

struct vhost_queue {
    int fd;   /* of /dev/vhost-net */
    int news; /* an epoll instance with call[RX], err[], look and the TAP in it */
    int look; /* a timer: wakes a sleeper to check the transmit ring */
    int kick[RINGS], call[RINGS], err[RINGS];
    struct vring *ring[RINGS];
    uint16_t seen[RINGS]; /* available index at the last check */
    uint16_t done;        /* used index of the transmit ring when the timer was started */
    bool looking;         /* the timer is running */
    bool fault;           /* a frame was given up; reported by the next kick */
    int failed;           /* -errno, permanent */
};

struct vhost_net {
    struct tap tap; /* the backends */
    bool attached;
    struct vhost_queue v[NIC_MAX_QUEUES];
};

static struct vhost_net *
vhost_of(struct device *d)
{
    return (struct vhost_net *)(void *)d;
}

/* command() - an ioctl; 0 or -errno */
static int
command(int fd, unsigned long request, void *arg)
{
    return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

/* share_memory() - register the regions of rings, buffers and files */
static int
share_memory(int fd, const struct arena *a)
{
    static const enum arena_region region[] = {REGION_DIRECT, REGION_KMEM, REGION_JUMBO,
                                               REGION_SFBUF, REGION_PBUF};
    const size_t most = sizeof(region) / sizeof(region[0]);
    struct vhost_memory *m = calloc(1, sizeof(*m) + most * sizeof(m->regions[0]));

    if (m == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < most; i++) {
        uint64_t base = (uint64_t)(uintptr_t)a->region_base[region[i]];

        if (base)
            m->regions[m->nregions++] = (struct vhost_memory_region){
                .guest_phys_addr = base,
                .memory_size = round_page(a->region_size[region[i]]),
                .userspace_addr = base,
            };
    }
    int err = command(fd, VHOST_SET_MEM_TABLE, m);

    free(m);
    return err;
}

/* features() - the features that our rings need */
static uint64_t
features(bool event_idx)
{
    return F_MRG_RXBUF | F_INDIRECT_DESC | F_VERSION_1 | (event_idx ? F_EVENT_IDX : 0);
}

/* negotiate() - negotiate all that we need; -EOPNOTSUPP if this kernel lacks any of it */
static int
negotiate(int fd, uint64_t want)
{
    uint64_t have = 0;
    int err = command(fd, VHOST_GET_FEATURES, &have);

    if (!err && (have & want) != want)
        err = -EOPNOTSUPP;
    return err ? err : command(fd, VHOST_SET_FEATURES, &want);
}

int
vhost_net_missing(uint64_t *missing)
{
    uint64_t have = 0;
    int fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    int err = command(fd, VHOST_GET_FEATURES, &have);

    *missing = features(true) & ~have;
    close(fd);
    return err;
}

static int
start_ring(struct vhost_queue *v, unsigned index, int backend)
{
    const struct vring *r = v->ring[index];
    struct vhost_vring_state num = {index, r->num};
    struct vhost_vring_state base = {index, 0};
    struct vhost_vring_addr addr = {
        .index = index,
        .desc_user_addr = (uint64_t)(uintptr_t)r->desc,
        .used_user_addr = (uint64_t)(uintptr_t)r->used,
        .avail_user_addr = (uint64_t)(uintptr_t)r->avail,
    };
    struct vhost_vring_file kick = {index, v->kick[index]};
    struct vhost_vring_file call = {index, v->call[index]};
    struct vhost_vring_file error = {index, v->err[index]};
    struct vhost_vring_file net = {index, backend};
    const struct {
        unsigned long request;
        void *arg;
    } step[] = {
        {VHOST_SET_VRING_NUM, &num},   {VHOST_SET_VRING_BASE, &base}, {VHOST_SET_VRING_ADDR, &addr},
        {VHOST_SET_VRING_KICK, &kick}, {VHOST_SET_VRING_CALL, &call}, {VHOST_SET_VRING_ERR, &error},
        {VHOST_NET_SET_BACKEND, &net}, /* last: the worker begins */
    };
    int err = 0;

    for (size_t i = 0; i < sizeof(step) / sizeof(step[0]) && !err; i++)
        err = command(v->fd, step[i].request, step[i].arg);
    return err;
}

static void
queue_close(struct vhost_queue *v)
{
    for (unsigned i = 0; i < RINGS; i++) {
        int *fd[] = {&v->kick[i], &v->call[i], &v->err[i]};

        for (unsigned k = 0; k < 3; k++) {
            if (*fd[k] >= 0)
                close(*fd[k]);
            *fd[k] = -1;
        }
    }
    int *fd[] = {&v->news, &v->look, &v->fd};

    for (unsigned i = 0; i < 3; i++) {
        process_close(*fd[i]);
        *fd[i] = -1;
    }
}

/*
 * watch() - make one descriptor for all events that wake a sleeper
 *
 * A TAP wakes pollers of EPOLLIN or EPOLLPRI on every frame and when it is deleted. EPOLLIN would
 * be reported for every frame, which only concerns the worker; EPOLLPRI is never reported, and
 * EPOLLERR always, for a deleted interface. So polling for EPOLLPRI reports only the deletion.
 */
static int
watch(struct vhost_queue *v, int tap)
{
    const struct {
        int fd;
        uint32_t events, what;
    } source[] = {
        {v->call[RX], EPOLLIN, NEWS_CALL}, {v->err[RX], EPOLLIN, NEWS_ERR},
        {v->err[TX], EPOLLIN, NEWS_ERR},   {v->look, EPOLLIN, NEWS_LOOK},
        {tap, EPOLLPRI, NEWS_TAP},
    };

    v->news = epoll_create1(EPOLL_CLOEXEC);
    if (v->news < 0)
        return -errno;
    for (size_t i = 0; i < sizeof(source) / sizeof(source[0]); i++) {
        struct epoll_event e = {.events = source[i].events, .data.u32 = source[i].what};

        if (epoll_ctl(v->news, EPOLL_CTL_ADD, source[i].fd, &e) < 0)
            return -errno;
    }
    return 0;
}

static int
queue_open(struct vhost_queue *v, const struct device_attach *at, unsigned queue, int backend)
{
    int err = 0;

    v->ring[RX] = at->queue[queue].rx;
    v->ring[TX] = at->queue[queue].tx;
    v->failed = 0;
    v->looking = v->fault = false;
    v->fd = process_own(open("/dev/vhost-net", O_RDWR | O_CLOEXEC));
    if (v->fd < 0)
        return -errno;
    v->look = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (v->look < 0)
        err = -errno;
    for (unsigned i = 0; i < RINGS && !err; i++) {
        v->seen[i] = 0;
        v->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        v->call[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        v->err[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (v->kick[i] < 0 || v->call[i] < 0 || v->err[i] < 0)
            err = -errno;
    }
    if (!err)
        err = watch(v, backend);
    if (!err)
        err = command(v->fd, VHOST_SET_OWNER, NULL);
    if (!err)
        err = negotiate(v->fd, features(v->ring[RX]->event_idx));
    if (!err)
        err = share_memory(v->fd, at->arena);
    for (unsigned i = 0; i < RINGS && !err; i++)
        err = start_ring(v, i, backend);
    return err;
}

static int
vhost_detach(struct device *d)
{
    struct vhost_net *n = vhost_of(d);

    if (!n->attached)
        return 0;
    for (unsigned i = 0; i < n->tap.nqueues; i++) {
        struct vhost_queue *v = &n->v[i];

        /* Without a backend the worker stops using the ring; the call returns once it has. */
        for (unsigned k = 0; k < RINGS && v->fd >= 0; k++) {
            struct vhost_vring_file none = {k, VHOST_FILE_UNBIND};

            command(v->fd, VHOST_NET_SET_BACKEND, &none);
        }
        queue_close(v);
    }
    n->attached = false;
    return 0;
}

static int
vhost_attach(struct device *d, struct device_attach *at)
{
    struct vhost_net *n = vhost_of(d);
    int err = 0;

    if (at->nqueues != n->tap.nqueues)
        return -EINVAL;
    /* If a frame exceeds all buffers together, the worker would wait for more for ever. */
    for (unsigned i = 0; i < at->nqueues; i++) {
        if (at->queue[i].rx->num < NET_FRAME_PAGES)
            return -ENOSPC;
    }
    n->attached = true;
    for (unsigned i = 0; i < at->nqueues && !err; i++) {
        err = tap_setup(n->tap.q[i].fd, &at->offloads);
        if (!err)
            err = queue_open(&n->v[i], at, i, n->tap.q[i].fd);
    }
    if (err)
        vhost_detach(d);
    else
        n->tap.offloads = at->offloads;
    return err;
}

/*
 * notify() - wake the worker only if it asked for it
 *
 * The driver has published by now, and calls us at every poll and kick. With event_idx the ring
 * says whether the new entries matter to the other side (virtio 1.x, 2.7.10).
 */
static void
notify(struct vhost_net *n, unsigned queue, unsigned index)
{
    struct vhost_queue *v = &n->v[queue];
    const struct vring *r = v->ring[index];
    uint16_t now = __atomic_load_n(&r->avail->idx, __ATOMIC_RELAXED);
    uint16_t old = v->seen[index];

    if (now == old)
        return;
    v->seen[index] = now;
    if (!vring_should_kick(r, now, old))
        return;
    if (eventfd_write(v->kick[index], 1) == 0)
        counter_add(&n->tap.q[queue].stats.syscalls, 1);
}

/* read_all() - read one byte of each page of a segment */
static int
read_all(void *arg)
{
    const struct vq_seg *seg = arg;
    const volatile char *p = seg->addr;

    for (size_t at = 0; at < seg->len; at += PAGE_SIZE)
        (void)p[at];
    (void)p[seg->len - 1];
    return 0;
}

/*
 * give_up() - if the worker cannot read all of a chain, let it read something that the TAP refuses
 *
 * The header first: by the time the worker can read the rest, the header makes the frame invalid.
 */
static bool
give_up(const struct vring *r, uint16_t head)
{
    struct vq_desc *d = &r->desc[head];
    bool gone = false;

    for (uint32_t i = 0; i < r->num; i++, d = &r->desc[d->next]) {
        struct vq_seg seg = {(void *)(uintptr_t)d->addr, d->len};

        if (seg.len && guard_run(read_all, &seg) == -EFAULT) {
            const struct net_hdr none = {.gso_type = 0x7f};

            memcpy((void *)(uintptr_t)r->desc[head].addr, &none, sizeof(none));
            if (d->len > r->bytes)
                __atomic_store_n(&d->len, (uint32_t)r->bytes, __ATOMIC_RELEASE);
            __atomic_store_n(&d->addr, (uint64_t)(uintptr_t)r->mem, __ATOMIC_RELEASE);
            gone = true;
        }
        if (!(d->flags & VQ_DESC_F_NEXT))
            break;
    }
    return gone;
}

/*
 * unstick() - keep an unreadable frame from blocking those after it
 *
 * If a file shrinks, its pages may no longer exist. The worker (Linux 6.1 to 6.18) copies a frame
 * of less than a page before sending it; if that fails, it puts the chain back and tries again, for
 * ever, reading the descriptors anew each time. Chains are used in order, so it is stuck at the
 * first unused one; later ones may belong to the same file. Called STUCK_NS after watch_tx(), by a
 * timer that also wakes a sleeper.
 *
 * The worker silently drops a longer frame.
 */
static void
unstick(struct vhost_net *n, unsigned queue)
{
    struct vhost_queue *v = &n->v[queue];
    const struct vring *r = v->ring[TX];
    uint16_t end = __atomic_load_n(&r->avail->idx, __ATOMIC_RELAXED);

    if (__atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE) != v->done)
        return;
    /* The first is readable, so it is only slow, and those after it are not checked. */
    for (uint16_t at = v->done; at != end; at++) {
        if (give_up(r, r->avail->ring[at & (r->num - 1)])) {
            counter_add(&n->tap.q[queue].stats.tx_fault, 1);
            v->fault = true;
        } else if (at == v->done) {
            break;
        }
    }
}

/* watch_tx() - while there are frames to send, schedule a check of the ring */
static void
watch_tx(struct vhost_net *n, unsigned queue)
{
    static const struct itimerspec soon = {.it_value.tv_nsec = STUCK_NS};
    struct vhost_queue *v = &n->v[queue];
    const struct vring *r = v->ring[TX];
    uint16_t done = __atomic_load_n(&r->used->idx, __ATOMIC_RELAXED);

    if (v->looking || done == __atomic_load_n(&r->avail->idx, __ATOMIC_RELAXED))
        return;
    v->done = done;
    v->looking = timerfd_settime(v->look, 0, &soon, NULL) == 0;
    counter_add(&n->tap.q[queue].stats.syscalls, 1);
}

/*
 * read_news() - process events; 0, -EPROTO for a broken ring, -ENODEV for a deleted TAP
 * @forget: the receive ring is checked next, so clear its notification
 */
static int
read_news(struct vhost_net *n, unsigned queue, bool forget)
{
    struct vhost_queue *v = &n->v[queue];
    struct epoll_event e[5]; /* one for each source */
    eventfd_t value;
    bool look = false;

    if (v->failed)
        return v->failed;
    int got = epoll_wait(v->news, e, 5, 0);

    for (int i = 0; i < got; i++) {
        /* A worker whose TAP is deleted reports a ring error: then ignore that. */
        if (e[i].data.u32 == NEWS_TAP)
            v->failed = -ENODEV;
        else if (e[i].data.u32 == NEWS_ERR)
            v->failed = v->failed ? v->failed : -EPROTO;
        else if (e[i].data.u32 == NEWS_LOOK)
            look = eventfd_read(v->look, &value) == 0; /* a timer's counter has the same format */
        else if (forget && eventfd_read(v->call[RX], &value) == 0)
            counter_add(&n->tap.q[queue].stats.syscalls, 1);
    }
    counter_add(&n->tap.q[queue].stats.syscalls, 1);
    if (look) {
        v->looking = false;
        unstick(n, queue);
    }
    return v->failed;
}

static int
vhost_posted(struct device *d, unsigned queue)
{
    struct vhost_net *n = vhost_of(d);

    notify(n, queue, RX);
    int err = read_news(n, queue, true);

    watch_tx(n, queue);
    return err;
}

static int
vhost_kick(struct device *d, unsigned queue)
{
    struct vhost_net *n = vhost_of(d);

    notify(n, queue, TX);
    int err = read_news(n, queue, false);

    watch_tx(n, queue);
    if (!err && n->v[queue].fault)
        err = -EFAULT;
    n->v[queue].fault = false;
    return err;
}

static void
vhost_describe(struct device *d, struct device_info *out)
{
    struct vhost_net *n = vhost_of(d);

    tap_describe(d, out);
    out->name = "vhost_net";
    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++) {
        out->wait_fd[i] = n->v[i].news;
        out->wake_fd[i] = n->v[i].call[RX];
    }
}

static void
vhost_destroy(struct device *d)
{
    struct vhost_net *n = vhost_of(d);

    vhost_detach(d);
    tap_fini(&n->tap);
    free(n);
}

static const struct device_ops vhost_net_ops = {
    .attach = vhost_attach,
    .kick = vhost_kick,
    .posted = vhost_posted,
    .detach = vhost_detach,
    .describe = vhost_describe,
    .destroy = vhost_destroy,
};

int
vhost_net_create(const int *fds, unsigned nqueues, struct device **out)
{
    struct vhost_net *n = calloc(1, sizeof(*n));

    if (n == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < NIC_MAX_QUEUES; i++) {
        n->v[i].fd = n->v[i].news = n->v[i].look = -1;
        for (unsigned k = 0; k < RINGS; k++)
            n->v[i].kick[k] = n->v[i].call[k] = n->v[i].err[k] = -1;
    }
    int err = tap_init(&n->tap, &vhost_net_ops, fds, nqueues);

    if (err) {
        free(n);
        return err;
    }
    *out = &n->tap.dev;
    return 0;
}
