"""The NIC: frames in and out through its rings."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from types import NoneType
from typing import Any, Protocol, TypeAlias

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base.aio import Sleepers
from nic_harness.base.live import Closing, track
from nic_harness.base.owner import this_process
from nic_harness.base.waiter import Waiter
from nic_harness.bsd.mbuf import Deferred
from nic_harness.errors import (
    ArgumentError,
    BusyError,
    ClosedError,
    Deed,
    HarnessError,
    LinkDownError,
    ResourceError,
    RingError,
    RingFullError,
    UnsupportedError,
    error_from_errno,
)
from nic_harness.memory.arena import Arena
from nic_harness.nic import device as _device
from nic_harness.nic.burst import Burst
from nic_harness.nic.capture import Capture
from nic_harness.nic.counters import DeviceStats, NicStats
from nic_harness.nic.device import Attached, Offloads
from nic_harness.nic.faults import Faults, FaultStats, fault_stats
from nic_harness.nic.frame import Frame, Offload
from nic_harness.nic.queue import BURST, QueuePair, Sendable
from nic_harness.nic.receiver import Callback, Receiver
from nic_harness.nic.stats import RingPositions
from nic_harness.wire.existing_tap import ExistingTap
from nic_harness.wire.rtnl import mac_bytes
from nic_harness.wire.tap import Tap
from nic_harness.wire.wire import Wire

__all__ = ["Attached", "DeviceStats", "Nic", "NicStats", "Offloads"]

_MOST = (1 << 31) - 1  # frames that one call can be asked for
_MOST_BURST = 1 << 20  # of them in one Burst, whose descriptors take 56 bytes each
_FAULTS_TICK_S = 0.001  # how often to look whether a delayed frame is due
_DOWN_POLL_S = 0.02  # how often to look whether an interface that is down came up


#: Puts frames on a ring, BURST at most, and returns how many it had room for.
Transmit: TypeAlias = Callable[[Sequence[Sendable], Offload | None], int]


class SupportsClose(Protocol):
    """What a queue can belong to."""

    def close(self) -> None:
        """Let go of the queue."""
        ...


class Nic(Closing):
    """A NIC of ours on a TAP; use as a context manager.

    Frames may be received and sent from different threads: each call has a queue pair for itself.

    Args:
        tap: the wire. It must be open for as long as the NIC is.
        arena: where its pages come from; None: one of its own, which lives until its last frame is
            gone.
        device: "tap_rw", "tap_uring", "vhost_net", or "auto": the fastest of the first two that
            works here, unless NIC_HARNESS_DEVICE in the environment names one. `attached` says
            which it is, and why it is no faster one.
        ring_size: descriptors of each receive ring, a power of two; a frame takes one for every
            4096 bytes.
        tx_ring_size: of each transmit ring; None: as `ring_size`.
        mtu: bytes; None: that of the TAP.
        faults: what shall go wrong on this device. A delayed frame moves on when somebody receives
            or sends.
        capture: keep a copy of what passes; a Capture serves one NIC, which closes it.
        header_split: bytes, 14 to 156: so much of each frame comes in a buffer of its own, and what
            follows starts on a page of its own. For TCP over IPv4 with timestamps: 66. 0: not.
        low_water: new pages are made known to the device when it has fewer than these left; 0:
            after every burst. Saves notifications where the device works on its own.
        coalesce_us: after frames came, who waits for more is woken only when this is over,
            microseconds; 0: by every frame.
        coalesce_frames: or when so many came, where the device tells (vhost_net); 0: the time
            alone.
        offloads: None: all that the device can do. Frames of up to 64 KiB then come in one piece,
            with sums left to do (`Frame.offload`); Offloads.NONE shows frames as on a wire.

    Raises:
        ArgumentError: a value is out of range.
        ResourceError: the arena has not the pages to fill the receive rings.
        UnsupportedError: the device or offload asked for by name is not to be had.
        ClosedError: the TAP or the arena is closed.
    """

    def __init__(
        self,
        tap: Wire,
        arena: Arena | None = None,
        *,
        device: str = "auto",
        ring_size: int = 256,
        tx_ring_size: int | None = None,
        mtu: int | None = None,
        offloads: Offloads | None = None,
        header_split: int = 0,
        low_water: int = 0,
        coalesce_us: int = 0,
        coalesce_frames: int = 0,
        faults: Faults | None = None,
        capture: Capture | None = None,
    ) -> None:
        self._nic: Any = None
        self._owner = this_process()
        self._closing = False
        self._receivers: set[Receiver] = set()
        self._sleepers = Sleepers()
        self._waiter = Waiter()
        self._faults: Any = None  # the device that does them
        self._capture: Capture | None = None
        self._tick_s = None if faults is None else _FAULTS_TICK_S
        self._users: dict[int, SupportsClose] = {}  # what a queue belongs to
        attach = "attach NIC to"
        check.instance(attach, "a TAP", "tap", tap, Tap, ExistingTap)
        self.tap = tap
        if tap.closed:
            raise ClosedError(attach, repr(tap), "the TAP is closed")
        for name, given, kind in (
            ("arena", arena, Arena),
            ("offloads", offloads, Offloads),
            ("faults", faults, Faults),
            ("capture", capture, Capture),
        ):
            check.instance(attach, tap.name, name, given, kind, NoneType)
        check.text(attach, tap.name, "device", device)
        device = _device.wanted(device, attach, tap.name)
        mtu = tap.mtu if mtu is None else mtu
        tx_ring_size = ring_size if tx_ring_size is None else tx_ring_size
        queues = len(tap.fds)
        check.integer(attach, tap.name, "mtu", mtu, 0, _MOST)
        for what, value in (("ring_size", ring_size), ("tx_ring_size", tx_ring_size)):
            check.integer(attach, tap.name, what, value, 1, 1 << 15)
            if value & (value - 1):
                raise ArgumentError(
                    "attach NIC to",
                    tap.name,
                    f"{what}={value}",
                    "a power of two up to 32768 is wanted",
                )
        if not lib.NIC_MTU_MIN <= mtu <= lib.NIC_MTU_MAX:
            raise ArgumentError(
                "attach NIC to",
                tap.name,
                f"MTU {mtu} is out of range",
                f"{lib.NIC_MTU_MIN} to {lib.NIC_MTU_MAX}",
            )
        tuning = {
            "header_split": header_split,
            "rx_low_water": low_water,
            "coalesce_us": coalesce_us,
            "coalesce_frames": coalesce_frames,
        }
        _check_tuning(tap.name, device, ring_size, tuning)
        if tap._nic is not None and (other := tap._nic()) is not None and not other.closed:
            raise BusyError(
                attach,
                tap.name,
                f"it has {other!r}, and frames would come to one or the other",
                "close that one first, or make another Tap",
            )
        self._owns_arena = arena is None
        if arena is None:
            # The rings, and twice as much again for frames that somebody looks at.
            arena = Arena(max(4096, queues * ring_size * 3))
        self.arena = arena
        try:
            self._attach(
                device, queues, ring_size, tx_ring_size, mtu, offloads, tuning, faults, capture
            )
        except BaseException:
            self.close()
            raise
        tap._nic = weakref.ref(self)
        track(self)

    def _attach(
        self,
        device: str,
        queues: int,
        rx_size: int,
        tx_size: int,
        mtu: int,
        offloads: Offloads | None,
        tuning: dict[str, int],
        faults: Faults | None,
        capture: Capture | None,
    ) -> None:
        wanted = Offloads.ALL if offloads is None else offloads
        config = ffi.new(
            "struct nic_config *",
            {
                "nqueues": queues,
                "rx_ring_size": rx_size,
                "tx_ring_size": tx_size,
                "mtu": mtu,
                "offloads": wanted.value,
                "mac": mac_bytes(self.tap.nic_mac),
                **tuning,
            },
        )
        machine = self.arena.handle
        name, made, why_not = _device.create(self.tap.fds, device, self.tap.name)
        made = self._wrap(made, faults, capture)
        if self._faults is not None:
            config.alloc_fails = ffi.addressof(lib, "faults_alloc_fails")
            config.alloc_arg = self._faults
        nic = ffi.new("struct nic **")
        code = lib.nic_attach(machine.jumbo, machine.mbufs, made, config, nic)
        if code:
            if capture is not None:
                capture._abandon()
            error = _device.refused(name, code, self.tap.name) or error_from_errno(
                code, "attach NIC to", self.tap.name, deed=Deed.DEVICE
            )
            if error.errno == errno.ENOMEM:
                error = ResourceError(
                    "attach NIC to",
                    self.tap.name,
                    f"the arena has not {queues * rx_size} pages for the receive rings",
                    "make the arena larger or the rings smaller",
                    errno=error.errno,
                )
            raise error
        self._nic = nic[0]
        info = ffi.new("struct device_info *")
        lib.nic_describe(self._nic, info)
        self.attached = Attached(
            device=ffi.string(info.name).decode(),
            interface=self.tap.name,
            mtu=mtu,
            queues=queues,
            rx_ring_size=rx_size,
            tx_ring_size=tx_size,
            offloads=Offloads(info.offloads),
            mac=self.tap.nic_mac,
            why_not=why_not,
        )
        self._queues = [
            QueuePair(
                self._nic,
                i,
                info.wait_fd[i],
                interface=self.tap.name,
                mtu=mtu,
                free=self.arena._free_chain,
                waiter=self._waiter,
                owner=self._owner,
            )
            for i in range(queues)
        ]
        if capture is not None:
            self._capture = capture
            capture._start(self.tap.name, mac_bytes(self.tap.nic_mac), self.attached.device)
        if offloads is not None and wanted & ~self.attached.offloads:
            missing = wanted & ~self.attached.offloads
            raise UnsupportedError(
                "attach NIC to",
                self.tap.name,
                f"{self.attached.device} has no {missing} on this kernel",
                "leave it out of offloads",
            )

    def _wrap(self, device: Any, faults: Faults | None, capture: Capture | None) -> Any:
        """Put the wrappers around a device; it is destroyed if that fails."""
        around: list[Faults | Capture] = [faults] if faults is not None else []
        if capture is not None:
            around.insert(0 if capture.at == "wire" else len(around), capture)
        out = ffi.new("struct device **")
        try:
            for wrapper in around:
                code = wrapper._wrap(device, out)
                if code:
                    raise error_from_errno(
                        code, "wrap the device of", self.tap.name, deed=Deed.DEVICE
                    )
                device = out[0]
                if isinstance(wrapper, Faults):
                    self._faults = device
        except BaseException:
            lib.device_destroy(device)
            if capture is not None:
                capture._abandon()
            raise
        return device

    def __repr__(self) -> str:
        if self.closed:
            return "<Nic closed>"
        whose = "" if self._owner.here else f", of process {self._owner.pid}"
        return f"<Nic {self.attached}{whose}>"

    def __str__(self) -> str:
        return "closed" if self.closed else str(self.attached)

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._nic is None

    @property
    def mtu(self) -> int:
        """MTU it was attached with, bytes."""
        return self.attached.mtu

    @property
    def mac(self) -> str:
        """Our MAC address."""
        return self.attached.mac

    @property
    def handle(self) -> Any:
        """The `struct nic *`, for calls into nic_harness._native."""
        if self._nic is None:
            raise ClosedError("use", "NIC", "it is closed")
        self._owner.check("use", "NIC")
        return self._nic

    def close(self) -> None:
        """Stop the device and give every page and frame on the rings back; again has no effect.

        Threads that wait in recv() get a ClosedError. Frames that were passed up stay good. In a
        forked child nothing happens to the NIC, which is the parent's.

        Raises:
            FileError: a capture could not be written whole; the NIC is closed nevertheless.
            BaseException: what ended the thread of on_frames(), unless that was raised before, or
                what a free routine raised; the NIC is closed nevertheless.
        """
        failed: BaseException | None = None
        if not self._owner.here:
            self._let_go()
            return
        if self._nic is not None:
            self._closing = True
            for user in list(self._users.values()):
                user.close()
            for receiver in list(self._receivers):
                try:
                    receiver.stop()
                except BaseException as e:
                    failed = failed or e
            self._waiter.close()
            self._sleepers.close()
            for q in self._queues:
                q.lock.acquire()
            try:
                with Deferred():
                    try:
                        if self._capture is not None:
                            self._capture._stop(self._lost_before())
                        lib.nic_detach(self._nic)
                        self._nic = self._faults = None
                    finally:
                        for q in self._queues:
                            q.close()
                            q.lock.release()
            except BaseException as e:
                failed = failed or e
        if self._owns_arena and not self.arena.closed:
            self.arena._let_go()
        if self._capture is not None:
            capture, self._capture = self._capture, None
            capture.close()
        if failed is not None:
            try:
                raise failed
            finally:
                del failed  # its traceback has this frame: a circle

    def _forked(self) -> None:
        for q in self._queues:
            q.lock = threading.Lock()

    def _let_go(self) -> None:
        """Forget it, in a forked child."""
        if self._nic is not None:
            for q in self._queues:
                q.close()
            self._nic = self._faults = self._capture = None
        if self._owns_arena and not self.arena.closed:
            self.arena._let_go()

    def _lost_before(self) -> int:
        """Frames that were dropped on their way to us, before a capture could see them."""
        lost = self.device_stats().rx_truncated
        with contextlib.suppress(HarnessError):  # the interface may be gone
            lost += self.tap.tx_dropped
        return lost

    def describe(self) -> Attached:
        """Say what is really attached: device, offloads, rings."""
        return self.attached

    # Receive

    def recv(
        self,
        max: int = BURST,  # noqa: A002 - reads best where it is called
        timeout: float | None = None,
        *,
        queue: int = 0,
    ) -> list[Frame]:
        """Receive a burst of frames.

        Args:
            max: frames at most, at least 1.
            timeout: seconds to wait for the first one; None: for ever; 0: not at all.
            queue: receive queue.

        Returns: frames, 1 to `max`; none when the time was over. Frames are pages of the pool:
        release() them soon, or let go of them.

        Raises:
            LinkDownError: the time was over, there was some, and the interface is down.
            DeviceGoneError: the interface was removed.
            RingError: the other side broke the ring.
            ClosedError: closed, also from another thread meanwhile.
        """
        check.integer("receive from", self.tap.name, "max", max, 1, _MOST)
        check.seconds("receive from", self.tap.name, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        q = self._queue(queue)
        while True:
            frames, down = q.harvest(max)
            if frames:
                return frames
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                # Reading does not tell; asking takes longer than a look that does not wait.
                if down or (timeout and self._is_down()):
                    raise LinkDownError("receive from", self.tap.name, "the interface is down")
                return []
            self._sleep(q, left, down)

    def recv_burst(
        self,
        max: int = BURST,  # noqa: A002 - as recv()
        timeout: float | None = None,
        *,
        queue: int = 0,
    ) -> Burst:
        """Receive frames as recv() does, without an object for each; see Burst.

        Returns: a burst of 1 to `max` frames; an empty one when the time was over.

        Raises:
            As recv().
        """
        check.integer("receive from", self.tap.name, "max", max, 1, _MOST_BURST)
        check.seconds("receive from", self.tap.name, timeout)
        q = self._queue(queue)
        frames = ffi.new("struct frame[]", max)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            got, down = q.harvest_into(frames, max)
            left = None if deadline is None else deadline - time.monotonic()
            if got or (left is not None and left <= 0):
                if not got and (down or (timeout and self._is_down())):
                    raise LinkDownError("receive from", self.tap.name, "the interface is down")
                return Burst(frames, got, self.arena._free_chain)
            self._sleep(q, left, down)

    def on_frames(
        self,
        callback: Callback,
        *,
        max: int = BURST,  # noqa: A002 - as recv()
        queue: int = 0,
        cpu: int | None = None,
    ) -> Receiver:
        """Pass what is received to a callback, on a thread of its own, until it is stopped.

        Args:
            callback: called with bursts of 1 to `max` frames, as recv() returns them. It may send.
            max: frames at most.
            queue: receive queue.
            cpu: the CPU that the thread stays on, by its number in /proc/cpuinfo; the others of
                the process stay as they are. None: wherever the scheduler places it.

        Raises:
            ArgumentError: there is no such queue or CPU, or the calling thread may not use that CPU
                (taskset, a cpuset, or its own sched_setaffinity(2)).
            ClosedError: the NIC is closed.
        """
        check.integer("receive from", self.tap.name, "max", max, 1, _MOST)
        check.callback("receive from", self.tap.name, "callback", callback)
        if cpu is not None:
            check.integer("receive from", self.tap.name, "cpu", cpu, -_MOST, _MOST)
        self._queue(queue)
        receiver = Receiver(self, callback, max, queue, cpu)
        self._receivers.add(receiver)
        return receiver

    def _patience(self, seconds: float | None) -> float | None:
        """Bound a wait for the descriptor: delayed frames are due without its becoming readable."""
        if self._tick_s is None:
            return seconds
        return self._tick_s if seconds is None else min(seconds, self._tick_s)

    def _sleep(self, q: QueuePair, seconds: float | None, down: bool) -> None:
        """Wait until a queue has frames, perhaps, for so long at most."""
        if down:
            seconds = _DOWN_POLL_S if seconds is None else min(seconds, _DOWN_POLL_S)
        self._waiter.wait(None if down else q.wait_fd, self._patience(seconds))

    def __iter__(self) -> Iterator[Frame]:
        """Receive for ever, frame by frame, on queue 0; ends when the NIC is closed.

        Frames that are there when the iteration is left are received by the next call.
        """
        while True:
            try:
                q = self._queue(0)
                down = q.harvest_ahead()
            except ClosedError:
                return
            # Nothing here keeps a frame that the caller let go of; another thread may iterate too.
            with contextlib.suppress(IndexError):
                while not self._closing:
                    yield q.left.popleft()
            self._sleep(q, None, down)

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """Receive as iteration does, in an asyncio event loop; a cancelled wait loses no frame."""
        while True:
            try:
                q = self._queue(0)
                down = q.harvest_ahead()
            except ClosedError:
                return
            with contextlib.suppress(IndexError):
                while not self._closing:
                    yield q.left.popleft()
            await self._sleepers.wait(
                None if down else q.wait_fd, self._patience(_DOWN_POLL_S if down else None)
            )

    def fileno(self, queue: int = 0) -> int:
        """Return a descriptor that is readable when frames wait (for select, asyncio)."""
        return self._queue(queue).wait_fd

    def _queue(self, queue: int) -> QueuePair:
        if self._nic is None:
            raise ClosedError("use", "NIC", "it is closed")
        self._owner.check("use", "NIC")
        self._check_queue(queue)
        if queue in self._users:
            raise self._belongs(queue, self._users[queue])
        return self._queues[queue]

    def _belongs(self, queue: int, user: SupportsClose) -> BusyError:
        return BusyError("use", f"queue {queue}", f"it belongs to {user!r}", "use that instead")

    # Transmit

    def send(
        self,
        frame: Sendable,
        *,
        offload: Offload | None = None,
        timeout: float | None = None,
        queue: int = 0,
    ) -> None:
        """Send one frame; see send_many()."""
        self.send_many((frame,), offload=offload, timeout=timeout, queue=queue)

    def send_many(
        self,
        frames: Iterable[Sendable],
        *,
        offload: Offload | None = None,
        timeout: float | None = None,
        queue: int = 0,
    ) -> int:
        """Send frames in order, in batches.

        Args:
            frames: each a whole Ethernet frame without FCS. Bytes are copied into pages; a Frame,
                Chain or Mbuf with a packet header is sent from where it lies, and may be released
                as soon as this returns: its storage is free, and its free routine called, when
                that is done and the frame is out. Storage outside of the arena is copied.
            offload: what the other side shall do for each of them. None: nothing for bytes; what a
                Frame came with for a Frame.
            timeout: seconds to wait for room on the ring; None: for ever.
            queue: transmit queue.

        Returns: how many were sent: all of them. While the interface is down they wait on the
        ring, and go out with the first one sent after it came up.

        Raises:
            FrameSizeError: longer than the MTU allows. As with each of these, the frames before it
                were sent.
            FrameError: shorter than an Ethernet header, or offload fields that make no sense.
            ResourceError: out of pages or mbufs.
            RingFullError: no room came in time.
            DeviceGoneError: the interface was removed. What is on the ring comes back with close().
            RingError: the other side broke the ring.
            FrameReleasedError: the frame, or the view, was released.
            ArgumentTypeError: it is none of these.
            BaseException: what the free routine of a frame that is out raised; all were sent.
            ClosedError: the NIC is closed.
        """
        check.instance("send on", self.tap.name, "frames", frames, Iterable)
        check_sending(self.tap.name, offload, timeout)
        return self._send_all(self._queue(queue).transmit, frames, offload, timeout)

    def _send_all(
        self,
        transmit: Transmit,
        frames: Iterable[Sendable],
        offload: Offload | None,
        timeout: float | None,
    ) -> int:
        sent = 0
        batch: list[Sendable] = []
        for frame in frames:
            batch.append(frame)
            if len(batch) == BURST:
                sent += self._send_batch(transmit, batch, offload, timeout)
                batch = []
        if batch:
            sent += self._send_batch(transmit, batch, offload, timeout)
        return sent

    def _send_batch(
        self,
        transmit: Transmit,
        batch: Sequence[Sendable],
        offload: Offload | None,
        timeout: float | None,
    ) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.0
        done = transmit(batch, offload)
        while done < len(batch):
            if deadline is not None and time.monotonic() >= deadline:
                raise self._ring_full(timeout)
            # The device takes all it is given unless it is down: nothing to wait for but time.
            pause = min(pause + 0.001, _DOWN_POLL_S)
            self._waiter.wait(None, pause)
            done += transmit(batch[done:], offload)
        return done

    def wait_tx_room(
        self,
        frames: int = 1,
        timeout: float | None = None,
        *,
        pieces: int = 1,
        queue: int = 0,
    ) -> bool:
        """Wait until the transmit ring takes some frames at once; whether it does.

        Args:
            frames: so many.
            timeout: seconds; None: for ever; 0: not at all.
            pieces: that each lies in.
            queue: transmit queue.

        Raises:
            ArgumentError: the ring never has room for that.
            ClosedError: closed, also from another thread meanwhile.
        """
        check.seconds("wait for room on", self.tap.name, timeout)
        check.integer("wait for room on", self.tap.name, "frames", frames, 1, _MOST)
        check.integer("wait for room on", self.tap.name, "pieces", pieces, 1, _MOST)
        q = self._queue(queue)
        size = self.attached.tx_ring_size
        if frames < 1 or pieces < 1 or frames * (pieces + 1) > size:
            problem = f"{frames} frames of {pieces} pieces and a header each in {size} descriptors"
            raise ArgumentError("wait for room on", self.tap.name, problem, "ask for fewer")
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.0
        while q.flush(pieces) < frames:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            pause = min(pause + 0.001, _DOWN_POLL_S)
            self._waiter.wait(None, pause if left is None else min(left, pause))
        return True

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the device has taken everything that was sent, and its buffers are free.

        With tap_rw and tap_uring that is so when send() returns, unless the interface is down;
        vhost_net works on its own.

        Args:
            timeout: seconds; None: for ever.

        Raises:
            RingFullError: frames were still on a ring when the time was over.
            RingError, DeviceGoneError: they will stay there.
            ClosedError: the NIC is closed.
        """
        check.seconds("flush", self.tap.name, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.0
        for queue in range(self.attached.queues):
            q = self._queue(queue)
            while True:
                q.flush()
                if self.stats(queue).tx_outstanding == 0:
                    break
                if deadline is not None and time.monotonic() >= deadline:
                    raise self._ring_full(timeout)
                pause = min(pause + 0.001, _DOWN_POLL_S)
                self._waiter.wait(None, pause)

    def _is_down(self) -> bool:
        """Ask the kernel; an interface that cannot be asked after is not down but gone."""
        try:
            return not self.tap.link().up
        except HarnessError:
            return False

    def _ring_full(self, timeout: float | None) -> HarnessError:
        down = self._is_down()
        why = "the interface is down" if down else f"the ring was full for {timeout} s"
        remedy = "bring it up" if down else "wait longer or send less"
        return RingFullError("send on", self.tap.name, why, remedy)

    # Questions

    def stats(self, queue: int | None = None) -> NicStats:
        """Counters of the driver: of one queue, or of all together."""
        nic = self.handle
        names = NicStats.__slots__
        total = dict.fromkeys(names, 0)
        s = ffi.new("struct nic_queue_stats *")
        for i in self._which(queue):
            lib.nic_get_stats(nic, i, s)
            for name in names:
                total[name] += getattr(s, name)
        return NicStats(**total)

    def device_stats(self, queue: int | None = None) -> DeviceStats:
        """Counters of the device: of one queue, or of all together."""
        info = ffi.new("struct device_info *")
        lib.nic_describe(self.handle, info)
        names = DeviceStats.__slots__
        return DeviceStats(
            **{n: sum(getattr(info.queue[i], n) for i in self._which(queue)) for n in names}
        )

    def rings(self, queue: int = 0) -> tuple[RingPositions, RingPositions]:
        """Look at the receive and the transmit ring of a queue; from any thread."""
        self._check_queue(queue)
        r = ffi.new("struct nic_ring *")
        found = []
        for tx in (False, True):
            lib.nic_get_ring(self.handle, queue, tx, r)
            found.append(RingPositions(r.size, r.avail, r.used, r.taken))
        return found[0], found[1]

    def fault_stats(self) -> FaultStats:
        """Count the faults that were done.

        Raises:
            ClosedError: the NIC is closed.
            UnsupportedError: it has no faults.
        """
        if self.handle and self._faults is None:
            raise UnsupportedError("count", "faults", "the NIC has none", "use Nic(faults=...)")
        return fault_stats(self._faults)

    def _which(self, queue: int | None) -> Iterable[int]:
        if queue is None:
            return range(len(self._queues))
        self._check_queue(queue)
        return (queue,)

    def _check_queue(self, queue: int) -> None:
        check.integer("use", "NIC", "queue", queue, -_MOST, _MOST)
        if not 0 <= queue < len(self._queues):
            raise ArgumentError("use", "NIC", f"queue {queue} of {len(self._queues)}")

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Let nobody receive, send or close meanwhile.

        Raises:
            ClosedError: the NIC is closed.
        """
        self._owner.check("use", "NIC")
        with contextlib.ExitStack() as stack:
            for q in self._queues:
                stack.enter_context(q.lock)
            if self._nic is None:
                raise ClosedError("use", "NIC", "it is closed")
            yield

    def check(self) -> None:
        """Check conservation at this moment: each page and frame of the rings is where it belongs.

        Raises:
            RingError: a page or frame is lost or doubled.
        """
        with self._held():
            code = lib.nic_check(self.handle)
        if code:
            raise RingError("check", repr(self), "a page or frame of a ring is lost or doubled")


def check_sending(interface: str, offload: Offload | None, timeout: float | None) -> None:
    """See that what every call that sends takes is what it says."""
    check.instance("send on", interface, "offload", offload, Offload, NoneType)
    check.seconds("send on", interface, timeout)


def _check_tuning(interface: str, device: str, ring_size: int, tuning: dict[str, int]) -> None:
    """Refuse what does not go with this device or this ring."""
    bounds = {
        "header_split": (14, lib.NIC_SPLIT_MAX),
        "rx_low_water": (lib.NET_FRAME_BUFFERS, ring_size),
        "coalesce_us": (1, 2**32 - 1),
        "coalesce_frames": (1, ring_size - 1),
    }
    for field, (least, most) in bounds.items():
        name = field.removeprefix("rx_")
        value = check.integer("attach NIC to", interface, name, tuning[field], 0, _MOST << 1 | 1)
        if value and not least <= value <= most:
            raise ArgumentError(
                "attach NIC to", interface, f"{name}={value}", f"0, or {least} to {most}"
            )
    if tuning["coalesce_frames"] and not tuning["coalesce_us"]:
        raise ArgumentError(
            "attach NIC to",
            interface,
            "coalesce_frames without coalesce_us could wait for ever",
            "give a time too",
        )
    if tuning["header_split"] and device == "vhost_net":
        raise UnsupportedError(
            "attach NIC to",
            interface,
            "vhost_net fills pages as they come and splits no headers off",
            "use device tap_uring or tap_rw",
        )
