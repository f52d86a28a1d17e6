/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reports to a C program on standard error, controlled by NIC_HARNESS_MISUSE in the environment.
 *
 * The library never prints: it returns errors, and records misuse for its caller to read. But the
 * calls of the manual pages cannot return such errors, and a program written from those pages alone
 * does not ask for reports. So the machine that the library creates implicitly for such a program
 * does print. A machine that is created and destroyed explicitly, as Python does, stays silent.
 */
#ifndef NIC_HARNESS_BSD_REPORT_H
#define NIC_HARNESS_BSD_REPORT_H

#include "machine/machine.h"

/*
 * report_start() - from now on, print a machine's misuses, and at exit whatever is still in use
 * @m: the machine that was created implicitly
 *
 * NIC_HARNESS_MISUSE is print (the default), abort (print, then abort(3) at a misuse, so that a
 * debugger or a core file shows the call) or off.
 */
void report_start(struct machine *m);

#endif
