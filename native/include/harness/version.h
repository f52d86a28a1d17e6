/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef NIC_HARNESS_VERSION_H
#define NIC_HARNESS_VERSION_H

#include <harness/decls.h>

HARNESS_BEGIN_DECLS

/* harness_version() - the library's release, "major.minor.patch"; static storage. */
const char *harness_version(void);

HARNESS_END_DECLS

#endif
