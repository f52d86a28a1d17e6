/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * For C tests: a main() that returns, and CHECK, which unlike assert() works in every build and
 * prints both values if two integers differ.
 */
#ifndef TESTS_NATIVE_CHECK_H
#define TESTS_NATIVE_CHECK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK_FAIL(...)                                                                            \
    do {                                                                                           \
        fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, __func__);                              \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
        exit(1);                                                                                   \
    } while (0)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            CHECK_FAIL("%s", #condition);                                                          \
    } while (0)

#define CHECK_EQ(actual, expected)                                                                 \
    do {                                                                                           \
        long long actual_ = (long long)(actual), expected_ = (long long)(expected);                \
        if (actual_ != expected_)                                                                  \
            CHECK_FAIL("%s is %lld, not %s (%lld)", #actual, actual_, #expected, expected_);       \
    } while (0)

/* Skip what this machine cannot do: meson takes exit status 77 as a skip, and tools/test says why. */
#define SKIP(...)                                                                                  \
    do {                                                                                           \
        fprintf(stderr, "skipped: %s: ", program_invocation_short_name);                           \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
        exit(77);                                                                                  \
    } while (0)

#endif
