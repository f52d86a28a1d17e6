"""A burst of frames without an object for each: descriptors in an array, bytes on demand."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from harness._native import ffi, lib
from harness.errors import FrameError, FrameReleasedError, UnsupportedError

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

# struct frame in words of eight bytes, and of four.
_SIZE = ffi.sizeof("struct frame")
_WORDS = _SIZE // 8
_ADDRESS = ffi.offsetof("struct frame", "data") // 8
_LENGTHS = tuple(ffi.offsetof("struct frame", member) // 4 for member in ("data_len", "nsegs"))


class Burst:
    """Frames received together, in the pages that the device wrote them to.

    `len()` is how many; `burst[i]` the bytes of one, as a view of its page. Views, and slices of
    them, keep the pages of the whole burst after release(). Use as a context manager.
    """

    __slots__ = ("__weakref__", "_frames", "_memory", "_n", "_owner", "_pieces", "_views")

    def __init__(self, frames: Any, n: int, free: Any) -> None:
        """Take over `n` described frames; `free` keeps what they are made of."""
        self._frames = frames
        self._n = n
        # The descriptors may be looked at after release(): what is freed is the chains.
        self._owner: Any = ffi.gc(
            ffi.cast("struct frame *", frames), functools.partial(_free, frames, n, free)
        )
        self._views: list[memoryview] = []
        # Where the only piece of each frame lies in _memory; made when it is asked for.
        self._pieces: list[slice | None] | None = None
        self._memory = memoryview(b"")

    def __len__(self) -> int:
        return self._n

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        if self._pieces is None:
            self._pieces = self._find()
        piece = self._pieces[i]
        if piece is None:
            raise FrameError(
                "look at", f"frame {i} of {self!r}", "it is no single piece", "use .segments(i)"
            )
        view = self._memory[piece]
        self._views.append(view)
        return view

    def __iter__(self) -> Iterator[memoryview]:
        """Go through the bytes of all frames, a view for each.

        Raises:
            FrameError, FrameReleasedError: as burst[i].
        """
        if self._pieces is None:
            self._pieces = self._find()
        if None in self._pieces:
            self[self._pieces.index(None)]  # says so
        memory = self._memory
        views = [memory[piece] for piece in self._pieces]  # type: ignore[index]
        self._views += views
        return iter(views)

    def _find(self) -> list[slice | None]:
        """Make one view that all frames lie in, for slices of it cost little; where they lie."""
        if self._owner is None:
            raise FrameReleasedError("look at", repr(self), "it was released")
        described = memoryview(ffi.buffer(self._frames, self._n * _SIZE))
        first = described.cast("Q")[_ADDRESS::_WORDS].tolist()
        length, segments = (described.cast("I")[at :: 2 * _WORDS].tolist() for at in _LENGTHS)
        base = min(first, default=0)
        size = max(first, default=0) - base + max(length, default=0)
        # Whatever has a slice of it has the chains.
        kept = ffi.gc(ffi.cast("char *", base), functools.partial(_keep, self._owner))
        self._memory = memoryview(ffi.buffer(kept, size))
        return [
            slice(a - base, a - base + n) if pieces == 1 else None
            for a, n, pieces in zip(first, length, segments, strict=True)
        ]

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
        views = tuple(memoryview(ffi.buffer(ffi.gc(data, keep), size)) for data, size in parts)
        self._views += views
        return views

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
        for view in self._views:
            try:
                view.release()
            except BufferError:  # somebody has a view of this very view, such as numpy
                continue
        self._views.clear()
        self._memory, self._pieces = memoryview(b""), None
        self._owner = None


def _free(frames: Any, n: int, _keep_alive: Any, _owner: Any) -> None:
    lib.frames_free(frames, n)


def _keep(_owner: Any, _data: Any) -> None:
    """Do nothing: the first argument has been kept alive, which is all that was wanted."""
