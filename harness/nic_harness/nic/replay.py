"""Sending the frames of a capture file through a NIC again, at the recorded or another pace."""

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
_LONG_NS = 10 * 10**9  # on_wait is called for longer waits
_LONGEST_SLEEP_NS = 3600 * 10**9  # sleep() may not accept much longer times


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        frames, bytes: what was sent.
        skipped: frames not sent: longer than the MTU allows, or without a whole Ethernet header.
        seconds: from the first frame to the end.
        late_ns: the longest delay of a frame behind its planned time, ns.
        other_direction: frames not sent because they were recorded in the other direction.
        cut: frames that were sent although the capture had kept only a part of them.
    """

    frames: int
    bytes: int
    skipped: int
    seconds: float
    late_ns: int
    other_direction: int = 0
    cut: int = 0


class Replay:
    """Sends recorded frames through a NIC; figures() reports the progress at any time.

    Args:
        nic: the NIC to send on. Nothing else may send on its queue meanwhile.
        speed: how many times as fast as they were recorded; None: as fast as possible.
        rate: frames per second; the recorded times are then ignored.
        queue: transmit queue.
        direction: which frames to send, if their file says how they passed the captured interface:
            "out", those it sent; "in", those it received; "both". In a file that Capture wrote,
            "out" is what the NIC sent. Frames without a direction are always sent.
        progress: called now and then with the number of frames sent.

    Attributes:
        on_wait: called before each wait of more than ten seconds, with its length in seconds.

    Raises:
        ArgumentError: the speed or rate is not positive, or there is no such direction.
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
        self._first = self._last = 0  # ns since 1970; only frames that have a time count
        self._timed = 0
        self._begin: int | None = None
        self._end: int | None = None  # None: it is sending

    def figures(self) -> Replayed:
        """Count what was sent so far, even after an exception in the middle of sending."""
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
        """Sleep between two rounds, for the average gap between two frames of the last round."""
        gap = 0
        if self._rate is not None:
            gap = _bounded(1e9 / self._rate)
        elif self._speed is not None and self._timed > 1:
            gap = _bounded((self._last - self._first) / (self._timed - 1) / self._speed)
        self._sleep_until(time.monotonic_ns() + gap)

    def send(self, frames: Iterable[Recorded]) -> None:
        """Send frames in order, the first one now.

        A frame with an earlier time than a frame ahead of it goes out together with that frame.

        Raises:
            ClosedError, DeviceGoneError: as for Nic.send().
            FileError: as for Recording, if `frames` is one.
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
                        self._flush(batch)  # frames that are due do not wait for the next one
                    self._late = max(self._late, self._sleep_until(begin + due))
                batch.append(frame.data)
                if len(batch) == _BURST:
                    self._flush(batch)
            self._flush(batch)  # a pipe may have nothing more for a long time

    def _sleep_until(self, then: int) -> int:
        """Sleep until a time of the monotonic clock; return how long ago that was, ns."""
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
    """Send recorded frames in order.

    Args:
        nic: the NIC to send on.
        frames: the frames to send.
        speed, rate, queue, direction, progress: as for Replay.

    Raises:
        ArgumentError: the speed or rate is not positive, or there is no such direction.
        ClosedError, DeviceGoneError: as for Nic.send().
        FileError: as for Recording, if `frames` is one.
    """
    check.instance("replay", "frames", "frames", frames, Iterable)
    sending = Replay(
        nic, speed=speed, rate=rate, queue=queue, direction=direction, progress=progress
    )
    sending.send(frames)
    return sending.figures()


def _bounded(ns: float) -> int:
    """Turn a float of any size into a time, ns: at least 0, at most 292 years."""
    return round(min(ns, 2.0**63)) if ns > 0 else 0


def _fits(data: bytes, mtu: int) -> bool:
    tag = 4 if data[12:14] in _TAGS else 0
    return 14 <= len(data) <= mtu + 14 + tag
