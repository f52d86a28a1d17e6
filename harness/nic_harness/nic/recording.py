"""Reading capture files: pcap and pcapng, plain or compressed by gzip, also from a pipe."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from typing import IO, Any, Literal, NamedTuple, Self, cast

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base.live import Closing
from nic_harness.errors import (
    CaptureCutError,
    CaptureDamagedError,
    ClosedError,
    FileError,
    HarnessError,
    ResourceError,
)

__all__ = ["Direction", "Recorded", "Recording", "read_capture"]

_BATCH = 256  # frames taken from C at a time

Direction = Literal["in", "out"]
_DIRECTIONS: dict[int, Direction | None] = {
    lib.PCAP_UNKNOWN: None,
    lib.PCAP_IN: "in",
    lib.PCAP_OUT: "out",
}


class Recorded(NamedTuple):
    """A frame of a capture file.

    Attributes:
        ns: its time, ns since 1970. A frame without a time has that of the frame before it; None:
            no frame before it has a time either.
        data: the bytes that the capture kept, without a frame check sequence.
        length: its length on the wire, bytes, if the capture kept less; 0: `data` is the whole
            frame.
        direction: "out": the captured interface sent it; "in": it received it; None: the file does
            not say.
    """

    ns: int | None
    data: bytes
    length: int = 0
    direction: Direction | None = None

    @property
    def cut(self) -> bool:
        """Whether the capture kept less than the whole frame."""
        return self.length > len(self.data)


class Recording(Closing):
    """The frames of a capture file, read on demand: an iterator, and a context manager.

    Memory is bounded, whatever the file contains. The file may be a pipe that is still being
    written: each frame comes as soon as it is there. The file is closed at its end, by close(), and
    by leaving `with`.

    Raises:
        FileError: it cannot be read, or is not a capture of Ethernet frames. While iterating: all
            of its frames have other link types. If only some have, they are skipped and counted.
        CaptureDamagedError: it is damaged; raised after the whole frames before the damage.
        CaptureCutError: it ends in the middle of a record, of a block or its header, or of the
            gzip data; raised after the whole frames.
        ClosedError: it was closed before its end.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check.path("read", "a capture", "path", path)
        self.name = os.fspath(path)
        self._reader = _create()
        self._found = ffi.new("struct pcap_frame[]", _BATCH)
        self._room = ffi.new("size_t *")
        self._seen = ffi.new("struct pcap_progress *")
        self._ended = self._done = self._feeding = False
        self._batch: list[Recorded] = []
        self._frames = iter(self._batch)
        try:
            self._file = io.FileIO(path)  # until close()
        except OSError as e:
            raise FileError("read", self.name, remedy="name another file", errno=e.errno) from e
        # Refuse a file that is no capture now; a pipe need not have a frame yet.
        with self._closed_by_errors():
            self._plain = _unpacked(self._file)
            while not self._parse() and not self._progress().begun:
                self._feed()

    @property
    def frames(self) -> int:
        """Whole frames so far, including those of other link types."""
        return int(self._progress().frames)

    @property
    def other_frames(self) -> int:
        """Frames so far of other link types than Ethernet, which are skipped."""
        return int(self._progress().other_frames)

    @property
    def other_links(self) -> dict[int, int]:
        """Number of frames by LINKTYPE_* number, for the first eight other link types."""
        p = self._progress()
        return {int(p.other[i].link): int(p.other[i].frames) for i in range(p.nother)}

    def batches(self) -> Iterator[list[Recorded]]:
        """Iterate over the frames that are there each time, without waiting for later ones."""
        while batch := self._next_batch():
            yield batch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Recorded:
        while True:
            for frame in self._frames:
                return frame
            batch = self._next_batch()
            if not batch:
                raise StopIteration
            self._frames = iter(batch)

    def close(self) -> None:
        """Close the file and read no more frames."""
        self._file.close()

    def _next_batch(self) -> list[Recorded]:
        """Read until there is at least one frame; return [] at the end."""
        batch, self._batch = self._batch, []
        if batch or self._done:
            return batch
        if self._file.closed:
            raise ClosedError("read", self.name, "it was closed", "open it again")
        with self._closed_by_errors():
            while not self._parse():
                if self._ended:
                    self._done = True
                    break
                self._feed()
            if self._done:
                self._end()
        batch, self._batch = self._batch, []
        return batch

    def _parse(self) -> bool:
        """Take the frames that the reader has; return whether there were any."""
        n = int(lib.pcap_reader_next(self._reader, self._found, _BATCH))
        if n < 0:
            raise self._problem(n)
        self._batch = [_recorded(self._found[i]) for i in range(n)]
        return n > 0

    def _feed(self) -> None:
        """Give the reader some bytes of the file, as many as one read returns."""
        if self._feeding:  # bytes may have been read that never reached the reader
            raise FileError("read", self.name, "reading was interrupted", "open it again")
        self._feeding = True
        where = lib.pcap_reader_room(self._reader, self._room)
        if where == ffi.NULL:
            raise ResourceError("read", self.name, "out of memory")
        got = self._plain.readinto1(ffi.buffer(where, self._room[0]))
        lib.pcap_reader_fed(self._reader, got)
        self._ended = got == 0
        self._feeding = False

    def _end(self) -> None:
        self.close()
        p = self._progress()
        if 0 < p.frames == p.other_frames:
            links = " and ".join(map(str, self.other_links))
            raise FileError(
                "read", self.name, f"it has frames of link type {links}, not Ethernet's"
            )

    def _progress(self) -> Any:
        lib.pcap_reader_progress(self._reader, self._seen)
        return self._seen

    @contextlib.contextmanager
    def _closed_by_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException as e:
            self._done = isinstance(e, Exception)
            self.close()
            if isinstance(e, EOFError):
                raise self._cut() from e
            if isinstance(e, OSError) and e.errno is not None and not isinstance(e, HarnessError):
                raise FileError("read", self.name, remedy="name another file", errno=e.errno) from e
            if isinstance(e, zlib.error | gzip.BadGzipFile):
                raise self._damaged(str(e)) from e
            raise

    def _problem(self, code: int) -> HarnessError:
        """Return the error that stopped the reader."""
        words = ffi.string(lib.pcap_reader_problem(self._reader)).decode()
        if code == -errno.ENODATA:
            return self._cut()
        if code == -errno.EBADMSG:
            return self._damaged(words)
        if code == -errno.EINVAL:
            words = f"it is not a pcap or pcapng file: {words}"
        if code == -errno.ENOMEM:
            return ResourceError("read", self.name, words)
        return FileError("read", self.name, words)

    def _cut(self) -> CaptureCutError:
        e = CaptureCutError("read", self.name, f"it is cut short, after {self.frames} whole frames")
        e.offset = int(self._progress().offset)
        return e

    def _damaged(self, words: str) -> FileError:
        p = self._progress()
        if not p.begun:
            return FileError("read", self.name, f"it is not a pcap or pcapng file: {words}")
        e = CaptureDamagedError(
            "read",
            self.name,
            f"it is damaged, after {p.frames} whole frames: {words}, at byte {p.offset}",
        )
        e.offset = int(p.offset)
        return e


