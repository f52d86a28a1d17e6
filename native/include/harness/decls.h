/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a public header puts around its declarations: C linkage for C++, and
 * visibility outside the shared library (all else is hidden).
 */
#ifndef NIC_HARNESS_DECLS_H
#define NIC_HARNESS_DECLS_H

/* clang-format off */
#ifdef __cplusplus
#define HARNESS_BEGIN_DECLS _Pragma("GCC visibility push(default)") extern "C" {
#define HARNESS_END_DECLS   } _Pragma("GCC visibility pop")
#else
#define HARNESS_BEGIN_DECLS _Pragma("GCC visibility push(default)")
#define HARNESS_END_DECLS   _Pragma("GCC visibility pop")
#endif
/* clang-format on */

#endif
