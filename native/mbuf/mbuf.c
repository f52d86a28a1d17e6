/* SPDX-License-Identifier: BSD-2-Clause */
#include "mbuf/mbuf_zone.h"

#include <stdlib.h>
#include <string.h>

/* A slab is one mapping of sixteen pages with 256 mbufs. */
#define SLAB_BYTES ((size_t)65536)
#define SLAB_MBUFS (SLAB_BYTES / MSIZE)

struct mbuf_slab {
    struct mbuf_slab *next;
    void *mem;
};

static _Thread_local struct depot_lookaside lookaside __attribute__((tls_model("initial-exec")));

/* ---- the zone ---- */

/* grow() - add a slab; false if the limit or memory is exhausted. */
static bool
grow(struct mbuf_zone *z)
{
    if (depot_total(&z->depot) + SLAB_MBUFS > z->limit)
        return false;
    struct mbuf_slab *s = malloc(sizeof(*s));
    struct mbuf *m = s ? kmem_alloc(z->arena, SLAB_BYTES) : NULL;

    if (m == NULL) {
        free(s);
        return false;
    }
    for (size_t i = 0; i < SLAB_MBUFS; i++) {
        m[i].m_zone = z;
        m[i].m_flags = M_FREED;
        m[i].m_next = i + 1 < SLAB_MBUFS ? &m[i + 1] : NULL;
    }
    *s = (struct mbuf_slab){z->slabs, m};
    z->slabs = s;
    depot_add(&z->depot, m, &m[SLAB_MBUFS - 1], SLAB_MBUFS);
    return true;
}

int
mbuf_zone_create(struct arena *a, size_t limit, struct mbuf_zone **out)
{
    struct mbuf_zone *z = calloc(1, sizeof(*z));

    if (z == NULL)
        return -ENOMEM;
    z->arena = a;
    z->limit = (limit + SLAB_MBUFS - 1) / SLAB_MBUFS * SLAB_MBUFS;
    pthread_mutex_init(&z->grow_lock, NULL);
    depot_init(&z->depot, (uint32_t)(z->limit / 64));
    if (grow(z)) {
        *out = z;
        return 0;
    }
    depot_fini(&z->depot);
    pthread_mutex_destroy(&z->grow_lock);
    free(z);
    return -ENOMEM;
}

int
mbuf_zone_destroy(struct mbuf_zone *z)
{
    if (depot_free_count(&z->depot) != depot_total(&z->depot))
        return -EBUSY;
    depot_fini(&z->depot); /* an ending thread no longer touches the mbufs */
    while (z->slabs) {
        struct mbuf_slab *s = z->slabs;

        z->slabs = s->next;
        kmem_free(z->arena, s->mem, SLAB_BYTES);
        free(s);
    }
    pthread_mutex_destroy(&z->grow_lock);
    free(z);
    return 0;
}

void
mbuf_zone_get_stats(struct mbuf_zone *z, struct mbuf_stats *out)
{
    *out = (struct mbuf_stats){
        .total = depot_total(&z->depot),
        .free = depot_free_count(&z->depot),
        .limit = z->limit,
        .refused = atomic_load(&z->refused),
    };
    out->in_use = out->total - out->free;
}

void
mbuf_zone_each_out(struct mbuf_zone *z, out_fn *fn, void *arg)
{
    pthread_mutex_lock(&z->grow_lock);
    for (const struct mbuf_slab *s = z->slabs; s; s = s->next) {
        const struct mbuf *m = s->mem;

        for (size_t i = 0; i < SLAB_MBUFS; i++) {
            if (!(m[i].m_flags & M_FREED))
                fn(arg, "mbuf", m[i].m_hdr.mh_alloc_site);
        }
    }
    pthread_mutex_unlock(&z->grow_lock);
}

size_t
mbuf_zone_reach(struct mbuf_zone *z)
{
    return depot_reach(&z->depot, &lookaside) + z->limit - depot_total(&z->depot);
}

static struct mbuf *
take_slow(struct mbuf_zone *z)
{
    struct mbuf *m;

    pthread_mutex_lock(&z->grow_lock);
    do {
        m = depot_get(&z->depot, &lookaside);
    } while (m == NULL && grow(z));
    pthread_mutex_unlock(&z->grow_lock);
    if (m == NULL)
        atomic_fetch_add_explicit(&z->refused, 1, memory_order_relaxed);
    return m;
}

