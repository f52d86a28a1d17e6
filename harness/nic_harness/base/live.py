"""What is open in this process, and where it was made, so that a check can find leaks."""

from __future__ import annotations

import os
from abc import abstractmethod
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakKeyDictionary

from nic_harness.base import site as _site
from nic_harness.base.owner import Owner, this_process


class Resource(Protocol):
    """Something that has to be closed."""

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class Ending:
    """A context manager whose exit calls _end_block()."""

    __slots__ = ()

    @abstractmethod
    def _end_block(self) -> None:
        """Give everything back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_block()


class Closing(Ending):
    """A context manager whose exit calls close()."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""

    def _end_block(self) -> None:
        self.close()


_live: WeakKeyDictionary[Resource, tuple[int, Owner]] = WeakKeyDictionary()
_watching = False


def track(resource: Resource) -> None:
    """Remember a resource for as long as it exists, and the caller's line that made it.

    In each forked child its `_forked()`, if it has one, runs before anything else. It makes new
    locks, because threads that do not exist in the child may hold the old ones, and closes what
    the child must not keep.
    """
    global _watching
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_forked)
    _live[resource] = _site.number(_site.caller()), this_process()


def _forked() -> None:
    for resource in list(_live):
        getattr(resource, "_forked", int)()


def open_resources() -> list[Resource]:
    """List every Namespace, Tap, Arena, Nic and Stack of this process that is open."""
    owned = [resource for resource, (_, owner) in list(_live.items()) if owner.here]
    return [resource for resource in owned if not resource.closed]


def made_at(resource: Resource) -> str:
    """Name the line that made a resource: "file.py:12"."""
    return _site.name(_live[resource][0])
