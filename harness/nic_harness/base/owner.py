"""Which process owns something: what was made before a fork stays with the process that made it.

A forked child has copies of the handles, of the locks as they were at that moment, and of
descriptors that lead to the same open files; it shares the arena's memory. So using a handle there
raises ForkedError, and closing one there drops the copies and leaves the rest alone.
"""

from __future__ import annotations

import os

from nic_harness._native import lib
from nic_harness.errors import ForkedError

__all__ = ["Owner", "close_owned", "own", "this_process"]


class Owner:
    """The process that made this object.

    Attributes:
        pid: its process ID.
    """

    __slots__ = ("_forks", "pid")

    def __init__(self) -> None:
        self.pid = os.getpid()
        # The PID alone is not enough: in a new PID namespace a child may have its parent's.
        self._forks = lib.process_forks()

    @property
    def here(self) -> bool:
        """Whether it is this process."""
        return bool(lib.process_forks() == self._forks)

    def check(self, operation: str, what: str) -> None:
        """Refuse to use something that belongs to another process.

        Raises:
            ForkedError: this is a forked child of its owner.
        """
        if lib.process_forks() != self._forks:
            raise ForkedError(operation, what, f"it belongs to process {self.pid}")


_this: Owner | None = None


def this_process() -> Owner:
    """Return an Owner of this process, the same one each time."""
    global _this
    if _this is None or not _this.here:
        _this = Owner()
    return _this


def own(fd: int) -> int:
    """Register a descriptor that forked children must not keep; return it. See close_owned()."""
    return int(lib.process_own(fd))


def close_owned(fd: int) -> None:
    """Close a descriptor that own() registered."""
    lib.process_close(fd)