static inline struct mbuf *
take(struct mbuf_zone *z, void *site)
{
    if (__builtin_expect(z->arena->inherited, 0))
        return NULL;
    struct mbuf *m = depot_get(&z->depot, &lookaside);

    if (__builtin_expect(m == NULL, 0)) {
        m = take_slow(z);
        if (m == NULL)
            return NULL;
    }
    m->m_next = NULL;
    m->m_nextpkt = NULL;
    m->m_len = 0;
    m->m_type = MT_DATA;
    m->m_hdr.mh_alloc_site = (uintptr_t)site;
    return m;
}

/*
 * mark_free() - mark an mbuf as free, so that a double free is detected, and record the call site
 *
 * The packet link, unused in a free mbuf, holds the call site. The data pointer is cleared.
 */
static inline void
mark_free(struct mbuf *m, uint32_t flags, void *site)
{
    m->m_flags = flags | M_FREED;
    m->m_nextpkt = site;
    m->m_data = NULL;
}

static inline void
put(struct mbuf *m, void *site)
{
    mark_free(m, 0, site);
    depot_put(&m->m_zone->depot, &lookaside, m);
}

static inline struct mbuf *
get(struct mbuf_zone *z, void *site)
{
    struct mbuf *m = take(z, site);

    if (m) {
        m->m_flags = 0;
        m->m_data = m->m_dat;
    }
    return m;
}

static inline struct mbuf *
gethdr(struct mbuf_zone *z, void *site)
{
    struct mbuf *m = take(z, site);

    if (m) {
        m->m_flags = M_PKTHDR;
        m->m_data = m->m_pktdat;
        memset(&m->m_pkthdr, 0, sizeof(m->m_pkthdr));
    }
    return m;
}

struct mbuf *
mb_get(struct mbuf_zone *z)
{
    return get(z, RETURN_SITE());
}

struct mbuf *
mb_gethdr(struct mbuf_zone *z)
{
    return gethdr(z, RETURN_SITE());
}

struct mbuf *
mb_get_at(struct mbuf_zone *z, short type, bool pkthdr, void *site)
{
    struct mbuf *m = pkthdr ? gethdr(z, site) : get(z, site);

    if (m)
        m->m_type = (uint8_t)type;
    return m;
}

/* get_like() - an mbuf from @m's zone, with a packet header if requested */
static struct mbuf *
get_like(const struct mbuf *m, bool pkthdr, void *site)
{
    return pkthdr ? gethdr(m->m_zone, site) : get(m->m_zone, site);
}

/* refuse() - report what is wrong with a call, and where the mbuf was allocated and freed */
static COLD void
refuse(const struct mbuf *m, enum misuse_kind kind, void *site)
{
    uintptr_t freed = m->m_flags & M_FREED ? (uintptr_t)m->m_nextpkt : 0;

    arena_report_sites(m->m_zone->arena, kind, m, m->m_hdr.mh_alloc_site, freed, site);
}

/* is_mbuf() - could it be one? Only the arenas' own memory holds mbufs. */
static inline bool
is_mbuf(const struct mbuf *m)
{
    const struct arena *a = arena_at(m);

    return a && arena_region_at(a, m) == REGION_KMEM && (uintptr_t)m % MSIZE == 0;
}

/* count_copy() - count the bytes copied from one mbuf's storage to another's */
static void
count_copy(const struct mbuf *m, size_t bytes)
{
    arena_count_copy(m->m_zone->arena, bytes);
}

/* ---- external storage ---- */

int
m_extadd(struct mbuf *m, caddr_t buf, unsigned int size, ext_free_t *freef, void *args, int flags,
         int type)
{
    if (m->m_flags & M_FREED)
        refuse(m, MISUSE_BAD_STATE, RETURN_SITE());
    if ((m->m_flags & (M_EXT | M_FREED)) || buf == NULL || freef == NULL)
        return -EINVAL;
    m->m_ext = (struct mbuf_ext){
        .ext_buf = buf,
        .ext_size = size,
        .ext_type = (uint8_t)type,
        .ext_owner = m,
        .ext_count = 1,
        .ext_free = freef,
        .ext_args = args,
    };
    m->m_data = buf;
    m->m_flags |= M_EXT | ((uint32_t)flags & M_RDONLY);
    return 0;
}

