/* SPDX-License-Identifier: BSD-2-Clause */
/* sendfile(2) over a connection of inet/: from file pages, by way of a copy, or past the page cache. */
#ifndef NIC_HARNESS_SENDFILE_H
#define NIC_HARNESS_SENDFILE_H

#include "inet/inet.h"
#include "kva/sf_map.h"
#include "sendfile/direct.h"

/* Flags of sendfile(2), with FreeBSD's values. */
#define SF_NODISKIO 0x1 /* EBUSY instead of disk I/O */
#define SF_SYNC 0x4     /* done only when no page is referenced any more */
#define SF_USER_READAHEAD 0x8
#define SF_NOCACHE 0x10
#define SF_FLAGS(rh, flags) (((rh) << 16) | (flags))

enum sendfile_strategy {
    SENDFILE_SF_BUF, /* file pages mapped, no copy */
    SENDFILE_COPY,   /* pread into jumbo pages */
    SENDFILE_DIRECT, /* read past the page cache into pbuf windows, no copy */
};

/* One transfer. The caller makes it, keeps it, and runs it until it is over. */
struct sendfile {
    struct inet *inet;
    struct tcp_conn *conn;
    struct sf_map *map;
    struct jumbo *jumbo;
    struct vm_object *object;
    struct direct *direct;           /* SENDFILE_DIRECT */
    enum sendfile_strategy strategy; /* SENDFILE_COPY once a file was found that cannot be mapped */
    int flags;
    int64_t start;            /* where it began */
    int64_t offset;           /* next byte of the file to hand over */
    int64_t end;              /* one past the last; -1: the end of the file, wherever it is then */
    int64_t want;             /* bytes of it that there has to be room for */
    struct tcp_source header; /* sent before */
    struct mbuf *chunk;       /* of the file, waiting for room in the send buffer; NULL */
    struct tcp_source trailer;
    uint64_t sbytes;   /* header and payload handed to the protocol */
    uint64_t syscalls; /* made by sendfile itself: pread, fstat */
    bool fed;          /* everything was handed over */
    bool shrunk;       /* the file ended early */
    bool starved;      /* waits for pages, mbufs or mappings, not for room in the send buffer */
    bool unsized; /* what the file says of its size is not to be believed: it is read to the end */
    bool ended;   /* nothing of the file is left to hand over */
    bool of_file; /* @error is the file's, not the connection's */
    int error;    /* 0 or a negative errno */
};

/*
 * sendfile_begin() - check everything and set up a transfer
 * @fd: file, readable; duplicated
 * @offset: first byte
 * @nbytes: 0: to the end of the file
 * @header, @trailer: of any length; the caller's, and in place until sendfile_end(); NULL: none
 *
 * SENDFILE_DIRECT needs io_uring (-EPERM, -ENOSYS) and a file system with direct I/O, and contradicts
 * SF_NODISKIO (-EINVAL).
 *
 * Order of checks as sendfile(2): offset < 0 -EINVAL; fd -EBADF; not a file -EINVAL; then -EPIPE, a pending
 * error, -ENOTCONN.
 *
 * A size that lies (0 or a page, in /proc and /sys) does not matter: such a file is read to its end. With
 * SENDFILE_SF_BUF what cannot be mapped is copied instead, as s->strategy then says.
 */
int sendfile_begin(struct sendfile *s, struct tcp_conn *c, struct inet *in, struct sf_map *map,
                   struct jumbo *jumbo, int fd, int64_t offset, int64_t nbytes,
                   const struct tcp_source *header, const struct tcp_source *trailer, int flags,
                   enum sendfile_strategy strategy);

/*
 * sendfile_run() - hand over, transmit, receive acknowledgements, for a while
 * @budget_ns: give control back after about so long
 *
 * Return: 1 everything was handed over (with SF_SYNC: and acknowledged); 0 not yet: call again;
 * -EINTR a signal arrived; another -errno: the transfer failed, s->sbytes says how far it came; -EIO: reading
 * the file did, or it shrank when pages of it were in the send buffer already.
 */
int sendfile_run(struct sendfile *s, int64_t budget_ns);

/* sendfile_end() - let go of the file. The connection and what it still holds are not touched. */
void sendfile_end(struct sendfile *s);

#endif
