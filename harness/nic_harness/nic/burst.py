"""A burst of frames without an object for each: descriptors in an array, bytes on demand."""

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

#: Fields of the array, by the members of struct frame that they are.
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

    `len()` is how many; `burst[i]` the bytes of one, as a view of its page, the same one each time:
    who releases it (or uses it in `with`) takes it from everybody, so release a slice instead.
    Slices of views keep the pages of the whole burst after release(). Use as a context manager.
    """

    __slots__ = ("__weakref__", "_frames", "_made", "_n", "_owner", "_pieces", "_whole")

    def __init__(self, frames: Any, n: int, free: Any) -> None:
        """Take over `n` described frames; `free` keeps what they are made of."""
        self._frames = frames
        self._n = n
        # The descriptors may be looked at after release(): what is freed is the chains.
        self._owner: Any = ffi.gc(
            ffi.cast("struct frame *", frames), functools.partial(_free, frames, n, free)
        )
        # A view of each frame, None for one in several pieces; made when one is asked for. Of two
        # threads that ask at once each makes them, and both use those that are there first.
        self._made: list[list[memoryview | None]] = []
        self._whole = True  # none is in several pieces
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
        """The descriptors as a numpy array, not a copy; numbers only: good after release().

        Fields: `address` and `first`, bytes, of the first piece; `length` of the frame, bytes;
        `segments` that it lies in; `flags`, CSUM_* of sys/mbuf.h; `timestamp`, ns since 1970.

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
            FrameError: it lies in several pieces: use segments(i).
            FrameReleasedError: after release().
        """
        view = self._seen()[i]
        if view is None:
            raise FrameError(
                "look at", f"frame {i} of {self!r}", "it is no single piece", "use .segments(i)"
            )
        return view

    def __iter__(self) -> Iterator[memoryview]:
        """Go through the bytes of all frames, a view for each.

        Raises:
            FrameError, FrameReleasedError: as burst[i].
        """
        seen = self._seen()
        if not self._whole:
            self[seen.index(None)]  # says so
        return iter(seen)  # type: ignore[arg-type]

    def _seen(self) -> list[memoryview | None]:
        made = self._made
        if not made:
            owner = self._owner
            if owner is None:
                raise FrameReleasedError("look at", repr(self), "it was released")
            seen = views(owner, ffi.buffer(self._frames, self._n * _SIZE))
            self._whole = all(seen)  # no piece is empty
            made.append(seen)  # last: from here on others use them
        return made[0]

    def segments(self, i: int) -> tuple[memoryview, ...]:
        """Return the bytes of frame `i`, a view for each piece.

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
        """Give the pages of all frames back; again has no effect.

        Views cannot be used any more. Slices that were taken of them can, and the pages go back
        with the last one.
        """
        for view in itertools.chain(*self._made, self._pieces):
            if view is None:
                continue
            try:
                view.release()
            except BufferError:  # somebody has a view of this very view, such as numpy
                continue
        self._made, self._pieces = [], []
        self._owner = None


def _free(frames: Any, n: int, _keep_alive: Any, _owner: Any) -> None:
    lib.frames_free(frames, n)


def _keep(_owner: Any, _data: Any) -> None:
    """Do nothing: the first argument has been kept alive, which is all that was wanted."""
