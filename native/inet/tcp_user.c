/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The user's operations on a connection, as single steps that leave nothing unowned.
 *
 * In a language whose signal handlers raise exceptions, the user may be interrupted after a call
 * but before storing its result. So results go directly into the user's object, and a released
 * pointer becomes NULL in the same step.
 */
#include <errno.h>

#include "inet/tcp_var.h"
#include "mbuf/mbuf_zone.h"

/* Bytes copied or shared at a time, before checking for acknowledgements. */
#define PIECE_BYTES (256u << 10)
/* Less room than this is not worth an mbuf, like FreeBSD's so_snd.sb_lowat. */
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

/* ask_again() - retry later, as nothing tells us when the application frees memory */
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
