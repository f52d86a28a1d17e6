/* SPDX-License-Identifier: BSD-2-Clause */
/* Super-frames cut into frames, for when the device does not do it. */
#ifndef NIC_HARNESS_NIC_GSO_H
#define NIC_HARNESS_NIC_GSO_H

#include <sys/mbuf.h>

/*
 * gso_cut() - frames of a TCP or UDP super-frame
 * @m: the super-frame, left as it is; m_pkthdr.csum_flags and tso_segsz say of what kind, and how long
 * @out: the frames, in order, by m_nextpkt: headers of their own, payload that they share with @m. Each
 *       has CSUM_PARTIAL left to do, in a field that may be written.
 *
 * Return: how many; -EINVAL when the headers are not those of this kind; -ENOMEM; -EFAULT when the headers are
 * on a page of a file that shrank.
 */
int gso_cut(struct mbuf *m, struct mbuf **out);
/* gso_free() - free such a list */
void gso_free(struct mbuf *list);

#endif
