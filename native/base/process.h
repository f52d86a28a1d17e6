/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a forked child inherits from its parent and must not touch.
 *
 * A child has copies of all private memory, shares the arena's physical memory, and has descriptors
 * of the same open files: the TAP's queues, and io_uring rings, whose registrations both processes
 * share. So everything belongs to the process that made it. In a child, calls on inherited objects
 * change nothing and return -EOWNERDEAD. The descriptors registered here are closed at once, so
 * that a long-lived child does not keep an interface alive after its parent has finished with it.
 */
#ifndef NIC_HARNESS_PROCESS_H
#define NIC_HARNESS_PROCESS_H

#include <pthread.h>
#include <stdint.h>

/* process_forks() - number of forks between the process that called it first, or its ancestor, and this one */
uint32_t process_forks(void);

/*
 * process_own() - register a descriptor that forked children must not have
 * @fd: descriptor, or a negative error number, which is passed through
 *
 * Return: @fd. If memory runs out, children inherit it.
 */
int process_own(int fd);

/* process_close() - close a descriptor, registered or not; does nothing if it is negative */
void process_close(int fd);

/*
 * process_across_fork() - keep a lock free during every fork, so that it is free in the child
 *
 * For locks that never nest and are held briefly. Repeated calls have no effect.
 */
void process_across_fork(pthread_mutex_t *lock);

#endif
