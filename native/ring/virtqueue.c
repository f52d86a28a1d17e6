/* SPDX-License-Identifier: BSD-2-Clause */
#include "ring/virtqueue.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline uint16_t
load_acquire(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void
store_release(uint16_t *p, uint16_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

/*
 * The other side, if it is broken, may write to ring entries and descriptors at any time. Relaxed
 * accesses load each value once, so that the value checked is the value used.
 */
#define SHARED_LOAD(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define SHARED_STORE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

static uint16_t *
used_event(const struct vring *r)
{
    return &r->avail->ring[r->num];
}

static uint16_t *
avail_event(const struct vring *r)
{
    return (uint16_t *)(void *)&r->used->ring[r->num];
}

/* event_passed() - did the index pass the event when it moved from @old to @now? (2.7.10) */
static bool
event_passed(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

const char *
vq_error_name(enum vq_error e)
{
    static const char *const name[VQ_ERR_COUNT] = {
        [VQ_OK] = "none",
        [VQ_ERR_INDEX_JUMP] = "index moved by more than the ring holds",
        [VQ_ERR_HEAD_RANGE] = "head beyond the ring",
        [VQ_ERR_NOT_OUTSTANDING] = "used chain was not with the device",
        [VQ_ERR_LOOP] = "descriptor chain is a loop",
        [VQ_ERR_NEXT_RANGE] = "next descriptor beyond the table",
        [VQ_ERR_ADDRESS] = "buffer outside the arena",
        [VQ_ERR_USED_LENGTH] = "used length exceeds the chain",
        [VQ_ERR_INDIRECT] = "bad indirect table",
        [VQ_ERR_ORDER] = "readable descriptor after a writable one",
        [VQ_ERR_TOO_LONG] = "more segments than the device takes",
        [VQ_ERR_MERGE] = "frame claims more buffers than were used",
    };

    return (unsigned)e < VQ_ERR_COUNT ? name[e] : "unknown";
}

int
vring_create(struct arena *a, uint32_t num, bool event_idx, struct vring *out)
{
    if (num < VQ_NUM_MIN || num > VQ_NUM_MAX || (num & (num - 1)))
        return -EINVAL;
    /* Alignments 16, 2 and 4 (2.7); each area has its own cache lines, to avoid false sharing. */
    size_t desc = sizeof(struct vq_desc) * num;
    size_t avail = (sizeof(struct vq_avail) + 2 * ((size_t)num + 1) + 127) & ~(size_t)127;
    size_t used = sizeof(struct vq_used) + sizeof(struct vq_used_elem) * num + 2;

    *out = (struct vring){.num = num,
                          .event_idx = event_idx,
                          .bytes = ((desc + 127) & ~(size_t)127) + avail + used,
                          .arena = a};
    out->mem = kmem_alloc(a, out->bytes);
    if (out->mem == NULL)
        return -ENOMEM;
    char *p = out->mem;

    out->desc = (struct vq_desc *)(void *)p;
    out->avail = (struct vq_avail *)(void *)(p + ((desc + 127) & ~(size_t)127));
    out->used = (struct vq_used *)(void *)((char *)out->avail + avail);
    return 0;
}

void
vring_destroy(struct vring *r)
{
    if (r->mem)
        kmem_free(r->arena, r->mem, r->bytes);
    *r = (struct vring){0};
}

bool
vring_should_kick(const struct vring *r, uint16_t now, uint16_t old)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (r->event_idx)
        return event_passed(SHARED_LOAD(*avail_event(r)), now, old);
    return !(SHARED_LOAD(r->used->flags) & VQ_USED_F_NO_NOTIFY);
}

/* ---- the driver half ---- */

int
vq_driver_init(struct vq_driver *q, struct vring *r)
{
    *q = (struct vq_driver){.r = r,
                            .num = (uint16_t)r->num,
                            .mask = (uint16_t)(r->num - 1),
                            .num_free = (uint16_t)r->num};
    q->slot = calloc(r->num, sizeof(*q->slot));
    if (q->slot == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < r->num; i++)
        q->slot[i].next = (uint16_t)(i + 1);
    vq_driver_disable_notify(q);
    return 0;
}

void
vq_driver_fini(struct vq_driver *q)
{
    free(q->slot);
    q->slot = NULL;
}

int
vq_driver_add(struct vq_driver *q, const struct vq_seg *seg, unsigned nout, unsigned nin,
              void *cookie)
{
    unsigned n = nout + nin;
    struct vq_desc *desc = q->r->desc;

    if (n == 0 || n > q->num)
        return -EINVAL;
    if (n > q->num_free)
        return -ENOSPC;
    uint16_t head = q->free_head;
    uint16_t i = head;
    uint32_t writable = 0;

    for (unsigned k = 0;; k++) {
        struct vq_desc *d = &desc[i];

        SHARED_STORE(d->addr, (uint64_t)(uintptr_t)seg[k].addr);
        SHARED_STORE(d->len, (uint32_t)seg[k].len);
        if (k >= nout)
            writable += (uint32_t)seg[k].len;
        uint16_t flags = k >= nout ? VQ_DESC_F_WRITE : 0;

        if (k + 1 == n) {
            SHARED_STORE(d->flags, flags);
            break;
        }
        SHARED_STORE(d->flags, (uint16_t)(flags | VQ_DESC_F_NEXT));
        i = q->slot[i].next;
        SHARED_STORE(d->next, i);
    }
    q->free_head = q->slot[i].next;
    q->num_free = (uint16_t)(q->num_free - n);
    q->slot[head].cookie = cookie;
    q->slot[head].writable = writable;
    q->slot[head].ndesc = (uint16_t)n;
    SHARED_STORE(q->r->avail->ring[q->avail_idx & q->mask], head);
    q->avail_idx++;
    return 0;
}

bool
vq_driver_publish(struct vq_driver *q)
{
    uint16_t old = q->published_idx;

    if (q->avail_idx == old)
        return false;
    store_release(&q->r->avail->idx, q->avail_idx);
    q->published_idx = q->avail_idx;
    return vring_should_kick(q->r, q->avail_idx, old);
}

/* give_back() - free a chain's descriptors; returns its cookie */
static void *
give_back(struct vq_driver *q, uint16_t head)
{
    struct vq_slot *s = &q->slot[head];
    void *cookie = s->cookie;
    uint16_t last = head;

    for (unsigned k = 1; k < s->ndesc; k++)
        last = q->slot[last].next;
    q->slot[last].next = q->free_head;
    q->free_head = head;
    q->num_free = (uint16_t)(q->num_free + s->ndesc);
    s->ndesc = 0;
    s->cookie = NULL;
    return cookie;
}

static void *
driver_stop(struct vq_driver *q, enum vq_error e)
{
    q->error = e;
    return NULL;
}

void *
vq_driver_get(struct vq_driver *q, uint32_t *len)
{
    if (q->error)
        return NULL;
    if (q->used_idx == q->used_cached) {
        uint16_t now = load_acquire(&q->r->used->idx);

        if ((uint16_t)(now - q->used_idx) > (uint16_t)(q->published_idx - q->used_idx))
            return driver_stop(q, VQ_ERR_INDEX_JUMP);
        q->used_cached = now;
        if (q->used_idx == now)
            return NULL;
    }
    struct vq_used_elem *e = &q->r->used->ring[q->used_idx & q->mask];
    uint32_t id = SHARED_LOAD(e->id);
    uint32_t written = SHARED_LOAD(e->len);

    if (id >= q->num)
        return driver_stop(q, VQ_ERR_HEAD_RANGE);
    if (q->slot[id].ndesc == 0)
        return driver_stop(q, VQ_ERR_NOT_OUTSTANDING);
    if (written > q->slot[id].writable)
        return driver_stop(q, VQ_ERR_USED_LENGTH);
    q->used_idx++;
    *len = written;
    return give_back(q, (uint16_t)id);
}

bool
vq_driver_enable_notify(struct vq_driver *q, uint16_t after)
{
    if (q->r->event_idx) {
        SHARED_STORE(*used_event(q->r), (uint16_t)(q->used_idx + after - 1));
    } else {
        SHARED_STORE(q->r->avail->flags, (uint16_t)0);
        after = 1;
    }
    atomic_thread_fence(memory_order_seq_cst);
    return (uint16_t)(load_acquire(&q->r->used->idx) - q->used_idx) >= after;
}

void
vq_driver_disable_notify(struct vq_driver *q)
{
    /* With event_idx, an event just behind us is not reached for a whole round, which is as good as never. */
    if (q->r->event_idx)
        SHARED_STORE(*used_event(q->r), (uint16_t)(q->used_idx - 1));
    else
        SHARED_STORE(q->r->avail->flags, (uint16_t)VQ_AVAIL_F_NO_INTERRUPT);
}

unsigned
vq_driver_outstanding(const struct vq_driver *q)
{
    return (uint16_t)(q->avail_idx - q->used_idx);
}

void *
vq_driver_reclaim(struct vq_driver *q)
{
    for (uint32_t i = 0; i < q->num; i++) {
        if (q->slot[i].ndesc) {
            q->used_idx++;
            return give_back(q, (uint16_t)i);
        }
    }
    return NULL;
}

/* ---- the device half ---- */

void
vq_device_init(struct vq_device *q, struct vring *r)
{
    *q = (struct vq_device){.r = r, .num = (uint16_t)r->num, .mask = (uint16_t)(r->num - 1)};
    vq_device_disable_notify(q);
}

static int
device_stop(struct vq_device *q, enum vq_error e)
{
    q->error = e;
    return -EPROTO;
}

unsigned
vq_device_pending(struct vq_device *q)
{
    if (q->avail_cached == q->avail_idx && !q->error) {
        uint16_t now = load_acquire(&q->r->avail->idx);

        /* Include chains taken but not returned: the driver has only as many descriptors as the ring. */
        if ((uint16_t)(now - q->used_idx) > q->num) {
            device_stop(q, VQ_ERR_INDEX_JUMP);
            return 0;
        }
        q->avail_cached = now;
    }
    return q->error ? 0 : (uint16_t)(q->avail_cached - q->avail_idx);
}

/* one descriptor, copied out of shared memory */
static struct vq_desc
load_desc(const struct vq_desc *d)
{
    return (struct vq_desc){SHARED_LOAD(d->addr), SHARED_LOAD(d->len), SHARED_LOAD(d->flags),
                            SHARED_LOAD(d->next)};
}

/*
 * load_indirect() - read a descriptor of an indirect table, which may lie in an unmapped part of
 * the arena
 *
 * It uses a system call, which fails instead of raising a signal. Our own driver half makes no
 * indirect chains, so this is never on a hot path of ours.
 */
static bool
load_indirect(const struct vq_desc *table, uint32_t i, struct vq_desc *out)
{
    struct iovec to = {out, sizeof(*out)};
    struct iovec from = {(void *)(uintptr_t)&table[i], sizeof(*out)};

    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)sizeof(*out);
}

int
vq_device_get(struct vq_device *q, struct vq_seg *seg, unsigned nseg, struct vq_chain *chain)
{
    if (vq_device_pending(q) == 0)
        return q->error ? -EPROTO : 0;
    uint16_t head = SHARED_LOAD(q->r->avail->ring[q->avail_idx & q->mask]);

    if (head >= q->num)
        return device_stop(q, VQ_ERR_HEAD_RANGE);
    const struct vq_desc *table = q->r->desc;
    uint32_t table_len = q->num;
    uint32_t seen = 0;
    bool indirect = false;
    struct vq_desc d = load_desc(&table[head]);

    *chain = (struct vq_chain){.head = head};
    if (d.flags & VQ_DESC_F_INDIRECT) { /* 2.7.5.3: the one descriptor of the chain */
        if ((d.flags & (VQ_DESC_F_NEXT | VQ_DESC_F_WRITE)) || d.len == 0 ||
            d.len % sizeof(struct vq_desc) || d.addr % sizeof(uint64_t) ||
            d.len / sizeof(struct vq_desc) > VQ_NUM_MAX)
            return device_stop(q, VQ_ERR_INDIRECT);
        if (!arena_contains(q->r->arena, d.addr, d.len))
            return device_stop(q, VQ_ERR_ADDRESS);
        table = (const struct vq_desc *)(uintptr_t)d.addr;
        table_len = d.len / (uint32_t)sizeof(struct vq_desc);
        indirect = true;
        if (!load_indirect(table, 0, &d))
            return device_stop(q, VQ_ERR_ADDRESS);
    }
    for (;;) {
        if (++seen > table_len)
            return device_stop(q, VQ_ERR_LOOP);
        if (indirect && (d.flags & VQ_DESC_F_INDIRECT))
            return device_stop(q, VQ_ERR_INDIRECT);
        if ((d.flags & VQ_DESC_F_INDIRECT) && seen > 1)
            return device_stop(q, VQ_ERR_INDIRECT);
        if (!arena_contains(q->r->arena, d.addr, d.len))
            return device_stop(q, VQ_ERR_ADDRESS);
        if (seen > nseg)
            return device_stop(q, VQ_ERR_TOO_LONG);
        uint32_t *sum = d.flags & VQ_DESC_F_WRITE ? &chain->in_len : &chain->out_len;

        if (d.len > UINT32_MAX - *sum)
            return device_stop(q, VQ_ERR_TOO_LONG);
        *sum += d.len;
        seg[seen - 1] = (struct vq_seg){(void *)(uintptr_t)d.addr, d.len};
        if (d.flags & VQ_DESC_F_WRITE)
            chain->nin++;
        else if (chain->nin)
            return device_stop(q, VQ_ERR_ORDER);
        else
            chain->nout++;
        if (!(d.flags & VQ_DESC_F_NEXT))
            break;
        if (d.next >= table_len)
            return device_stop(q, VQ_ERR_NEXT_RANGE);
        if (!indirect)
            d = load_desc(&table[d.next]);
        else if (!load_indirect(table, d.next, &d))
            return device_stop(q, VQ_ERR_ADDRESS);
    }
    q->avail_idx++;
    return 1;
}

void
vq_device_unget(struct vq_device *q, unsigned n)
{
    q->avail_idx = (uint16_t)(q->avail_idx - n);
}

void
vq_device_put(struct vq_device *q, uint16_t head, uint32_t len)
{
    struct vq_used_elem *e = &q->r->used->ring[q->used_idx & q->mask];

    SHARED_STORE(e->id, head);
    SHARED_STORE(e->len, len);
    q->used_idx++;
}

bool
vq_device_publish(struct vq_device *q)
{
    uint16_t old = q->used_published;

    if (q->used_idx == old)
        return false;
    store_release(&q->r->used->idx, q->used_idx);
    q->used_published = q->used_idx;
    atomic_thread_fence(memory_order_seq_cst);
    if (q->r->event_idx)
        return event_passed(SHARED_LOAD(*used_event(q->r)), q->used_idx, old);
    return !(SHARED_LOAD(q->r->avail->flags) & VQ_AVAIL_F_NO_INTERRUPT);
}

bool
vq_device_enable_notify(struct vq_device *q)
{
    if (q->r->event_idx)
        SHARED_STORE(*avail_event(q->r), q->avail_idx);
    else
        SHARED_STORE(q->r->used->flags, (uint16_t)0);
    atomic_thread_fence(memory_order_seq_cst);
    return load_acquire(&q->r->avail->idx) != q->avail_idx;
}

void
vq_device_disable_notify(struct vq_device *q)
{
    if (q->r->event_idx)
        SHARED_STORE(*avail_event(q->r), (uint16_t)(q->avail_idx - 1));
    else
        SHARED_STORE(q->r->used->flags, (uint16_t)VQ_USED_F_NO_NOTIFY);
}
