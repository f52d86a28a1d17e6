"""Capture files that scapy wrote, read frame by frame."""

import gzip
import struct

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapNgWriter, PcapWriter

from harness.errors import FileError
from harness.replay import Recorded, read_capture

NS = 1_700_000_000_123_456_000  # whole microseconds: all formats have those
FRAMES = [bytes(12) + b"\x88\xb5" + bytes([i]) * (46 + i) for i in range(5)]


def packets():
    for i, data in enumerate(FRAMES):
        packet = Ether(data)
        packet.time = (NS // 1000 + i) / 1e6
        yield packet


def write(path, kind):
    if kind == "pcapng":
        with PcapNgWriter(str(path)) as writer:
            writer.write(list(packets()))
        return
    with PcapWriter(str(path), nano=kind == "ns") as writer:
        writer.write_header(next(packets()))
        for i, packet in enumerate(packets()):
            ns = NS + 1000 * i
            sub = ns % 10**9 if kind == "ns" else ns % 10**9 // 1000
            writer.write_packet(bytes(packet), sec=ns // 10**9, usec=sub)


@pytest.mark.parametrize("kind", ["us", "ns", "pcapng"])
def test_every_format(tmp_path, kind):
    path = tmp_path / "it"
    write(path, kind)
    found = list(read_capture(path))
    assert [r.data for r in found] == FRAMES
    assert all(isinstance(r, Recorded) for r in found)
    tolerance = 1000 if kind == "pcapng" else 0  # it was given a float there
    for i, r in enumerate(found):
        assert abs(r.ns - NS - 1000 * i) <= tolerance


def test_compressed(tmp_path):
    plain, packed = tmp_path / "it", tmp_path / "it.gz"
    write(plain, "us")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_capture(packed)) == list(read_capture(plain))


def test_what_cannot_be_replayed_is_named(tmp_path):
    path = tmp_path / "it"
    with pytest.raises(FileError, match=f"read {path}: No such file"):
        list(read_capture(path))
    for junk in (b"", b"\xd4\xc3", b"no capture at all, but long enough to be looked at"):
        path.write_bytes(junk)
        with pytest.raises(FileError, match="it is no pcap or pcapng file") as caught:
            list(read_capture(path))
        assert "\n" not in str(caught.value)
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 113))
    with PcapWriter(str(path), linktype=113) as writer:
        writer.write(Raw(bytes(60)))
    with pytest.raises(FileError, match="link type 113, not Ethernet's"):
        list(read_capture(path))
