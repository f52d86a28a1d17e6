"""scapy's own calls work over a NIC, with opened_socket= and socket=."""

import time
from contextlib import suppress

import pytest
from nic_harness import Offloads
from nic_harness.scapy_socket import NicSocket
from scapy.config import conf
from scapy.error import Scapy_Exception
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.sendrecv import AsyncSniffer, sendp, sniff
from scapy.supersocket import SuperSocket

OURS, KERNELS = "198.18.0.2", "198.18.0.1"


class KernelSide(SuperSocket):
    """A packet socket of the namespace, for scapy as the second source."""

    def __init__(self, sock):
        self.ins = self.outs = sock

    def recv_raw(self, x=65535):
        data, (_, _, kind, *_) = self.ins.recvfrom(x)
        return (None, None, None) if kind == 4 else (Ether, data, time.time())

    def close(self):
        pass


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(conf, "verb", 0)


def ether(w):
    return Ether(src=w.tap.nic_mac, dst=w.tap.mac)


def test_sr1_gets_the_kernels_answer_to_arp_and_ping(wire):
    w = wire()
    with NicSocket(w.nic) as sock:
        who_has = Ether(src=w.tap.nic_mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
            hwsrc=w.tap.nic_mac, psrc=OURS, pdst=KERNELS
        )
        answer = sock.sr1(who_has, timeout=5)
        assert answer[ARP].hwsrc == w.tap.mac
        ping = ether(w) / IP(src=OURS, dst=KERNELS) / ICMP(id=7, seq=1) / Raw(b"x" * 1000)
        before = time.time()
        answer = sock.sr1(ping, timeout=5)
        assert answer[ICMP].type == 0
        assert answer[Raw].load == b"x" * 1000
        assert abs(answer.time - before) < 60
        who_has[ARP].pdst = "198.18.0.9"
        assert sock.sr1(who_has, timeout=0.2) is None


def test_sr_with_many_and_threads(wire):
    w = wire()
    with NicSocket(w.nic) as sock:
        pings = [ether(w) / IP(src=OURS, dst=KERNELS) / ICMP(id=7, seq=i) for i in range(20)]
        w.tap.static_neighbour()
        w.tap.namespace.sysctl("ipv4.icmp_ratelimit", 0)
        answered, unanswered = sock.sr(pings, timeout=5)
        assert (len(answered), len(unanswered)) == (20, 0)


def test_sendp_is_seen_by_scapy_on_the_other_side(wire):
    w = wire()
    frames = [Ether(b"\x02" * 12 + b"\x88\xb5" + bytes([i]) * 50) for i in range(10)]
    with NicSocket(w.nic) as sock:
        sendp(frames, socket=sock)
    seen = sniff(opened_socket=KernelSide(w.kernel), count=10, timeout=5)
    assert [bytes(p) for p in seen] == [bytes(f) for f in frames]


def test_sniff_what_scapy_sends_from_the_other_side(wire):
    w = wire()
    frames = [Ether(b"\x02" * 12 + b"\x88\xb5" + bytes([i]) * 50) for i in range(10)]
    sendp(frames, socket=KernelSide(w.kernel))
    with NicSocket(w.nic) as sock:
        # All ten are harvested with the first, and none is waited for at the descriptor.
        seen = sniff(opened_socket=sock, count=4, timeout=5)
        seen += sniff(opened_socket=sock, count=6, timeout=5)
        assert [bytes(p) for p in seen] == [bytes(f) for f in frames]
        assert sniff(opened_socket=sock, timeout=0.05).res == []
    assert w.nic.arena.stats().pages_in_use == w.nic.attached.rx_ring_size


def test_async_sniffer_beside_sendp(wire):
    w = wire()
    w.tap.static_neighbour()
    w.tap.namespace.sysctl("ipv4.icmp_ratelimit", 0)
    with NicSocket(w.nic) as sock:
        sniffer = AsyncSniffer(opened_socket=sock, lfilter=lambda p: ICMP in p)
        sniffer.start()
        sendp([ether(w) / IP(src=OURS, dst=KERNELS) / ICMP(seq=i) for i in range(30)], socket=sock)
        deadline = time.monotonic() + 5
        while sniffer.count < 30 and time.monotonic() < deadline:
            time.sleep(0.01)
        seen = sniffer.stop()
    assert [p[ICMP].seq for p in seen] == list(range(30))
    assert {p[ICMP].type for p in seen} == {0}


def test_a_sniffer_ends_when_the_nic_is_closed(wire):
    w = wire()
    sniffer = AsyncSniffer(opened_socket=NicSocket(w.nic))
    sniffer.start()
    time.sleep(0.1)
    w.nic.close()
    w.kernel.send(b"\x02" * 60)
    # "not running", or its pipe already closed: it has seen the end by itself.
    with suppress(Scapy_Exception, OSError):
        sniffer.stop()
    sniffer.thread.join(10)
    assert not sniffer.thread.is_alive()


def test_sums_left_to_do_are_done(wire):
    """Of a TCP frame and of a UDP frame of the kernel's: scapy computes the same ones."""
    w = wire()
    w.tap.static_neighbour()
    with NicSocket(w.nic) as sock, w.tap.namespace.socket() as tcp:
        tcp.setblocking(False)
        tcp.connect_ex((OURS, 80))
        (syn,) = sniff(opened_socket=sock, lfilter=lambda p: TCP in p, count=1, timeout=5)
        with w.tap.namespace.socket(type=2) as udp:
            udp.sendto(b"some bytes", (OURS, 53))
        (datagram,) = sniff(opened_socket=sock, lfilter=lambda p: UDP in p, count=1, timeout=5)
    for packet, layer in ((syn, TCP), (datagram, UDP)):
        again = packet.copy()
        del again[layer].chksum
        assert Ether(bytes(again))[layer].chksum == packet[layer].chksum


def test_frames_of_every_size(wire):
    w = wire(mtu=65520, offloads=Offloads.NONE)
    with NicSocket(w.nic) as sock:
        for size in (14, 60, 1514, 4096, 9014, 65534):
            frame = Ether(b"\x02" * 12 + b"\x88\xb5" + bytes(i % 251 for i in range(size - 14)))
            sendp(frame, socket=KernelSide(w.kernel))
            (seen,) = sniff(opened_socket=sock, count=1, timeout=5)
            assert bytes(seen) == bytes(frame)
            sendp(frame, socket=sock)
            (seen,) = sniff(opened_socket=KernelSide(w.kernel), count=1, timeout=5)
            assert bytes(seen) == bytes(frame)


def test_send_returns_the_length_and_stamps_the_packet(wire):
    w = wire()
    with NicSocket(w.nic) as sock:
        packet = Ether() / (b"x" * 50)
        assert sock.send(packet) == 64
        assert abs(packet.sent_time - time.time()) < 60
