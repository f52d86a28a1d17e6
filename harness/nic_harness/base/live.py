"""What is open in this process, and where it was made: for the check that nothing is left."""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakKeyDictionary

from nic_harness.base import site as _site


class Resource(Protocol):
    """Something that has to be closed."""

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class Closing:
    """What is closed at the end of a `with`."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_live: WeakKeyDictionary[Resource, int] = WeakKeyDictionary()


def track(resource: Resource) -> None:
    """Remember a resource for as long as it exists, and the line of the caller that made it."""
    _live[resource] = _site.number(_site.caller())


def open_resources() -> list[Resource]:
    """List every Namespace, Tap, Arena, Nic and Stack that is open."""
    return [resource for resource in list(_live) if not resource.closed]


def made_at(resource: Resource) -> str:
    """Name the line that made a resource: "file.py:12"."""
    return _site.name(_live[resource])
