"""pbuf(9): physical I/O buffers, under the kernel's names.

from nic_harness.bsd.pbuf import Pfreecnt, getpbuf, nswbuf

mine = Pfreecnt(nswbuf() // 2)
with getpbuf(mine) as bp:
    n = os.preadv(fd, [bp.view()], 0)
"""

from __future__ import annotations

from types import NoneType
from typing import Any

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base import misuse as _misuse
from nic_harness.base import site as _site
from nic_harness.base.owned import Collected
from nic_harness.bsd.vm_page import Views
from nic_harness.errors import BusyError, Deed, error_from_errno
from nic_harness.memory.arena import Arena, current

__all__ = ["MAXPHYS", "Buf", "Pfreecnt", "getpbuf", "nswbuf", "relpbuf", "trypbuf"]

#: Bytes of a buffer's window.
MAXPHYS: int = lib.MAXPHYS


class Pfreecnt:
    """How many buffers a subsystem may still take: the counter behind `int *pfreecnt`.

    Args:
        limit: at least 0, or -1 for no limit but the pool's. nswbuf() // 2 is recommended.
    """

    __slots__ = ("_count",)

    def __init__(self, limit: int) -> None:
        limit = check.integer("make", "counter", "limit", limit, -1, (1 << 31) - 1)
        self._count = ffi.new("int *", limit)

    def __int__(self) -> int:
        return int(self._count[0])

    def __repr__(self) -> str:
        return f"Pfreecnt({int(self)})"


class Buf(Collected):
    """A buffer that is yours; use as a context manager: leaving it releases the buffer.

    Attributes:
        pfreecnt: the counter that it was taken with.
    """

    __slots__ = ("__weakref__", "_bp", "_machine", "_process", "_views", "pfreecnt")

    def __init__(self, bp: Any, pfreecnt: Pfreecnt | None, machine: Any) -> None:
        self._bp: Any = bp
        self._machine = machine
        self._views = Views()
        self.pfreecnt = pfreecnt

    def __repr__(self) -> str:
        return f"<Buf {'released' if self._bp is None else hex(self.kva)}>"

    @property
    def owned(self) -> bool:
        """Whether it still has to be released."""
        return self._bp is not None

    def _give_back(self) -> None:
        relpbuf(self)

    @property
    def handle(self) -> Any:
        """The `struct buf *`, whose fields may be set, for calls into nic_harness._native."""
        return self._while_owned(self._bp)

    @property
    def kva(self) -> int:
        """Address of its window; a buffer keeps the same one for life."""
        return int(ffi.cast("uintptr_t", self.handle.b_kvabase))

    def view(self) -> memoryview:
        """Return the window, MAXPHYS bytes, writable; drop it before the buffer is released."""
        return self._views.make(self.kva, MAXPHYS, self)


def _check_counter(pfreecnt: object) -> None:
    check.instance("get", "a pbuf", "pfreecnt", pfreecnt, Pfreecnt, NoneType)


def getpbuf(pfreecnt: Pfreecnt | None = None, *, arena: Arena | None = None) -> Buf:
    """Take the buffer released last; sleep while the counter is 0 or the pool is empty.

    The sleep is uninterruptible, as in the manual page: only a release by another thread ends it,
    not even Ctrl-C does. trypbuf() does not sleep.

    Raises:
        QuickBlockingError: this thread holds a quick mapping; nothing was taken.
    """
    _check_counter(pfreecnt)
    machine = current(arena).handle
    seen = _misuse.count()
    count = pfreecnt._count if pfreecnt else ffi.NULL
    found = Buf(lib.pbuf_get(machine.pbufs, count, _site.caller()), pfreecnt, machine)
    misused = _misuse.since(seen, "get", "pbuf")
    if misused is not None:
        relpbuf(found)
        raise misused
    return found


def trypbuf(pfreecnt: Pfreecnt | None = None, *, arena: Arena | None = None) -> Buf | None:
    """Take a buffer; return None and change nothing if the counter is 0 or the pool is empty."""
    _check_counter(pfreecnt)
    machine = current(arena).handle
    bp = lib.pbuf_try(machine.pbufs, pfreecnt._count if pfreecnt else ffi.NULL, _site.caller())
    return None if bp == ffi.NULL else Buf(bp, pfreecnt, machine)


def relpbuf(bp: Buf) -> None:
    """Give a buffer back, update the counter it was taken with, and wake waiting threads.

    Raises:
        BusyError: a view of its window is in use.
        DoubleFreeError: it was given back already.
    """
    check.instance("release", "a pbuf", "bp", bp, Buf)
    if bp._bp is None:
        raise _misuse.report(bp._machine, lib.MISUSE_DOUBLE_FREE, ffi.NULL, 0, "release", repr(bp))
    if bp._views:
        raise BusyError(
            "release", repr(bp), f"{len(bp._views)} views of it are in use", "drop them"
        )
    handle, bp._bp = bp._bp, None
    count = bp.pfreecnt._count if bp.pfreecnt else ffi.NULL
    code = lib.pbuf_rel(bp._machine.pbufs, handle, count, _site.caller())
    if code:
        raise error_from_errno(code, "release", "pbuf", deed=Deed.MEMORY)


def nswbuf(*, arena: Arena | None = None) -> int:
    """Count the buffers in the pool: 16 to 256, depending on memory."""
    out = ffi.new("struct pbuf_stats *")
    lib.pbuf_get_stats(current(arena).handle.pbufs, out)
    return int(out.total)
