"""We cut super-frames that the other side does not take, and scapy checks each frame."""

import pytest
from nic_harness import Nic, Offloads, Tap
from nic_harness.errors import FrameError
from nic_harness.nic.frame import Gso, Offload
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
ETHER = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
IP4 = IP(src="198.18.0.2", dst="198.18.0.99", id=0xFFFE, flags="DF")
IP6 = IPv6(src="fd00::2", dst="fd00::99")
FAPC = TCP(sport=1, dport=2, seq=0xFFFFFF00, flags="FPAC")

KINDS = {
    "tcp4": (ETHER / IP4 / FAPC, Gso.TCP4),
    "tcp4 with options": (ETHER / IP4 / TCP(flags="PA", options=TIMESTAMPS), Gso.TCP4),
    "tcp4 on a VLAN": (ETHER / Dot1Q(vlan=7) / IP4 / FAPC, Gso.TCP4),
    "tcp6": (ETHER / IP6 / FAPC, Gso.TCP6),
    "tcp6 behind an extension": (ETHER / IP6 / IPv6ExtHdrDestOpt() / FAPC, Gso.TCP6),
    "udp4": (ETHER / IP4 / UDP(sport=1, dport=2), Gso.UDP),
    "udp6": (ETHER / IP6 / UDP(sport=1, dport=2), Gso.UDP),
}


def super_frame(head, gso, payload, size):
    """Return a super-frame as a stack hands it over, and the work that is left to do on it."""
    packet = Ether(bytes(head / Raw(payload)))  # lengths and sums by scapy
    transport = packet[TCP] if TCP in packet else packet[UDP]
    start = len(packet) - len(transport)
    hdr_len = len(packet) - len(payload)
    offload = Offload(
        needs_csum=True,
        csum_start=start,
        csum_offset=16 if TCP in packet else 6,
        gso=gso,
        gso_size=size,
        hdr_len=hdr_len,
        ecn=False,
    )
    return bytes(packet), offload


def expected(head, payload, size):
    """Return the frames, made by scapy from scratch."""
    frames = []
    for number, off in enumerate(range(0, len(payload), size)):
        part = payload[off : off + size]
        f = head.copy()
        if IP in f:
            f[IP].id = (head[IP].id + number) & 0xFFFF
        if TCP in f:
            f[TCP].seq = (head[TCP].seq + off) & 0xFFFFFFFF
            if off + size < len(payload):
                f[TCP].flags = str(f[TCP].flags).replace("F", "").replace("P", "")
            if off:
                f[TCP].flags = str(f[TCP].flags).replace("C", "")
        frames.append(bytes(f / Raw(part)))
    return frames


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 20000, 60000])
def test_frames_are_those_that_scapy_makes(kind, length):
    head, gso = KINDS[kind]
    payload = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(length))
    data, offload = super_frame(head, gso, payload, 1000)
    want = expected(head, payload, 1000)
    with (
        Tap() as tap,
        Nic(tap, offloads=Offloads.NONE) as nic,
        tap.namespace.packet_socket(tap.name) as kernel,
    ):
        kernel.settimeout(30)
        nic.send(data, offload=offload)
        got = []
        while len(got) < len(want):
            frame, where = kernel.recvfrom(2000)
            if where[2] != 4:  # PACKET_OUTGOING: the kernel's own
                got.append(frame)
        if Dot1Q in head:  # the kernel takes the tag out of the bytes, and tells of it elsewhere
            want = [w[:12] + w[16:] for w in want]
        assert got == want
        stats = nic.stats()
        assert stats.tx_gso_soft == 1
        assert stats.tx_csum_soft == stats.tx_queued == len(want)
        nic.check()


def test_a_super_frame_of_another_kind_is_refused():
    data, offload = super_frame(*KINDS["tcp6"], bytes(5000), 1000)
    wrong = Offload(
        needs_csum=True,
        csum_start=offload.csum_start,
        csum_offset=16,
        gso=Gso.TCP4,
        gso_size=1000,
        hdr_len=offload.hdr_len,
    )
    with Tap() as tap, Nic(tap, offloads=Offloads.NONE) as nic:
        with pytest.raises(FrameError, match="make no sense"):
            nic.send(data, offload=wrong)
        assert nic.stats().tx_queued == 0
        nic.check()
