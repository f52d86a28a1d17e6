"""The memory of a run: pages that the rings point at, mbufs, and mappings of files."""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base import site as _site
from nic_harness.base.live import track
from nic_harness.base.misuse import Misuse
from nic_harness.base.owner import this_process
from nic_harness.errors import ArenaBusyError, ClosedError, Deed, error_from_errno

__all__ = ["Arena", "ArenaStats"]


@dataclass(frozen=True, slots=True)
class ArenaStats:
    """What an arena's pools hold at one moment; `free` + `in_use` = total in each.

    Attributes:
        pages_total: jumbo pages in all (4096 bytes each).
        pages_free: those in the pool.
        pages_in_use: those posted on a ring, held by a frame, or with the driver.
        pages_max: how many the pool may grow to.
        pages_refused: allocations that failed because the pool was empty.
        pages_away: those that left the pool, stolen or received into, and were not given back.
        mbufs_total, mbufs_free, mbufs_in_use, mbufs_max, mbufs_refused: the same for mbufs.
        sfbufs_total: sf_bufs in all: how many pages of files can be mapped at a time.
        sfbufs_in_use: those with a reference.
        sfbufs_peak: the most that had a reference at one time.
        sfbufs_wired: file pages held in place.
        extents_mapped: runs of 2 MiB of files mapped now; they stay mapped until they are replaced.
        bytes_copied: payload bytes that user space has copied since the arena was made.
        misuses: misuses reported since then.
    """

    pages_total: int
    pages_free: int
    pages_in_use: int
    pages_max: int
    pages_refused: int
    pages_away: int
    mbufs_total: int
    mbufs_free: int
    mbufs_in_use: int
    mbufs_max: int
    mbufs_refused: int
    sfbufs_total: int
    sfbufs_in_use: int
    sfbufs_peak: int
    sfbufs_wired: int
    extents_mapped: int
    bytes_copied: int
    misuses: int

    def outstanding(self) -> str:
        """Name what is in use, "2 pages, 1 mbuf"; empty when nothing is."""
        counts = (
            (self.pages_in_use, "page"),
            (self.pages_away, "stolen page"),
            (self.mbufs_in_use, "mbuf"),
            (self.sfbufs_in_use, "mapped file page"),
            (self.sfbufs_wired, "wired file page"),
        )
        return ", ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts if n)


@dataclass(frozen=True, slots=True)
class Watcher:
    """Answers questions from other processes about the arenas that asked for it.

    Attributes:
        wanted: says whether the environment asks for it for every arena.
        enter: starts to answer for the arena with this number, and returns whether it does. The
            second argument says whether the user asked for it by name; if so, a failure raises.
        leave: stops answering for that arena.
    """

    wanted: Callable[[], bool]
    enter: Callable[[int, bool], bool]
    leave: Callable[[int], None]


#: The room above (look/) registers itself here, so that this one need not know it.
watcher: Watcher | None = None

#: The arenas that are open, by the address of their machine.
_arenas: WeakValueDictionary[int, Arena] = WeakValueDictionary()


def open_arenas() -> list[Arena]:
    """List the arenas that are open, the oldest first."""
    ours = (a for a in list(_arenas.values()) if not a.closed and a._owner.here)
    return sorted(ours, key=lambda a: a.id)


def current(arena: Arena | None = None) -> Arena:
    """Return `arena`, or, for None, the current one: the oldest that is open.

    Raises:
        ClosedError: no arena is open, or the one given is closed.
        ForkedError: the one given belongs to the process that forked this one.
    """
    check.instance("use", "arena", "arena", arena, Arena, NoneType)
    if arena is None:
        arena = _arenas.get(int(ffi.cast("uintptr_t", lib.machine_current())))
        if arena is None:
            raise ClosedError("use", "the current arena", "no arena is open", "make an Arena()")
    elif arena.closed:
        raise ClosedError("use", "arena", "it is closed")
    return arena


