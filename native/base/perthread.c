/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/perthread.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/process.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* holds the thread's first entry; never deleted */
static int key_error;

static void
end_thread(void *arg)
{
    perthread_lock();
    for (struct perthread *own = arg, *next; own; own = next) {
        next = own->next;
        if (own->owner)
            own->leave(own);
        free(own);
    }
    perthread_unlock();
}

/* in_child() - the pools belong to the parent, so this thread returns nothing to them when it ends */
static void
in_child(void)
{
    for (struct perthread *own = pthread_getspecific(key); own; own = own->next)
        own->owner = NULL;
}

static void
make_key(void)
{
    key_error = pthread_key_create(&key, end_thread);
    process_across_fork(&lock);
    if (!key_error)
        pthread_atfork(NULL, NULL, in_child);
}

struct perthread *
perthread_find(const void *owner)
{
    struct perthread *found = NULL;

    pthread_once(&once, make_key);
    if (key_error)
        return NULL;
    perthread_lock();
    struct perthread *first = pthread_getspecific(key);

    for (struct perthread **p = &first; *p;) {
        struct perthread *own = *p;

        if (own->owner == NULL) {
            *p = own->next;
            free(own);
            continue;
        }
        if (own->owner == owner)
            found = own;
        p = &own->next;
    }
    pthread_setspecific(key, first); /* the key had a value, or gets NULL */
    perthread_unlock();
    return found;
}

int
perthread_add(struct perthread *own, void *owner, void (*leave)(struct perthread *own))
{
    pthread_once(&once, make_key);
    if (key_error)
        return -key_error;
    perthread_lock();
    own->next = pthread_getspecific(key);
    own->owner = owner;
    own->leave = leave;
    int err = -pthread_setspecific(key, own);

    perthread_unlock();
    return err;
}

void
perthread_lock(void)
{
    pthread_mutex_lock(&lock);
}

void
perthread_unlock(void)
{
    pthread_mutex_unlock(&lock);
}
