"""Sleeping until a descriptor is readable, with a way to be woken."""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading

__all__ = ["Waiter"]


class Waiter:
    """Threads that sleep until a descriptor is readable, and can be woken and sent away.

    Each has an eventfd of its own while it sleeps: one that was shared would be emptied by whoever
    is first, and the others would sleep on.
    """

    __slots__ = ("_asleep", "_closing", "_gone", "_spare", "_wakes")

    def __init__(self) -> None:
        self._asleep: set[int] = set()  # eventfds of the threads in wait()
        self._spare: list[int] = []
        self._gone = threading.Condition()
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
        """Sleep until `fd` is readable, wake() or close() is called, or the time is over.

        With `since`, what `wakes` was when the caller found nothing to do, a wake() after that
        counts too.
        """
        with self._gone:
            if self._closing or since not in (None, self._wakes):
                return
            if not self._spare:
                self._spare.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            mine = self._spare.pop()
            self._asleep.add(mine)
        try:
            poll = select.poll()
            poll.register(mine, select.POLLIN)
            if fd is not None:
                poll.register(fd, select.POLLIN)
            # Rounded up: a timer is due when the time is over, not a moment before.
            poll.poll(None if seconds is None else math.ceil(max(0, seconds) * 1000))
        finally:
            with self._gone:
                self._asleep.remove(mine)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(mine)
                self._spare.append(mine)
                self._gone.notify_all()

    def wake(self) -> None:
        """Wake every thread that sleeps now."""
        with self._gone:
            self._wakes += 1
            for fd in self._asleep:
                os.eventfd_write(fd, 1)

    def close(self) -> None:
        """Send every thread away and wait until it is gone; to be called once."""
        with self._gone:
            self._closing = True
            for fd in self._asleep:
                os.eventfd_write(fd, 1)
            while self._asleep:
                self._gone.wait()
            while self._spare:
                os.close(self._spare.pop())
