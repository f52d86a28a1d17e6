/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile capture against its reader: each frame lies in what was fed, the buffer stays bounded, and the pieces that
 * the bytes come in make no difference.
 */
#include "pcap/pcap_reader.h"

#include <errno.h>

#include "fuzz.h"

#define BATCH 3u

/* What a run came to: a sum over its frames, and how it ended. */
struct outcome {
    uint64_t frames, sum;
    int code;
    struct pcap_progress progress;
    char problem[128];
};

static uint64_t
mix(uint64_t sum, uint64_t v)
{
    return (sum ^ v) * 0x100000001B3u;
}

/* check_frame() - @end: of what was fed */
static void
check_frame(const struct pcap_frame *f, const uint8_t *end, struct outcome *out)
{
    MUST(f->data <= end && f->caplen <= (size_t)(end - f->data));
    MUST(f->caplen <= PCAP_MOST_FRAME && f->caplen <= f->len);
    MUST(f->nsec < 1000000000u);
    MUST(f->direction <= PCAP_OUT);
    out->frames++;
    out->sum = mix(mix(mix(out->sum, (uint64_t)f->sec), f->nsec), f->len);
    out->sum = mix(out->sum, f->timed);
    for (uint32_t i = 0; i < f->caplen; i++)
        out->sum = mix(out->sum, f->data[i]);
}

/* run() - read it all, in pieces of @piece bytes */
static void
run(const uint8_t *data, size_t size, size_t piece, struct outcome *out)
{
    struct pcap_frame frames[BATCH];
    struct pcap_reader *r;
    const uint8_t *end = NULL;
    size_t fed = 0, some;

    memset(out, 0, sizeof(*out));
    MUST(pcap_reader_create(&r) == 0);
    do {
        size_t room;
        void *where;

        while ((out->code = pcap_reader_next(r, frames, BATCH)) > 0)
            for (int i = 0; i < out->code; i++)
                check_frame(&frames[i], end, out);
        if (out->code < 0)
            break;
        where = pcap_reader_room(r, &room);
        MUST(where && room > 0);
        some = size - fed < piece ? size - fed : piece;
        some = some < room ? some : room;
        memcpy(where, data + fed, some);
        end = (uint8_t *)where + some;
        pcap_reader_fed(r, some);
        fed += some;
    } while (some > 0);
    if (out->code == 0) /* the end is only known now */
        while ((out->code = pcap_reader_next(r, frames, BATCH)) > 0)
            for (int i = 0; i < out->code; i++)
                check_frame(&frames[i], end, out);
    pcap_reader_progress(r, &out->progress);
    snprintf(out->problem, sizeof(out->problem), "%s", pcap_reader_problem(r));
    MUST((out->code < 0) == (out->problem[0] != '\0'));
    MUST(out->progress.frames == out->frames + out->progress.other_frames);
    MUST(out->progress.offset <= size);
    pcap_reader_destroy(r);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole, pieces;

    run(data, size, size ? size : 1, &whole);
    run(data, size, size ? 1 + data[size - 1] % 29u : 1, &pieces);
    MUST(whole.frames == pieces.frames && whole.sum == pieces.sum && whole.code == pieces.code);
    MUST(whole.progress.offset == pieces.progress.offset);
    MUST(strcmp(whole.problem, pieces.problem) == 0);
    return 0;
}
