/* SPDX-License-Identifier: BSD-2-Clause */
#include "sendfile/sendfile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
/* Size of a chunk: few mbufs for many frames, yet small enough to be freed soon. */
#define CHUNK_BYTES ((int64_t)256 * 1024)
#define COPY_PAGES 64u

/* Without the page cache a chunk is a window; waits for the disk also watch the NIC, in turns of this length. */
#define DIRECT_TURN_NS 1000000

static int64_t
min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int
connection_error(const struct sendfile *s)
{
    struct tcp_info_s info;

    tcp_get_info(s->conn, &info);
    if (info.error)
        return -info.error;
    switch (info.state) {
    case TCPS_SYN_RECEIVED:
    case TCPS_ESTABLISHED:
    case TCPS_CLOSE_WAIT:
        return 0;
    case TCPS_FIN_WAIT_1:
    case TCPS_FIN_WAIT_2:
    case TCPS_CLOSING:
    case TCPS_LAST_ACK:
    case TCPS_TIME_WAIT:
        return -EPIPE;
    default:
        return -ENOTCONN;
    }
}

/* begin_direct() - a transfer may use at most half of all windows */
static int
begin_direct(struct sendfile *s, int fd)
{
    struct pbuf_pool *p = s->jumbo->arena->owner[REGION_PBUF];
    struct pbuf_stats st;

    if (p == NULL || (s->flags & SF_NODISKIO))
        return -EINVAL;
    pbuf_get_stats(p, &st);
    return direct_open(p, fd, s->offset, (unsigned)st.total / 2 + 1, &s->direct);
}

int
sendfile_begin(struct sendfile *s, struct tcp_conn *c, struct inet *in, struct sf_map *map,
               struct jumbo *jumbo, int fd, int64_t offset, int64_t nbytes,
               const struct tcp_source *header, const struct tcp_source *trailer, int flags,
               enum sendfile_strategy strategy)
{
    int err = offset < 0 || nbytes < 0 || offset > INT64_MAX - nbytes ? -EINVAL : 0;

    *s = (struct sendfile){
        .inet = in,
        .conn = c,
        .map = map,
        .jumbo = jumbo,
        .strategy = strategy,
        .flags = flags,
        .start = offset,
        .offset = offset,
        .end = nbytes ? offset + nbytes : -1,
        .header = header ? *header : (struct tcp_source){0},
        .trailer = trailer ? *trailer : (struct tcp_source){0},
    };
    if (!err)
        err = vm_object_open(map, fd, &s->object);
    if (!err)
        err = connection_error(s);
    if (!err && strategy == SENDFILE_DIRECT)
        err = begin_direct(s, fd);
    s->error = err;
    if (err) {
        sendfile_end(s);
        return err;
    }
    sf_map_count(map, SF_SYSCALLS, 1);
    return 0;
}

/* resident() - is [offset, offset + len) of the file in memory? (SF_NODISKIO) */
static bool
resident(struct sendfile *s, int64_t len)
{
    for (int64_t at = s->offset; at < s->offset + len; at = (at | (int64_t)PAGE_MASK) + 1) {
        char byte;
        struct iovec iov = {&byte, 1};

        s->syscalls++;
        if (preadv2(vm_object_fd(s->object), &iov, 1, at, RWF_NOWAIT) < 0 && errno == EAGAIN)
            return false;
    }
    return true;
}

/* map_chunk() - map at most @len bytes of the file as an mbuf */
static int
map_chunk(struct sendfile *s, int64_t len, struct mbuf **out)
{
    uint32_t skip = (uint32_t)(s->offset & (int64_t)PAGE_MASK);
    uint32_t npages = (uint32_t)((skip + len + (int64_t)PAGE_MASK) >> PAGE_SHIFT);
    struct mbuf *m = mb_get(nic_mbuf_zone(inet_nic(s->inet)));
    struct sf_run run;

    if (m == NULL)
        return -ENOBUFS;
    /*
     * Never sleep here: acknowledgements free the buffers we would wait for, and this very thread
     * receives them. sendfile_run() polls for them and tries again.
     */
    int err =
        sf_run_alloc(s->object, (vm_pindex_t)s->offset >> PAGE_SHIFT, npages, SFB_NOWAIT, &run);

    if (err) {
        m_free(m);
        return err;
    }
    if (run.npages < npages)
        sf_map_count(s->map, SF_TRIMMED, 1);
    m_extadd(m, run.kva, run.npages << PAGE_SHIFT, sf_run_ext_free, (void *)(uintptr_t)run.npages,
             M_RDONLY, EXT_SFBUF);
    m->m_data += skip;
    m->m_len = (int32_t)min64(len, ((int64_t)run.npages << PAGE_SHIFT) - skip);
    *out = m;
    return 0;
}

