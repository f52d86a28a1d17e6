/* SPDX-License-Identifier: BSD-2-Clause */
/* pmap_quick_enter_page(9): short-lived mappings of single pages. */
#ifndef NIC_HARNESS_VM_PMAP_H
#define NIC_HARNESS_VM_PMAP_H

#include <harness/decls.h>
#include <vm/vm.h>

HARNESS_BEGIN_DECLS

/*
 * pmap_quick_enter_page() - map a page at the calling thread's only frame
 * @m: a page that is wired, held or unmanaged
 *
 * Never sleeps, never fails and does not nest: a second call before pmap_quick_remove_page() is
 * reported as misuse and takes over the frame. Do not call any harness function that might block
 * before pmap_quick_remove_page().
 */
vm_offset_t pmap_quick_enter_page(vm_page_t m);

/* pmap_quick_remove_page() - end the mapping; @addr is what pmap_quick_enter_page() returned. */
void pmap_quick_remove_page(vm_offset_t addr);

HARNESS_END_DECLS

#endif
