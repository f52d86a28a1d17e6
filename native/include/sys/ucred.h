/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Credentials of an I/O request: a shared, reference-counted, read-only object.
 *
 * glibc also has a structure of this name, {pid, uid, gid} in <sys/socket.h>. So this header does
 * not define it, and our object starts with those three fields.
 */
#ifndef NIC_HARNESS_SYS_UCRED_H
#define NIC_HARNESS_SYS_UCRED_H

#include <harness/decls.h>
#include <sys/types.h>

HARNESS_BEGIN_DECLS

struct ucred;

#define NOCRED ((struct ucred *)0)  /* no credential available */
#define FSCRED ((struct ucred *)-1) /* the file system's own; not counted */

/* crget() - create a credential of this process with one reference; NULL if out of memory. */
struct ucred *crget(void);
/* crhold() - add a reference; returns its argument. */
struct ucred *crhold(struct ucred *cr);
/* crfree() - drop a reference; the last one frees the credential. */
void crfree(struct ucred *cr);
/* crshared() - is there more than one reference? */
int crshared(struct ucred *cr);

HARNESS_END_DECLS

#endif
