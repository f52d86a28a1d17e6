/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The layout of a pcapng file, for its writer and its reader (draft-ietf-opsawg-pcapng).
 *
 * Each block begins with its type and its length, and ends with its length again; its body is
 * padded to four bytes. Numbers have the byte order of their section.
 */
#ifndef NIC_HARNESS_PCAP_PCAPNG_H
#define NIC_HARNESS_PCAP_PCAPNG_H

#include <stdint.h>

#define PCAPNG_BYTE_ORDER 0x1A2B3C4Du
#define LINKTYPE_ETHERNET 1u

enum pcapng_type {
    PCAPNG_SECTION = 0x0A0D0D0A, /* the same in either byte order */
    PCAPNG_INTERFACE = 1,
    PCAPNG_OLD_PACKET = 2, /* obsolete */
    PCAPNG_SIMPLE_PACKET = 3,
    PCAPNG_STATISTICS = 5,
    PCAPNG_PACKET = 6,
};

/* Options. Each kind of block numbers its own. */
enum pcapng_option_code {
    PCAPNG_OPT_END = 0,
    PCAPNG_SHB_HARDWARE = 2,
    PCAPNG_SHB_OS = 3,
    PCAPNG_SHB_USERAPPL = 4,
    PCAPNG_IF_NAME = 2,
    PCAPNG_IF_DESCRIPTION = 3,
    PCAPNG_IF_MACADDR = 6,
    PCAPNG_IF_TSRESOL = 9,
    PCAPNG_IF_FCSLEN = 13,
    PCAPNG_IF_TSOFFSET = 14,
    PCAPNG_EPB_FLAGS = 2, /* also in the obsolete packet block */
    PCAPNG_EPB_QUEUE = 6,
    PCAPNG_ISB_STARTTIME = 2,
    PCAPNG_ISB_ENDTIME = 3,
    PCAPNG_ISB_IFRECV = 4,
    PCAPNG_ISB_IFDROP = 5,
    PCAPNG_ISB_OSDROP = 7,
    PCAPNG_ISB_USRDELIV = 8,
};

/* epb_flags */
#define PCAPNG_DIRECTION(flags) ((flags) & 3u)
#define PCAPNG_INBOUND 1u
#define PCAPNG_OUTBOUND 2u
#define PCAPNG_FCS_OCTETS(flags) ((flags) >> 5 & 15u)

struct pcapng_block {
    uint32_t type, total;
};
_Static_assert(sizeof(struct pcapng_block) == 8, "section 3.1");

struct pcapng_section {
    uint32_t byte_order;
    uint16_t major, minor;
    uint32_t length[2]; /* of the section, 64 bits; all ones: not given */
};
_Static_assert(sizeof(struct pcapng_section) == 16, "section 4.1");

struct pcapng_interface {
    uint16_t link, reserved;
    uint32_t snaplen; /* 0: no limit */
};
_Static_assert(sizeof(struct pcapng_interface) == 8, "section 4.2");

/* In the obsolete packet block, the interface has 16 bits; the other 16 are a count of drops. */
struct pcapng_packet {
    uint32_t interface;
    uint32_t time_high, time_low;
    uint32_t caplen, len;
};
_Static_assert(sizeof(struct pcapng_packet) == 20, "sections 4.3 and A");

struct pcapng_statistics {
    uint32_t interface;
    uint32_t time_high, time_low;
};
_Static_assert(sizeof(struct pcapng_statistics) == 12, "section 4.6");

struct pcapng_option {
    uint16_t code, len;
};
_Static_assert(sizeof(struct pcapng_option) == 4, "section 3.5");

/* Bytes of a block besides its body. */
#define PCAPNG_BLOCK_BYTES ((uint32_t)sizeof(struct pcapng_block) + 4u)

#endif
