"""Reports of misuse, made by C on this thread, as exceptions."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness import _site
from harness._native import ffi, lib
from harness.arena import Misuse
from harness.errors import (
    DoubleFreeError,
    ForeignAddressError,
    FreeAfterStealError,
    FreeWhilePostedError,
    MisuseError,
    PageStateError,
    QuickBlockingError,
    QuickForeignError,
    QuickNestedError,
    RefCountError,
    WriteAfterFreeError,
)

_CLASSES: dict[int, type[MisuseError]] = {
    lib.MISUSE_DOUBLE_FREE: DoubleFreeError,
    lib.MISUSE_FOREIGN_ADDRESS: ForeignAddressError,
    lib.MISUSE_FREE_WHILE_POSTED: FreeWhilePostedError,
    lib.MISUSE_FREE_AFTER_STEAL: FreeAfterStealError,
    lib.MISUSE_REFCOUNT: RefCountError,
    lib.MISUSE_WRITE_AFTER_FREE: WriteAfterFreeError,
    lib.MISUSE_QUICK_NESTED: QuickNestedError,
    lib.MISUSE_QUICK_FOREIGN: QuickForeignError,
    lib.MISUSE_QUICK_BLOCKING: QuickBlockingError,
    lib.MISUSE_BAD_STATE: PageStateError,
}


def count() -> int:
    """Count the reports that this thread has caused so far."""
    return int(lib.arena_misuse_mine(ffi.NULL))


def since(seen: int, operation: str, what: str) -> MisuseError | None:
    """Return the error for the newest report of this thread since count() gave `seen`."""
    report = ffi.new("struct harness_misuse *")
    if lib.arena_misuse_mine(report) == seen:
        return None
    # The call came through this package: the line that made it says more than an address in it.
    site = int(ffi.cast("uintptr_t", _site.caller()))
    misuse = dataclasses.replace(Misuse._of(report), site=site)
    error = _CLASSES.get(report.kind, MisuseError)(operation, what, str(misuse))
    error.misuse = misuse
    return error


def check(seen: int, operation: str, what: str) -> None:
    """Raise the newest report of this thread since count() gave `seen`, if there is one."""
    error = since(seen, operation, what)
    if error is not None:
        raise error


def report(
    machine: Any, kind: int, page: Any, address: int, operation: str, what: str
) -> MisuseError:
    """Report what only Python could see, as C would have, and return its error."""
    seen = count()
    lib.arena_report(machine.arena, kind, ffi.cast("void *", address), page, _site.caller())
    error = since(seen, operation, what)
    assert error is not None
    return error
