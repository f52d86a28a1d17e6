/* SPDX-License-Identifier: BSD-2-Clause */
#include "pcap/pcap_reader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pcap/pcapng.h"

#define FIRST_BUFFER ((size_t)256 << 10)
#define FIRST_INTERFACES 8u
#define NS_PER_S 1000000000u

__extension__ typedef unsigned __int128 u128;
__extension__ typedef __int128 i128;

enum {
    FRAME = 1,
    MORE = -EAGAIN
}; /* results of a step; 0: it skipped something */

/* pcap(5): the file header, and the header of each frame. */
#define PCAP_MICROSECONDS 0xA1B2C3D4u
#define PCAP_NANOSECONDS 0xA1B23C4Du
#define PCAP_KUZNETZOV 0xA1B2CD34u

struct pcap_header {
    uint32_t magic;
    uint16_t major, minor;
    uint32_t reserved[2];
    uint32_t snaplen;
    uint32_t link; /* 16 bits of link type; above them, the length of the frame check sequence */
};
_Static_assert(sizeof(struct pcap_header) == 24, "pcap(5)");
#define PCAP_LINK(link) ((link) & 0xFFFFu)
#define PCAP_FCS_KNOWN 0x04000000u
#define PCAP_FCS_OCTETS(link) ((link) >> 28 << 1) /* it counts pairs of them */

struct pcap_record {
    uint32_t sec, fraction;
    uint32_t caplen, len;
};
_Static_assert(sizeof(struct pcap_record) == 16, "pcap(5)");

/* Additional fields of Kuznetzov's variant. */
struct pcap_record_more {
    uint32_t ifindex;
    uint16_t protocol;
    uint8_t type; /* sll_pkttype of packet(7) */
    uint8_t pad;
};
_Static_assert(sizeof(struct pcap_record_more) == 8, "libpcap");
#define PACKET_OTHERHOST 3u
#define PACKET_OUTGOING 4u

struct interface {
    int64_t tsoffset; /* s */
    uint32_t snaplen; /* 0: no limit */
    uint16_t link;
    uint8_t tsresol;
    uint8_t fcs; /* octets */
};

struct pcap_reader {
    int (*step)(struct pcap_reader *r, struct pcap_frame *out);
    uint8_t *buffer;
    size_t size;
    size_t head, tail; /* bytes fed but not yet used */
    size_t need;       /* bytes from head that the next step needs */
    uint64_t skip;     /* bytes still to skip */
    uint32_t skipped;  /* total length of the block being skipped, whose end follows; or 0 */
    bool ended, swapped;
    int error;
    char problem[120];
    struct pcap_progress progress;

    bool timed; /* a frame had a time, which this is */
    int64_t sec;
    uint32_t nsec;

    struct { /* of pcap */
        uint32_t per_s;
        uint8_t fcs;
        bool more;
        uint16_t minor;
    } pcap;

    struct interface *interface; /* of the pcapng section */
    uint32_t ninterfaces, room_interfaces;
    uint64_t interfaces; /* including those not in the table */
};

static int begin(struct pcap_reader *r, struct pcap_frame *out);

int
pcap_reader_create(struct pcap_reader **out)
{
    struct pcap_reader *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return -ENOMEM;
    r->buffer = malloc(FIRST_BUFFER);
    if (r->buffer == NULL) {
        free(r);
        return -ENOMEM;
    }
    r->size = FIRST_BUFFER;
    r->step = begin;
    *out = r;
    return 0;
}

void
pcap_reader_destroy(struct pcap_reader *r)
{
    if (r == NULL)
        return;
    free(r->interface);
    free(r->buffer);
    free(r);
}

void *
pcap_reader_room(struct pcap_reader *r, size_t *room)
{
    size_t kept = r->tail - r->head;

    if (r->head > 0 && (kept == 0 || r->head + r->need > r->size || r->tail == r->size)) {
        memmove(r->buffer, r->buffer + r->head, kept);
        r->head = 0;
        r->tail = kept;
    }
    /* It grows with the data received, not with the length that a header claims. */
    if (r->tail == r->size) {
        uint8_t *larger = realloc(r->buffer, 2 * r->size);

        if (larger == NULL)
            return NULL;
        r->buffer = larger;
        r->size *= 2;
    }
    *room = r->size - r->tail;
    return r->buffer + r->tail;
}

void
pcap_reader_fed(struct pcap_reader *r, size_t len)
{
    r->ended = r->ended || len == 0;
    r->tail += len;
}

const char *
pcap_reader_problem(const struct pcap_reader *r)
{
    return r->problem;
}

