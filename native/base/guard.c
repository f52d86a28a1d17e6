/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/guard.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

static _Thread_local sigjmp_buf *armed;
static _Thread_local bool passed_on;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of @former */
static struct sigaction former;

static void
on_sigbus(int sig, siginfo_t *info, void *context)
{
    if (armed) {
        /* As a return from here would do: a sanitizer's handler blocks every signal around this one. */
        pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
        siglongjmp(*armed, 1);
    }
    /* Only once: a handler installed after ours may pass the signal on to us. */
    if (!passed_on && former.sa_handler != SIG_DFL && former.sa_handler != SIG_IGN) {
        passed_on = true;
        if (former.sa_flags & SA_SIGINFO)
            former.sa_sigaction(sig, info, context);
        else
            former.sa_handler(sig);
        passed_on = false;
        return;
    }
    /* Not handled: die of it as without our handler. The access is repeated after the return. */
    signal(SIGBUS, SIG_DFL);
}

/*
 * install() - install our SIGBUS handler
 *
 * Checked each time, because others set handlers too, and may restore one from before ours
 * (Python's faulthandler.disable()).
 */
static void
install(void)
{
    struct sigaction sa = {.sa_sigaction = on_sigbus,
                           .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    struct sigaction now;

    sigaction(SIGBUS, NULL, &now);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigbus)
        return;
    pthread_mutex_lock(&lock);
    sigaction(SIGBUS, NULL, &now);
    if (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_sigbus) {
        former = now;
        sigaction(SIGBUS, &sa, NULL);
    }
    pthread_mutex_unlock(&lock);
}

int
guard_run(int (*fn)(void *), void *arg)
{
    sigjmp_buf here;

    install();
    /* The handler restores the mask before it jumps, so it need not be saved here by a system call. */
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