static uint32_t
ext_refs(const struct mbuf *m)
{
    return __atomic_load_n(&m->m_ext.ext_owner->m_ext.ext_count, __ATOMIC_ACQUIRE);
}

/* ext_share() - let @n share @m's storage and inherit M_RDONLY */
static void
ext_share(struct mbuf *n, struct mbuf *m)
{
    struct mbuf *owner = m->m_ext.ext_owner;

    /* We hold a reference, so the count is not zero, and taking another needs no ordering. */
    __atomic_fetch_add(&owner->m_ext.ext_count, 1, __ATOMIC_RELAXED);
    n->m_ext.ext_buf = m->m_ext.ext_buf;
    n->m_ext.ext_size = m->m_ext.ext_size;
    n->m_ext.ext_type = m->m_ext.ext_type;
    n->m_ext.ext_owner = owner;
    n->m_flags |= M_EXT | (m->m_flags & M_RDONLY);
}

/*
 * free_ext() - free an mbuf with external storage
 *
 * The count lives in the first owner, whose mbuf therefore stays until the last reference is
 * dropped. Whichever mbuf drops it runs the free routine and frees the owner along with itself.
 */
static void
free_ext(struct mbuf *m, void *site)
{
    struct mbuf *owner = m->m_ext.ext_owner;
    uint32_t *count = &owner->m_ext.ext_count;

    /* A sole holder needs no read-modify-write, as no one else can add a reference. */
    if (__atomic_load_n(count, __ATOMIC_ACQUIRE) != 1) {
        if (owner == m)
            mark_free(m, m->m_flags, site);
        if (__atomic_fetch_sub(count, 1, __ATOMIC_ACQ_REL) != 1) {
            if (owner != m)
                put(m, site);
            return;
        }
    }
    caddr_t buf = owner->m_ext.ext_buf;
    void *args = owner->m_ext.ext_args;
    ext_free_t *freef = owner->m_ext.ext_free;

    if (owner != m)
        put(owner, site);
    put(m, site);

    void *outer = jumbo_free_site;

    jumbo_free_site = site;
    freef(buf, args);
    jumbo_free_site = outer;
}

/* free_one() - m_free() for a caller at @site */
static inline struct mbuf *
free_one(struct mbuf *m, void *site)
{
    if (__builtin_expect(!is_mbuf(m), 0)) {
        arena_report_stray(m, site);
        return NULL;
    }
    if (__builtin_expect(m->m_flags & M_FREED, 0)) {
        refuse(m, MISUSE_DOUBLE_FREE, site);
        return NULL;
    }
    struct mbuf *next = m->m_next;

    if (m->m_flags & M_EXT)
        free_ext(m, site);
    else
        put(m, site);
    return next;
}

struct mbuf *
m_free(struct mbuf *m)
{
    return m ? free_one(m, RETURN_SITE()) : NULL;
}

void
m_freem(struct mbuf *m)
{
    while (m)
        m = free_one(m, RETURN_SITE());
}

int
m_writable(const struct mbuf *m)
{
    return !(m->m_flags & M_RDONLY) && (!(m->m_flags & M_EXT) || ext_refs(m) == 1);
}

/* storage() - where an mbuf's data may lie */
static char *
storage(const struct mbuf *m, size_t *size)
{
    if (m->m_flags & M_EXT) {
        *size = m->m_ext.ext_size;
        return m->m_ext.ext_buf;
    }
    if (m->m_flags & M_PKTHDR) {
        *size = (size_t)MHLEN;
        return (char *)(uintptr_t)m->m_pktdat;
    }
    *size = (size_t)MLEN;
    return (char *)(uintptr_t)m->m_dat;
}

int
m_leadingspace(const struct mbuf *m)
{
    size_t size;

    return m_writable(m) ? (int)(m->m_data - storage(m, &size)) : 0;
}

int
m_trailingspace(const struct mbuf *m)
{
    size_t size;
    char *start = storage(m, &size);

    return m_writable(m) ? (int)((ptrdiff_t)size - (m->m_data - start) - m->m_len) : 0;
}

void
m_align(struct mbuf *m, int len)
{
    size_t size;
    char *start = storage(m, &size);

    m->m_data = start + (((ptrdiff_t)size - len) & ~(ptrdiff_t)(sizeof(long) - 1));
}