void
pcap_reader_progress(const struct pcap_reader *r, struct pcap_progress *out)
{
    *out = r->progress;
}

/* wrong() - record a final error and its text; returns @code */
__attribute__((format(printf, 3, 4))) static int
wrong(struct pcap_reader *r, int code, const char *words, ...)
{
    va_list args;

    va_start(args, words);
    vsnprintf(r->problem, sizeof(r->problem), words, args);
    va_end(args);
    return r->error = code;
}

/* have() - does the buffer have @len bytes from the head? If not, wait for that many */
static bool
have(struct pcap_reader *r, size_t len)
{
    r->need = len;
    return r->tail - r->head >= len;
}

static void
use(struct pcap_reader *r, size_t len)
{
    r->head += len;
    r->progress.offset += len;
}

static uint16_t
u16(const struct pcap_reader *r, uint16_t v)
{
    return r->swapped ? __builtin_bswap16(v) : v;
}

static uint32_t
u32(const struct pcap_reader *r, uint32_t v)
{
    return r->swapped ? __builtin_bswap32(v) : v;
}

static uint32_t
load32(const struct pcap_reader *r, const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return u32(r, v);
}

static void
count_other(struct pcap_reader *r, uint16_t link)
{
    struct pcap_progress *p = &r->progress;
    unsigned i = 0;

    p->other_frames++;
    while (i < p->nother && p->other[i].link != link)
        i++;
    if (i == PCAP_OTHER_LINKS)
        return; /* counted only in the total */
    if (i == p->nother)
        p->other[p->nother++].link = link;
    p->other[i].frames++;
}

/* finish() - complete a frame whose data and lengths are known, without the @fcs octets at its end */
static void
finish(struct pcap_reader *r, struct pcap_frame *f, uint32_t fcs)
{
    f->len = f->len < f->caplen ? f->caplen : f->len;
    f->len = f->len > fcs ? f->len - fcs : 0;
    f->caplen = f->caplen < f->len ? f->caplen : f->len;
    if (f->timed) {
        r->timed = true;
        r->sec = f->sec;
        r->nsec = f->nsec;
    } else {
        f->timed = r->timed;
        f->sec = r->sec;
        f->nsec = r->nsec;
    }
}

/* pcap */

static int
pcap_step(struct pcap_reader *r, struct pcap_frame *out)
{
    const size_t before =
        sizeof(struct pcap_record) + (r->pcap.more ? sizeof(struct pcap_record_more) : 0);
    struct pcap_record h;

    if (!have(r, before))
        return MORE;
    const uint8_t *p = r->buffer + r->head;

    memcpy(&h, p, sizeof(h));
    uint32_t caplen = u32(r, h.caplen);
    uint32_t len = u32(r, h.len);

    /* The two were swapped in version 2.3, whose writers used either order. */
    if (r->pcap.minor < 3 || (r->pcap.minor == 3 && caplen > len)) {
        uint32_t swap = caplen;

        caplen = len;
        len = swap;
    }
    if (caplen > PCAP_MOST_FRAME)
        return wrong(r, -EBADMSG, "a frame of %u bytes", caplen);
    if (!have(r, before + caplen))
        return MORE;
    uint64_t ns = (uint64_t)u32(r, h.fraction) * (NS_PER_S / r->pcap.per_s);

    *out = (struct pcap_frame){
        .data = p + before,
        .sec = (int64_t)u32(r, h.sec) + (int64_t)(ns / NS_PER_S),
        .nsec = (uint32_t)(ns % NS_PER_S),
        .caplen = caplen,
        .len = len,
        .timed = true,
    };
    if (r->pcap.more) {
        struct pcap_record_more more;

        memcpy(&more, p + sizeof(h), sizeof(more));
        if (more.type <= PACKET_OUTGOING)
            out->direction = more.type == PACKET_OUTGOING ? PCAP_OUT : PCAP_IN;
    }
    finish(r, out, r->pcap.fcs);
    r->progress.frames++;
    use(r, before + caplen);
    return FRAME;
}

static int
begin_pcap(struct pcap_reader *r, uint32_t magic)
{
    struct pcap_header h;

    if (!have(r, sizeof(h)))
        return MORE;
    memcpy(&h, r->buffer + r->head, sizeof(h));
    if (u16(r, h.major) != 2)
        return wrong(r, -EOPNOTSUPP, "it is of version %u.%u of pcap", u16(r, h.major),
                     u16(r, h.minor));
    uint32_t link = u32(r, h.link);

    if (PCAP_LINK(link) != LINKTYPE_ETHERNET) {
        r->progress.other[0].link = (uint16_t)PCAP_LINK(link);
        r->progress.nother = 1;
        return wrong(r, -EOPNOTSUPP, "it has frames of link type %u, not Ethernet's",
                     PCAP_LINK(link));
    }
    r->pcap.minor = u16(r, h.minor);
    r->pcap.per_s = magic == PCAP_NANOSECONDS ? NS_PER_S : 1000000;
    r->pcap.fcs = link & PCAP_FCS_KNOWN ? (uint8_t)PCAP_FCS_OCTETS(link) : 0;
    r->pcap.more = magic == PCAP_KUZNETZOV;
    r->progress.begun = true;
    r->step = pcap_step;
    use(r, sizeof(h));
    return 0;
}

