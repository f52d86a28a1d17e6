/* SPDX-License-Identifier: BSD-2-Clause */
/* The split ring: two threads hand chains across it; a broken side is refused by name. */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "machine/machine.h"
#include "check.h"
#include "ring/virtqueue.h"

#define NUM 256
#define ROUNDS 400000u

static struct machine *machine;
static struct vring ring;
static char *buffers; /* NUM buffers of 64 bytes, in kmem */

static void
setup(bool event_idx)
{
    const struct machine_config mc = {.pages = 64};

    CHECK_EQ(machine_create(&mc, &machine), 0);
    CHECK_EQ(vring_create(machine->arena, NUM, event_idx, &ring), 0);
    buffers = kmem_alloc(machine->arena, NUM * 64);
    CHECK(buffers);
}

static void
teardown(void)
{
    kmem_free(machine->arena, buffers, NUM * 64);
    vring_destroy(&ring);
    CHECK_EQ(machine->arena->kmem_pages, 64 * 1024 / 4096); /* the first slab of mbufs, no more */
    CHECK_EQ(machine_destroy(machine), 0);
}

/* The device: writes the chain's number into it and gives chains back in pairs, the later one first. */
static void *
device_thread(void *arg)
{
    struct vq_device d;
    struct vq_seg seg[4];
    struct vq_chain c[2];
    uint32_t done = 0;

    (void)arg;
    vq_device_init(&d, &ring);
    while (done < ROUNDS) {
        unsigned n = 0;

        while (n < 2 && done + n < ROUNDS) {
            int got = vq_device_get(&d, seg, 4, &c[n]);

            CHECK(got >= 0);
            if (got == 0) {
                sched_yield();
                continue;
            }
            uint32_t number;

            CHECK_EQ(c[n].nout, 1);
            CHECK_EQ(c[n].nin, 1);
            memcpy(&number, seg[0].addr, 4);
            memcpy(seg[1].addr, &number, 4);
            n++;
            if (vq_device_pending(&d) == 0)
                break;
        }
        for (unsigned i = n; i > 0; i--)
            vq_device_put(&d, c[i - 1].head, 4);
        vq_device_publish(&d);
        done += n;
    }
    return NULL;
}

static void
test_two_threads(bool event_idx)
{
    struct vq_driver q;
    pthread_t thread;
    uint32_t sent = 0;
    uint32_t back = 0;
    static unsigned char seen[ROUNDS];
    char *free_buffer[NUM];
    unsigned nfree = 0;

    setup(event_idx);
    memset(seen, 0, sizeof(seen));
    CHECK_EQ(vq_driver_init(&q, &ring), 0);
    for (unsigned i = 0; i < NUM / 2; i++)
        free_buffer[nfree++] = buffers + (size_t)i * 128;
    CHECK_EQ(pthread_create(&thread, NULL, device_thread, NULL), 0);
    while (back < ROUNDS) {
        while (sent < ROUNDS && nfree > 0) {
            char *b = free_buffer[nfree - 1];
            struct vq_seg seg[2] = {{b, 4}, {b + 64, 4}};

            memcpy(b, &sent, 4);
            if (vq_driver_add(&q, seg, 1, 1, b) == -ENOSPC)
                break;
            nfree--;
            sent++;
        }
        vq_driver_publish(&q);
        uint32_t len;
        char *b = vq_driver_get(&q, &len);

        CHECK_EQ(q.error, VQ_OK);
        if (b == NULL) {
            sched_yield();
            continue;
        }
        uint32_t in, out;

        memcpy(&out, b, 4);
        memcpy(&in, b + 64, 4);
        CHECK_EQ(len, 4);
        CHECK_EQ(in, out);
        CHECK_EQ(seen[in], 0);
        seen[in] = 1;
        free_buffer[nfree++] = b;
        back++;
    }
    pthread_join(thread, NULL);
    CHECK_EQ(vq_driver_outstanding(&q), 0);
    CHECK_EQ(q.num_free, NUM);
    vq_driver_fini(&q);
    teardown();
}

