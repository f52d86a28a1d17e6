/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The sf_buf mapper: pages of open files, mapped in extents of 2 MiB.
 *
 * An extent is (file, 2 MiB-aligned offset) bound to one slot of the sf_buf window. Its 512 page
 * descriptors are its sf_bufs too. An extent with no page referenced or wired stays mapped on a
 * list, least recently freed first, until its slot is wanted: mapping the same page soon after
 * costs no system call.
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
 * sf_map_create() - the mapper of an arena's sf_buf window
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
 * vm_object_open() - a file whose pages can be mapped
 * @s: mapper
 * @fd: regular file, memfd or shared memory, readable; duplicated, the caller's stays his
 * @out: object, with one reference
 *
 * Return: 0; -EINVAL for anything that is not such a file; -EBADF; -EACCES when not readable; -ENOMEM.
 */
int vm_object_open(struct sf_map *s, int fd, struct vm_object **out);
/* vm_object_close() - drop the reference; the file is closed after its last mapping is gone. */
void vm_object_close(struct vm_object *o);
/* vm_object_fd() - the object's own descriptor, for fstat(2) and pread(2). */
int vm_object_fd(const struct vm_object *o);
/* vm_object_size() - size of the file now (fstat), bytes; or -errno. */
int64_t vm_object_size(const struct vm_object *o);
/* vm_object_grab() - a page's descriptor, wired, until vm_page_unwire(); NULL when out of handles. */
struct vm_page *vm_object_grab(struct vm_object *o, vm_pindex_t pindex, void *site);

/*
 * vm_object_grab_pages() - as vm_object_grab(), for consecutive pages with one lock
 * @out: descriptor of the first; those of the others follow it
 *
 * Return: pages wired: those wanted up to the end of the extent; 0 when out of handles.
 */
uint32_t vm_object_grab_pages(struct vm_object *o, vm_pindex_t first, uint32_t npages,
                              struct vm_page **out, void *site);
/* vm_page_unwire_pages() - unwire consecutive file pages of one grab */
void vm_page_unwire_pages(struct vm_page *m, uint32_t npages, void *site);
/* sf_page_map(), sf_page_unmap(), sf_page_unwire() - sf_buf_alloc(), sf_buf_free(), vm_page_unwire() with a site */
struct sf_buf *sf_page_map(struct vm_page *m, int flags, void *site);
void sf_page_unmap(struct sf_buf *sf, void *site);
void sf_page_unwire(struct vm_page *m, void *site);

/* vm_page_map_at() - one more mapping of an arena's or a wired file's page, at @kva; 0 or -errno. */
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
 * @npages: how many are wanted, at least 1
 * @flags: SFB_*
 * @run: what was mapped: at least one page, perhaps fewer than wanted; a run ends with its extent
 *
 * The pages are populated: the kernel can read them without a fault, unless the file shrinks.
 *
 * Return: 0; -ENOBUFS (SFB_NOWAIT) when no slot is free; -EINTR (SFB_CATCH); -EFAULT when the pages lie
 * behind the end of the file; -EIO when reading them failed; -ENOMEM (also: vm.max_map_count).
 */
int sf_run_alloc(struct vm_object *o, vm_pindex_t first, uint32_t npages, int flags,
                 struct sf_run *run);
/* sf_run_free() - drop the run that starts at @kva. */
void sf_run_free(struct sf_map *s, caddr_t kva, uint32_t npages);
/* sf_run_ext_free() - the external free routine; @args is the run's number of pages. */
void sf_run_ext_free(caddr_t kva, void *args);

void sf_map_get_stats(struct sf_map *s, struct sf_map_stats *out);
/* sf_map_each_out() - the buffers with a reference, and the pages of files that are wired */
void sf_map_each_out(struct sf_map *s, out_fn *fn, void *arg);
/* What sendfile(2) counts in struct sfstat on its own account. */
enum sf_counter {
    SF_SYSCALLS,  /* calls */
    SF_BUSY,      /* SF_NODISKIO and the page was not in memory */
    SF_TRIMMED,   /* chunks that got fewer pages than they asked for */
    SF_ALLOCFAIL, /* chunks that got no buffer at all */
    SF_RHPAGES_REQUESTED,
};
void sf_map_count(struct sf_map *s, enum sf_counter counter, uint64_t n);

/* A file's page, as the mapper knows it. */
struct sf_page_info {
    struct vm_page page; /* a copy */
    uint64_t dev,
        ino; /* whose page it is, st_dev and st_ino; 0 for a descriptor that is no file's now */
    int fd;  /* the object's own descriptor; -1 */
    vm_offset_t kva; /* where it is mapped now; 0 */
};

/* sf_map_page() - what is known of a page by its descriptor; false for one that is no file's. */
bool sf_map_page(struct sf_map *s, const struct vm_page *m, struct sf_page_info *out);
/*
 * sf_map_find() - what is known of a page by its file
 * @dev, @ino: st_dev and st_ino of the file
 * @pindex: page number in it
 * @out, @max: room; one entry for each object of the file that has the page
 *
 * Return: entries filled in.
 */
unsigned sf_map_find(struct sf_map *s, uint64_t dev, uint64_t ino, vm_pindex_t pindex,
                     struct sf_page_info *out, unsigned max);

/* An extent that is bound to a file. */
struct sf_extent_info {
    uint64_t dev, ino;
    vm_pindex_t first; /* page of the file */
    int fd;
    uint32_t mapped; /* pages of it, from the first on */
    uint32_t users;  /* references and wirings of its pages */
};

/* sf_map_extents() - extents bound now, at most @max; how many. @out NULL: only their number. */
unsigned sf_map_extents(struct sf_map *s, struct sf_extent_info *out, unsigned max);

/* sf_map_drop_cached() - unmap every extent that nobody references. */
void sf_map_drop_cached(struct sf_map *s);

#endif