/* pcapng */

/* power_of_10() - 10^@n, @n up to 19 */
static uint64_t
power_of_10(unsigned n)
{
    uint64_t v = 1;

    while (n-- > 0)
        v *= 10;
    return v;
}

/* set_time() - convert @ticks by an interface's resolution (section 4.2: a power of 10 or 2) and offset */
static void
set_time(struct pcap_frame *f, const struct interface *i, uint64_t ticks)
{
    unsigned n = i->tsresol & 0x7F;
    uint64_t sec, nsec;

    if (i->tsresol & 0x80) {
        sec = n < 64 ? ticks >> n : 0;
        uint64_t part = n < 64 ? ticks & (((uint64_t)1 << n) - 1) : ticks;

        nsec = (uint64_t)((u128)part * NS_PER_S >> n);
    } else if (n <= 19) {
        uint64_t per_s = power_of_10(n);
        uint64_t part = ticks % per_s;

        sec = ticks / per_s;
        nsec = n <= 9 ? part * power_of_10(9 - n) : part / power_of_10(n - 9);
    } else {
        sec = 0;
        nsec = n - 9 <= 19 ? ticks / power_of_10(n - 9) : 0;
    }
    i128 at = (i128)sec + i->tsoffset;

    f->sec = at > INT64_MAX ? INT64_MAX : (int64_t)at;
    f->nsec = (uint32_t)nsec;
    f->timed = true;
}

/* An option: its value, and the start of the next one. */
struct option {
    uint16_t code, len;
    const uint8_t *value;
};

/* next_option() - 1 if there is one, 0 at the end, or an error */
static int
next_option(struct pcap_reader *r, const uint8_t **p, const uint8_t *end, struct option *out)
{
    struct pcapng_option o;
    size_t left = (size_t)(end - *p);

    if (left < sizeof(o))
        return 0; /* the end marker is optional */
    memcpy(&o, *p, sizeof(o));
    out->code = u16(r, o.code);
    out->len = u16(r, o.len);
    out->value = *p + sizeof(o);
    if (out->code == PCAPNG_OPT_END)
        return 0;
    size_t padded = (out->len + 3u) & ~3u;

    if (padded > left - sizeof(o))
        return wrong(r, -EBADMSG, "an option of %u bytes where %zu are left", out->len,
                     left - sizeof(o));
    *p += sizeof(o) + padded;
    return 1;
}

/* fcs_octets() - if_fcslen counts bits, but some writers count octets, which are fewer than eight */
static uint8_t
fcs_octets(uint8_t said)
{
    return said < 8 ? said : said / 8;
}

static int
section_block(struct pcap_reader *r, const uint8_t *body)
{
    struct pcapng_section s;

    memcpy(&s, body, sizeof(s));
    if (u16(r, s.major) != 1)
        return wrong(r, -EOPNOTSUPP, "it is of version %u.%u of pcapng", u16(r, s.major),
                     u16(r, s.minor));
    /* The section's length is not needed, as each block has its own. The interfaces start anew. */
    r->ninterfaces = 0;
    r->interfaces = 0;
    r->progress.begun = true;
    return 0;
}

static int
interface_block(struct pcap_reader *r, const uint8_t *body, const uint8_t *end)
{
    struct interface i = {.tsresol = 6};
    struct pcapng_interface b;
    struct option o;
    const uint8_t *p = body + sizeof(b);
    int more;

    memcpy(&b, body, sizeof(b));
    i.link = u16(r, b.link);
    i.snaplen = u32(r, b.snaplen);
    while ((more = next_option(r, &p, end, &o)) == 1) {
        if (o.code == PCAPNG_IF_TSRESOL && o.len == 1) {
            i.tsresol = o.value[0];
        } else if (o.code == PCAPNG_IF_FCSLEN && o.len == 1) {
            i.fcs = fcs_octets(o.value[0]);
        } else if (o.code == PCAPNG_IF_TSOFFSET && o.len == 8) {
            uint64_t v;

            memcpy(&v, o.value, sizeof(v));
            i.tsoffset = (int64_t)(r->swapped ? __builtin_bswap64(v) : v);
        }
    }
    if (more < 0)
        return more;
    r->interfaces++;
    if (r->ninterfaces == PCAP_MOST_INTERFACES)
        return 0; /* its frames report that */
    if (r->ninterfaces == r->room_interfaces) {
        uint32_t room = r->room_interfaces ? 2 * r->room_interfaces : FIRST_INTERFACES;
        struct interface *larger = realloc(r->interface, room * sizeof(*larger));

        if (larger == NULL)
            return wrong(r, -ENOMEM, "no memory for %u interfaces", room);
        r->interface = larger;
        r->room_interfaces = room;
    }
    r->interface[r->ninterfaces++] = i;
    return 0;
}

