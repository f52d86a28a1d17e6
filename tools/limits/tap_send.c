/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The bare loop: how fast a file can leave through a TAP queue when nothing is done but that.
 *
 * GSO writev(2) of a file that is already mapped and populated, to an ordinary TCP socket of the kernel.
 * Just enough TCP to keep that socket talking: handshake, window, cumulative acknowledgements, FIN. A
 * TAP that is not overrun loses nothing, so there is no retransmission; a duplicate acknowledgement
 * that stays ends the run with an error instead of a figure.
 *
 * The mark that the harness is compared with (tools/bench sendfile), not a part of it: it shares no
 * code with native/.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/if_ether.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

#define STALL_MS 10000 /* silence that ends the run */
#define LOCAL_PORT 40000
#define WSCALE 7        /* of our own receive window, which is not used */
#define ISS 0x10000000u /* initial sequence number */

static const uint8_t our_mac[6] = {0x02, 0, 0, 0, 0, 0x02}; /* as Tap has it */

/* A frame's headers; the payload is the file's mapping. */
struct headers {
    struct virtio_net_hdr_v1 vnet;
    struct ether_header eth;
    struct iphdr ip;
    struct tcphdr tcp;
    uint8_t options[12];
} __attribute__((packed));

struct sender {
    int fd;
    uint32_t local, peer; /* network byte order */
    uint16_t port;
    uint8_t peer_mac[6];
    uint16_t mtu;

    uint32_t snd_una; /* oldest byte not acknowledged */
    uint32_t snd_nxt; /* next byte to send */
    uint32_t rcv_nxt; /* next byte we expect: after the handshake only the FIN */
    uint64_t acked;   /* payload bytes acknowledged */
    uint32_t wnd;     /* bytes the peer takes beyond snd_una */
    unsigned wscale;  /* the peer's */
    uint16_t mss;     /* the peer's */
    bool established, closed, reset;

    uint64_t frames, acks, syscalls;
};

static void
die(const char *what)
{
    fprintf(stderr, "tap_send: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void
refuse(const char *what)
{
    fprintf(stderr, "tap_send: %s\n", what);
    exit(1);
}

static uint64_t
now_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t
sum16(const void *data, size_t len, uint32_t sum)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i += 2)
        sum += (uint32_t)(p[i] << 8 | p[i + 1]);
    return sum;
}

static uint16_t
fold(uint32_t sum)
{
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    return htons((uint16_t)sum);
}

/* Headers of a segment of @payload bytes; everything but the sequence number is final. */
static size_t
make_headers(const struct sender *s, struct headers *h, uint8_t flags, size_t options,
             size_t payload)
{
    size_t tcp_len = sizeof h->tcp + options;

    memset(h, 0, sizeof *h - sizeof h->options);
    memcpy(h->eth.ether_dhost, s->peer_mac, 6);
    memcpy(h->eth.ether_shost, our_mac, 6);
    h->eth.ether_type = htons(ETHERTYPE_IP);
    h->ip.version = 4;
    h->ip.ihl = 5;
    h->ip.tot_len = htons((uint16_t)(sizeof h->ip + tcp_len + payload));
    h->ip.frag_off = htons(IP_DF);
    h->ip.ttl = 64;
    h->ip.protocol = IPPROTO_TCP;
    h->ip.saddr = s->local;
    h->ip.daddr = s->peer;
    h->ip.check = (uint16_t)~fold(sum16(&h->ip, sizeof h->ip, 0));
    h->tcp.source = htons(LOCAL_PORT);
    h->tcp.dest = htons(s->port);
    h->tcp.seq = htonl(s->snd_nxt);
    h->tcp.ack_seq = htonl(s->rcv_nxt);
    h->tcp.doff = (uint16_t)(tcp_len / 4) & 0xf;
    ((uint8_t *)&h->tcp)[13] = flags;
    h->tcp.window = htons(0xffff);
    /* The sum of the pseudo header; the rest is the receiver's offload. */
    h->tcp.check = fold(sum16(&h->ip.saddr, 8, (uint32_t)(IPPROTO_TCP + tcp_len + payload)));
    h->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    h->vnet.csum_start = sizeof h->eth + sizeof h->ip;
    h->vnet.csum_offset = 16;
    if (payload > s->mss) {
        h->vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
        h->vnet.gso_size = s->mss;
        h->vnet.hdr_len = (uint16_t)(sizeof h->eth + sizeof h->ip + tcp_len);
    }
    return offsetof(struct headers, options) + options;
}

