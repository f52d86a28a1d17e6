/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * io_uring through its system calls: only what a device and a file reader need.
 *
 * Why not liburing: it would be no faster, and not every system has it. Batches of 32 writes of 64
 * bytes to /dev/null through a registered file cost the same either way (liburing 2.3 on Linux
 * 6.18, medians of 9 rounds of 60,000 batches, three runs: 1.00, 1.02 and 1.00 of its time).
 * Systems without it, and wheels, would still need this file, and every device would have two code
 * paths. This file is small because it leaves out what the devices do not use: linked and multishot
 * requests, buffer rings, polling kernel threads.
 *
 * Fill entries (uring_get_sqe), submit them and optionally wait (uring_submit,
 * uring_submit_and_wait), then read completions in a batch and release their slots with one store
 * (uring_peek, uring_advance).
 *
 * Memory ordering, for the whole file. There are two rings, each with one producer and one
 * consumer, and the kernel is the other side of both. Submission: entries are written with plain
 * stores, then the tail is stored with release, so that the kernel, which loads it with acquire
 * inside io_uring_enter, sees whole entries. The kernel stores the head with release after copying
 * entries out; we load it with acquire before reusing a slot. Completion: the tail is loaded with
 * acquire, so that we see the entries below it and the data that the kernel wrote into our buffers
 * before posting them. The head is stored with release after the entries have been read, so that
 * the kernel does not overwrite a slot that is still being read. No fence is needed: nothing here
 * is "store mine, then load yours", because only polling kernel threads, which are not used here,
 * sleep on a flag. ThreadSanitizer does not see the kernel's writes, and need not: the acquire
 * above orders them, with a system call in between.
 *
 * One thread at a time may use a ring. URING_ONE_THREAD promises the kernel that it is always the
 * same thread (IORING_SETUP_SINGLE_ISSUER, DEFER_TASKRUN): completions are then cheaper, and any
 * other thread gets -EEXIST. Such a ring is created disabled and bound to the thread that calls
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
    uint32_t setup_flags; /* IORING_SETUP_* that the kernel accepted */
    uint32_t features;    /* IORING_FEAT_* */
    bool enabled;

    uint32_t *sq_khead, *sq_ktail, *sq_kflags;
    uint32_t sq_entries, sq_mask;
    uint32_t sq_head; /* the kernel's head when last loaded */
    uint32_t sq_tail; /* next entry to fill; published by a submit */
    struct io_uring_sqe *sqe;

    uint32_t *cq_khead, *cq_ktail;
    uint32_t cq_entries, cq_mask;
    struct io_uring_cqe *cqe;

    void *rings;
    size_t rings_bytes;
    size_t sqe_bytes;
};

/*
 * uring_create() - create a ring
 * @entries: submissions between two submits; rounded up to a power of two
 * @cq_entries: completions that may be pending; 0: twice @entries
 * @flags: URING_ONE_THREAD: disabled until uring_enable(); kernels before 6.1 do not know such
 *         rings, and make one that any thread may use
 *
 * Return: 0; -EPERM if kernel.io_uring_disabled or a filter forbids it; -ENOSYS if the kernel has
 * no io_uring or is older than 5.11; -ENOMEM (before 5.12 also for RLIMIT_MEMLOCK); -EINVAL.
 */
int uring_create(uint32_t entries, uint32_t cq_entries, unsigned flags, struct uring *out);

/*
 * uring_destroy() - close a ring; fd -1 (no ring) is allowed
 *
 * The kernel tears a ring down later, in the background: only then does it cancel requests in
 * flight and release registered files. If that matters, wait for the requests and unregister the
 * files first.
 */
void uring_destroy(struct uring *u);

/* uring_enable() - bind a URING_ONE_THREAD ring to the calling thread and start it, once; 0 or -errno. */
int uring_enable(struct uring *u);

/* uring_get_sqe() - next entry, zeroed; NULL if all are filled: submit, then try again. */
struct io_uring_sqe *uring_get_sqe(struct uring *u);

/* uring_pending() - entries filled but not yet taken by the kernel */
uint32_t uring_pending(const struct uring *u);

/*
 * uring_submit() - submit the filled entries
 *
 * Requests that do not block are complete when it returns.
 *
 * Return: number of entries taken; -EEXIST from a thread that the ring is not bound to; -errno.
 */
int uring_submit(struct uring *u);

/*
 * uring_submit_and_wait() - submit, and sleep until there are completions
 * @min: completions to wait for, including those already pending
 * @timeout_ns: longest wait; negative: for ever
 *
 * Return: number of entries taken (may be 0); -ETIME after the timeout; -EINTR on a signal; -errno.
 * The entries have been submitted even if the wait failed.
 */
int uring_submit_and_wait(struct uring *u, uint32_t min, int64_t timeout_ns);

/*
 * uring_peek() - look for completions
 * @first: number of the oldest, for uring_cqe()
 *
 * Return: number of completions.
 */
uint32_t uring_peek(const struct uring *u, uint32_t *first);

static inline const struct io_uring_cqe *
uring_cqe(const struct uring *u, uint32_t number)
{
    return &u->cqe[number & u->cq_mask];
}

/* uring_advance() - release the slots of the oldest @n completions to the kernel. */
void uring_advance(struct uring *u, uint32_t n);

/* uring_register_files() - register descriptors, to be used by index (IOSQE_FIXED_FILE); 0 or -errno. */
int uring_register_files(struct uring *u, const int *fds, unsigned n);
/* uring_unregister_files() - release them at once; 0 or -errno */
int uring_unregister_files(struct uring *u);

/*
 * uring_prep_rw() - fill in a request, except flags and user_data. @fd: descriptor, or index with
 * IOSQE_FIXED_FILE.
 */
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