/* ---- chains ---- */

unsigned int
m_length(struct mbuf *m, struct mbuf **last)
{
    unsigned int len = 0;
    struct mbuf *end = NULL;

    for (; m; m = m->m_next) {
        len += (unsigned int)m->m_len;
        end = m;
    }
    if (last)
        *last = end;
    return len;
}

void
m_cat(struct mbuf *m, struct mbuf *n)
{
    while (m->m_next)
        m = m->m_next;
    m->m_next = n;
}

/* move_pkthdr() - move the packet header from @m to @n, which has no data yet */
static void
move_pkthdr(struct mbuf *n, struct mbuf *m)
{
    n->m_pkthdr = m->m_pkthdr;
    n->m_flags |= M_PKTHDR | (m->m_flags & (M_BCAST | M_MCAST | M_EOR));
    n->m_data = n->m_pktdat;
    /* Internal data of @m stay in place: without the header there is only more room. */
    m->m_flags &= ~(uint32_t)M_PKTHDR;
}

struct mbuf *
m_copym(struct mbuf *m, int off, int len, int how)
{
    bool pkthdr = off == 0 && (m->m_flags & M_PKTHDR);
    struct mbuf *top = NULL;
    struct mbuf **tail = &top;
    struct mbuf *first = m;
    int copied = 0;

    (void)how;
    if (off < 0 || len < 0)
        return NULL;
    while (m && off >= m->m_len && (off > 0 || m->m_len == 0) && m->m_next) {
        off -= m->m_len;
        m = m->m_next;
    }
    do {
        if (m == NULL || off > m->m_len) {
            if (len == M_COPYALL || len == 0)
                break;
            goto fail; /* the range exceeds the chain */
        }
        int n = m->m_len - off < len ? m->m_len - off : len;
        struct mbuf *c = get_like(m, pkthdr && top == NULL, RETURN_SITE());

        if (c == NULL)
            goto fail;
        *tail = c;
        tail = &c->m_next;
        if (m->m_flags & M_EXT) {
            ext_share(c, m);
            c->m_data = m->m_data + off;
        } else if (n > m_trailingspace(c)) {
            /* Internal data of an mbuf without a header may not fit after a header: use two mbufs. */
            n = m_trailingspace(c);
            memcpy(c->m_data, m->m_data + off, (size_t)n);
            count_copy(m, (size_t)n);
        } else {
            memcpy(c->m_data, m->m_data + off, (size_t)n);
            count_copy(m, (size_t)n);
        }
        c->m_len = n;
        copied += n;
        if (len != M_COPYALL)
            len -= n;
        off += n;
        if (off >= m->m_len) {
            off = 0;
            m = m->m_next;
        }
    } while (len > 0 && (m || len != M_COPYALL));

    if (pkthdr && top) {
        top->m_pkthdr = first->m_pkthdr;
        top->m_pkthdr.len = copied;
        top->m_flags |= first->m_flags & (M_BCAST | M_MCAST | M_EOR);
    }
    return top;

fail:
    m_freem(top);
    return NULL;
}

struct mbuf *
m_copypacket(struct mbuf *m, int how)
{
    return m->m_flags & M_PKTHDR ? m_copym(m, 0, M_COPYALL, how) : NULL;
}

