/* SPDX-License-Identifier: BSD-2-Clause */
#include <harness/inspect.h>

#include <dlfcn.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- names ---- */

const char *
harness_misuse_name(enum misuse_kind kind)
{
    static const char *const name[MISUSE_COUNT] = {
        [MISUSE_NONE] = "none",
        [MISUSE_DOUBLE_FREE] = "double free",
        [MISUSE_FOREIGN_ADDRESS] = "address of no page of this pool",
        [MISUSE_FREE_WHILE_POSTED] = "free while posted to the device",
        [MISUSE_FREE_AFTER_STEAL] = "free after steal",
        [MISUSE_REFCOUNT] = "count below zero",
        [MISUSE_WRITE_AFTER_FREE] = "write after free",
        [MISUSE_QUICK_NESTED] = "nested quick mapping",
        [MISUSE_QUICK_FOREIGN] = "removal of a foreign quick mapping",
        [MISUSE_QUICK_BLOCKING] = "blocking call while a quick mapping is held",
        [MISUSE_BAD_STATE] = "event that the page's state does not allow",
    };

    return (unsigned)kind < MISUSE_COUNT ? name[kind] : "unknown";
}

const char *
vm_page_state_name(enum vm_page_state state)
{
    static const char *const name[] = {"none", "free",   "alloc", "posted", "mbuf",
                                       "held", "stolen", "kmem",  "file"};

    return (unsigned)state < sizeof(name) / sizeof(name[0]) ? name[state] : "unknown";
}

const char *
vm_page_event_name(enum vm_page_event ev)
{
    static const char *const name[16] = {"none",    "alloc", "free",  "post",  "receive", "mbuf",
                                         "recycle", "ref",   "unref", "hold",  "unhold",  "steal",
                                         "flip",    "map",   "unmap", "misuse"};

    return (unsigned)ev < 16 ? name[ev] : "unknown";
}

void
harness_site_name(uint64_t site, char *out, size_t size)
{
    const ElfW(Sym) *symbol = NULL;
    Dl_info info;

    if (site == 0) {
        snprintf(out, size, "-");
        return;
    }
    if (!dladdr1((void *)(uintptr_t)site, &info, (void **)&symbol, RTLD_DL_SYMENT) ||
        info.dli_fname == NULL) {
        snprintf(out, size, "%#llx", (unsigned long long)site);
        return;
    }
    const char *slash = strrchr(info.dli_fname, '/');
    const char *file = slash ? slash + 1 : info.dli_fname;
    uint64_t offset = site - (uint64_t)(uintptr_t)info.dli_saddr;

    /* The nearest preceding symbol may be far away, as many functions are not exported. */
    if (info.dli_sname && symbol && offset <= symbol->st_size)
        snprintf(out, size, "%s+%#llx (%s)", info.dli_sname, (unsigned long long)offset, file);
    else
        snprintf(out, size, "%s+%#llx", file,
                 (unsigned long long)(site - (uint64_t)(uintptr_t)info.dli_fbase));
}

/* ---- text ---- */

struct text {
    char *out;
    size_t size, used;
};

/* add() - append as much as fits */
static void
add(struct text *t, const char *format, ...)
{
    va_list args;

    if (t->used >= t->size)
        return;
    va_start(args, format);
    int n = vsnprintf(t->out + t->used, t->size - t->used, format, args);

    va_end(args);
    t->used += n > 0 ? (size_t)n : 0;
}

static void
add_site(struct text *t, const char *what, uint64_t site)
{
    char name[256];

    harness_site_name(site, name, sizeof(name));
    add(t, ", %s at %s", what, name);
}

unsigned
harness_history_text(uint64_t history, char *out, size_t size)
{
    struct text t = {out, size, 0};
    unsigned n = 0;

    if (size > 0)
        out[0] = '\0';
    for (; history; history >>= 4, n++)
        add(&t, "%s%s", n ? " < " : "", vm_page_event_name((enum vm_page_event)(history & 15)));
    return n;
}

void
harness_misuse_text(const struct harness_misuse *m, char *out, size_t size)
{
    struct text t = {out, size, 0};
    char history[256];

    add(&t, "%s: ", harness_misuse_name((enum misuse_kind)m->kind));
    if (m->pindex == UINT64_MAX) {
        add(&t, "%#llx", (unsigned long long)m->addr);
    } else {
        add(&t, "page %llu, %s", (unsigned long long)m->pindex,
            vm_page_state_name((enum vm_page_state)m->state));
        add(&t, ", history %s",
            harness_history_text(m->history, history, sizeof(history)) ? history : "empty");
    }
    if (m->pindex != UINT64_MAX || m->alloc_site)
        add_site(&t, "allocated", m->alloc_site);
    if (m->pindex != UINT64_MAX || m->free_site)
        add_site(&t, "freed", m->free_site);
    add_site(&t, "misused", m->site);
}