/* copy_chunk() - read at most @len bytes of the file into jumbo pages, or into an mbuf itself (@inside) */
static int
copy_chunk(struct sendfile *s, int64_t len, bool inside, struct mbuf **out)
{
    struct mbuf_zone *z = nic_mbuf_zone(inet_nic(s->inet));
    struct iovec iov[COPY_PAGES];
    struct mbuf *top = NULL;
    struct mbuf **tail = &top;
    unsigned n = 0;

    for (; n < COPY_PAGES && (int64_t)n * (int64_t)PAGE_SIZE < len; n++) {
        struct vm_page *pg = inside ? NULL : jumbo_alloc(s->jumbo, RETURN_SITE());
        struct mbuf *m = pg || inside ? mb_get(z) : NULL;

        if (m == NULL) {
            if (pg)
                jumbo_free(s->jumbo, jumbo_kva(s->jumbo, pg), RETURN_SITE());
            break;
        }
        if (pg) {
            vm_page_turn(pg, VPS_MBUF, VPE_MBUF);
            m_extadd(m, jumbo_kva(s->jumbo, pg), (unsigned)PAGE_SIZE, jumbo_freem, NULL, 0,
                     EXT_JUMBOP);
        }
        iov[n] = (struct iovec){m->m_data,
                                (size_t)min64(len - (int64_t)n * (int64_t)PAGE_SIZE, PAGE_SIZE)};
        m->m_len = (int32_t)iov[n].iov_len;
        *tail = m;
        tail = &m->m_next;
    }
    if (n == 0)
        return -ENOBUFS;
    ssize_t got = preadv(vm_object_fd(s->object), iov, (int)n, s->offset);

    s->syscalls++;
    if (got <= 0) {
        m_freem(top);
        return got < 0 ? -EIO : -EFAULT; /* 0: the file has ended meanwhile */
    }
    arena_count_copy(s->jumbo->arena, (size_t)got);
    unsigned made = m_length(top, NULL);

    if ((unsigned)got < made)
        m_adj(top, (int)got - (int)made);
    *out = top;
    return 0;
}

/* direct_chunk() - get the next window of the file; -EAGAIN if the disk has not delivered it yet */
static int
direct_chunk(struct sendfile *s, int64_t left, struct mbuf **out)
{
    struct mbuf *m = mb_get(nic_mbuf_zone(inet_nic(s->inet)));
    struct direct_chunk c;

    if (m == NULL)
        return -ENOBUFS;
    /* Take the whole window, although the file may have grown since its size was read. */
    int64_t most = s->end < 0 ? MAXPHYS : s->end - s->offset;
    int r = direct_next(s->direct, s->offset + left, &c);

    if (r <= 0) {
        m_free(m);
        return r == 0 ? -EAGAIN : r == -ENODATA ? -EFAULT : r;
    }
    m_extadd(m, c.bp->b_kvabase, MAXPHYS, direct_ext_free, s->direct, M_RDONLY, EXT_MOD_TYPE);
    m->m_data = c.data;
    m->m_len = (int32_t)min64(most, c.len);
    *out = m;
    return 0;
}

/* hand_over_part() - hand over what fits of a chain longer than the whole send buffer; returns like hand_over() */
static int
hand_over_part(struct sendfile *s, struct mbuf *m)
{
    uint32_t part = inet_sndbuf(s->inet) / 2;
    struct mbuf *piece = tcp_send_room(s->conn) < part ? NULL : m_copym(m, 0, (int)part, M_NOWAIT);

    if (piece == NULL)
        return 0;
    int err = tcp_send(s->conn, piece);

    if (err) {
        m_freem(piece);
        return err == -EAGAIN ? 0 : err;
    }
    m_adj(m, (int)part);
    s->sbytes += part;
    return 1;
}

/* hand_over() - give a chain to the connection; returns 1 if done, 0 if there is no room yet, or -errno */
static int
hand_over(struct sendfile *s, struct mbuf **m)
{
    if (*m == NULL)
        return 1;
    uint32_t len = m_length(*m, NULL);
    int r = 1;

    for (; len > inet_sndbuf(s->inet) && r == 1; len = m_length(*m, NULL))
        r = hand_over_part(s, *m);
    if (r <= 0)
        return r;
    int err = tcp_send(s->conn, *m);

    if (err)
        return err == -EAGAIN ? 0 : err;
    *m = NULL;
    s->sbytes += len;
    return 1;
}