/* find_interface() - find a frame's interface, and count the frame; NULL, with the error set, if there is none */
static const struct interface *
find_interface(struct pcap_reader *r, uint32_t number)
{
    if (number >= r->interfaces)
        wrong(r, -EBADMSG, "a frame of interface %u, where %llu are known", number,
              (unsigned long long)r->interfaces);
    else if (number >= r->ninterfaces)
        wrong(r, -EBADMSG, "a frame of interface %u, more than the %u that are kept", number,
              r->ninterfaces);
    else
        return &r->interface[number];
    return NULL;
}

/* give() - pass on @f if it is an Ethernet frame */
static int
give(struct pcap_reader *r, struct pcap_frame *f, const struct interface *i, uint32_t fcs)
{
    if (i->link == LINKTYPE_ETHERNET && f->caplen > PCAP_MOST_FRAME)
        return wrong(r, -EBADMSG, "a frame of %u bytes", f->caplen);
    finish(r, f, fcs);
    r->progress.frames++;
    if (i->link == LINKTYPE_ETHERNET)
        return FRAME;
    count_other(r, i->link);
    return 0;
}

static int
packet_block(struct pcap_reader *r, uint32_t type, const uint8_t *body, const uint8_t *end,
             struct pcap_frame *out)
{
    struct pcapng_packet b;
    uint32_t number;

    memcpy(&b, body, sizeof(b));
    if (type == PCAPNG_PACKET) {
        number = u32(r, b.interface);
    } else {
        uint16_t half;

        memcpy(&half, body, sizeof(half));
        number = u16(r, half);
    }
    const struct interface *i = find_interface(r, number);

    if (i == NULL)
        return r->error;
    const uint8_t *p = body + sizeof(b);
    size_t left = (size_t)(end - p);
    uint32_t flags = 0;
    struct option o;
    int more;

    *out = (struct pcap_frame){.data = p, .caplen = u32(r, b.caplen), .len = u32(r, b.len)};
    if (out->caplen > left)
        return wrong(r, -EBADMSG, "a frame of %u bytes in a block with room for %zu", out->caplen,
                     left);
    p += (out->caplen + 3u) & ~3u;
    while ((more = next_option(r, &p, end, &o)) == 1)
        if (o.code == PCAPNG_EPB_FLAGS && o.len == 4)
            flags = load32(r, o.value);
    if (more < 0)
        return more;
    set_time(out, i, (uint64_t)u32(r, b.time_high) << 32 | u32(r, b.time_low));
    if (PCAPNG_DIRECTION(flags) == PCAPNG_INBOUND)
        out->direction = PCAP_IN;
    else if (PCAPNG_DIRECTION(flags) == PCAPNG_OUTBOUND)
        out->direction = PCAP_OUT;
    return give(r, out, i, PCAPNG_FCS_OCTETS(flags) ? PCAPNG_FCS_OCTETS(flags) : i->fcs);
}

static int
simple_packet_block(struct pcap_reader *r, const uint8_t *body, const uint8_t *end,
                    struct pcap_frame *out)
{
    const struct interface *i = find_interface(r, 0);

    if (i == NULL)
        return r->error;
    size_t left = (size_t)(end - body) - 4;

    *out = (struct pcap_frame){.data = body + 4, .len = load32(r, body)};
    out->caplen = i->snaplen && i->snaplen < out->len ? i->snaplen : out->len;
    if (out->caplen > left)
        return wrong(r, -EBADMSG, "a frame of %u bytes in a block with room for %zu", out->caplen,
                     left);
    return give(r, out, i, i->fcs);
}

