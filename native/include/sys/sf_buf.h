/* SPDX-License-Identifier: BSD-2-Clause */
/* sf_buf(9): temporary mappings of pages, on the process's current arena. */
#ifndef NIC_HARNESS_SYS_SF_BUF_H
#define NIC_HARNESS_SYS_SF_BUF_H

#include <harness/decls.h>
#include <vm/vm.h>

HARNESS_BEGIN_DECLS

#define SFB_DEFAULT 0
#define SFB_CATCH 1      /* a signal interrupts the sleep */
#define SFB_CPUPRIVATE 2 /* only the calling thread uses it */
#define SFB_NOWAIT 4     /* return NULL instead of sleeping */

/* A page's sf_buf and its descriptor are one object of 64 bytes. */
struct sf_buf;

struct sf_buf *sf_buf_alloc(struct vm_page *m, int flags);
void sf_buf_free(struct sf_buf *sf);
void sf_buf_ref(struct sf_buf *sf);
vm_offset_t sf_buf_kva(struct sf_buf *sf);
vm_page_t sf_buf_page(struct sf_buf *sf);

HARNESS_END_DECLS

#endif
