/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Access to a file's pages. If the file has shrunk, the access raises SIGBUS, which the guard turns
 * into an error. Any other SIGBUS goes to the previous handler.
 */
#ifndef NIC_HARNESS_GUARD_H
#define NIC_HARNESS_GUARD_H

#include <stddef.h>

/*
 * guard_run() - run a function that may touch pages that no longer exist
 * @fn: must take no lock and own nothing that a jump out of it would leak
 *
 * Return: @fn's result; -EFAULT if it touched such a page.
 */
int guard_run(int (*fn)(void *), void *arg);

/* guard_copy() - copy @n bytes that may lie in a file's pages; 0, or -EFAULT if the file shrank. */
int guard_copy(void *to, const void *from, size_t n);

#endif
