"""Captures of every kind, written byte by byte: we read what tshark reads."""

import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from typing import NamedTuple

import pytest
from nic_harness.errors import CaptureCutError, CaptureDamagedError, ClosedError, FileError
from nic_harness.replay import read_capture

FRAME = bytes.fromhex("020000000001 020000000002 88b5") + bytes(range(46))
FCS = b"\xde\xad\xbe\xef"
NS = 1_700_000_000_123_456_789
ETHERNET, COOKED, USB = 1, 113, 220


class Order(NamedTuple):
    """A byte order, and the blocks that are written in it."""

    mark: str

    def pack(self, layout, *values):
        return struct.pack(self.mark + layout, *values)

    def block(self, kind, body):
        body += bytes(-len(body) % 4)
        total = self.pack("I", len(body) + 12)
        return self.pack("I", kind) + total + body + total

    def option(self, code, value):
        return self.pack("HH", code, len(value)) + value + bytes(-len(value) % 4)

    def section(self, options=b"", length=-1, version=(1, 0)):
        return self.block(0x0A0D0D0A, self.pack("IHHq", 0x1A2B3C4D, *version, length) + options)

    def interface(self, *options, link=ETHERNET, snaplen=0):
        body = self.pack("HHI", link, 0, snaplen)
        return self.block(1, body + b"".join(self.option(*o) for o in options))

    def packet(self, ticks=0, data=FRAME, *options, interface=0, length=None):
        body = self.pack(
            "5I",
            interface,
            ticks >> 32,
            ticks & 0xFFFFFFFF,
            len(data),
            len(data) if length is None else length,
        )
        body += data + bytes(-len(data) % 4)
        return self.block(6, body + b"".join(self.option(*o) for o in options))

    def old_packet(self, ticks, data=FRAME, *options, interface=0, drops=3):
        body = self.pack(
            "HHIIII",
            interface,
            drops,
            ticks >> 32,
            ticks & 0xFFFFFFFF,
            len(data),
            len(data),
        )
        body += data + bytes(-len(data) % 4)
        return self.block(2, body + b"".join(self.option(*o) for o in options))

    def simple(self, data=FRAME, length=None):
        return self.block(3, self.pack("I", len(data) if length is None else length) + data)

    def pcap(self, magic, last=ETHERNET, version=(2, 4)):
        return self.pack("IHHiIII", magic, *version, 0, 0, 65535, last)

    def record(self, sec, fraction, data=FRAME, more=b"", length=None):
        length = len(data) if length is None else length
        return self.pack("IIII", sec, fraction, len(data), length) + more + data


LE, BE = Order("<"), Order(">")
US, NANO, KUZNETZOV = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34


def tick(resolution):
    """Return the time NS in units of an if_tsresol."""
    n = resolution & 0x7F
    return NS * 2**n // 10**9 if resolution & 0x80 else NS * 10**n // 10**9


def sub_second(resolution, ticks=12_345):
    """Return a file whose resolution is too fine for any date."""
    o = LE
    return o.section() + o.interface((9, bytes([resolution]))) + o.packet(ticks)


