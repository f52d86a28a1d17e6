"""Bursts as arrays, callbacks on a thread, and asyncio."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import nic_harness.nic.burst
import numpy as np
import pytest
from nic_harness import Arena, Burst, Faults, Nic, Tap
from nic_harness.errors import (
    ArgumentError,
    ClosedError,
    FrameError,
    FrameReleasedError,
    LinkDownError,
    UnsupportedError,
)

pytestmark = pytest.mark.each_device


def numbered(frame_of, i):
    return frame_of(60) + i.to_bytes(4, "big")


def number(frame):
    return int.from_bytes(bytes(frame.data[-4:]), "big")


def number_of(view):
    return int.from_bytes(view[-4:], "big")


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# Bursts


@pytest.mark.polled("frames are there when its worker has come to them")
def test_a_burst_as_an_array_and_as_views(wire, frame_of):
    w = wire()
    before = time.time_ns()
    sent = [frame_of(60 + i) for i in range(100)]
    for frame in sent:
        w.kernel.send(frame)
    with w.nic.recv_burst(80, timeout=5) as burst:
        assert isinstance(burst, Burst)
        assert len(burst) == 80
        a = burst.array
        assert a["length"].tolist() == a["first"].tolist() == [len(f) for f in sent[:80]]
        assert set(a["segments"]) == {1}
        assert set(a["flags"]) == {0}
        assert ((before <= a["timestamp"]) & (a["timestamp"] <= time.time_ns())).all()
        for i in range(-80, 80):
            assert burst[i] == sent[:80][i]
            assert a["address"][i] == np.frombuffer(burst[i], "u1").ctypes.data
        assert not a.flags.writeable
        assert list(burst) == sent[:80]
        for i in (80, -81):
            with pytest.raises(IndexError):
                burst[i]
        assert w.nic.arena.stats().pages_in_use == 256 + 80
    assert w.nic.arena.stats().pages_in_use == 256
    assert w.nic.arena.bytes_copied == 0
    with w.nic.recv_burst(timeout=0) as rest:
        assert [bytes(rest[i]) for i in range(len(rest))] == sent[80:]
    assert w.nic.stats().rx_delivered == 100
    w.nic.check()


def test_an_empty_burst(wire):
    w = wire()
    burst = w.nic.recv_burst(timeout=0.01)
    assert (len(burst), len(burst.array)) == (0, 0)
    burst.release()
    with pytest.raises(ArgumentError, match="max=0"):
        w.nic.recv_burst(0)
    w.tap.set_link(up=False)
    with pytest.raises(LinkDownError):
        w.nic.recv_burst(timeout=0.01)


def test_frames_in_several_pieces(wire, frame_of):
    w = wire(mtu=9000)
    w.kernel.send(frame_of(9014))
    w.kernel.send(frame_of(60))
    with w.nic.recv_burst(timeout=5) as burst:
        assert burst.array["segments"].tolist() == [3, 1]
        assert b"".join(burst.segments(0)) == frame_of(9014)
        with pytest.raises(FrameError, match=r"use \.segments\(i\)"):
            burst[0]
        assert burst[1] == frame_of(60)
        with pytest.raises(FrameError, match="frame 0 of"):
            list(burst)


def first_call_with_another_thread(monkeypatch, name, real, use):
    """Let another thread use a burst while the first one is in a function that looks at it."""
    found = []

    def try_it():
        try:
            found.append(use())
        except FrameError as e:
            found.append(e)

    def both(*args):
        monkeypatch.setattr(nic_harness.nic.burst, name, real, raising=False)
        other = threading.Thread(target=try_it)
        other.start()
        other.join()
        return real(*args)

    monkeypatch.setattr(nic_harness.nic.burst, name, both, raising=False)
    return found


def test_two_threads_that_look_at_a_burst_at_once(wire, frame_of, monkeypatch):
    w = wire()
    for i in range(10):
        w.kernel.send(numbered(frame_of, i))
    burst = w.nic.recv_burst(10, timeout=5)
    real = nic_harness.nic.burst.views
    found = first_call_with_another_thread(monkeypatch, "views", real, lambda: list(burst))
    ours = list(burst)
    assert [number_of(view) for view in ours] == list(range(len(burst)))
    assert all(a is b for a, b in zip(ours, found[0], strict=True))
    burst.release()
    for view in ours + found[0]:
        with pytest.raises(ValueError, match="released"):
            view[0]
    assert w.nic.arena.stats().pages_in_use == 256


def test_two_threads_that_go_through_frames_in_pieces_at_once(wire, frame_of, monkeypatch):
    w = wire(mtu=9000)
    w.kernel.send(frame_of(9014))
    with w.nic.recv_burst(timeout=5) as burst:
        found = first_call_with_another_thread(monkeypatch, "all", all, lambda: list(burst))
        with pytest.raises(FrameError, match="frame 0 of"):
            list(burst)
        assert [type(thing) for thing in found] == [FrameError]


def test_a_view_that_was_released_is_so_for_all_and_its_slices_are_not(wire, frame_of):
    w = wire()
    for i in range(3):
        w.kernel.send(numbered(frame_of, i))
    with w.nic.recv_burst(3, timeout=5) as burst:
        with burst[1][-4:] as part:
            assert part == (1).to_bytes(4, "big")
        assert number_of(burst[1]) == 1
        with burst[0]:
            pass
        with pytest.raises(ValueError, match="released"):
            burst[0][0]
        assert number_of(burst[1]) == 1
    assert w.nic.arena.stats().pages_in_use == 256


@pytest.mark.polled("frames are there when its worker has come to them")
def test_a_slice_keeps_the_pages_of_its_burst(wire, frame_of):
    w = wire()
    for i in range(10):
        w.kernel.send(numbered(frame_of, i))
    burst = w.nic.recv_burst(timeout=5)
    kept = burst[3][-4:]
    seen = np.frombuffer(burst[4], "u1")
    view, array = burst[5], burst.array
    burst.release()
    burst.release()
    assert burst.released
    assert kept == (3).to_bytes(4, "big")
    assert seen[-1] == 4
    assert array["length"].tolist() == [64] * 10
    with pytest.raises(ValueError, match="released"):
        view[0]
    with pytest.raises(FrameReleasedError):
        burst[0]
    assert w.nic.arena.stats().pages_in_use == 256 + 10
    del kept, seen
    assert w.nic.arena.stats().pages_in_use == 256


def test_an_iteration_over_a_burst_that_is_released_meanwhile(wire, frame_of):
    w = wire()
    for i in range(10):
        w.kernel.send(numbered(frame_of, i))
    burst = w.nic.recv_burst(timeout=5)
    views = iter(burst)
    first = next(views)
    assert first is burst[0] is next(iter(burst))
    burst.release()
    assert w.nic.arena.stats().pages_in_use == 256
    for view in (first, *views):
        with pytest.raises(ValueError, match="released"):
            view[0]
    with pytest.raises(FrameReleasedError):
        iter(burst)


def test_pieces_are_released_with_their_burst(wire, frame_of):
    w = wire(mtu=9000)
    before = w.nic.arena.stats().pages_in_use
    w.kernel.send(frame_of(9014))
    burst = w.nic.recv_burst(timeout=5)
    pieces = burst.segments(0)
    kept = pieces[2][-4:]
    burst.release()
    for piece in pieces:
        with pytest.raises(ValueError, match="released"):
            piece[0]
    assert kept == frame_of(9014)[-4:]
    assert w.nic.arena.stats().pages_in_use == before + 3
    del kept
    assert w.nic.arena.stats().pages_in_use == before


def test_without_numpy_the_array_is_refused_and_the_views_are_not():
    program = """
