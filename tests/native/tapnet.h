/* SPDX-License-Identifier: BSD-2-Clause */
/* A private network namespace with a TAP in it, and the kernel on the other side. */
#ifndef TESTS_NATIVE_TAPNET_H
#define TESTS_NATIVE_TAPNET_H

#include <linux/if_link.h>
#include <stdbool.h>
#include <stdint.h>

/* tapnet_enter() - as root or by a user namespace; without IPv6, which would send frames of its own */
void tapnet_enter(void);
/* tapnet_write() - a setting under /proc, where it may be written */
void tapnet_write(const char *path, const char *text);
/* tapnet_open() - a TAP that is up, its queues in @fds */
void tapnet_open(const char *name, uint32_t mtu, unsigned nqueues, int *fds);
/* tapnet_set_address() - the kernel's own, IPv4 */
void tapnet_set_address(const char *name, const char *address, const char *netmask);
void tapnet_set_link(const char *name, bool up);
/* tapnet_socket() - the kernel's side: a packet socket that does not block, for frames of one type */
int tapnet_socket(const char *name, uint16_t type);
/* tapnet_counters() - the kernel's own, of the interface */
struct rtnl_link_stats64 tapnet_counters(const char *name);

#endif
