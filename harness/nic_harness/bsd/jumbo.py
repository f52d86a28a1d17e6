"""jumbo(9): page-sized receive buffers, under the kernel's names.

    from nic_harness.bsd import jumbo

    with jumbo.jumbo_pg_alloc() as page:
        page.view()[:5] = b"hello"

A page belongs to its handle until it is freed, stolen, or passed up with m_extadd(). Views hold
their page: if it is freed while viewed, it returns to the pool when its last view is gone.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base import misuse as _misuse
from nic_harness.base import site as _site
from nic_harness.bsd.vm_page import PAGE_SIZE, OwnedPage, Views
from nic_harness.errors import (
    BusyError,
    ClosedError,
    Deed,
    ResourceError,
    UnsupportedError,
    error_from_errno,
)
from nic_harness.memory.arena import Arena, current

__all__ = [
    "JumboPage",
    "StolenPage",
    "jumbo_freem",
    "jumbo_pg_alloc",
    "jumbo_pg_free",
    "jumbo_pg_steal",
    "jumbo_phys_to_kva",
    "jumbo_vm_init",
    "vm_page_free",
]

#: The last address there is.
_KVA_MAX = (1 << 64) - 1

#: Handles that own a page, by its pool KVA, so that a free by address finds the handle.
_owned: WeakValueDictionary[int, JumboPage] = WeakValueDictionary()

_default: Arena | None = None


class JumboPage(OwnedPage):
    """A page of the jumbo pool, yours until it is freed, stolen or passed up.

    Use as a context manager: leaving it frees the page if it is still yours. Dropping a handle that
    owns a page is a leak: a ResourceWarning names it, and the page is freed.
    """

    __slots__ = ("_kva", "_views")

    def __init__(self, m: Any, machine: Any) -> None:
        super().__init__(m, machine)
        self._kva = int(ffi.cast("uintptr_t", lib.jumbo_kva(machine.jumbo, m)))
        self._views = Views()
        _owned[self._kva] = self

    @property
    def kva(self) -> int:
        """Its address in the pool."""
        return int(self._while_owned(self._kva))

    def view(self) -> memoryview:
        """Return the page's 4096 bytes in place, writable."""
        m = self.handle
        lib.vm_page_hold(m)
        held = _Hold(m, self._machine)
        return self._views.make(self._kva, PAGE_SIZE, held)

    def _give_back(self) -> None:
        jumbo_pg_free(self)

    def _leak(self) -> str:
        site = _site.name(self._m.alloc_site)
        return f"jumbo page {self._m.pindex}, allocated at {site}, was never freed"

    def _leave(self) -> None:
        """Stop owning the page."""
        self.owned = False
        _owned.pop(self._kva, None)


class _Hold:
    """A hold on a page, for as long as this exists."""

    __slots__ = ("_m", "_machine")

    def __init__(self, m: Any, machine: Any) -> None:
        self._m = m
        self._machine = machine

    def __del__(self) -> None:
        lib.vm_page_unhold(self._m)


class StolenPage(OwnedPage):
    """A page that left the jumbo pool, yours until it is freed.

    Use as a context manager: leaving it frees the page. Dropping the handle is a leak, as for a
    JumboPage.
    """

    __slots__ = ()

    def _give_back(self) -> None:
        vm_page_free(self)

    def _leak(self) -> str:
        return f"page {self._m.pindex}, stolen at {_site.name(self._m.free_site)}, was never freed"

    def view(self) -> memoryview:
        """Return the page's bytes at their direct-map address.

        Raises:
            UnsupportedError: there is no direct map; sf_buf_alloc() and lwbuf_alloc() map the page.
        """
        m = self.handle
        kva = lib.arena_kva(self._machine.arena, m)
        if kva == ffi.NULL:
            raise UnsupportedError(
                "look at", repr(self), "there is no direct map", "map it with sf_buf_alloc()"
            )
        lib.vm_page_hold(m)
        held = _Hold(m, self._machine)
        return Views().make(int(ffi.cast("uintptr_t", kva)), PAGE_SIZE, held)


def jumbo_vm_init() -> None:
    """Make a pool if there is none yet. Arena() makes one with sizes that you choose.

    Raises:
        ResourceError: the machine lacks the memory or the address space.
    """
    global _default
    try:
        current()
    except ClosedError:
        _default = Arena(1024, max_pages=65536)


