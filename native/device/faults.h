/* SPDX-License-Identifier: BSD-2-Clause */
/* A device that wraps any other and injects faults, reproducibly by a seed. */
#ifndef NIC_HARNESS_DEVICE_FAULTS_H
#define NIC_HARNESS_DEVICE_FAULTS_H

#include "device/device.h"

enum fault {
    FAULT_DROP,
    FAULT_DUPLICATE,
    FAULT_REORDER,    /* the next few frames overtake a frame */
    FAULT_TRUNCATE,   /* cut to a random length */
    FAULT_CORRUPT,    /* one bit flipped */
    FAULT_DELAY,      /* by up to delay_ns */
    FAULT_SHORT_USED, /* receive: the used length is less than what was written */
    FAULT_LATE,       /* transmit: completions come late and out of order */
    FAULT_STALL,      /* the device does nothing for some polls */
    FAULT_ALLOC,      /* no memory for a received frame, or for a copy needed to transmit */
    FAULT_TRAILER,    /* receive: up to FAULT_TRAILER_MAX zero bytes after the frame */
    FAULT_COUNT,
};
const char *fault_name(enum fault f);

#define FAULT_TRAILER_MAX 64u   /* bytes */
#define FAULT_RATE_ONE 1000000u /* every frame */

struct faults_config {
    uint64_t seed;
    /* Rates per million frames; FAULT_STALL: per million polls; FAULT_ALLOC on receive: per million allocations. */
    uint32_t rx[FAULT_COUNT];
    uint32_t tx[FAULT_COUNT];
    uint64_t delay_ns;    /* FAULT_DELAY: at most */
    uint32_t stall_polls; /* FAULT_STALL: at most */
};

struct faults_stats { /* faults injected, by kind */
    uint64_t rx[FAULT_COUNT];
    uint64_t tx[FAULT_COUNT];
};

/*
 * faults_create() - wrap @inner in a device that injects faults
 * @inner: owned from now on; on failure the caller keeps it
 *
 * Return: 0; -EINVAL for a rate above FAULT_RATE_ONE; -ENOMEM.
 */
int faults_create(struct device *inner, const struct faults_config *config, struct device **out);
/*
 * faults_alloc_fails() - decide whether an allocation fails now (FAULT_ALLOC), and count it
 * @faults: the device from faults_create(); the alloc_arg of struct nic_config
 */
bool faults_alloc_fails(void *faults, unsigned queue, bool tx);
/* faults_get_stats() - @d must come from faults_create() */
void faults_get_stats(const struct device *d, struct faults_stats *out);

#endif
