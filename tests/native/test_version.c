/* SPDX-License-Identifier: BSD-2-Clause */
#include "check.h"

#include <harness/version.h>

int
main(void)
{
    int major, minor, patch;

    CHECK_EQ(sscanf(harness_version(), "%d.%d.%d", &major, &minor, &patch), 3);
    return 0;
}
