"""Frames through the rings, the kernel on the other side."""

import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from nic_harness import Arena, Gso, Nic, Offload, Offloads, Tap
from nic_harness.errors import (
    ArenaBusyError,
    ArgumentError,
    ArgumentTypeError,
    ClosedError,
    FrameError,
    FrameReleasedError,
    FrameSizeError,
    ResourceError,
    RingFullError,
    UnsupportedError,
)

pytestmark = pytest.mark.each_device

SIZES = [14, 60, 1514, 4096, 9014, 65534]


#: How long something may take that happens in the end.
PATIENCE_S = 60


def mtu_for(size):
    return max(68, size - 14)


def harvest(nic, many):
    """Receive until so many frames were harvested in all; return those that were passed up."""
    got = []
    deadline = time.monotonic() + PATIENCE_S
    while nic.stats().rx_received < many:
        assert time.monotonic() < deadline
        got += nic.recv(timeout=0.01)
    return got


def add_up(nic):
    """Check the sums that the docstring of the statistics states."""
    nic.flush(PATIENCE_S)
    s = nic.stats()
    assert s.rx_posted == s.rx_returned + s.rx_outstanding
    assert s.rx_received == s.rx_delivered + s.rx_dropped
    assert s.rx_returned == s.rx_pages_delivered + s.rx_recycled
    assert s.tx_queued == s.tx_completed + s.tx_outstanding
    assert s.rx_outstanding == nic.attached.queues * nic.attached.rx_ring_size
    nic.check()
    return s


@pytest.mark.parametrize("offloads", [None, Offloads.NONE], ids=["offloads", "plain"])
@pytest.mark.parametrize("size", SIZES)
def test_received_byte_for_byte(wire, frame_of, size, offloads):
    w = wire(mtu=mtu_for(size), offloads=offloads)
    sent = frame_of(size)
    w.kernel.send(sent)
    (frame,) = w.nic.recv(timeout=60)
    with frame:
        assert len(frame) == size
        assert b"".join(frame.segments) == sent
        assert abs(frame.timestamp - time.time_ns()) < 60e9
        # Each segment lies in a page of its own, the net header before the first.
        assert [len(s) for s in frame.segments[:-1]] == [4084, *[4096] * 16][
            : len(frame.segments) - 1
        ]
        assert w.nic.arena.bytes_copied == 0
        assert bytes(frame) == sent
        assert w.nic.arena.bytes_copied == size
    s = add_up(w.nic)
    assert (s.rx_delivered, s.rx_bytes) == (1, size)


