/* SPDX-License-Identifier: BSD-2-Clause */
/* pmap_quick_enter_page(9): the calling thread's frame, and the check for calls that might block. */
#ifndef NIC_HARNESS_KVA_QUICK_H
#define NIC_HARNESS_KVA_QUICK_H

#include <vm/pmap.h>

#include "arena/arena.h"

/* Address space for one frame for each thread that can be alive at a time. */
#define QUICK_FRAMES ((size_t)1 << 18)

struct quick_frame {
    vm_offset_t kva; /* 0: not in use */
    bool mapped;     /* the frame itself holds a mapping that has to be removed */
    void *site;      /* where it was entered */
    uint32_t number; /* of the thread, from 1; 0: not yet assigned */
};

extern _Thread_local struct quick_frame quick_frame __attribute__((tls_model("initial-exec")));

/* quick_report() - report a misuse, and where the thread's mapping was entered */
void quick_report(struct arena *a, enum misuse_kind kind, const void *addr, void *site);

/* quick_check_blocking() - called where a thread might sleep: reports one that holds a quick mapping */
static inline void
quick_check_blocking(struct arena *a, bool nowait, void *site)
{
    if (__builtin_expect(quick_frame.kva != 0, 0) && !nowait)
        quick_report(a, MISUSE_QUICK_BLOCKING, (void *)quick_frame.kva, site);
}

#endif
