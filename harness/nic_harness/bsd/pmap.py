"""pmap_quick_enter_page(9): one page mapped for a moment, under the kernel's names.

    from nic_harness.bsd.pmap import pmap_quick_enter_page

    with pmap_quick_enter_page(page) as quick:
        quick.view()[0] = 1

Each thread has one slot for this. Between the two calls it must not call anything in the harness
that might sleep, and must not make a second quick mapping.
"""

from __future__ import annotations

import threading

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base import misuse as _misuse
from nic_harness.base.owned import Owned
from nic_harness.bsd.vm_page import PAGE_SIZE, Page, Views
from nic_harness.errors import BusyError, ResourceError
from nic_harness.memory.arena import current

__all__ = ["QuickMapping", "pmap_quick_enter_page", "pmap_quick_remove_page"]

_here = threading.local()


class QuickMapping(Owned):
    """The calling thread's quick mapping; use as a context manager: leaving it removes it.

    Attributes:
        page: the page it maps.
    """

    __slots__ = ("_kva", "_machine", "_process", "_views", "page")

    def __init__(self, kva: int, page: Page) -> None:
        self._kva = kva
        self._machine = page._machine
        self._views = Views()
        self.page = page

    def __repr__(self) -> str:
        return f"<QuickMapping of {self.page!r} at {self._kva:#x}>"

    @property
    def kva(self) -> int:
        """Address of the mapping."""
        return int(self._while_owned(self._kva))

    @property
    def owned(self) -> bool:
        """Whether it still has to be removed."""
        return self._kva != 0

    def _give_back(self) -> None:
        pmap_quick_remove_page(self)

    def view(self) -> memoryview:
        """Return the page's bytes where they are mapped; drop it before the mapping is removed."""
        file = self.page._m.state == lib.VPS_FILE
        return self._views.make(self.kva, PAGE_SIZE, readonly=file)


def pmap_quick_enter_page(page: Page) -> QuickMapping:
    """Map a page in the calling thread's one slot. Never sleeps.

    Raises:
        QuickNestedError: this thread has a quick mapping already, which stays valid.
        ResourceError: there is no direct map, and the kernel refused the mapping
            (vm.max_map_count).
    """
    check.instance("enter", "a page", "page", page, Page)
    m = page.handle
    held: QuickMapping | None = getattr(_here, "held", None)
    if held is not None and held._kva:
        raise _misuse.report(
            page._machine, lib.MISUSE_QUICK_NESTED, m, held._kva, "enter", repr(page)
        )
    seen = _misuse.count()
    kva = int(lib.pmap_quick_enter_page(m))
    error = _misuse.since(seen, "enter", repr(page))
    if error is not None:
        lib.pmap_quick_remove_page(kva)
        raise error
    if kva == 0:
        raise ResourceError("enter", repr(page), "the kernel refused the mapping")
    held = _here.held = QuickMapping(kva, page)
    return held


def pmap_quick_remove_page(quick: QuickMapping | int) -> None:
    """Remove a quick mapping, given as its handle or its address.

    Raises:
        QuickForeignError: it is not the one that this thread holds.
        BusyError: a view of it is in use.
    """
    if not isinstance(quick, QuickMapping):
        quick = check.integer("remove", "a quick mapping", "quick", quick, 0, (1 << 64) - 1)
    held: QuickMapping | None = getattr(_here, "held", None)
    kva = quick if isinstance(quick, int) else quick._kva
    if held is None or not kva or kva != held._kva or quick not in (kva, held):
        machine = current().handle if isinstance(quick, int) else quick._machine
        page = ffi.NULL if isinstance(quick, int) else quick.page._m
        raise _misuse.report(machine, lib.MISUSE_QUICK_FOREIGN, page, kva, "remove", f"{kva:#x}")
    if held._views:
        raise BusyError(
            "remove", repr(held), f"{len(held._views)} views of it are in use", "drop them first"
        )
    lib.pmap_quick_remove_page(kva)
    held._kva = 0
    _here.held = None
