/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine is destroyed while a thread that used it is ending: nobody joined it, and what it kept of the
 * pools goes neither back to them nor to waste. The sanitizers see both.
 */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>

#include <cpu/lwbuf.h>

#include "base/perthread.h"
#include "machine/machine.h"
#include "check.h"

#define SITE __builtin_return_address(0)
#define ROUNDS 30

static _Atomic int state; /* 1: the thread has used the machine, 2: the machine is destroyed */
static pthread_key_t first;

/* hold_up() - runs first at a thread's end: wait until the machine is destroyed */
static void
hold_up(void *arg)
{
    (void)arg;
    while (atomic_load(&state) != 2)
        sched_yield();
}

static void *
use(void *arg)
{
    struct machine *m = arg;
    struct vm_page *pg = jumbo_alloc(m->jumbo, SITE);

    CHECK(pg);
    pthread_setspecific(first, m);
    struct lwbuf *lwb = lwbuf_alloc(pg, NULL); /* strict: of the thread's own pool */

    CHECK(lwb);
    lwbuf_free(lwb);
    CHECK_EQ(jumbo_free(m->jumbo, jumbo_kva(m->jumbo, pg), SITE), 0);
    m_freem(mb_get(m->mbufs));
    atomic_store(&state, 1);
    return NULL; /* its magazines and its pool are given back after this */
}

static unsigned
threads(void)
{
    DIR *d = opendir("/proc/self/task");
    unsigned n = 0;

    CHECK(d);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void
test_destroyed_while_a_thread_ends(void)
{
    unsigned before = threads(); /* a sanitizer may have one of its own */
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct machine_config config = {.pages = 64, .max_mbufs = 64, .strict = true};
        struct machine *m;
        pthread_t thread;

        CHECK_EQ(machine_create(&config, &m), 0);
        machine_set_current(m);
        atomic_store(&state, 0);
        CHECK_EQ(pthread_create(&thread, &attr, use, m), 0);
        while (atomic_load(&state) == 0)
            sched_yield();
        machine_set_current(NULL);
        CHECK_EQ(machine_destroy(m), 0);
        atomic_store(&state, 2);
        while (threads() > before)
            sched_yield();
    }
    pthread_attr_destroy(&attr);
}

struct entry {
    struct perthread own;
    unsigned *left;
};

static void
count(struct perthread *own)
{
    ++*((struct entry *)(void *)own)->left;
}

static void *
have_three(void *arg)
{
    struct entry *e[3];
    unsigned *left = arg;

    for (unsigned i = 0; i < 3; i++) {
        e[i] = calloc(1, sizeof(*e[i]));
        CHECK(e[i]);
        e[i]->left = left;
        CHECK(perthread_find(&left[i]) == NULL);
        CHECK_EQ(perthread_add(&e[i]->own, &left[i], count), 0);
        CHECK(perthread_find(&left[i]) == &e[i]->own);
    }
    perthread_lock();
    e[1]->own.owner = NULL;
    perthread_unlock();
    CHECK(perthread_find(&left[1]) == NULL);
    CHECK(perthread_find(&left[0]) == &e[0]->own);
    return NULL;
}

/* Detached entries are freed silently; the others are notified. */
static void
test_entries_of_a_thread(void)
{
    unsigned left[3] = {0};
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, have_three, left), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(left[0], 2);
}

int
main(void)
{
    /* Destructors run in the order of their keys: this one is older than the library's. */
    CHECK_EQ(pthread_key_create(&first, hold_up), 0);
    test_entries_of_a_thread();
    test_destroyed_while_a_thread_ends();
    return 0;
}
