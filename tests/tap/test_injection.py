"""A table of frames, well-formed and not: each arrives byte for byte, or is refused as it says.

scapy makes them; the kernel's AF_PACKET socket is the other end in both directions.
"""

import errno
import random
import socket
import struct
from typing import NamedTuple

import pytest
from nic_harness import Offload
from nic_harness.errors import FrameError, FrameSizeError
from scapy.compat import raw
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.eap import EAPOL
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import ARP, GRE, LLC, SNAP, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

pytestmark = pytest.mark.each_device

NIC, KERNEL = "02:00:00:00:00:02", "02:00:00:00:00:01"
BROADCAST = "ff:ff:ff:ff:ff:ff"
ETH_P_8021Q, ETH_P_8021AD = 0x8100, 0x88A8
SOL_PACKET, PACKET_AUXDATA = 263, 8
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 1 << 4, 1 << 6


class Row(NamedTuple):
    """A frame, and what happens to it if it does not arrive."""

    name: str
    frame: bytes
    kernel: int = 0  # what the kernel's socket says when it is to send it
    nic: type[Exception] | None = None  # what our NIC says
    lost: bool = False  # the kernel discards it when it comes from us


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def eth(payload: Packet | bytes = b"", *, dst: str = NIC, src: str = KERNEL, kind=None) -> bytes:
    head = Ether(dst=dst, src=src) if kind is None else Ether(dst=dst, src=src, type=kind)
    return raw(head / (Raw(payload) if isinstance(payload, bytes) else payload))


def of_size(size: int) -> bytes:
    return eth(noise(size - 14, size), kind=0x88B5)


def ip4(payload: Packet, **fields) -> Packet:
    return IP(src="198.51.100.1", dst="198.51.100.2", **fields) / payload


def ip6(payload: Packet, **fields) -> Packet:
    return IPv6(src="2001:db8::1", dst="2001:db8::2", **fields) / payload


def tcp(**fields) -> Packet:
    return TCP(sport=1234, dport=80, seq=7, **fields)


