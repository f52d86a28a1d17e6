"""The few rtnetlink(7) requests that setting up a TAP or a veth pair takes.

pyroute2 does all of it and more, and Namespace.iproute() hands it out. These few are our own
because the synchronous interface of pyroute2 0.9 cannot be used inside a running asyncio loop,
where a TAP must be ("This event loop is already running"), and because its import takes 0.4 to
0.8 s, many times what a namespace and a TAP cost.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import TypeAlias

from nic_harness.errors import Deed, LinkError, error_from_errno

IpInterface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x100, 0x200, 0x400
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_NEWROUTE, _RTM_NEWNEIGH = 20, 24, 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_TXQLEN = 1, 3, 4, 13
_IFLA_STATS64, _IFLA_MIN_MTU, _IFLA_MAX_MTU = 23, 50, 51
_IFLA_AF_SPEC, _IFLA_INET6_ADDR_GEN_MODE = 26, 8
_IN6_ADDR_GEN_MODE_EUI64, _IN6_ADDR_GEN_MODE_NONE = 0, 1
_IFLA_LINKINFO, _IFLA_NET_NS_PID, _IFLA_INFO_KIND, _IFLA_INFO_DATA = 18, 19, 1, 2
_VETH_INFO_PEER = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Statistics of an interface as the kernel counts them (struct rtnl_link_stats64).

    rx is what came from the NIC, tx what the kernel sent towards it: `tx_dropped` counts the frames
    that a full TAP queue dropped.
    """

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """An interface at one moment; lengths in bytes."""

    index: int
    name: str
    mac: str
    mtu: int
    min_mtu: int
    max_mtu: int
    up: bool
    carrier: bool
    stats: LinkStats


def _attr(kind: int, value: bytes) -> bytes:
    pad = -len(value) % 4
    return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * pad


def _attrs(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) & ~3
    return found


