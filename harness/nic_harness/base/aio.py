"""Waiting for frames in the event loop of asyncio or of trio, by itself or under anyio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from nic_harness.errors import UnsupportedError

__all__ = ["Sleepers"]


class Sleepers:
    """Tasks that wait until a descriptor is readable, and can be woken from any thread."""

    __slots__ = ("_closed", "_waking")

    def __init__(self) -> None:
        self._closed = False
        self._waking: set[Callable[[], None]] = set()

    async def wait(self, fd: int | None, seconds: float | None) -> None:
        """Wait until `fd` is readable, the time runs out or close() is called; can be cancelled.

        Raises:
            UnsupportedError: neither asyncio nor trio runs here.
        """
        trio: Any = sys.modules.get("trio")  # it can only be running if something imported it
        if trio is not None and trio.lowlevel.in_trio_run():
            await self._wait_in_trio(trio, fd, seconds)
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UnsupportedError(
                "wait for",
                "frames",
                "neither asyncio nor trio runs here",
                "await under one of them, or use recv() or on_frames()",
            ) from None
        future = loop.create_future()

        def ready() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(ready)

        # A descriptor of its own: a loop has one reader for each, and other tasks may wait too.
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

    async def _wait_in_trio(self, trio: Any, fd: int | None, seconds: float | None) -> None:
        token = trio.lowlevel.current_trio_token()
        scope = trio.CancelScope()

        def wake() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)

        own = None if fd is None else os.dup(fd)  # as above
        self._waking.add(wake)
        try:
            with trio.move_on_after(float("inf") if seconds is None else seconds), scope:
                if self._closed:
                    await trio.lowlevel.checkpoint()
                elif own is None:
                    await trio.sleep_forever()
                else:
                    await trio.lowlevel.wait_readable(own)
        finally:
            self._waking.discard(wake)
            if own is not None:
                os.close(own)

    def close(self) -> None:
        """Wake every waiting task; from now on wait() returns without waiting."""
        self._closed = True
        for wake in list(self._waking):
            wake()
