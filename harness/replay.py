"""Frames of a capture file sent through a NIC again, at their times or others."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from harness.errors import ArgumentError, CaptureCutError, FileError

if TYPE_CHECKING:
    from harness.nic import Nic

__all__ = ["Recorded", "Replayed", "read_capture", "replay"]

_BURST = 64
_ETHERNET = 1  # LINKTYPE_ETHERNET
_SECTION = b"\x0a\x0d\x0d\x0a"  # a pcapng file begins with this block
_PCAP = (b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d")  # us, ns; or with the bytes swapped
_TAGS = (b"\x81\x00", b"\x88\xa8")


class Recorded(NamedTuple):
    """A frame of a capture file: when, ns since 1970, and its bytes, as far as they were kept."""

    ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        frames, bytes: sent.
        skipped: frames not sent: longer than the MTU allows, or no whole Ethernet header.
        seconds: from the first to the end.
        late_ns: how much later than planned a frame was sent, at the worst.
    """

    frames: int
    bytes: int
    skipped: int
    seconds: float
    late_ns: int


def read_capture(path: str | os.PathLike[str]) -> Iterator[Recorded]:
    """Read a pcap or pcapng file, also one compressed by gzip, frame by frame.

    Raises:
        FileError: it cannot be read, is no such file, or has frames that are not Ethernet's.
        CaptureCutError: it ends in the middle of a frame, or of gzip's; after the whole ones.
    """
    from scapy.error import Scapy_Exception
    from scapy.utils import RawPcapNgReader, RawPcapReader

    name = os.fspath(path)
    frames = 0
    try:
        # It takes a file, too, and leaves one open that it opened and cannot read.
        with _open(path) as (front, cut), RawPcapReader(front) as reader:  # type: ignore[arg-type]
            pcapng = isinstance(reader, RawPcapNgReader)
            meta: Any
            for data, meta in reader:
                link = meta.linktype if pcapng else reader.linktype
                if link != _ETHERNET:
                    raise FileError(
                        "replay", name, f"it has frames of link type {link}, not Ethernet's"
                    )
                if pcapng:
                    ticks = (meta.tshigh << 32) + meta.tslow if meta.tshigh is not None else 0
                    ns = ticks * 1_000_000_000 // meta.tsresol
                else:
                    ns = meta.sec * 1_000_000_000 + meta.usec * (1 if reader.nano else 1000)
                frames += 1
                yield Recorded(ns, data)
        if cut:
            raise CaptureCutError("read", name, f"it is cut short, after {frames} whole frames")
    except FileError:
        raise
    except OSError as e:
        raise FileError("read", name, remedy="name another file", errno=e.errno) from e
    except (Scapy_Exception, EOFError) as e:
        raise FileError("read", name, f"it is no pcap or pcapng file: {e}") from e


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[tuple[_Front, bool]]:
    """Open a capture as far as it is whole, and say whether it goes on."""
    with Path(path).open("rb") as raw:
        file: IO[bytes] = raw if raw.seekable() else io.BytesIO(raw.read())
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if packed else contextlib.nullcontext(file) as plain:
            whole, cut = _whole(cast("IO[bytes]", plain))
            plain.seek(0)
            yield _Front(cast("IO[bytes]", plain), whole), cut


class _Front:
    """The first bytes of a file, for who reads it to the end."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._file.close()


def _whole(file: IO[bytes]) -> tuple[int, bool]:
    """How many bytes of a capture are whole blocks or records, and whether others follow.

    What is no capture is whole: whoever reads it says what is wrong.
    """
    order, at = "<", 0
    magic = file.read(4)
    if magic != _SECTION:
        order = "<" if magic in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
        at = 4 + len(file.read(20))
        if magic[:: 1 if order == ">" else -1] not in _PCAP or at < 24:
            return sys.maxsize, False
    header = magic if magic == _SECTION else b""
    size = 12 if header else 16
    try:
        while header := header + file.read(size - len(header)):
            if header[:4] == _SECTION and size == 12:
                order = "<" if header[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
            if len(header) < size:
                return at, True
            # A block's length is that of all of it; a record's that of its data.
            (length,) = struct.unpack(order + "I", header[4:8] if size == 12 else header[8:12])
            rest = length - 12 if size == 12 else length
            if rest < 0:
                return sys.maxsize, False
            if len(file.read(rest)) < rest:
                return at, True
            at += size + rest
            header = b""
    except EOFError:  # of gzip, whose own end is missing
        return at, True
    return at, False


def replay(
    nic: Nic,
    frames: Iterable[Recorded],
    *,
    speed: float | None = 1.0,
    rate: float | None = None,
    queue: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Send recorded frames, in order.

    Args:
        nic: what to send on.
        frames: to send.
        speed: how many times as fast as they were recorded; None: as fast as possible.
        rate: frames for each second; the recorded times do not matter then.
        queue: transmit queue.
        progress: told how many were sent, now and then.

    Raises:
        ArgumentError: a speed or rate that is not positive.
        ClosedError, DeviceGoneError: as Nic.send().
    """
    for what, value in (("speed", speed), ("rate", rate)):
        if value is not None and not value > 0:
            raise ArgumentError("replay", "frames", f"{what}={value}", "more than 0")
    begin = time.monotonic_ns()
    sent = size = skipped = late = 0
    first: int | None = None
    batch: list[bytes] = []

    def flush() -> None:
        nonlocal sent
        sent += nic.send_many(batch, queue=queue)
        batch.clear()
        if progress is not None:
            progress(sent)

    for at, data in frames:
        if not _fits(data, nic.mtu):
            skipped += 1
            continue
        if rate is not None:
            due = round((sent + len(batch)) / rate * 1e9)
        elif speed is not None:
            first = at if first is None else first
            due = round((at - first) / speed)
        else:
            due = 0
        wait = begin + due - time.monotonic_ns()
        if wait > 0 and (rate is not None or speed is not None):
            # What is due already does not wait for what is not.
            flush()
            while (wait := begin + due - time.monotonic_ns()) > 0:
                time.sleep(wait / 1e9)
        if due:
            late = max(late, -wait)
        batch.append(data)
        size += len(data)
        if len(batch) == _BURST:
            flush()
    flush()
    return Replayed(sent, size, skipped, (time.monotonic_ns() - begin) / 1e9, late)


def _fits(data: bytes, mtu: int) -> bool:
    tag = 4 if data[12:14] in _TAGS else 0
    return 14 <= len(data) <= mtu + 14 + tag