def ordinary() -> list[Row]:
    udp, data = UDP(sport=9, dport=9), Raw(noise(200))
    fragments4 = fragment(ip4(udp / Raw(noise(4000)), id=77), fragsize=1400)
    fragments6 = fragment6(ip6(IPv6ExtHdrFragment(id=7) / udp / Raw(noise(4000))), 1280)
    rows = {
        "arp who-has": eth(ARP(pdst="198.51.100.9"), dst=BROADCAST),
        "arp reply": eth(ARP(op=2, hwdst=NIC)),
        "gratuitous arp": eth(ARP(op=2, psrc="198.51.100.1", pdst="198.51.100.1"), dst=BROADCAST),
        "arp of another hardware": eth(ARP(hwtype=6, hwlen=2, hwsrc=b"ab", hwdst=b"cd")),
        "udp": eth(ip4(udp / data)),
        "udp without a sum": eth(ip4(UDP(sport=9, dport=9, chksum=0) / data)),
        "udp with a bad sum": eth(ip4(UDP(sport=9, dport=9, chksum=0xDEAD) / data)),
        "udp that says it is longer": eth(ip4(UDP(sport=9, dport=9, len=9000) / data)),
        "udp that says it is shorter": eth(ip4(UDP(sport=9, dport=9, len=3) / data)),
        "tcp syn": eth(ip4(tcp(flags="S", options=[("MSS", 1460), ("WScale", 7)]))),
        "tcp with a bad sum": eth(ip4(tcp(flags="A", chksum=1) / data)),
        "tcp with every flag": eth(ip4(tcp(flags=0x1FF) / data)),
        "tcp with no flag": eth(ip4(tcp(flags=0) / data)),
        "tcp whose header ends beyond it": eth(ip4(tcp(dataofs=15))),
        "tcp with urgent data": eth(ip4(tcp(flags="UA", urgptr=9) / data)),
        "icmp echo": eth(ip4(ICMP(seq=1) / data)),
        "icmp with a bad sum": eth(ip4(ICMP(chksum=5) / data)),
        "icmp error about nothing": eth(ip4(ICMP(type=3, code=1))),
        "sctp": eth(ip4(SCTP(sport=1, dport=2) / SCTPChunkInit())),
        "igmp": eth(ip4(Raw(noise(8)), proto=2, ttl=1), dst="01:00:5e:00:00:01"),
        "gre": eth(ip4(GRE() / ip4(udp / data))),
        "ip in ip": eth(ip4(ip4(udp))),
        "vxlan": eth(ip4(UDP(dport=4789) / VXLAN(vni=7) / Ether(dst=NIC, src=KERNEL) / ip4(udp))),
        "dns": eth(ip4(UDP(sport=5353, dport=53) / DNS(qd=DNSQR(qname="example.org")))),
        "dhcp": eth(IP() / UDP(sport=68, dport=67) / BOOTP() / DHCP(), dst=BROADCAST),
        "ip with options": eth(ip4(udp / data, options=[b"\x07\x27\x04" + bytes(36)])),
        "ip with a bad sum": eth(ip4(udp, chksum=0x1234)),
        "ip of version 7": eth(ip4(udp, version=7)),
        "ip with a header of 8 bytes": eth(ip4(udp, ihl=2)),
        "ip longer than its frame": eth(ip4(udp, len=60000)),
        "ip shorter than its header": eth(ip4(udp, len=10)),
        "ip cut in its header": eth(ip4(udp))[:24],
        "ip with ttl 0": eth(ip4(udp, ttl=0)),
        "land": eth(IP(src="198.18.0.1", dst="198.18.0.1") / tcp(flags="S")),
        "fragment beyond 64 KiB": eth(ip4(data, frag=8191, proto=17)),
        "fragment of nothing": eth(ip4(Raw(b""), flags="MF", frag=100)),
        **{f"fragment {i}": eth(f) for i, f in enumerate(fragments4)},
        "overlapping fragment": eth(ip4(data, id=77, frag=100, flags="MF", proto=17)),
        "ipv6 udp": eth(ip6(udp / data)),
        "ipv6 tcp": eth(ip6(tcp(flags="S"))),
        "ipv6 echo": eth(ip6(ICMPv6EchoRequest(data=noise(64)))),
        "neighbour solicitation": eth(ip6(ICMPv6ND_NS(tgt="2001:db8::2"))),
        "ipv6 hop by hop": eth(ip6(IPv6ExtHdrHopByHop() / udp)),
        "ipv6 routing": eth(ip6(IPv6ExtHdrRouting(addresses=["2001:db8::3"]) / udp)),
        "ipv6 all extension headers": eth(
            ip6(IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt() / udp / data)
        ),
        "ipv6 headers in a wrong order": eth(ip6(IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / udp)),
        "ipv6 with no next header": eth(ip6(data, nh=59)),
        "ipv6 jumbo payload of nothing": eth(ip6(udp, plen=0)),
        "ipv6 longer than its frame": eth(ip6(udp, plen=60000)),
        **{f"ipv6 fragment {i}": eth(f) for i, f in enumerate(fragments6)},
        "ipv6 atomic fragment": eth(ip6(IPv6ExtHdrFragment() / udp)),
        "vlan": eth(Dot1Q(vlan=100) / ip4(udp / data)),
        "vlan with priority only": eth(Dot1Q(vlan=0, prio=7) / ip4(udp)),
        "vlan with two bytes inside": eth(Dot1Q(vlan=4095, type=0x88B5) / Raw(b"ab")),
        "qinq": eth(Dot1AD(vlan=10) / Dot1Q(vlan=20) / ip4(udp / data)),
        "three tags": eth(Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / ip4(udp)),
        "802.3 spanning tree": raw(Dot3(dst="01:80:c2:00:00:00", src=KERNEL) / LLC() / STP()),
        "802.3 snap": raw(Dot3(dst=NIC, src=KERNEL) / LLC() / SNAP() / Raw(noise(50))),
        "802.3 whose length is wrong": eth(noise(50), kind=1400),
        "pause": eth(b"\x00\x01\xff\xff" + bytes(42), dst="01:80:c2:00:00:01", kind=0x8808),
        "eapol": eth(EAPOL()),
        "mpls": eth(b"\x00\x01\x41\x40" + raw(ip4(udp)), kind=0x8847),
        "pppoe": eth(b"\x11\x00\x00\x01\x00\x02\xc0\x21", kind=0x8864),
        "an unknown type": eth(noise(100), kind=0xFFFF),
        "for somebody else": eth(ip4(udp), dst="02:00:00:00:00:99"),
        "from ourselves": eth(ip4(udp), src=NIC),
        "from a group address": eth(ip4(udp), src=BROADCAST),
        "all zeros": bytes(60),
        "all ones": b"\xff" * 60,
        "nothing but a header": of_size(14),
        "one byte": of_size(15),
        "a runt": of_size(42),
        "the shortest of a wire": of_size(60),
        "the longest": of_size(1514),
        "the longest with a tag": eth(Dot1Q(vlan=5, type=0x88B5) / Raw(noise(1500))),
    }
    storm = {
        f"arp storm {i}": eth(ARP(pdst=f"198.51.100.{i}"), dst=BROADCAST) for i in range(1, 101)
    }
    return [
        # The kernel wants to read two bytes behind a tag (skb_vlan_untag), and there are none.
        Row("vlan with nothing inside", eth(Dot1Q(vlan=4095, type=0x88B5)), lost=True),
        *(Row(name, frame) for name, frame in (rows | storm).items()),
    ]


