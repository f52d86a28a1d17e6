/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads capture files: pcap (microseconds, nanoseconds, and Kuznetzov's variant) and pcapng, in
 * either byte order.
 *
 * The caller feeds the reader a file's bytes in pieces of any size, and gets batches of Ethernet
 * frames, which stay in the reader's buffer:
 *
 *     do {
 *         while ((n = pcap_reader_next(r, frames, BATCH)) > 0)
 *             ... frames[0] to frames[n - 1] ...
 *         where = pcap_reader_room(r, &room);
 *         got = read(fd, where, room);
 *         pcap_reader_fed(r, got);
 *     } while (n == 0 && got > 0);
 *
 * Its memory is bounded whatever the file says: a buffer as large as the largest block so far, at
 * most 16 MiB, and a table of 65,536 interfaces.
 */
#ifndef NIC_HARNESS_PCAP_PCAP_READER_H
#define NIC_HARNESS_PCAP_PCAP_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Limits, bytes; anything larger counts as damaged. Frames: as in libpcap and Wireshark; blocks: as in Wireshark. */
#define PCAP_MOST_FRAME (256u << 10)
#define PCAP_MOST_BLOCK (16u << 20)
#define PCAP_MOST_INTERFACES 65536u
#define PCAP_OTHER_LINKS 8u

enum pcap_direction {
    PCAP_UNKNOWN = 0,
    PCAP_IN = 1,
    PCAP_OUT = 2
};

struct pcap_frame {
    const uint8_t *data;
    int64_t sec;     /* since 1970; out-of-range times are clamped */
    uint32_t nsec;   /* 0 to 999,999,999 */
    uint32_t caplen; /* bytes kept; excludes the frame check sequence, as @len does */
    uint32_t len;    /* length on the wire, bytes */
    bool timed;      /* false: neither it nor any earlier frame has a time */
    uint8_t direction;
    uint8_t pad[2];
};

struct pcap_other {
    uint16_t link; /* LINKTYPE_*, as registered with tcpdump.org */
    uint64_t frames;
};

/* What a reader has found so far. */
struct pcap_progress {
    uint64_t frames; /* complete frames, including those of other link types */
    uint64_t other_frames;
    uint64_t offset; /* offset of the next or the damaged block or record, bytes */
    struct pcap_other other[PCAP_OTHER_LINKS]; /* the first link types other than Ethernet */
    unsigned nother;
    bool begun; /* the file's header has been read */
};

struct pcap_reader;

/* pcap_reader_create() - create a reader at the beginning of a file; 0 or -ENOMEM. */
int pcap_reader_create(struct pcap_reader **out);
void pcap_reader_destroy(struct pcap_reader *r);

/*
 * pcap_reader_room() - where to put the file's next bytes; invalidates earlier frames
 * @room: size of the room in bytes, at least one
 *
 * Return: the room; NULL if out of memory.
 */
void *pcap_reader_room(struct pcap_reader *r, size_t *room);

/* pcap_reader_fed() - tell the reader that @len bytes were put there; 0: the file has ended */
void pcap_reader_fed(struct pcap_reader *r, size_t len);

/*
 * pcap_reader_next() - get at most @most frames
 *
 * A frame without a time gets that of the previous frame. Other blocks are skipped; frames of other
 * link types are only counted.
 *
 * Return: number of frames; 0: more bytes are needed, or the file has ended. After the last good
 * frame:
 * -EINVAL: it is not a capture; -EOPNOTSUPP: its version, or its only link type, is not supported;
 * -EBADMSG: it is damaged; -ENODATA: it ends in the middle of a block or record. Errors persist,
 * and pcap_reader_problem() describes them.
 */
int pcap_reader_next(struct pcap_reader *r, struct pcap_frame *out, unsigned most);

/* pcap_reader_problem() - description of the error; "" if there is none */
const char *pcap_reader_problem(const struct pcap_reader *r);

void pcap_reader_progress(const struct pcap_reader *r, struct pcap_progress *out);

#endif
