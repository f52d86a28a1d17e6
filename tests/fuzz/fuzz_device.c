/* SPDX-License-Identifier: BSD-2-Clause */
/* A hostile driver against the device half: whatever lies in the ring, nothing beyond the arena is handed out. */
#include "machine/machine.h"
#include "fuzz.h"
#include "ring/virtqueue.h"

#define NUM 16u
#define SEGS 8u

enum {
    DESCRIPTOR,
    AVAILABLE, /* one more head, published */
    INDEX,     /* the available index, as the input has it */
    GET,
    PUT,
    UNGET,
    NOTIFY,
    RING,  /* bytes anywhere in the shared areas */
    TABLE, /* bytes of an indirect table */
    OPS
};

static struct machine *machine;
static struct vm_page *table; /* where indirect tables lie */

static void
set_up_once(void)
{
    const struct machine_config mc = {.pages = 64};

    if (machine)
        return;
    MUST(machine_create(&mc, &machine) == 0);
    table = jumbo_alloc(machine->jumbo, RETURN_SITE());
    MUST(table);
}

/* address() - one in the table, elsewhere in the arena, around its end, or anywhere */
static uint64_t
address(struct input *in, const struct vring *r)
{
    uint64_t base = (uint64_t)(uintptr_t)jumbo_kva(machine->jumbo, table);

    switch (take(in, 1) % 5) {
    case 0:
        return base + 16 * (take(in, 1) % 32);
    case 1:
        return base + take(in, 2);
    case 2:
        return (uint64_t)(uintptr_t)r->mem + take(in, 2);
    case 3:
        return (uint64_t)(uintptr_t)machine->arena->base + machine->arena->size - take(in, 2);
    default:
        return take(in, 8);
    }
}

static void
get(struct vq_device *q, uint16_t *head, unsigned *nheads)
{
    struct vq_seg seg[SEGS];
    struct vq_chain c;
    uint16_t before = q->avail_idx;
    int got = vq_device_get(q, seg, SEGS, &c);

    MUST(got == 0 || got == 1 || got == -EPROTO);
    MUST((got == -EPROTO) == (q->error != VQ_OK));
    MUST(q->avail_idx == (uint16_t)(before + (got == 1)));
    if (got != 1)
        return;
    uint64_t sum[2] = {0, 0};

    MUST(c.head < NUM && c.nout + c.nin >= 1 && c.nout + c.nin <= SEGS);
    for (unsigned i = 0; i < c.nout + c.nin; i++) {
        MUST(arena_contains(machine->arena, (uint64_t)(uintptr_t)seg[i].addr, seg[i].len));
        sum[i >= c.nout] += seg[i].len;
    }
    MUST(sum[0] == c.out_len && sum[1] == c.in_len);
    if (*nheads < NUM)
        head[(*nheads)++] = c.head;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint16_t head[NUM];
    unsigned nheads = 0;
    struct vq_device q;
    struct vring r;

    set_up_once();
    MUST(vring_create(machine->arena, NUM, take(&in, 1) & 1, &r) == 0);
    memset(jumbo_kva(machine->jumbo, table), 0, PAGE_SIZE);
    vq_device_init(&q, &r);
    while (in.left > 0) {
        switch (take(&in, 1) % OPS) {
        case DESCRIPTOR: {
            struct vq_desc *d = &r.desc[take(&in, 1) % NUM];

            d->addr = address(&in, &r);
            d->len = (uint32_t)take(&in, 4);
            d->flags = (uint16_t)take(&in, 1);
            d->next = (uint16_t)take(&in, 1);
            break;
        }
        case AVAILABLE:
            r.avail->ring[r.avail->idx % NUM] = (uint16_t)take(&in, 1);
            r.avail->idx++;
            break;
        case INDEX:
            r.avail->idx = (uint16_t)take(&in, 2);
            break;
        case GET:
            get(&q, head, &nheads);
            break;
        case PUT:
            if (nheads) {
                vq_device_put(&q, head[--nheads], (uint32_t)take(&in, 4));
                vq_device_publish(&q);
            }
            break;
        case UNGET:
            if (nheads) {
                nheads--;
                vq_device_unget(&q, 1);
            }
            break;
        case NOTIFY:
            if (take(&in, 1) & 1)
                vq_device_enable_notify(&q);
            else
                vq_device_disable_notify(&q);
            break;
        case RING:
            scribble(&in, r.mem, r.bytes);
            break;
        case TABLE:
            scribble(&in, jumbo_kva(machine->jumbo, table), 512);
            break;
        }
    }
    vring_destroy(&r);
    return 0;
}
