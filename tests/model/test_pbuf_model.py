"""pbuf(9) against a stack and two counters, with threads that sleep for either."""

from __future__ import annotations

import functools

import nic_harness
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model_support import Worker, peek, poke, run
from nic_harness import Arena
from nic_harness.errors import DoubleFreeError
from nic_harness.pbuf import MAXPHYS, Buf, Pfreecnt, getpbuf, nswbuf, relpbuf, trypbuf

POOL = 16  # the smallest pool


class Pbufs(RuleBasedStateMachine):
    strict = False

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(8, strict=self.strict)
        assert nswbuf() == POOL
        self.worker = Worker()
        self.stack: list[int] = []  # windows, the one released last on top
        self.out: list[tuple[int, Buf]] = []  # counter, buffer
        self.misuses = 0
        self.marks = 0

    @initialize(limits=st.tuples(st.integers(0, 4), st.sampled_from([3, POOL, 20, -1])))
    def counters(self, limits: tuple[int, int]) -> None:
        self.limits = [*limits, -1]
        self.counters_ = [Pfreecnt(limits[0]), Pfreecnt(limits[1]), None]

    def may(self, counter: int) -> bool:
        taken = sum(c == counter for c, _ in self.out)
        return self.limits[counter] == -1 or taken < self.limits[counter]

    def took(self, counter: int, bp: Buf) -> None:
        if self.stack:
            assert bp.kva == self.stack.pop()  # released last, returned first
        else:
            assert bp.kva not in {b.kva for _, b in self.out}
        # It carries nothing of its last user.
        b = bp.handle
        assert not any((b.b_error, b.b_resid, b.b_flags, b.b_rcred, b.b_wcred, b.b_caller1))
        assert (b.b_data, b.b_bufsize) == (b.b_kvabase, MAXPHYS)
        b.b_error, b.b_resid, b.b_flags = 5, 5, 5
        b.b_rcred = nic_harness._native.lib.crget()
        self.marks += 1
        poke(bp.kva + MAXPHYS - 8, self.marks.to_bytes(8, "little"))
        self.out.append((counter, bp))

    @rule(counter=st.integers(0, 2), sleeping=st.booleans())
    def take(self, counter: int, sleeping: bool) -> None:
        before = [int(c) for c in self.counters_ if c is not None]
        if not self.may(counter) or len(self.out) == POOL:
            assert trypbuf(self.counters_[counter]) is None
            assert [int(c) for c in self.counters_ if c is not None] == before  # untouched
            return
        bp = getpbuf(self.counters_[counter]) if sleeping else trypbuf(self.counters_[counter])
        assert bp is not None
        self.took(counter, bp)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), foreign=st.booleans())
    def release(self, data: st.DataObject, foreign: bool) -> None:
        _, bp = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.stack.append(bp.kva)
        if foreign:
            self.worker.call(functools.partial(relpbuf, bp))
        else:
            relpbuf(bp)
        with pytest.raises(DoubleFreeError):
            relpbuf(bp)
        self.misuses += 1

    @rule(counter=st.integers(0, 2))
    def fill(self, counter: int) -> None:
        while self.may(counter) and len(self.out) < POOL:
            self.take(counter, sleeping=False)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), counter=st.integers(0, 2))
    def sleep_and_wake(self, data: st.DataObject, counter: int) -> None:
        if self.may(counter) and len(self.out) < POOL:
            return
        # A release that ends the sleep: one of the same counter, if that is what it sleeps for.
        fitting = [i for i, (c, _) in enumerate(self.out) if self.may(counter) or c == counter]
        if not fitting:
            return  # a limit of 0: nothing would
        # Drawn before the thread sleeps: an example may end here, and nobody would wake it.
        freed = data.draw(st.sampled_from(fitting))
        slept = self.waits()
        self.worker.start(lambda: getpbuf(self.counters_[counter]))
        while self.waits() == slept:
            pass
        # It holds neither a buffer nor a place on the counter meanwhile.
        self.conserved()
        _, bp = self.out.pop(freed)
        self.stack.append(bp.kva)
        relpbuf(bp)
        self.took(counter, self.worker.result())

    def waits(self) -> int:
        p = nic_harness.stats().pbuf
        return p.counter_waits + p.pool_waits

    @invariant()
    def conserved(self) -> None:
        p = nic_harness.stats().pbuf
        assert p.free + p.outstanding == p.total == POOL
        assert p.outstanding == len(self.out)
        for i, counter in enumerate(getattr(self, "counters_", [])):
            if counter is not None:
                taken = sum(c == i for c, _ in self.out)
                assert int(counter) == (-1 if self.limits[i] == -1 else self.limits[i] - taken)
        assert self.arena.stats().misuses == self.misuses

    @invariant()
    def windows_are_their_users(self) -> None:
        marks = [peek(bp.kva + MAXPHYS - 8) for _, bp in self.out]
        assert len(set(marks)) == len(marks)

    def teardown(self) -> None:
        for _, bp in self.out:
            relpbuf(bp)
        self.worker.close()
        assert nic_harness.stats().pbuf.outstanding == 0
        self.arena.close()


class StrictPbufs(Pbufs):
    strict = True


@pytest.mark.parametrize("machine", [Pbufs, StrictPbufs])
def test_pbuf(machine: type[Pbufs]) -> None:
    run(machine, examples=25, steps=50)
