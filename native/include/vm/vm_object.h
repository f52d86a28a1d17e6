/* SPDX-License-Identifier: BSD-2-Clause */
/* Pages of open files, for what maps pages: sf_buf(9), lwbuf(9), pmap_quick_enter_page(9). */
#ifndef NIC_HARNESS_VM_VM_OBJECT_H
#define NIC_HARNESS_VM_VM_OBJECT_H

#include <harness/decls.h>
#include <vm/vm.h>
#include <vm/vm_page.h>

HARNESS_BEGIN_DECLS

/*
 * vm_object_of_file() - the object whose pages are those of a file
 * @fd: regular file, memfd or shared memory, readable; duplicated, the caller's stays his
 *
 * Return: object, with one reference; NULL with errno EINVAL for anything that is not such a file,
 * EBADF, EACCES when it is not readable, EMFILE, ENOMEM.
 */
vm_object_t vm_object_of_file(int fd);

/* vm_object_deallocate() - drop the reference; the file is closed after its last mapping is gone. */
void vm_object_deallocate(vm_object_t object);

#define VM_ALLOC_WIRED 0x0020 /* what vm_page_grab() does in any case here */

/*
 * vm_page_grab() - the page of an object
 * @object: object
 * @pindex: page number
 * @allocflags: VM_ALLOC_WIRED
 *
 * Nothing is read and nothing mapped; the page may lie behind the end of the file.
 *
 * Return: the page, wired until vm_page_unwire(); NULL when as many pages as there can be are in use.
 */
vm_page_t vm_page_grab(vm_object_t object, vm_pindex_t pindex, int allocflags);

HARNESS_END_DECLS

#endif
