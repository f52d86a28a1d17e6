"""A queue pair: what goes between its rings and Python, one thread at a time."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

from nic_harness._native import ffi, lib
from nic_harness.base import site as _site
from nic_harness.base.owner import Owner
from nic_harness.base.waiter import Waiter
from nic_harness.bsd.mbuf import Deferred, Mbuf
from nic_harness.errors import (
    ArgumentTypeError,
    ClosedError,
    Deed,
    DeviceGoneError,
    FrameError,
    FrameReleasedError,
    FrameSizeError,
    HarnessError,
    ResourceError,
    RingError,
    error_from_errno,
)
from nic_harness.nic.frame import NO_OFFLOAD, Chain, Frame, Offload

__all__ = ["BURST", "Bytes", "QueuePair", "Sendable"]

#: Anything with a contiguous buffer of bytes.
Bytes: TypeAlias = bytes | bytearray | memoryview
Sendable: TypeAlias = Bytes | Chain | Mbuf

BURST = 64  # frames that one call into C moves at most


class QueuePair:
    """A queue pair and the lock that makes it belong to one thread at a time.

    Attributes:
        nic: the `struct nic *`; None when it is closed.
        index: number of the queue.
        interface: name of the TAP, for messages.
        lock: held in every call into C.
        left: frames that an iteration harvested and that were not taken from it yet.
        wait_fd: readable when frames wait.
    """

    __slots__ = (
        "_frames",
        "_free",
        "_mtu",
        "_owner",
        "_taken",
        "_tx",
        "_waiter",
        "index",
        "interface",
        "left",
        "lock",
        "nic",
        "wait_fd",
    )

    def __init__(
        self,
        nic: Any,
        index: int,
        wait_fd: int,
        *,
        interface: str,
        mtu: int,
        free: Any,
        waiter: Waiter,
        owner: Owner,
    ) -> None:
        self.nic = nic
        self.index = index
        self.wait_fd = wait_fd
        self.interface = interface
        self.lock = threading.Lock()
        self.left: deque[Frame] = deque()
        self._mtu = mtu
        self._free = free
        self._waiter = waiter
        self._owner = owner
        self._frames = ffi.new("struct frame[]", BURST)
        self._tx = ffi.new("struct frame_tx[]", BURST)
        self._taken = ffi.new("unsigned *")

    def close(self) -> None:
        """Forget the rings and the arena; with the lock held."""
        self.left.clear()
        self.nic = self._free = None

    def _open(self, operation: str) -> None:
        if self.nic is None or self._waiter.closing:
            raise ClosedError(operation, self.interface, "the NIC was closed")

    def harvest(self, most: int, site: Any = None) -> tuple[list[Frame], bool]:
        """Take what is there: frames, and whether the interface is down.

        Args:
            most: frames at most.
            site: what their pages' records name as the place; None: the caller of the library.
        """
        self._owner.check("receive from", self.interface)
        frames: list[Frame] = []
        free = self._free
        try:
            with Deferred(), self.lock:
                while self.left and len(frames) < most:
                    frames.append(self.left.popleft())
                while len(frames) < most:
                    want = min(most - len(frames), BURST)
                    got = self._rx(self._frames, want)
                    if got < 0:
                        if frames:  # these first; the next call finds the same error
                            break
                        if got == -errno.ENETDOWN:
                            return frames, True
                        raise self.error(got, "receive from")
                    frames += [Frame(self._frames[i], free, self.index) for i in range(got)]
                    if got:
                        lib.frames_taken(self._frames, got, site or _site.caller())
                    if got < want:
                        break
        except BaseException:  # of a free routine: the frames are for the next call
            self.left.extendleft(reversed(frames))
            frames.clear()  # the traceback keeps the list
            raise
        return frames, False

    def harvest_ahead(self) -> bool:
        """Take a burst for an iteration to go through; whether the interface is down."""
        if self.left:
            return False
        frames, down = self.harvest(BURST)
        self.left.extend(frames)
        return down

    def harvest_into(self, frames: Any, most: int) -> tuple[int, bool]:
        """Take what is there into a struct frame[]: how many, and whether the interface is down."""
        self._owner.check("receive from", self.interface)
        have = 0
        try:
            with Deferred(), self.lock:
                while self.left and have < most:
                    self.left.popleft()._give(frames + have)
                    have += 1
                while have < most:
                    want = min(most - have, BURST)
                    got = self._rx(frames + have, want)
                    if got < 0:
                        if have:
                            break
                        if got == -errno.ENETDOWN:
                            return 0, True
                        raise self.error(got, "receive from")
                    have += got
                    if got:
                        lib.frames_taken(frames + have - got, got, _site.caller())
                    if got < want:
                        break
        except BaseException:  # as in harvest()
            free = self._free
            self.left.extendleft(Frame(frames[i], free, self.index) for i in reversed(range(have)))
            raise
        return have, False

    def _rx(self, frames: Any, want: int) -> int:
        """Call C, with the queue's lock held."""
        self._open("receive from")
        return int(lib.nic_rx_frames(self.nic, self.index, frames, want))

    def transmit(self, batch: Sequence[Sendable], offload: Offload | None) -> int:
        """Put frames on the ring, BURST at most; how many it had room for.

        Raises:
            As Nic.send_many(); the frames before the one concerned were sent.
        """
        self._owner.check("send on", self.interface)
        with Deferred(), self.lock:
            self._open("send on")
            held: list[Any] = []
            try:
                for frame in batch:
                    held.append(_fill(self._tx[len(held)], frame, offload))
            except Exception:
                before = len(held)
                done = self._put(batch, held)
                if done == before:
                    raise
                return done  # the rest first; the next call finds the same error
            return self._put(batch, held)

    def _put(self, batch: Sequence[Sendable], held: list[Any]) -> int:
        """Transmit the frames of a batch that were described; how many the ring had room for."""
        code = lib.nic_tx_frames(self.nic, self.index, self._tx, len(held), self._taken)
        held.clear()  # a traceback keeps the list
        done = int(self._taken[0])
        if code not in (0, -errno.ENOBUFS):
            raise self._send_error(code, batch[min(done, len(batch) - 1)])
        return done

    def flush(self, pieces: int = 1) -> int:
        """Let the device transmit, free what completed; for how many frames there is room.

        Raises:
            RingError, DeviceGoneError, ClosedError: there will be none.
        """
        self._owner.check("send on", self.interface)
        with Deferred(), self.lock:
            self._open("send on")
            code = lib.nic_tx_flush(self.nic, self.index)
            if code < 0 and code not in (-errno.ENETDOWN, -errno.EFAULT):
                raise self.error(code, "send on")
            return int(lib.nic_tx_room(self.nic, self.index, pieces))

    def _send_error(self, code: int, frame: Sendable) -> HarnessError:
        chain = isinstance(frame, Chain | Mbuf)
        size = len(frame) if chain else memoryview(frame).nbytes  # type: ignore[arg-type]
        what = f"frame of {size} bytes on {self.interface}"
        if code == -errno.EMSGSIZE:
            return FrameSizeError(
                "send", what, f"longer than MTU {self._mtu} allows", "raise the MTU", errno=-code
            )
        if code == -errno.EINVAL:
            short = size < 14
            problem = "shorter than an Ethernet header" if short else "offload fields make no sense"
            return FrameError("send", what, problem, errno=-code)
        if code == -errno.ENOMEM:
            return ResourceError(
                "send",
                what,
                "out of pages or mbufs",
                "release frames, or a larger arena",
                errno=-code,
            )
        return self.error(code, "send on")

    def error(self, code: int, operation: str) -> HarnessError:
        """Make the error for a call into C that did not work."""
        if code == -errno.EPROTO:
            why = ffi.string(lib.vq_error_name(lib.nic_queue_error(self.nic, self.index))).decode()
            return RingError(
                operation,
                f"{self.interface} queue {self.index}",
                f"the ring is broken: {why}",
                errno=-code,
            )
        if code == -errno.ENODEV:
            return DeviceGoneError(operation, self.interface, "the interface is gone", errno=-code)
        return error_from_errno(code, operation, self.interface, deed=Deed.DEVICE)


