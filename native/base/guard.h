/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Touching a file's pages: when the file shrinks the access raises SIGBUS, and the guard turns that into
 * an error. Signals of anybody else go where they went before.
 */
#ifndef NIC_HARNESS_GUARD_H
#define NIC_HARNESS_GUARD_H

#include <stddef.h>

/*
 * guard_run() - run a function that may touch pages that are gone
 * @fn: takes no lock and holds nothing that a jump out of it would lose
 *
 * Return: what @fn returns; -EFAULT when it touched such a page.
 */
int guard_run(int (*fn)(void *), void *arg);

/* guard_copy() - copy @n bytes that may be of a file's pages; 0, or -EFAULT when the file shrank. */
int guard_copy(void *to, const void *from, size_t n);

#endif
