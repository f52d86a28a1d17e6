/* SPDX-License-Identifier: BSD-2-Clause */
/* Includes every header whose declarations cdef.h repeats, so that the compiler compares the two. */
#include <harness/version.h>

#include "arena/arena.h"
#include "base/guard.h"
#include <harness/inspect.h>
#include "machine/machine.h"
#include "device/capture.h"
#include "base/process.h"
#include "device/device.h"
#include "device/faults.h"
#include "device/steering.h"
#include "inet/inet.h"
#include "kva/quick.h"
#include "mbuf/flip.h"
#include "nic/frames.h"
#include "nic/nic.h"
#include "pcap/pcap_reader.h"
#include "pcap/pcapng_write.h"
#include "sendfile/sendfile.h"

static inline uint64_t
arena_misuses(const struct arena *a, int kind)
{
    return atomic_load_explicit(&a->misuse_count[kind], memory_order_relaxed);
}

static inline uint64_t
arena_bytes_copied(const struct arena *a)
{
    return atomic_load_explicit(&a->bytes_copied, memory_order_relaxed);
}

static inline size_t
arena_stale_bytes(const struct arena *a)
{
    return atomic_load_explicit(&a->stale_bytes, memory_order_relaxed);
}

static inline uint64_t
arena_unmaps_refused(const struct arena *a)
{
    return atomic_load_explicit(&a->unmaps_refused, memory_order_relaxed);
}

static inline void
device_destroy(struct device *d)
{
    d->ops->destroy(d);
}
