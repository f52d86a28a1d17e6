/* SPDX-License-Identifier: BSD-2-Clause */
/* pbuf(9): physical I/O buffers, on the process's current machine. */
#ifndef NIC_HARNESS_SYS_BUF_H
#define NIC_HARNESS_SYS_BUF_H

#include <harness/decls.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <sys/bio.h>
#include <sys/ucred.h>
#include <vm/vm_page.h>

HARNESS_BEGIN_DECLS

#ifndef MAXPHYS
#define MAXPHYS (128 * 1024) /* size of a buffer's window, bytes */
#endif

struct vnode;

/*
 * A buffer. In a new one, b_data points to the start of its window, b_bufsize is MAXPHYS, there are
 * no credentials, and all other fields are zero.
 */
struct buf {
    char *b_data;      /* this I/O's data; in the window unless the user changes it */
    long b_bufsize;    /* bytes at b_data */
    long b_bcount;     /* bytes to move */
    long b_resid;      /* bytes not moved */
    off_t b_offset;    /* file offset, bytes */
    off_t b_iooffset;  /* device offset, bytes */
    int64_t b_blkno;   /* device offset in blocks of DEV_BSIZE */
    uint32_t b_flags;  /* the user's */
    uint8_t b_iocmd;   /* BIO_READ, BIO_WRITE */
    uint8_t b_ioflags; /* BIO_ERROR, BIO_DONE */
    uint16_t b_pad;
    int b_error; /* positive errno */
    int b_npages;
    struct ucred *b_rcred; /* freed by relpbuf() */
    struct ucred *b_wcred;
    struct vnode *b_vp;
    void (*b_iodone)(struct buf *bp);
    void *b_caller1, *b_caller2;
    void *b_fsprivate1;

    /* Set by the pool, and constant while the buffer is in use. */
    char *b_kvabase; /* the window */
    int b_kvasize;   /* MAXPHYS */
    uint32_t b_state;
    struct buf *b_freelist;
    struct vm_page *b_pages; /* the window's pages, contiguous */
};

/*
 * getpbuf() - allocate a buffer; sleeps, uninterrupted by signals, until one is free
 * @pfreecnt: how many more buffers the caller may take; NULL or -1: limited only by the pool
 */
struct buf *getpbuf(int *pfreecnt);
/* trypbuf() - allocate a buffer; NULL, with nothing changed, if *@pfreecnt is 0 or the pool is empty. */
struct buf *trypbuf(int *pfreecnt);
/* relpbuf() - release a buffer to the counter it was taken with, and wake any waiting threads. */
void relpbuf(struct buf *bp, int *pfreecnt);

/* nswbuf - number of buffers in the pool */
int pbuf_nswbuf(void);
#define nswbuf pbuf_nswbuf()

HARNESS_END_DECLS

#endif