struct mbuf *
m_split(struct mbuf *m0, int len0, int how)
{
    struct mbuf *m = m0;
    int len = len0;

    (void)how;
    if (len0 < 0)
        return NULL;
    while (m && len > m->m_len) {
        len -= m->m_len;
        m = m->m_next;
    }
    if (m == NULL)
        return NULL;
    bool pkthdr = (m0->m_flags & M_PKTHDR) != 0;
    int remain = m->m_len - len;
    struct mbuf *n = NULL;

    if (pkthdr || remain) {
        n = get_like(m0, pkthdr, RETURN_SITE());
        if (n == NULL)
            return NULL;
    }
    if (remain && (m->m_flags & M_EXT)) {
        ext_share(n, m);
        n->m_data = m->m_data + len;
        n->m_len = remain;
    } else if (remain) {
        struct mbuf *more = NULL;
        int part = remain < m_trailingspace(n) ? remain : m_trailingspace(n);

        if (part < remain) {
            more = get(m0->m_zone, RETURN_SITE());
            if (more == NULL) {
                free_one(n, RETURN_SITE());
                return NULL;
            }
            memcpy(more->m_data, m->m_data + len + part, (size_t)(remain - part));
            more->m_len = remain - part;
            n->m_next = more;
        }
        memcpy(n->m_data, m->m_data + len, (size_t)part);
        n->m_len = part;
        count_copy(m, (size_t)remain);
    }
    if (n) {
        struct mbuf *end = n;

        while (end->m_next)
            end = end->m_next;
        end->m_next = m->m_next;
    } else {
        n = m->m_next;
        if (n == NULL) /* the cut is at the end: return an empty tail, as for a packet */
            n = get(m0->m_zone, RETURN_SITE());
        if (n == NULL)
            return NULL;
    }
    m->m_next = NULL;
    m->m_len = len;
    if (pkthdr) {
        n->m_pkthdr = m0->m_pkthdr;
        n->m_pkthdr.len = m0->m_pkthdr.len - len0;
        m0->m_pkthdr.len = len0;
    }
    return n;
}

struct mbuf *
m_pullup(struct mbuf *m, int len)
{
    if (len < 0 || len > MHLEN || m_length(m, NULL) < (unsigned)len)
        goto fail;
    if (m->m_len >= len)
        return m;
    struct mbuf *n = m;

    /* Use the first mbuf if its data are internal and there is room after them; otherwise prepend one. */
    if ((m->m_flags & M_EXT) || m_trailingspace(m) < len - m->m_len) {
        n = get(m->m_zone, RETURN_SITE());
        if (n == NULL)
            goto fail;
        if (m->m_flags & M_PKTHDR)
            move_pkthdr(n, m);
    } else {
        m = m->m_next;
    }
    int need = len - n->m_len;

    while (need > 0 && m) {
        int part = m->m_len < need ? m->m_len : need;

        memcpy(n->m_data + n->m_len, m->m_data, (size_t)part);
        count_copy(n, (size_t)part);
        n->m_len += part;
        need -= part;
        m->m_data += part;
        m->m_len -= part;
        if (m->m_len == 0)
            m = free_one(m, RETURN_SITE());
    }
    n->m_next = m;
    return n;

fail:
    m_freem(m);
    return NULL;
}

void
m_adj(struct mbuf *m0, int req_len)
{
    struct mbuf *m = m0;
    int total = (int)m_length(m0, NULL);

    if (req_len >= 0) {
        int len = req_len < total ? req_len : total;

        total -= len;
        for (; m && len > 0; m = m->m_next) {
            int part = m->m_len < len ? m->m_len : len;

            m->m_data += part;
            m->m_len -= part;
            len -= part;
        }
    } else {
        /* -INT_MIN does not fit an int. */
        int keep = -(int64_t)req_len < total ? total + req_len : 0;

        total = keep;
        for (; m; m = m->m_next) {
            if (m->m_len > keep)
                m->m_len = keep;
            keep -= m->m_len;
        }
    }
    if (m0->m_flags & M_PKTHDR)
        m0->m_pkthdr.len = total;
}

int
m_copydata(const struct mbuf *m, int off, int len, caddr_t cp)
{
    if (off < 0 || len < 0)
        return -EINVAL;
    if (len == 0)
        return 0;
    while (m && off >= m->m_len) {
        off -= m->m_len;
        m = m->m_next;
    }
    unsigned have = 0;

    for (const struct mbuf *n = m; n && have < (unsigned)len + (unsigned)off; n = n->m_next)
        have += (unsigned)n->m_len;
    if (have < (unsigned)len + (unsigned)off)
        return -EINVAL;
    count_copy(m, (size_t)len);
    while (len > 0) {
        int part = m->m_len - off < len ? m->m_len - off : len;

        memcpy(cp, m->m_data + off, (size_t)part);
        cp += part;
        len -= part;
        off = 0;
        m = m->m_next;
    }
    return 0;
}

