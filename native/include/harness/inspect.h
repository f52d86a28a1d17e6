/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What callers did wrong, and what the allocators hold and have done: on the process's current arena.
 *
 * A page's own record is in its descriptor (vm/vm_page.h); the functions here put it into words.
 */
#ifndef NIC_HARNESS_INSPECT_H
#define NIC_HARNESS_INSPECT_H

#include <harness/decls.h>
#include <stddef.h>
#include <stdint.h>

#include <vm/vm_page.h>

HARNESS_BEGIN_DECLS

/* ---- misuse ---- */

/* What a caller did wrong, as the arena saw it. */
enum misuse_kind {
    MISUSE_NONE = 0,
    MISUSE_DOUBLE_FREE,
    MISUSE_FOREIGN_ADDRESS,   /* not an address of this pool, or not the start of a page */
    MISUSE_FREE_WHILE_POSTED, /* the device may still write it */
    MISUSE_FREE_AFTER_STEAL,
    MISUSE_REFCOUNT,         /* a count went below zero */
    MISUSE_WRITE_AFTER_FREE, /* poison was gone at allocation */
    MISUSE_QUICK_NESTED,
    MISUSE_QUICK_FOREIGN,
    MISUSE_QUICK_BLOCKING,
    MISUSE_BAD_STATE, /* any other event that the page's state does not allow */
    MISUSE_COUNT,
};

/* One report: what, where, and the page's record at that moment. */
struct harness_misuse {
    uint32_t kind; /* enum misuse_kind */
    uint32_t state;
    uint64_t addr;
    uint64_t pindex; /* UINT64_MAX when no page belongs to the address */
    uint64_t history;
    uint64_t site; /* return address of the call that was refused */
    uint64_t alloc_site;
    uint64_t free_site;
};

#define MISUSE_RING 16 /* reports that are kept */

/*
 * harness_misuse() - the reports there are, the newest first
 * @out: room for @max
 *
 * Return: how many were filled in, at most MISUSE_RING; 0 without an arena.
 */
unsigned harness_misuse(struct harness_misuse *out, unsigned max);

/* harness_misuse_total() - reports ever; a call that raises it was refused. */
uint64_t harness_misuse_total(void);

/* harness_misuse_count() - reports of one kind ever. */
uint64_t harness_misuse_count(enum misuse_kind kind);

/*
 * harness_misuse_text() - a report in one line: kind, page, state, history, sites
 * @m: report
 * @out, @size: where the text goes, cut if it is longer
 */
void harness_misuse_text(const struct harness_misuse *m, char *out, size_t size);

/* harness_misuse_name() - "double free", "free after steal" and the like; static storage. */
const char *harness_misuse_name(enum misuse_kind kind);

/* ---- a page's record ---- */

const char *vm_page_state_name(enum vm_page_state state);
const char *vm_page_event_name(enum vm_page_event ev);

/*
 * harness_history_text() - the events of a page's history, the newest first: "free < recycle < post"
 * @history: of a struct vm_page or a report
 * @out, @size: where the text goes, cut if it is longer
 *
 * Return: events, at most 16.
 */
unsigned harness_history_text(uint64_t history, char *out, size_t size);

/*
 * harness_site_name() - "function+0x12 (file)" where the symbol is exported, else "file+0x1234", for
 * addr2line; "-" for none
 * @site: return address
 * @out, @size: where the text goes, cut if it is longer
 */
void harness_site_name(uint64_t site, char *out, size_t size);

/* ---- what is out ---- */

/* Things of one kind that were taken at one place and are not given back. */
struct harness_out {
    const char *what; /* "jumbo page", "mbuf", "pbuf" and the like; static storage */
    uint64_t count;
    uint64_t site; /* return address of the call that took them; 0: not known */
};

/*
 * harness_out() - all that is taken now, by kind and place, the most numerous first
 * @out, @max: room; places beyond it are added up in the last entry, without kind and site
 *
 * Other threads should be at rest meanwhile. It looks at every page: for the end of a program or a test.
 *
 * Return: entries filled in; 0 without an arena.
 */
unsigned harness_out(struct harness_out *out, unsigned max);

/* ---- figures ---- */

/* jumbo(9), pages; total = free + in_use. */
struct jumbo_stats {
    uint64_t total; /* pages bound to a slot */
    uint64_t free;
    uint64_t in_use; /* total - free: posted, mbuf, held or with the driver */
    uint64_t max_pages;
    uint64_t refused;
    uint64_t stolen;
    uint64_t
        away; /* pages of no pool that users have: stolen, or received into, and not given back */
    uint64_t held;
    uint64_t grown;
};

/* sf_buf(9) and sendfile(2). */
struct sf_map_stats {
    uint64_t nsfbufs;     /* buffers there are */
    uint64_t nsfbufsused; /* buffers with a reference */
    uint64_t nsfbufspeak;
    uint64_t wired;          /* file pages wired by vm_object_grab() or a run */
    uint64_t extents_mapped; /* extents bound to a slot now */
    uint64_t hits;           /* runs and buffers served by a live mapping */
    uint64_t maps;           /* mmap calls */
    uint64_t populates;      /* MADV_POPULATE_READ calls */
    /* struct sfstat of sendfile(2) */
    uint64_t sf_syscalls, sf_noiocnt, sf_iocnt, sf_pages_read, sf_pages_valid;
    uint64_t sf_rhpages_requested, sf_rhpages_read, sf_busy, sf_allocfail, sf_allocwait;
    uint64_t sf_pages_bogus;
};

/* lwbuf(9) without a direct map; with one all are 0. */
struct lwbuf_stats {
    uint64_t count;     /* handles in use */
    uint64_t kva_bytes; /* KVA in all pools */
    uint64_t reserve;   /* handles free in the pools */
};

struct mbuf_stats {
    uint64_t total;
    uint64_t free;
    uint64_t in_use;
    uint64_t limit;
    uint64_t refused;
};

/* pbuf(9); total = free + outstanding. */
struct pbuf_stats {
    uint64_t total; /* nswbuf */
    uint64_t free;
    uint64_t outstanding;
    uint64_t backed;        /* windows with memory behind them */
    uint64_t counter_waits; /* sleeps because the caller's counter was 0 */
    uint64_t pool_waits;    /* sleeps because the pool was empty */
    uint64_t
        refused; /* trypbuf() calls that got nothing; strict: windows that could not be mapped */
};

struct harness_stats {
    struct jumbo_stats jumbo;
    struct sf_map_stats sf_buf;
    struct lwbuf_stats lwbuf;
    struct mbuf_stats mbuf;
    struct pbuf_stats pbuf;
    uint64_t bytes_copied;   /* payload bytes that user space copied */
    uint64_t misuses;        /* as harness_misuse_total() */
    uint64_t unmaps_refused; /* by the kernel: vm.max_map_count */
    uint64_t stale_bytes;    /* address space that should fault for that reason, and does not yet */
};

/* harness_stats() - all of them, one after the other; 0, or -1 with errno ENXIO without an arena. */
int harness_stats(struct harness_stats *out);

HARNESS_END_DECLS

#endif
