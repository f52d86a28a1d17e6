/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every public header wraps its declarations in these: they give C linkage in C++, and make the
 * functions visible outside the shared library (everything else is hidden).
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
