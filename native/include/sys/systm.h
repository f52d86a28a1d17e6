/* SPDX-License-Identifier: BSD-2-Clause */
/* What driver code expects everywhere: assertions, and the memory calls of libkern. */
#ifndef NIC_HARNESS_SYS_SYSTM_H
#define NIC_HARNESS_SYS_SYSTM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/types.h>

/*
 * panic(9), KASSERT(9) - for a program's own code, which may print and exit; the library does
 * neither. @msg is a parenthesised printf() argument list, as in the kernel.
 */
#ifndef panic
#define panic(...) (fprintf(stderr, "panic: " __VA_ARGS__), fputc('\n', stderr), abort())
#endif
#ifndef KASSERT
#ifdef NDEBUG
#define KASSERT(exp, msg) ((void)sizeof(!(exp)))
#else
#define KASSERT(exp, msg) ((exp) ? (void)0 : panic msg)
#endif
#endif
#ifndef MPASS
#define MPASS(exp) KASSERT((exp), ("%s:%d: %s", __FILE__, __LINE__, #exp))
#endif
#ifndef CTASSERT
#ifdef __cplusplus
#define CTASSERT(x) static_assert(x, #x)
#else
#define CTASSERT(x) _Static_assert(x, #x)
#endif
#endif

#endif
