/* SPDX-License-Identifier: BSD-2-Clause */
/* Counters that one thread writes and any thread may read: relaxed accesses, no read-modify-write. */
#ifndef NIC_HARNESS_BASE_COUNTER_H
#define NIC_HARNESS_BASE_COUNTER_H

#include <stdint.h>

static inline void
counter_add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

#endif
