"""Frames of a capture file sent through a NIC again, at their times or others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from nic_harness.base import check
from nic_harness.errors import ArgumentError
from nic_harness.nic.nic import Nic
from nic_harness.nic.recording import Recorded, Recording, read_capture

__all__ = ["Recorded", "Recording", "Replay", "Replayed", "read_capture", "replay"]

_BURST = 64
_TAGS = (b"\x81\x00", b"\x88\xa8")
_LONG_NS = 10 * 10**9  # a wait that its user is told of
_LONGEST_SLEEP_NS = 3600 * 10**9  # what is longer may be more than sleep() takes


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        frames, bytes: sent.
        skipped: frames not sent: longer than the MTU allows, or no whole Ethernet header.
        seconds: from the first to the end.
        late_ns: how much later than planned a frame was sent, at the worst.
        other_direction: frames not sent because they were recorded in the direction not wanted.
        cut: frames sent, of which the capture had kept only a part.
    """

    frames: int
    bytes: int
    skipped: int
    seconds: float
    late_ns: int
    other_direction: int = 0
    cut: int = 0


class Replay:
    """Recorded frames on their way out of a NIC; figures() says at any time how far they came.

    Args:
        nic: what to send on. Nothing else shall send on its queue meanwhile.
        speed: how many times as fast as they were recorded; None: as fast as possible.
        rate: frames for each second; the recorded times do not matter then.
        queue: transmit queue.
        direction: which frames, where their file says how they passed the interface that was
            captured: "out", what it sent; "in", what it received; "both". In a Capture of ours,
            "out" is what our NIC sent. Frames whose file does not say are sent in any case.
        progress: told how many were sent, now and then.

    Attributes:
        on_wait: told of each wait of more than ten seconds, before it: how many seconds.

    Raises:
        ArgumentError: a speed or rate that is not positive, or no such direction.
    """

    def __init__(
        self,
        nic: Nic,
        *,
        speed: float | None = 1.0,
        rate: float | None = None,
        queue: int = 0,
        direction: Literal["out", "in", "both"] = "out",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        check.instance("replay", "frames", "nic", nic, Nic)
        check.integer("replay", "frames", "queue", queue, 0, nic.attached.queues - 1)
        for what, value in (("speed", speed), ("rate", rate)):
            if value is not None:
                check.rate("replay", "frames", what, value)
        if progress is not None:
            check.callback("replay", "frames", "progress", progress)
        if direction not in ("out", "in", "both"):
            raise ArgumentError("replay", "frames", f"direction={direction!r}", "out, in or both")
        self._nic = nic
        self._speed = speed
        self._rate = rate
        self._queue = queue
        self._unwanted = {"out": "in", "in": "out", "both": "none"}[direction]
        self._progress = progress
        before = nic.stats(queue)
        self._sent_before, self._bytes_before = before.tx_queued, before.tx_bytes
        self._skipped = self._other_direction = self._late = self._cut = 0
        self.on_wait: Callable[[float], object] | None = None
        self._first = self._last = 0  # ns since 1970, of the frames that have a time
        self._timed = 0
        self._begin: int | None = None
        self._end: int | None = None  # None: it is sending

    def figures(self) -> Replayed:
        """Count what was sent so far, also after an exception in the middle of it."""
        now = self._nic.stats(self._queue)
        end = time.monotonic_ns() if self._end is None else self._end
        return Replayed(
            now.tx_queued - self._sent_before,
            now.tx_bytes - self._bytes_before,
            self._skipped,
            (end - (end if self._begin is None else self._begin)) / 1e9,
            self._late,
            self._other_direction,
            self._cut,
        )

    def rest(self) -> None:
        """Sleep between two turns: as long as, on average, between two frames of the last one."""
        gap = 0
        if self._rate is not None:
            gap = _bounded(1e9 / self._rate)
        elif self._speed is not None and self._timed > 1:
            gap = _bounded((self._last - self._first) / (self._timed - 1) / self._speed)
        self._sleep_until(time.monotonic_ns() + gap)

    def send(self, frames: Iterable[Recorded]) -> None:
        """Send frames, in order; their first one now.

        A frame that was recorded before one ahead of it goes out together with that one.

        Raises:
            ClosedError, DeviceGoneError: as Nic.send().
            FileError: as Recording, when `frames` is one.
        """
        self._end = None
        begin = time.monotonic_ns()
        if self._begin is None:
            self._begin = begin
        try:
            self._send(frames, begin)
        finally:
            self._end = time.monotonic_ns()

    def _send(self, frames: Iterable[Recorded], begin: int) -> None:
        due = count = self._timed = 0
        batches = frames.batches() if isinstance(frames, Recording) else iter([frames])
        for come in batches:
            batch: list[bytes] = []
            for frame in self._wanted(come):
                count += 1
                if self._rate is not None:
                    due = _bounded((count - 1) / self._rate * 1e9)
                elif self._speed is not None and frame.ns is not None:
                    self._first = self._first if self._timed else frame.ns
                    self._last = frame.ns
                    self._timed += 1
                    due = max(due, _bounded((frame.ns - self._first) / self._speed))
                if due:
                    if begin + due > time.monotonic_ns():
                        self._flush(batch)  # what is due does not wait for what is not
                    self._late = max(self._late, self._sleep_until(begin + due))
                batch.append(frame.data)
                if len(batch) == _BURST:
                    self._flush(batch)
            self._flush(batch)  # a pipe may have nothing more for a long time

    def _sleep_until(self, then: int) -> int:
        """Sleep until a time of the monotonic clock; how long ago that was, ns."""
        wait = then - time.monotonic_ns()
        if wait > _LONG_NS and self.on_wait is not None:
            self.on_wait(wait / 1e9)
        while (wait := then - time.monotonic_ns()) > 0:
            time.sleep(min(wait, _LONGEST_SLEEP_NS) / 1e9)
        return -wait

    def _wanted(self, frames: Iterable[Recorded]) -> Iterator[Recorded]:
        for frame in frames:
            if frame.direction == self._unwanted:
                self._other_direction += 1
            elif not _fits(frame.data, self._nic.mtu):
                self._skipped += 1
            else:
                self._cut += frame.cut
                yield frame

    def _flush(self, batch: list[bytes]) -> None:
        if not batch:
            return
        self._nic.send_many(batch, queue=self._queue)
        batch.clear()
        if self._progress is not None:
            self._progress(self._nic.stats(self._queue).tx_queued - self._sent_before)


def replay(
    nic: Nic,
    frames: Iterable[Recorded],
    *,
    speed: float | None = 1.0,
    rate: float | None = None,
    queue: int = 0,
    direction: Literal["out", "in", "both"] = "out",
    progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Send recorded frames, in order.

    Args:
        nic: what to send on.
        frames: to send.
        speed, rate, queue, direction, progress: as of Replay.

    Raises:
        ArgumentError: a speed or rate that is not positive, or no such direction.
        ClosedError, DeviceGoneError: as Nic.send().
        FileError: as Recording, when `frames` is one.
    """
    check.instance("replay", "frames", "frames", frames, Iterable)
    sending = Replay(
        nic, speed=speed, rate=rate, queue=queue, direction=direction, progress=progress
    )
    sending.send(frames)
    return sending.figures()


def _bounded(ns: float) -> int:
    """Make a time of a float, of any size: the end of time is 292 years away."""
    return round(min(ns, 2.0**63)) if ns > 0 else 0


def _fits(data: bytes, mtu: int) -> bool:
    tag = 4 if data[12:14] in _TAGS else 0
    return 14 <= len(data) <= mtu + 14 + tag
