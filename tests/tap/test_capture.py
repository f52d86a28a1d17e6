"""scapy and tshark read a capture that they did not write."""

import io
import json
import shutil
import struct
import subprocess
import time

import pytest
from nic_harness import Arena, Capture, CaptureStats, Faults, Nic, Tap
from nic_harness.errors import ArgumentError, BusyError, FileError, UnsupportedError
from scapy.utils import RawPcapNgReader

pytestmark = pytest.mark.each_device

SIZES = [14, 15, 60, 61, 62, 63, 1514]


def read(path):
    """Return the frames of a file: bytes, time in ns, length on the wire."""
    with RawPcapNgReader(str(path)) as reader:
        found = []
        for data, meta in reader:
            ns = ((meta.tshigh << 32) + meta.tslow) * (10**9 // meta.tsresol)
            found.append((data, ns, meta.wirelen))
        return found


def tshark(path, *options):
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: tools/peers does that")
    done = subprocess.run(
        ["tshark", "-r", path, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def exchange(w, frame_of):
    """Send frames both ways in turns, and return what passed, in order."""
    passed = []
    for size in SIZES:
        out = frame_of(size)
        w.nic.send(out)
        assert w.kernel_recv() == out
        back = frame_of(size, kind=0x88B6)
        w.kernel.send(back)
        (frame,) = w.nic.recv(timeout=60)
        with frame:
            assert bytes(frame) == back
        passed += [out, back]
    return passed


def test_both_ways_byte_for_byte_with_their_times(wire, frame_of, tmp_path, device):
    path = tmp_path / "out.pcapng"
    capture = Capture(path)
    w = wire(capture=capture)
    assert w.nic.attached.device == f"capture({device})"
    began = time.time_ns()
    passed = exchange(w, frame_of)
    w.nic.close()
    found = read(path)
    assert [data for data, _, _ in found] == passed
    times = [ns for _, ns, _ in found]
    assert began <= times[0]
    assert times == sorted(times)
    assert times[-1] <= time.time_ns()
    assert any(ns % 1000 for ns in times)  # finer than a microsecond
    n = len(SIZES)
    assert capture.stats() == CaptureStats(received=n, sent=n, kept=2 * n, dropped=0)


def test_tshark_sees_direction_queue_interface_and_statistics(wire, frame_of, tmp_path):
    path = tmp_path / "out.pcapng"
    w = wire(capture=Capture(path))
    passed = exchange(w, frame_of)
    w.nic.close()
    fields = (
        "frame.packet_flags_direction",
        "frame.len",
        "frame.interface_name",
    )
    lines = tshark(path, "-T", "fields", *(x for f in fields for x in ("-e", f))).splitlines()
    # 1 is inbound, 2 outbound (pcapng, 4.3.1).
    assert [int(line.split("\t")[0], 0) for line in lines] == [2, 1] * len(SIZES)
    assert [int(line.split("\t")[1]) for line in lines] == [len(f) for f in passed]
    assert {line.split("\t")[2] for line in lines} == {"tap0"}
    hexes = json.loads(tshark(path, "-T", "json", "-x"))
    assert [p["_source"]["layers"]["frame_raw"][0] for p in hexes] == [f.hex() for f in passed]
    # The last block: interface statistics (type 5), with what came (4) and was kept (8).
    raw = path.read_bytes()
    (total,) = struct.unpack("=I", raw[-4:])
    kind, again = struct.unpack_from("=II", raw, len(raw) - total)
    assert (kind, again) == (5, total)
    for code in (4, 8):
        assert struct.pack("=HHQ", code, 8, len(passed)) in raw[-total:]


def test_frames_are_cut_at_the_snap_length(wire, frame_of, tmp_path):
    path = tmp_path / "out.pcapng"
    w = wire(capture=Capture(path, snaplen=20))
    passed = exchange(w, frame_of)
    w.nic.close()
    assert [(data, n) for data, _, n in read(path)] == [(f[:20], len(f)) for f in passed]


@pytest.mark.parametrize(("at", "seen"), [("driver", 0), ("wire", 50)])
def test_before_or_behind_the_faults(wire, frame_of, tmp_path, at, seen, device):
    path = tmp_path / "out.pcapng"
    w = wire(faults=Faults(rx={"drop": 1}), capture=Capture(path, at=at))
    name = {"driver": "capture(faults({}))", "wire": "faults(capture({}))"}[at]
    assert w.nic.attached.device == name.format(device)
    for _ in range(50):
        w.kernel.send(frame_of(60))
    assert w.nic.recv(timeout=0.1) == []
    assert w.nic.fault_stats().rx == {"drop": 50}
    w.nic.close()
    assert len(read(path)) == seen


def test_what_the_buffer_cannot_take_is_counted(wire, frame_of):
    file = io.BytesIO()
    capture = Capture(file, buffer=4096)
    w = wire(capture=capture, tx_ring_size=1024)
    w.nic.send_many([frame_of(1514)] * 500)
    w.nic.close()
    s = capture.stats()
    assert s.sent == 500 == s.kept + s.dropped
    assert s.dropped > 0
    assert struct.pack("=HHQ", 7, 8, s.dropped) in file.getvalue()[-100:]  # isb_osdrop
    assert not file.closed


def test_a_full_disk_is_said_at_the_end_and_all_is_closed(frame_of):
    with Tap() as tap, Arena(1024) as arena:
        nic = Nic(tap, arena, capture=Capture("/dev/full"))
        nic.send_many([frame_of(1514)] * 50)
        with pytest.raises(FileError, match=r"write /dev/full: No space left .* not complete"):
            nic.close()
        assert nic.closed
        nic.close()


def test_bad_values_and_uses_leave_nothing_behind(tmp_path):
    for options, words in (
        ({"at": "home"}, "at='home'"),
        ({"snaplen": 0}, "snaplen=0"),
        ({"buffer": 1}, "buffer=1"),
    ):
        with pytest.raises(ArgumentError, match=words):
            Capture(io.BytesIO(), **options)
    with pytest.raises(FileError, match="No such file"):
        Capture(tmp_path / "no" / "folder")
    capture = Capture(io.BytesIO())
    with Tap() as tap, Arena(1024) as arena:
        with pytest.raises(UnsupportedError):
            Nic(tap, arena, capture=capture, device="e1000")
        with Nic(tap, arena, capture=capture):
            pass
        with pytest.raises(BusyError, match="belongs to a NIC already"):
            Nic(tap, arena, capture=capture)
        assert arena.stats().outstanding() == ""
