"""Misuse reports, and raising those that C made on this thread as exceptions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from nic_harness._native import ffi, lib
from nic_harness.base import site as _site
from nic_harness.errors import (
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

#: How many events a page's history has room for (vm/vm_page.h).
_HISTORY = 16


@dataclass(frozen=True, slots=True)
class Misuse:
    """One thing that a caller did wrong, as the arena saw it.

    Attributes:
        kind: what was done: "double free", "foreign address" and the like.
        address: the address that the caller gave.
        page: index of the page concerned; None when the address belongs to no page.
        state: the state of that page.
        history: what happened to it, the newest first.
        site, alloc_site, free_site: return addresses of the refused call, and of the page's last
            allocation and free.
    """

    kind: str
    address: int
    page: int | None
    state: str
    history: tuple[str, ...]
    site: int
    alloc_site: int
    free_site: int

    @classmethod
    def _of(cls, m: Any) -> Misuse:
        """Read a struct harness_misuse."""
        return cls(
            kind=_text(lib.harness_misuse_name(m.kind)),
            address=m.addr,
            page=None if m.pindex == (1 << 64) - 1 else m.pindex,
            state=_text(lib.vm_page_state_name(m.state)),
            history=history_of(m.history),
            site=m.site,
            alloc_site=m.alloc_site,
            free_site=m.free_site,
        )

    def __str__(self) -> str:
        if self.page is None:
            return f"{self.kind}: {self.address:#x}, at {_site.name(self.site)}"
        return (
            f"{self.kind}: page {self.page}, {self.state}, "
            f"history {' < '.join(self.history) or 'empty'}, "
            f"allocated at {_site.name(self.alloc_site)}, freed at {_site.name(self.free_site)}, "
            f"misused at {_site.name(self.site)}"
        )


def history_of(history: int) -> tuple[str, ...]:
    """Name the events of a page's 64-bit history, the newest first."""
    events = (history >> 4 * i & 15 for i in range(_HISTORY))
    return tuple(_text(lib.vm_page_event_name(e)) for e in events if e)


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
    """Report a misuse that only Python can see, as C would have, and return its error."""
    seen = count()
    lib.arena_report(machine.arena, kind, ffi.cast("void *", address), page, _site.caller())
    error = since(seen, operation, what)
    assert error is not None
    return error


def _text(string: Any) -> str:
    return str(ffi.string(string).decode()) if string else ""
