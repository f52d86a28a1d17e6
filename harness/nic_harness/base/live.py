"""What is open in this process: for the check that nothing is left after a test."""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakSet


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


_live: WeakSet[Resource] = WeakSet()


def track(resource: Resource) -> None:
    """Remember a resource for as long as it exists."""
    _live.add(resource)


def open_resources() -> list[Resource]:
    """List every Namespace, Tap, Arena, Nic and Stack that is open."""
    return [resource for resource in _live if not resource.closed]