def mac_bytes(mac: str) -> bytes:
    """Six bytes of a colon-separated MAC address; ValueError for anything else."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"not a MAC address: {mac}")
    return raw


class Rtnl:
    """Requests on a NETLINK_ROUTE socket, one at a time; the socket is the caller's."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._seq = 0
        sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)

    def _request(self, kind: int, flags: int, body: bytes, operation: str, name: str) -> bytes:
        """Send, and return the body of the last answer that is not the acknowledgement."""
        self._seq += 1
        head = struct.pack(
            "=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, self._seq, 0
        )
        self._sock.send(head + body)
        answer = b""
        while True:
            data = self._sock.recv(1 << 16)
            at = 0
            while at + 16 <= len(data):
                size, what, nlflags, seq, _ = struct.unpack_from("=IHHII", data, at)
                payload = data[at + 16 : at + size]
                at += (size + 3) & ~3
                if seq != self._seq:
                    continue
                if what != _NLMSG_ERROR:
                    answer = payload
                    continue
                (code,) = struct.unpack_from("=i", payload)
                if code == 0:
                    return answer
                raise _refused(-code, payload, nlflags, operation, name)

    def link(self, name: str) -> LinkInfo:
        """Look an interface up; LinkError when there is none of that name."""
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attr(_IFLA_IFNAME, name.encode() + b"\0")
        answer = self._request(_RTM_GETLINK, 0, body, "look up interface", name)
        _, _, index, flags, _ = struct.unpack_from("=BxHiII", answer)
        a = _attrs(answer[16:])

        def u32(kind: int) -> int:
            return int(struct.unpack("=I", a[kind])[0]) if kind in a else 0

        return LinkInfo(
            index=index,
            name=name,
            mac=a.get(_IFLA_ADDRESS, b"").hex(":"),
            mtu=u32(_IFLA_MTU),
            min_mtu=u32(_IFLA_MIN_MTU),
            max_mtu=u32(_IFLA_MAX_MTU),
            up=bool(flags & _IFF_UP),
            carrier=bool(flags & _IFF_LOWER_UP),
            stats=LinkStats(*struct.unpack_from("=8Q", a[_IFLA_STATS64])),
        )

    def set_link(
        self,
        name: str,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        txqueuelen: int | None = None,
        ipv6_address: bool | None = None,
    ) -> None:
        """Change what is given; LinkError with the kernel's reason."""
        body = struct.pack("=BxHiII", 0, 0, 0, _IFF_UP if up else 0, 0 if up is None else _IFF_UP)
        body += _attr(_IFLA_IFNAME, name.encode() + b"\0")
        if mtu is not None:
            body += _attr(_IFLA_MTU, struct.pack("=I", mtu))
        if mac is not None:
            body += _attr(_IFLA_ADDRESS, mac_bytes(mac))
        if txqueuelen is not None:
            body += _attr(_IFLA_TXQLEN, struct.pack("=I", txqueuelen))
        if ipv6_address is not None:
            mode = _IN6_ADDR_GEN_MODE_EUI64 if ipv6_address else _IN6_ADDR_GEN_MODE_NONE
            inet6 = _attr(_IFLA_INET6_ADDR_GEN_MODE, struct.pack("=B", mode))
            body += _attr(_IFLA_AF_SPEC, _attr(socket.AF_INET6, inet6))
        self._request(_RTM_NEWLINK, 0, body, "configure interface", name)

    def add_veth(self, name: str, peer: str, pid: int, mtu: int) -> None:
        """Make a veth pair whose other end is in the network namespace of a process."""
        header = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        size = _attr(_IFLA_MTU, struct.pack("=I", mtu))
        far = header + _attr(_IFLA_IFNAME, peer.encode() + b"\0") + size
        far += _attr(_IFLA_NET_NS_PID, struct.pack("=I", pid))
        info = _attr(_IFLA_INFO_KIND, b"veth\0")
        info += _attr(_IFLA_INFO_DATA, _attr(_VETH_INFO_PEER, far))
        body = header + _attr(_IFLA_IFNAME, name.encode() + b"\0") + size
        body += _attr(_IFLA_LINKINFO, info)
        self._request(_RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, body, "make veth pair", name)

    def delete_link(self, name: str) -> None:
        """Remove an interface."""
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attr(_IFLA_IFNAME, name.encode() + b"\0")
        self._request(_RTM_DELLINK, 0, body, "remove interface", name)

    def add_address(self, name: str, address: IpInterface) -> None:
        """Give an interface an address; IPv6 addresses skip duplicate address detection."""
        v4 = address.version == 4
        body = struct.pack(
            "=BBBBi",
            socket.AF_INET if v4 else socket.AF_INET6,
            address.network.prefixlen,
            0 if v4 else _IFA_F_NODAD,
            0,
            self.link(name).index,
        )
        packed = address.ip.packed
        body += _attr(_IFA_LOCAL, packed) + _attr(_IFA_ADDRESS, packed)
        flags = _NLM_F_CREATE | _NLM_F_REPLACE
        self._request(_RTM_NEWADDR, flags, body, f"add address {address} to", name)

    def add_neighbour(self, name: str, address: IpAddress, mac: str) -> None:
        """Make a permanent neighbour entry, so that nobody asks ARP for it."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = struct.pack("=BxxxiHBB", family, self.link(name).index, _NUD_PERMANENT, 0, 0)
        body += _attr(_NDA_DST, address.packed) + _attr(_NDA_LLADDR, mac_bytes(mac))
        flags = _NLM_F_CREATE | _NLM_F_REPLACE
        self._request(_RTM_NEWNEIGH, flags, body, f"add neighbour {address} to", name)

    def add_route(self, name: str, gateway: IpAddress) -> None:
        """Make a default route through a gateway on an interface."""
        family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
        # rtm_table main, rtm_protocol static, rtm_scope universe, rtm_type unicast
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 4, 0, 1, 0)
        body += _attr(_RTA_OIF, struct.pack("=i", self.link(name).index))
        body += _attr(_RTA_GATEWAY, gateway.packed)
        flags = _NLM_F_CREATE | _NLM_F_REPLACE
        self._request(_RTM_NEWROUTE, flags, body, f"add default route via {gateway} to", name)


def _refused(code: int, payload: bytes, flags: int, operation: str, name: str) -> LinkError:
    """Make the error, with the kernel's own words where it gave some (NLMSGERR_ATTR_MSG)."""
    words = ""
    if flags & _NLM_F_ACK_TLVS:
        original = 16
        if not flags & _NLM_F_CAPPED:
            (original,) = struct.unpack_from("=I", payload, 4)
        said = _attrs(payload[4 + original :]).get(1)
        if said:
            words = said.rstrip(b"\0").decode("utf-8", "replace")
    if code == errno.ENODEV:
        return LinkError(operation, name, "no such interface", errno=code)
    if words:
        return LinkError(operation, name, words, errno=code)
    problem = error_from_errno(code, operation, name, deed=Deed.LINK).problem
    return LinkError(operation, name, problem, errno=code)
