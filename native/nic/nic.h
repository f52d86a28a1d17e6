/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The driver: it keeps the receive ring full of jumbo pages, turns what comes back into mbufs with
 * those pages as external storage, and puts mbuf chains on the transmit ring until they complete.
 *
 * A queue pair belongs to one thread: nothing here locks.
 *
 * Buffers of one receive ring, at every moment:
 *     posted (with the device) + in return (used, not harvested) + in the driver's hands = ring size,
 * because a frame is passed up only when every buffer of it has a successor at hand; otherwise the
 * frame is dropped, counted, and its own buffers are posted again. A consumer that must hear of small
 * frames whatever happens (nic_rx_copy()) is given a copy of them then.
 */
#ifndef NIC_HARNESS_NIC_H
#define NIC_HARNESS_NIC_H

#include <sys/mbuf.h>

#include "device/device.h"
#include "kva/jumbo.h"
#include "mbuf/mbuf_zone.h"
#include "ring/virtqueue.h"

#define NIC_MTU_MIN 68
#define NIC_MTU_MAX 65535
/* Bytes of headers that fit into an mbuf, behind the device's. */
#define NIC_SPLIT_MAX ((uint32_t)MHLEN - (uint32_t)sizeof(struct net_hdr))

struct nic_config {
    unsigned nqueues;      /* 1 to NIC_MAX_QUEUES */
    uint32_t rx_ring_size; /* descriptors, a power of two */
    uint32_t tx_ring_size;
    uint32_t mtu;      /* bytes, NIC_MTU_MIN to NIC_MTU_MAX */
    uint32_t offloads; /* OFFLOAD_*, wanted */
    uint8_t mac[6];    /* ours: the card's end of the wire */
    /*
     * Header split: the first bytes of a frame, so many (14 to NIC_SPLIT_MAX), come in an mbuf's own
     * bytes, and what follows starts on a page; 0: frames start on a page. A quarter of the receive ring
     * is for headers then.
     */
    uint32_t header_split;
    /*
     * Low water: new buffers are made known to the device only when it has fewer than these left, which saves
     * notifications where it works on its own; at least NET_FRAME_BUFFERS; 0: after every burst.
     */
    uint32_t rx_low_water;
    /*
     * Coalescing: whoever has just received and found no more is woken by nic_wait(), or by the descriptor
     * of nic_wait_fd(), only when so many buffers are used again or so much time is over, whichever is
     * first; when nothing came in that time, by the next frame. A TAP does not tell how many frames
     * wait: there it is the time. 0 microseconds: every frame wakes.
     */
    uint32_t coalesce_frames;
    uint32_t coalesce_us;
    /*
     * Asked before each allocation for a received frame, and before each copy that a frame needs to be sent
     * (@tx). True: the allocation fails, as if memory had run out. NULL: none is made to fail.
     */
    bool (*alloc_fails)(void *arg, unsigned queue, bool tx);
    void *alloc_arg;
};

/* Everything a queue counted since it was attached. */
struct nic_queue_stats {
#define COUNTER(name, what) uint64_t name;
#define DROP(name, why, what) uint64_t name;
#include "nic/counters.def"
};

struct nic;

/*
 * nic_attach() - bring a device up with full receive rings
 * @j: pool of receive pages
 * @z: mbufs
 * @d: device; the NIC owns it from now on, also when attach fails
 * @config: see struct nic_config
 * @out: the NIC
 *
 * Return: 0; -EINVAL for sizes out of range; -ENOMEM when the pool cannot fill the rings; -EOPNOTSUPP when
 * the device cannot split headers off; what the device's attach says. Nothing is left behind then.
 */
int nic_attach(struct jumbo *j, struct mbuf_zone *z, struct device *d,
               const struct nic_config *config, struct nic **out);

/*
 * nic_detach() - stop the device and give every page and chain back; the NIC is gone afterwards
 *
 * Frames already passed up stay with their consumers. In a forked child it does nothing: the NIC is the
 * parent's, and so it is for the calls below, which return -EOWNERDEAD there.
 */
int nic_detach(struct nic *n);

/*
 * nic_rx_burst() - poll the device, harvest, refill, publish
 * @n, @queue: NIC and queue
 * @out: room for @max packets: chains with a packet header, data from the Ethernet header on, each page
 *       external storage of one mbuf; the caller's to m_freem()
 * @max: at least 1
 *
 * Return: packets; 0 when there is nothing; -ENETDOWN while the interface is down; -ENODEV when it is
 * gone; -EPROTO when the ring was broken and the queue stopped (nic_queue_error()).
 */
