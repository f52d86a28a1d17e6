"""Descriptors: the error when they run out, and keeping them off the numbers 0 to 2."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from nic_harness.errors import ResourceError

__all__ = ["above_stdio", "descriptors_for", "is_inherited"]


@contextlib.contextmanager
def descriptors_for(operation: str, what: str) -> Iterator[None]:
    """Raise ResourceError instead of a plain OSError when descriptors run out."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise ResourceError.from_errno(e.errno, operation, what) from e


def above_stdio(fd: int) -> int:
    """Return a duplicate numbered 3 or higher, to hand to a program that is started.

    In a process whose standard descriptors are closed, a new descriptor gets one of their numbers,
    and the program's own standard descriptors would replace it.
    """
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def is_inherited(fd: int) -> bool:
    """Whether a program that this process starts inherits this descriptor."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
