"""Descriptors: what their lack is called, and the numbers that are no place for them."""

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
    """Name the lack of a descriptor: ResourceError instead of a plain OSError."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise ResourceError.from_errno(e.errno, operation, what) from e


def above_stdio(fd: int) -> int:
    """Return a duplicate that is not numbered 0 to 2, for a program that is started with it.

    In a process whose standard descriptors are closed, a new one gets their numbers, and the
    program's own standard descriptors would be put over it.
    """
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def is_inherited(fd: int) -> bool:
    """Whether a program that this process starts has this descriptor too."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
