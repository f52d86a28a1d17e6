/* SPDX-License-Identifier: BSD-2-Clause */
/* jumbo(9): page-sized disposable receive buffers, on the process's current arena. */
#ifndef NIC_HARNESS_SYS_JUMBO_H
#define NIC_HARNESS_SYS_JUMBO_H

#include <harness/decls.h>
#include <sys/types.h>

#include <vm/vm_page.h> /* for VM_PAGE_TO_PHYS(), which leads to a page's KVA */

HARNESS_BEGIN_DECLS

/* jumbo_vm_init() - reserve the KVA pool; 1 on success and on repeated calls, 0 on failure. */
int jumbo_vm_init(void);

/* jumbo_pg_alloc() - allocate a page and its pool KVA; NULL if either has run out. Never sleeps. */
vm_page_t jumbo_pg_alloc(void);

/* jumbo_pg_free() - free a page that was never passed up the stack; @addr is its pool KVA. */
void jumbo_pg_free(vm_offset_t addr);

/* jumbo_freem() - external free routine for mbufs; @args is ignored. */
void jumbo_freem(caddr_t addr, void *args);

/* jumbo_pg_steal() - remove a page from the pool for good; its KVA is recycled at once. */
void jumbo_pg_steal(vm_page_t pg);

/* jumbo_phys_to_kva() - pool KVA of the jumbo page at a physical address; NULL if there is none. */
caddr_t jumbo_phys_to_kva(vm_paddr_t pa);

HARNESS_END_DECLS

#endif
