/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine's address types, as vm(9) names them. */
#ifndef NIC_HARNESS_VM_VM_H
#define NIC_HARNESS_VM_VM_H

#include <harness/decls.h>
#include <stddef.h>
#include <stdint.h>

HARNESS_BEGIN_DECLS

typedef uintptr_t vm_offset_t; /* KVA: an address in this process */
typedef uint64_t vm_paddr_t;   /* physical address: byte offset into the arena */
typedef size_t vm_size_t;      /* bytes */
typedef uint64_t vm_pindex_t;  /* page number within an object */
typedef int64_t vm_ooffset_t;  /* byte offset within an object */
/* <sys/types.h> defines it too, but not in strict C (-std=c11). */
typedef char *caddr_t;

struct vm_page;
typedef struct vm_page *vm_page_t;
struct vm_object;
typedef struct vm_object *vm_object_t;

#ifndef PAGE_SHIFT
#define PAGE_SHIFT 12
#endif
#ifndef PAGE_SIZE
#define PAGE_SIZE ((vm_size_t)1 << PAGE_SHIFT)
#endif
/* The mask of the offset within a page, as in BSD; glibc's <sys/user.h> uses the name for the complement. */
#undef PAGE_MASK
#define PAGE_MASK (PAGE_SIZE - 1)

#define trunc_page(x) ((x) & ~(PAGE_SIZE - 1))
#define round_page(x) (((x) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))
#define atop(x) ((x) >> PAGE_SHIFT)
#define ptoa(x) ((vm_offset_t)(x) << PAGE_SHIFT)

HARNESS_END_DECLS

#endif
