/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The driver keeps the receive ring full of jumbo pages, turns received pages into mbufs that have
 * them as external storage, and holds mbuf chains on the transmit ring until they complete.
 *
 * A queue pair belongs to one thread, so nothing here takes a lock.
 *
 * Buffers of one receive ring, at every moment:
 *     posted (with the device) + in return (used, not harvested) + in the driver's hands = ring size,
 * because a frame is passed up only if each of its buffers can be replaced. Otherwise the frame is
 * dropped and counted, and its own buffers are posted again. A consumer that must not lose small
 * frames (nic_rx_copy()) gets a copy instead.
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
/* Bytes of headers that fit into an mbuf after the device's header. */
#define NIC_SPLIT_MAX ((uint32_t)MHLEN - (uint32_t)sizeof(struct net_hdr))

struct nic_config {
    unsigned nqueues;      /* 1 to NIC_MAX_QUEUES */
    uint32_t rx_ring_size; /* descriptors, a power of two */
    uint32_t tx_ring_size;
    uint32_t mtu;      /* bytes, NIC_MTU_MIN to NIC_MTU_MAX */
    uint32_t offloads; /* OFFLOAD_*, wanted */
    uint8_t mac[6];    /* our address: the card's end of the wire */
    /*
     * Header split: the first header_split bytes of a frame (14 to NIC_SPLIT_MAX) are received
     * inside an mbuf, and the rest starts on a page; 0: frames start on a page. Header buffers take
     * a quarter of the receive ring.
     */
    uint32_t header_split;
    /*
     * Low water: new buffers are published only when the device has fewer than this left, which
     * saves notifications to a device that works on its own. At least NET_FRAME_BUFFERS; 0: after
     * every burst.
     */
    uint32_t rx_low_water;
    /*
     * Coalescing: after a consumer has drained the queue, nic_wait() or the descriptor of
     * nic_wait_fd() wakes it once coalesce_frames buffers are used or coalesce_us microseconds have
     * passed, whichever comes first. If no frame arrived in that time, the next one wakes it. A TAP
     * does not tell how many frames wait, so only the time counts there. 0 microseconds: every
     * frame wakes.
     */
    uint32_t coalesce_frames;
    uint32_t coalesce_us;
    /*
     * Called before each allocation for a received frame, and before each copy needed to send a
     * frame (@tx). If it returns true, the allocation fails, as it would without memory. NULL: none
     * is made to fail.
     */
    bool (*alloc_fails)(void *arg, unsigned queue, bool tx);
    void *alloc_arg;
};

/* Everything that a queue has counted since it was attached. */
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
 * @d: device; the NIC owns it from now on, even if attach fails
 * @config: see struct nic_config
 * @out: the NIC
 *
 * Return: 0; -EINVAL for sizes out of range; -ENOMEM if the pool cannot fill the rings; -EOPNOTSUPP
 * if the device cannot split headers; an error of the device's attach. Nothing is left behind on
 * failure.
 */
int nic_attach(struct jumbo *j, struct mbuf_zone *z, struct device *d,
               const struct nic_config *config, struct nic **out);

/*
 * nic_detach() - stop the device, release every page and chain, and free the NIC
 *
 * Frames already passed up stay with their consumers. In a forked child it does nothing, as the NIC
 * belongs to the parent; the calls below return -EOWNERDEAD there.
 */
int nic_detach(struct nic *n);

/*
 * nic_rx_burst() - poll the device, harvest, refill, publish
 * @n, @queue: NIC and queue
 * @out: room for @max packets: chains with a packet header that start at the Ethernet header, each
 *       page the external storage of one mbuf; the caller frees them with m_freem()
 * @max: at least 1
 *
 * Return: number of packets, or 0; -ENETDOWN while the interface is down; -ENODEV if it is gone;
 * -EPROTO if the ring is broken and the queue stopped (nic_queue_error()).
 */
int nic_rx_burst(struct nic *n, unsigned queue, struct mbuf **out, unsigned max);

