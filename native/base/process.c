/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/process.h"

#include <stdlib.h>
#include <unistd.h>

#define LOCKS_MAX 8

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for all below, also during forks */
static int *owned;
static size_t nowned, room;
static pthread_mutex_t *across[LOCKS_MAX];
static unsigned nacross;
static uint32_t forks;

static void
before_fork(void)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < nacross; i++)
        pthread_mutex_lock(across[i]);
}

static void
after_fork(void)
{
    for (unsigned i = nacross; i-- > 0;)
        pthread_mutex_unlock(across[i]);
    pthread_mutex_unlock(&lock);
}

/* in_child() - makes only calls that are safe after a multi-threaded process forks (signal-safety(7)) */
static void
in_child(void)
{
    forks++;
    for (size_t i = 0; i < nowned; i++)
        close(owned[i]);
    nowned = 0;
    after_fork();
}

static void
install(void)
{
    pthread_atfork(before_fork, after_fork, in_child);
}

uint32_t
process_forks(void)
{
    pthread_once(&once, install);
    return __atomic_load_n(&forks, __ATOMIC_RELAXED);
}

int
process_own(int fd)
{
    if (fd < 0)
        return fd;
    pthread_once(&once, install);
    pthread_mutex_lock(&lock);
    if (nowned == room) {
        size_t more = room ? 2 * room : 16;
        int *bigger = realloc(owned, more * sizeof(*owned));

        if (bigger) {
            owned = bigger;
            room = more;
        }
    }
    if (nowned < room)
        owned[nowned++] = fd;
    pthread_mutex_unlock(&lock);
    return fd;
}

void
process_close(int fd)
{
    if (fd < 0)
        return;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < nowned; i++) {
        if (owned[i] == fd) {
            owned[i] = owned[--nowned];
            break;
        }
    }
    if (nowned == 0) { /* leave nothing for leak checkers to find */
        free(owned);
        owned = NULL;
        room = 0;
    }
    close(fd);
    pthread_mutex_unlock(&lock);
}

void
process_across_fork(pthread_mutex_t *l)
{
    pthread_once(&once, install);
    pthread_mutex_lock(&lock);
    unsigned i = 0;

    while (i < nacross && across[i] != l)
        i++;
    if (i == nacross && nacross < LOCKS_MAX)
        across[nacross++] = l;
    pthread_mutex_unlock(&lock);
}
