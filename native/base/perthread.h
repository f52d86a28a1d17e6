/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Per-thread data of a pool, released when the thread ends.
 *
 * A key's destructor (pthread_key_create) may still be running when the key is deleted and the pool
 * freed. There is no way to wait for it, and a program that does not join the thread by
 * pthread_join cannot even know. So each entry belongs to its thread and is freed only by that
 * thread. The pool detaches it under a process-wide lock that an ending thread also takes.
 */
#ifndef NIC_HARNESS_PERTHREAD_H
#define NIC_HARNESS_PERTHREAD_H

/* The head of an entry; the entry comes from calloc() or malloc(). */
struct perthread {
    struct perthread *next;               /* next entry of the thread */
    void *owner;                          /* the pool; NULL once detached */
    void (*leave)(struct perthread *own); /* called when the thread ends before the pool */
};

/* perthread_find() - the calling thread's entry for a pool, or NULL; frees detached entries. */
struct perthread *perthread_find(const void *owner);

/*
 * perthread_add() - add an entry to the calling thread
 * @leave: called with the lock held when the thread ends; the entry is freed after it
 *
 * Return: 0; -errno, and the caller keeps the entry.
 */
int perthread_add(struct perthread *own, void *owner, void (*leave)(struct perthread *own));

/* perthread_lock() - keep ending threads out, so that the owner of entries can be set to NULL. */
void perthread_lock(void);
void perthread_unlock(void);

#endif
