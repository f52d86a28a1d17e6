"""What an arena's allocators hold and have done, under the kernel's names."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from nic_harness._native import ffi, lib
from nic_harness.base.misuse import Misuse
from nic_harness.memory.arena import Arena, current

__all__ = [
    "JumboStats",
    "LwbufStats",
    "MbufStats",
    "PbufStats",
    "SfBufStats",
    "SfStat",
    "Stats",
    "stats",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JumboStats:
    """The jumbo pool, in pages; `free` + `in_use` = `total`.

    Attributes:
        total: pages bound to a piece of pool KVA.
        max_pages: the most there may be.
        refused: allocations that failed.
        stolen: pages that have left for good so far, by a steal or a page flip.
        away: pages outside the pool that users have not given back: stolen, or received into.
        held: pages that were freed while held, and still are held; they count as `in_use`.
        grown: chunks added.
    """

    total: int
    free: int
    in_use: int
    max_pages: int
    refused: int
    stolen: int
    away: int
    held: int
    grown: int


@dataclass(frozen=True, slots=True)
class SfBufStats:
    """sf_buf(9): nsfbufs, and the mappings behind them.

    Attributes:
        nsfbufs: buffers in all.
        nsfbufsused: buffers with a reference.
        nsfbufspeak: the most that had a reference at one time.
        wired: file pages wired.
        extents_mapped: runs of 2 MiB of files that are mapped now.
        hits: buffers and runs served by a mapping that existed already.
        maps, populates: system calls made for the others.
    """

    nsfbufs: int
    nsfbufsused: int
    nsfbufspeak: int
    wired: int
    extents_mapped: int
    hits: int
    maps: int
    populates: int


@dataclass(frozen=True, slots=True)
class SfStat:
    """struct sfstat of sendfile(2), counted since the arena was made."""

    sf_syscalls: int
    sf_noiocnt: int
    sf_iocnt: int
    sf_pages_read: int
    sf_pages_valid: int
    sf_rhpages_requested: int
    sf_rhpages_read: int
    sf_busy: int
    sf_allocfail: int
    sf_allocwait: int
    sf_pages_bogus: int


@dataclass(frozen=True, slots=True)
class LwbufStats:
    """lwbuf(9) without a direct map; all 0 with one.

    Attributes:
        count: handles in use.
        kva_bytes: KVA in all pools, bytes.
        reserve: handles free in the pools.
    """

    count: int
    kva_bytes: int
    reserve: int


@dataclass(frozen=True, slots=True)
class MbufStats:
    """The mbuf zone: `free` + `in_use` = `total`; `limit` is the most there may be."""

    total: int
    free: int
    in_use: int
    limit: int
    refused: int


@dataclass(frozen=True, slots=True)
class PbufStats:
    """pbuf(9); `free` + `outstanding` = `total`, which is nswbuf.

    Attributes:
        backed: windows that have memory: the most that were ever in use at one time.
        counter_waits, pool_waits: sleeps because the caller's counter was 0, or the pool empty.
        refused: trypbuf() calls that returned None.
    """

    total: int
    free: int
    outstanding: int
    backed: int
    counter_waits: int
    pool_waits: int
    refused: int


@dataclass(frozen=True, slots=True)
class Stats:
    """An arena at one moment.

    Attributes:
        arena: its number in this process.
        strict: whether it has no direct map.
        pages: physical pages that exist (4096 bytes each).
        kmem_pages: those that the harness itself uses: rings, mbufs, windows.
        unmaps_refused: times that the kernel refused to remove a mapping (vm.max_map_count).
        stale_bytes: address space that should fault, and for that reason does not yet.
        bytes_copied: payload bytes that user space has copied since the arena was made.
        misuses: reports, by kind.
        reports: the last sixteen, the newest first.
    """

    arena: int
    strict: bool
    pages: int
    kmem_pages: int
    unmaps_refused: int
    stale_bytes: int
    bytes_copied: int
    jumbo: JumboStats
    sf_buf: SfBufStats
    sfstat: SfStat
    lwbuf: LwbufStats
    mbuf: MbufStats
    pbuf: PbufStats
    misuses: dict[str, int]
    reports: tuple[Misuse, ...]


def _read(cls: type[T], struct: Any) -> T:
    """Make a dataclass of a C struct that has members of the same names."""
    return cls(**{f.name: int(getattr(struct, f.name)) for f in fields(cls)})  # type: ignore[arg-type]


def stats(arena: Arena | None = None) -> Stats:
    """Report what an arena's allocators hold and have done; parts are exact, read one by one.

    Args:
        arena: None: the current one, which is the oldest that is open.

    Raises:
        ClosedError: no arena is open, or the one given is closed.
    """
    machine = current(arena).handle
    jumbo = ffi.new("struct jumbo_stats *")
    sf_map = ffi.new("struct sf_map_stats *")
    lwbuf = ffi.new("struct lwbuf_stats *")
    mbuf = ffi.new("struct mbuf_stats *")
    lib.jumbo_get_stats(machine.jumbo, jumbo)
    lib.sf_map_get_stats(machine.sf_map, sf_map)
    lib.lwbuf_get_stats(machine.lwbufs, lwbuf)
    lib.mbuf_zone_get_stats(machine.mbufs, mbuf)
    pbuf = ffi.new("struct pbuf_stats *")
    lib.pbuf_get_stats(machine.pbufs, pbuf)
    recent = ffi.new("struct harness_misuse[]", lib.MISUSE_RING)
    n = lib.arena_misuse_recent(machine.arena, recent, len(recent))
    kinds = range(1, lib.MISUSE_COUNT)
    return Stats(
        arena=machine.arena.id,
        strict=not machine.arena.direct,
        pages=machine.arena.npages,
        kmem_pages=machine.arena.kmem_pages,
        unmaps_refused=lib.arena_unmaps_refused(machine.arena),
        stale_bytes=lib.arena_stale_bytes(machine.arena),
        bytes_copied=lib.arena_bytes_copied(machine.arena),
        jumbo=_read(JumboStats, jumbo),
        sf_buf=_read(SfBufStats, sf_map),
        sfstat=_read(SfStat, sf_map),
        lwbuf=_read(LwbufStats, lwbuf),
        mbuf=_read(MbufStats, mbuf),
        pbuf=_read(PbufStats, pbuf),
        misuses={
            ffi.string(lib.harness_misuse_name(kind)).decode(): count
            for kind in kinds
            if (count := lib.arena_misuses(machine.arena, kind))
        },
        reports=tuple(Misuse._of(recent[i]) for i in range(n)),
    )