/* A driver that breaks the ring in one way, and what the device half says of it. */
static void
hostile_driver(enum vq_error expected, void (*breakit)(void))
{
    struct vq_driver q;
    struct vq_device d;
    struct vq_seg seg[4];
    struct vq_chain c;
    struct vq_seg two[2] = {{NULL, 64}, {NULL, 64}};

    setup(false);
    two[0].addr = buffers;
    two[1].addr = buffers + 64;
    CHECK_EQ(vq_driver_init(&q, &ring), 0);
    vq_device_init(&d, &ring);
    CHECK_EQ(vq_driver_add(&q, two, 1, 1, buffers), 0);
    vq_driver_publish(&q);
    breakit();
    CHECK_EQ(vq_device_get(&d, seg, 4, &c), -EPROTO);
    CHECK_EQ(d.error, expected);
    CHECK_EQ(vq_device_get(&d, seg, 4, &c), -EPROTO); /* stopped for good */
    CHECK(vq_driver_reclaim(&q) == buffers);
    CHECK(vq_driver_reclaim(&q) == NULL);
    vq_driver_fini(&q);
    teardown();
}

static void
break_index(void)
{
    ring.avail->idx = NUM + 2;
}
static void
break_head(void)
{
    ring.avail->ring[0] = NUM;
}
static void
break_next(void)
{
    ring.desc[0].next = NUM;
}
static void
break_loop(void)
{
    ring.desc[0].next = 0;
    ring.desc[0].len = 0;
}
static void
break_address(void)
{
    ring.desc[0].addr = 4096;
}
static void
break_length(void)
{
    ring.desc[1].len = UINT32_MAX;
}
static void
break_order(void)
{
    ring.desc[0].flags |= VQ_DESC_F_WRITE;
    ring.desc[1].flags &= (uint16_t)~VQ_DESC_F_WRITE;
}
static void
break_indirect(void)
{
    ring.desc[0].flags = VQ_DESC_F_INDIRECT;
    ring.desc[0].len = 24;
}

static void
break_used_index(void)
{
    ring.used->idx = 2;
}
static void
break_used_id(void)
{
    ring.used->ring[0].id = NUM;
    ring.used->idx = 1;
}
static void
break_used_twice(void)
{
    ring.used->ring[0].id = 7;
    ring.used->idx = 1;
}
static void
break_used_length(void)
{
    ring.used->ring[0].len = 65;
    ring.used->idx = 1;
}

/* A device that breaks the ring in one way, and what the driver half says of it. */
static void
hostile_device(enum vq_error expected, void (*breakit)(void))
{
    struct vq_driver q;
    struct vq_seg one;
    uint32_t len;

    setup(true);
    one = (struct vq_seg){buffers, 64};
    CHECK_EQ(vq_driver_init(&q, &ring), 0);
    CHECK_EQ(vq_driver_add(&q, &one, 0, 1, buffers), 0);
    vq_driver_publish(&q);
    breakit();
    CHECK(vq_driver_get(&q, &len) == NULL);
    CHECK_EQ(q.error, expected);
    CHECK(vq_driver_reclaim(&q) == buffers);
    vq_driver_fini(&q);
    teardown();
}

static void
test_sizes(void)
{
    struct vring r;

    setup(false);
    CHECK_EQ(vring_create(machine->arena, 0, false, &r), -EINVAL);
    CHECK_EQ(vring_create(machine->arena, 3, false, &r), -EINVAL);
    CHECK_EQ(vring_create(machine->arena, 65536, false, &r), -EINVAL);
    CHECK_EQ(vring_create(machine->arena, 32768, true, &r), 0);
    vring_destroy(&r);
    teardown();
}

int
main(void)
{
    test_sizes();
    test_two_threads(false);
    test_two_threads(true);
    hostile_driver(VQ_ERR_INDEX_JUMP, break_index);
    hostile_driver(VQ_ERR_HEAD_RANGE, break_head);
    hostile_driver(VQ_ERR_NEXT_RANGE, break_next);
    hostile_driver(VQ_ERR_TOO_LONG, break_loop); /* four segments are all this device takes */
    hostile_driver(VQ_ERR_ADDRESS, break_address);
    hostile_driver(VQ_ERR_ADDRESS, break_length);
    hostile_driver(VQ_ERR_ORDER, break_order);
    hostile_driver(VQ_ERR_INDIRECT, break_indirect);
    hostile_device(VQ_ERR_INDEX_JUMP, break_used_index);
    hostile_device(VQ_ERR_HEAD_RANGE, break_used_id);
    hostile_device(VQ_ERR_NOT_OUTSTANDING, break_used_twice);
    hostile_device(VQ_ERR_USED_LENGTH, break_used_length);
    return 0;
}
