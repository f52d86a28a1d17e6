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
#define MAXPHYS (128 * 1024) /* bytes of a buffer's window */
#endif

struct vnode;

/*
 * A buffer. A new one has b_data at the start of its window, b_bufsize MAXPHYS, no credentials, and
 * zero in all other fields.
 */
struct buf {
    char *b_data;      /* of this I/O; within the window unless the user says otherwise */
    long b_bufsize;    /* bytes there */
    long b_bcount;     /* bytes to move */
    long b_resid;      /* bytes not moved */
    off_t b_offset;    /* in the file */
    off_t b_iooffset;  /* on the device */
    int64_t b_blkno;   /* the same in blocks of DEV_BSIZE */
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

    /* The pool's, and constant while the buffer is in use. */
    char *b_kvabase; /* the window */
    int b_kvasize;   /* MAXPHYS */
    uint32_t b_state;
    struct buf *b_freelist;
    struct vm_page *b_pages; /* of the window, one after the other */
};

/*
 * getpbuf() - a buffer; sleeps, whatever signals come, until there is one
 * @pfreecnt: how many the caller may still take; NULL or -1: no limit but the pool's
 */
struct buf *getpbuf(int *pfreecnt);
/* trypbuf() - a buffer; NULL, with nothing changed, when *@pfreecnt is 0 or the pool is empty. */
struct buf *trypbuf(int *pfreecnt);
/* relpbuf() - give a buffer back, with the counter it was taken with, and wake whoever waits. */
void relpbuf(struct buf *bp, int *pfreecnt);

/* nswbuf - buffers that there are */
int pbuf_nswbuf(void);
#define nswbuf pbuf_nswbuf()

HARNESS_END_DECLS

#endif