int nic_rx_burst(struct nic *n, unsigned queue, struct mbuf **out, unsigned max);

/* Bytes of the largest frame that nic_rx_copy() concerns: a standard Ethernet frame with a VLAN tag. */
#define NIC_RX_COPY_MAX 1518u

/*
 * nic_rx_copy() - what becomes of a small frame when the pool is dry
 * @on: it is copied into mbufs and its page posted again, instead of being dropped
 *
 * For a protocol on the queue: without acknowledgements and resets, the frames that would free memory
 * are those that memory is missing for. The bytes count as copied.
 */
void nic_rx_copy(struct nic *n, unsigned queue, bool on);

/*
 * nic_tx() - put one packet on the transmit ring; the device sees it with nic_tx_flush()
 * @m: chain with a packet header: a frame with its Ethernet header; m_pkthdr.csum_flags says what the
 *     device has left to do
 *
 * The chain belongs to the ring when this returns 0 and is freed at completion; otherwise it is still
 * the caller's.
 *
 * Return: 0; -ENOBUFS when the ring is full: flush, and try again; -EMSGSIZE for a frame longer than the MTU (or
 * segment size) allows; -EINVAL for less than an Ethernet header or offload fields that make no sense;
 * -EFAULT when a file page that was to be summed here had gone; -ENOMEM. A super-frame of a kind that was not
 * negotiated is cut here: all of its frames are put on the ring, or none.
 */
int nic_tx(struct nic *n, unsigned queue, struct mbuf *m);

/*
 * nic_tx_flush() - publish, let the device transmit, free what completed
 *
 * Return: frames sent, as far as the device knows; -EFAULT when it lost one to a file page that had gone
 * (no frame waits because of it); another -errno.
 */
int nic_tx_flush(struct nic *n, unsigned queue);

/* nic_tx_reap() - free what completed since, without sending; for a caller that only receives. */
void nic_tx_reap(struct nic *n, unsigned queue);

/* nic_tx_room() - frames that nic_tx() would take now, for chains of @segs segments. */
unsigned nic_tx_room(const struct nic *n, unsigned queue, unsigned segs);

/*
 * nic_wait() - sleep until a receive burst would find something
 * @timeout_ns: at most so long; negative for ever
 *
 * Return: 1 ready; 0 the time is over; -EINTR a signal; -errno.
 */
int nic_wait(struct nic *n, unsigned queue, int64_t timeout_ns);

/* nic_wait_fd() - descriptor that is readable when frames wait in the device; -1 when there is none. */
int nic_wait_fd(const struct nic *n, unsigned queue);

/* nic_queue_error() - why a queue was stopped; VQ_OK when it was not. */
enum vq_error nic_queue_error(const struct nic *n, unsigned queue);

/* nic_check() - conservation at this moment; 0, or -EINVAL when a page or chain is lost or doubled. */
int nic_check(struct nic *n);

/*
 * A ring as both halves have it, for somebody who looks on: positions that count to 65536 and begin again.
 * taken <= used <= avail: between the last two is what the device has, before that what the driver has yet
 * to take.
 */
struct nic_ring {
    uint32_t size;
    uint16_t avail; /* driver's producer: chains published */
    uint16_t used;  /* device's producer: chains it is through with */
    uint16_t taken; /* driver's consumer */
};

/* nic_get_ring() - look at the transmit or the receive ring of a queue, from any thread. */
void nic_get_ring(const struct nic *n, unsigned queue, bool tx, struct nic_ring *out);

void nic_get_stats(struct nic *n, unsigned queue, struct nic_queue_stats *out);
void nic_describe(struct nic *n, struct device_info *out);

/* nic_vring() - a queue's receive or transmit ring, to look at */
const struct vring *nic_vring(const struct nic *n, unsigned queue, bool tx);

const uint8_t *nic_mac(const struct nic *n);
uint32_t nic_mtu(const struct nic *n);
uint32_t nic_offloads(const struct nic *n); /* OFFLOAD_*, negotiated */
unsigned nic_nqueues(const struct nic *n);
struct mbuf_zone *nic_mbuf_zone(const struct nic *n);
struct jumbo *nic_jumbo(const struct nic *n);

#endif
