/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Chooses the TAP queue that receives each frame from the kernel. By default the kernel chooses:
 * the queue that the flow's own frames came from, or a hash of its addresses and ports.
 */
#ifndef NIC_HARNESS_DEVICE_STEERING_H
#define NIC_HARNESS_DEVICE_STEERING_H

#include <stdint.h>

/*
 * tap_steer_by_byte() - steer by one byte of the frame modulo the number of queues, with a BPF
 * program
 * @fd: any queue of the TAP
 * @offset: from the start of the Ethernet header; a shorter frame goes to queue 0
 *
 * Return: 0; -EPERM if bpf(2) is not allowed; -EINVAL if the kernel's TAP has no steering (before
 * 4.16).
 */
int tap_steer_by_byte(int fd, uint32_t offset);
/* tap_steer_automatic() - let the kernel choose again; 0 or -errno */
int tap_steer_automatic(int fd);

#endif
