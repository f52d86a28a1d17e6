/* SPDX-License-Identifier: BSD-2-Clause */
/* A device that records the frames passing through it, in both directions, with timestamps. */
#ifndef NIC_HARNESS_DEVICE_CAPTURE_H
#define NIC_HARNESS_DEVICE_CAPTURE_H

#include "device/device.h"

/* Precedes the bytes of each captured frame; records are padded to eight bytes. */
struct capture_record {
    uint64_t timestamp; /* ns, CLOCK_REALTIME */
    uint32_t len;       /* of the frame, bytes */
    uint32_t caplen;    /* bytes kept */
    uint16_t queue;
    uint8_t outbound;
    uint8_t pad[5];
};
_Static_assert(sizeof(struct capture_record) == 24, "read by other languages");

struct capture_stats {
    uint64_t received, sent; /* frames seen */
    uint64_t kept;
    uint64_t dropped; /* seen and not kept: the reader was too slow */
};

/*
 * capture_create() - wrap @inner in a capture
 * @inner: owned from now on; on failure the caller keeps it
 * @snaplen: bytes kept of each frame, at most
 * @buffer: bytes between the device and the reader; rounded up to a power of two
 *
 * Return: 0, -EINVAL, -ENOMEM.
 */
int capture_create(struct device *inner, uint32_t snaplen, size_t buffer, struct device **out);

/*
 * capture_read() - take whole records; from one thread, not necessarily a queue's
 * @out, @size: room for them
 *
 * Return: bytes; 0 if there is no record, or if the first does not fit.
 */
size_t capture_read(struct device *d, void *out, size_t size);
void capture_get_stats(const struct device *d, struct capture_stats *out);

#endif
