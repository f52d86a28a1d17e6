"""Frames of a capture file sent through a NIC again, at their times or others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nic_harness.errors import ArgumentError
from nic_harness.nic.recording import Recorded, Recording, read_capture

if TYPE_CHECKING:
    from nic_harness.nic.nic import Nic

__all__ = ["Recorded", "Recording", "Replayed", "read_capture", "replay"]

_BURST = 64
_TAGS = (b"\x81\x00", b"\x88\xa8")


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

    for at, data, *_ in frames:
        if not _fits(data, nic.mtu):
            skipped += 1
            continue
        if rate is not None:
            due = round((sent + len(batch)) / rate * 1e9)
        elif speed is not None:
            if at is not None and first is None:
                first = at
            due = 0 if at is None or first is None else round((at - first) / speed)
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