static void
write_segment(struct sender *s, uint8_t flags, const void *options, size_t options_len)
{
    struct headers h;
    size_t len = make_headers(s, &h, flags, options_len, 0);

    if (options_len != 0)
        memcpy(h.options, options, options_len);
    s->syscalls++;
    if (write(s->fd, &h, len) < 0)
        die("write");
}

static void
answer_arp(struct sender *s, const uint8_t *frame)
{
    struct {
        struct virtio_net_hdr_v1 vnet;
        struct ether_header eth;
        struct ether_arp arp;
    } __attribute__((packed)) r = {0};
    const struct ether_arp *q = (const struct ether_arp *)(frame + sizeof(struct ether_header));

    if (ntohs(q->arp_op) != ARPOP_REQUEST || memcmp(q->arp_tpa, &s->local, 4) != 0)
        return;
    memcpy(r.eth.ether_dhost, q->arp_sha, 6);
    memcpy(r.eth.ether_shost, our_mac, 6);
    r.eth.ether_type = htons(ETHERTYPE_ARP);
    r.arp.arp_hrd = htons(1);
    r.arp.arp_pro = htons(ETHERTYPE_IP);
    r.arp.arp_hln = 6;
    r.arp.arp_pln = 4;
    r.arp.arp_op = htons(ARPOP_REPLY);
    memcpy(r.arp.arp_sha, our_mac, 6);
    memcpy(r.arp.arp_spa, &s->local, 4);
    memcpy(r.arp.arp_tha, q->arp_sha, 6);
    memcpy(r.arp.arp_tpa, q->arp_spa, 4);
    if (write(s->fd, &r, sizeof r) < 0)
        die("write (ARP)");
}

static void
read_syn_options(struct sender *s, const struct tcphdr *t)
{
    const uint8_t *p = (const uint8_t *)(t + 1), *end = (const uint8_t *)t + t->doff * 4;

    while (p < end && *p != TCPOPT_EOL) {
        if (*p == TCPOPT_NOP) {
            p++;
            continue;
        }
        if (p + 2 > end || p[1] < 2 || p + p[1] > end)
            return;
        if (*p == TCPOPT_MAXSEG && p[1] == 4) {
            uint16_t mss = (uint16_t)(p[2] << 8 | p[3]);

            if (mss < s->mss)
                s->mss = mss;
        } else if (*p == TCPOPT_WINDOW && p[1] == 3) {
            s->wscale = p[2] < 14 ? p[2] : 14;
        }
        p += p[1];
    }
}

