"""Frames to a callback, on a thread of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nic_harness.base import check
from nic_harness.base import site as _site
from nic_harness.base.live import Ending
from nic_harness.base.waiter import Waiter
from nic_harness.errors import ArgumentError, ClosedError
from nic_harness.nic.frame import Frame

if TYPE_CHECKING:
    from nic_harness.nic.nic import Nic

__all__ = ["Callback", "Receiver"]

#: Called with a burst of frames; those it does not keep go back when it returns.
Callback: TypeAlias = Callable[[list[Frame]], object]

_DOWN_POLL_S = 0.02  # how often to look whether an interface that is down came up


class Receiver(Ending):
    """A thread that passes what a NIC receives to a callback; made by Nic.on_frames().

    Use as a context manager, or stop() it; closing the NIC stops it too. An exception in the
    callback, or on the ring, ends the thread; wait(), stop() and the end of `with` raise it.
    """

    def __init__(
        self, nic: Nic, callback: Callback, most: int, queue: int, cpu: int | None
    ) -> None:
        self._nic = nic
        self._callback = callback
        self._most = most
        self._queue = queue
        self._waiter = Waiter()
        self._site = _site.caller()  # its frames are taken by whoever started it
        self._stop_lock = threading.Lock()
        self._error: BaseException | None = None
        placed: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(cpu, placed), name="harness-receiver", daemon=True
        )
        self._thread.start()
        try:
            placed.result()
        except BaseException:
            self.stop()
            raise
        finally:
            del placed  # an error in it has a traceback with this frame: a circle

    def _end_block(self) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Receiver of {self._nic!r}, {'running' if self.running else 'stopped'}>"

    @property
    def running(self) -> bool:
        """Whether the thread still receives."""
        return self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; whether it has.

        Args:
            timeout: seconds; None: for ever.

        Raises:
            BaseException: what ended it.
        """
        check.seconds("wait for", self, timeout)
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame: a circle
        return True

    def stop(self) -> None:
        """End the thread after the burst that it is at; again has no effect.

        Raises:
            BaseException: what had ended it before, unless that was raised already.
        """
        if not self._nic._owner.here:
            return  # a forked child has no such thread
        with self._stop_lock:
            if not self._waiter.closing:
                self._waiter.close()
                self._nic._receivers.discard(self)
        # In its own callback a thread cannot wait for itself.
        if threading.current_thread() is not self._thread:
            self.wait()

    def _run(self, cpu: int | None, placed: Future[None]) -> None:
        try:
            if cpu is not None:
                _pin(cpu)
        except BaseException as e:
            placed.set_exception(e)
            return
        placed.set_result(None)
        del placed
        try:
            q = self._nic._queue(self._queue)
            while not self._waiter.closing:
                frames, down = q.harvest(self._most, self._site)
                if frames:
                    self._callback(frames)
                    # Nothing here keeps a frame until the next one comes.
                    frames = []
                    continue
                patience = self._nic._patience(_DOWN_POLL_S if down else None)
                self._waiter.wait(None if down else q.wait_fd, patience)
        except ClosedError as e:
            if not self._nic._closing:
                self._error = e
        except BaseException as e:
            self._error = e


def _pin(cpu: int) -> None:
    """Keep the calling thread on one CPU of its maker's; sched_setaffinity(2) touches no other."""
    if cpu not in os.sched_getaffinity(0):
        there = Path(f"/sys/devices/system/cpu/cpu{cpu}").exists()
        status = Path("/proc/thread-self/status").read_text()
        usable = status.split("Cpus_allowed_list:")[1].split()[0]
        raise ArgumentError(
            "pin a queue's thread to",
            f"CPU {cpu}",
            "the calling thread may not use it" if there else "there is no such CPU",
            f"use one of {usable}",
        )
    os.sched_setaffinity(0, {cpu})
