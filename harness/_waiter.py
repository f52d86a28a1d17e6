"""Sleeping until a descriptor is readable, with a way to be woken."""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading

__all__ = ["Waiter"]


class Waiter:
    """Threads that sleep until a descriptor is readable, and can be woken and sent away."""

    __slots__ = ("_closing", "_idle", "_waiting", "_wake")

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._idle = threading.Condition()
        self._waiting = 0
        self._closing = False

    @property
    def closing(self) -> bool:
        """Whether close() was called."""
        return self._closing

    def wait(self, fd: int | None, seconds: float | None) -> None:
        """Sleep until `fd` is readable, wake() or close() is called, or the time is over."""
        with self._idle:
            if self._closing:
                return
            self._waiting += 1
        try:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            if fd is not None:
                poll.register(fd, select.POLLIN)
            # Rounded up: a timer is due when the time is over, not a moment before.
            ready = poll.poll(None if seconds is None else math.ceil(max(0, seconds) * 1000))
            if any(which == self._wake for which, _ in ready):
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
        finally:
            with self._idle:
                self._waiting -= 1
                self._idle.notify_all()

    def wake(self) -> None:
        """Wake every thread that sleeps now."""
        with self._idle:
            if self._waiting:
                os.eventfd_write(self._wake, self._waiting)

    def close(self) -> None:
        """Send every thread away and wait until it is gone; to be called once."""
        with self._idle:
            self._closing = True
            while self._waiting:
                os.eventfd_write(self._wake, self._waiting)
                self._idle.wait(0.1)
        os.close(self._wake)
