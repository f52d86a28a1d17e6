/* SPDX-License-Identifier: BSD-2-Clause */
/* The Internet checksum over chains, for devices without checksum offload. */
#ifndef NIC_HARNESS_NIC_CSUM_H
#define NIC_HARNESS_NIC_CSUM_H

#include <sys/mbuf.h>

#include "arena/arena.h"
#include "base/in_cksum.h"

/* csum_chain() - sum of @len bytes from offset @off of a chain; 0, or -EFAULT if a file page no longer exists. */
int csum_chain(const struct mbuf *m, uint32_t off, uint32_t len, uint64_t *sum);

/* csum_field_writable() - may the sum of a CSUM_PARTIAL packet be written into its field? */
bool csum_field_writable(const struct mbuf *m);

/*
 * csum_finish() - complete a CSUM_PARTIAL checksum; m_pkthdr is not changed
 *
 * Return: 0; -EFAULT if the data include a page of a file that has shrunk.
 */
int csum_finish(struct mbuf *m);

/* csum_guarded_copy() - m_copydata() that survives missing file pages; counts the bytes. 0 or -errno. */
int csum_guarded_copy(const struct mbuf *m, uint32_t off, uint32_t len, caddr_t to);

#endif
