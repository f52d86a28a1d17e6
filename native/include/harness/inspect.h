/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reports of misuse, and the allocators' figures, for the process's current arena.
 *
 * Each page's record is in its descriptor (vm/vm_page.h); the functions here turn it into text.
 */
#ifndef NIC_HARNESS_INSPECT_H
#define NIC_HARNESS_INSPECT_H

#include <harness/decls.h>
#include <stddef.h>
#include <stdint.h>

#include <vm/vm_page.h>

HARNESS_BEGIN_DECLS

/* ---- misuse ---- */

/* Kinds of misuse. */
enum misuse_kind {
    MISUSE_NONE = 0,
    MISUSE_DOUBLE_FREE,
    MISUSE_FOREIGN_ADDRESS,   /* not in this pool, or not the start of a page */
    MISUSE_FREE_WHILE_POSTED, /* the device may still write to it */
    MISUSE_FREE_AFTER_STEAL,
    MISUSE_REFCOUNT,         /* a count would have gone below zero */
    MISUSE_WRITE_AFTER_FREE, /* strict: through another mapping, seen at the next allocation */
    MISUSE_QUICK_NESTED,
    MISUSE_QUICK_FOREIGN,
    MISUSE_QUICK_BLOCKING,
    MISUSE_BAD_STATE, /* any other event that the page's state does not allow */
    MISUSE_COUNT,
};

/* One report: what happened, where, and the page's record at that moment. */
struct harness_misuse {
    uint32_t kind; /* enum misuse_kind */
    uint32_t state;
    uint64_t addr;
    uint64_t pindex; /* UINT64_MAX when no page belongs to the address */
    uint64_t history;
    uint64_t site; /* return address of the refused call */
    uint64_t alloc_site;
    uint64_t free_site;
};

#define MISUSE_RING 16 /* how many reports are kept */

/*
 * harness_misuse() - read the reports that are kept, newest first
 * @out: room for @max
 *
 * Return: number of reports filled in, at most MISUSE_RING; 0 without an arena.
 */
unsigned harness_misuse(struct harness_misuse *out, unsigned max);

/* harness_misuse_total() - number of reports so far; a call that raises it was refused. */
uint64_t harness_misuse_total(void);

/* harness_misuse_count() - number of reports of one kind so far. */
uint64_t harness_misuse_count(enum misuse_kind kind);

/*
 * harness_misuse_text() - format a report as one line: kind, page, state, history, sites
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
 * harness_history_text() - format a page's history, newest event first: "free < recycle < post"
 * @history: from a struct vm_page or a report
 * @out, @size: where the text goes, cut if it is longer
 *
 * Return: number of events, at most 16.
 */
unsigned harness_history_text(uint64_t history, char *out, size_t size);

/*
 * harness_site_name() - format a return address: "function+0x12 (file)" if the symbol is exported,
 * otherwise "file+0x1234", for addr2line; "-" for 0
 * @site: return address
 * @out, @size: where the text goes, cut if it is longer
 */
void harness_site_name(uint64_t site, char *out, size_t size);

/* ---- what is in use ---- */

/* Objects of one kind that were allocated at one place and not yet freed. */
struct harness_out {
    const char *what; /* "jumbo page", "mbuf", "pbuf" and the like; static storage */
    uint64_t count;
    uint64_t site; /* return address of the allocating call; 0: unknown */
};

/*
 * harness_out() - list everything in use, by kind and call site, most numerous first
 * @out, @max: room for entries; call sites that do not fit are summed in the last entry, which has
 * no kind and no site
 *
 * Other threads should be idle during the call. It visits every page, so it is meant for the end of
 * a program or a test.
 *
 * Return: number of entries filled in; 0 without an arena.
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
    uint64_t away; /* pages outside the pool: stolen, or received into, and not yet freed */
    uint64_t held;
    uint64_t grown;
};

/* sf_buf(9) and sendfile(2) figures. */
struct sf_map_stats {
    uint64_t nsfbufs;     /* buffers that exist */
    uint64_t nsfbufsused; /* buffers with a reference */
    uint64_t nsfbufspeak;
    uint64_t wired;          /* file pages wired by vm_object_grab() or by a run */
    uint64_t extents_mapped; /* extents that have a slot now */
    uint64_t hits;           /* runs and buffers served by a live mapping */
    uint64_t maps;           /* mmap calls */
    uint64_t populates;      /* MADV_POPULATE_READ calls */
    /* struct sfstat of sendfile(2) */
    uint64_t sf_syscalls, sf_noiocnt, sf_iocnt, sf_pages_read, sf_pages_valid;
    uint64_t sf_rhpages_requested, sf_rhpages_read, sf_busy, sf_allocfail, sf_allocwait;
    uint64_t sf_pages_bogus;
};

/* lwbuf(9) without a direct map; all are 0 with one. */
struct lwbuf_stats {
    uint64_t count;     /* handles in use */
    uint64_t kva_bytes; /* KVA in all pools */
    uint64_t reserve;   /* free handles in the pools */
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
    uint64_t counter_waits; /* sleeps because the caller's limit was reached */
    uint64_t pool_waits;    /* sleeps because the pool was empty */
    uint64_t
        refused; /* trypbuf() calls that failed; strict mode: windows that could not be mapped */
};

struct harness_stats {
    struct jumbo_stats jumbo;
    struct sf_map_stats sf_buf;
    struct lwbuf_stats lwbuf;
    struct mbuf_stats mbuf;
    struct pbuf_stats pbuf;
    uint64_t bytes_copied;   /* payload bytes copied in user space */
    uint64_t misuses;        /* same as harness_misuse_total() */
    uint64_t unmaps_refused; /* by the kernel: vm.max_map_count */
    uint64_t stale_bytes;    /* address space left accessible by such a refusal */
};

/* harness_stats() - read all figures, one group after the other; 0, or -1 with errno ENXIO without an arena. */
int harness_stats(struct harness_stats *out);

HARNESS_END_DECLS

#endif
