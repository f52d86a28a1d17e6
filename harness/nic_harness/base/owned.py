"""Things taken once and given back once: by a free routine, a `with`, or the last reference."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from types import TracebackType
from typing import Any, Self

from nic_harness.base.owner import Owner, this_process
from nic_harness.errors import BusyError, ClosedError

__all__ = ["Collected", "Owned", "gone"]


class Owned:
    """A handle on something that C made; use as a context manager: leaving it gives it back.

    In a forked child the thing belongs to the parent: the child can neither use it nor give it
    back. A subclass with slots needs one for `_process`.
    """

    __slots__ = ()

    _process: Owner

    def __new__(cls, *_arguments: Any, **_named: Any) -> Self:
        """Remember which process made it."""
        self = super().__new__(cls)
        self._process = this_process()  # type: ignore[misc] # the subclass has the slot
        return self

    @property
    @abstractmethod
    def owned(self) -> bool:
        """Whether this handle still has to give the thing back."""

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
            # The exception already under way says more than that a view is in use.
            if value is None:
                raise

    def _while_owned(self, thing: Any) -> Any:
        """Return `thing`, for calls into C.

        Raises:
            ClosedError: it was given back, and may belong to something else by now.
            ForkedError: it belongs to the process that forked this one.
        """
        self._process.check("use", f"a {type(self).__name__}")
        if not self.owned:
            raise gone(self)
        return thing


class Collected(Owned):
    """An Owned that is also given back when its last reference is dropped."""

    __slots__ = ()

    def _leak(self) -> str | None:
        """Return the text of the ResourceWarning, or None if dropping the handle is no leak."""
        return None

    def __del__(self) -> None:
        # A handle whose __init__ failed owns nothing.
        if getattr(self, "owned", False) and self._process.here:
            leak = self._leak()
            self._give_back()
            # A warning raised as an exception keeps this frame, and the handle with it, whose arena
            # may be collected at the same time.
            del self
            if leak is not None:
                warnings.warn(leak, ResourceWarning, stacklevel=1)


def gone(what: object) -> ClosedError:
    """Return the error for using something that was given back."""
    return ClosedError("use", repr(what), "it was given back", "take what you need before that")
