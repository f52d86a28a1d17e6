/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two NICs on one wire, in one process and in simulated time: what TCP is tested on without a kernel.
 *
 * The wire loses, duplicates, delays, cuts and damages frames as configured, all by one seed. It
 * can cut super-frames into segments and finish their sums, as a card would, so that each can meet
 * a fate of its own.
 */
#ifndef TESTS_NATIVE_WIRE_H
#define TESTS_NATIVE_WIRE_H

#include "device/device.h"

struct wire_faults { /* parts in 10,000 */
    unsigned lose, twice, reorder, cut, damage;
};

struct wire;

struct wire_config {
    uint64_t seed;
    uint64_t delay;                         /* ns */
    uint32_t offloads;                      /* of both NICs */
    bool segment;                           /* super-frames are cut into segments, sums finished */
    bool no_sack, no_timestamps, no_wscale; /* these options are blotted out of SYNs */
    unsigned queue; /* frames on their way in one direction, at most; more are lost. 0: 4096 */
    /* Sees, and may change, each frame that is put on the wire; false: it is lost. */
    bool (*look)(void *arg, unsigned from, uint8_t *frame, size_t len, struct net_hdr *h);
    void *arg;
};

struct wire_counts {
    uint64_t carried, lost, doubled, reordered, cut, damaged, no_buffer;
};

/* wire_create() - a wire and the devices at its two ends, each to be attached once. */
struct wire *wire_create(const struct wire_config *config, struct device *end[2]);
/* wire_destroy() - after both NICs are detached. */
void wire_destroy(struct wire *w);
void wire_set_faults(struct wire *w, unsigned from, struct wire_faults f);
/* wire_inject() - put a frame on the wire, towards the end that is not @from. */
void wire_inject(struct wire *w, unsigned from, const void *frame, size_t len,
                 const struct net_hdr *h);
/* wire_clock() - simulated time; as inet_config.clock. */
uint64_t wire_clock(void *w);
/* wire_advance() - let time pass until @when. */
void wire_advance(struct wire *w, uint64_t when);
/* wire_next() - when the next frame arrives somewhere; UINT64_MAX: none is on its way. */
uint64_t wire_next(const struct wire *w);
const struct wire_counts *wire_counts(const struct wire *w);
uint64_t wire_random(uint64_t *state);
/* wire_tcp_sum() - finish the sums of a TCP frame that has been changed. */
void wire_tcp_sum(uint8_t *frame, size_t len);

#endif
