"""Whatever the kernel does to its side of the wire, the NIC names it and recovers."""

import socket
import threading
import time

import pytest
from nic_harness import Arena, Namespace, Nic, Tap
from nic_harness.errors import DeviceGoneError, FrameSizeError, LinkDownError, RingFullError

pytestmark = pytest.mark.each_device


@pytest.fixture
def arena():
    """Everything is given back when the NIC is closed, whatever happened to its interface."""
    with Arena(2048) as made:
        yield made
        s = made.stats()
        assert (s.pages_in_use, s.mbufs_in_use) == (0, 0)


def test_mtu_raised(wire, frame_of):
    """Frames from the kernel then arrive whole; our MTU stays the one from the attach."""
    w = wire()
    w.tap.set_link(mtu=9000)
    w.kernel.send(frame_of(9014))
    (frame,) = w.nic.recv(timeout=20)
    with frame:
        assert b"".join(frame.segments) == frame_of(9014)
    with pytest.raises(FrameSizeError, match="longer than MTU 1500 allows"):
        w.nic.send(frame_of(9014))
    w.nic.send(frame_of(1514))
    assert w.kernel_recv() == frame_of(1514)
    assert w.nic.device_stats().rx_truncated == 0


def test_mtu_lowered(wire, frame_of):
    w = wire(mtu=9000)
    w.tap.set_link(mtu=1000)
    for size in (60, 1014):
        w.kernel.send(frame_of(size))
        (frame,) = w.nic.recv(timeout=20)
        with frame:
            assert b"".join(frame.segments) == frame_of(size)
    # The kernel receives what is longer than its own MTU: that one is about sending.
    w.nic.send(frame_of(9014))
    assert w.kernel_recv() == frame_of(9014)


@pytest.mark.polled("it does not tell of an interface that is down")
def test_down_and_up(wire, frame_of):
    """Frames that cannot go out wait on the ring, in order, until it is full."""
    w = wire(ring_size=64)
    w.tap.set_link(up=False)
    with pytest.raises(LinkDownError):
        w.nic.recv(timeout=0.05)
    sent = 0
    with pytest.raises(RingFullError, match="the interface is down; bring it up"):  # noqa: PT012
        while True:
            w.nic.send(frame_of(60 + sent), timeout=0.05)
            sent += 1
    assert w.nic.stats().tx_outstanding == sent > 0
    w.nic.check()
    w.tap.set_link(up=True)
    w.kernel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # clears its error
    w.nic.send(frame_of(59))
    assert [len(w.kernel_recv()) for _ in range(sent + 1)] == [*range(60, 60 + sent), 59]
    assert w.nic.stats().tx_outstanding == 0
    w.kernel.send(frame_of(100))
    (frame,) = w.nic.recv(timeout=20)
    frame.release()


@pytest.mark.polled("it does not tell of an interface that is down")
def test_closed_while_down(device, arena, frame_of):
    with Tap() as tap, Nic(tap, arena, device=device) as nic:
        tap.set_link(up=False)
        nic.send(frame_of(60))
        assert nic.stats().tx_outstanding == 1


def test_removed(device, arena, frame_of):
    with Namespace() as ns, Tap(ns) as tap, Nic(tap, arena, device=device) as nic:
        ns.delete_link(tap.name)
        for _ in range(2):
            with pytest.raises(DeviceGoneError, match="tap0: the interface is gone"):
                nic.send(frame_of(60))
            with pytest.raises(DeviceGoneError, match="tap0: the interface is gone"):
                nic.recv(timeout=0.05)
        nic.check()


def test_removed_under_a_receiver(device, arena):
    with Namespace() as ns, Tap(ns) as tap, Nic(tap, arena, device=device) as nic:
        said = []

        def receive():
            with pytest.raises(DeviceGoneError) as caught:
                nic.recv(timeout=60)
            said.append(caught.value)

        thread = threading.Thread(target=receive)
        thread.start()
        time.sleep(0.05)  # most likely it sleeps by now
        ns.delete_link(tap.name)
        thread.join(60)
        assert said


def test_removed_with_frames_under_way(device, arena, frame_of):
    """Frames are on the ring, in the TAP's queue, and held by a user."""
    with Namespace() as ns, Tap(ns) as tap, Nic(tap, arena, device=device) as nic:
        with tap.packet_socket() as kernel:
            for _ in range(20):
                kernel.send(frame_of(60))
            frames = nic.recv(10, timeout=20)
            tap.set_link(up=False)
            nic.send(frame_of(60))
        ns.delete_link(tap.name)
        with pytest.raises(DeviceGoneError):
            nic.send_many([frame_of(60)] * 10)
        assert bytes(frames[0]) == frame_of(60)
        for frame in frames:
            frame.release()


def test_namespace_gone(device, arena, frame_of):
    """The queue keeps the interface, and with it what is left of the namespace."""
    ns = Namespace()
    with Tap(ns) as tap, Nic(tap, arena, device=device) as nic:
        ns.close()
        nic.send(frame_of(60))
        nic.flush(60)
        assert nic.stats().tx_completed == 1
        assert nic.recv(timeout=0.05) == []


@pytest.mark.polled("it empties the queue while nobody looks")
def test_queue_full(wire, frame_of):
    """The kernel counts what it drops; what is in the queue arrives, and what is sent later."""
    w = wire()
    w.tap.set_link(txqueuelen=8)
    for i in range(100):
        w.kernel.send(frame_of(60) + i.to_bytes(2, "big"))
    got = []
    while frames := w.nic.recv(timeout=0.2):
        for frame in frames:
            with frame:
                got.append(int.from_bytes(frame.data[-2:], "big"))
    assert got == list(range(len(got)))
    assert len(got) + w.tap.tx_dropped == 100
    assert w.tap.tx_dropped > 0
    w.kernel.send(frame_of(61))
    (frame,) = w.nic.recv(timeout=20)
    with frame:
        assert len(frame) == 61
