/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Credentials: who asked for an I/O. A shared, counted, read-only object.
 *
 * glibc has a structure of this name too, {pid, uid, gid} in <sys/socket.h>: so this header leaves it
 * undefined, and an object starts with those three fields.
 */
#ifndef NIC_HARNESS_SYS_UCRED_H
#define NIC_HARNESS_SYS_UCRED_H

#include <harness/decls.h>
#include <sys/types.h>

HARNESS_BEGIN_DECLS

struct ucred;

#define NOCRED ((struct ucred *)0)  /* no credential available */
#define FSCRED ((struct ucred *)-1) /* the file system's own; not counted */

/* crget() - a credential of this process with one reference; NULL when out of memory. */
struct ucred *crget(void);
/* crhold() - one more reference; the argument. */
struct ucred *crhold(struct ucred *cr);
/* crfree() - drop one; the last one frees it. */
void crfree(struct ucred *cr);
/* crshared() - is there more than one reference? */
int crshared(struct ucred *cr);

HARNESS_END_DECLS

#endif