/* Size of the largest frame that nic_rx_copy() applies to: a standard Ethernet frame with a VLAN tag. */
#define NIC_RX_COPY_MAX 1518u

/*
 * nic_rx_copy() - choose what happens to small frames when the pool is empty
 * @on: copy the frame into mbufs and post its page again, instead of dropping the frame
 *
 * For a protocol on the queue: otherwise memory shortage would lose the acknowledgements and resets
 * that free memory. The bytes count as copied.
 */
void nic_rx_copy(struct nic *n, unsigned queue, bool on);

/*
 * nic_tx() - put one packet on the transmit ring; nic_tx_flush() shows it to the device
 * @m: a frame with its Ethernet header, as a chain with a packet header; m_pkthdr.csum_flags says
 *     what the device still has to do
 *
 * If this returns 0, the ring owns the chain and frees it at completion; otherwise the caller keeps
 * it.
 *
 * Return: 0; -ENOBUFS if the ring is full: flush, then try again; -EMSGSIZE for a frame longer than
 * the MTU (or segment size) allows; -EINVAL for less than an Ethernet header, or for invalid
 * offload fields; -EFAULT if a file page to be checksummed here no longer exists; -ENOMEM. A
 * super-frame of a kind that was not negotiated is cut here: either all of its frames are put on
 * the ring, or none.
 */
int nic_tx(struct nic *n, unsigned queue, struct mbuf *m);

/*
 * nic_tx_flush() - publish, let the device transmit, free completed chains
 *
 * Return: frames sent, as far as the device knows; -EFAULT if it lost one because a file page no
 * longer exists (this does not hold up other frames); another -errno.
 */
int nic_tx_flush(struct nic *n, unsigned queue);

/* nic_tx_reap() - free completed chains without sending; for a caller that only receives. */
void nic_tx_reap(struct nic *n, unsigned queue);

/* nic_tx_room() - frames that nic_tx() would take now, for chains of @segs segments. */
unsigned nic_tx_room(const struct nic *n, unsigned queue, unsigned segs);

/*
 * nic_wait() - sleep until a receive burst would find something
 * @timeout_ns: longest wait; negative: for ever
 *
 * Return: 1 when ready; 0 after the timeout; -EINTR on a signal; -errno.
 */
int nic_wait(struct nic *n, unsigned queue, int64_t timeout_ns);

/* nic_wait_fd() - descriptor that is readable while frames wait in the device; -1 if there is none. */
int nic_wait_fd(const struct nic *n, unsigned queue);

/* nic_queue_error() - why a queue was stopped; VQ_OK if it was not. */
enum vq_error nic_queue_error(const struct nic *n, unsigned queue);

/* nic_check() - check conservation now; 0, or -EINVAL if a page or chain is lost or duplicated. */
int nic_check(struct nic *n);

/*
 * The indices of both halves of a ring, for inspection; they wrap at 65536. taken <= used <= avail:
 * chains between used and avail are with the device; those between taken and used wait for the
 * driver.
 */
struct nic_ring {
    uint32_t size;
    uint16_t avail; /* driver's producer: chains published */
    uint16_t used;  /* device's producer: chains used */
    uint16_t taken; /* driver's consumer */
};

/* nic_get_ring() - read the indices of a queue's transmit or receive ring, from any thread. */
void nic_get_ring(const struct nic *n, unsigned queue, bool tx, struct nic_ring *out);

void nic_get_stats(struct nic *n, unsigned queue, struct nic_queue_stats *out);
void nic_describe(struct nic *n, struct device_info *out);

/* nic_vring() - a queue's receive or transmit ring, for inspection */
const struct vring *nic_vring(const struct nic *n, unsigned queue, bool tx);

const uint8_t *nic_mac(const struct nic *n);
uint32_t nic_mtu(const struct nic *n);
uint32_t nic_offloads(const struct nic *n); /* OFFLOAD_*, negotiated */
unsigned nic_nqueues(const struct nic *n);
struct mbuf_zone *nic_mbuf_zone(const struct nic *n);
struct jumbo *nic_jumbo(const struct nic *n);

#endif
