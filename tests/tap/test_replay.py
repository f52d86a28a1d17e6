"""Recorded frames out again: what the kernel gets, and when not before."""

import time

import pytest
from nic_harness import Capture
from nic_harness.errors import ArgumentError, ClosedError
from nic_harness.replay import Recorded, read_capture, replay

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
