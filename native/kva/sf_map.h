/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The sf_buf mapper: pages of open files, mapped in extents of 2 MiB.
 *
 * An extent is (file, 2 MiB-aligned offset) bound to one slot of the sf_buf window. Its 512 page
 * descriptors are also its sf_bufs. An extent without referenced or wired pages stays mapped, on a
 * list with the least recently freed first, until its slot is needed: mapping the same page again
 * soon costs no system call.
 */
#ifndef NIC_HARNESS_KVA_SF_MAP_H
#define NIC_HARNESS_KVA_SF_MAP_H

#include <sys/sf_buf.h>
#include <sys/types.h>

#include "arena/arena.h"

#define SF_EXTENT_SHIFT 21
#define SF_EXTENT_SIZE ((size_t)1 << SF_EXTENT_SHIFT)
#define SF_EXTENT_PAGES ((uint32_t)(SF_EXTENT_SIZE >> PAGE_SHIFT))

struct sf_map;

/*
 * sf_map_create() - create the mapper of an arena's sf_buf window
 * @a: arena
 * @nsfbufs: buffers; the window needs SF_EXTENT_SIZE for each extent
 *
 * Return: 0, -EBUSY, -EINVAL, -ENOMEM.
 */
int sf_map_create(struct arena *a, uint32_t nsfbufs, struct sf_map **out);
/* sf_map_destroy() - 0, or -EBUSY while a buffer is referenced or an object is open. */
int sf_map_destroy(struct sf_map *s);
/* sf_map_sizes() - fill in the arena_config fields that @nsfbufs buffers need. */
void sf_map_sizes(uint32_t nsfbufs, struct arena_config *config);

/*
 * vm_object_open() - open a file's pages for mapping
 * @s: mapper
 * @fd: regular file, memfd or shared memory, readable; it is duplicated, and the caller keeps its
 * descriptor
 * @out: object, with one reference
 *
 * Return: 0; -EINVAL for any other kind of file; -EBADF; -EACCES if it is not readable; -ENOMEM.
 */
int vm_object_open(struct sf_map *s, int fd, struct vm_object **out);
/* vm_object_close() - drop the reference; the file is closed once its last mapping is gone. */
void vm_object_close(struct vm_object *o);
/* vm_object_fd() - the object's own descriptor, for fstat(2) and pread(2). */
int vm_object_fd(const struct vm_object *o);
/* vm_object_size() - current size of the file (fstat), bytes; or -errno. */
int64_t vm_object_size(const struct vm_object *o);
/* vm_object_grab() - a page's descriptor, wired until vm_page_unwire(); NULL if all are in use. */
struct vm_page *vm_object_grab(struct vm_object *o, vm_pindex_t pindex, void *site);

/*
 * vm_object_grab_pages() - like vm_object_grab(), for consecutive pages under one lock
 * @out: descriptor of the first page; the others follow it
 *
 * Return: number of pages wired, which is less than wanted at the end of an extent; 0 if all
 * descriptors are in use.
 */
uint32_t vm_object_grab_pages(struct vm_object *o, vm_pindex_t first, uint32_t npages,
                              struct vm_page **out, void *site);
/* vm_page_unwire_pages() - unwire consecutive file pages of one grab */
void vm_page_unwire_pages(struct vm_page *m, uint32_t npages, void *site);
/*
 * sf_page_map(), sf_page_unmap(), sf_page_unwire() - sf_buf_alloc(), sf_buf_free(),
 * vm_page_unwire() with a call site
 */
struct sf_buf *sf_page_map(struct vm_page *m, int flags, void *site);
void sf_page_unmap(struct sf_buf *sf, void *site);
void sf_page_unwire(struct vm_page *m, void *site);

/* vm_page_map_at() - add a mapping at @kva of an arena page or a wired file page; 0 or -errno. */
int vm_page_map_at(struct arena *a, void *kva, const struct vm_page *m);

/* A run of consecutive pages of one file, mapped and wired. */
struct sf_run {
    caddr_t kva; /* of the first page */
    uint32_t npages;
};

/*
 * sf_run_alloc() - map consecutive pages
 * @o: file
 * @first: page number
 * @npages: number of pages wanted, at least 1
 * @flags: SFB_*
 * @run: the mapped run: at least one page, possibly fewer than wanted, as it ends with its extent
 *
 * The pages are populated, so the kernel can read them without a fault unless the file shrinks.
 *
 * Return: 0; -ENOBUFS (SFB_NOWAIT) if no slot is free; -EINTR (SFB_CATCH); -EFAULT if the pages lie
 * beyond the end of the file; -EIO if reading them failed; -ENOMEM (including vm.max_map_count).
 */
int sf_run_alloc(struct vm_object *o, vm_pindex_t first, uint32_t npages, int flags,
                 struct sf_run *run);
/* sf_run_free() - release the run that starts at @kva. */
void sf_run_free(struct sf_map *s, caddr_t kva, uint32_t npages);
/* sf_run_ext_free() - external free routine; @args is the number of pages in the run. */
void sf_run_ext_free(caddr_t kva, void *args);

void sf_map_get_stats(struct sf_map *s, struct sf_map_stats *out);
/* sf_map_each_out() - list the referenced buffers and the wired file pages */
void sf_map_each_out(struct sf_map *s, out_fn *fn, void *arg);
/* The fields of struct sfstat that sendfile(2) itself counts. */
enum sf_counter {
    SF_SYSCALLS,  /* calls */
    SF_BUSY,      /* SF_NODISKIO was set and the page was not in memory */
    SF_TRIMMED,   /* chunks that got fewer pages than they requested */
    SF_ALLOCFAIL, /* chunks that got no buffer */
    SF_RHPAGES_REQUESTED,
};
void sf_map_count(struct sf_map *s, enum sf_counter counter, uint64_t n);

/* What the mapper knows of a file page. */
struct sf_page_info {
    struct vm_page page; /* a copy */
    uint64_t dev, ino;   /* the file's st_dev and st_ino; 0 if the descriptor has no file now */
    int fd;              /* the object's own descriptor, or -1 */
    vm_offset_t kva;     /* where it is mapped now, or 0 */
};

/* sf_map_page() - look up a page by its descriptor; false if it is not a file page. */
bool sf_map_page(struct sf_map *s, const struct vm_page *m, struct sf_page_info *out);
/*
 * sf_map_find() - look up a page by its file
 * @dev, @ino: st_dev and st_ino of the file
 * @pindex: page number in it
 * @out, @max: room; there is one entry for each of the file's objects that has the page
 *
 * Return: number of entries filled in.
 */
unsigned sf_map_find(struct sf_map *s, uint64_t dev, uint64_t ino, vm_pindex_t pindex,
                     struct sf_page_info *out, unsigned max);

/* An extent that is bound to a file. */
struct sf_extent_info {
    uint64_t dev, ino;
    vm_pindex_t first; /* page of the file */
    int fd;
    uint32_t mapped; /* how many of its pages, from the first on */
    uint32_t users;  /* references and wirings of its pages */
};

/* sf_map_extents() - list at most @max bound extents; returns their number. @out NULL: only count. */
unsigned sf_map_extents(struct sf_map *s, struct sf_extent_info *out, unsigned max);

/* sf_map_drop_cached() - unmap every unreferenced extent. */
void sf_map_drop_cached(struct sf_map *s);

#endif
