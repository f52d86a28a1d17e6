/* SPDX-License-Identifier: BSD-2-Clause */
#include "ring/uring.h"

#include <errno.h>
#include <linux/time_types.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/process.h"

/* Headers may be older than the kernel. */
#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1u << 7) /* Linux 5.18 */
#endif
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1u << 8) /* Linux 5.19 */
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1u << 12) /* Linux 6.0 */
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1u << 13) /* Linux 6.1 */
#endif

#define NEEDED (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG) /* Linux 5.11 */

static int
enter(struct uring *u, uint32_t submit, uint32_t min, uint32_t flags, const void *arg, size_t size)
{
    long r = syscall(SYS_io_uring_enter, u->fd, submit, min, flags, arg, size);

    return r < 0 ? -errno : (int)r;
}

static int
reg(struct uring *u, unsigned op, const void *arg, unsigned n)
{
    long r = syscall(SYS_io_uring_register, u->fd, op, arg, n);

    return r < 0 ? -errno : 0;
}

/* setup() - make the system call with those of our flags that the kernel knows; returns a descriptor or -errno */
static int
setup(uint32_t entries, uint32_t cq_entries, unsigned flags, struct io_uring_params *p)
{
    static const uint32_t wish[] = {
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_R_DISABLED,
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN,
        0,
    };
    long fd = -1;

    for (size_t i = flags & URING_ONE_THREAD ? 0 : 1; i < sizeof(wish) / sizeof(wish[0]) && fd < 0;
         i++) {
        memset(p, 0, sizeof(*p));
        p->flags = wish[i] | (cq_entries ? IORING_SETUP_CQSIZE : 0);
        p->cq_entries = cq_entries;
        fd = syscall(SYS_io_uring_setup, entries, p);
        if (fd < 0 && errno != EINVAL)
            break;
    }
    return fd < 0 ? -errno : (int)fd;
}

int
uring_create(uint32_t entries, uint32_t cq_entries, unsigned flags, struct uring *out)
{
    struct io_uring_params p;
    struct uring u = {.fd = process_own(setup(entries, cq_entries, flags, &p))};
    int err;

    *out = (struct uring){.fd = -1};
    if (u.fd < 0)
        return u.fd;
    if ((p.features & NEEDED) != NEEDED) {
        process_close(u.fd);
        return -ENOSYS;
    }
    u.setup_flags = p.flags;
    u.enabled = !(p.flags & IORING_SETUP_R_DISABLED);
    u.features = p.features;
    size_t sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    size_t cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);

    u.rings_bytes = sq > cq ? sq : cq;
    u.sqe_bytes = p.sq_entries * sizeof(struct io_uring_sqe);
    u.rings = mmap(NULL, u.rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u.fd,
                   IORING_OFF_SQ_RING);
    if (u.rings == MAP_FAILED) {
        err = -errno;
        process_close(u.fd);
        return err;
    }
    u.sqe = mmap(NULL, u.sqe_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u.fd,
                 IORING_OFF_SQES);
    if (u.sqe == MAP_FAILED) {
        err = -errno;
        munmap(u.rings, u.rings_bytes);
        process_close(u.fd);
        return err;
    }
    /* A forked child would share the rings, and must not use them. */
    madvise(u.rings, u.rings_bytes, MADV_DONTFORK);
    madvise(u.sqe, u.sqe_bytes, MADV_DONTFORK);

    char *base = u.rings;

    u.sq_khead = (uint32_t *)(void *)(base + p.sq_off.head);
    u.sq_ktail = (uint32_t *)(void *)(base + p.sq_off.tail);
    u.sq_kflags = (uint32_t *)(void *)(base + p.sq_off.flags);
    u.sq_entries = p.sq_entries;
    u.sq_mask = p.sq_entries - 1;
    u.cq_khead = (uint32_t *)(void *)(base + p.cq_off.head);
    u.cq_ktail = (uint32_t *)(void *)(base + p.cq_off.tail);
    u.cq_entries = p.cq_entries;
    u.cq_mask = p.cq_entries - 1;
    u.cqe = (struct io_uring_cqe *)(void *)(base + p.cq_off.cqes);

    /* We do not use the indirection between ring and entries: entry i is always slot i. */
    uint32_t *array = (uint32_t *)(void *)(base + p.sq_off.array);

    for (uint32_t i = 0; i < p.sq_entries; i++)
        array[i] = i;
    *out = u;
    return 0;
}

void
uring_destroy(struct uring *u)
{
    if (u->fd < 0)
        return;
    munmap(u->sqe, u->sqe_bytes);
    munmap(u->rings, u->rings_bytes);
    process_close(u->fd);
    *u = (struct uring){.fd = -1};
}

int
uring_enable(struct uring *u)
{
    int err = u->enabled ? 0 : reg(u, IORING_REGISTER_ENABLE_RINGS, NULL, 0);

    u->enabled = !err;
    return err;
}

struct io_uring_sqe *
uring_get_sqe(struct uring *u)
{
    if (u->sq_tail - u->sq_head == u->sq_entries) {
        u->sq_head = __atomic_load_n(u->sq_khead, __ATOMIC_ACQUIRE);
        if (u->sq_tail - u->sq_head == u->sq_entries)
            return NULL;
    }
    struct io_uring_sqe *e = &u->sqe[u->sq_tail++ & u->sq_mask];

    memset(e, 0, sizeof(*e));
    return e;
}

uint32_t
uring_pending(const struct uring *u)
{
    return u->sq_tail - __atomic_load_n(u->sq_khead, __ATOMIC_ACQUIRE);
}

int
uring_submit(struct uring *u)
{
    /* Deferred task work runs only when we ask for events. */
    uint32_t flags = u->setup_flags & IORING_SETUP_DEFER_TASKRUN ? IORING_ENTER_GETEVENTS : 0;

    __atomic_store_n(u->sq_ktail, u->sq_tail, __ATOMIC_RELEASE);
    return enter(u, uring_pending(u), 0, flags, NULL, 0);
}

int
uring_submit_and_wait(struct uring *u, uint32_t min, int64_t timeout_ns)
{
    struct __kernel_timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct io_uring_getevents_arg arg = {
        .sigmask_sz = _NSIG / 8,
        .ts = timeout_ns < 0 ? 0 : (uint64_t)(uintptr_t)&ts,
    };

    __atomic_store_n(u->sq_ktail, u->sq_tail, __ATOMIC_RELEASE);
    return enter(u, uring_pending(u), min, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg,
                 sizeof(arg));
}

uint32_t
uring_peek(const struct uring *u, uint32_t *first)
{
    /* Only this thread writes the head. */
    *first = __atomic_load_n(u->cq_khead, __ATOMIC_RELAXED);
    return __atomic_load_n(u->cq_ktail, __ATOMIC_ACQUIRE) - *first;
}

void
uring_advance(struct uring *u, uint32_t n)
{
    uint32_t head = __atomic_load_n(u->cq_khead, __ATOMIC_RELAXED);

    __atomic_store_n(u->cq_khead, head + n, __ATOMIC_RELEASE);
}

int
uring_register_files(struct uring *u, const int *fds, unsigned n)
{
    return reg(u, IORING_REGISTER_FILES, fds, n);
}

int
uring_unregister_files(struct uring *u)
{
    return reg(u, IORING_UNREGISTER_FILES, NULL, 0);
}
