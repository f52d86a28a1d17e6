/* SPDX-License-Identifier: BSD-2-Clause */
/* The two clocks, in ns: one for intervals and deadlines, one for capture timestamps. */
#ifndef NIC_HARNESS_BASE_CLOCK_H
#define NIC_HARNESS_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t
clock_read(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* clock_now() - monotonic time; its zero is arbitrary */
static inline uint64_t
clock_now(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

/* clock_wall() - time since 1970 */
static inline uint64_t
clock_wall(void)
{
    return clock_read(CLOCK_REALTIME);
}

#endif