/* hand_over_some() - send the header or trailer; returns 1 if done, 0 if there is no room or page yet, or -errno */
static int
hand_over_some(struct sendfile *s, struct tcp_source *source)
{
    int r;
    size_t before;

    do {
        before = source->done;
        /* A closed connection reports its error only if there is something to send. */
        r = source->done == source->len ? 1 : tcp_send_some(s->conn, source);
        s->sbytes += source->done - before;
    } while (r == 0 && source->done != before);
    if (r == -ENOBUFS) {
        sf_map_count(s->map, SF_ALLOCFAIL, 1);
        return 0;
    }
    return r;
}

/* of_file() - record an error of the file, not of the connection */
static int
of_file(struct sendfile *s, int err)
{
    s->of_file = true;
    return err;
}

/* file_left() - bytes of the file still to hand over, by its current size */
static int64_t
file_left(struct sendfile *s)
{
    if (s->unsized) /* until a read finds nothing */
        return s->end < 0 ? CHUNK_BYTES : s->end - s->offset;
    int64_t size = vm_object_size(s->object);

    s->syscalls++;
    if (size < 0)
        return size;
    int64_t end = s->end < 0 ? size : min64(s->end, size);

    return end > s->offset ? end - s->offset : 0;
}

/*
 * look_behind() - does the file have data beyond its reported size?
 *
 * Files in /proc report 0 but have data. Return: 1 if it does; 0 if not; -errno.
 */
static int
look_behind(struct sendfile *s)
{
    char byte;

    if (s->unsized || s->strategy == SENDFILE_DIRECT || (s->end >= 0 && s->offset >= s->end))
        return 0;
    ssize_t got = pread(vm_object_fd(s->object), &byte, 1, s->offset);

    s->syscalls++;
    if (got <= 0)
        return got < 0 ? of_file(s, -errno) : 0;
    if (vm_object_size(s->object) <= s->offset) { /* it has not grown: the size is wrong */
        s->unsized = true;
        s->strategy = SENDFILE_COPY;
    }
    return 1;
}

/* next_chunk() - get at most @want of the @left bytes of the file */
static int
next_chunk(struct sendfile *s, int64_t want, int64_t left, bool inside, struct mbuf **out)
{
    int err;

    if (s->strategy == SENDFILE_DIRECT)
        return direct_chunk(s, left, out);
    if (s->strategy == SENDFILE_SF_BUF) {
        err = map_chunk(s, want, out);
        if (err != -ENODEV && err != -EACCES && err != -EPERM)
            return err;
        /* It can be read but not mapped: its contents are generated as they are read, and it may report any size. */
        s->strategy = SENDFILE_COPY;
        s->unsized = true;
    }
    return copy_chunk(s, want, inside, out);
}

/*
 * feed_file() - hand over the file
 * @left: bytes left in it
 *
 * Return: 1 if these are handed over, or the file has ended; 0 if not yet; -errno.
 */
static int
feed_file(struct sendfile *s, int64_t left)
{
    while (left > 0) {
        int64_t want = min64(left, CHUNK_BYTES - (s->offset & (CHUNK_BYTES - 1)));
        struct mbuf *m = NULL;

        /* Half of a small buffer, because a partial frame may wait in it for more data. */
        want = min64(want, inet_sndbuf(s->inet) / 2);
        bool inside = false;

        /* Whole chunks only: small pieces would cost an mbuf and a mapping each. */
        s->want = want;
        if (tcp_send_room(s->conn) < want)
            return 0;
        if (s->strategy == SENDFILE_COPY) {
            /* Pages may run out before the send buffer: then use whole pages, or what fits inside an mbuf. */
            int64_t room = tcp_copy_room(s->conn);

            if (room == 0) {
                s->starved = true;
                return 0;
            }
            if (room < want) {
                inside = room < (int64_t)PAGE_SIZE;
                want = inside ? min64(room, MLEN) : room & ~(int64_t)PAGE_MASK;
            }
        }
        if ((s->flags & SF_NODISKIO) && !resident(s, want)) {
            sf_map_count(s->map, SF_BUSY, 1);
            return -EBUSY;
        }
        int err = next_chunk(s, want, left, inside, &m);

        if (err == -EAGAIN)
            return 0;
        if (err == -ENOBUFS) {
            sf_map_count(s->map, SF_ALLOCFAIL, 1);
            s->starved = true;
            return 0;
        }
        if (err == -EFAULT) {
            s->ended = true;
            /* It shrank after its size was read, or it never had that size. */
            if (s->strategy == SENDFILE_COPY && vm_object_size(s->object) > s->offset)
                s->unsized = true;
            s->shrunk = !s->unsized;
            return 1;
        }
        if (err)
            return of_file(s, err);
        uint32_t len = m_length(m, NULL);

        s->chunk = m;
        s->offset += len;
        left -= len;
        int r = hand_over(s, &s->chunk);

        if (r <= 0)
            return r;
    }
    return 1;
}

