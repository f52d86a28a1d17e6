/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The scoreboard of RFC 6675, kept as the holes between SACKed ranges.
 *
 * It also serves peers without SACK: then a hole is the segment at snd_una that three duplicate
 * acknowledgements marked as lost (RFC 6582), or everything in flight when the timer fired.
 */
#include <string.h>

#include "inet/tcp_var.h"

void
tcp_sb_reset(struct tcp_conn *c)
{
    c->sb.fack = c->sb.lost_upto = c->snd_una;
    c->sb.sacked = 0;
    c->sb.n = c->sb.nlost = 0;
}

/* sb_count() - update the sum. */
static void
sb_count(struct tcp_conn *c)
{
    struct tcp_scoreboard *sb = &c->sb;
    uint32_t sacked = sb->fack - c->snd_una;

    for (unsigned i = 0; i < sb->n; i++)
        sacked -= sb->hole[i].end - sb->hole[i].start;
    sb->sacked = sacked;
}

void
tcp_sb_ack(struct tcp_conn *c)
{
    struct tcp_scoreboard *sb = &c->sb;
    unsigned gone = 0;

    if (SEQ_LEQ(sb->lost_upto, c->snd_una))
        sb->lost_upto = c->snd_una;
    if (SEQ_LEQ(sb->fack, c->snd_una)) {
        sb->fack = c->snd_una;
        sb->sacked = 0;
        sb->n = sb->nlost = 0;
        return;
    }
    while (gone < sb->n && SEQ_LEQ(sb->hole[gone].end, c->snd_una))
        gone++;
    if (gone) {
        memmove(sb->hole, sb->hole + gone, (sb->n - gone) * sizeof(sb->hole[0]));
        sb->n -= gone;
        sb->nlost -= u32_min(sb->nlost, gone);
    }
    if (sb->n && SEQ_LT(sb->hole[0].start, c->snd_una)) {
        sb->hole[0].start = c->snd_una;
        sb->hole[0].rxmit = seq_max(sb->hole[0].rxmit, c->snd_una);
    }
    sb_count(c);
}

/* sb_cut() - [start, end), below fack, was received: remove it from the holes. */
static void
sb_cut(struct tcp_scoreboard *sb, uint32_t start, uint32_t end)
{
    for (unsigned i = 0; i < sb->n;) {
        struct tcp_hole *h = &sb->hole[i];

        if (SEQ_GEQ(h->start, end))
            break;
        if (SEQ_LEQ(h->end, start)) {
            i++;
        } else if (SEQ_GEQ(h->start, start) && SEQ_LEQ(h->end, end)) {
            memmove(h, h + 1, (sb->n - i - 1) * sizeof(*h));
            sb->n--;
            sb->nlost -= i < sb->nlost;
        } else if (SEQ_GEQ(h->start, start)) {
            h->start = end;
            h->rxmit = seq_max(h->rxmit, end);
            break;
        } else if (SEQ_LEQ(h->end, end)) {
            h->end = start;
            h->rxmit = seq_min(h->rxmit, start);
            i++;
        } else {
            if (sb->n == TCP_MAX_HOLES)
                break; /* no room to record it: at worst it is resent */
            memmove(h + 1, h, (sb->n - i) * sizeof(*h));
            sb->n++;
            sb->nlost += i < sb->nlost;
            h[0].end = start;
            h[0].rxmit = seq_min(h[0].rxmit, start);
            h[1].start = end;
            h[1].rxmit = seq_max(h[1].rxmit, end);
            break;
        }
    }
}

/*
 * sb_judge() - decide which holes are lost, RFC 6675 section 4, IsLost()
 *
 * A hole is lost if three ranges, or more than two segments' worth of bytes, were SACKed above it.
 * Resent data that are still missing after three segments sent later have arrived were lost again.
 */
static void
sb_judge(struct tcp_conn *c)
{
    struct tcp_scoreboard *sb = &c->sb;
    uint32_t above = 0, edge = sb->fack;
    unsigned ranges = 0, lost = sb->n;

    for (; lost; lost--) {
        const struct tcp_hole *h = &sb->hole[lost - 1];

        if (edge != h->end) {
            above += edge - h->end;
            ranges++;
        }
        edge = h->start;
        if (above > (TCP_DUPTHRESH - 1) * c->mss || ranges >= TCP_DUPTHRESH ||
            SEQ_LT(h->start, sb->lost_upto))
            break;
    }
    sb->nlost = u32_max(sb->nlost, lost);
    for (unsigned i = 0; i < sb->nlost; i++) {
        struct tcp_hole *h = &sb->hole[i];

        if (h->rxmit != h->start && SEQ_GT(sb->fack, h->mark + TCP_DUPTHRESH * c->mss))
            h->rxmit = h->start;
    }
}

