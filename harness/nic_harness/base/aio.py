"""Waiting for frames in an asyncio event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

__all__ = ["Sleepers"]


class Sleepers:
    """Tasks that wait until a descriptor is readable, and can be woken from any thread."""

    __slots__ = ("_closed", "_waking")

    def __init__(self) -> None:
        self._closed = False
        self._waking: set[Callable[[], None]] = set()

    async def wait(self, fd: int | None, seconds: float | None) -> None:
        """Wait until `fd` is readable, the time is over or close() is called; may be cancelled."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def ready() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(ready)

        # A number of its own: a loop has one reader for each, and there may be other tasks.
        own = None if fd is None else os.dup(fd)
        timer = None if seconds is None else loop.call_later(seconds, ready)
        self._waking.add(wake)
        try:
            if own is not None:
                loop.add_reader(own, ready)
            if not self._closed:
                await future
        finally:
            self._waking.discard(wake)
            if timer is not None:
                timer.cancel()
            if own is not None:
                loop.remove_reader(own)
                os.close(own)

    def close(self) -> None:
        """Wake every task that waits; none will wait from now on."""
        self._closed = True
        for wake in list(self._waking):
            wake()
