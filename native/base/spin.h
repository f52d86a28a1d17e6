/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A lock for critical sections of a few dozen instructions without system calls.
 *
 * It takes one atomic read-modify-write to lock and one release store to unlock: half the cost of
 * an uncontended pthread mutex. While glibc says that the process has a single thread, a plain
 * store is enough: no other thread can come between the check and the store, and a thread created
 * later sees both. A waiter yields after a while, because on two cores the holder may not be
 * running.
 */
#ifndef NIC_HARNESS_SPIN_H
#define NIC_HARNESS_SPIN_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h> /* glibc 2.32 */
#define SPIN_ALONE (__libc_single_threaded != 0)
#else
#define SPIN_ALONE false
#endif

struct spin {
    atomic_bool held;
};

static inline void
spin_lock(struct spin *s)
{
    if (SPIN_ALONE && !atomic_load_explicit(&s->held, memory_order_relaxed)) {
        atomic_store_explicit(&s->held, true, memory_order_relaxed);
        return;
    }
    while (atomic_exchange_explicit(&s->held, true, memory_order_acquire)) {
        for (int i = 0; atomic_load_explicit(&s->held, memory_order_relaxed); i++) {
            if (i < 64)
                __builtin_ia32_pause();
            else
                sched_yield();
        }
    }
}

static inline void
spin_unlock(struct spin *s)
{
    atomic_store_explicit(&s->held, false, memory_order_release);
}

#endif
