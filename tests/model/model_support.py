"""Helpers that the state machines share."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from nic_harness._native import ffi

T = TypeVar("T")


def run(machine: Callable[[], RuleBasedStateMachine], examples: int = 40, steps: int = 60) -> None:
    """Run a state machine for a bounded time, without deadlines, for loaded machines."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


class Worker:
    """Another thread, which makes the calls that it is given."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._results.put((call(), None))
            except BaseException as e:
                self._results.put((None, e))
            call = None  # keep nothing alive while waiting

    def start(self, call: Callable[[], object]) -> None:
        """Begin a call."""
        self._calls.put(call)

    def result(self) -> Any:
        """Return what the call returned, or raise what it raised."""
        value, error = self._results.get(timeout=30)
        if error is not None:
            raise error
        return value

    def call(self, call: Callable[[], T]) -> T:
        """Make a call on that thread and wait."""
        self.start(call)
        return self.result()  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the thread."""
        self._calls.put(None)
        self._thread.join()


def peek(address: int, length: int = 8) -> bytes:
    """Read memory."""
    return bytes(ffi.buffer(ffi.cast("char *", address), length))


def poke(address: int, data: bytes) -> None:
    """Write memory."""
    ffi.memmove(ffi.cast("char *", address), data, len(data))