import sys
sys.modules["numpy"] = None
from nic_harness import HarnessError, Nic, Tap
with Tap() as tap, Nic(tap) as nic, tap.packet_socket() as kernel:
    kernel.send(bytes.fromhex("020000000002 020000000001 88b5") + bytes(46))
    with nic.recv_burst(timeout=5) as burst:
        print(len(burst[0]))
        try:
            burst.array
        except HarnessError as e:
            print(type(e).__name__, e)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "60",
        "UnsupportedError describe <Burst of 1 frames>: numpy is not installed; "
        "pip install nic-harness[numpy]",
    ]


# What an iteration leaves


def test_an_iteration_that_is_left_leaves_its_frames_to_the_next_call(wire, frame_of):
    w = wire()
    for i in range(20):
        w.kernel.send(numbered(frame_of, i))
    for frame in w.nic:
        assert number(frame) == 0
        break
    assert [number(f) for f in w.nic.recv(3, timeout=0)] == [1, 2, 3]
    with w.nic.recv_burst(4, timeout=0) as burst:
        assert [burst[i][-1] for i in range(4)] == [4, 5, 6, 7]
        assert (burst.array["timestamp"] > 0).all()
    assert number(next(iter(w.nic))) == 8
    assert [number(f) for f in w.nic.recv(timeout=0)] == list(range(9, 20))
    del frame


# A callback on a thread


