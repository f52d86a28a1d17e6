/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of devices, which the Python package, the commands and the tests read. */
#include "device/device.h"

const struct device_kind device_kinds[] = {
    {
        .name = "tap_rw",
        .does = "makes a system call for each frame",
        .create = tap_rw_create,
        .automatic = 1,
        .everywhere = true,
    },
    {
        .name = "tap_uring",
        .does = "sends frames in batches",
        .create = tap_uring_create,
        .automatic = 2,
    },
    {
        /* It uses a kernel thread on another CPU, so it must be requested by name. */
        .name = "vhost_net",
        .does = "is the kernel's own virtio NIC; chosen by name only",
        .create = vhost_net_create,
    },
};
const unsigned device_nkinds = sizeof(device_kinds) / sizeof(device_kinds[0]);