REFUSED = [
    Row("nothing at all", b"", errno.EINVAL, FrameError),
    Row("one byte of a header", b"\x02", errno.EINVAL, FrameError),
    Row("a header less one byte", of_size(14)[:13], errno.EINVAL, FrameError),
    Row("one byte too long", of_size(1515), errno.EMSGSIZE, FrameSizeError),
    Row("a tag does not make room for two", eth(Dot1Q(vlan=5) / Raw(noise(1501))), errno.EMSGSIZE,
        FrameSizeError),
    Row("six times too long", of_size(9014), errno.EMSGSIZE, FrameSizeError),
]  # fmt: skip

JUMBO = [
    Row("just above a page with its header", of_size(4096 - 12 + 1)),
    Row("two pages less the header", of_size(8192 - 12)),
    Row("9014", of_size(9014)),
    Row("32 KiB", of_size(32768)),
    Row("the longest ip", eth(ip4(UDP(sport=9, dport=9) / Raw(noise(65520 - 28))))),
    Row("65534", of_size(65534)),
]


def test_the_table_is_long_enough():
    names = [row.name for row in ordinary() + REFUSED + JUMBO]
    assert len(names) == len(set(names))
    assert sum("storm" not in name for name in names) >= 60


def tables():
    return [
        pytest.param(1500, ordinary() + REFUSED, id="1500"),
        pytest.param(65520, JUMBO, id="65520"),
    ]


@pytest.mark.parametrize(("mtu", "rows"), tables())
def test_from_the_kernel(wire, mtu, rows):
    w = wire(mtu=mtu)
    arrived = 0
    for row in rows:
        if row.kernel:
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is what counts
                w.kernel.send(row.frame)
            assert caught.value.errno == row.kernel, row.name
            continue
        w.kernel.send(row.frame)
        (frame,) = w.nic.recv(timeout=20)
        with frame:
            assert b"".join(frame.segments) == row.frame, row.name
            assert len(frame) == len(row.frame), row.name
            assert frame.offload == Offload(), row.name  # none is marked as checked
        arrived += 1
    s = w.nic.stats()
    assert (s.rx_received, s.rx_delivered, s.rx_dropped) == (arrived, arrived, 0)
    assert w.nic.device_stats().rx_truncated == 0
    assert w.tap.tx_dropped == 0
    w.nic.check()


@pytest.mark.polled("it empties the queue while nobody looks")
def test_a_storm_at_once(wire):
    """More frames than the ring holds come, and nothing takes them; missing ones are counted."""
    w = wire(ring_size=32)
    storm = [row.frame for row in ordinary() if "storm" in row.name] * 30
    for frame in storm:
        w.kernel.send(frame)
    got = []
    while frames := w.nic.recv(timeout=0.2):
        for frame in frames:
            with frame:
                got.append(b"".join(frame.segments))
    dropped = w.tap.tx_dropped
    assert len(got) + dropped == len(storm)
    # The queue keeps the first ones, in their order; those that came when it was full are gone.
    assert got == storm[: len(got)]
    assert w.nic.stats().rx_dropped == 0
    w.nic.check()


@pytest.mark.parametrize(("mtu", "rows"), tables())
def test_to_the_kernel(wire, mtu, rows):
    w = wire(mtu=mtu)
    w.kernel.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    sent = 0
    for row in rows:
        if row.nic:
            with pytest.raises(row.nic):
                w.nic.send(row.frame)
            continue
        w.nic.send(row.frame)
        sent += 1
        if not row.lost:
            assert seen(w.kernel) == row.frame, row.name
    w.nic.flush(60)
    s = w.nic.stats()
    assert (s.tx_queued, s.tx_completed, s.tx_outstanding) == (sent, sent, 0)
    assert w.nic.device_stats().tx_refused == 0
    w.nic.check()


def seen(kernel: socket.socket) -> bytes:
    """Return the next frame from the NIC as it was; the kernel keeps a VLAN tag beside it."""
    while True:
        data, ancillary, _, (_, _, kind, *_) = kernel.recvmsg(1 << 17, 256)
        if kind != 4:  # PACKET_OUTGOING
            break
    for level, what, value in ancillary:
        if (level, what) == (SOL_PACKET, PACKET_AUXDATA):
            status, *_, tci, tpid = struct.unpack("=IIIHHHH", value[:20])
            if status & TP_STATUS_VLAN_VALID:
                kind = tpid if status & TP_STATUS_VLAN_TPID_VALID else ETH_P_8021Q
                return data[:12] + struct.pack("!HH", kind, tci) + data[12:]
    return data
