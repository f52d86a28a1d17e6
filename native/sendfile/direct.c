/* SPDX-License-Identifier: BSD-2-Clause */
#include "sendfile/direct.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ring/uring.h"

#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x00002000u /* Linux 6.1 */
#endif

/* The fields of struct statx that we need; system headers may lack the last ones. */
#define STATX_DIO_OFFSET_ALIGN 156 /* offsetof(struct statx, stx_dio_offset_align) */

struct direct {
    struct pbuf_pool *pool;
    int fd;
    int windows;       /* windows left to take: the buffers' pfreecnt */
    uint32_t refs;     /* one for the opener, one for each window passed on */
    uint32_t align;    /* of offsets and lengths, bytes */
    uint32_t ahead;    /* most reads queued at a time */
    uint32_t underway; /* reads in flight */
    bool ended;        /* the last read at pos found nothing */
    int64_t pos;       /* next byte to pass on */
    int64_t next;      /* next byte to read */
    int error;
    struct uring ring;
    struct direct_stats stats;
    uint32_t head, tail; /* queue[head .. tail): in file order */
    struct buf *queue[DIRECT_AHEAD];
};

/*
 * A queued buffer uses b_offset (first byte), b_bcount (bytes wanted), b_resid (bytes not read),
 * b_ioflags and b_error.
 */

/* alignment() - alignment of offsets for direct reads of a file; 0 if it has none */
static uint32_t
alignment(int fd)
{
    union {
        struct statx st;
        uint32_t word[64]; /* 256 bytes, whatever the header defines */
    } u;

    memset(&u, 0, sizeof(u));
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &u) < 0 ||
        !(u.st.stx_mask & STATX_DIOALIGN))
        return (uint32_t)PAGE_SIZE; /* old kernel: a page suits every disk */
    uint32_t align = u.word[STATX_DIO_OFFSET_ALIGN / 4];

    return align == 0 ? 0 : align < PAGE_SIZE ? (uint32_t)PAGE_SIZE : align;
}

int
direct_open(struct pbuf_pool *p, int fd, int64_t offset, unsigned windows, struct direct **out)
{
    struct direct *d = calloc(1, sizeof(*d));
    char path[40];
    int err;

    if (d == NULL)
        return -ENOMEM;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    d->fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    err = d->fd < 0 ? -errno : 0;
    if (!err) {
        d->align = alignment(d->fd);
        if (windows == 0 || d->align == 0 || d->align > MAXPHYS || (d->align & (d->align - 1)))
            err = -EINVAL;
    }
    if (!err)
        err = uring_create(DIRECT_AHEAD, 0, 0, &d->ring);
    if (err) {
        if (d->fd >= 0)
            close(d->fd);
        free(d);
        return err;
    }
    d->pool = p;
    d->refs = 1;
    d->windows = (int)windows;
    d->ahead = windows < DIRECT_AHEAD ? windows : DIRECT_AHEAD;
    d->pos = offset;
    d->next = offset & ~(int64_t)(d->align - 1);
    *out = d;
    return 0;
}