def _is_released(view: memoryview) -> bool:
    try:
        return view.nbytes < 0
    except ValueError:
        return True


def _fill(tx: Any, frame: Sendable, offload: Offload | None) -> Any:
    """Describe a frame to send; what is returned must live until it is sent."""
    if isinstance(frame, Chain):
        tx.m = frame._chain("send")
        tx.data = ffi.NULL
        tx.len = len(frame)
        default = frame.offload if isinstance(frame, Frame) else NO_OFFLOAD
        (default if offload is None else offload)._put(tx)
        return frame
    if isinstance(frame, Mbuf):
        tx.m = frame.handle
        tx.data = ffi.NULL
        tx.len = len(frame)
        if frame.pkthdr_len != tx.len:
            problem = f"pkthdr_len is {frame.pkthdr_len}"
            raise FrameError("send", repr(frame), problem, "use m_gethdr(), and set pkthdr_len")
        (NO_OFFLOAD if offload is None else offload)._put(tx)
        return frame
    try:
        held = ffi.from_buffer(frame)
    except (TypeError, ValueError, BufferError) as e:  # also of a view with gaps in it
        what = f"a {type(frame).__name__}"
        if isinstance(frame, memoryview) and _is_released(frame):
            raise FrameReleasedError("send", what, "it was released") from None
        raise ArgumentTypeError(
            "send",
            what,
            f"no frame, and no contiguous buffer of bytes: {e}",
            "send bytes, a bytearray or memoryview, a Frame, a Chain or an Mbuf",
        ) from e
    tx.m = ffi.NULL
    tx.data = held
    tx.len = len(held)
    (NO_OFFLOAD if offload is None else offload)._put(tx)
    return held
