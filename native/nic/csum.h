/* SPDX-License-Identifier: BSD-2-Clause */
/* The Internet checksum over chains, for when the device does not do it. */
#ifndef NIC_HARNESS_NIC_CSUM_H
#define NIC_HARNESS_NIC_CSUM_H

#include <sys/mbuf.h>

#include "arena/arena.h"
#include "base/in_cksum.h"

/* csum_chain() - sum of @len bytes from offset @off of a chain; 0, or -EFAULT when a file page is gone. */
int csum_chain(const struct mbuf *m, uint32_t off, uint32_t len, uint64_t *sum);

/* csum_field_writable() - may the sum of a CSUM_PARTIAL packet be written where it belongs? */
bool csum_field_writable(const struct mbuf *m);

/*
 * csum_finish() - do what CSUM_PARTIAL asks for; m_pkthdr is left as it is
 *
 * Return: 0; -EFAULT when a page of a file that shrank was to be summed.
 */
int csum_finish(struct mbuf *m);

/* csum_guarded_copy() - m_copydata() that survives a file page that is gone; counted. 0 or -errno. */
int csum_guarded_copy(const struct mbuf *m, uint32_t off, uint32_t len, caddr_t to);

#endif
