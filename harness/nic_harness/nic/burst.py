"""A burst of frames without an object for each one: descriptors in an array, bytes on demand."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nic_harness._native import ffi, lib
from nic_harness._views import views
from nic_harness.base.live import Ending
from nic_harness.errors import FrameError, FrameReleasedError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Burst"]

#: Fields of the array: name, member of struct frame, type.
_FIELDS = (
    ("address", "data", "u8"),
    ("length", "len", "u4"),
    ("first", "data_len", "u4"),
    ("segments", "nsegs", "u4"),
    ("flags", "csum_flags", "u4"),
    ("timestamp", "timestamp", "u8"),
)

_SIZE = ffi.sizeof("struct frame")


class Burst(Ending):
    """Frames received together, in the pages that the device wrote them to.

    `len()` is their number. `burst[i]` is a view of the bytes of one, the same view each time:
    releasing it (or using it in `with`) takes it from all users, so release a slice instead.
    Slices of views keep the pages of the whole burst after release(). Use as a context manager.
    """

    __slots__ = ("__weakref__", "_frames", "_made", "_n", "_owner", "_pieces", "_whole")

    def __init__(self, frames: Any, n: int, free: Any) -> None:
        """Take over `n` described frames; `free` keeps alive what they are made of."""
        self._frames = frames
        self._n = n
        # Only the chains are freed: the descriptors may be read after release().
        self._owner: Any = ffi.gc(
            ffi.cast("struct frame *", frames), functools.partial(_free, frames, n, free)
        )
        # A view of each frame, None for one in several pieces, made on first use. Two threads that
        # ask at the same time both make the views, and both use the list that is stored first.
        self._made: list[list[memoryview | None]] = []
        self._whole = True  # no frame is in several pieces
        self._pieces: list[memoryview] = []  # what segments() made

    def __len__(self) -> int:
        return self._n

    def _end_block(self) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Burst of {self._n} frames{', released' if self.released else ''}>"

    @property
    def released(self) -> bool:
        """Whether release() was called."""
        return self._owner is None

    @property
    def array(self) -> npt.NDArray[np.void]:
        """The descriptors as a numpy array, not a copy; they stay readable after release().

        Fields: `address` and `first`, the address and length (bytes) of the first piece; `length`,
        bytes of the frame; `segments`, its number of pieces; `flags`, CSUM_* of sys/mbuf.h;
        `timestamp`, ns since 1970.

        Raises:
            UnsupportedError: numpy is not installed.
        """
        try:
            import numpy as np
        except ImportError as e:
            raise UnsupportedError(
                "describe", repr(self), "numpy is not installed", "pip install nic-harness[numpy]"
            ) from e
        dtype = np.dtype(
            {
                "names": [name for name, _, _ in _FIELDS],
                "formats": [kind for _, _, kind in _FIELDS],
                "offsets": [ffi.offsetof("struct frame", member) for _, member, _ in _FIELDS],
                "itemsize": _SIZE,
            }
        )
        memory = ffi.buffer(self._frames, self._n * _SIZE)
        array = np.frombuffer(memory, dtype) if self._n else np.empty(0, dtype)
        array.flags.writeable = False
        return array

    def __getitem__(self, i: int) -> memoryview:
        """Return the bytes of frame `i` as one view.

        Raises:
            IndexError: there is no such frame.
            FrameError: it lies in several pieces; use segments(i).
            FrameReleasedError: after release().
        """
        view = self._seen()[i]
        if view is None:
            raise FrameError(
                "look at", f"frame {i} of {self!r}", "it is not in one piece", "use .segments(i)"
            )
        return view

    def __iter__(self) -> Iterator[memoryview]:
        """Iterate over the bytes of all frames, one view for each.

        Raises:
            FrameError, FrameReleasedError: as burst[i].
        """
        seen = self._seen()
        if not self._whole:
            self[seen.index(None)]  # raises the error
        return iter(seen)  # type: ignore[arg-type]

    def _seen(self) -> list[memoryview | None]:
        made = self._made
        if not made:
            owner = self._owner
            if owner is None:
                raise FrameReleasedError("look at", repr(self), "it was released")
            seen = views(owner, ffi.buffer(self._frames, self._n * _SIZE))
            self._whole = all(seen)  # no piece is empty
            made.append(seen)  # last, because other threads use them from here on
        return made[0]

    def segments(self, i: int) -> tuple[memoryview, ...]:
        """Return the bytes of frame `i`, one view for each piece.

        Raises:
            IndexError: there is no such frame.
            FrameReleasedError: after release().
        """
        f = self._frame(i)
        if f.nsegs == 1:
            parts = [(f.data, f.data_len)]
        else:
            segs = ffi.new("struct frame_seg[]", f.nsegs)
            lib.frame_segs(f.m, segs, f.nsegs)
            parts = [(seg.data, seg.len) for seg in segs]
        keep = functools.partial(_keep, self._owner)
        pieces = tuple(memoryview(ffi.buffer(ffi.gc(data, keep), size)) for data, size in parts)
        self._pieces += pieces
        return pieces

    def _frame(self, i: int) -> Any:
        if self._owner is None:
            raise FrameReleasedError("look at", repr(self), "it was released")
        if not -self._n <= i < self._n:
            raise IndexError(f"frame {i} of {self._n}")
        return self._frames[i % self._n]

    def release(self) -> None:
        """Give the pages of all frames back; a second call has no effect.

        Views can no longer be used. Slices of them can, and the pages go back when the last slice
        is gone.
        """
        for view in itertools.chain(*self._made, self._pieces):
            if view is None:
                continue
            try:
                view.release()
            except BufferError:  # something, such as numpy, has a view of this very view
                continue
        self._made, self._pieces = [], []
        self._owner = None


def _free(frames: Any, n: int, _keep_alive: Any, _owner: Any) -> None:
    lib.frames_free(frames, n)


def _keep(_owner: Any, _data: Any) -> None:
    """Do nothing: keeping the first argument alive was the whole purpose."""
