"""vm_page: pages of the arena and of open files, and what is known about them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base import misuse as _misuse
from nic_harness.base import site as _site
from nic_harness.base.misuse import history_of
from nic_harness.base.owned import Collected
from nic_harness.errors import ArgumentError
from nic_harness.memory.arena import Arena, current

__all__ = [
    "PAGE_SIZE",
    "FileId",
    "Page",
    "PageInfo",
    "page_info",
    "vm_page_hold",
    "vm_page_to_phys",
    "vm_page_unhold",
    "vm_page_unwire",
    "vm_page_wire",
]

PAGE_SIZE: int = lib.PAGE_SIZE

#: The last page that a file can have.
_PINDEX_MAX = (1 << 51) - 1

#: The owner of a page, by its state.
_OWNERS = {
    lib.VPS_ALLOC: "the driver",
    lib.VPS_POSTED: "the device: it is on a receive ring",
    lib.VPS_MBUF: "an mbuf, or a frame",
    lib.VPS_HELD: "its holder: it was freed while it was held",
    lib.VPS_STOLEN: "the caller that stole it from the jumbo pool",
    lib.VPS_KMEM: "the harness itself: rings, mbufs, windows",
}


@dataclass(frozen=True, slots=True)
class FileId:
    """Which file, as /proc/PID/maps names it.

    Attributes:
        device: "major:minor", decimal.
        inode: its number on that device.
        path: its name in this process; None if it is not known.
    """

    device: str
    inode: int
    path: str | None

    @classmethod
    def of(cls, dev: int, ino: int, fd: int) -> FileId:
        """Name a file by its numbers and a descriptor that was open a moment ago."""
        path = None
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) == (dev, ino):
                path = str(Path(f"/proc/self/fd/{fd}").readlink())
        except OSError:
            pass  # closed meanwhile
        return cls(f"{os.major(dev)}:{os.minor(dev)}", ino, path)

    def __str__(self) -> str:
        return f"{self.path or '?'} (device {self.device}, inode {self.inode})"


@dataclass(frozen=True, slots=True)
class PageInfo:
    """What is known about a page at one moment.

    Attributes:
        file: the file that the page belongs to; None for the arena's own pages.
        index: number of the page in the arena, or in its file.
        state: "free", "alloc", "posted", "mbuf", "held", "stolen", "kmem", "file", "none".
        owner: what has the page now, in words.
        generation: counts bindings of the handle: binding it to another page gives a new number.
        wired, held, references: counts; references are those to its sf_buf.
        kva: its address in the jumbo pool, or in a file's mapping; None if it has none.
        history: the last sixteen events, the newest first. For a file's page the oldest is "alloc",
            when its descriptor was bound to it.
        allocated, freed: where that was last done: "file.py:12", "function+0x12 (library)", or "-".
            For a file's page: where it was last mapped or grabbed, and where it was released.
    """

    file: FileId | None
    index: int
    state: str
    owner: str
    generation: int
    wired: int
    held: int
    references: int
    kva: int | None
    history: tuple[str, ...]
    allocated: str
    freed: str


def describe(m: Any, machine: Any) -> PageInfo:
    """Read a struct vm_page."""
    found = ffi.new("struct sf_page_info *")
    if lib.sf_map_page(machine.sf_map, m, found):
        return describe_file_page(found)
    state = m.state
    bound = m.slot != lib.VM_PAGE_NOSLOT
    if state == lib.VPS_FREE:
        owner = "the jumbo pool" if bound else "the arena"
    else:
        owner = _OWNERS.get(state, "nobody")
    kva = int(ffi.cast("uintptr_t", lib.jumbo_kva(machine.jumbo, m))) if bound else None
    return _info(m, None, owner, kva, history_of(m.history))


def describe_file_page(found: Any) -> PageInfo:
    """Read a struct sf_page_info."""
    m = found.page
    if m.ref_count:
        owner = "the holder of its sf_buf"
    elif m.wire_count:
        owner = "the caller that wired it"
    else:
        owner = "nobody"
    file = FileId.of(found.dev, found.ino, found.fd) if found.ino else None
    history = history_of(m.history)
    if "alloc" in history:  # before that, the descriptor belonged to another page
        history = history[: history.index("alloc") + 1]
    return _info(m, file, owner, found.kva or None, history)


def _info(
    m: Any, file: FileId | None, owner: str, kva: int | None, history: tuple[str, ...]
) -> PageInfo:
    return PageInfo(
        file=file,
        index=m.pindex,
        state=ffi.string(lib.vm_page_state_name(m.state)).decode(),
        owner=owner,
        generation=m.generation,
        wired=m.wire_count,
        held=m.hold_count,
        references=m.ref_count,
        kva=kva,
        history=history,
        allocated=_site.name(m.alloc_site),
        freed=_site.name(m.free_site),
    )


def page_info(index: int, *, arena: Arena | None = None) -> PageInfo:
    """Report what is known about a page of the arena.

    For a page of a file, use nic_harness.sf_buf.file_page_info().

    Raises:
        ArgumentError: the arena has no page with that number (yet).
    """
    check.integer("look at", "a page", "index", index, 0, _PINDEX_MAX)
    machine = current(arena).handle
    if not 0 <= index < machine.arena.npages:
        raise ArgumentError(
            "look at", f"page {index}", f"the arena has pages 0 to {machine.arena.npages - 1}"
        )
    return describe(machine.arena.pages + index, machine)


class Page:
    """A page, as vm_page_t names one. Pages that come from a pool have classes of their own."""

    __slots__ = ("__weakref__", "_m", "_machine")

    def __init__(self, m: Any, machine: Any) -> None:
        """Name a page; `machine` keeps the arena alive."""
        self._m = m
        self._machine = machine

    def __repr__(self) -> str:
        state = ffi.string(lib.vm_page_state_name(self._m.state)).decode()
        return f"<{type(self).__name__} {self._m.pindex} {state}>"

    @property
    def index(self) -> int:
        """Number of the page in the arena, or in its file."""
        return int(self._m.pindex)

    @property
    def info(self) -> PageInfo:
        """What is known about it now: state, owner, history, sites."""
        return describe(self._m, self._machine)

    @property
    def handle(self) -> Any:
        """The `vm_page_t`, for calls into nic_harness._native.

        Raises:
            ClosedError: the page was given back, and may belong to something else by now.
        """
        return self._m


class OwnedPage(Collected, Page):
    """A page that was taken once and is given back once."""

    __slots__ = (
        "_process",
        "owned",
    )

    owned: bool

    def __init__(self, m: Any, machine: Any) -> None:
        super().__init__(m, machine)
        self.owned = True

    @property
    def handle(self) -> Any:
        """The `vm_page_t`, for calls into nic_harness._native."""
        return self._while_owned(self._m)


class Views:
    """The views of something that must outlive them: memoryviews, their slices, numpy arrays."""

    __slots__ = ("_lock", "_n")

    def __init__(self) -> None:
        self._n = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._n

    def make(self, address: int, size: int, *keep: object, readonly: bool = False) -> memoryview:
        """Make a view of memory; it counts until the last slice of it is gone."""
        with self._lock:
            self._n += 1
        return view(address, size, self._drop, *keep, readonly=readonly)

    def _drop(self) -> None:
        with self._lock:
            self._n -= 1


def view(
    address: int, size: int, drop: Callable[[], None], *keep: object, readonly: bool = False
) -> memoryview:
    """Make a view of memory; `drop` is called when the last slice of it is gone."""

    def dropped(_: object, _keep: object = keep) -> None:
        drop()

    memory = memoryview(ffi.buffer(ffi.gc(ffi.cast("char *", address), dropped), size))
    return memory.toreadonly() if readonly else memory


def vm_page_to_phys(page: Page) -> int | None:
    """Return the physical address, a byte offset into the arena; None for a file's page."""
    check.instance("name", "a physical address", "page", page, Page)
    pa = int(lib.vm_page_to_phys(page._m))
    return None if pa == (1 << 64) - 1 else pa


def vm_page_hold(page: Page) -> None:
    """Keep a page from being recycled until vm_page_unhold(), even if it is freed before that."""
    check.instance("hold", "a page", "page", page, Page)
    lib.vm_page_hold(page.handle)


def vm_page_unhold(page: Page) -> None:
    """End a hold. If the page was freed while it was held, ending the last hold recycles it.

    Raises:
        RefCountError: the page is not held.
    """
    check.instance("unhold", "a page", "page", page, Page)
    seen = _misuse.count()
    lib.vm_page_unhold(page._m)
    _misuse.check(seen, "unhold", repr(page))


def vm_page_wire(page: Page) -> None:
    """Wire a page; it must be unwired as often as it was wired."""
    check.instance("wire", "a page", "page", page, Page)
    lib.vm_page_wire(page.handle)


def vm_page_unwire(page: Page) -> None:
    """End a wiring.

    Raises:
        RefCountError: the page is not wired.
    """
    check.instance("unwire", "a page", "page", page, Page)
    seen = _misuse.count()
    lib.sf_page_unwire(page._m, _site.caller())
    _misuse.check(seen, "unwire", repr(page))
