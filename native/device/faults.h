/* SPDX-License-Identifier: BSD-2-Clause */
/* A device that misbehaves as told, by a seed, in front of any device. */
#ifndef NIC_HARNESS_DEVICE_FAULTS_H
#define NIC_HARNESS_DEVICE_FAULTS_H

#include "device/device.h"

enum fault {
    FAULT_DROP,
    FAULT_DUPLICATE,
    FAULT_REORDER,    /* a frame lets the next few pass */
    FAULT_TRUNCATE,   /* cut at a random length */
    FAULT_CORRUPT,    /* one bit of it turned */
    FAULT_DELAY,      /* by up to delay_ns */
    FAULT_SHORT_USED, /* receive: the used length says less than was written */
    FAULT_LATE,       /* transmit: the completion comes later, and not in order */
    FAULT_STALL,      /* the device does nothing for a number of polls */
    FAULT_ALLOC,   /* receive: no page or mbuf for a frame; transmit: none for the copy it needs */
    FAULT_TRAILER, /* receive: up to FAULT_TRAILER_MAX zero bytes behind the frame */
    FAULT_COUNT,
};
const char *fault_name(enum fault f);

#define FAULT_TRAILER_MAX 64u   /* bytes */
#define FAULT_RATE_ONE 1000000u /* every frame */

struct faults_config {
    uint64_t seed;
    /* Of a million frames; FAULT_STALL: of polls; FAULT_ALLOC, on receive: of allocations. */
    uint32_t rx[FAULT_COUNT];
    uint32_t tx[FAULT_COUNT];
    uint64_t delay_ns;    /* FAULT_DELAY: at most */
    uint32_t stall_polls; /* FAULT_STALL: at most */
};

struct faults_stats { /* faults done, by kind */
    uint64_t rx[FAULT_COUNT];
    uint64_t tx[FAULT_COUNT];
};

/*
 * faults_create() - a misbehaving device around @inner
 * @inner: owned from now on; on failure still the caller's
 *
 * Return: 0; -EINVAL for a rate above FAULT_RATE_ONE; -ENOMEM.
 */
int faults_create(struct device *inner, const struct faults_config *config, struct device **out);
/*
 * faults_alloc_fails() - whether FAULT_ALLOC strikes now; it is counted
 * @faults: the device that faults_create() made; for the alloc_arg of struct nic_config
 */
bool faults_alloc_fails(void *faults, unsigned queue, bool tx);
/* faults_get_stats() - @d must be of faults_create() */
void faults_get_stats(const struct device *d, struct faults_stats *out);

#endif
