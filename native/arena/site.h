/* SPDX-License-Identifier: BSD-2-Clause */
/* Names for return addresses: where a page was allocated and freed, where a call was refused. */
#ifndef NIC_HARNESS_SITE_H
#define NIC_HARNESS_SITE_H

#include <stddef.h>
#include <stdint.h>

/*
 * site_name() - "function+0x12 (file)" where the symbol is exported, else "file+0x1234", for addr2line
 * @site: return address
 * @out, @size: where the text goes, cut if it is longer
 */
void site_name(uint64_t site, char *out, size_t size);

#endif
