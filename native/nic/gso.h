/* SPDX-License-Identifier: BSD-2-Clause */
/* Cuts super-frames into frames, for devices without segmentation offload. */
#ifndef NIC_HARNESS_NIC_GSO_H
#define NIC_HARNESS_NIC_GSO_H

#include <sys/mbuf.h>

/*
 * gso_cut() - cut a TCP or UDP super-frame into frames
 * @m: the super-frame, not changed; m_pkthdr.csum_flags gives its kind and tso_segsz the segment
 * size
 * @out: the frames, in order, linked by m_nextpkt: each has its own headers, shares payload with
 *       @m, and has CSUM_PARTIAL set with a writable checksum field.
 *
 * Return: number of frames; -EINVAL if the headers do not match the kind; -ENOMEM; -EFAULT if the
 * headers lie on a page of a file that has shrunk.
 */
int gso_cut(struct mbuf *m, struct mbuf **out);
/* gso_free() - free a list of frames */
void gso_free(struct mbuf *list);

#endif