struct mbuf *
m_prepend(struct mbuf *m, int len, int how)
{
    (void)how;
    if (m_leadingspace(m) >= len) {
        m->m_data -= len;
        m->m_len += len;
    } else {
        struct mbuf *n = len <= MHLEN ? get(m->m_zone, RETURN_SITE()) : NULL;

        if (n == NULL) {
            m_freem(m);
            return NULL;
        }
        if (m->m_flags & M_PKTHDR)
            move_pkthdr(n, m);
        m_align(n, len);
        n->m_len = len;
        n->m_next = m;
        m = n;
    }
    if (m->m_flags & M_PKTHDR)
        m->m_pkthdr.len += len;
    return m;
}

struct mbuf *
mb_frombytes(struct mbuf_zone *z, struct jumbo *j, const void *bytes, size_t len)
{
    return mb_frombytes_lead(z, j, bytes, len, 0);
}

struct mbuf *
mb_frombytes_lead(struct mbuf_zone *z, struct jumbo *j, const void *bytes, size_t len, size_t lead)
{
    struct mbuf *top = mb_gethdr(z);
    struct mbuf *m = top;
    const char *p = bytes;
    size_t left = len;

    if (top == NULL || len > INT32_MAX)
        goto fail;
    top->m_pkthdr.len = (int32_t)len;
    if (len <= (size_t)MHLEN) {
        if (len + lead <= (size_t)MHLEN)
            top->m_data += lead;
        memcpy(top->m_data, bytes, len);
        top->m_len = (int32_t)len;
        left = 0;
    }
    if (round_page(len + lead) != round_page(len))
        lead = 0;
    while (left > 0) {
        struct vm_page *pg = jumbo_alloc(j, RETURN_SITE());

        if (pg == NULL)
            goto fail;
        char *kva = jumbo_kva(j, pg);
        size_t part = left < PAGE_SIZE - lead ? left : PAGE_SIZE - lead;

        vm_page_turn(pg, VPS_MBUF, VPE_MBUF);
        m_extadd(m, kva, PAGE_SIZE, jumbo_freem, NULL, 0, EXT_JUMBOP);
        m->m_data += lead;
        lead = 0;
        memcpy(m->m_data, p, part);
        m->m_len = (int32_t)part;
        p += part;
        left -= part;
        if (left) {
            m->m_next = mb_get(z);
            m = m->m_next;
            if (m == NULL)
                goto fail;
        }
    }
    count_copy(top, len);
    return top;

fail:
    m_freem(top);
    return NULL;
}

int
mb_check(const struct mbuf *m)
{
    int64_t total = 0;
    const struct mbuf *top = m;

    for (; m; m = m->m_next) {
        size_t size;
        const char *start = storage(m, &size);

        if ((m->m_flags & M_FREED) || m->m_len < 0 || m->m_data < start ||
            (size_t)(m->m_data - start) + (size_t)m->m_len > size)
            return -EINVAL;
        if ((m->m_flags & M_EXT) && ext_refs(m) == 0)
            return -EINVAL;
        total += m->m_len;
    }
    if (top && (top->m_flags & M_PKTHDR) && top->m_pkthdr.len != total)
        return -EINVAL;
    return 0;
}

int
mb_describe(const struct mbuf *m, struct mb_info *out)
{
    size_t size;
    void *start = storage(m, &size);

    if (m->m_flags & M_FREED)
        return -EINVAL;
    *out = (struct mb_info){
        .next = m->m_next,
        .data = m->m_data,
        .storage = start,
        .size = size,
        .len = m->m_len,
        .pkthdr_len = m->m_flags & M_PKTHDR ? m->m_pkthdr.len : -1,
        .flags = m->m_flags,
        .refs = m->m_flags & M_EXT ? ext_refs(m) : 0,
        .type = m->m_type,
        .ext_type = m->m_flags & M_EXT ? m->m_ext.ext_type : 0,
    };
    return 0;
}

int
mb_set_len(struct mbuf *m, int32_t len)
{
    size_t size;
    char *start = storage(m, &size);

    if (len < 0 || m->m_data < start || (size_t)(m->m_data - start) + (size_t)len > size)
        return -EINVAL;
    m->m_len = len;
    return 0;
}

void
mb_set_type(struct mbuf *m, int type)
{
    m->m_type = (uint8_t)type;
}

int
mb_set_pkthdr_len(struct mbuf *m, int32_t len)
{
    if (!(m->m_flags & M_PKTHDR) || len < 0)
        return -EINVAL;
    m->m_pkthdr.len = len;
    return 0;
}
