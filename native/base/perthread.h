/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a pool keeps for each thread, given back when the thread ends.
 *
 * A key's destructor (pthread_key_create) may still be on its way when the key is deleted and the pool freed:
 * nobody can wait for it, and whoever joined the thread by other means than pthread_join does not even
 * know. So an entry is its thread's, freed by that thread only, and the pool lets go of it under
 * one lock of the process that a thread's end takes too.
 */
#ifndef NIC_HARNESS_PERTHREAD_H
#define NIC_HARNESS_PERTHREAD_H

/* At the head of what is kept; from calloc() or malloc(). */
struct perthread {
    struct perthread *next;               /* of its thread */
    void *owner;                          /* the pool; NULL once it let go */
    void (*leave)(struct perthread *own); /* the thread ends, and the pool is there */
};

/* perthread_find() - the calling thread's entry of a pool, or NULL; frees those that were let go of. */
struct perthread *perthread_find(const void *owner);

/*
 * perthread_add() - make an entry the calling thread's
 * @leave: called with the lock held when the thread ends; the entry is freed after it
 *
 * Return: 0; -errno, and the entry is the caller's still.
 */
int perthread_add(struct perthread *own, void *owner, void (*leave)(struct perthread *own));

/* While it is held no thread's end is under way: the time to set the owner of entries to NULL. */
void perthread_lock(void);
void perthread_unlock(void);

#endif
