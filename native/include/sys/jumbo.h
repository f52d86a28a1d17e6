/* SPDX-License-Identifier: BSD-2-Clause */
/* jumbo(9): page-sized disposable receive buffers, on the process's current arena. */
#ifndef NIC_HARNESS_SYS_JUMBO_H
#define NIC_HARNESS_SYS_JUMBO_H

#include <harness/decls.h>
#include <sys/types.h>

#include <vm/vm_page.h> /* VM_PAGE_TO_PHYS(), by which a page's KVA is found */

HARNESS_BEGIN_DECLS

/* jumbo_vm_init() - reserve the KVA pool; 1 on success, also when called again; 0 on failure. */
int jumbo_vm_init(void);

/* jumbo_pg_alloc() - a page and a piece of pool KVA; NULL when either is out. Never sleeps. */
vm_page_t jumbo_pg_alloc(void);

/* jumbo_pg_free() - give back a page that was never passed up, by its pool KVA. */
void jumbo_pg_free(vm_offset_t addr);

/* jumbo_freem() - the external free routine for mbufs; @args is ignored. */
void jumbo_freem(caddr_t addr, void *args);

/* jumbo_pg_steal() - the page leaves the pool for good, its KVA is recycled at once. */
void jumbo_pg_steal(vm_page_t pg);

/* jumbo_phys_to_kva() - pool KVA of the jumbo page at a physical address; NULL when none is. */
caddr_t jumbo_phys_to_kva(vm_paddr_t pa);

HARNESS_END_DECLS

#endif