/* One frame from the queue: true when there was one. */
static bool
read_frame(struct sender *s)
{
    static uint8_t buf[sizeof(struct virtio_net_hdr_v1) + 65536 + 64];
    const uint8_t *frame = buf + sizeof(struct virtio_net_hdr_v1);
    const struct iphdr *ip = (const struct iphdr *)(frame + sizeof(struct ether_header));
    const struct tcphdr *t = (const struct tcphdr *)(ip + 1);
    ssize_t n = read(s->fd, buf, sizeof buf);
    uint32_t ack;

    s->syscalls++;
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return false;
        die("read");
    }
    n -= (ssize_t)sizeof(struct virtio_net_hdr_v1);
    if (n >= 42 && frame[12] == 0x08 && frame[13] == 0x06) {
        answer_arp(s, frame);
        return true;
    }
    if (n < 54 || frame[12] != 0x08 || frame[13] != 0 || ip->ihl != 5 ||
        ip->protocol != IPPROTO_TCP || ip->saddr != s->peer || t->dest != htons(LOCAL_PORT))
        return true;
    s->acks++;
    if (t->rst) {
        s->reset = true;
        return true;
    }
    if (t->syn) {
        read_syn_options(s, t);
        s->rcv_nxt = ntohl(t->seq) + 1;
        s->snd_una = ntohl(t->ack_seq);
        s->wnd = ntohs(t->window);
        s->established = true;
        return true;
    }
    if (t->fin) {
        s->rcv_nxt = ntohl(t->seq) + 1;
        s->closed = true;
    }
    ack = ntohl(t->ack_seq);
    if ((int32_t)(ack - s->snd_una) >= 0 && (int32_t)(s->snd_nxt - ack) >= 0) {
        s->acked += ack - s->snd_una;
        s->snd_una = ack;
        s->wnd = (uint32_t)ntohs(t->window) << s->wscale;
    }
    return true;
}

static void
wait_frame(struct sender *s)
{
    struct pollfd p = {.fd = s->fd, .events = POLLIN};

    s->syscalls++;
    if (poll(&p, 1, STALL_MS) == 0)
        refuse("the peer is silent: a frame was lost, or it does not read");
    read_frame(s);
}

static void
connect_peer(struct sender *s)
{
    uint16_t mss = (uint16_t)(s->mtu - 40);
    uint8_t options[8] = {
        TCPOPT_MAXSEG, 4, (uint8_t)(mss >> 8), (uint8_t)mss, TCPOPT_NOP, TCPOPT_WINDOW, 3, WSCALE};

    s->mss = mss;
    write_segment(s, TH_SYN, options, sizeof options);
    s->snd_nxt++;
    while (!s->established) {
        wait_frame(s);
        if (s->reset)
            refuse("connection refused");
    }
    write_segment(s, TH_ACK, NULL, 0);
}

static void
finish(struct sender *s)
{
    write_segment(s, TH_FIN | TH_ACK, NULL, 0);
    s->snd_nxt++;
}

/* Everything from @data and a FIN to the peer; it returns when the last byte was acknowledged. */
static void
send_all(struct sender *s, const uint8_t *data, uint64_t size, uint32_t limit, unsigned ack_every)
{
    uint32_t step = (65535u - 40u) / s->mss * s->mss;
    uint64_t sent = 0;
    unsigned since = 0;
    struct headers h;
    size_t hlen = make_headers(s, &h, TH_ACK, 0, step), wanted = step;

    while (s->acked < size) {
        uint32_t wnd = s->wnd < limit ? s->wnd : limit, flight = s->snd_nxt - s->snd_una;
        uint32_t room = wnd > flight ? wnd - flight : 0;

        /* Full super-frames only, unless nothing is under way that would bring a larger window. */
        if (sent < size && (room >= step || (flight == 0 && room > 0))) {
            size_t most = room < step ? room : step;
            size_t len = size - sent < most ? (size_t)(size - sent) : most;
            struct iovec iov[2] = {{&h, hlen}, {(void *)(uintptr_t)(data + sent), len}};

            if (len != wanted) {
                make_headers(s, &h, TH_ACK | TH_PUSH, 0, len);
                wanted = len;
            }
            h.tcp.seq = htonl(s->snd_nxt);
            s->syscalls++;
            if (writev(s->fd, iov, 2) < 0)
                die("writev");
            s->frames++;
            s->snd_nxt += (uint32_t)len;
            sent += len;
            if (sent == size)
                finish(s);
            if (++since < ack_every)
                continue;
            since = 0;
            while (read_frame(s))
                ;
            continue;
        }
        if (s->reset)
            refuse("the peer reset the connection");
        if (!read_frame(s))
            wait_frame(s);
    }
}

