/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/pcapng.h"

#include <stdint.h>
#include <string.h>

#include "device/capture.h"

#define INBOUND 1u
#define OUTBOUND 2u

struct packet_block {
    uint32_t type, total;
    uint32_t interface;
    uint32_t time_high, time_low;
    uint32_t caplen, len;
};
_Static_assert(sizeof(struct packet_block) == 28, "pcapng, 4.3");

/* What stands behind the frame and its padding. */
struct packet_tail {
    uint16_t flags_code, flags_len;
    uint32_t flags;
    uint16_t queue_code, queue_len;
    uint32_t queue;
    uint16_t end_code, end_len;
    uint32_t total;
};
_Static_assert(sizeof(struct packet_tail) == 24, "pcapng, 4.3 and 3.5");

size_t
pcapng_packets(const void *records, size_t size, void *out, size_t room, size_t *taken)
{
    const char *from = records;
    char *to = out;
    size_t at = 0;
    size_t done = 0;

    while (size - at >= sizeof(struct capture_record)) {
        struct capture_record r;

        memcpy(&r, from + at, sizeof(r));
        size_t record = (sizeof(r) + r.caplen + 7) & ~(size_t)7;
        size_t padded = (r.caplen + 3u) & ~(size_t)3;
        size_t total = sizeof(struct packet_block) + padded + sizeof(struct packet_tail);

        if (record > size - at || total > room - done)
            break;
        struct packet_block b = {
            .type = 6,
            .total = (uint32_t)total,
            .time_high = (uint32_t)(r.timestamp >> 32),
            .time_low = (uint32_t)r.timestamp,
            .caplen = r.caplen,
            .len = r.len,
        };
        struct packet_tail t = {
            .flags_code = 2,
            .flags_len = 4,
            .flags = r.outbound ? OUTBOUND : INBOUND,
            .queue_code = 6,
            .queue_len = 4,
            .queue = r.queue,
            .total = (uint32_t)total,
        };

        memcpy(to + done, &b, sizeof(b));
        done += sizeof(b);
        memcpy(to + done, from + at + sizeof(r), r.caplen);
        memset(to + done + r.caplen, 0, padded - r.caplen);
        done += padded;
        memcpy(to + done, &t, sizeof(t));
        done += sizeof(t);
        at += record;
    }
    *taken = at;
    return done;
}
