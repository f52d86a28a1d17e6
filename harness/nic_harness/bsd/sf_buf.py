"""sf_buf(9): mappings of pages, under the kernel's names, and the files that pages come from.

    from nic_harness.bsd.sf_buf import VmObject, sf_buf_alloc

    with VmObject(file) as object, object.grab(3) as page, sf_buf_alloc(page) as sf:
        print(sf.copy(0, 16))

A file's page may vanish when the file shrinks. copy() then raises FileError; an access by view()
would be a SIGBUS, as with mmap.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base import misuse as _misuse
from nic_harness.base import site as _site
from nic_harness.base.live import track
from nic_harness.base.owned import Collected
from nic_harness.bsd.vm_page import (
    PAGE_SIZE,
    FileId,
    OwnedPage,
    Page,
    PageInfo,
    describe_file_page,
    view,
)
from nic_harness.errors import (
    ArgumentError,
    ClosedError,
    Deed,
    FileError,
    HarnessError,
    ResourceError,
    SleepInterruptedError,
    error_from_errno,
)
from nic_harness.memory.arena import Arena, current

__all__ = [
    "SFB_CATCH",
    "SFB_CPUPRIVATE",
    "SFB_DEFAULT",
    "SFB_NOWAIT",
    "FilePage",
    "MappedFile",
    "SfBuf",
    "VmObject",
    "file_page_info",
    "mapped_files",
    "sf_buf_alloc",
    "sf_buf_free",
    "sf_buf_kva",
    "sf_buf_page",
    "sf_buf_ref",
]

SFB_DEFAULT: int = lib.SFB_DEFAULT
#: Let a signal end the sleep for a buffer.
SFB_CATCH: int = lib.SFB_CATCH
#: Promise that only the calling thread uses the mapping.
SFB_CPUPRIVATE: int = lib.SFB_CPUPRIVATE
#: Fail rather than sleep.
SFB_NOWAIT: int = lib.SFB_NOWAIT

#: The most entries that file_page_info() returns: how often one file may be open.
_AT_ONCE = 64


#: The largest number that a descriptor can have.
_FD_MAX = (1 << 31) - 1
#: The last page that a file can have.
_PINDEX_MAX = (1 << 51) - 1


@runtime_checkable
class HasFileno(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Return its descriptor."""
        ...


def _check_file(operation: str, file: object, *others: type[Any]) -> None:
    """See that a value can be a file: open, or one of other kinds."""
    if not isinstance(file, (HasFileno, *others)):
        check.integer(operation, "a file", "file", file, ~_FD_MAX, _FD_MAX)
    elif isinstance(file, str | os.PathLike):
        check.path(operation, "a file", "file", file)
    elif isinstance(file, tuple):
        if len(file) != 2:
            raise ArgumentError(operation, f"file {file}", "it is not (st_dev, st_ino)")
        for name, number in zip(("st_dev", "st_ino"), file, strict=True):
            check.integer(operation, "a file", name, number, 0, (1 << 64) - 1)


class VmObject(Collected):
    """The pages of an open file: regular, memfd or shared memory; use as a context manager.

    Args:
        file: readable; its descriptor is duplicated, and the caller keeps its own.
        arena: the arena that maps the pages; None: the current one.

    Raises:
        ArgumentError: it is not such a file.
        FileError: it is not open, or not readable.
        ResourceError: out of descriptors (RLIMIT_NOFILE) or memory.
    """

    def __init__(self, file: int | HasFileno, *, arena: Arena | None = None) -> None:
        self._object: Any = None
        _check_file("open object of", file)
        fd = file if isinstance(file, int) else file.fileno()
        machine = current(arena).handle
        out = ffi.new("struct vm_object **")
        code = lib.vm_object_open(machine.sf_map, fd, out)
        if code:
            raise error_from_errno(code, "open object of", f"file {fd}", deed=Deed.FILE)
        self._machine = machine
        self._object = out[0]
        track(self)

    @property
    def owned(self) -> bool:
        """Whether it is open."""
        return self._object is not None

    def _give_back(self) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._object is None

    @property
    def handle(self) -> Any:
        """The `vm_object_t`, for calls into nic_harness._native."""
        if self._object is None:
            raise ClosedError("use", "object", "it is closed")
        return self._object

    def close(self) -> None:
        """Drop the reference; the file closes after its last mapping. Repeating it does nothing."""
        if self._object is not None:
            lib.vm_object_close(self._object)
            self._object = None

    def fileno(self) -> int:
        """Return the object's own descriptor."""
        return int(lib.vm_object_fd(self.handle))

    @property
    def size(self) -> int:
        """Size of the file now, bytes."""
        size = int(lib.vm_object_size(self.handle))
        if size < 0:
            raise error_from_errno(size, "look at", "object", deed=Deed.FILE)
        return size

    def grab(self, pindex: int) -> FilePage:
        """Return a page, wired until it is released; nothing is read or mapped yet.

        Raises:
            ResourceError: every extent of 2 MiB is in use.
        """
        check.integer("grab", "a page of a file", "pindex", pindex, 0, _PINDEX_MAX)
        m = lib.vm_object_grab(self.handle, pindex, _site.caller())
        if m == ffi.NULL:
            raise ResourceError(
                "grab", f"page {pindex}", "every extent is in use", "unwire pages, free sf_bufs"
            )
        return FilePage(m, self._machine)


