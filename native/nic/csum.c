/* SPDX-License-Identifier: BSD-2-Clause */
#include "nic/csum.h"

#include <errno.h>
#include <string.h>

#include "arena/guard.h"

uint64_t
csum_add(uint64_t sum, const void *data, size_t len, bool odd)
{
    const unsigned char *p = data;
    uint64_t part = 0;
    uint32_t w[4];

    for (; len >= sizeof(w); len -= sizeof(w), p += sizeof(w)) {
        memcpy(w, p, sizeof(w));
        part += (uint64_t)w[0] + w[1] + w[2] + w[3];
    }
    for (; len >= 2; len -= 2, p += 2) {
        uint16_t h;

        memcpy(&h, p, sizeof(h));
        part += h;
    }
    if (len) {
        uint16_t h = 0;

        memcpy(&h, p, 1);
        part += h;
    }
    if (odd) /* RFC 1071, 2(B): a sum over swapped bytes is the sum, swapped */
        part = __builtin_bswap16(csum_fold(part));
    sum += part;
    return sum < part ? sum + 1 : sum;
}

uint16_t
csum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

struct walk {
    const struct mbuf *m;
    uint32_t off;
    uint32_t len;
    uint64_t sum;
    caddr_t to; /* copy rather than sum, when set */
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

/* run_walk() - read-only storage may be a file's page, which can vanish: only then is a guard needed */
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

/* field() - where the sum of a CSUM_PARTIAL packet lies; NULL when it is not in one mbuf */
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
    /* What is summed includes the field, which holds the pseudo-header's part. */
    int err = csum_chain(m, p->csum_start, (uint32_t)p->len - p->csum_start, &sum);

    if (err)
        return err;
    uint16_t v = (uint16_t)~csum_fold(sum);

    if (v == 0) /* RFC 768: zero means "no sum"; in one's complement 0xffff is the same number */
        v = 0xffff;
    memcpy(f, &v, sizeof(v));
    return 0;
}