@pytest.mark.parametrize("offloads", [None, Offloads.NONE], ids=["offloads", "plain"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sent_byte_for_byte(wire, frame_of, size, kind, offloads):
    w = wire(mtu=mtu_for(size), offloads=offloads)
    sent = frame_of(size)
    w.nic.send(kind(sent))
    assert w.kernel_recv() == sent
    s = add_up(w.nic)
    assert (s.tx_completed, s.tx_bytes) == (1, size)


@pytest.mark.parametrize("size", SIZES)
def test_a_received_frame_is_sent_from_where_it_lies(wire, frame_of, size):
    w = wire(mtu=mtu_for(size))
    sent = frame_of(size)
    w.kernel.send(sent)
    (frame,) = w.nic.recv(timeout=60)
    with frame:
        w.nic.send(frame)
    assert w.kernel_recv() == sent
    assert w.nic.arena.bytes_copied == 0


def test_order_is_kept_over_many_rings(wire, frame_of):
    w = wire(ring_size=64)
    many = 1000
    got = []
    for start in range(0, many, 100):
        for i in range(start, start + 100):
            w.kernel.send(frame_of(60) + i.to_bytes(4, "big"))
        while len(got) < start + 100:
            for frame in w.nic.recv(7, timeout=60):
                with frame:
                    got.append(int.from_bytes(frame.data[-4:], "big"))
    assert got == list(range(many))
    assert w.nic.send_many(frame_of(60) + i.to_bytes(4, "big") for i in range(150)) == 150
    assert [int.from_bytes(w.kernel_recv()[-4:], "big") for _ in range(150)] == list(range(150))
    assert add_up(w.nic).rx_delivered == many


def test_a_slice_outlives_frame_nic_and_arena(frame_of):
    sent = frame_of(1000)
    with Tap() as tap, Nic(tap) as nic, tap.packet_socket() as kernel:
        kernel.send(sent)
        (frame,) = nic.recv(timeout=60)
        kept = frame.data[100:200]
        view = frame.data
        frame.release()
        assert frame.released
        with pytest.raises(ValueError, match="released memoryview"):
            view[0]
        with pytest.raises(FrameReleasedError, match="it was released"):
            _ = frame.segments
        with pytest.raises(FrameReleasedError):
            _ = frame.data
        with pytest.raises(FrameReleasedError):
            bytes(frame)
        with pytest.raises(FrameReleasedError):
            nic.send(frame)
        frame.release()
    assert bytes(kept) == sent[100:200]


def test_an_arena_with_a_slice_out_refuses_to_close_and_names_it(frame_of):
    with Tap() as tap, tap.packet_socket() as kernel:
        arena = Arena(1024)
        with Nic(tap, arena) as nic:
            with pytest.raises(ArenaBusyError, match="256 pages"):
                arena.close()
            kernel.send(frame_of(60))
            (frame,) = nic.recv(timeout=60)
        kept = frame.data[:10]
        del frame
        with pytest.raises(ArenaBusyError, match=r"close arena: 1 page, 1 mbuf in use; .*release"):
            arena.close()
        assert bytes(kept) == frame_of(60)[:10]
        assert not arena.closed
        del kept
        assert arena.stats().outstanding() == ""
        arena.close()
        arena.close()
        with pytest.raises(ClosedError):
            arena.stats()


def test_scattered_frames_have_no_single_view(wire, frame_of):
    w = wire(mtu=9000)
    w.kernel.send(frame_of(9014))
    (frame,) = w.nic.recv(timeout=60)
    with frame:
        assert len(frame.segments) == 3
        with pytest.raises(FrameError, match=r"use \.segments"):
            _ = frame.data
    w.kernel.send(frame_of(4000))
    (frame,) = w.nic.recv(timeout=60)
    with frame:
        assert frame.data == frame_of(4000)


def test_views_are_of_the_page_itself(wire, frame_of):
    w = wire()
    w.kernel.send(frame_of(100))
    (frame,) = w.nic.recv(timeout=60)
    with frame:
        frame.data[:6], frame.data[6:12] = bytes(frame.data[6:12]), bytes(frame.data[:6])
        w.nic.send(frame)
    sent = frame_of(100)
    assert w.kernel_recv() == sent[6:12] + sent[:6] + sent[12:]


def test_the_pool_runs_dry_and_recovers(wire, frame_of):
    w = wire(pages=40, ring_size=32)
    held = []
    for i in range(30):
        w.kernel.send(frame_of(60) + bytes([i]))
        held += harvest(w.nic, i + 1)
    # There are 8 pages beyond the ring's: 8 frames are held, the rest is dropped and counted.
    assert [f.data[-1] for f in held] == list(range(8))
    s = add_up(w.nic)
    assert (s.rx_delivered, s.rx_drop_no_page, s.rx_recycled) == (8, 22, 22)
    assert w.nic.arena.stats().pages_free == 0
    # Sending needs a page too: it is refused with a named error, and nothing hangs.
    with pytest.raises(ResourceError, match="out of pages"):
        w.nic.send(frame_of(1000))
    w.nic.send(held[0])  # but not from where it lies
    assert w.kernel_recv()[-1] == 0
    for frame in held:
        frame.release()
    w.kernel.send(frame_of(60) + b"again")
    (frame,) = w.nic.recv(timeout=60)
    with frame:
        assert bytes(frame.data[-5:]) == b"again"
    add_up(w.nic)


def test_a_frame_larger_than_the_pool_has_left(wire, frame_of):
    w = wire(mtu=65520, pages=40, ring_size=32)
    w.kernel.send(frame_of(65534))
    assert harvest(w.nic, 1) == []
    assert add_up(w.nic).rx_drop_no_page == 1
    w.kernel.send(frame_of(9014))
    (frame,) = w.nic.recv(timeout=60)
    with frame:
        assert b"".join(frame) == frame_of(9014)


@pytest.mark.polled("it is not attached to a ring that a frame does not fit")
def test_a_frame_larger_than_the_ring_is_dropped(wire, frame_of):
    w = wire(mtu=65520, ring_size=8)
    w.kernel.send(frame_of(65534))
    w.kernel.send(frame_of(60))
    (frame,) = w.nic.recv(timeout=60)
    with frame:
        assert len(frame) == 60
    assert w.nic.device_stats().rx_truncated == 1


@pytest.mark.polled("it empties the queue while nobody looks")
def test_full_tap_queue_shows_in_the_kernels_statistics(frame_of):
    with Tap(txqueuelen=16) as tap, Nic(tap) as nic, tap.packet_socket() as kernel:
        for _ in range(50):
            try:
                kernel.send(frame_of(60))
            except OSError:  # ENOBUFS: the packet socket reports it
                continue
        assert tap.tx_dropped >= 30
        frames = nic.recv(timeout=60)
        assert len(frames) + tap.tx_dropped == 50


def test_timeout(wire):
    w = wire()
    assert w.nic.recv(timeout=0) == []
    before = time.monotonic()
    assert w.nic.recv(timeout=0.1) == []
    assert time.monotonic() - before >= 0.1


def test_iteration_and_poll(wire, frame_of):
    w = wire()
    for i in range(3):
        w.kernel.send(frame_of(60) + bytes([i]))
    assert select.select([w.nic], [], [], 5)[0] == [w.nic]
    seen = []
    for frame in w.nic:
        seen.append(frame.data[-1])
        if len(seen) == 3:
            break
    assert seen == [0, 1, 2]


@pytest.mark.polled("frames lie on the ring before anybody asks")
def test_iteration_holds_one_frame_at_most_when_the_caller_lets_go(wire, frame_of):
    w = wire(pages=40, ring_size=32)
    for _ in range(8):
        w.kernel.send(frame_of(60))
    for n, frame in enumerate(w.nic, 1):
        assert w.nic.arena.stats().pages_in_use == 32 + 8 - n + 1
        del frame
        if n == 8:
            break


def test_close_wakes_a_receiver(wire):
    w = wire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(w.nic.recv)
        iterating = pool.submit(lambda: list(w.nic))
        time.sleep(0.1)
        w.nic.close()
        with pytest.raises(ClosedError, match="was closed"):
            waiting.result(60)
        assert iterating.result(60) == []
    w.nic.close()
    for use in (w.nic.recv, w.nic.stats, w.nic.check, w.nic.fileno):
        with pytest.raises(ClosedError):
            use()
    with pytest.raises(ClosedError):
        w.nic.send(bytes(60))


def test_receive_and_send_from_two_threads(wire, frame_of):
    w = wire(ring_size=64)
    many = 3000
    seen = []

    def echo_back():
        """Return each frame that the kernel gets."""
        for _ in range(many):
            w.kernel.send(w.kernel_recv())

    def receive():
        while len(seen) < many:
            for frame in w.nic.recv(timeout=60):
                with frame:
                    seen.append(int.from_bytes(frame.data[-4:], "big"))

    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(echo_back), pool.submit(receive)]
        for i in range(many):
            while i - len(seen) > 100:  # no queue of the kernel's overflows
                time.sleep(0.001)
            w.nic.send(frame_of(60) + i.to_bytes(4, "big"))
        for task in tasks:
            task.result(60)
    assert seen == list(range(many))
    add_up(w.nic)


def test_refused_frames_are_named(wire, frame_of):
    w = wire(mtu=1500)
    with pytest.raises(FrameSizeError, match="frame of 1519 bytes on tap0: longer than MTU 1500"):
        w.nic.send(frame_of(1519))
    for size in (0, 1, 13):
        with pytest.raises(FrameError, match="shorter than an Ethernet header"):
            w.nic.send(bytes(size))
    with pytest.raises(FrameError, match="offload fields"):
        w.nic.send(frame_of(60), offload=Offload(needs_csum=True, csum_start=59))
    with pytest.raises(FrameError, match="out of range"):
        w.nic.send(frame_of(60), offload=Offload(needs_csum=True, csum_start=1 << 16))
    for value in ("text", 7, None, memoryview(bytes(200))[::2]):
        with pytest.raises(
            ArgumentTypeError, match=f"send a {type(value).__name__}: .*; send bytes"
        ):
            w.nic.send(value)
    assert issubclass(ArgumentTypeError, ArgumentError)
    assert issubclass(ArgumentTypeError, TypeError)
    # The frames before the bad one were sent, and it goes on.
    with pytest.raises(FrameSizeError):
        w.nic.send_many([frame_of(60), frame_of(61), frame_of(2000), frame_of(62)])
    assert [len(w.kernel_recv()) for _ in range(2)] == [60, 61]
    w.nic.send(frame_of(63))
    assert len(w.kernel_recv()) == 63
    add_up(w.nic)


def test_offload_fields_must_fit_the_frame(wire, frame_of):
    w = wire(offloads=Offloads.CSUM)
    o = Offload(
        needs_csum=True, csum_start=34, csum_offset=16, gso=Gso.TCP4, gso_size=1000, hdr_len=54
    )
    with pytest.raises(FrameError, match="make no sense"):
        w.nic.send(frame_of(1400), offload=o)
    assert w.nic.attached.offloads == Offloads.CSUM


@pytest.mark.polled("it does not tell of an interface that is down")
def test_interface_down_and_up_again(wire, frame_of):
    w = wire(ring_size=32)
    w.tap.set_link(up=False)
    w.nic.send(frame_of(60))  # waits on the ring
    with pytest.raises(RingFullError, match="interface is down"):
        w.nic.send_many([frame_of(60)] * 100, timeout=0.05)
    assert w.nic.stats().tx_outstanding > 0
    w.tap.set_link(up=True)
    w.kernel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # clears the packet socket's error
    w.nic.send(frame_of(62))
    assert len(w.kernel_recv()) == 60
    while len(w.kernel_recv()) != 62:
        pass
    s = add_up(w.nic)
    assert s.tx_outstanding == 0
    w.kernel.send(frame_of(70))
    (frame,) = w.nic.recv(timeout=60)
    with frame:
        assert len(frame) == 70


def test_many_queues(frame_of):
    with Tap(queues=3) as tap, Nic(tap, ring_size=32) as nic, tap.packet_socket() as kernel:
        kernel.settimeout(60)
        for queue in range(3):
            nic.send(frame_of(60 + queue), queue=queue)
            assert len(kernel.recv(1 << 16)) == 60 + queue
            nic.flush(PATIENCE_S)
            assert nic.stats(queue).tx_completed == 1
        assert nic.stats().tx_completed == 3
        with pytest.raises(ArgumentError, match="queue 3 of 3"):
            nic.recv(queue=3)
        total = 0
        for port in range(64):
            kernel.send(frame_of(60) + bytes([port]))
        deadline = time.monotonic() + PATIENCE_S
        while total < 64 and time.monotonic() < deadline:
            for queue in range(3):
                frames = nic.recv(timeout=0, queue=queue)
                assert all(f.queue == queue for f in frames)
                total += len(frames)
        assert total == 64
        add_up(nic)


def test_what_is_attached_is_said(wire, device):
    w = wire(mtu=9000, ring_size=64, tx_ring_size=128, offloads=Offloads.CSUM | Offloads.TSO4)
    assert str(w.nic) == (
        f"{device} on tap0, MTU 9000, 1 queue of 64 receive and 128 transmit descriptors, "
        "offloads: csum tso4"
    )


def test_bad_values_leave_nothing_behind():
    with Tap() as tap, Arena(64) as arena:
        for options, error, words in (
            ({"ring_size": 100}, ArgumentError, "ring_size=100"),
            ({"ring_size": 0}, ArgumentError, "ring_size=0"),
            ({"tx_ring_size": 1 << 16}, ArgumentError, "tx_ring_size=65536"),
            ({"mtu": 67}, ArgumentError, "MTU 67"),
            ({"mtu": 65536}, ArgumentError, "MTU 65536"),
            ({"device": "e1000"}, UnsupportedError, "'e1000'"),
            ({"ring_size": 128}, ResourceError, "has not 128 pages"),
        ):
            with pytest.raises(error, match=words) as caught:
                Nic(tap, arena, **options)
            assert "\n" not in str(caught.value)
            assert arena.stats().outstanding() == ""
    with pytest.raises(ClosedError, match="TAP is closed"):
        Nic(tap)


def test_kernel_tcp_frames_say_what_is_left_to_do(wire):
    """A SYN of the kernel's has a partial sum when the NIC takes that over, and none otherwise."""
    for offloads, partial in ((None, True), (Offloads.NONE, False)):
        w = wire(offloads=offloads)
        w.tap.static_neighbour()
        with w.tap.namespace.socket() as client:
            client.setblocking(False)
            client.connect_ex(("198.18.0.2", 80))
            while True:
                frames = w.nic.recv(timeout=60)
                if len(frames[0]) >= 54 and frames[0].data[23] == socket.IPPROTO_TCP:
                    break
        o = frames[0].offload
        assert o.needs_csum == partial
        if partial:
            assert (o.csum_start, o.csum_offset) == (34, 16)
        del frames
        w.nic.close()
        w.tap.close()


def test_ipv6_noise_does_no_harm(wire, frame_of):
    w = wire(ipv6=True)
    w.kernel.send(frame_of(60))
    deadline = time.monotonic() + 5
    seen = set()
    while 0x88B5 not in seen or 0x86DD not in seen:
        assert time.monotonic() < deadline
        for frame in w.nic.recv(timeout=1):
            with frame:
                seen.add(int.from_bytes(frame.data[12:14], "big"))
    add_up(w.nic)


def test_strict_arena(frame_of):
    with Tap(mtu=9000) as tap, Arena(512, strict=True) as arena, Nic(tap, arena) as nic:
        with tap.packet_socket() as kernel:
            for size in (60, 9014):
                kernel.send(frame_of(size))
                (frame,) = nic.recv(timeout=60)
                with frame:
                    assert b"".join(frame) == frame_of(size)
                    nic.send(frame)
        assert arena.stats().misuses == 0


def test_a_frame_may_be_released_by_any_thread(wire, frame_of):
    w = wire(pages=64, ring_size=32)
    for i in range(1, 21):
        for _ in range(16):
            w.kernel.send(frame_of(60))
        frames = harvest(w.nic, 16 * i)
        assert len(frames) == 16
        thread = threading.Thread(target=lambda f=frames: [x.release() for x in f])
        thread.start()
        thread.join()
    assert add_up(w.nic).rx_dropped == 0
