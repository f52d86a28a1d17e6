"""Recorded frames are sent again: the kernel gets them, and none before its time."""

import os
import struct
import threading
import time

import pytest
from nic_harness import Capture
from nic_harness.errors import ArgumentError, ClosedError
from nic_harness.replay import Recorded, Replay, read_capture, replay

pytestmark = pytest.mark.each_device


def recorded(frame_of, many=20, gap_ns=10_000_000):
    return [Recorded(10**18 + i * gap_ns, frame_of(60 + i)) for i in range(many)]


@pytest.mark.parametrize(
    ("pace", "at_least"),
    [({}, 0.19), ({"speed": 10}, 0.019), ({"rate": 100}, 0.19), ({"speed": None}, 0)],
)
def test_all_arrive_in_order_and_none_too_soon(wire, frame_of, pace, at_least):
    w = wire()
    frames = recorded(frame_of)
    begin = time.monotonic()
    done = replay(w.nic, frames, **pace)
    assert time.monotonic() - begin >= done.seconds >= at_least
    assert (done.frames, done.bytes, done.skipped) == (20, sum(len(f.data) for f in frames), 0)
    assert done.late_ns >= 0
    assert [w.kernel_recv() for _ in range(20)] == [f.data for f in frames]
    w.nic.flush(60)
    assert w.nic.stats().tx_completed == 20
    w.nic.check()


def test_frames_that_do_not_fit_are_skipped_and_counted(wire, frame_of):
    w = wire(mtu=1000)
    tagged = frame_of(1018, kind=0x8100)
    sizes = [
        (0, frame_of(1014)),
        (0, frame_of(1015)),
        (0, tagged),
        (0, bytes(13)),
        (0, tagged + b"x"),
    ]
    done = replay(w.nic, [Recorded(*f) for f in sizes], speed=None)
    assert (done.frames, done.skipped) == (2, 3)
    assert len(w.kernel_recv()) == 1014


def test_a_capture_is_replayed_as_it_was(wire, frame_of, tmp_path):
    path = tmp_path / "out.pcapng"
    w = wire(capture=Capture(path))
    sent = [frame_of(60 + i) for i in range(200)]
    w.nic.send_many(sent)
    w.nic.close()
    w.tap.close()
    again = wire()
    done = replay(again.nic, read_capture(path), speed=None)
    assert done.frames == 200
    assert [again.kernel_recv() for _ in range(200)] == sent


def test_bad_values_and_a_closed_nic(wire, frame_of):
    w = wire()
    for pace in ({"speed": 0}, {"rate": -1}, {"speed": float("nan")}):
        with pytest.raises(ArgumentError):
            replay(w.nic, [], **pace)
    w.nic.close()
    with pytest.raises(ClosedError):
        replay(w.nic, recorded(frame_of, 1))
    with pytest.raises(ArgumentError, match="direction='up'"):
        replay(w.nic, [], direction="up")


def test_a_frame_recorded_before_the_first_goes_with_it_and_is_not_late(wire, frame_of):
    w = wire()
    hour = 3600 * 10**9
    frames = [Recorded(ns, frame_of(60 + i)) for i, ns in enumerate((hour, 0, 5, None, hour))]
    done = replay(w.nic, frames)
    assert done.frames == 5
    assert done.late_ns == 0  # all were due at once, as the first
    assert [w.kernel_recv() for _ in frames] == [f.data for f in frames]


def test_a_capture_without_times_is_sent_at_once(wire, frame_of):
    w = wire()
    frames = [Recorded(None, frame_of(60)), Recorded(10**18, frame_of(61))]
    assert replay(w.nic, frames).frames == 2


@pytest.mark.parametrize("pace", [{}, {"speed": 5e-324}, {"rate": 5e-324}])
def test_times_of_any_distance(wire, frame_of, pace):
    """An exception stands for Ctrl-C, while the second frame is waited for."""
    w = wire()
    waits = []

    def wait(seconds):
        waits.append(seconds)
        raise KeyboardInterrupt

    sending = Replay(w.nic, **pace)
    sending.on_wait = wait
    ends = (-(2**63), 2**63 - 1)  # s: pcapng can tell these
    with pytest.raises(KeyboardInterrupt):
        sending.send(Recorded(s * 10**9, frame_of(60)) for s in ends)
    with pytest.raises(KeyboardInterrupt):
        sending.rest()
    assert len(waits) == 2
    assert all(wait > 10**9 for wait in waits)
    assert sending.figures().frames == 1
    assert len(w.kernel_recv()) == 60


@pytest.mark.parametrize(
    ("direction", "sizes", "left"),
    [({}, [60, 62], 1), ("out", [60, 62], 1), ("in", [61, 62], 1), ("both", [60, 61, 62], 0)],
)
def test_frames_of_one_direction(wire, frame_of, direction, sizes, left):
    w = wire()
    said = zip(("out", "in", None), (60, 61, 62), strict=True)
    frames = [Recorded(0, frame_of(n), direction=d) for d, n in said]
    done = replay(w.nic, frames, **({"direction": direction} if direction else {}))
    assert (done.frames, done.other_direction) == (len(sizes), left)
    assert [len(w.kernel_recv()) for _ in sizes] == sizes


def test_of_our_own_capture_what_our_nic_sent_goes_out_again(wire, frame_of, tmp_path):
    path = tmp_path / "out.pcapng"
    w = wire(capture=Capture(path))
    w.nic.send(frame_of(60))
    w.kernel.send(frame_of(61, kind=0x88B6))
    with w.nic.recv(timeout=60)[0]:
        pass
    w.nic.send(frame_of(62))
    w.nic.close()
    w.tap.close()
    again = wire()
    done = replay(again.nic, read_capture(path), speed=None)
    assert (done.frames, done.other_direction) == (2, 1)
    assert [len(again.kernel_recv()) for _ in range(2)] == [60, 62]


def test_frames_of_which_a_part_was_kept_are_counted(wire, frame_of):
    w = wire()
    frames = [Recorded(0, frame_of(60), 1500), Recorded(0, frame_of(61))]
    done = replay(w.nic, frames)
    assert (done.frames, done.cut) == (2, 1)


def test_a_pipe_that_is_still_written_to_is_replayed_as_it_comes(wire, frame_of, tmp_path):
    w = wire()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    begun = threading.Event()

    def write():
        with fifo.open("wb", buffering=0) as out:
            out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
            for i in range(5):
                begun.wait(60)
                data = frame_of(60 + i)
                out.write(struct.pack("<IIII", 0, 0, len(data), len(data)) + data)
                assert w.kernel_recv() == data  # while the pipe is open

    writer = threading.Thread(target=write)
    writer.start()
    with read_capture(fifo) as recording:
        begun.set()
        done = replay(w.nic, recording, speed=None)
    writer.join()
    assert done.frames == 5