/* fixed() - size of the fixed part of a block's body, for the types that are read */
static size_t
fixed(uint32_t type)
{
    switch (type) {
    case PCAPNG_SECTION:
        return sizeof(struct pcapng_section);
    case PCAPNG_INTERFACE:
        return sizeof(struct pcapng_interface);
    case PCAPNG_PACKET:
    case PCAPNG_OLD_PACKET:
        return sizeof(struct pcapng_packet);
    case PCAPNG_SIMPLE_PACKET:
        return 4;
    default:
        return 0;
    }
}

static int
check_end(struct pcap_reader *r, uint32_t total, uint32_t again)
{
    if (again == total)
        return 0;
    return wrong(r, -EBADMSG, "a block of %u bytes that ends as one of %u", total, again);
}

static int
pcapng_step(struct pcap_reader *r, struct pcap_frame *out)
{
    struct pcapng_block b;

    if (!have(r, PCAPNG_BLOCK_BYTES))
        return MORE;
    const uint8_t *p = r->buffer + r->head;
    const uint8_t *body = p + sizeof(b);

    memcpy(&b, p, sizeof(b));
    if (b.type == PCAPNG_SECTION) {
        uint32_t order;

        memcpy(&order, body, sizeof(order));
        r->swapped = order != PCAPNG_BYTE_ORDER;
        if (u32(r, order) != PCAPNG_BYTE_ORDER)
            return wrong(r, -EBADMSG, "a section of byte order %08x", order);
    }
    uint32_t type = u32(r, b.type);
    uint32_t total = u32(r, b.total);
    int said = 0;

    if (total < PCAPNG_BLOCK_BYTES + fixed(type) || total > PCAP_MOST_BLOCK || total % 4 != 0)
        return wrong(r, -EBADMSG, "a block of %u bytes", total);
    if (fixed(type) == 0) { /* not needed here */
        r->skip = total - 4;
        r->skipped = total;
        return 0;
    }
    if (!have(r, total))
        return MORE;
    const uint8_t *end = p + total - 4;

    if (check_end(r, total, load32(r, end)) < 0)
        return r->error;
    if (type == PCAPNG_SECTION)
        said = section_block(r, body);
    else if (type == PCAPNG_INTERFACE)
        said = interface_block(r, body, end);
    else if (type == PCAPNG_SIMPLE_PACKET)
        said = simple_packet_block(r, body, end, out);
    else
        said = packet_block(r, type, body, end, out);
    if (said >= 0)
        use(r, total);
    return said;
}

/* pass_over() - skip a block piece by piece, so that it need not fit into the buffer */
static int
pass_over(struct pcap_reader *r)
{
    size_t some = r->tail - r->head;

    some = some < r->skip ? some : (size_t)r->skip;
    r->head += some;
    r->skip -= some;
    if (r->skip > 0 || !have(r, 4)) {
        r->need = 4;
        return MORE;
    }
    if (check_end(r, r->skipped, load32(r, r->buffer + r->head)) < 0)
        return r->error;
    r->head += 4;
    r->progress.offset += r->skipped;
    r->skipped = 0;
    return 0;
}

/* Both */

static int
begin(struct pcap_reader *r, struct pcap_frame *out)
{
    uint32_t magic;

    if (!have(r, sizeof(magic)))
        return MORE;
    memcpy(&magic, r->buffer + r->head, sizeof(magic));
    for (int swapped = 0; swapped < 2; swapped++) {
        r->swapped = swapped;
        switch (u32(r, magic)) {
        case PCAPNG_SECTION:
            r->step = pcapng_step;
            return pcapng_step(r, out);
        case PCAP_MICROSECONDS:
        case PCAP_NANOSECONDS:
        case PCAP_KUZNETZOV:
            return begin_pcap(r, u32(r, magic));
        default:
            break;
        }
    }
    return wrong(r, -EINVAL, "it begins with %02x %02x %02x %02x", r->buffer[r->head],
                 r->buffer[r->head + 1], r->buffer[r->head + 2], r->buffer[r->head + 3]);
}

int
pcap_reader_next(struct pcap_reader *r, struct pcap_frame *out, unsigned most)
{
    unsigned n = 0;

    while (n < most && r->error == 0) {
        int said = r->skipped ? pass_over(r) : r->step(r, &out[n]);

        if (said == MORE)
            break;
        n += said == FRAME;
    }
    if (n > 0)
        return (int)n;
    if (r->error == 0 && most > 0 && r->ended && (r->tail > r->head || r->skipped)) {
        if (r->step == begin && r->tail - r->head < sizeof(uint32_t))
            return wrong(r, -EINVAL, "it has %zu bytes", r->tail - r->head);
        return wrong(r, -ENODATA, "it ends there");
    }
    if (r->error == 0 && r->ended && r->step == begin)
        return wrong(r, -EINVAL, "it is empty");
    return r->error;
}