uint32_t
tcp_sb_sack(struct tcp_conn *c, const struct tcp_seg *seg)
{
    struct tcp_scoreboard *sb = &c->sb;
    uint32_t before = sb->sacked;

    for (unsigned i = 0; i < seg->nsack; i++) {
        uint32_t start = seg->sack[i].start, end = seg->sack[i].end;

        /* A block below the acknowledgement reports a duplicate (RFC 2883), or is invalid. */
        if (!SEQ_LT(start, end) || SEQ_LEQ(start, c->snd_una) || SEQ_GT(end, c->snd_nxt))
            continue;
        if (SEQ_GT(end, sb->fack)) {
            if (SEQ_GT(start, sb->fack)) {
                if (sb->n == TCP_MAX_HOLES)
                    continue;
                sb->hole[sb->n++] = (struct tcp_hole){sb->fack, start, sb->fack, sb->fack};
            } else if (SEQ_LT(start, sb->fack)) {
                sb_cut(sb, start, sb->fack);
            }
            sb->fack = end;
        } else {
            sb_cut(sb, start, end);
        }
    }
    sb_count(c);
    if (sb->sacked == before)
        return 0;
    sb_judge(c);
    return sb->sacked - before;
}

void
tcp_sb_lose_first(struct tcp_conn *c)
{
    struct tcp_scoreboard *sb = &c->sb;

    if (!sb->n) {
        uint32_t end = c->snd_una + u32_min(c->mss, tcp_flight(c));

        sb->hole[0] = (struct tcp_hole){c->snd_una, end, c->snd_una, c->snd_una};
        sb->n = 1;
        sb->fack = seq_max(sb->fack, end);
        sb_count(c);
    }
    sb->nlost = u32_max(sb->nlost, 1);
}

void
tcp_sb_lose_all(struct tcp_conn *c)
{
    struct tcp_scoreboard *sb = &c->sb;

    /* The byte that the peer waits for was SACKed: the peer has discarded it (RFC 2018, 8). */
    if (sb->fack != c->snd_una && (!sb->n || sb->hole[0].start != c->snd_una)) {
        sb->n = 0;
        sb->fack = c->snd_una;
    }
    if (SEQ_LT(sb->fack, c->snd_nxt)) {
        if (sb->n && (sb->n == TCP_MAX_HOLES || sb->hole[sb->n - 1].end == sb->fack))
            sb->hole[sb->n - 1].end = c->snd_nxt;
        else
            sb->hole[sb->n++] = (struct tcp_hole){.start = sb->fack, .end = c->snd_nxt};
        sb->fack = c->snd_nxt;
    }
    for (unsigned i = 0; i < sb->n; i++) {
        sb->hole[i].rxmit = sb->hole[i].start;
        sb->hole[i].mark = c->snd_nxt;
    }
    sb->nlost = sb->n;
    sb->lost_upto = c->snd_nxt;
    sb_count(c);
}

struct tcp_hole *
tcp_sb_next(struct tcp_conn *c)
{
    struct tcp_scoreboard *sb = &c->sb;

    for (unsigned i = 0; i < sb->nlost; i++)
        if (sb->hole[i].rxmit != sb->hole[i].end)
            return &sb->hole[i];
    return NULL;
}

uint32_t
tcp_sb_pipe(const struct tcp_conn *c)
{
    const struct tcp_scoreboard *sb = &c->sb;
    uint32_t pipe = tcp_flight(c), out = sb->sacked;

    for (unsigned i = 0; i < sb->nlost; i++)
        out += sb->hole[i].end - sb->hole[i].rxmit;
    /* Without SACK a duplicate acknowledgement says that some segment has left the network. */
    if (!c->sack_ok)
        out += u32_min(c->dupacks * c->mss, pipe - out);
    return pipe - u32_min(out, pipe);
}
