"""What is taken once and given back once: by its free routine, a `with`, or its last reference."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from types import TracebackType
from typing import Any, Self

from nic_harness.base.owner import Owner, this_process
from nic_harness.errors import BusyError, ClosedError

__all__ = ["Collected", "Owned", "gone"]


class Owned:
    """A handle on something of C's; use as a context manager: leaving it gives the thing back.

    In a forked child the thing is the parent's: it is not given back there, and a use is refused.
    A class with slots has one for `_process`.
    """

    __slots__ = ()

    _process: Owner

    def __new__(cls, *_arguments: Any, **_named: Any) -> Self:
        """Remember whose it is."""
        self = super().__new__(cls)
        self._process = this_process()  # type: ignore[misc] # the subclass has the slot
        return self

    @property
    @abstractmethod
    def owned(self) -> bool:
        """Whether the thing is this handle's to give back."""

    @abstractmethod
    def _give_back(self) -> None:
        """Give it back, as the free routine of its kind does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.owned and self._process.here:
                self._give_back()
        except BusyError:
            # What is raised already says more than that a view is still referred to.
            if value is None:
                raise

    def _while_owned(self, thing: Any) -> Any:
        """Return `thing`, for calls into C.

        Raises:
            ClosedError: it was given back, and may be another's by now.
            ForkedError: it belongs to the process that forked this one.
        """
        self._process.check("use", f"a {type(self).__name__}")
        if not self.owned:
            raise gone(self)
        return thing


class Collected(Owned):
    """An Owned that is given back also when it is let go of."""

    __slots__ = ()

    def _leak(self) -> str | None:
        """Say what a ResourceWarning says, where letting go of it is a leak."""
        return None

    def __del__(self) -> None:
        # Nothing is owned by one whose __init__ failed.
        if getattr(self, "owned", False) and self._process.here:
            leak = self._leak()
            self._give_back()
            # A warning that is raised keeps this frame, and with it a handle whose arena may be
            # collected together with it.
            del self
            if leak is not None:
                warnings.warn(leak, ResourceWarning, stacklevel=1)


def gone(what: object) -> ClosedError:
    """Return the error for a use of something that was given back."""
    return ClosedError("use", repr(what), "it was given back", "take what you need before that")
