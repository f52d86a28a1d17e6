/* SPDX-License-Identifier: BSD-2-Clause */
/* sendfile(2) over a connection of inet/: from mapped file pages, by copying, or bypassing the page cache. */
#ifndef NIC_HARNESS_SENDFILE_H
#define NIC_HARNESS_SENDFILE_H

#include "inet/inet.h"
#include "kva/sf_map.h"
#include "sendfile/direct.h"

/* Flags of sendfile(2), with FreeBSD's values. */
#define SF_NODISKIO 0x1 /* fail with EBUSY rather than do disk I/O */
#define SF_SYNC 0x4     /* not complete while any page is still referenced */
#define SF_USER_READAHEAD 0x8
#define SF_NOCACHE 0x10
#define SF_FLAGS(rh, flags) (((rh) << 16) | (flags))

enum sendfile_strategy {
    SENDFILE_SF_BUF, /* file pages mapped, no copy */
    SENDFILE_COPY,   /* pread into jumbo pages */
    SENDFILE_DIRECT, /* read into pbuf windows, bypassing the page cache; no copy */
};

/* One transfer. The caller owns it, and runs it until it is finished. */
struct sendfile {
    struct inet *inet;
    struct tcp_conn *conn;
    struct sf_map *map;
    struct jumbo *jumbo;
    struct vm_object *object;
    struct direct *direct;           /* SENDFILE_DIRECT */
    enum sendfile_strategy strategy; /* becomes SENDFILE_COPY if the file cannot be mapped */
    int flags;
    int64_t start;            /* first byte of the file to send */
    int64_t offset;           /* next byte of the file to hand over */
    int64_t end;              /* one past the last byte; -1: wherever the file ends */
    int64_t want;             /* bytes that need room before the next chunk */
    struct tcp_source header; /* sent before the file */
    struct mbuf *chunk;       /* part of the file waiting for room in the send buffer, or NULL */
    struct tcp_source trailer;
    uint64_t sbytes;   /* bytes of header and payload handed to the protocol */
    uint64_t syscalls; /* system calls by sendfile itself: pread, fstat */
    bool fed;          /* everything was handed over */
    bool shrunk;       /* the file ended early */
    bool starved;      /* waiting for pages, mbufs or mappings, not for the send buffer */
    bool unsized;      /* the file's size is unreliable: read it to the end */
    bool ended;        /* all of the file has been handed over */
    bool of_file;      /* @error comes from the file, not the connection */
    int error;         /* 0 or a negative errno */
};

/*
 * sendfile_begin() - check everything and set up a transfer
 * @fd: readable file; it is duplicated
 * @offset: first byte
 * @nbytes: 0: to the end of the file
 * @header, @trailer: of any length; the caller keeps them unchanged until sendfile_end(); NULL:
 * none
 *
 * SENDFILE_DIRECT needs io_uring (-EPERM, -ENOSYS) and a file system with direct I/O, and cannot be
 * combined with SF_NODISKIO (-EINVAL).
 *
 * Checks in the order of sendfile(2): -EINVAL for offset < 0; -EBADF for @fd; -EINVAL if it is not
 * a file; then -EPIPE, a pending error, -ENOTCONN.
 *
 * A wrong size (0 or a page, in /proc and /sys) does not matter: such a file is read to its end.
 * With SENDFILE_SF_BUF, a file that cannot be mapped is copied instead; s->strategy says so.
 */
int sendfile_begin(struct sendfile *s, struct tcp_conn *c, struct inet *in, struct sf_map *map,
                   struct jumbo *jumbo, int fd, int64_t offset, int64_t nbytes,
                   const struct tcp_source *header, const struct tcp_source *trailer, int flags,
                   enum sendfile_strategy strategy);

/*
 * sendfile_run() - hand over data, transmit and receive acknowledgements for a while
 * @budget_ns: return after about this time
 *
 * Return: 1: everything has been handed over (and, with SF_SYNC, acknowledged); 0: not yet, call
 * again; -EINTR: a signal arrived; another -errno: the transfer failed after s->sbytes; -EIO:
 * reading the file failed, or it shrank while pages of it were in the send buffer.
 */
int sendfile_run(struct sendfile *s, int64_t budget_ns);

/* sendfile_end() - release the file. The connection and the data it still holds are not touched. */
void sendfile_end(struct sendfile *s);

#endif