def jumbo_pg_alloc(*, arena: Arena | None = None) -> JumboPage:
    """Take a page and a piece of pool KVA. Never sleeps.

    Raises:
        ResourceError: the pool is at its limit, or the machine is out of memory or mappings.
        WriteAfterFreeError: in strict mode, something wrote to the page while it was free.
        ClosedError: no arena is open.
    """
    machine = current(arena).handle
    seen = _misuse.count()
    m = lib.jumbo_alloc(machine.jumbo, _site.caller())
    if m == ffi.NULL:
        s = current(arena).stats()
        raise ResourceError(
            "allocate",
            "jumbo page",
            f"{s.pages_in_use} of {s.pages_total} pages are in use, and the pool cannot grow",
            f"free some, or give Arena a larger max_pages than {s.pages_max}",
        )
    page = JumboPage(m, machine)
    error = _misuse.since(seen, "allocate", "jumbo page")
    if error is not None:
        jumbo_pg_free(page)
        raise error
    return page


def jumbo_pg_free(page: JumboPage | int) -> None:
    """Give back a page that was never passed up, by its handle or its pool KVA.

    Raises:
        DoubleFreeError, FreeAfterStealError: the page is no longer yours.
        ForeignAddressError: no page of the pool has that address.
        FreeWhilePostedError: the page is on a ring.
    """
    if not isinstance(page, JumboPage):
        page = check.integer("free", "a jumbo page", "page", page, 0, _KVA_MAX)
    if isinstance(page, JumboPage):
        handle: JumboPage | None = page
        machine, kva = page._machine, page._kva
        if not page.owned:
            # It may belong to something else by now, so C must not be asked.
            kind = (
                lib.MISUSE_FREE_AFTER_STEAL
                if page._m.state == lib.VPS_STOLEN
                else lib.MISUSE_DOUBLE_FREE
            )
            raise _misuse.report(machine, kind, page._m, kva, "free", repr(page))
    else:
        handle, kva = _owned.get(page), page
        machine = handle._machine if handle else current().handle
    what = repr(handle) if handle else f"page at {kva:#x}"
    seen = _misuse.count()
    code = lib.jumbo_free(machine.jumbo, ffi.cast("void *", kva), _site.caller())
    if code == 0:
        if handle:
            handle._leave()
        return
    _misuse.check(seen, "free", what)
    raise error_from_errno(code, "free", what, deed=Deed.MEMORY)


def jumbo_freem(page: JumboPage | int, _args: object = None) -> None:
    """Free as the external free routine of mbufs does; see m_extadd()."""
    jumbo_pg_free(page)


def jumbo_pg_steal(page: JumboPage) -> StolenPage:
    """Take a page out of the pool for good; its KVA is recycled at once, and its data stay.

    Raises:
        BusyError: a view of it is in use, and its address is about to show another page.
        DoubleFreeError, PageStateError: the page is not yours, or not in use.
    """
    check.instance("steal", "a page", "page", page, JumboPage)
    if not page.owned:
        kind = lib.MISUSE_BAD_STATE if page._m.state != lib.VPS_FREE else lib.MISUSE_DOUBLE_FREE
        raise _misuse.report(page._machine, kind, page._m, page._kva, "steal", repr(page))
    if page._views:
        raise BusyError(
            "steal", repr(page), f"{len(page._views)} views of it are in use", "drop them first"
        )
    seen = _misuse.count()
    code = lib.jumbo_steal(page._machine.jumbo, page._m, _site.caller())
    if code:
        _misuse.check(seen, "steal", repr(page))
        raise error_from_errno(code, "steal", repr(page), deed=Deed.MEMORY)
    page._leave()
    return StolenPage(page._m, page._machine)


def vm_page_free(page: StolenPage) -> None:
    """Give a stolen page back to the arena, which does not recycle it while it is held.

    Raises:
        DoubleFreeError: it was given back already.
    """
    check.instance("free", "a page", "page", page, StolenPage)
    if not page.owned:
        raise _misuse.report(page._machine, lib.MISUSE_DOUBLE_FREE, page._m, 0, "free", repr(page))
    page.owned = False
    lib.vm_page_free(page._m)


def jumbo_phys_to_kva(pa: int, *, arena: Arena | None = None) -> int | None:
    """Return the pool KVA of a physical address; None if no jumbo page is there."""
    check.integer("find", "a jumbo page", "pa", pa, 0, _KVA_MAX)
    machine = current(arena).handle
    index = pa >> PAGE_SIZE.bit_length() - 1
    if not 0 <= index < machine.arena.npages:
        return None
    m = machine.arena.pages + index
    if m.slot == lib.VM_PAGE_NOSLOT:
        return None
    return int(ffi.cast("uintptr_t", lib.jumbo_kva(machine.jumbo, m))) + pa % PAGE_SIZE
