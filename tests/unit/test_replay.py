"""Capture files that scapy wrote, read frame by frame."""

import gzip
import os
import struct
import threading
import tracemalloc

import pytest
from nic_harness.errors import CaptureCutError, FileError
from nic_harness.replay import Recorded, read_capture
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapNgWriter, PcapWriter

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
    tolerance = 1000 if kind == "pcapng" else 0  # scapy was given a float there
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
    for junk in (
        b"",
        b"\xd4\xc3",
        gzip.compress(gzip.compress(b"")),
        b"no capture at all, but long enough to be looked at",
    ):
        path.write_bytes(junk)
        with pytest.raises(FileError, match="it is not a pcap or pcapng file") as caught:
            list(read_capture(path))
        assert "\n" not in str(caught.value)
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 113))
    with PcapWriter(str(path), linktype=113) as writer:
        writer.write(Raw(bytes(60)))
    with pytest.raises(FileError, match="link type 113, not Ethernet's"):
        list(read_capture(path))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["us", "ns", "pcapng"])
def test_a_file_that_was_cut_gives_its_whole_frames_and_says_so(tmp_path, kind, packed):
    path = tmp_path / "it"
    write(path, kind)
    data = path.read_bytes()
    starts = [data.index(frame) for frame in FRAMES]
    behind = 4 if kind == "pcapng" else 0  # the length again
    # Of one byte more or less than what a frame needs, and in the middle of its header.
    for n, (start, frame) in enumerate(zip(starts, FRAMES, strict=True)):
        end = start + len(frame) + -len(frame) % 4 * (behind > 0) + behind
        for size, frames, cut in (
            (start - 1, n, True),
            (start, n, True),
            (start + 30, n, True),
            (end - 1, n, True),
            (end, n + 1, False),
            (min(end + 5, len(data)), n + 1, end < len(data)),
        ):
            path.write_bytes(gzip.compress(data[:size]) if packed else data[:size])
            got = []
            if cut:
                with pytest.raises(CaptureCutError, match=f"cut short, after {frames} whole"):
                    got.extend(read_capture(path))
            else:
                got.extend(read_capture(path))
            assert [f.data for f in got] == FRAMES[:frames]


def test_a_gzip_file_that_was_cut(tmp_path):
    path = tmp_path / "it"
    write(path, "pcapng")
    packed = gzip.compress(path.read_bytes())
    for size in range(len(packed) // 2, len(packed)):
        path.write_bytes(packed[:size])
        got = []
        with pytest.raises(CaptureCutError):
            got.extend(read_capture(path))
        assert [f.data for f in got] == FRAMES[: len(got)]
    assert len(got) == len(FRAMES)  # only gzip's own sums are missing


def test_a_pipe(tmp_path):
    path = tmp_path / "it"
    write(path, "pcapng")
    read, written = os.pipe()
    os.write(written, gzip.compress(path.read_bytes()))
    os.close(written)
    try:
        assert [f.data for f in read_capture(f"/proc/self/fd/{read}")] == FRAMES
    finally:
        os.close(read)


@pytest.mark.parametrize("kind", ["us", "ns", "pcapng"])
def test_a_file_that_was_cut_inside_its_header(tmp_path, kind):
    path = tmp_path / "it"
    write(path, kind)
    data = path.read_bytes()
    header = struct.unpack_from("<I", data, 4)[0] if kind == "pcapng" else 24
    for size in range(header + 1):
        for content in (data[:size], gzip.compress(data[:size])):
            path.write_bytes(content)
            if size == header:  # no frames are no harm
                assert list(read_capture(path)) == []
                continue
            with pytest.raises(FileError) as caught:
                list(read_capture(path))
            assert isinstance(caught.value, CaptureCutError) == (size >= 4)
            assert ("after 0 whole" in str(caught.value)) == (size >= 4)
    packed = gzip.compress(data)
    for size in range(2, 20):
        path.write_bytes(packed[:size])
        with pytest.raises(CaptureCutError, match="after 0 whole"):
            list(read_capture(path))


def damaged(data, kind):
    """Yield damaged files, with a wrong length of the third frame or of its block."""
    start = data.index(FRAMES[2])
    longer = (len(FRAMES[2]) + 4, 1 << 25, 0xFFFFFFF0)
    # Where it is, before the frame, and what cannot be there.
    if kind == "pcapng":
        wrong = [(start - 8, longer), (start - 24, (0, 8, 13, *longer))]
    else:
        wrong = [(start - 8, longer[1:])]
    for at, values in wrong:
        for value in values:
            yield data[:at] + struct.pack("<I", value) + data[at + 4 :]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["us", "ns", "pcapng"])
def test_a_length_that_is_damaged_is_called_so_and_not_believed(tmp_path, kind, packed):
    path = tmp_path / "it"
    write(path, kind)
    for content in damaged(path.read_bytes(), kind):
        path.write_bytes(gzip.compress(content) if packed else content)
        got = []
        tracemalloc.start()
        try:
            with pytest.raises(FileError, match="it is damaged, after 2 whole frames") as caught:
                got.extend(read_capture(path))
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
        assert not isinstance(caught.value, CaptureCutError)
        assert [f.data for f in got] == FRAMES[:2]


def test_gzip_that_is_damaged(tmp_path):
    path = tmp_path / "it"
    write(path, "us")
    packed = bytearray(gzip.compress(path.read_bytes()))
    packed[-8] ^= 1  # of the sum of all
    path.write_bytes(packed)
    got = []
    with pytest.raises(FileError, match=f"damaged, after {len(FRAMES)} whole frames: CRC"):
        got.extend(read_capture(path))
    assert [f.data for f in got] == FRAMES


@pytest.mark.parametrize("kind", ["us", "pcapng"])
def test_a_pipe_gives_a_frame_when_it_was_written(tmp_path, kind):
    path, fifo = tmp_path / "it", tmp_path / "fifo"
    write(path, kind)
    data = path.read_bytes()
    end = 4 * (kind == "pcapng")  # the length again
    ends = [data.index(f) + len(f) + (-len(f) % 4 + 4) * (end > 0) for f in FRAMES]
    os.mkfifo(fifo)
    taken = threading.Semaphore(0)
    late = []  # frames that came only after the next one was written

    def write_slowly():
        with fifo.open("wb", buffering=0) as out:
            begin = 0
            for i, stop in enumerate(ends):
                out.write(data[begin : begin + 1])  # the bytes may come in any pieces
                out.write(data[begin + 1 : stop])
                begin = stop
                if not taken.acquire(timeout=30):
                    late.append(i)
                    return

    writer = threading.Thread(target=write_slowly)
    writer.start()
    got = []
    for frame in read_capture(fifo):
        got.append(frame.data)
        taken.release()
    writer.join()
    assert late == []
    assert got == FRAMES