static void
unref(struct direct *d)
{
    if (__atomic_sub_fetch(&d->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(d);
}

void
direct_ext_free(caddr_t kva, void *args)
{
    struct direct *d = args;

    pbuf_rel(d->pool, pbuf_of(d->pool, kva), &d->windows, RETURN_SITE());
    unref(d);
}

/* ---- reads ---- */

static struct buf *
oldest(struct direct *d)
{
    return d->queue[d->head % DIRECT_AHEAD];
}

/* discard() - release the oldest buffer, unused or used up */
static void
discard(struct direct *d)
{
    pbuf_rel(d->pool, oldest(d), &d->windows, RETURN_SITE());
    d->head++;
}

/* ask() - fill in a request for the missing part of a buffer; there is room for one per buffer */
static void
ask(struct direct *d, struct buf *bp)
{
    struct io_uring_sqe *e = uring_get_sqe(&d->ring);
    long have = bp->b_bcount - bp->b_resid;

    uring_prep_rw(e, IORING_OP_READ, d->fd, bp->b_data + have, (uint32_t)bp->b_resid,
                  (uint64_t)(bp->b_offset + have));
    e->user_data = (uint64_t)(uintptr_t)bp;
    d->underway++;
    d->stats.reads++;
}

/* complete() - process a read's result; true if there is more to read */
static bool
complete(struct direct *d, struct buf *bp, int32_t res)
{
    d->underway--;
    if (res == -EINTR || res == -EAGAIN)
        return true;
    if (res < 0) {
        bp->b_error = -res;
        bp->b_ioflags |= BIO_ERROR;
    } else {
        bp->b_resid -= res;
        d->stats.bytes += (uint64_t)res;
        /* A read that ends off a boundary ended with the file; one that ends on a boundary may have been cut. */
        if (res > 0 && bp->b_resid > 0 && (uint32_t)res % d->align == 0)
            return true;
    }
    bp->b_ioflags |= BIO_DONE;
    return false;
}

/* reap() - process completions, and fill in requests for the rest of cut reads */
static void
reap(struct direct *d)
{
    uint32_t at;
    uint32_t n = uring_peek(&d->ring, &at);

    for (uint32_t i = 0; i < n; i++) {
        const struct io_uring_cqe *c = uring_cqe(&d->ring, at + i);
        struct buf *bp = (struct buf *)(uintptr_t)c->user_data;

        if (complete(d, bp, c->res))
            ask(d, bp);
    }
    uring_advance(&d->ring, n);
}

/* flush() - submit the requests; 0 or -errno */
static int
flush(struct direct *d)
{
    if (uring_pending(&d->ring) == 0)
        return 0;
    d->stats.syscalls++;
    int r = uring_submit(&d->ring);

    /* Out of memory, or completions must be taken first: submit them next time. */
    return r < 0 && r != -EAGAIN && r != -EBUSY && r != -EINTR ? r : 0;
}

int
direct_ahead(struct direct *d, int64_t limit)
{
    if (d->error)
        return d->error;
    reap(d);
    if (d->head == d->tail) /* also if the file ended here but has grown since */
        d->next = d->pos & ~(int64_t)(d->align - 1);
    while (d->tail - d->head < d->ahead && d->next < limit) {
        struct buf *bp = pbuf_try(d->pool, &d->windows, RETURN_SITE());

        if (bp == NULL) {
            d->stats.no_buffer++;
            break;
        }
        /* To the next multiple of a window's size, so that all reads but the first are whole windows. */
        int64_t end = (d->next | (MAXPHYS - 1)) + 1;

        bp->b_iocmd = BIO_READ;
        bp->b_offset = d->next;
        bp->b_bcount = bp->b_resid = (long)(end - d->next);
        d->queue[d->tail++ % DIRECT_AHEAD] = bp;
        d->next = end;
        ask(d, bp);
    }
    int err = flush(d);

    if (err)
        d->error = err;
    return d->error;
}

int
direct_next(struct direct *d, int64_t limit, struct direct_chunk *out)
{
    for (;;) {
        int err = direct_ahead(d, limit);

        if (err)
            return err;
        if (d->head == d->tail)
            return 0;
        struct buf *bp = oldest(d);

        if (!(bp->b_ioflags & BIO_DONE)) {
            reap(d);
            if (!(bp->b_ioflags & BIO_DONE))
                return flush(d);
        }
        if (bp->b_ioflags & BIO_ERROR) {
            d->error = -bp->b_error;
            discard(d);
            return d->error;
        }
        int64_t end = bp->b_offset + bp->b_bcount - bp->b_resid;

        if (bp->b_offset <= d->pos && d->pos < end) {
            *out = (struct direct_chunk){
                .bp = bp,
                .data = bp->b_data + (d->pos - bp->b_offset),
                .len = (uint32_t)(end - d->pos),
            };
            d->pos = end;
            d->head++;
            d->ended = false;
            __atomic_fetch_add(&d->refs, 1, __ATOMIC_RELAXED);
            return 1;
        }
        /* Nothing at pos: the file ended before it at the time of the read. Later reads are stale too. */
        discard(d);
        if (d->head != d->tail)
            continue;
        if (d->ended) { /* it was read again, and still ends here */
            d->ended = false;
            return -ENODATA;
        }
        d->ended = true;
    }
}

int
direct_wait_fd(const struct direct *d)
{
    return d->underway ? d->ring.fd : -1;
}

void
direct_close(struct direct *d)
{
    /* The kernel writes into the windows until the last read is complete, which always happens. */
    while (d->underway > 0) {
        reap(d);
        if (d->underway == 0)
            break;
        int r = uring_submit_and_wait(&d->ring, 1, 100000000);

        if (r < 0 && d->underway == uring_pending(&d->ring))
            break; /* the kernel accepts no more, and has none */
    }
    while (d->head != d->tail)
        discard(d);
    uring_destroy(&d->ring);
    close(d->fd);
    unref(d);
}

void
direct_get_stats(const struct direct *d, struct direct_stats *out)
{
    *out = d->stats;
}
