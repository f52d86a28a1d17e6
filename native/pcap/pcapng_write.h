/* SPDX-License-Identifier: BSD-2-Clause */
/* What a capture kept, as a pcapng file of one section and one interface, in this machine's byte order. */
#ifndef NIC_HARNESS_PCAP_PCAPNG_WRITE_H
#define NIC_HARNESS_PCAP_PCAPNG_WRITE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that the block of one frame has more than its record, at most. */
#define PCAPNG_MORE 28u

/*
 * pcapng_section() - the block that a file begins with
 * @hardware, @os, @application: what recorded it
 *
 * Return: bytes written; 0 when there is no room.
 */
size_t pcapng_section(void *out, size_t room, const char *hardware, const char *os,
                      const char *application);

/*
 * pcapng_interface() - the block of an Ethernet interface with times in ns
 * @snaplen: bytes kept of each frame, at most
 * @mac: its six bytes
 *
 * Return: bytes written; 0 when there is no room.
 */
size_t pcapng_interface(void *out, size_t room, uint32_t snaplen, const char *name,
                        const char *description, const uint8_t *mac);

/*
 * pcapng_packets() - Enhanced Packet Blocks of interface 0
 * @records, @size: whole records of capture_read()
 * @out, @room: room for them; a block is written whole or not at all
 * @taken: bytes of @records that are in @out now
 *
 * Return: bytes written.
 */
size_t pcapng_packets(const void *records, size_t size, void *out, size_t room, size_t *taken);

/* What the last block says of interface 0: times in ns since 1970, and numbers of frames. */
struct pcapng_summary {
    uint64_t began, ended;
    uint64_t seen;
    uint64_t dropped_before; /* by the other side */
    uint64_t dropped;        /* by the capture */
    uint64_t kept;
};

/* pcapng_statistics() - the block that a file ends with; bytes written, 0 when there is no room. */
size_t pcapng_statistics(void *out, size_t room, const struct pcapng_summary *s);

#endif
