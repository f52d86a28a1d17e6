/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a forked child has of its parent's, and must leave alone.
 *
 * A child has copies of all memory that is private, shares the arena's physical memory, and has descriptors of
 * the same open files: of the TAP's queues, and of io_uring rings whose registrations are one for both. So
 * everything belongs to the process that made it. In a child, calls on what it inherited
 * change nothing and return -EOWNERDEAD, and the descriptors registered here are closed at once: a child
 * that lives long does not keep an interface alive that its parent is done with.
 */
#ifndef NIC_HARNESS_PROCESS_H
#define NIC_HARNESS_PROCESS_H

#include <pthread.h>
#include <stdint.h>

/* process_forks() - how many forks lie between the process that called it first, or its forbear, and this one */
uint32_t process_forks(void);

/*
 * process_own() - a descriptor that no forked child shall have
 * @fd: descriptor, or a negative error number, which is passed through
 *
 * Return: @fd. When memory is out, the children have it.
 */
int process_own(int fd);

/* process_close() - close a descriptor, own or not; below 0: nothing happens */
void process_close(int fd);

/*
 * process_across_fork() - a lock that no thread may hold while another forks, so that it is free in the child
 *
 * For locks that never nest, held for moments. Again has no effect.
 */
void process_across_fork(pthread_mutex_t *lock);

#endif
