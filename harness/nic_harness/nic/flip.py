"""Page-flip receive, zero_copy(9): whole pages of a chain become the user's by remapping.

    from nic_harness.nic.flip import UserArea, recv_flip

    with UserArea(16) as area:
        frame = nic.recv()[0]
        at = area.offset_for(frame)
        n = recv_flip(frame, area, at)
        print(area.view(at, n)[:14].hex(), area.stats())

A page is flipped if the data fill it, go to the start of a page of the area, and have no other
reference. All other bytes are copied, and the arena's `bytes_copied` counts them.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, fields
from typing import Any

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base.live import track
from nic_harness.base.owned import Collected
from nic_harness.bsd.mbuf import Mbuf
from nic_harness.bsd.vm_page import PAGE_SIZE, Views
from nic_harness.errors import ArgumentError, BusyError, Deed, error_from_errno
from nic_harness.memory.arena import Arena, current
from nic_harness.nic.frame import Chain

__all__ = ["FlipStats", "UserArea", "recv_flip"]


@dataclass(frozen=True, slots=True)
class FlipStats:
    """How data came into an area.

    The attributes after `bytes_copied` count the copied pieces of chains, by reason.

    Attributes:
        pages_flipped, bytes_flipped: received by remapping.
        bytes_copied: all others.
        unaligned: length, offset in the area or offset in the page is no multiple of a page.
        shared: the storage has other references, or the page is held.
        not_jumbo: the storage is no page of the jumbo pool.
        peeked: the data stay in the chain.
        no_mapping: the kernel refused the mapping (vm.max_map_count).
    """

    pages_flipped: int
    bytes_flipped: int
    bytes_copied: int
    unaligned: int
    shared: int
    not_jumbo: int
    peeked: int
    no_mapping: int


class UserArea(Collected):
    """Page-aligned memory to receive into; use as a context manager.

    It is only address space until something is received there. Pages that are flipped in belong to
    the area, and go back to the arena when others take their place or the area is closed.

    Args:
        pages: its size (4096 bytes each).
        arena: the arena whose pages it will receive; None: the current one.

    Raises:
        ArgumentError: the number of pages is out of range.
        ResourceError: out of address space.
    """

    def __init__(self, pages: int, *, arena: Arena | None = None) -> None:
        self._area: Any = None
        pages = check.integer("make", "area", "pages", pages, 1, (1 << 35) - 1)
        self._machine = current(arena).handle
        out = ffi.new("struct user_area **")
        code = lib.user_area_create(self._machine.arena, pages, out)
        if code:
            raise error_from_errno(code, "make", "area", deed=Deed.MEMORY)
        self._area = out[0]
        self._lock = threading.Lock()
        self._views = Views()
        track(self)

    def __len__(self) -> int:
        """Size in bytes."""
        return int(self.handle.npages) * PAGE_SIZE

    def __repr__(self) -> str:
        return "<UserArea, closed>" if self.closed else f"<UserArea of {len(self)} bytes>"

    @property
    def owned(self) -> bool:
        """Whether it is open."""
        return self._area is not None

    @property
    def closed(self) -> bool:
        """Whether close() succeeded."""
        return self._area is None

    @property
    def handle(self) -> Any:
        """The `struct user_area *`, for calls into nic_harness._native."""
        return self._while_owned(self._area)

    def close(self) -> None:
        """Give its pages and its address space back; a second call has no effect.

        Raises:
            BusyError: a view of it is in use.
        """
        if not self._process.here:
            self._area = None
            return
        with self._lock:
            if self._area is None:
                return
            if self._views:
                raise BusyError(
                    "close", repr(self), f"{len(self._views)} views of it are in use", "drop them"
                )
            area, self._area = self._area, None
            lib.user_area_destroy(area)

    def _give_back(self) -> None:
        self.close()

    def _forked(self) -> None:
        self._lock = threading.Lock()

    def view(self, offset: int = 0, length: int | None = None) -> memoryview:
        """Return bytes in place, writable. The view also shows what is received there later.

        Args:
            offset: first byte.
            length: bytes; None: to the end.

        Raises:
            ArgumentError: the bytes reach beyond the area, or a page has not been received into.
        """
        check.integer("look at", self, "offset", offset, 0, len(self))
        length = len(self) - offset if length is None else length
        self._check("look at", offset, length)
        with self._lock:
            area = self.handle
            for page in range(offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE)):
                if area.page[page] == ffi.NULL:
                    raise ArgumentError(
                        "look at", repr(self), f"nothing was received into its page {page} yet"
                    )
            address = int(ffi.cast("uintptr_t", area.base)) + offset
            return self._views.make(address, length, self)

    def _check(self, operation: str, offset: int, length: int) -> None:
        check.integer(operation, self, "offset", offset, 0, len(self))
        check.integer(operation, self, "length", length, 0, len(self) - offset)

    def offset_for(self, source: Mbuf | Chain) -> int:
        """Return the offset at which a chain's page boundaries fall on those of the area.

        It follows from what precedes the first byte in external storage, in its page and in the
        chain: a header that was split off is received at the end of the page before.
        """
        check.instance("look at", "a chain", "source", source, Mbuf, Chain)
        m = source.handle if isinstance(source, Mbuf) else source._chain("look at")
        info = ffi.new("struct mb_info *")
        before = 0
        while m != ffi.NULL:
            lib.mb_describe(m, info)
            if info.flags & lib.M_EXT and info.len:
                return (int(ffi.cast("uintptr_t", info.data)) - before) % PAGE_SIZE
            before += info.len
            m = info.next
        return 0

    def stats(self) -> FlipStats:
        """Count what was flipped, what was copied, and why."""
        with self._lock:
            s = self.handle.stats
            return FlipStats(**{f.name: int(getattr(s, f.name)) for f in fields(FlipStats)})


def recv_flip(
    source: Mbuf | Chain,
    area: UserArea,
    offset: int = 0,
    length: int | None = None,
    *,
    peek: bool = False,
) -> int:
    """Move data from the front of a chain into an area, by flipping pages where possible.

    Args:
        source: a chain of mbufs, a frame, or what Connection.recv_chain() returned. Received data
            leave it; it is used up when all of them are received.
        area: the area to receive into.
        offset: first byte there.
        length: bytes at most; None: as many as fit.
        peek: copy the data, so that they also stay in the chain.

    Returns: bytes received.

    Raises:
        ArgumentError: the bytes would reach beyond the area.
        BusyError: a view of the chain is in use, and its pages are about to change hands. Nothing
            was received.
        ResourceError: there is no page to copy into. Nothing was received.
        FrameReleasedError, ClosedError: the chain was given back.
    """
    check.instance("receive from", "a chain", "source", source, Mbuf, Chain)
    check.instance("receive into", "an area", "area", area, UserArea)
    check.integer("receive into", area, "offset", offset, 0, len(area))
    check.flag("receive into", area, "peek", peek)
    length = len(area) - offset if length is None else length
    area._check("receive into", offset, length)
    handle = area.handle
    if peek:
        m = source.handle if isinstance(source, Mbuf) else source._chain("peek at")
        chain = ffi.new("struct mbuf **", m)
        with area._lock:
            got = int(lib.recv_flip(chain, handle, offset, length, socket.MSG_PEEK))
    else:
        with area._lock, source._lent("receive from") as chain:
            got = int(lib.recv_flip(chain, handle, offset, length, 0))
    if got < 0:
        raise error_from_errno(got, "receive into", repr(area), deed=Deed.MEMORY)
    return got