def files():
    """Name files of each kind, and make their bytes."""
    for name, o in (("little", LE), ("big", BE)):
        sec, ns = divmod(NS, 10**9)
        yield f"us-{name}", o.pcap(US) + o.record(sec, ns // 1000) + o.record(sec + 1, 999_999)
        yield f"ns-{name}", o.pcap(NANO) + o.record(sec, ns) * 2 + o.record(0xFFFFFFFF, 0)
        kernel = [o.pack("IHBB", 2, 0x88B5, kind, 0) for kind in range(5)]
        records = b"".join(o.record(sec, ns // 1000, FRAME, more) for more in kernel)
        yield f"kuznetzov-{name}", o.pcap(KUZNETZOV) + records
        record = o.record(sec, 0, FRAME + FCS)
        yield f"fcs-f-bit-{name}", o.pcap(US, 1 | 1 << 26 | 2 << 28) + record * 2
        yield f"reserved-bits-{name}", o.pcap(US, 1 | 1 << 27) + record * 2
        yield f"cut-frames-{name}", o.pcap(US) + o.record(sec, 0, FRAME, length=1500) * 2
        big = b"".join(
            o.record(sec, 0, bytes(12) + b"\x88\xb5" + bytes(n)) for n in (65_522, 70_000, 262_130)
        )
        yield f"large-{name}", o.pcap(US) + big
        for version in ((2, 2), (2, 3)):
            text = "-".join(map(str, version))
            swapped = o.pack("IIII", sec, 5, 1500, len(FRAME)) + FRAME
            yield f"version-{text}-{name}", o.pcap(US, version=version) + swapped
        start = o.section() + o.interface()
        yield (
            f"sections-{name}",
            (
                start
                + o.packet(tick(6))
                + BE.section()
                + BE.interface((9, b"\x09"))
                + BE.packet(NS)
                + LE.section()
                + LE.interface((9, b"\x03"))
                + LE.packet(tick(3))
            ),
        )
        yield (
            f"section-length-{name}",
            (
                o.section(length=len(o.interface() + o.packet()))
                + o.interface()
                + o.packet(1)
                + o.section(length=4)
                + o.interface((9, b"\x09"))
                + o.packet(NS)
            ),
        )
        yield f"minor-2-{name}", o.section(version=(1, 2)) + o.interface() + o.packet(tick(6))
        yield f"snaplen-0-{name}", start + o.packet(tick(6)) + o.simple() + o.simple(FRAME[:15])
        yield f"simple-first-{name}", start + o.simple() + o.packet(tick(6)) + o.simple()
        yield (
            f"simple-snaplen-{name}",
            (
                o.section()
                + o.interface(snaplen=33)
                + o.packet(1)
                + o.simple(FRAME[:33], 60)
                + o.simple(FRAME[:20])
            ),
        )
        yield (
            f"old-packet-{name}",
            (
                o.section()
                + o.interface()
                + o.interface((9, b"\x09"))
                + o.old_packet(tick(6))
                + o.old_packet(NS, FRAME, (2, o.pack("I", 2)), interface=1)
            ),
        )
        for resolution in (0, 1, 3, 6, 9, 10, 0x80, 0x81, 0x8A, 0x9E, 0xA0):
            interface = o.interface((9, bytes([resolution])))
            packets = b"".join(o.packet(tick(resolution) + i) for i in range(3))
            yield f"resolution-{resolution:02x}-{name}", o.section() + interface + packets
        for said in (4, 32):  # in octets, as some write it, and in bits, as the draft says
            yield (
                f"fcs-{said}-{name}",
                (
                    o.section()
                    + o.interface((13, bytes([said])))
                    + o.packet(1, FRAME + FCS)
                    + o.simple(FRAME + FCS)
                ),
            )
        for offset in (1_700_000_000, -1_700_000_000, 1):
            yield (
                f"offset-{offset}-{name}",
                (
                    o.section()
                    + o.interface((9, b"\x09"), (14, o.pack("q", offset)))
                    + o.interface()
                    + o.packet(NS % 10**9 + 2 * 10**18)
                    + o.packet(tick(6), interface=1)
                    + o.packet(2 * 10**18 + 5)
                ),
            )
        flags = [0, 1, 2, 3, 4 << 5 | 2, 0xFFFF0000 | 1]
        yield (
            f"directions-{name}",
            start
            + b"".join(
                o.packet(tick(6), FRAME + FCS * (f >> 5 & 15 == 4), (2, o.pack("I", f)), (0, b""))
                for f in flags
            ),
        )
        yield f"large-ng-{name}", start + o.packet(1, bytes(12) + b"\x88\xb5" + bytes(262_130))
        yield (
            f"mixed-{name}",
            (
                start
                + o.interface(link=COOKED)
                + o.interface(link=USB)
                + o.packet(1)
                + o.packet(2, interface=1)
                + o.packet(3, bytes(300_000), interface=2)
                + o.packet(4)
            ),
        )
        yield f"cut-frames-ng-{name}", start + o.packet(1, length=1500) + o.packet(2)
        yield (
            f"options-{name}",
            (
                o.section(o.option(4, b"by hand") + o.option(0, b""))
                + o.interface(
                    (2, b"eth0"), (3, "an über interface".encode()), (11, b"\0tcp"), (0, b"")
                )
                + o.packet(
                    1,
                    FRAME,
                    (1, b"a comment"),
                    (1, b"another"),
                    (2, o.pack("I", 1)),
                    (4, bytes(8)),
                    (0, b""),
                )
                + o.packet(2, FRAME, (2988, o.pack("I", 9) + b"x"))
                + o.packet(3, FRAME, (1, b"without an end"))
                + o.packet(
                    4,
                    FRAME,
                    (1, b"c" * 65_532),
                    (1, b"c" * 65_532),
                    (1, b"c" * 65_532),
                    (1, b"c" * 65_532),
                    (1, b"c" * 65_532),
                )
            ),
        )
        others = [
            (4, o.pack("HH", 0, 0)),  # names
            (5, o.pack("III", 0, 0, 1)),  # statistics
            (10, o.pack("II", 0x544C534B, 15) + b"CLIENT_RANDOM 0"),  # secrets
            (0xBAD, o.pack("I", 1234) + b"data"),  # custom
            (0x40000BAD, o.pack("I", 1234) + b"data"),
            (0x7777, b"local use"),
            (0x7777, bytes(3_000_000)),
        ]
        yield (
            f"others-{name}",
            start + b"".join(o.block(*x) + o.packet(i) for i, x in enumerate(others)),
        )
        yield f"no-frames-{name}", start
    yield (
        "many-interfaces",
        LE.section() + LE.interface() * 70_000 + LE.packet(1, interface=65_535),
    )
    yield "resolution-bf", sub_second(0xBF, 2**63 + 12_345)


FILES = dict(files())


def run_tshark(path, *options):
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: tools/peers does that")
    done = subprocess.run(["tshark", "-n", "-r", path, *options], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tshark(path):
    """Return what tshark prints of the Ethernet frames: time in ns, length, bytes."""
    found = []
    printed = run_tshark(path, "-T", "json", "-x").decode("utf-8", "replace")
    for packet in json.loads(printed):
        layers = packet["_source"]["layers"]
        frame = layers["frame"]
        if frame.get("frame.encap_type") != "1":
            continue
        time = frame.get("frame.time_epoch")
        sec, _, sub = (time or "0.0").partition(".")
        ns = int(sec) * 10**9 + int(sub.ljust(9, "0")[:9])
        fcs = "eth.fcs" in layers.get("eth", {})
        raw = bytes.fromhex(layers["frame_raw"][0])
        assert len(raw) == int(frame["frame.cap_len"])
        found.append(
            (
                None if time is None else ns,
                int(frame["frame.len"]) - 4 * fcs,
                raw[: len(raw) - 4 * fcs],
            )
        )
    return found


@pytest.mark.parametrize("name", FILES)
def test_tshark_reads_the_same(tmp_path, name):
    path = tmp_path / "it"
    path.write_bytes(FILES[name])
    theirs = tshark(path)
    ours = list(read_capture(path))
    assert len(ours) == len(theirs)
    before = None
    for r, (ns, length, data) in zip(ours, theirs, strict=True):
        before = before if ns is None else ns  # a Simple Packet Block has no time
        assert r.ns == before
        assert r.data == data
        assert (r.length or len(r.data)) == length
        assert r.cut == (length > len(data))


def test_directions_are_told(tmp_path):
    path = tmp_path / "it"
    for order in ("little", "big"):
        path.write_bytes(FILES[f"directions-{order}"])
        # Bits 0 and 1 of epb_flags: 1 in, 2 out.
        assert [r.direction for r in read_capture(path)] == [None, "in", "out", None, "out", "in"]
        field = ["-T", "fields", "-e", "frame.packet_flags_direction"]
        theirs = run_tshark(path, *field).decode().split()
        assert [int(f, 0) for f in theirs] == [0, 1, 2, 3, 2, 1]
        path.write_bytes(FILES[f"kuznetzov-{order}"])
        # sll_pkttype of packet(7): for us, broadcast, multicast, for others; outgoing.
        assert [r.direction for r in read_capture(path)] == ["in"] * 4 + ["out"]


@pytest.mark.parametrize(
    ("resolution", "ticks", "ns"),
    [
        (18, 2**63, 9_223_372_036),  # tshark's arithmetic overflows here
        (19, 2**63, 922_337_203),
        (20, 2**63, 92_233_720),
        (28, 2**64 - 1, 1),
        (29, 2**64 - 1, 0),
        (127, 2**64 - 1, 0),
        (0x80 | 64, 2**63, 500_000_000),
        (0x80 | 127, 2**64 - 1, 0),
        (0, 2**64 - 1, (2**63 - 1) * 10**9),  # the end of time
    ],
)
def test_a_resolution_that_no_clock_has(tmp_path, resolution, ticks, ns):
    path = tmp_path / "it"
    path.write_bytes(sub_second(resolution, ticks))
    (frame,) = read_capture(path)
    assert frame.ns == ns


def test_reserved_bits_of_a_link_type_are_ignored(tmp_path):
    path = tmp_path / "it"
    path.write_bytes(LE.pcap(US, 1 | 0x0BFF << 16) + LE.record(1, 0))
    assert [r.data for r in read_capture(path)] == [FRAME]


def test_other_link_types_are_counted(tmp_path):
    path = tmp_path / "it"
    path.write_bytes(FILES["mixed-little"])
    with read_capture(path) as recording:
        assert len(list(recording)) == 2
        assert recording.other_links == {COOKED: 1, USB: 1}
        assert (recording.frames, recording.other_frames) == (4, 2)
    path.write_bytes(
        LE.section()
        + b"".join(LE.interface(link=200 + i) for i in range(12))
        + b"".join(LE.packet(i, interface=i) for i in range(12))
        + LE.interface()
        + LE.packet(0, interface=12)
    )
    with read_capture(path) as recording:
        assert len(list(recording)) == 1
        assert recording.other_links == {200 + i: 1 for i in range(8)}
        assert recording.other_frames == 12
    path.write_bytes(LE.section() + LE.interface(link=COOKED) + LE.packet())
    with pytest.raises(FileError, match="link type 113, not Ethernet's"):
        list(read_capture(path))


GOOD = LE.section() + LE.interface() + LE.packet(1) * 2
PCAP = LE.pcap(US) + LE.record(1, 2) * 2


def packet(caplen, size):
    return LE.block(6, LE.pack("5I", 0, 0, 0, caplen, caplen) + bytes(size))


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (
            PCAP,
            LE.record(1, 0, b"", length=0)[:8] + LE.pack("II", 262_145, 9),
            "a frame of 262145 bytes",
        ),
        (GOOD, LE.pack("II", 6, 8) + bytes(8), "a block of 8 bytes"),
        (GOOD, LE.pack("II", 6, 28) + bytes(28), "a block of 28 bytes"),
        (GOOD, LE.pack("II", 1, 16) + bytes(28), "a block of 16 bytes"),
        (GOOD, LE.pack("II", 77, 15) + bytes(28), "a block of 15 bytes"),
        (GOOD, LE.pack("II", 77, (16 << 20) + 4) + bytes(28), "a block of 16777220 bytes"),
        (
            GOOD,
            LE.block(77, b"abcd")[:-4] + LE.pack("I", 20),
            "a block of 16 bytes that ends as one of 20",
        ),
        (GOOD, LE.packet()[:-4] + LE.pack("I", 20), "a block of 92 bytes that ends as one of 20"),
        (GOOD, packet(61, 60), "a frame of 61 bytes in a block with room for 60"),
        (GOOD, packet(0xFFFFFFFF, 60), "a frame of 4294967295 bytes in a block with room for 60"),
        (GOOD, packet(262_145, 262_145), "a frame of 262145 bytes"),
        (GOOD, LE.simple(FRAME, 61), "a frame of 61 bytes in a block with room for 60"),
        (GOOD, LE.packet(interface=1), "a frame of interface 1, where 1 are known"),
        (GOOD, LE.old_packet(1, interface=0xFFFF), "a frame of interface 65535, where 1 are known"),
        (GOOD + LE.section(), LE.packet(), "a frame of interface 0, where 0 are known"),
        (GOOD + LE.section(), LE.simple(), "a frame of interface 0, where 0 are known"),
        (
            GOOD,
            LE.block(6, LE.packet()[8:-4] + LE.pack("HH", 1, 5) + b"abcd"),
            "an option of 5 bytes where 4 are left",
        ),
        (
            GOOD,
            LE.block(1, LE.pack("HHI", 1, 0, 0) + LE.pack("HH", 9, 1)),
            "an option of 1 bytes where 0 are left",
        ),
        (
            GOOD,
            LE.pack("III", 0x0A0D0D0A, 28, 0x1A2B3C4E) + bytes(16),
            "a section of byte order 1a2b3c4e",
        ),
        (
            GOOD + LE.interface() * 65_536,
            LE.packet(interface=65_536),
            "a frame of interface 65536, more than the 65536 that are kept",
        ),
    ],
    ids=range(20),
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_damage_is_named_with_its_offset(tmp_path, good, bad, words, packed):
    path = tmp_path / "it"
    content = good + bad + GOOD
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    got = []
    with pytest.raises(CaptureDamagedError) as caught:
        got.extend(read_capture(path))
    assert str(caught.value) == (
        f"read {path}: it is damaged, after 2 whole frames: {words}, at byte {len(good)}"
    )
    assert caught.value.offset == len(good)
    assert [r.data for r in got] == [FRAME, FRAME]


def test_a_version_that_nobody_has_written_is_refused(tmp_path):
    path = tmp_path / "it"
    path.write_bytes(LE.section(version=(2, 0)))
    with pytest.raises(FileError, match=r"it is of version 2\.0 of pcapng"):
        read_capture(path)
    path.write_bytes(BE.pcap(US, version=(3, 1)))
    with pytest.raises(FileError, match=r"it is of version 3\.1 of pcap"):
        read_capture(path)


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith("big")])
def test_bytes_may_come_in_any_pieces(tmp_path, name):
    plain, fifo = tmp_path / "it", tmp_path / "fifo"
    content = FILES[name]
    plain.write_bytes(content)
    os.mkfifo(fifo)
    piece = max(1, len(content) // 1000)

    def write():
        with fifo.open("wb", buffering=0) as out:
            for at in range(0, len(content), piece):
                out.write(content[at : at + piece])

    writer = threading.Thread(target=write)
    writer.start()
    found = list(read_capture(fifo))
    writer.join()
    assert found == list(read_capture(plain))


def test_a_packed_pipe_gives_a_frame_when_it_was_written(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    taken = threading.Semaphore(0)
    late = []

    def write():
        with fifo.open("wb", buffering=0) as raw, gzip.GzipFile(fileobj=raw, mode="wb") as out:
            out.write(GOOD[: -len(LE.packet(1)) * 2])
            for i in range(5):
                out.write(LE.packet(i))
                out.flush()
                if not taken.acquire(timeout=60):
                    late.append(i)
                    return

    writer = threading.Thread(target=write)
    writer.start()
    for _ in read_capture(fifo):
        taken.release()
    writer.join()
    assert late == []


@pytest.mark.parametrize(
    "many",
    [
        LE.interface() * 5000,  # 60 MB of them, as below
        LE.block(77, bytes(200_000)),
        LE.interface(*[(2988, bytes(60_000))] * 3),
        LE.section() + LE.interface() * 2000,
    ],
)
def test_memory_is_bounded(tmp_path, many):
    """Measure in a process of its own, because the peak memory of a process never shrinks."""
    path = tmp_path / "it"
    times = 60_000_000 // len(many)
    with path.open("wb") as out:
        out.write(LE.section() + LE.interface())
        for _ in range(times):
            out.write(many)
        out.write(LE.interface() + LE.packet(1))
    program = """
import resource, sys
from nic_harness.replay import read_capture
def kib(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = kib()
print(len(list(read_capture(sys.argv[1]))), kib() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    frames, grown = map(int, done.stdout.split())
    assert frames == 1
    assert grown < 8 << 10


def test_a_recording_closed_early_says_so(tmp_path):
    path = tmp_path / "it"
    path.write_bytes(GOOD * 1000)
    with read_capture(path) as recording:
        assert next(recording).data == FRAME
    with pytest.raises(ClosedError):
        list(recording)


def test_a_cut_file_says_where(tmp_path):
    path = tmp_path / "it"
    path.write_bytes(GOOD + LE.packet(1)[:-1])
    with pytest.raises(CaptureCutError) as caught:
        list(read_capture(path))
    assert caught.value.offset == len(GOOD)
