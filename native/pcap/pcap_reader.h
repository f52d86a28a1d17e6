/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads captures: pcap (microseconds, nanoseconds, and Kuznetzov's variant) and pcapng, in either byte order.
 *
 * The reader is given a file's bytes as they come, in pieces of any size, and gives batches of Ethernet frames, which
 * stay in its buffer:
 *
 *     do {
 *         while ((n = pcap_reader_next(r, frames, BATCH)) > 0)
 *             ... frames[0] to frames[n - 1] ...
 *         where = pcap_reader_room(r, &room);
 *         got = read(fd, where, room);
 *         pcap_reader_fed(r, got);
 *     } while (n == 0 && got > 0);
 *
 * What it holds is bounded, whatever the file says: a buffer that is as large as the largest block that came, 16 MiB
 * at most, and a table of 65,536 interfaces.
 */
#ifndef NIC_HARNESS_PCAP_PCAP_READER_H
#define NIC_HARNESS_PCAP_PCAP_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Larger ones are damaged: what libpcap and Wireshark take of a frame, and what Wireshark takes of a block. Bytes. */
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
    int64_t sec;     /* since 1970; what does not fit is the nearest that does */
    uint32_t nsec;   /* 0 to 999,999,999 */
    uint32_t caplen; /* bytes of it kept; without its frame check sequence, as @len */
    uint32_t len;    /* on the wire */
    bool timed;      /* false: it has no time, and no frame before it has */
    uint8_t direction;
    uint8_t pad[2];
};

struct pcap_other {
    uint16_t link; /* LINKTYPE_*, as registered with tcpdump.org */
    uint64_t frames;
};

/* What a reader came across. */
struct pcap_progress {
    uint64_t frames; /* whole ones, those of other link types too */
    uint64_t other_frames;
    uint64_t offset; /* of the block or record that comes next, or is damaged; bytes */
    struct pcap_other other[PCAP_OTHER_LINKS]; /* the first link types that are not Ethernet's */
    unsigned nother;
    bool begun; /* the file's header was read */
};

struct pcap_reader;

/* pcap_reader_create() - a reader at the begin of a file. 0 or -ENOMEM. */
int pcap_reader_create(struct pcap_reader **out);
void pcap_reader_destroy(struct pcap_reader *r);

/*
 * pcap_reader_room() - where the file's next bytes go; frames given so far are gone
 * @room: bytes there, at least one
 *
 * Return: NULL when out of memory.
 */
void *pcap_reader_room(struct pcap_reader *r, size_t *room);

/* pcap_reader_fed() - @len bytes were put there; 0: the file has ended */
void pcap_reader_fed(struct pcap_reader *r, size_t len);

/*
 * pcap_reader_next() - the next frames, @most at most
 *
 * A frame without a time has that of the frame before. Blocks that are no frames are passed over, and frames of other
 * link types counted.
 *
 * Return: how many; 0: more bytes are needed, or the file has ended. When none is left before it:
 * -EINVAL: it is no capture; -EOPNOTSUPP: of a version, or wholly of a link type, that is not read; -EBADMSG: it is
 * damaged; -ENODATA: it ends in the middle of a block or record. Those stay, and pcap_reader_problem() has the words.
 */
int pcap_reader_next(struct pcap_reader *r, struct pcap_frame *out, unsigned most);

/* pcap_reader_problem() - what is wrong, for people; "" while nothing is */
const char *pcap_reader_problem(const struct pcap_reader *r);

void pcap_reader_progress(const struct pcap_reader *r, struct pcap_progress *out);

#endif
