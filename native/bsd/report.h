/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a C program is told on standard error, by NIC_HARNESS_MISUSE in its environment.
 *
 * The library never prints: errors are returned, and misuse is recorded for its caller to read. But the
 * calls of the manual pages return nothing to see an error by, and a program written from those pages
 * alone does not ask. So the machine that the library makes on its own for such a program also has a
 * voice. A machine that somebody makes and destroys knowingly, as Python does, stays silent.
 */
#ifndef NIC_HARNESS_BSD_REPORT_H
#define NIC_HARNESS_BSD_REPORT_H

#include "machine/machine.h"

/*
 * report_start() - from now on, say what is done wrong with a machine, and at exit what is still out
 * @m: the machine that was made for a program that did not make one
 *
 * NIC_HARNESS_MISUSE is print (also when it is not set), abort (print, then abort(3) at a misuse, so that a
 * debugger or a core file shows the call) or off.
 */
void report_start(struct machine *m);

#endif