static void
usage(void)
{
    fputs("usage: tap_send --fd N --local ADDR --peer ADDR --port PORT [--mtu N] [--limit BYTES]\n"
          "                [--ack-every FRAMES] FILE\n"
          "FILE goes to a TCP socket behind the TAP queue N (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, "
          "12-byte header).\n",
          stderr);
    exit(2);
}

int
main(int argc, char **argv)
{
    static const struct option longopts[] = {
        {"fd", required_argument, NULL, 'f'},        {"local", required_argument, NULL, 'l'},
        {"peer", required_argument, NULL, 'p'},      {"port", required_argument, NULL, 'P'},
        {"mtu", required_argument, NULL, 'm'},       {"limit", required_argument, NULL, 'L'},
        {"ack-every", required_argument, NULL, 'a'}, {NULL, 0, NULL, 0},
    };
    struct sender s = {.fd = -1, .mtu = 1500, .snd_una = ISS, .snd_nxt = ISS};
    unsigned limit = UINT_MAX, ack_every = 8;
    int header = sizeof(struct virtio_net_hdr_v1), c, file;
    uint64_t begin, cpu_begin, cpu_ns;
    struct ifreq ifr = {0};
    struct stat st;
    uint8_t *data = NULL;

    while ((c = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
        switch (c) {
        case 'f':
            s.fd = atoi(optarg);
            break;
        case 'l':
            s.local = inet_addr(optarg);
            break;
        case 'p':
            s.peer = inet_addr(optarg);
            break;
        case 'P':
            s.port = (uint16_t)atoi(optarg);
            break;
        case 'm':
            s.mtu = (uint16_t)atoi(optarg);
            break;
        case 'L':
            limit = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'a':
            ack_every = (unsigned)atoi(optarg);
            break;
        default:
            usage();
        }
    }
    if (optind + 1 != argc || s.fd < 0 || s.local == 0 || s.peer == 0 || s.port == 0 || s.mtu < 576)
        usage();

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing outlives the benchmark */
    if (ioctl(s.fd, TUNSETVNETHDRSZ, &header) < 0)
        die("TUNSETVNETHDRSZ");
    if (ioctl(s.fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) < 0)
        die("TUNSETOFFLOAD");
    if (ioctl(s.fd, SIOCGIFHWADDR, &ifr) < 0) /* of the kernel's end */
        die("SIOCGIFHWADDR");
    memcpy(s.peer_mac, ifr.ifr_hwaddr.sa_data, 6);
    if (fcntl(s.fd, F_SETFL, fcntl(s.fd, F_GETFL) | O_NONBLOCK) < 0)
        die("fcntl");

    file = open(argv[optind], O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &st) < 0)
        die(argv[optind]);
    if (st.st_size > 0) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (data == MAP_FAILED || madvise(data, (size_t)st.st_size, MADV_POPULATE_READ) < 0)
            die("mmap");
    }

    connect_peer(&s);
    s.syscalls = s.frames = s.acks = 0;
    if (st.st_size == 0)
        finish(&s);
    begin = now_ns(CLOCK_MONOTONIC);
    cpu_begin = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    send_all(&s, data, (uint64_t)st.st_size, limit, ack_every);
    cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin;
    while (!s.closed && !s.reset)
        wait_frame(&s);
    write_segment(&s, TH_ACK, NULL, 0);
    printf("{\"bytes\": %llu, \"begin_ns\": %llu, \"cpu_ns\": %llu, \"syscalls\": %llu, "
           "\"frames\": %llu, "
           "\"acks\": %llu, \"mss\": %u}\n",
           (unsigned long long)st.st_size, (unsigned long long)begin, (unsigned long long)cpu_ns,
           (unsigned long long)s.syscalls, (unsigned long long)s.frames, (unsigned long long)s.acks,
           s.mss);
    return fflush(stdout) == 0 ? 0 : 1;
}