/*
 * feed() - hand over as much as fits into the send buffer
 *
 * Return: 1 if everything is handed over; 0 if not yet; -errno.
 */
static int
feed(struct sendfile *s)
{
    int r = hand_over_some(s, &s->header);

    if (r > 0)
        r = hand_over(s, &s->chunk);
    if (r <= 0)
        return r;
    /* Do not check the file until there is room for what did not fit last time. */
    if (!s->ended && tcp_send_room(s->conn) < s->want)
        return 0;
    while (!s->ended) {
        int64_t left = file_left(s);

        if (left < 0)
            return of_file(s, (int)left);
        r = left ? feed_file(s, left) : look_behind(s);
        if (left == 0 && r == 0)
            s->ended = true;
        else if (r <= 0)
            return r;
    }
    if (s->end >= 0 && s->offset < s->end)
        s->shrunk = true;
    /* A file that ended early gets no trailer, which the peer would take for file contents. */
    return s->shrunk ? 1 : hand_over_some(s, &s->trailer);
}

/* wait_for_news() - sleep until a frame arrives, a timer is due or a direct read is complete */
static int
wait_for_news(struct sendfile *s, int64_t ns)
{
    struct pollfd p[2] = {
        {.fd = s->direct && !s->fed ? direct_wait_fd(s->direct) : -1, .events = POLLIN},
    };

    if (p[0].fd < 0)
        return inet_wait(s->inet, ns);
    struct nic *n = inet_nic(s->inet);
    const struct timespec turn = {0, min64(ns, DIRECT_TURN_NS)};

    p[1] = (struct pollfd){.fd = nic_wait_fd(n, inet_queue(s->inet)), .events = POLLIN};
    return ppoll(p, 2, &turn, NULL) < 0 ? -errno : 0;
}

static bool
acknowledged(const struct sendfile *s)
{
    struct tcp_info_s info;

    tcp_get_info(s->conn, &info);
    return info.unsent == 0 && info.unacked == 0;
}

int
sendfile_run(struct sendfile *s, int64_t budget_ns)
{
    int64_t deadline = (int64_t)clock_now() + budget_ns;

    if (s->error)
        return s->error;
    for (;;) {
        s->starved = false;

        int fed = s->fed ? 1 : feed(s);

        if (fed == -EIO) /* no stream is better than one that is mistaken for the file */
            tcp_reset(s->conn, EIO);
        /*
         * Between two feeds, a partial frame waits for the next bytes; but not if those wait for
         * memory, which the frame's acknowledgement may free.
         */
        tcp_set_more(s->conn, fed == 0 && !s->starved && !tcp_send_starved(s->conn));

        int err = fed < 0 ? fed : tcp_output(s->conn);
        int moved = 0;

        s->fed = fed == 1;
        if (err >= 0)
            moved = inet_poll(s->inet);
        if (moved == -ENETDOWN) /* it may come up again; the retransmission timer decides */
            moved = 0;
        if (err >= 0 && moved < 0)
            err = moved;
        if (err >= 0)
            err = connection_error(s);
        if (err < 0) {
            s->error = err;
            return err;
        }
        if (s->fed && (!(s->flags & SF_SYNC) || acknowledged(s)))
            return 1;
        int64_t now = (int64_t)clock_now();

        if (now >= deadline)
            return 0;
        if (moved == 0) {
            err = wait_for_news(s, deadline - now);
            if (err == -EINTR)
                return -EINTR;
        }
    }
}

void
sendfile_end(struct sendfile *s)
{
    m_freem(s->chunk);
    s->chunk = NULL;
    if (s->object) {
        if (s->flags & SF_NOCACHE)
            posix_fadvise(vm_object_fd(s->object), s->start, s->offset - s->start,
                          POSIX_FADV_DONTNEED);
        vm_object_close(s->object);
    }
    s->object = NULL;
    if (s->direct)
        direct_close(s->direct);
    s->direct = NULL;
}
