"""Frames of a capture file sent through a NIC again, at their times or others."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from nic_harness.errors import ArgumentError, CaptureCutError, FileError

if TYPE_CHECKING:
    from nic_harness.nic.nic import Nic

__all__ = ["Recorded", "Replayed", "read_capture", "replay"]

_BURST = 64
_ETHERNET = 1  # LINKTYPE_ETHERNET
#: Byte order by how a pcap file begins (us, ns) and by how a section of a pcapng file says it.
_PCAP = {
    b"\xa1\xb2\xc3\xd4": ">",
    b"\xa1\xb2\x3c\x4d": ">",
    b"\xd4\xc3\xb2\xa1": "<",
    b"\x4d\x3c\xb2\xa1": "<",
}
_SECTION = b"\x0a\x0d\x0d\x0a"  # a pcapng file begins with this block
_PCAPNG = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_PACKETS = (2, 6)  # pcapng's blocks that say how much of a frame they have, in their sixth word
#: What is longer is damaged: libpcap's MAXIMUM_SNAPLEN, and what Wireshark takes of a block. Bytes.
_MOST_RECORD = 256 << 10
_MOST_BLOCK = 16 << 20
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

    Each frame is read when it is asked for, so the file may be a pipe that is still written to.

    Raises:
        FileError: it cannot be read, is no such file, or has frames that are not Ethernet's; or it
            is damaged, after the frames before that.
        CaptureCutError: it ends in the middle of a record, a block or its header, or of gzip's;
            after the whole frames.
    """
    from scapy.error import Scapy_Exception
    from scapy.utils import RawPcapNgReader, RawPcapReader

    name = os.fspath(path)
    frames = 0
    whole: _Whole | None = None
    try:
        with Path(path).open("rb") as file, _unpacked(file) as plain:
            whole = _Whole(plain)
            with RawPcapReader(whole) as reader:  # type: ignore[arg-type]
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
            whole.check()
    except FileError:
        raise
    except EOFError as e:
        raise CaptureCutError("read", name, f"it is cut short, after {frames} whole frames") from e
    except (Scapy_Exception, OSError, ValueError, zlib.error) as e:
        if isinstance(e, OSError) and e.errno is not None:  # gzip's own have none
            raise FileError("read", name, remedy="name another file", errno=e.errno) from e
        problem = f"it is damaged, after {frames} whole frames"
        if whole is None or isinstance(e, Scapy_Exception):
            problem = "it is no pcap or pcapng file"
        raise FileError("read", name, f"{problem}: {e}") from e


def _unpacked(file: io.BufferedReader) -> contextlib.AbstractContextManager[IO[bytes]]:
    # A pipe cannot be rewound, and may have but one byte yet; no capture begins with this one.
    if file.peek(1)[:1] == b"\x1f":
        return cast("IO[bytes]", gzip.open(file))
    return contextlib.nullcontext(file)


class _Whole:
    """A capture as scapy may read it: whole blocks or records only, each read when it is due."""

    def __init__(self, file: IO[bytes]) -> None:
        self._more = _blocks(file)
        self._block = io.BytesIO(next(self._more))
        self._error: Exception | None = None  # for check(): scapy takes most for the end
        self._ended = False

    def read(self, size: int) -> bytes:
        data = self._block.read(size)
        if size and not data and not self._ended:
            try:
                self._block = io.BytesIO(next(self._more))
            except StopIteration:
                self._ended = True
            except Exception as e:
                self._ended, self._error = True, e
            else:
                data = self._block.read(size)
        return data

    def check(self) -> None:
        """Raise what kept scapy from reading to the end."""
        if self._error is not None:
            raise self._error
        if not self._ended:
            raise ValueError("a block that scapy does not understand")

    def close(self) -> None:
        """Do nothing: who opened the file closes it."""


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Read the header of a pcap file and then its records, or the blocks of a pcapng file.

    Raises:
        EOFError: it ends in the middle of one.
        ValueError: it begins like neither, or has a length that cannot be.
    """
    block = file.read(4)
    if block in _PCAP:
        word = struct.Struct(_PCAP[block] + "I")
        yield _rest(file, block, 24)
        while block := file.read(16):
            block = _rest(file, block, 16)
            (length,) = word.unpack_from(block, 8)
            if length > _MOST_RECORD:
                raise ValueError(f"a frame of {length} bytes")
            yield _rest(file, block, 16 + length)
        return
    if block != _SECTION:
        raise ValueError(f"it begins with {block!r}")
    word = struct.Struct("<I")
    while block:
        block = _rest(file, block, 12)
        if block[:4] == _SECTION:
            if block[8:] not in _PCAPNG:
                raise ValueError(f"a section of byte order {block[8:]!r}")
            word = struct.Struct(_PCAPNG[block[8:]] + "I")
        kind, length = (word.unpack_from(block, at)[0] for at in (0, 4))
        if not 12 <= length <= _MOST_BLOCK or length % 4:
            raise ValueError(f"a block of {length} bytes")
        block = _rest(file, block, length)
        (again,) = word.unpack_from(block, length - 4)
        if again != length:
            raise ValueError(f"a block of {length} bytes that ends as one of {again}")
        if kind in _PACKETS:
            kept = word.unpack_from(block, 20)[0] if length >= 32 else 0
            if length < 32 + kept:
                raise ValueError(f"a frame of {kept} bytes in a block of {length}")
        yield block
        block = file.read(12)


def _rest(file: IO[bytes], begun: bytes, size: int) -> bytes:
    data = begun + file.read(size - len(begun))
    if len(data) < size:
        raise EOFError("it ends there")
    return data


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
