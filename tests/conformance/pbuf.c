/* SPDX-License-Identifier: BSD-2-Clause */
/* pbuf(9): physical I/O buffers, with and without a limit of the caller's own. */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include <sys/param.h>
#include <sys/systm.h>
#include <sys/bio.h>
#include <sys/buf.h>

#include "expect.h"

static int vnode_pbuf_freecnt;

static void *
waiter(void *arg)
{
    struct buf **bp = arg;

    *bp = getpbuf(&vnode_pbuf_freecnt);
    return NULL;
}

int
main(void)
{
    struct buf *bp, *all[256], *other;
    int unlimited = -1;
    int n = 0;
    pthread_t thread;

    EXPECT(nswbuf >= 16 && nswbuf <= 256);
    vnode_pbuf_freecnt = 2;

    /* A read, as a driver sets it up. */
    bp = getpbuf(&vnode_pbuf_freecnt);
    EXPECT(bp != NULL && bp->b_data == bp->b_kvabase && bp->b_kvasize == MAXPHYS);
    EXPECT(bp->b_rcred == NOCRED && bp->b_wcred == NOCRED && bp->b_error == 0);
    EXPECT(vnode_pbuf_freecnt == 1);
    bp->b_iocmd = BIO_READ;
    bp->b_rcred = crhold(crget());
    crfree(bp->b_rcred);
    bp->b_bcount = bp->b_bufsize;
    memset(bp->b_data, 1, MAXPHYS);

    other = trypbuf(&vnode_pbuf_freecnt);
    EXPECT(other != NULL && other != bp && vnode_pbuf_freecnt == 0);
    EXPECT(trypbuf(&vnode_pbuf_freecnt) == NULL && vnode_pbuf_freecnt == 0);

    /* Released last, returned first, with nothing of its last user. */
    relpbuf(other, &vnode_pbuf_freecnt);
    relpbuf(bp, &vnode_pbuf_freecnt);
    EXPECT(vnode_pbuf_freecnt == 2);
    EXPECT(trypbuf(NULL) == bp && bp->b_iocmd == 0 && bp->b_rcred == NOCRED && bp->b_bcount == 0);

    /* All buffers; -1 means no limit, and is not changed. */
    all[n++] = bp;
    while (n < nswbuf)
        EXPECT((all[n++] = getpbuf(&unlimited)) != NULL);
    EXPECT(trypbuf(&unlimited) == NULL && trypbuf(NULL) == NULL);
    EXPECT(trypbuf(&vnode_pbuf_freecnt) == NULL && vnode_pbuf_freecnt == 2);

    /* A release wakes a waiting thread. */
    EXPECT(pthread_create(&thread, NULL, waiter, &other) == 0);
    usleep(10000);
    relpbuf(bp, NULL);
    pthread_join(thread, NULL);
    EXPECT(other == bp && vnode_pbuf_freecnt == 1);
    relpbuf(other, &vnode_pbuf_freecnt);
    while (n > 1)
        relpbuf(all[--n], &unlimited);
    EXPECT(unlimited == -1 && vnode_pbuf_freecnt == 2);
    return 0;
}