def test_a_callback_gets_every_frame_in_order_on_one_thread(wire, frame_of):
    w = wire()
    got, threads = [], set()

    def callback(frames):
        threads.add(threading.current_thread().name)
        got.extend(map(number, frames))

    with w.nic.on_frames(callback, max=8) as receiver:
        for i in range(1000):
            w.kernel.send(numbered(frame_of, i))
            until(lambda i=i: i - len(got) < 200)
        until(lambda: len(got) == 1000)
        assert receiver.running
        assert not receiver.wait(0.01)
    assert not receiver.running
    assert got == list(range(1000))
    assert threads == {"harness-receiver"}
    assert w.nic.arena.stats().pages_in_use == 256
    receiver.stop()


def test_a_callback_may_send_what_it_got(wire, frame_of):
    w = wire()
    with w.nic.on_frames(lambda frames: w.nic.send_many(frames)):
        for i in range(50):
            w.kernel.send(numbered(frame_of, i))
            assert w.kernel_recv() == numbered(frame_of, i)
    w.nic.check()


@pytest.mark.parametrize("end", ["wait", "stop", "exit", "close"])
def test_an_exception_in_a_callback_is_raised_where_somebody_listens(wire, frame_of, end):
    def callback(frames):
        raise KeyError(number(frames.pop()))

    w = wire()
    receiver = w.nic.on_frames(callback)
    w.kernel.send(numbered(frame_of, 7))
    until(lambda: not receiver.running)
    ends = {
        "wait": receiver.wait,
        "stop": receiver.stop,
        "exit": lambda: receiver.__exit__(None, None, None),
        "close": w.nic.close,
    }
    with pytest.raises(KeyError, match="7"):
        ends[end]()
    receiver.stop()  # it was said once
    w.nic.close()


def test_closing_the_nic_ends_a_receiver_also_from_its_callback(wire, frame_of):
    w = wire()
    receiver = w.nic.on_frames(lambda _: None)
    w.nic.close()
    assert receiver.wait(5)
    with pytest.raises(ClosedError):
        w.nic.on_frames(print)
    w.tap.close()
    w = wire()
    receiver = w.nic.on_frames(lambda _: w.nic.close())
    w.kernel.send(frame_of(60))
    assert receiver.wait(30)
    assert w.nic.closed
    assert w.nic.arena.stats().outstanding() == ""


def allowed(tid: int) -> str:
    """Return the CPUs that the kernel lets a thread of ours run on."""
    status = Path(f"/proc/self/task/{tid}/status").read_text()
    return status.split("Cpus_allowed_list:")[1].split()[0]


def test_each_queues_thread_stays_on_its_cpu():
    before = {int(t.name): allowed(int(t.name)) for t in Path("/proc/self/task").iterdir()}
    cpus = sorted(os.sched_getaffinity(0))
    cpus = [cpus[0], cpus[-1]]
    got = [{}, {}]  # of each queue: what came, and the thread that took it

    def take(queue):
        def callback(frames):
            for frame in frames:
                got[queue][frame.data[20]] = threading.get_native_id()

        return callback

    with Tap(queues=2) as tap:
        try:
            tap.steer(20)
        except UnsupportedError as e:
            pytest.skip(str(e))
        with (
            Nic(tap) as nic,
            tap.packet_socket(0) as kernel,
            nic.on_frames(take(0), queue=0, cpu=cpus[0]),
            nic.on_frames(take(1), queue=1, cpu=cpus[1]),
        ):
            for value in range(100):
                kernel.send(b"\xff" * 12 + b"\x88\xb5" + bytes(6) + bytes([value]) + bytes(43))
            until(lambda: len(got[0]) + len(got[1]) == 100)
            for queue in range(2):
                assert sorted(got[queue]) == list(range(queue, 100, 2))
                (tid,) = set(got[queue].values())
                assert tid not in before
                assert allowed(tid) == str(cpus[queue])
            assert {tid: allowed(tid) for tid in before} == before
            nic.check()


def test_a_thread_nobody_placed_may_run_where_its_maker_may(wire, frame_of):
    w = wire()
    threads = set()
    with w.nic.on_frames(lambda _: threads.add(threading.get_native_id())):
        w.kernel.send(frame_of(60))
        until(lambda: threads)
        assert allowed(threads.pop()) == allowed(threading.get_native_id())


