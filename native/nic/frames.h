/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bursts of frames for a caller in another language: one call moves many, and what it needs to know
 * of each comes back in a flat array.
 */
#ifndef NIC_HARNESS_FRAMES_H
#define NIC_HARNESS_FRAMES_H

#include "nic/nic.h"

/* One received frame; @m is the caller's to m_freem(). */
struct frame {
    struct mbuf *m;
    void *data;         /* first segment */
    uint64_t timestamp; /* ns, CLOCK_REALTIME: when the device had it, or when it was harvested */
    uint32_t data_len;  /* bytes of the first segment */
    uint32_t len;       /* bytes of the frame */
    uint32_t nsegs;
    uint32_t csum_flags; /* CSUM_*, with the fields that they give a meaning */
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

/* One frame to send: a chain (@m), whose storage is shared and which stays the caller's, or bytes. */
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

/* nic_rx_frames() - as nic_rx_burst(), with each frame described in @out. */
int nic_rx_frames(struct nic *n, unsigned queue, struct frame *out, unsigned max);

/* frames_taken() - record @site as the place where the jumbo pages of @n frames were taken. */
void frames_taken(const struct frame *f, unsigned n, const void *site);

/* frames_free() - m_freem() for each of @n frames */
void frames_free(struct frame *f, unsigned n);

/* frame_describe() - what is to know of a chain; with a packet header, also what that says. */
void frame_describe(struct mbuf *m, struct frame *out);

/* frame_segs() - the segments of a chain that have bytes, at most @max of them; how many there are. */
unsigned frame_segs(const struct mbuf *m, struct frame_seg *out, unsigned max);

/* frame_copied() - the caller copied @bytes out of a chain by itself: count it. */
void frame_copied(const struct mbuf *m, size_t bytes);

/*
 * nic_tx_frames() - put frames on the transmit ring and flush
 * @in: @count frames
 * @taken: frames that were put on the ring
 *
 * Return: 0; what nic_tx() said of frame @in[*@taken]: -ENOBUFS when the ring is full though flushed; -ENOMEM
 * when out of mbufs or pages. Of all of them: -EPROTO when the ring was broken, -ENODEV when the interface is
 * gone. A device that is down is no error: the frames wait on the ring.
 */
int nic_tx_frames(struct nic *n, unsigned queue, const struct frame_tx *in, unsigned count,
                  unsigned *taken);

#endif
