/* SPDX-License-Identifier: BSD-2-Clause */
/* Pages of open files, to be mapped by sf_buf(9), lwbuf(9) and pmap_quick_enter_page(9). */
#ifndef NIC_HARNESS_VM_VM_OBJECT_H
#define NIC_HARNESS_VM_VM_OBJECT_H

#include <harness/decls.h>
#include <vm/vm.h>
#include <vm/vm_page.h>

HARNESS_BEGIN_DECLS

/*
 * vm_object_of_file() - create the object that holds a file's pages
 * @fd: regular file, memfd or shared memory, readable; it is duplicated, and the caller keeps its
 * descriptor
 *
 * Return: object, with one reference; NULL with errno EINVAL for any other kind of file, EBADF,
 * EACCES if it is not readable, EMFILE, ENOMEM.
 */
vm_object_t vm_object_of_file(int fd);

/* vm_object_deallocate() - drop the reference; the file is closed once its last mapping is gone. */
void vm_object_deallocate(vm_object_t object);

#define VM_ALLOC_WIRED 0x0020 /* always implied here */

/*
 * vm_page_grab() - get and wire a page of an object
 * @object: object
 * @pindex: page number
 * @allocflags: VM_ALLOC_WIRED
 *
 * Nothing is read or mapped; the page may lie beyond the end of the file.
 *
 * Return: the page, wired until vm_page_unwire(); NULL if all page descriptors are in use.
 */
vm_page_t vm_page_grab(vm_object_t object, vm_pindex_t pindex, int allocflags);

HARNESS_END_DECLS

#endif
