/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which queue of a TAP a frame of the kernel's goes to. Without anything set it is the one that the flow's
 * frames came out of, or a hash of its addresses and ports (the kernel's automatic choice).
 */
#ifndef NIC_HARNESS_DEVICE_STEERING_H
#define NIC_HARNESS_DEVICE_STEERING_H

#include <stdint.h>

/*
 * tap_steer_by_byte() - queue = one byte of the frame, modulo the number of queues, by a BPF program
 * @fd: any queue of the TAP
 * @offset: from the start of the Ethernet header; a shorter frame goes to queue 0
 *
 * Return: 0; -EPERM when bpf(2) is not allowed here; -EINVAL when the kernel's TAP has no steering (before 4.16).
 */
int tap_steer_by_byte(int fd, uint32_t offset);
/* tap_steer_automatic() - leave it to the kernel again; 0 or -errno */
int tap_steer_automatic(int fd);

#endif
