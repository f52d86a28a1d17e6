"""Sleeping until a descriptor is readable, with a way to be woken."""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading

from nic_harness.base.owner import close_owned, own, this_process
from nic_harness.errors import ResourceError

__all__ = ["Waiter"]

_LONGEST_S = 86400.0  # poll(2) takes an int of ms; callers look at their own clock afterwards


class Waiter:
    """Threads that sleep until a descriptor is readable, and can be woken or sent away.

    Each has its own eventfd while it sleeps: the first thread to wake would empty a shared one, and
    the others would sleep on.
    """

    __slots__ = ("_asleep", "_closing", "_lock", "_spare", "_wakes")

    def __init__(self) -> None:
        # Locks and sets are written in C: an exception from a signal handler leaves them whole.
        self._lock = threading.RLock()
        self._asleep: set[_Bell] = set()  # of the threads in wait()
        self._spare = [_Bell()]
        self._wakes = 0
        self._closing = False

    @property
    def closing(self) -> bool:
        """Whether close() was called."""
        return self._closing

    @property
    def wakes(self) -> int:
        """How often wake() was called."""
        return self._wakes

    def wait(self, fd: int | None, seconds: float | None, since: int | None = None) -> None:
        """Sleep until `fd` is readable, wake() or close() is called, or the time runs out.

        `since` is the value of `wakes` when the caller found nothing to do: a wake() after that
        ends the sleep too, even if it came before this call.

        Raises:
            ResourceError: there is no descriptor for one more sleeping thread.
        """
        mine: _Bell | None = None
        try:
            with self._lock:
                if self._closing or since not in (None, self._wakes):
                    return
                mine = self._spare.pop() if self._spare else _Bell()
                self._asleep.add(mine)
            poll = select.poll()
            poll.register(mine.fd, select.POLLIN)
            if fd is not None:
                poll.register(fd, select.POLLIN)
            # Rounded up: a timer is due when its time has passed, not a moment before.
            poll.poll(
                None if seconds is None else math.ceil(min(max(0, seconds), _LONGEST_S) * 1000)
            )
        finally:
            # An exception in here, from a second signal, costs a descriptor until close().
            if mine is not None:
                with self._lock:
                    self._asleep.discard(mine)
                    if not self._closing:
                        mine.silence()
                        self._spare.append(mine)

    def wake(self) -> None:
        """Wake every thread that sleeps now."""
        with self._lock:
            self._wakes += 1
            for bell in tuple(self._asleep):
                bell.ring()

    def close(self) -> None:
        """Send every thread away, without waiting until they have gone."""
        with self._lock:
            self._closing = True
            for bell in tuple(self._asleep):
                bell.ring()
            # A thread still in wait() has its own bell, which closes with the last reference.
            self._asleep.clear()
            self._spare.clear()


class _Bell:
    """An eventfd, closed with its last reference."""

    __slots__ = ("_process", "fd")

    def __init__(self) -> None:
        self.fd = -1
        self._process = this_process()
        try:
            self.fd = own(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        except OSError as e:
            raise ResourceError.from_errno(e.errno or 0, "make", "an eventfd to sleep on") from None

    def __del__(self) -> None:
        if self.fd >= 0 and self._process.here:
            close_owned(self.fd)

    def ring(self) -> None:
        os.eventfd_write(self.fd, 1)

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
