"""Frames of a capture file sent through a NIC again, at their times or others."""

from __future__ import annotations

import contextlib
import gzip
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from harness.errors import ArgumentError, FileError

if TYPE_CHECKING:
    from harness.nic import Nic

__all__ = ["Recorded", "Replayed", "read_capture", "replay"]

_BURST = 64
_ETHERNET = 1  # LINKTYPE_ETHERNET
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
    """
    from scapy.error import Scapy_Exception
    from scapy.utils import RawPcapNgReader, RawPcapReader

    name = os.fspath(path)
    try:
        # It takes a file, too, and leaves one open that it opened and cannot read.
        with _open(path) as file, RawPcapReader(file) as reader:  # type: ignore[arg-type]
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
                yield Recorded(ns, data)
    except FileError:
        raise
    except OSError as e:
        raise FileError("read", name, remedy="name another file", errno=e.errno) from e
    except (Scapy_Exception, EOFError) as e:
        raise FileError("read", name, f"it is no pcap or pcapng file: {e}") from e


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    with Path(path).open("rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(file) as plain:
                yield cast("IO[bytes]", plain)
        else:
            yield file


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
