/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vm_page: the descriptor of one page, of the arena ("physical memory") or of an open file.
 *
 * One cache line. The fast paths use the first half; the second half is the page's flight record,
 * which lets a report name a leak, a double free or a use after free.
 */
#ifndef NIC_HARNESS_VM_VM_PAGE_H
#define NIC_HARNESS_VM_VM_PAGE_H

#include <harness/decls.h>
#include <stdbool.h>
#include <stdint.h>

#include <vm/vm.h>

HARNESS_BEGIN_DECLS

/* Where a page is in its life cycle. A page is always in exactly one state. */
enum vm_page_state {
    VPS_NONE = 0,   /* no memory yet */
    VPS_FREE = 1,   /* in a pool */
    VPS_ALLOC = 2,  /* owned by the driver */
    VPS_POSTED = 3, /* on a receive ring: the device may write to it */
    VPS_MBUF = 4,   /* external storage of an mbuf */
    VPS_HELD = 5,   /* freed, but still held */
    VPS_STOLEN = 6, /* left the jumbo pool for good; lives on its own */
    VPS_KMEM = 7,   /* the harness's own memory: rings, mbufs, windows */
    VPS_FILE = 8,   /* a page of an open file */
};

/* Events in a page's life. A history holds sixteen of them, the newest in the low bits. */
enum vm_page_event {
    VPE_NONE = 0,
    VPE_ALLOC = 1,
    VPE_FREE = 2,
    VPE_POST = 3,
    VPE_RECEIVE = 4,
    VPE_MBUF = 5,
    VPE_RECYCLE = 6,
    VPE_REF = 7,
    VPE_UNREF = 8,
    VPE_HOLD = 9,
    VPE_UNHOLD = 10,
    VPE_STEAL = 11,
    VPE_FLIP = 12,
    VPE_MAP = 13,
    VPE_UNMAP = 14,
    VPE_MISUSE = 15,
};

#define VM_PAGE_NOSLOT UINT32_MAX

struct vm_page {
    union {
        struct vm_page *next; /* while free: the pool's list */
        vm_object_t object;   /* a file page's object; NULL for an arena page in use */
    };
    vm_pindex_t pindex;  /* page number in the arena or in the object */
    uint32_t generation; /* changes whenever the descriptor is bound anew */
    uint32_t wire_count; /* must return to 0 */
    uint32_t ref_count;  /* references to the page's sf_buf */
    uint16_t hold_count; /* not recycled while held */
    uint8_t state;       /* enum vm_page_state */
    uint8_t flags;
    uint32_t slot;        /* arena page: its jumbo KVA slot; VM_PAGE_NOSLOT when it has none */
    uint32_t slot_page;   /* inverse: page bound to the jumbo KVA slot with this page's index */
    uint64_t history;     /* sixteen vm_page_events, the newest in the low nibble */
    uintptr_t alloc_site; /* return address of the last allocation */
    uintptr_t free_site;  /* return address of the last free */
};

#ifndef __cplusplus
_Static_assert(sizeof(struct vm_page) == 64, "a page descriptor is one cache line");
#endif

/* Physical address of file pages, which are not in the arena. */
#define VM_PADDR_NONE UINT64_MAX

/*
 * vm_page_to_phys() - physical address of an arena page
 * @m: page
 *
 * Return: byte offset into the arena; VM_PADDR_NONE for a page of a file.
 */
vm_paddr_t vm_page_to_phys(vm_page_t m);
#define VM_PAGE_TO_PHYS(m) vm_page_to_phys(m)

/*
 * phys_to_vm_page() - page of the process's current arena at a physical address; NULL if there is
 * none
 * @pa: byte offset into the arena
 */
vm_page_t phys_to_vm_page(vm_paddr_t pa);
#define PHYS_TO_VM_PAGE(pa) phys_to_vm_page(pa)

/*
 * vm_page_hold(), vm_page_unhold() - keep a page from being recycled
 * @m: page
 *
 * A jumbo page that is freed while held returns to its pool at the last unhold.
 */
void vm_page_hold(vm_page_t m);
void vm_page_unhold(vm_page_t m);

/*
 * vm_page_wire(), vm_page_unwire() - count a page as resident and in use
 * @m: page
 */
void vm_page_wire(vm_page_t m);
void vm_page_unwire(vm_page_t m);

/* vm_page_free() - free a page that was stolen from the jumbo pool. */
void vm_page_free(vm_page_t m);

HARNESS_END_DECLS

#endif
