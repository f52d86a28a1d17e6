/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A file read in order past the page cache: O_DIRECT reads through io_uring, straight into the windows
 * of physical I/O buffers (pbuf), a few ahead of what is taken.
 *
 * How many windows it may have, being read or read and not yet released, is the counter that its
 * buffers are taken with. It never sleeps for one: what it waits for is released by the same thread.
 */
#ifndef NIC_HARNESS_SENDFILE_DIRECT_H
#define NIC_HARNESS_SENDFILE_DIRECT_H

#include "kva/pbuf.h"

#define DIRECT_AHEAD 8u /* reads under way at a time, at most */

struct direct;

struct direct_stats {
    uint64_t reads;     /* requests */
    uint64_t bytes;     /* read */
    uint64_t syscalls;  /* io_uring_enter */
    uint64_t no_buffer; /* times that a read ahead got no window */
};

/*
 * direct_open() - read a file from @offset on
 * @p: where windows are taken from
 * @fd: regular file; opened anew with O_DIRECT, the caller's stays as it is
 * @windows: how many it may have at a time, at least 1
 *
 * Return: 0; -EINVAL when the file system has no direct I/O, or none as fine-grained as a window; -EPERM, -ENOSYS
 * without io_uring; -ENOMEM; what opening the file again says (-EACCES).
 */
int direct_open(struct pbuf_pool *p, int fd, int64_t offset, unsigned windows, struct direct **out);

/* direct_close() - wait for the reads under way; windows passed on stay with their users. */
void direct_close(struct direct *d);

/* Consecutive bytes of the file, in the window of one buffer. */
struct direct_chunk {
    struct buf
        *bp; /* its window starts at b_kvabase, MAXPHYS bytes; given back by direct_ext_free() */
    char *data;
    uint32_t len;
};

/*
 * direct_ahead() - start reads
 * @limit: no further than here, rounded up to what the file system reads
 *
 * Return: 0 or -errno.
 */
int direct_ahead(struct direct *d, int64_t limit);

/*
 * direct_next() - the next bytes of the file, never more than to the end of a window
 * @limit: as direct_ahead(), which it does first
 *
 * Return: 1 a chunk, the caller's; 0 not there yet; -ENODATA the file ends here; -EIO and what else a
 * read may say: the same again at the next call.
 */
int direct_next(struct direct *d, int64_t limit, struct direct_chunk *out);

/* direct_wait_fd() - readable when a read is complete; -1 when none is under way. */
int direct_wait_fd(const struct direct *d);

/* direct_ext_free() - the external free routine: relpbuf(); @args is the struct direct. Any thread. */
void direct_ext_free(caddr_t kva, void *args);

void direct_get_stats(const struct direct *d, struct direct_stats *out);

#endif
