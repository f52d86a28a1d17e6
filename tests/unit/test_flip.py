"""Page-flip receive from Python: which pages are flipped, copied (and why) or refused."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from nic_harness import Arena
from nic_harness.errors import (
    ArenaBusyError,
    ArgumentError,
    BusyError,
    ClosedError,
    ResourceError,
)
from nic_harness.flip import FlipStats, UserArea, recv_flip
from nic_harness.jumbo import jumbo_pg_alloc
from nic_harness.mbuf import (
    Mbuf,
    m_adj,
    m_cat,
    m_copypacket,
    m_extadd,
    m_freem,
    m_gethdr,
    m_length,
    mtod,
)
from nic_harness.vm_page import PAGE_SIZE, Page, vm_page_hold, vm_page_unhold

NOTHING = FlipStats(0, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture(params=[False, True], ids=["direct", "strict"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    with Arena(32, strict=request.param) as arena:
        yield arena
        s = arena.stats()
        assert (s.pages_in_use, s.pages_away, s.mbufs_in_use) == (0, 0, 0)


def packet(data: bytes) -> Mbuf:
    """Return one page of the pool as a packet, with the data at its start."""
    m = m_gethdr()
    m_extadd(m, jumbo_pg_alloc())
    m.m_len = m.pkthdr_len = len(data)
    mtod(m)[:] = data
    return m


def inside(data: bytes) -> Mbuf:
    m = m_gethdr()
    m.m_len = m.pkthdr_len = len(data)
    mtod(m)[:] = data
    return m


def chain_of(data: bytes) -> Mbuf:
    m = packet(data[:PAGE_SIZE])
    for at in range(PAGE_SIZE, len(data), PAGE_SIZE):
        m_cat(m, packet(data[at : at + PAGE_SIZE]))
    m.pkthdr_len = len(data)
    return m


def test_whole_pages_are_flipped_and_the_rest_is_copied(arena: Arena) -> None:
    data = os.urandom(3 * PAGE_SIZE + 100)
    with UserArea(8) as area:
        assert (len(area), area.stats()) == (8 * PAGE_SIZE, NOTHING)
        m = chain_of(data)
        assert recv_flip(m, area) == len(data)
        assert not m.owned  # all of it was received
        assert area.view(0, len(data)) == data
        s = area.stats()
        assert (s.pages_flipped, s.bytes_flipped) == (3, 3 * PAGE_SIZE)
        assert (s.bytes_copied, s.unaligned) == (100, 1)
        assert arena.bytes_copied == 100
        # The user has the three pages that were flipped in and the one that was copied to.
        assert (arena.stats().pages_in_use, arena.stats().pages_away) == (0, 4)
        with pytest.raises(ArenaBusyError, match="4 stolen pages"):
            arena.close()
        # Other pages take their place, and these go back.
        for _ in range(20):
            assert recv_flip(chain_of(data), area) == len(data)
        assert arena.stats().pages_away == 4
        assert area.stats().pages_flipped == 63


def test_what_is_received_in_part_stays_a_chain(arena: Arena) -> None:
    data = os.urandom(2 * PAGE_SIZE)
    with UserArea(4) as area:
        m = chain_of(data)
        assert recv_flip(m, area, 0, PAGE_SIZE + 10) == PAGE_SIZE + 10
        assert m_length(m) == PAGE_SIZE - 10
        assert bytes(m) == data[PAGE_SIZE + 10 :]
        assert recv_flip(m, area, PAGE_SIZE + 10) == PAGE_SIZE - 10
        assert area.view(0, len(data)) == data
        assert recv_flip(m_gethdr(), area) == 0  # empty
        assert area.stats().pages_flipped == 1
        assert area.stats().bytes_copied == PAGE_SIZE
    assert arena.bytes_copied == PAGE_SIZE + PAGE_SIZE - 10  # bytes() made a copy too


def test_why_it_is_copied(arena: Arena) -> None:
    data = os.urandom(PAGE_SIZE)
    with UserArea(8) as area:
        m = packet(data)
        copy = m_copypacket(m)
        assert recv_flip(m, area) == PAGE_SIZE
        m_freem(copy)
        assert area.stats().shared == 1
        m = packet(data)
        assert recv_flip(m, area, PAGE_SIZE, peek=True) == PAGE_SIZE
        assert bytes(m) == data
        assert area.stats().peeked == 1
        assert recv_flip(m, area, PAGE_SIZE + 1) == PAGE_SIZE
        assert area.stats().unaligned == 1
        m = m_gethdr()
        m_extadd(m, bytearray(data))
        m.m_len = m.pkthdr_len = PAGE_SIZE
        assert recv_flip(m, area, 3 * PAGE_SIZE) == PAGE_SIZE
        assert area.stats().not_jumbo == 1
        assert area.view(3 * PAGE_SIZE, PAGE_SIZE) == data
        page = jumbo_pg_alloc()
        held = Page(page.handle, arena.handle)  # by a caller that never owned it
        m = m_gethdr()
        m_extadd(m, page)
        m.m_len = m.pkthdr_len = PAGE_SIZE
        vm_page_hold(held)
        assert recv_flip(m, area, 4 * PAGE_SIZE) == PAGE_SIZE
        vm_page_unhold(held)
        assert area.stats().shared == 2
        assert area.stats().pages_flipped == 0
        assert area.stats().bytes_copied == 5 * PAGE_SIZE
        assert arena.bytes_copied == 6 * PAGE_SIZE  # bytes() made a copy too


def test_boundaries_can_be_made_to_meet(arena: Arena) -> None:
    # A header in front shifts the first page's data; the area's pages are shifted alike.
    data = os.urandom(3 * PAGE_SIZE)
    with UserArea(4) as area:
        m = chain_of(data)
        m_adj(m, 66)
        at = area.offset_for(m)
        assert at == 66
        assert recv_flip(m, area, at) == len(data) - 66
        assert area.view(at, len(data) - 66) == data[66:]
        assert area.stats().pages_flipped == 2
        assert arena.bytes_copied == PAGE_SIZE - 66


def test_what_must_not_be(arena: Arena) -> None:
    area = UserArea(2)
    with pytest.raises(ArgumentError):
        UserArea(0)
    m = packet(b"x" * PAGE_SIZE)
    for offset, length in ((-1, 1), (0, 2 * PAGE_SIZE + 1), (2 * PAGE_SIZE + 1, 0), (1, -1)):
        with pytest.raises(ArgumentError):
            recv_flip(m, area, offset, length)
    view = mtod(m)
    with pytest.raises(BusyError):
        recv_flip(m, area)
    assert view[:1] == b"x"  # nothing was done
    del view
    with pytest.raises(ArgumentError, match="page 0 yet"):
        area.view(0, 1)
    assert recv_flip(m, area) == PAGE_SIZE
    with pytest.raises(ArgumentError, match="page 1 yet"):
        area.view(0, PAGE_SIZE + 1)
    with pytest.raises(ClosedError):
        recv_flip(m, area)
    kept = area.view(0, PAGE_SIZE)[100:200]
    with pytest.raises(BusyError):
        area.close()
    # The older views show what is received there later.
    assert recv_flip(packet(b"y" * PAGE_SIZE), area) == PAGE_SIZE
    assert kept == b"y" * 100
    kept[0] = 7
    assert area.view(100, 1)[0] == 7
    del kept
    area.close()
    area.close()
    with pytest.raises(ClosedError):
        len(area)
    assert arena.stats().pages_away == 0


def test_no_page_to_copy_into() -> None:
    with Arena(4, max_mbufs=64) as arena, UserArea(1 << 16) as area:
        pages = 0
        data = b"z" * 10
        m = inside(data)
        try:
            while pages < 1 << 16:
                recv_flip(m, area, pages * PAGE_SIZE)
                pages += 1
                m = inside(data)
        except ResourceError:
            assert bytes(m) == data  # nothing was received
        m_freem(m)
        assert pages == arena.stats().pages_away > 100
        assert area.view((pages - 1) * PAGE_SIZE, 11) == data + b"\0"
