/* SPDX-License-Identifier: BSD-2-Clause */
#include "kva/quick.h"

#include <pthread.h>
#include <stdlib.h>

#include "kva/sf_map.h"

_Thread_local struct quick_frame quick_frame __attribute__((tls_model("initial-exec")));

/* Thread numbers. Those of ended threads are reused, so that frames do not run out. */
static pthread_mutex_t number_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t number_once = PTHREAD_ONCE_INIT;
static pthread_key_t number_key;
static uint32_t *number_free;
static uint32_t number_nfree, number_room, number_next = 1;

static void
number_return(void *value)
{
    pthread_mutex_lock(&number_lock);
    if (number_nfree < number_room)
        number_free[number_nfree++] = (uint32_t)(uintptr_t)value;
    pthread_mutex_unlock(&number_lock);
}

static void
number_init(void)
{
    pthread_key_create(&number_key, number_return);
}

static uint32_t
number_take(void)
{
    pthread_once(&number_once, number_init);
    pthread_mutex_lock(&number_lock);
    uint32_t n = number_nfree ? number_free[--number_nfree] : number_next++;

    /* Room to take back every number, allocated when a new one is given out. */
    if (number_next > number_room) {
        uint32_t *more = realloc(number_free, 2 * (size_t)number_next * sizeof(*more));

        if (more) {
            number_free = more;
            number_room = 2 * number_next;
        }
    }
    pthread_mutex_unlock(&number_lock);
    pthread_setspecific(number_key, (void *)(uintptr_t)n);
    return n;
}

/* map_frame() - map a page without its own address at this thread's frame; 0 if the kernel refuses */
static COLD vm_offset_t
map_frame(struct arena *a, struct vm_page *m)
{
    struct quick_frame *q = &quick_frame;

    if (q->number == 0)
        q->number = number_take();
    if (q->number >= QUICK_FRAMES)
        return 0;
    uint8_t *kva = a->region_base[REGION_QUICK] + ((size_t)q->number << PAGE_SHIFT);

    if (vm_page_map_at(a, kva, m) < 0)
        return 0;
    q->mapped = true;
    return (vm_offset_t)kva;
}

/* leave() - remove the frame's mapping */
static COLD void
leave(struct arena *a)
{
    struct quick_frame *q = &quick_frame;

    if (q->mapped)
        arena_unmap(a, (void *)q->kva, PAGE_SIZE);
    q->mapped = false;
    q->kva = 0;
}

COLD void
quick_report(struct arena *a, enum misuse_kind kind, const void *addr, void *site)
{
    uintptr_t entered = quick_frame.kva ? (uintptr_t)quick_frame.site : 0;

    arena_report_sites(a, kind, addr, entered, 0, site);
}

/* nested() - report a second enter, and take over the frame */
static COLD void
nested(struct arena *a, void *site)
{
    struct arena *held = arena_at((void *)quick_frame.kva);

    quick_report(a, MISUSE_QUICK_NESTED, (void *)quick_frame.kva, site);
    if (held)
        leave(held);
}

static COLD void
foreign(vm_offset_t addr, void *site)
{
    struct arena *a = arena_at((void *)addr);

    if (a == NULL)
        a = arena_at((void *)quick_frame.kva);
    if (a == NULL)
        a = atomic_load_explicit(&arena_of_strays, memory_order_acquire);
    if (a)
        quick_report(a, MISUSE_QUICK_FOREIGN, (void *)addr, site);
}

vm_offset_t
pmap_quick_enter_page(vm_page_t m)
{
    struct arena *a = arena_of_page(m);

    if (__builtin_expect(a == NULL, 0)) {
        arena_report_stray(m, RETURN_SITE());
        return 0;
    }
    if (__builtin_expect(quick_frame.kva != 0, 0))
        nested(a, RETURN_SITE());
    quick_frame.site = RETURN_SITE();
    return quick_frame.kva =
               a->direct && arena_owns_page(a, m) ? (vm_offset_t)arena_kva(a, m) : map_frame(a, m);
}

void
pmap_quick_remove_page(vm_offset_t addr)
{
    if (__builtin_expect(addr == 0 || addr != quick_frame.kva, 0))
        foreign(addr, RETURN_SITE());
    else if (quick_frame.mapped)
        leave(arena_at((void *)addr));
    else
        quick_frame.kva = 0;
}
