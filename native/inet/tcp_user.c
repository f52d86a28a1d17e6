/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a user does with a connection, in single steps that leave nothing unowned.
 *
 * A user in a language whose signal handlers raise may be interrupted after any call and before it has
 * stored the result. So results go where the user's object already points, and a pointer that is given
 * up becomes NULL in the same step.
 */
#include <errno.h>

#include "inet/tcp_var.h"
#include "mbuf/mbuf_zone.h"

/* Copied or shared at a time, before acknowledgements are looked at. */
#define PIECE_BYTES (256u << 10)
/* Less room than this is not worth an mbuf, as FreeBSD's so_snd.sb_lowat. */
#define LOWAT_BYTES 2048u

bool
tcp_accept_into(struct tcp_conn *listener, struct tcp_conn **out)
{
    *out = tcp_accept(listener);
    return *out != NULL;
}

void
tcp_let_go(struct tcp_conn **c, bool reset)
{
    struct tcp_conn *conn = *c;

    if (!conn)
        return;
    *c = NULL;
    if (reset)
        tcp_abort(conn);
    else
        tcp_close(conn);
}

void
inet_let_go(struct inet **in)
{
    struct inet *inet = *in;

    *in = NULL;
    inet_destroy(inet);
}

/* ask_again() - of what the application gives back to the pools nobody tells us */
static void
ask_again(struct inet *in)
{
    in->now = in->clock(in->clock_arg);
    inet_timer(in, in->now + INET_RETRY_NS);
}

int
tcp_send_some(struct tcp_conn *c, struct tcp_source *s)
{
    struct inet *in = c->in;
    int rc = tcp_may_send(c);

    if (rc)
        return rc;
    if (s->done == s->len)
        return 1;
    uint32_t room = tcp_send_room(c);
    size_t left = s->len - s->done;
    uint32_t part = left < PIECE_BYTES ? (uint32_t)left : PIECE_BYTES;

    if (room < u32_min(part, u32_min(LOWAT_BYTES, in->sndbuf / 2))) {
        if (tcp_send_starved(c))
            ask_again(in);
        return 0;
    }
    part = u32_min(part, s->chain ? room : tcp_copy_room(c));
    if (!part)
        return 0;
    struct mbuf *m = s->chain ? m_copym(s->chain, (int)s->done, (int)part, M_NOWAIT)
                              : mb_frombytes(in->zone, nic_jumbo(in->nic),
                                             (const char *)s->data + s->done, part);

    if (!m) {
        ask_again(in);
        return 0;
    }
    rc = tcp_send(c, m);
    if (rc) {
        m_freem(m);
        return rc == -EAGAIN ? 0 : rc;
    }
    s->done += part;
    return s->done == s->len;
}
