/* SPDX-License-Identifier: BSD-2-Clause */
#include "nic/csum.h"

#include <errno.h>
#include <string.h>

#include "base/guard.h"

struct walk {
    const struct mbuf *m;
    uint32_t off;
    uint32_t len;
    uint64_t sum;
    caddr_t to; /* if set, copy instead of summing */
};

static int
walk_chain(void *arg)
{
    struct walk *w = arg;
    const struct mbuf *m = w->m;
    uint32_t off = w->off;
    bool odd = false;

    while (m && off >= (uint32_t)m->m_len && (m->m_next || off > 0)) {
        off -= (uint32_t)m->m_len;
        m = m->m_next;
    }
    for (uint32_t left = w->len; left > 0; m = m->m_next) {
        if (m == NULL)
            return -EINVAL;
        uint32_t part = (uint32_t)m->m_len - off < left ? (uint32_t)m->m_len - off : left;

        if (w->to) {
            memcpy(w->to, m->m_data + off, part);
            w->to += part;
        } else {
            w->sum = csum_add(w->sum, m->m_data + off, part, odd);
            odd ^= part & 1;
        }
        left -= part;
        off = 0;
    }
    return 0;
}

/* run_walk() - use a guard only for read-only storage, which may be a file page and vanish */
static int
run_walk(struct walk *w)
{
    for (const struct mbuf *m = w->m; m; m = m->m_next) {
        if ((m->m_flags & M_EXT) && m->m_ext.ext_type == EXT_SFBUF)
            return guard_run(walk_chain, w);
    }
    return walk_chain(w);
}

int
csum_chain(const struct mbuf *m, uint32_t off, uint32_t len, uint64_t *sum)
{
    struct walk w = {.m = m, .off = off, .len = len, .sum = *sum};
    int err = run_walk(&w);

    *sum = w.sum;
    return err;
}

int
csum_guarded_copy(const struct mbuf *m, uint32_t off, uint32_t len, caddr_t to)
{
    struct walk w = {.m = m, .off = off, .len = len, .to = to};

    arena_count_copy(arena_at(m), len);
    return run_walk(&w);
}

/* field() - the checksum field of a CSUM_PARTIAL packet; NULL if it is not within one mbuf */
static unsigned char *
field(const struct mbuf *m, bool *writable)
{
    uint32_t off = (uint32_t)m->m_pkthdr.csum_start + m->m_pkthdr.csum_data;

    while (m && off >= (uint32_t)m->m_len) {
        off -= (uint32_t)m->m_len;
        m = m->m_next;
    }
    if (m == NULL || off + 2 > (uint32_t)m->m_len)
        return NULL;
    *writable = m_writable(m);
    return (unsigned char *)m->m_data + off;
}

bool
csum_field_writable(const struct mbuf *m)
{
    bool writable = false;

    return field(m, &writable) && writable;
}

int
csum_finish(struct mbuf *m)
{
    const struct pkthdr *p = &m->m_pkthdr;
    uint64_t sum = 0;
    bool writable;
    unsigned char *f = field(m, &writable);
    /* The sum includes the field itself, which holds the pseudo-header's part. */
    int err = csum_chain(m, p->csum_start, (uint32_t)p->len - p->csum_start, &sum);

    if (err)
        return err;
    uint16_t v = csum_final(sum);

    memcpy(f, &v, sizeof(v));
    return 0;
}
