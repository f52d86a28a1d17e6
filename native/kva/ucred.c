/* SPDX-License-Identifier: BSD-2-Clause */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sys/ucred.h>

struct counted {
    struct ucred id; /* glibc's */
    uint32_t refs;
};
_Static_assert(offsetof(struct counted, id) == 0, "a pointer to the one is a pointer to the other");

static struct counted *
counted(struct ucred *cr)
{
    return (struct counted *)(void *)cr;
}

struct ucred *
crget(void)
{
    struct counted *c = malloc(sizeof(*c));

    if (c == NULL)
        return NULL;
    *c = (struct counted){{getpid(), geteuid(), getegid()}, 1};
    return &c->id;
}

struct ucred *
crhold(struct ucred *cr)
{
    __atomic_fetch_add(&counted(cr)->refs, 1, __ATOMIC_RELAXED);
    return cr;
}

void
crfree(struct ucred *cr)
{
    /* Release on each drop and acquire on the last, so that the last holder sees what the others did. */
    if (__atomic_sub_fetch(&counted(cr)->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(counted(cr));
}

int
crshared(struct ucred *cr)
{
    return __atomic_load_n(&counted(cr)->refs, __ATOMIC_RELAXED) > 1;
}
