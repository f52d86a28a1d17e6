/* SPDX-License-Identifier: BSD-2-Clause */
/* What a capture kept, as blocks of a pcapng file (draft-ietf-opsawg-pcapng, section 4.3). */
#ifndef NIC_HARNESS_DEVICE_PCAPNG_H
#define NIC_HARNESS_DEVICE_PCAPNG_H

#include <stddef.h>

/* Bytes that the block of one frame has more than its record, at most. */
#define PCAPNG_MORE 28u

/*
 * pcapng_packets() - Enhanced Packet Blocks of interface 0, its time in ns, in this machine's byte order
 * @records, @size: whole records of capture_read()
 * @out, @room: room for them; a block is written whole or not at all
 * @taken: bytes of @records that are in @out now
 *
 * Return: bytes written.
 */
size_t pcapng_packets(const void *records, size_t size, void *out, size_t room, size_t *taken);

#endif
