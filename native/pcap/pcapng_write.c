/* SPDX-License-Identifier: BSD-2-Clause */
#include "pcap/pcapng_write.h"

#include <stdbool.h>
#include <string.h>

#include "device/capture.h"
#include "pcap/pcapng.h"

/* A block being written, with options at its end; @full is set once something did not fit. */
struct writer {
    char *out;
    size_t room, done;
    bool full;
};

static void
put(struct writer *w, const void *data, size_t len)
{
    size_t padded = (len + 3) & ~(size_t)3;

    w->full = w->full || padded > w->room - w->done;
    if (w->full)
        return;
    memcpy(w->out + w->done, data, len);
    memset(w->out + w->done + len, 0, padded - len);
    w->done += padded;
}

static void
put_option(struct writer *w, uint16_t code, const void *value, size_t len)
{
    struct pcapng_option o = {.code = code, .len = (uint16_t)len};

    if (len > UINT16_MAX) {
        w->full = true;
        return;
    }
    put(w, &o, sizeof(o));
    put(w, value, len);
}

static struct writer
begin(void *out, size_t room, enum pcapng_type type, const void *body, size_t len)
{
    struct writer w = {.out = out, .room = room};
    struct pcapng_block b = {.type = type}; /* its length is set at the end */

    put(&w, &b, sizeof(b));
    put(&w, body, len);
    return w;
}

static size_t
end(struct writer *w)
{
    put_option(w, PCAPNG_OPT_END, "", 0);
    uint32_t total = (uint32_t)(w->done + sizeof(total));

    put(w, &total, sizeof(total));
    if (w->full)
        return 0;
    memcpy(w->out + offsetof(struct pcapng_block, total), &total, sizeof(total));
    return w->done;
}

size_t
pcapng_section(void *out, size_t room, const char *hardware, const char *os,
               const char *application)
{
    const struct pcapng_section s = {
        .byte_order = PCAPNG_BYTE_ORDER,
        .major = 1,
        .length = {UINT32_MAX, UINT32_MAX},
    };
    struct writer w = begin(out, room, PCAPNG_SECTION, &s, sizeof(s));

    put_option(&w, PCAPNG_SHB_HARDWARE, hardware, strlen(hardware));
    put_option(&w, PCAPNG_SHB_OS, os, strlen(os));
    put_option(&w, PCAPNG_SHB_USERAPPL, application, strlen(application));
    return end(&w);
}

size_t
pcapng_interface(void *out, size_t room, uint32_t snaplen, const char *name,
                 const char *description, const uint8_t *mac)
{
    const struct pcapng_interface i = {.link = LINKTYPE_ETHERNET, .snaplen = snaplen};
    const uint8_t resolution = 9; /* units of 10^-9 s */
    struct writer w = begin(out, room, PCAPNG_INTERFACE, &i, sizeof(i));

    put_option(&w, PCAPNG_IF_NAME, name, strlen(name));
    put_option(&w, PCAPNG_IF_DESCRIPTION, description, strlen(description));
    put_option(&w, PCAPNG_IF_MACADDR, mac, 6);
    put_option(&w, PCAPNG_IF_TSRESOL, &resolution, sizeof(resolution));
    return end(&w);
}

size_t
pcapng_statistics(void *out, size_t room, const struct pcapng_summary *s)
{
    const struct pcapng_statistics b = {
        .time_high = (uint32_t)(s->ended >> 32),
        .time_low = (uint32_t)s->ended,
    };
    const uint32_t began[2] = {(uint32_t)(s->began >> 32), (uint32_t)s->began};
    const uint32_t ended[2] = {b.time_high, b.time_low};
    struct writer w = begin(out, room, PCAPNG_STATISTICS, &b, sizeof(b));

    put_option(&w, PCAPNG_ISB_STARTTIME, began, sizeof(began));
    put_option(&w, PCAPNG_ISB_ENDTIME, ended, sizeof(ended));
    put_option(&w, PCAPNG_ISB_IFRECV, &s->seen, sizeof(s->seen));
    put_option(&w, PCAPNG_ISB_IFDROP, &s->dropped_before, sizeof(s->dropped_before));
    put_option(&w, PCAPNG_ISB_OSDROP, &s->dropped, sizeof(s->dropped));
    put_option(&w, PCAPNG_ISB_USRDELIV, &s->kept, sizeof(s->kept));
    return end(&w);
}

/* What follows a frame and its padding. */
struct packet_tail {
    struct pcapng_option flags_option;
    uint32_t flags;
    struct pcapng_option queue_option;
    uint32_t queue;
    struct pcapng_option end;
    uint32_t total;
};
_Static_assert(sizeof(struct packet_tail) == 24, "no padding");

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
        size_t total = sizeof(struct pcapng_block) + sizeof(struct pcapng_packet) + padded +
                       sizeof(struct packet_tail);

        if (record > size - at || total > room - done)
            break;
        struct pcapng_block b = {.type = PCAPNG_PACKET, .total = (uint32_t)total};
        struct pcapng_packet p = {
            .time_high = (uint32_t)(r.timestamp >> 32),
            .time_low = (uint32_t)r.timestamp,
            .caplen = r.caplen,
            .len = r.len,
        };
        struct packet_tail t = {
            .flags_option = {PCAPNG_EPB_FLAGS, sizeof(t.flags)},
            .flags = r.outbound ? PCAPNG_OUTBOUND : PCAPNG_INBOUND,
            .queue_option = {PCAPNG_EPB_QUEUE, sizeof(t.queue)},
            .queue = r.queue,
            .total = (uint32_t)total,
        };

        memcpy(to + done, &b, sizeof(b));
        done += sizeof(b);
        memcpy(to + done, &p, sizeof(p));
        done += sizeof(p);
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