class FilePage(OwnedPage):
    """A page of a file, wired; use as a context manager: leaving it unwires the page."""

    __slots__ = ()

    def _give_back(self) -> None:
        self.release()

    def release(self) -> None:
        """Unwire the page; a second call has no effect. Its sf_bufs stay valid."""
        if self.owned:
            self.owned = False
            lib.sf_page_unwire(self._m, _site.caller())


class SfBuf(Collected):
    """One reference to the sf_buf of a page; use as a context manager: leaving it frees it.

    Attributes:
        page: the page it maps.
    """

    __slots__ = ("__weakref__", "_machine", "_process", "_sf", "page")

    def __init__(self, sf: Any, page: Page) -> None:
        self._sf: Any = sf
        self._machine = page._machine
        self.page = page

    def __repr__(self) -> str:
        state = "freed" if self._sf is None else f"at {self.kva:#x}"
        return f"<SfBuf of {self.page!r} {state}>"

    @property
    def owned(self) -> bool:
        """Whether this reference still has to be freed."""
        return self._sf is not None

    def _give_back(self) -> None:
        sf_buf_free(self)

    @property
    def handle(self) -> Any:
        """The `struct sf_buf *`, for calls into nic_harness._native."""
        return self._while_owned(self._sf)

    @property
    def kva(self) -> int:
        """Address of the mapping."""
        return int(lib.sf_buf_kva(self.handle))

    def view(self) -> memoryview:
        """Return the page's bytes where they are mapped; read-only for a page of a file.

        The view has a reference of its own, so it stays valid after sf_buf_free().
        """
        another = sf_buf_ref(self)
        file = self.page._m.state == lib.VPS_FILE
        return view(self.kva, PAGE_SIZE, lambda: None, another, readonly=file)

    def copy(self, offset: int = 0, length: int | None = None) -> bytes:
        """Copy bytes of the page; the arena's `bytes_copied` counts them.

        Raises:
            ArgumentError: the bytes reach beyond the page.
            FileError: the file shrank, and the page is gone.
        """
        offset = check.integer("copy", self, "offset", offset, 0, PAGE_SIZE)
        if length is not None:
            check.integer("copy", self, "length", length, 0, PAGE_SIZE - offset)
        length = PAGE_SIZE - offset if length is None else length
        to = ffi.new("char[]", length)
        code = lib.guard_copy(to, ffi.cast("void *", self.kva + offset), length)
        if code:
            raise FileError("read", repr(self), "the file shrank meanwhile", errno=-code)
        lib.arena_count_copy(self._machine.arena, length)
        return bytes(ffi.buffer(to))


def sf_buf_alloc(page: Page, flags: int = SFB_DEFAULT) -> SfBuf:
    """Map a page. All users of a page share one mapping, kept for a while after its last free.

    Args:
        page: a page of the arena or of a file.
        flags: SFB_*. Without SFB_NOWAIT the call sleeps while every buffer is in use. Python
            signal handlers run during the sleep; an exception from one ends it.

    Raises:
        ResourceError: SFB_NOWAIT, and every buffer is in use; or out of mappings or memory.
        SleepInterruptedError: SFB_CATCH, and a signal came.
        FileError: the page lies beyond the end of the file, or reading it failed.
        QuickBlockingError: this thread holds a quick mapping; nothing was allocated.
    """
    check.instance("map", "a page", "page", page, Page)
    check.integer("map", page, "flags", flags, 0, SFB_CATCH | SFB_CPUPRIVATE | SFB_NOWAIT)
    m = page.handle
    seen = _misuse.count()
    site = _site.caller()
    while True:
        # An uninterruptible sleep would keep Ctrl-C waiting: let signals end it, then sleep again.
        wake = 0 if flags & SFB_NOWAIT else SFB_CATCH
        sf = lib.sf_page_map(m, flags | wake, site)
        if sf != ffi.NULL:
            break
        error = _error(ffi.errno, page)
        if not isinstance(error, SleepInterruptedError) or flags & SFB_CATCH:
            raise error
    found = SfBuf(sf, page)
    misused = _misuse.since(seen, "map", repr(page))
    if misused is not None:
        sf_buf_free(found)
        raise misused
    return found


