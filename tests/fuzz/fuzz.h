/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What fuzz targets share: an input is a stream of operations, read to its end.
 *
 * A target defines LLVMFuzzerTestOneInput(). libFuzzer brings a main() of its own (tools/fuzz); replay.c
 * is one that runs files, for an ordinary test.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct input {
    const uint8_t *p;
    size_t left;
};

/* take() - the next @n bytes of an input as a number; those that are not there are zero */
static inline uint64_t
take(struct input *in, size_t n)
{
    uint8_t bytes[8] = {0};
    uint64_t v;

    n = n < in->left ? n : in->left;
    memcpy(bytes, in->p, n);
    in->p += n;
    in->left -= n;
    memcpy(&v, bytes, sizeof(v));
    return v;
}

/* scribble() - bytes of the input over a part of some memory */
static inline void
scribble(struct input *in, void *mem, size_t size)
{
    size_t at = take(in, 2) % size;
    size_t n = take(in, 1) % 32;

    n = n < in->left ? n : in->left;
    n = n < size - at ? n : size - at;
    memcpy((char *)mem + at, in->p, n);
    in->p += n;
    in->left -= n;
}

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