@pytest.mark.parametrize("cpu", [-1, 10**9])
def test_a_cpu_that_is_not_there_is_named_before_a_frame_is_taken(wire, frame_of, cpu):
    w = wire()
    threads, got = threading.active_count(), []
    w.kernel.send(frame_of(60))
    with pytest.raises(ArgumentError, match=rf"CPU {cpu}: there is no such CPU; use one of \d"):
        w.nic.on_frames(got.extend, cpu=cpu)
    assert (threading.active_count(), got) == (threads, [])
    with w.nic.recv(timeout=30)[0] as frame:
        assert frame.data == frame_of(60)
    w.nic.check()


TASKSET = """
import os, sys, threading
from nic_harness import Nic, Tap
from nic_harness.errors import ArgumentError
own, other = (int(a) for a in sys.argv[1:])
os.sched_setaffinity(0, {own})  # as taskset(1)
with Tap() as tap, Nic(tap) as nic:
    try:
        nic.on_frames(print, cpu=other)
    except ArgumentError as e:
        print(e)
    assert threading.active_count() == 1
    with nic.on_frames(print, cpu=own) as receiver:
        print(os.sched_getaffinity(receiver._thread.native_id))
    nic.check()
"""


def test_a_cpu_that_the_process_was_not_given_is_refused():
    own, *others = sorted(os.sched_getaffinity(0))
    if not others:
        pytest.skip("one CPU only")
    done = subprocess.run(
        [sys.executable, "-c", TASKSET, str(own), str(others[-1])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    refused = f"CPU {others[-1]}: the calling thread may not use it; use one of {own}"
    assert done.stdout.splitlines() == [f"pin a queue's thread to {refused}", str({own})], done


# asyncio


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def test_async_iteration(wire, frame_of):
    w = wire()

    async def receive():
        got = []
        async for frame in w.nic:
            with frame:
                got.append(number(frame))
            if len(got) % 10 == 0:
                if len(got) == 300:
                    return got
                asyncio.get_running_loop().call_later(0.001, send, len(got))
        return None

    def send(first):
        for i in range(first, first + 10):
            w.kernel.send(numbered(frame_of, i))

    send(0)
    assert run(receive()) == list(range(300))
    assert w.nic.arena.stats().pages_in_use == 256


def test_a_cancelled_wait_loses_no_frame(wire, frame_of):
    w = wire()
    got = []

    async def take():
        async for frame in w.nic:
            got.append(number(frame))
            await asyncio.sleep(0)

    async def main():
        sent = 0
        for i in range(200):
            task = asyncio.create_task(take())
            for _ in range(i % 4):  # at another point of it each time
                await asyncio.sleep(0)
            for _ in range(3):
                w.kernel.send(numbered(frame_of, sent))
                sent += 1
            for _ in range(i % 5):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        while len(got) < sent and (frames := w.nic.recv(1000, timeout=60)):
            got.extend(map(number, frames))
        return sent

    sent = run(main())
    assert got == list(range(sent))


def test_two_tasks_share_the_frames(wire, frame_of):
    w = wire()
    got = []

    async def take():
        async for frame in w.nic:
            got.append(number(frame))  # noqa: PERF401 - one by one

    async def main():
        tasks = [asyncio.create_task(take()) for _ in range(2)]
        await asyncio.sleep(0)
        for i in range(100):
            w.kernel.send(numbered(frame_of, i))
            await asyncio.sleep(0)
        while len(got) < 100:
            await asyncio.sleep(0.001)
        w.nic.close()
        await asyncio.gather(*tasks)

    run(main())
    assert sorted(got) == list(range(100))


def test_closing_from_another_thread_ends_an_async_iteration(wire):
    w = wire()

    async def take():
        threading.Timer(0.05, w.nic.close).start()
        return [frame async for frame in w.nic]

    assert run(take()) == []


def test_async_while_the_link_is_down_and_with_delays(wire, frame_of):
    w = wire(faults=Faults(rx={"delay": 1}, delay_ns=3_000_000))

    async def take():
        async for frame in w.nic:
            return bytes(frame)
        return None

    async def main():
        w.tap.set_link(up=False)
        task = asyncio.create_task(take())
        await asyncio.sleep(0.05)
        w.tap.set_link(up=True)
        w.kernel.getsockopt(1, 4)  # the packet socket heard of it: SOL_SOCKET, SO_ERROR
        w.kernel.send(frame_of(77))
        return await task

    assert run(main()) == frame_of(77)


def test_an_arena_of_ones_own_goes_with_the_last_burst(frame_of):
    with Tap() as tap, tap.packet_socket() as kernel:
        with Nic(tap) as nic:
            kernel.send(frame_of(60))
            burst = nic.recv_burst(timeout=5)
        assert burst[0] == frame_of(60)
        del burst
        with Arena(512) as arena, Nic(tap, arena):
            pass