def _error(code: int, page: Page) -> HarnessError:
    error = error_from_errno(code, "map", repr(page), deed=Deed.FILE)
    if isinstance(error, FileError):
        return FileError("map", repr(page), "it lies beyond the end of its file", errno=code)
    if isinstance(error, SleepInterruptedError):
        return SleepInterruptedError("map", repr(page), "a signal came", errno=code)
    return ResourceError(
        "map", repr(page), error.problem, "free sf_bufs, or give Arena more", errno=code
    )


def sf_buf_free(sf: SfBuf) -> None:
    """Drop a reference.

    Raises:
        RefCountError: this reference was dropped already.
    """
    check.instance("free", "an sf_buf", "sf", sf, SfBuf)
    if sf._sf is None:
        raise _misuse.report(
            sf._machine, lib.MISUSE_REFCOUNT, sf.page._m, 0, "free", f"sf_buf of {sf.page!r}"
        )
    handle, sf._sf = sf._sf, None
    seen = _misuse.count()
    lib.sf_page_unmap(handle, _site.caller())
    _misuse.check(seen, "free", f"sf_buf of {sf.page!r}")


def sf_buf_ref(sf: SfBuf) -> SfBuf:
    """Take another reference, which must be freed separately."""
    check.instance("reference", "an sf_buf", "sf", sf, SfBuf)
    lib.sf_buf_ref(sf.handle)
    return SfBuf(sf.handle, sf.page)


def sf_buf_kva(sf: SfBuf) -> int:
    """Return the address of the mapping."""
    check.instance("look at", "an sf_buf", "sf", sf, SfBuf)
    return sf.kva


def sf_buf_page(sf: SfBuf) -> Page:
    """Return the page that is mapped."""
    check.instance("look at", "an sf_buf", "sf", sf, SfBuf)
    return sf.page


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file with pages bound to descriptors, by a VmObject or a transfer.

    Attributes:
        file: which file.
        extents: runs of 2 MiB of it.
        mapped: pages of it that are mapped now.
        users: references and wirings of its pages.
    """

    file: FileId
    extents: int
    mapped: int
    users: int


def mapped_files(*, arena: Arena | None = None) -> tuple[MappedFile, ...]:
    """List the files whose pages the arena knows, each once for every time it is open."""
    machine = current(arena).handle
    out = ffi.new("struct sf_extent_info[]", lib.sf_map_extents(machine.sf_map, ffi.NULL, 0))
    found: dict[tuple[int, int, int], list[Any]] = {}
    for i in range(lib.sf_map_extents(machine.sf_map, out, len(out))):
        found.setdefault((out[i].dev, out[i].ino, out[i].fd), []).append(out[i])
    return tuple(
        MappedFile(
            FileId.of(*key),
            len(extents),
            sum(e.mapped for e in extents),
            sum(e.users for e in extents),
        )
        for key, extents in found.items()
    )


def file_page_info(
    file: int | HasFileno | str | os.PathLike[str] | tuple[int, int],
    index: int,
    *,
    arena: Arena | None = None,
) -> tuple[PageInfo, ...]:
    """Report what is known about a page of a file.

    Args:
        file: an open file, its path, or (st_dev, st_ino).
        index: number of the page in it.
        arena: None: the current one.

    Returns: an entry for each time that the file is open here and the page has a descriptor. It is
    empty if nothing asked for the page or its neighbours, or other pages use their descriptors now.

    Raises:
        FileError: there is no such file.
    """
    _check_file("look at", file, str, os.PathLike, tuple)
    check.integer("look at", "a page of a file", "index", index, 0, _PINDEX_MAX)
    machine = current(arena).handle
    if isinstance(file, tuple):
        dev, ino = file
    else:
        try:
            if isinstance(file, HasFileno):
                file = file.fileno()
            st = os.fstat(file) if isinstance(file, int) else Path(file).stat()
        except OSError as e:
            raise FileError("look at", str(file), e.strerror or str(e), errno=e.errno) from e
        dev, ino = st.st_dev, st.st_ino
    out = ffi.new("struct sf_page_info[]", _AT_ONCE)
    n = lib.sf_map_find(machine.sf_map, dev, ino, index, out, len(out))
    return tuple(describe_file_page(out[i]) for i in range(n))
