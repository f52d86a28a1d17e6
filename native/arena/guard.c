/* SPDX-License-Identifier: BSD-2-Clause */
#include "arena/guard.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

static _Thread_local sigjmp_buf *armed;
static struct sigaction former;

static void
on_sigbus(int sig, siginfo_t *info, void *context)
{
    if (armed) {
        /* As a return from here would: a sanitizer's own handler blocks every signal around this one. */
        pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
        siglongjmp(*armed, 1);
    }
    if (former.sa_flags & SA_SIGINFO) {
        former.sa_sigaction(sig, info, context);
        return;
    }
    if (former.sa_handler != SIG_DFL && former.sa_handler != SIG_IGN) {
        former.sa_handler(sig);
        return;
    }
    /* Nobody's: die of it as if we had not been here. The access is made again after the return. */
    signal(SIGBUS, SIG_DFL);
}

static void
install(void)
{
    struct sigaction sa = {.sa_sigaction = on_sigbus,
                           .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

    sigaction(SIGBUS, &sa, &former);
}

int
guard_run(int (*fn)(void *), void *arg)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigjmp_buf here;

    pthread_once(&once, install);
    /* The handler puts the mask back before it jumps: none has to be kept here, at a system call. */
    if (sigsetjmp(here, 0)) {
        armed = NULL;
        return -EFAULT;
    }
    armed = &here;
    int r = fn(arg);

    armed = NULL;
    return r;
}

struct copy {
    void *to;
    const void *from;
    size_t n;
};

static int
run_copy(void *arg)
{
    struct copy *c = arg;

    memcpy(c->to, c->from, c->n);
    return 0;
}

int
guard_copy(void *to, const void *from, size_t n)
{
    struct copy c = {to, from, n};

    return guard_run(run_copy, &c);
}
