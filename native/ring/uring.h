/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * io_uring by its system calls: as much of it as a device and a file reader need.
 *
 * Why not liburing: it would be no faster, and could not be taken for granted. Batches of 32 writes of 64 bytes
 * to /dev/null by a registered file cost the same either way (liburing 2.3 on Linux 6.18, medians of 9 rounds of
 * 60,000 batches, three runs: 1.00, 1.02 and 1.00 of its time). A system without it, and a wheel, would need this
 * file all the same, and there would be two ways through every device. What is here is small because it leaves
 * out what the devices do not use: linked and multishot requests, buffer rings, polling kernel threads.
 *
 * Fill entries (uring_get_sqe), make them known and perhaps wait (uring_submit, uring_submit_and_wait),
 * look at completions in a batch and give their slots back with one store (uring_peek, uring_advance).
 *
 * Ordering, in this one place. Two rings, each with one producer and one consumer, and the kernel
 * is the other side of both. Submission: entries are written with plain stores, then the tail is stored
 * with release, so that whoever loads it with acquire (the kernel, inside io_uring_enter, or a
 * polling kernel thread, which is not used here) sees whole entries; the head, which the kernel stores with
 * release when it has copied entries out, is loaded with acquire before a slot is written again.
 * Completion: the tail is loaded with acquire, so that the entries below it are seen, and the data that the
 * kernel wrote into our buffers before it posted them; the head is stored with release after the
 * last look at the entries, so that the kernel does not write a slot that is still being read. No fence is
 * needed: nothing here is "store mine, then load yours", because only polling kernel threads sleep on a
 * flag. Bytes the kernel writes are invisible to ThreadSanitizer, which is right: the acquire above is
 * what orders them, and a system call lies between.
 *
 * A ring is used by one thread at a time. With URING_ONE_THREAD the kernel is told that it is the same one
 * always (IORING_SETUP_SINGLE_ISSUER, DEFER_TASKRUN): completions are cheaper then, and any other thread
 * is refused with -EEXIST. Such a ring is created disabled and bound to the thread that calls
 * uring_enable(), which need not be the one that created it.
 */
#ifndef NIC_HARNESS_URING_H
#define NIC_HARNESS_URING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <linux/io_uring.h>

#define URING_ONE_THREAD 0x1

struct uring {
    int fd;               /* -1: no ring */
    uint32_t setup_flags; /* IORING_SETUP_*, those that the kernel took */
    uint32_t features;    /* IORING_FEAT_* */
    bool enabled;

    uint32_t *sq_khead, *sq_ktail, *sq_kflags;
    uint32_t sq_entries, sq_mask;
    uint32_t sq_head; /* the kernel's, when last loaded */
    uint32_t sq_tail; /* next to fill; published by a submit */
    struct io_uring_sqe *sqe;

    uint32_t *cq_khead, *cq_ktail;
    uint32_t cq_entries, cq_mask;
    struct io_uring_cqe *cqe;

    void *rings;
    size_t rings_bytes;
    size_t sqe_bytes;
};

/*
 * uring_create() - a ring
 * @entries: submissions between two submits; rounded up to a power of two
 * @cq_entries: completions that may wait; 0: twice @entries
 * @flags: URING_ONE_THREAD: disabled until uring_enable(); a kernel that does not know such rings
 *         (before 6.1) makes one that any thread may use
 *
 * Return: 0; -EPERM when kernel.io_uring_disabled or a filter forbids it; -ENOSYS when the kernel has no
 * io_uring, or one older than 5.11; -ENOMEM (before 5.12 also: RLIMIT_MEMLOCK); -EINVAL.
 */
int uring_create(uint32_t entries, uint32_t cq_entries, unsigned flags, struct uring *out);

/*
 * uring_destroy() - close it; no ring (-1) is allowed
 *
 * The kernel takes a ring down later, in the background: requests in flight are cancelled then, and
 * registered files let go of. Whoever cares waits for the ones and unregisters the others first.
 */
void uring_destroy(struct uring *u);

/* uring_enable() - bind a URING_ONE_THREAD ring to the calling thread and start it; 0 or -errno. Once. */
int uring_enable(struct uring *u);

/* uring_get_sqe() - next entry, zeroed; NULL when all are filled: submit, and ask again. */
struct io_uring_sqe *uring_get_sqe(struct uring *u);

/* uring_pending() - entries filled and not taken by the kernel */
uint32_t uring_pending(const struct uring *u);

/*
 * uring_submit() - hand over what was filled
 *
 * Requests that need not wait are complete when it returns.
 *
 * Return: entries taken; -EEXIST from a thread that the ring is not bound to; -errno.
 */
int uring_submit(struct uring *u);

/*
 * uring_submit_and_wait() - hand over and sleep for completions
 * @min: completions to wait for; those that wait already count
 * @timeout_ns: at most so long; negative: for ever
 *
 * Return: entries taken (0 is possible); -ETIME the time is over; -EINTR a signal; -errno. What was to be
 * submitted has been, also when the wait failed.
 */
int uring_submit_and_wait(struct uring *u, uint32_t min, int64_t timeout_ns);

/*
 * uring_peek() - completions that have arrived
 * @first: number of the oldest, for uring_cqe()
 *
 * Return: how many.
 */
uint32_t uring_peek(const struct uring *u, uint32_t *first);

static inline const struct io_uring_cqe *
uring_cqe(const struct uring *u, uint32_t number)
{
    return &u->cqe[number & u->cq_mask];
}

/* uring_advance() - the oldest @n completions have been looked at: their slots are the kernel's again. */
void uring_advance(struct uring *u, uint32_t n);

/* uring_register_files() - descriptors by number (IOSQE_FIXED_FILE); 0 or -errno. */
int uring_register_files(struct uring *u, const int *fds, unsigned n);
/* uring_unregister_files() - let go of them, now; 0 or -errno */
int uring_unregister_files(struct uring *u);

/* What a request does, its flags and user_data left to the caller. @fd: descriptor, or its number with IOSQE_FIXED_FILE. */
static inline void
uring_prep_rw(struct io_uring_sqe *e, int op, int fd, const void *addr, uint32_t len, uint64_t off)
{
    e->opcode = (uint8_t)op;
    e->fd = fd;
    e->addr = (uint64_t)(uintptr_t)addr;
    e->len = len;
    e->off = off;
}

#endif