def read_capture(path: str | os.PathLike[str]) -> Recording:
    """Read a pcap or pcapng file frame by frame; gzip compression is recognised.

    Raises:
        FileError, CaptureDamagedError, CaptureCutError: as for Recording.
    """
    return Recording(path)


def _create() -> Any:
    out = ffi.new("struct pcap_reader **")
    code = lib.pcap_reader_create(out)
    if code < 0:
        raise ResourceError.from_errno(code, "read", "a capture")
    return ffi.gc(out[0], lib.pcap_reader_destroy)


def _recorded(f: Any) -> Recorded:
    return Recorded(
        f.sec * 1_000_000_000 + f.nsec if f.timed else None,
        ffi.buffer(f.data, f.caplen)[:],
        f.len if f.len > f.caplen else 0,
        _DIRECTIONS[f.direction],
    )


def _unpacked(file: io.FileIO) -> _AsItComes | gzip.GzipFile:
    plain = _AsItComes(file)
    # A pipe cannot be rewound, and may have only one byte yet; no capture begins with this one.
    return gzip.GzipFile(fileobj=cast("IO[bytes]", plain)) if plain.first == b"\x1f" else plain


class _AsItComes:
    """A file that returns what is there, so that nothing waits for a pipe without need."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.first = self._ahead = file.read(1)

    def readinto1(self, room: Any) -> int:
        if self._ahead:
            room[:1], self._ahead = self._ahead, b""
            return 1
        return self._file.readinto(room)

    def read(self, size: int) -> bytes:
        """Read for gzip, which reads its header and sums in small pieces that must be complete."""
        data, self._ahead = self._ahead, b""
        while len(data) < size and (more := self._file.read(size - len(data))):
            data += more
            if size > 64:
                break
        return data
