/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bursts of frames for callers in other languages: one call moves many frames, and describes each
 * in a flat array.
 */
#ifndef NIC_HARNESS_FRAMES_H
#define NIC_HARNESS_FRAMES_H

#include "nic/nic.h"

/* One received frame; @m is the caller's to m_freem(). */
struct frame {
    struct mbuf *m;
    void *data; /* first segment */
    uint64_t
        timestamp; /* ns, CLOCK_REALTIME: when the device received it, or when it was harvested */
    uint32_t data_len; /* bytes of the first segment */
    uint32_t len;      /* bytes of the frame */
    uint32_t nsegs;
    uint32_t csum_flags; /* CSUM_*, with the fields they refer to */
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t gso_size;
    uint16_t hdr_len;
};

/* One segment of a chain. */
struct frame_seg {
    void *data;
    size_t len;
};

/* One frame to send: bytes, or a chain (@m) that the caller keeps and whose storage is shared. */
struct frame_tx {
    struct mbuf *m;
    const void *data; /* copied, when @m is NULL; counted as copied */
    size_t len;
    uint32_t csum_flags;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t gso_size;
    uint16_t hdr_len;
};

/* nic_rx_frames() - like nic_rx_burst(), but describes each frame in @out. */
int nic_rx_frames(struct nic *n, unsigned queue, struct frame *out, unsigned max);

/* frames_taken() - record @site as the place where the jumbo pages of @n frames were allocated. */
void frames_taken(const struct frame *f, unsigned n, const void *site);

/* frames_free() - m_freem() for each of @n frames */
void frames_free(struct frame *f, unsigned n);

/* frame_describe() - describe a chain, and its packet header if it has one. */
void frame_describe(struct mbuf *m, struct frame *out);

/* frame_segs() - list at most @max non-empty segments of a chain; returns how many there are in all. */
unsigned frame_segs(const struct mbuf *m, struct frame_seg *out, unsigned max);

/* frame_copied() - count @bytes that the caller itself copied out of a chain. */
void frame_copied(const struct mbuf *m, size_t bytes);

/*
 * nic_tx_frames() - put frames on the transmit ring and flush
 * @in: @count frames
 * @taken: number of frames put on the ring
 *
 * Return: 0; nic_tx()'s error for frame @in[*@taken]: -ENOBUFS if the ring is full even after a
 * flush, -ENOMEM if out of mbufs or pages. For the whole call: -EPROTO if the ring is broken,
 * -ENODEV if the interface is gone. A device that is down is not an error: the frames wait on the
 * ring.
 */
int nic_tx_frames(struct nic *n, unsigned queue, const struct frame_tx *in, unsigned count,
                  unsigned *taken);

#endif
