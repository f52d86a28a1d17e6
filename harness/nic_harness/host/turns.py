"""Callers that take turns, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from weakref import ReferenceType, ref

from nic_harness.errors import BusyError

__all__ = ["Ticket", "Turns"]


class Ticket:
    """A caller's place in the line."""

    __slots__ = ("__weakref__", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Turns:
    """The line of callers that want to do one thing; used under the lock of what they do it to.

    The line refers to tickets weakly. A caller that is interrupted a second time, while it leaves
    the line, loses its place with its ticket, and the others do not wait for it for ever.
    """

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line: deque[ReferenceType[Ticket]] = deque()

    def join(self, ticket: Ticket, operation: str, what: str) -> None:
        """Stand at the end of the line.

        Raises:
            BusyError: this thread stands there already, and would wait for itself.
        """
        for place in self._line:
            other = place()
            if other is not None and other.thread == ticket.thread:
                raise BusyError(
                    operation,
                    what,
                    "this thread is in the middle of such a call",
                    "do it when that has returned, not in its progress or a signal handler",
                )
        self._line.append(ref(ticket))

    def has(self, ticket: Ticket) -> bool:
        """Whether it is this caller's turn."""
        while self._line:
            first = self._line[0]()
            if first is not None:
                return first is ticket
            self._line.popleft()
        return False

    def leave(self, ticket: Ticket) -> bool:
        """Leave the line, from wherever in it; whether others wait."""
        place = ref(ticket)
        while place in self._line:
            self._line.remove(place)
        return bool(self._line)
