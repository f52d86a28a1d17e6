"""lwbuf(9): light handles on mappings, not cached and not counted, under the kernel's names.

from nic_harness.bsd.lwbuf import lwbuf_alloc

with lwbuf_alloc(page) as lwb:
    print(bytes(lwb.view()[:16]))
"""

from __future__ import annotations

from typing import Any

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base import misuse as _misuse
from nic_harness.base.owned import Collected
from nic_harness.bsd.vm_page import PAGE_SIZE, Page, Views
from nic_harness.errors import BusyError, ResourceError
from nic_harness.memory.arena import Arena, current

__all__ = [
    "Lwbuf",
    "lwbuf_alloc",
    "lwbuf_count",
    "lwbuf_free",
    "lwbuf_kva",
    "lwbuf_kva_bytes",
    "lwbuf_page",
    "lwbuf_reserve",
    "lwbuf_set_global",
]


class Lwbuf(Collected):
    """A handle on a mapping; use as a context manager: leaving it frees it.

    Attributes:
        page: the page it maps.
    """

    __slots__ = ("__weakref__", "_lwb", "_machine", "_own", "_process", "_views", "page")

    def __init__(self, lwb: Any, own: Any, page: Page) -> None:
        self._lwb: Any = lwb
        self._own = own  # the memory of *lwb, if the caller provides it
        self._machine = page._machine
        self._views = Views()
        self.page = page

    def __repr__(self) -> str:
        state = "freed" if self._lwb is None else f"at {self.kva:#x}"
        return f"<Lwbuf of {self.page!r} {state}>"

    @property
    def owned(self) -> bool:
        """Whether it still has to be freed."""
        return self._lwb is not None

    def _give_back(self) -> None:
        lwbuf_free(self)

    @property
    def handle(self) -> Any:
        """The `struct lwbuf *`, for calls into nic_harness._native."""
        return self._while_owned(self._lwb)

    @property
    def kva(self) -> int:
        """Address of the mapping, current on the calling thread."""
        return int(lib.lwbuf_kva(self.handle))

    def view(self) -> memoryview:
        """Return the page's bytes where they are mapped; read-only for a page of a file.

        The handle lives as long as its views, and cannot be freed before they are gone.
        """
        file = self.page._m.state == lib.VPS_FILE
        return self._views.make(self.kva, PAGE_SIZE, self, readonly=file)


def lwbuf_alloc(page: Page) -> Lwbuf:
    """Make a handle. With a direct map this cannot fail for a page of the arena.

    Raises:
        ResourceError: out of KVA or mappings, or the file's page cannot be mapped.
    """
    check.instance("map", "a page", "page", page, Page)
    own = ffi.new("struct lwbuf *")
    lwb = lib.lwbuf_alloc(page.handle, own)
    if lwb == ffi.NULL:
        raise ResourceError("map", repr(page), "no mapping is available", "free lwbufs")
    return Lwbuf(lwb, own, page)


def lwbuf_free(lwb: Lwbuf) -> None:
    """Free a handle, on any thread; its KVA goes back to the pool it came from.

    Raises:
        BusyError: a view of it is in use.
        DoubleFreeError: it was freed already.
    """
    check.instance("free", "an lwbuf", "lwb", lwb, Lwbuf)
    if lwb._lwb is None:
        raise _misuse.report(
            lwb._machine, lib.MISUSE_DOUBLE_FREE, lwb.page._m, 0, "free", f"lwbuf of {lwb.page!r}"
        )
    if lwb._views:
        raise BusyError("free", repr(lwb), f"{len(lwb._views)} views of it are in use", "drop them")
    handle, lwb._lwb = lwb._lwb, None
    lib.lwbuf_free(handle)


def lwbuf_page(lwb: Lwbuf) -> Page:
    """Return the page that is mapped."""
    check.instance("look at", "an lwbuf", "lwb", lwb, Lwbuf)
    return lwb.page


def lwbuf_kva(lwb: Lwbuf) -> int:
    """Return the address of the mapping, current on the calling thread."""
    check.instance("look at", "an lwbuf", "lwb", lwb, Lwbuf)
    return lwb.kva


def lwbuf_set_global(lwb: Lwbuf) -> None:
    """Make the mapping current on every thread."""
    check.instance("share", "an lwbuf", "lwb", lwb, Lwbuf)
    lib.lwbuf_set_global(lwb.handle)


def _stats(arena: Arena | None) -> Any:
    out = ffi.new("struct lwbuf_stats *")
    lib.lwbuf_get_stats(current(arena).handle.lwbufs, out)
    return out


def lwbuf_count(*, arena: Arena | None = None) -> int:
    """Count the handles in use; 0 with a direct map, where a handle takes nothing."""
    return int(_stats(arena).count)


def lwbuf_kva_bytes(*, arena: Arena | None = None) -> int:
    """Return the KVA in all pools, bytes."""
    return int(_stats(arena).kva_bytes)


def lwbuf_reserve(*, arena: Arena | None = None) -> int:
    """Count the handles that are free in the pools."""
    return int(_stats(arena).reserve)
