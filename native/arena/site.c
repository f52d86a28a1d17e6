/* SPDX-License-Identifier: BSD-2-Clause */
#include "arena/site.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

void
site_name(uint64_t site, char *out, size_t size)
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

    /* The nearest symbol before an address may be far before it: many functions are not exported. */
    if (info.dli_sname && symbol && offset <= symbol->st_size)
        snprintf(out, size, "%s+%#llx (%s)", info.dli_sname, (unsigned long long)offset, file);
    else
        snprintf(out, size, "%s+%#llx", file,
                 (unsigned long long)(site - (uint64_t)(uintptr_t)info.dli_fbase));
}
