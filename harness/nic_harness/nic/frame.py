"""Frames where they lie in memory: views of jumbo pages, without a copy."""

from __future__ import annotations

import contextlib
import enum
import functools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base.live import Ending
from nic_harness.errors import (
    ArgumentTypeError,
    BusyError,
    FrameError,
    FrameReleasedError,
)

__all__ = ["Chain", "Frame", "Gso", "Offload"]


class Gso(enum.Enum):
    """What a super-frame is cut into."""

    NONE = 0
    TCP4 = lib.CSUM_TSO4
    TCP6 = lib.CSUM_TSO6
    UDP = lib.CSUM_USO


@dataclass(frozen=True, slots=True)
class Offload:
    """What remains to be done on a frame (struct virtio_net_hdr, virtio 1.x section 5.1.6).

    On a received frame it says what the sender left undone; on a frame to send, what the other side
    must do.

    Attributes:
        needs_csum: sum the bytes from `csum_start` to the end, and put the sum at `csum_start` +
            `csum_offset`, which now holds the sum of the pseudo header.
        csum_start: bytes from the start of the frame.
        csum_offset: bytes from `csum_start`.
        csum_valid: the frame was received, and its sum has been checked already.
        gso: kind of super-frame.
        gso_size: payload bytes of each segment.
        hdr_len: bytes of the link, network and transport headers.
        ecn: a TCP super-frame that carries CWR.
    """

    needs_csum: bool = False
    csum_start: int = 0
    csum_offset: int = 0
    csum_valid: bool = False
    gso: Gso = Gso.NONE
    gso_size: int = 0
    hdr_len: int = 0
    ecn: bool = False

    def __post_init__(self) -> None:
        for name in ("csum_start", "csum_offset", "gso_size", "hdr_len"):
            value = getattr(self, name)
            check.instance("make", "an Offload", name, value, int)
            if isinstance(value, bool):
                raise ArgumentTypeError("make", "an Offload", f"{name}={value}", "give a number")
        check.instance("make", "an Offload", "gso", self.gso, Gso)
        for name in ("needs_csum", "csum_valid", "ecn"):
            check.flag("make", "an Offload", name, getattr(self, name))

    @classmethod
    def _of(cls, d: Any) -> Offload:
        flags = d.csum_flags
        if not flags:
            return NO_OFFLOAD
        return cls(
            needs_csum=bool(flags & lib.CSUM_PARTIAL),
            csum_start=d.csum_start,
            csum_offset=d.csum_offset,
            csum_valid=bool(flags & lib.CSUM_DATA_VALID),
            gso=Gso(flags & _GSO),
            gso_size=d.gso_size,
            hdr_len=d.hdr_len,
            ecn=bool(flags & lib.CSUM_ECN),
        )

    def _put(self, tx: Any) -> None:
        """Write it into a struct frame_tx."""
        tx.csum_flags = (
            lib.CSUM_PARTIAL * self.needs_csum | self.gso.value | lib.CSUM_ECN * self.ecn
        )
        try:
            tx.csum_start = self.csum_start
            tx.csum_offset = self.csum_offset
            tx.gso_size = self.gso_size
            tx.hdr_len = self.hdr_len
        except OverflowError as e:
            raise FrameError("send", "frame", f"offload fields out of range: {e}") from None


_GSO = lib.CSUM_TSO4 | lib.CSUM_TSO6 | lib.CSUM_USO
NO_OFFLOAD = Offload()


