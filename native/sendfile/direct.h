/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads a file in order, bypassing the page cache: O_DIRECT reads through io_uring, straight into
 * the windows of physical I/O buffers (pbuf), with some read-ahead.
 *
 * The counter that its buffers are taken with limits its windows, those being read as well as those
 * not yet released. It never sleeps for a window, because the same thread has to release one.
 */
#ifndef NIC_HARNESS_SENDFILE_DIRECT_H
#define NIC_HARNESS_SENDFILE_DIRECT_H

#include "kva/pbuf.h"

#define DIRECT_AHEAD 8u /* most reads in flight at a time */

struct direct;

struct direct_stats {
    uint64_t reads;     /* requests */
    uint64_t bytes;     /* read */
    uint64_t syscalls;  /* io_uring_enter */
    uint64_t no_buffer; /* read-aheads that got no window */
};

/*
 * direct_open() - start reading a file at @offset
 * @p: pool of the windows
 * @fd: regular file; it is reopened with O_DIRECT, and the caller's descriptor is not changed
 * @windows: most windows at a time, at least 1
 *
 * Return: 0; -EINVAL if the file system has no direct I/O, or needs an alignment larger than a
 * window; -EPERM, -ENOSYS without io_uring; -ENOMEM; an error of reopening the file (-EACCES).
 */
int direct_open(struct pbuf_pool *p, int fd, int64_t offset, unsigned windows, struct direct **out);

/* direct_close() - wait for the reads in flight; windows passed on stay with their users. */
void direct_close(struct direct *d);

/* Consecutive bytes of the file, in the window of one buffer. */
struct direct_chunk {
    struct buf *bp; /* window: MAXPHYS bytes at b_kvabase; released by direct_ext_free() */
    char *data;
    uint32_t len;
};

/*
 * direct_ahead() - start reads
 * @limit: where to stop, rounded up to the file system's alignment
 *
 * Return: 0 or -errno.
 */
int direct_ahead(struct direct *d, int64_t limit);

/*
 * direct_next() - get the next bytes of the file, at most to the end of a window
 * @limit: as for direct_ahead(), which it calls first
 *
 * Return: 1: a chunk, which the caller owns; 0: not read yet; -ENODATA: the file ends here; -EIO or
 * another read error, which the next call returns again.
 */
int direct_next(struct direct *d, int64_t limit, struct direct_chunk *out);

/* direct_wait_fd() - descriptor that is readable when a read is complete; -1 if none is in flight. */
int direct_wait_fd(const struct direct *d);

/* direct_ext_free() - external free routine: calls relpbuf(), from any thread; @args is the struct direct. */
void direct_ext_free(caddr_t kva, void *args);

void direct_get_stats(const struct direct *d, struct direct_stats *out);

#endif
