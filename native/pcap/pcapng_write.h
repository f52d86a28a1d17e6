/* SPDX-License-Identifier: BSD-2-Clause */
/* Writes a capture as a pcapng file with one section and one interface, in this machine's byte order. */
#ifndef NIC_HARNESS_PCAP_PCAPNG_WRITE_H
#define NIC_HARNESS_PCAP_PCAPNG_WRITE_H

#include <stddef.h>
#include <stdint.h>

/* The block of a frame exceeds its record by at most this many bytes. */
#define PCAPNG_MORE 28u

/*
 * pcapng_section() - write the block that begins a file
 * @hardware, @os, @application: what recorded the capture
 *
 * Return: bytes written; 0 when there is no room.
 */
size_t pcapng_section(void *out, size_t room, const char *hardware, const char *os,
                      const char *application);

/*
 * pcapng_interface() - write the block of an Ethernet interface with times in ns
 * @snaplen: most bytes kept of each frame
 * @mac: its six bytes
 *
 * Return: bytes written; 0 when there is no room.
 */
size_t pcapng_interface(void *out, size_t room, uint32_t snaplen, const char *name,
                        const char *description, const uint8_t *mac);

/*
 * pcapng_packets() - write Enhanced Packet Blocks of interface 0
 * @records, @size: whole records from capture_read()
 * @out, @room: room for them; a block is written whole or not at all
 * @taken: bytes of @records that were written
 *
 * Return: bytes written.
 */
size_t pcapng_packets(const void *records, size_t size, void *out, size_t room, size_t *taken);

/* The last block's contents for interface 0: times in ns since 1970, and numbers of frames. */
struct pcapng_summary {
    uint64_t began, ended;
    uint64_t seen;
    uint64_t dropped_before; /* by the other side */
    uint64_t dropped;        /* by the capture */
    uint64_t kept;
};

/* pcapng_statistics() - write the block that ends a file; returns bytes written, 0 if there is no room. */
size_t pcapng_statistics(void *out, size_t room, const struct pcapng_summary *s);

#endif