class Chain(Ending):
    """Bytes in a chain of buffers, viewed in place.

    `len()` is its length in bytes. The views keep the pages alive: a slice that you keep stays
    valid after release(), and the page goes back to its pool when the last slice is gone.
    """

    __slots__ = (
        "__weakref__",
        "_data",
        "_data_len",
        "_free",
        "_len",
        "_m",
        "_nsegs",
        "_slices",
        "_views",
    )

    def __init__(self, d: Any, free: Any) -> None:
        """Take over a described packet; `free` frees its chain."""
        self._free = free
        self._hold(d)

    def _hold(self, d: Any) -> None:
        self._m: Any = ffi.gc(d.m, self._free)
        self._data = d.data
        self._data_len: int = d.data_len
        self._len: int = d.len
        self._nsegs: int = d.nsegs
        self._views: tuple[memoryview, ...] | None = None
        self._slices: weakref.ref[Any] | None = None

    def __len__(self) -> int:
        return self._len

    def _end_block(self) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "released" if self._m is None else f"{self._nsegs} segments"
        return f"<{type(self).__name__} {self._len} bytes, {state}>"

    @property
    def released(self) -> bool:
        """Whether release() was called."""
        return self._m is None

    def _chain(self, operation: str) -> Any:
        if self._m is None:
            raise FrameReleasedError(operation, repr(self), "it was released")
        return self._m

    @contextlib.contextmanager
    def _lent(self, operation: str) -> Iterator[Any]:
        """Lend the chain to C, as a `struct mbuf **`; C may take mbufs from its front.

        Raises:
            BusyError: a slice of its views is in use.
        """
        m = self._chain(operation)
        self._drop_views()
        if self._slices is not None and self._slices() is not None:
            raise BusyError(operation, repr(self), "slices of its views are in use", "drop them")
        chain = ffi.new("struct mbuf **", m)
        self._m = self._data = None
        ffi.gc(m, None)
        try:
            yield chain
        finally:
            self._len = 0
            if chain[0] != ffi.NULL:
                d = ffi.new("struct frame *")
                lib.frame_describe(chain[0], d)
                self._hold(d)

    @property
    def segments(self) -> tuple[memoryview, ...]:
        """The bytes, in order, one view for each buffer; () for an empty chain.

        Raises:
            FrameReleasedError: after release().
        """
        m = self._chain("look at")
        if self._views is None:
            # Every view, and every slice of one, keeps the chain.
            keep = functools.partial(_keep, m)
            self._slices = weakref.ref(keep)
            if self._nsegs <= 1:
                parts = [(self._data, self._data_len)] * self._nsegs
            else:
                segs = ffi.new("struct frame_seg[]", self._nsegs)
                lib.frame_segs(m, segs, self._nsegs)
                parts = [(seg.data, seg.len) for seg in segs]
            self._views = tuple(
                memoryview(ffi.buffer(ffi.gc(data, keep), size)) for data, size in parts
            )
        return self._views

    @property
    def data(self) -> memoryview:
        """The bytes as one view.

        Raises:
            FrameError: they lie in several buffers: use `segments`, or bytes() for a copy.
            FrameReleasedError: after release().
        """
        if self._nsegs > 1:
            self._chain("look at")
            raise FrameError(
                "look at",
                repr(self),
                "it is not in one piece",
                "use .segments, or bytes() for a copy",
            )
        return self.segments[0] if self._nsegs else memoryview(b"")

    def __iter__(self) -> Iterator[memoryview]:
        return iter(self.segments)

    def __bytes__(self) -> bytes:
        """Copy the bytes; the arena's `bytes_copied` counts them."""
        segments = self.segments
        lib.frame_copied(self._m, self._len)
        return b"".join(segments)

    def _give(self, d: Any) -> None:
        """Give the packet away, described as it came, before any view of it is made."""
        m, self._m = self._m, None
        ffi.gc(m, None)
        lib.frame_describe(ffi.cast("struct mbuf *", m), d)

    def release(self) -> None:
        """Give the buffers back; a second call has no effect.

        Views of it can no longer be used. Slices of those views can, and the pages go back when the
        last slice is gone.
        """
        self._drop_views()
        self._m = None
        self._data = None

    def _drop_views(self) -> None:
        if self._views is not None:
            for view in self._views:
                try:
                    view.release()
                except BufferError:  # something, such as numpy, has a view of this very view
                    continue
            self._views = None


class Frame(Chain):
    """A received frame, starting at its Ethernet header, in the pages that the device wrote to.

    Attributes:
        timestamp: when it was received, ns since 1970 (CLOCK_REALTIME).
        offload: what the sender left undone.
        queue: the receive queue it arrived on.
    """

    __slots__ = ("offload", "queue", "timestamp")

    def __init__(self, d: Any, free: Any, queue: int) -> None:
        super().__init__(d, free)
        self.timestamp: int = d.timestamp
        self.offload = Offload._of(d)
        self.queue = queue

    def _give(self, d: Any) -> None:
        super()._give(d)
        d.timestamp = self.timestamp


def _keep(_chain: Any, _data: Any) -> None:
    """Do nothing: keeping the first argument alive was the whole purpose."""
