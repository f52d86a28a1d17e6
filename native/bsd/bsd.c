/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The calls whose manual pages give them no context argument: they use the process's current
 * machine.
 *
 * If a program has not made a machine, jumbo_vm_init() or the first call that needs one creates it.
 * NIC_HARNESS_STRICT=1 in the environment makes it strict: there is no direct map, so a stale
 * pointer faults where it is used. Its misuse is reported on standard error: see bsd/report.h.
 */
#include <stdlib.h>

#include <sys/buf.h>
#include <sys/jumbo.h>
#include <sys/mbuf.h>
#include <vm/vm_object.h>

#include "bsd/report.h"
#include "machine/machine.h"

static pthread_mutex_t default_lock = PTHREAD_MUTEX_INITIALIZER;

/* The machine last created here. A forked child keeps its parent's reachable from its own, for leak checkers. */
static struct machine *made;

/* machine_or_default() - the current machine, created with default sizes if there is none */
static struct machine *
machine_or_default(void)
{
    struct machine *m = machine_current();

    if (__builtin_expect(m != NULL, 1))
        return m;
    pthread_mutex_lock(&default_lock);
    m = machine_current();
    if (m == NULL) {
        const char *strict = secure_getenv("NIC_HARNESS_STRICT");
        const struct machine_config config = {
            .pages = 1024,
            .max_pages = 65536,
            .strict = strict && strict[0] != '\0' && strict[0] != '0',
        };

        if (machine_create(&config, &m) == 0) {
            m->former = made;
            made = m;
            report_start(m);
            machine_set_current(m);
        } else {
            m = NULL;
        }
    }
    pthread_mutex_unlock(&default_lock);
    return m;
}

int
jumbo_vm_init(void)
{
    return machine_or_default() != NULL;
}

vm_page_t
jumbo_pg_alloc(void)
{
    /* Before jumbo_vm_init() there is no pool, so return NULL, as the manual page says. */
    struct machine *m = machine_current();

    return m ? jumbo_alloc(m->jumbo, RETURN_SITE()) : NULL;
}

void
jumbo_pg_free(vm_offset_t addr)
{
    struct jumbo *j = jumbo_at((void *)addr);

    if (__builtin_expect(j != NULL, 1))
        (void)jumbo_free(j, (void *)addr, RETURN_SITE());
    else
        arena_report_stray((void *)addr, RETURN_SITE());
}

void
jumbo_pg_steal(vm_page_t pg)
{
    struct arena *a = arena_at(pg);

    if (a && a->owner[REGION_JUMBO])
        (void)jumbo_steal(a->owner[REGION_JUMBO], pg, RETURN_SITE());
    else
        arena_report_stray(pg, RETURN_SITE());
}

caddr_t
jumbo_phys_to_kva(vm_paddr_t pa)
{
    struct machine *m = machine_current();
    vm_page_t pg = phys_to_vm_page(pa);

    if (pg == NULL || pg->slot == VM_PAGE_NOSLOT)
        return NULL;
    return (caddr_t)jumbo_kva(m->jumbo, pg) + (pa & PAGE_MASK);
}

vm_page_t
phys_to_vm_page(vm_paddr_t pa)
{
    struct machine *m = machine_current();

    return m && pa >> PAGE_SHIFT < m->arena->npages ? &m->arena->pages[pa >> PAGE_SHIFT] : NULL;
}

vm_object_t
vm_object_of_file(int fd)
{
    struct machine *m = machine_or_default();
    vm_object_t object = NULL;
    int err = m ? vm_object_open(m->sf_map, fd, &object) : -ENOMEM;

    if (err)
        errno = -err;
    return object;
}

void
vm_object_deallocate(vm_object_t object)
{
    vm_object_close(object);
}

vm_page_t
vm_page_grab(vm_object_t object, vm_pindex_t pindex, int allocflags)
{
    (void)allocflags; /* a page is always wired, which binds its descriptor */
    return vm_object_grab(object, pindex, RETURN_SITE());
}

struct mbuf *
m_get(int how, short type)
{
    struct machine *mc = machine_or_default();

    (void)how;
    return mc ? mb_get_at(mc->mbufs, type, false, RETURN_SITE()) : NULL;
}

struct mbuf *
m_gethdr(int how, short type)
{
    struct machine *mc = machine_or_default();

    (void)how;
    return mc ? mb_get_at(mc->mbufs, type, true, RETURN_SITE()) : NULL;
}

struct buf *
getpbuf(int *pfreecnt)
{
    struct machine *m = machine_or_default();

    return m ? pbuf_get(m->pbufs, pfreecnt, RETURN_SITE()) : NULL;
}

struct buf *
trypbuf(int *pfreecnt)
{
    struct machine *m = machine_or_default();

    return m ? pbuf_try(m->pbufs, pfreecnt, RETURN_SITE()) : NULL;
}

void
relpbuf(struct buf *bp, int *pfreecnt)
{
    struct pbuf_pool *p = pbuf_pool_at(bp);

    if (p)
        (void)pbuf_rel(p, bp, pfreecnt, RETURN_SITE());
    else
        arena_report_stray(bp, RETURN_SITE());
}

int
pbuf_nswbuf(void)
{
    struct machine *m = machine_or_default();
    struct pbuf_stats s = {0};

    if (m)
        pbuf_get_stats(m->pbufs, &s);
    return (int)s.total;
}

static struct lwbuf_stats
lwbuf_now(void)
{
    struct machine *m = machine_current();
    struct lwbuf_stats s = {0};

    if (m)
        lwbuf_get_stats(m->lwbufs, &s);
    return s;
}

size_t
lwbuf_count(void)
{
    return lwbuf_now().count;
}

size_t
lwbuf_kva_bytes(void)
{
    return lwbuf_now().kva_bytes;
}

size_t
lwbuf_reserve(void)
{
    return lwbuf_now().reserve;
}
