/* SPDX-License-Identifier: BSD-2-Clause */
#include <harness/version.h>

const char *
harness_version(void)
{
    return HARNESS_VERSION;
}