class Arena:
    """The memory that a NIC's rings may point at; use as a context manager.

    Args:
        pages: jumbo pages (4096 bytes each) to start with; they are resident from then on.
        max_pages: how many the pool may grow to; None: `pages`.
        max_mbufs: the most mbufs there may be; None: four for each jumbo page, at least 16384.
        sfbufs: pages of files that can be mapped at a time; None: 32768 (128 MiB).
        strict: make no direct map, and unmap what is freed, so that a stale pointer faults.
        control: answer `harness inspect` while the arena is open; None: only if
            NIC_HARNESS_CONTROL=1 is in the environment. See nic_harness.control.

    Raises:
        ControlError: control=True, and there is no place for the control socket.
        ArgumentError: a size is out of range.
        ResourceError: the machine does not have that much memory or address space.
    """

    def __init__(
        self,
        pages: int = 4096,
        *,
        max_pages: int | None = None,
        max_mbufs: int | None = None,
        sfbufs: int | None = None,
        strict: bool = False,
        control: bool | None = None,
    ) -> None:
        self._machine: Any = None
        check.flag("make", "arena", "strict", strict)
        if control is not None:
            check.flag("make", "arena", "control", control)
        for what, value in (
            ("pages", pages),
            ("max_pages", max_pages),
            ("max_mbufs", max_mbufs),
            ("sfbufs", sfbufs),
        ):
            if what == "pages" or value is not None:
                check.integer("make", "arena", what, value, 1, (1 << 32) - 1)
        config = ffi.new(
            "struct machine_config *",
            {
                "pages": pages,
                "max_pages": max_pages or 0,
                "max_mbufs": max_mbufs or 0,
                "nsfbufs": sfbufs or 0,
                "strict": strict,
            },
        )
        self._owner = this_process()
        out = ffi.new("struct machine **")
        code = lib.machine_create(config, out)
        if code:
            raise error_from_errno(code, "make", "arena", deed=Deed.MEMORY)
        # Destroyed by close(), or when its last frame is gone, whichever is later.
        self._machine = ffi.gc(out[0], _destroy)
        # Frees a chain of this arena, in C, and keeps the arena alive until then.
        free_chain = functools.partial(lib.m_freem)
        free_chain.__dict__["keeps"] = self._machine
        self._free_chain: Callable[[Any], None] = free_chain
        if lib.machine_current() == ffi.NULL:
            lib.machine_set_current(self._machine)
        _arenas[int(ffi.cast("uintptr_t", out[0]))] = self
        self._control = False
        if watcher is not None and (watcher.wanted() if control is None else control):
            self._control = watcher.enter(self.id, control is not None)
            # Even if the arena is never closed, the socket goes with the last one, or the process.
            self._leave_control = weakref.finalize(self, watcher.leave, self.id)
        track(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except ArenaBusyError:
            # The exception already under way says more than that its frames are in use.
            if value is None:
                raise

    def __repr__(self) -> str:
        if self.closed:
            return "<Arena closed>"
        if not self._owner.here:
            return f"<Arena of process {self._owner.pid}>"
        s = self.stats()
        return f"<Arena pages={s.pages_in_use}/{s.pages_total} in use>"

    @property
    def closed(self) -> bool:
        """Whether close() succeeded."""
        return self._machine is None

    @property
    def id(self) -> int:
        """A number that no other arena of this process has or had."""
        return int(self.handle.arena.id)

    @property
    def handle(self) -> Any:
        """The `struct machine *`, for calls into nic_harness._native."""
        if self._machine is None:
            raise ClosedError("use", "arena", "it is closed")
        self._owner.check("use", "arena")
        return self._machine

    def close(self) -> None:
        """Give the memory back; a second call has no effect. After a fork the parent keeps it.

        Raises:
            ArenaBusyError: a page, mapping or mbuf is in use; nothing is changed.
        """
        if self._machine is None:
            return
        if self._owner.here and lib.machine_idle(self._machine):
            raise ArenaBusyError(
                "close",
                "arena",
                f"{self.stats().outstanding() or 'something'} in use{_where(self._machine)}",
                "close its NICs, release() its frames and drop slices of their views",
            )
        self._let_go()

    def _let_go(self) -> None:
        """Leave the rest to the frames still in use; the arena is destroyed with the last one."""
        if self._machine is not None:
            del _arenas[int(ffi.cast("uintptr_t", self._machine))]
            if self._owner.here:
                _resign(self._machine)
                if self._control:
                    self._leave_control()
            del self._free_chain
            self._machine = None

    def stats(self) -> ArenaStats:
        """Count what the pools hold now; exact while no other thread uses the arena."""
        machine = self.handle
        j = ffi.new("struct jumbo_stats *")
        m = ffi.new("struct mbuf_stats *")
        s = ffi.new("struct sf_map_stats *")
        lib.jumbo_get_stats(machine.jumbo, j)
        lib.mbuf_zone_get_stats(machine.mbufs, m)
        lib.sf_map_get_stats(machine.sf_map, s)
        return ArenaStats(
            pages_total=j.total,
            pages_free=j.free,
            pages_in_use=j.in_use,
            pages_max=j.max_pages,
            pages_refused=j.refused,
            pages_away=j.away,
            mbufs_total=m.total,
            mbufs_free=m.free,
            mbufs_in_use=m.in_use,
            mbufs_max=m.limit,
            mbufs_refused=m.refused,
            sfbufs_total=s.nsfbufs,
            sfbufs_in_use=s.nsfbufsused,
            sfbufs_peak=s.nsfbufspeak,
            sfbufs_wired=s.wired,
            extents_mapped=s.extents_mapped,
            bytes_copied=lib.arena_bytes_copied(machine.arena),
            misuses=machine.arena.misuse_total,
        )

    @property
    def bytes_copied(self) -> int:
        """Payload bytes that user space copied since the arena was made."""
        return int(lib.arena_bytes_copied(self.handle.arena))

    def last_misuse(self) -> Misuse | None:
        """Return the newest report of a double free, a foreign address and the like."""
        m = ffi.new("struct harness_misuse *")
        if not lib.arena_misuse_last(self.handle.arena, 0, m):
            return None
        return Misuse._of(m)


#: States of a page that the user of the library has to give back.
_OUT = (lib.VPS_ALLOC, lib.VPS_MBUF, lib.VPS_HELD, lib.VPS_STOLEN)
_SITES = 5  # the most that a message names
_EXTENT_PAGES = lib.SF_EXTENT_PAGES


def _where(machine: Any) -> str:
    """Say where the pages in use were taken, the most frequent places first."""
    arena = machine.arena
    pages = (arena.pages[i] for i in range(arena.npages))
    sites = Counter(m.alloc_site for m in pages if m.state in _OUT)
    extents = ffi.new("struct sf_extent_info[]", lib.sf_map_extents(machine.sf_map, ffi.NULL, 0))
    found = ffi.new("struct sf_page_info *")
    for i in range(lib.sf_map_extents(machine.sf_map, extents, len(extents))):
        e = extents[i]
        for index in range(e.first, e.first + _EXTENT_PAGES if e.users else e.first):
            if lib.sf_map_find(machine.sf_map, e.dev, e.ino, index, found, 1):
                m = found.page
                if m.wire_count or m.ref_count:
                    sites[m.alloc_site] += 1
    named = [f"{_site.name(site)} ({n} page{'s' * (n != 1)})" for site, n in sites.most_common()]
    more = [f"{len(named) - _SITES} other places"] if len(named) > _SITES else []
    return f"; taken at {', '.join(named[:_SITES] + more)}" if named else ""


def _resign(machine: Any) -> None:
    """Make sure that a machine is not current: the oldest other open arena takes its place."""
    if lib.machine_current() == machine:
        others = [a for a in open_arenas() if a._machine != machine]
        lib.machine_set_current(others[0]._machine if others else ffi.NULL)


def _destroy(machine: Any) -> None:
    _resign(machine)
    # It is busy only when something outside Python holds a page; then it must stay.
    lib.machine_destroy(machine)
