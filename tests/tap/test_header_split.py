"""Header split and coalescing from Python, the frames made by scapy."""

import pytest
from nic_harness import Nic, Tap
from nic_harness.errors import ArgumentError, UnsupportedError
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]


def frames(tap):
    """Return frames for the NIC, and whether their headers are 66 bytes."""
    ether = Ether(src=tap.mac, dst=tap.nic_mac)
    ip = IP(src="198.18.0.1", dst="198.18.0.2")
    payload = Raw(bytes(range(256)) * 5)
    return [
        (ether / ip / TCP(options=TIMESTAMPS) / payload, True),
        (ether / ip / TCP() / payload, False),
        (ether / ip / UDP() / payload, False),
        (ether / ip / UDP() / b"short", None),  # it fits into the buffer for headers
    ]


def test_payload_starts_on_a_page_where_the_headers_have_the_length(device):
    if device == "vhost_net":
        pytest.skip("vhost_net splits no headers off: the test below")
    with Tap() as tap, Nic(tap, device=device, header_split=66) as nic:
        with tap.namespace.packet_socket(tap.name, 0) as sender:
            for packet, _ in frames(tap):
                sender.send(bytes(packet))
            received = []
            while len(received) < 4:
                received += nic.recv(timeout=30)
        for frame, (packet, hit) in zip(received, frames(tap), strict=True):
            raw = bytes(packet)
            assert b"".join(bytes(s) for s in frame.segments) == raw
            assert len(frame.segments[0]) == min(66, len(raw))
            if hit:
                assert bytes(frame.segments[1]) == bytes(packet[TCP].payload)
            frame.release()
        stats = nic.stats()
        assert (stats.rx_split_hit, stats.rx_split_miss) == (1, 2)
        assert stats.rx_headers_delivered == 4
        assert (
            stats.rx_returned
            == stats.rx_pages_delivered + stats.rx_headers_delivered + stats.rx_recycled
        )
        nic.check()


@pytest.mark.parametrize(
    "wrong",
    [
        {"header_split": 13},
        {"header_split": 157},
        {"low_water": 5},
        {"low_water": 257},
        {"coalesce_frames": 4},
        {"coalesce_us": -1},
    ],
)
def test_values_out_of_range_are_named(wrong):
    with Tap() as tap, pytest.raises(ArgumentError, match=next(iter(wrong))):
        Nic(tap, **wrong)


def test_vhost_net_splits_no_headers():
    with Tap() as tap, pytest.raises(UnsupportedError, match="splits no headers"):
        Nic(tap, device="vhost_net", header_split=66)


def test_frames_come_with_coalescing_and_a_low_water():
    with Tap() as tap, Nic(tap, coalesce_us=500, low_water=64) as nic:
        with tap.namespace.packet_socket(tap.name, 0) as sender:
            for number in range(300):
                sender.send(b"\xff" * 12 + b"\x88\xb5" + number.to_bytes(2) + bytes(50))
                (frame,) = nic.recv(timeout=30)
                assert bytes(frame.data[14:16]) == number.to_bytes(2)
                frame.release()
        assert nic.stats().rx_delivered == 300
        nic.check()
