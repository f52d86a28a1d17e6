"""jumbo(9) against a stack: conservation, LIFO, steals, holds, misuse without corruption."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from model_support import Worker, peek, poke, run
from nic_harness import Arena
from nic_harness.errors import (
    DoubleFreeError,
    ForeignAddressError,
    FreeAfterStealError,
    ResourceError,
)
from nic_harness.jumbo import (
    JumboPage,
    StolenPage,
    jumbo_pg_alloc,
    jumbo_pg_free,
    jumbo_pg_steal,
    jumbo_phys_to_kva,
    vm_page_free,
)
from nic_harness.sf_buf import sf_buf_alloc
from nic_harness.vm_page import PAGE_SIZE, vm_page_hold, vm_page_to_phys, vm_page_unhold

INITIAL, LIMIT = 8, 20


class Jumbo(RuleBasedStateMachine):
    strict = False

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(INITIAL, max_pages=LIMIT, strict=self.strict)
        self.worker = Worker()
        self.mine: dict[int, tuple[JumboPage, bytes]] = {}  # by page number: handle, first bytes
        self.stolen: dict[int, tuple[StolenPage, bytes]] = {}
        self.held: dict[int, int] = {}  # holds on a page, by number
        self.freed_held: list[int] = []
        self.stack: list[int] = []  # free pages, the one freed last on top
        self.total = INITIAL
        self.refused = self.steals = self.misuses = 0
        self.tag = 0
        self.handles: dict[int, JumboPage] = {}

    @rule()
    def alloc(self) -> None:
        spare = self.total - len(self.mine) - len(self.freed_held)
        if spare == 0 and self.total == LIMIT:
            with pytest.raises(ResourceError):
                jumbo_pg_alloc()
            self.refused += 1
            return
        page = jumbo_pg_alloc()
        if self.stack:
            assert page.index == self.stack.pop()  # last in, first out
        else:
            # The page was never seen, or was stolen and freed: it has no owner.
            assert page.index not in self.mine
            assert page.index not in self.stolen
            assert page.index not in self.freed_held
        if spare == 0:
            self.total = self.arena.stats().pages_total
        self.tag += 1
        mark = self.tag.to_bytes(8, "little")
        poke(page.kva, mark)
        pa = vm_page_to_phys(page)
        assert pa is not None
        assert jumbo_phys_to_kva(pa) == page.kva
        self.mine[page.index] = page, mark
        self.handles[page.index] = page

    @precondition(lambda self: self.mine)
    @rule(data=st.data(), foreign=st.booleans(), by_address=st.booleans())
    def free(self, data: st.DataObject, foreign: bool, by_address: bool) -> None:
        page, mark = self.mine.pop(data.draw(st.sampled_from(sorted(self.mine))))
        assert peek(page.kva) == mark
        what = page.kva if by_address else page
        if foreign:
            self.worker.call(lambda: jumbo_pg_free(what))
        else:
            jumbo_pg_free(what)
        if self.held.get(page.index):
            assert page.info.state == "held"
            self.freed_held.append(page.index)
        else:
            self.stack.append(page.index)

    @precondition(lambda self: self.mine)
    @rule(data=st.data())
    def steal(self, data: st.DataObject) -> None:
        page, mark = self.mine.pop(data.draw(st.sampled_from(sorted(self.mine))))
        kva = page.kva
        self.stolen[page.index] = jumbo_pg_steal(page), mark
        self.total -= 1
        self.steals += 1
        assert page.info.kva is None
        with pytest.raises(FreeAfterStealError):
            jumbo_pg_free(kva)
        self.misuses += 1

    @precondition(lambda self: self.stolen)
    @rule(data=st.data())
    def free_stolen(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.stolen)))
        page, mark = self.stolen.pop(number)
        with sf_buf_alloc(page) as sf:
            assert sf.copy(0, 8) == mark  # its data and its own life go on
        vm_page_free(page)
        if self.held.get(number):
            assert page.info.state == "held"
            self.held[number] += 1000  # it goes back to the arena, not to the pool

    @precondition(lambda self: self.mine)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.mine)))
        vm_page_hold(self.mine[number][0])
        self.held[number] = self.held.get(number, 0) + 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def unhold(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        vm_page_unhold(self.handles[number])
        self.held[number] -= 1
        if self.held[number] % 1000 == 0:
            if number in self.freed_held:
                self.freed_held.remove(number)
                self.stack.append(number)
            del self.held[number]

    @precondition(lambda self: self.stack)
    @rule()
    def free_twice(self) -> None:
        page = self.handles.get(self.stack[-1])
        if page is not None:
            for what in (page, page._kva):
                with pytest.raises(DoubleFreeError):
                    jumbo_pg_free(what)
            self.misuses += 2

    @rule(address=st.integers(0, 1 << 47).map(lambda a: a | 1))
    def free_foreign(self, address: int) -> None:
        with pytest.raises(ForeignAddressError):
            jumbo_pg_free(address)
        self.misuses += 1

    @invariant()
    def conserved(self) -> None:
        s = self.arena.stats()
        assert s.pages_free + s.pages_in_use == s.pages_total == self.total <= LIMIT
        assert s.pages_in_use == len(self.mine) + len(self.freed_held)
        ended = sum(holds >= 1000 for holds in self.held.values())
        assert s.pages_away == len(self.stolen) + ended
        assert s.pages_refused == self.refused
        assert s.misuses == self.misuses

    @invariant()
    def nobody_wrote_to_a_page_of_mine(self) -> None:
        for page, mark in self.mine.values():
            assert peek(page.kva) == mark
        assert len({page.kva for page, _ in self.mine.values()}) == len(self.mine)

    def teardown(self) -> None:
        for number, holds in list(self.held.items()):
            for _ in range(holds % 1000):
                vm_page_unhold(self.handles[number])
        for page, _ in self.mine.values():
            jumbo_pg_free(page)
        for stolen, _ in self.stolen.values():
            vm_page_free(stolen)
        self.worker.close()
        s = self.arena.stats()
        assert (s.pages_in_use, s.pages_away) == (0, 0)
        self.arena.close()


class StrictJumbo(Jumbo):
    strict = True


@pytest.mark.parametrize("machine", [Jumbo, StrictJumbo])
def test_jumbo(machine: type[Jumbo]) -> None:
    run(machine, examples=30)


def test_pages_do_not_overlap() -> None:
    with Arena(4) as _:
        pages = [jumbo_pg_alloc() for _ in range(4)]
        at = sorted(page.kva for page in pages)
        assert all(b - a >= PAGE_SIZE for a, b in itertools.pairwise(at))
        for page in pages:
            jumbo_pg_free(page)
