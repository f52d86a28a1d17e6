/* SPDX-License-Identifier: BSD-2-Clause */
#include "tapnet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

void
tapnet_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);

    if (fd >= 0) {
        (void)!write(fd, text, strlen(text));
        close(fd);
    }
}

void
tapnet_enter(void)
{
    unsigned uid = getuid(), gid = getgid();
    char map[64];

    if (unshare(CLONE_NEWNET) != 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET))
            SKIP("no network namespace: %s", strerror(errno));
        tapnet_write("/proc/self/setgroups", "deny");
        snprintf(map, sizeof(map), "0 %u 1", uid);
        tapnet_write("/proc/self/uid_map", map);
        snprintf(map, sizeof(map), "0 %u 1", gid);
        tapnet_write("/proc/self/gid_map", map);
    }
    tapnet_write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
}

/* set() - one ioctl on an interface by name */
static void
set(unsigned long request, struct ifreq ifr, const char *name)
{
    int s = socket(AF_INET, SOCK_DGRAM, 0);

    strcpy(ifr.ifr_name, name);
    /* Linux 6.1 lets only the host's root lengthen a queue; the default of 500 is enough. */
    CHECK(ioctl(s, request, &ifr) == 0 || (request == SIOCSIFTXQLEN && errno == EPERM));
    close(s);
}

void
tapnet_set_link(const char *name, bool up)
{
    set(SIOCSIFFLAGS, (struct ifreq){.ifr_flags = up ? IFF_UP | IFF_RUNNING : 0}, name);
}

void
tapnet_set_address(const char *name, const char *address, const char *netmask)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(address)};
    struct ifreq ifr = {0};

    memcpy(&ifr.ifr_addr, &sin, sizeof(sin));
    set(SIOCSIFADDR, ifr, name);
    sin.sin_addr.s_addr = inet_addr(netmask);
    memcpy(&ifr.ifr_netmask, &sin, sizeof(sin));
    set(SIOCSIFNETMASK, ifr, name);
}

void
tapnet_open(const char *name, uint32_t mtu, unsigned nqueues, int *fds)
{
    for (unsigned i = 0; i < nqueues; i++) {
        struct ifreq ifr = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                                 (nqueues > 1 ? IFF_MULTI_QUEUE : 0))};

        fds[i] = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
        if (fds[i] < 0)
            SKIP("/dev/net/tun: %s", strerror(errno));
        strcpy(ifr.ifr_name, name);
        CHECK_EQ(ioctl(fds[i], TUNSETIFF, &ifr), 0);
    }
    set(SIOCSIFMTU, (struct ifreq){.ifr_mtu = (int)mtu}, name);
    set(SIOCSIFTXQLEN, (struct ifreq){.ifr_qlen = 2048}, name);
    tapnet_set_link(name, true);
}

int
tapnet_socket(const char *name, uint16_t type)
{
    struct sockaddr_ll at = {.sll_family = AF_PACKET,
                             .sll_protocol = htons(type),
                             .sll_ifindex = (int)if_nametoindex(name)};
    int s = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
    int big = 16 << 20;

    CHECK(s >= 0);
    setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big));
    setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof(big));
    CHECK_EQ(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
    return s;
}

/* By netlink: sysfs shows the namespace that it was mounted in. */
struct rtnl_link_stats64
tapnet_counters(const char *name)
{
    struct {
        struct nlmsghdr h;
        struct ifinfomsg i;
    } request = {
        .h = {sizeof(request), RTM_GETLINK, NLM_F_REQUEST, 1, 0},
        .i = {.ifi_index = (int)if_nametoindex(name)},
    };
    static _Alignas(struct nlmsghdr) char answer[16384];
    struct nlmsghdr *h = (struct nlmsghdr *)(void *)answer;
    struct rtnl_link_stats64 stats = {0};
    bool found = false;
    int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

    CHECK(s >= 0);
    CHECK_EQ(send(s, &request, sizeof(request), 0), sizeof(request));
    CHECK(recv(s, answer, sizeof(answer), 0) > 0);
    close(s);
    CHECK_EQ(h->nlmsg_type, RTM_NEWLINK);
    int left = (int)IFLA_PAYLOAD(h);

    for (struct rtattr *a = IFLA_RTA(NLMSG_DATA(h)); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        size_t size = RTA_PAYLOAD(a) < sizeof(stats) ? RTA_PAYLOAD(a) : sizeof(stats);

        if (a->rta_type == IFLA_STATS64) {
            memcpy(&stats, RTA_DATA(a), size);
            found = true;
        }
    }
    CHECK(found);
    return stats;
}
