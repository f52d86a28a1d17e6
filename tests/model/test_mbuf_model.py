"""Chains and external storage against lists of bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from model_support import Worker, run
from nic_harness import Arena
from nic_harness.errors import ArgumentError, DoubleFreeError
from nic_harness.flip import UserArea, recv_flip
from nic_harness.jumbo import jumbo_pg_alloc
from nic_harness.mbuf import (
    M_COPYALL,
    M_RDONLY,
    MHLEN,
    MLEN,
    Mbuf,
    m_adj,
    m_align,
    m_cat,
    m_copydata,
    m_copym,
    m_copypacket,
    m_extadd,
    m_free,
    m_freem,
    m_get,
    m_gethdr,
    m_leadingspace,
    m_length,
    m_prepend,
    m_pullup,
    m_split,
    m_trailingspace,
    m_writable,
    mtod,
)
from nic_harness.vm_page import PAGE_SIZE

AREA = 4  # pages to receive into
INSIDE = None  # a byte inside an mbuf, not in external storage


@dataclass
class Chain:
    """The model of a chain: its bytes, and the storage of each byte."""

    m: Mbuf
    data: bytearray
    where: list[int | None] = field(default_factory=list)
    header: bool = True

    def cut(self, at: int) -> tuple[bytearray, list[int | None]]:
        tail = self.data[at:], self.where[at:]
        del self.data[at:], self.where[at:]
        return tail


class Mbufs(RuleBasedStateMachine):
    strict = False

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(64, strict=self.strict)
        self.worker = Worker()
        self.chains: list[Chain] = []
        self.freed: list[int] = []  # storage whose routine ran
        self.attached = 0
        self.readonly: set[int] = set()  # storage that may not be written
        self.misuses = 0
        # Where chains are received, and the bytes of each page that something was.
        self.area = UserArea(AREA)
        self.received: dict[int, bytes] = {}

    def pick(self, data: st.DataObject) -> Chain:
        return self.chains[data.draw(st.integers(0, len(self.chains) - 1), label="chain")]

    def on_free(self, _storage: object, number: object) -> None:
        assert isinstance(number, int)
        self.freed.append(number)

    # Making

    @rule(size=st.integers(0, MHLEN), header=st.booleans(), fill=st.integers(0, 255))
    def inside(self, size: int, header: bool, fill: int) -> None:
        m = m_gethdr() if header else m_get()
        assert m_trailingspace(m) == (MHLEN if header else MLEN)
        m_align(m, size)
        assert m_leadingspace(m) >= (MHLEN if header else MLEN) - size - 8
        m.m_len = size
        if header:
            m.pkthdr_len = size
        if size:
            mtod(m)[:] = bytes([fill]) * size
        self.chains.append(Chain(m, bytearray([fill] * size), [INSIDE] * size, header))

    @rule(size=st.integers(1, 300), readonly=st.booleans(), header=st.booleans())
    def outside(self, size: int, readonly: bool, header: bool) -> None:
        m = m_gethdr() if header else m_get()
        self.attached += 1
        number = self.attached
        if readonly:
            self.readonly.add(number)
        storage = bytearray((number + i) % 256 for i in range(size))
        m_extadd(m, bytes(storage) if readonly else storage, self.on_free, number)
        with pytest.raises(ArgumentError):
            m_extadd(m, bytearray(1), self.on_free, -1)  # it has storage; nothing is changed
        assert bool(m.m_flags & M_RDONLY) is readonly
        m.m_len = size
        if header:
            m.pkthdr_len = size
        self.chains.append(Chain(m, bytearray(storage), [number] * size, header))

    @precondition(lambda self: self.arena.stats().pages_in_use < 20)
    @rule(size=st.integers(1, PAGE_SIZE))
    def page(self, size: int) -> None:
        m, page = m_gethdr(), jumbo_pg_alloc()
        m_extadd(m, page)
        m.m_len = m.pkthdr_len = size
        mtod(m)[:] = bytes([size % 251]) * size
        self.chains.append(Chain(m, bytearray([size % 251] * size), [INSIDE] * size))

    # Using

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def window(self, data: st.DataObject) -> None:
        chain = self.pick(data)
        off = data.draw(st.integers(0, len(chain.data)), label="off")
        length = data.draw(
            st.one_of(st.just(M_COPYALL), st.integers(0, len(chain.data) - off)), label="length"
        )
        with pytest.raises(ArgumentError):
            m_copym(chain.m, off, len(chain.data) - off + 1)
        if len(self.chains) > 12:
            return
        end = len(chain.data) if length == M_COPYALL else off + length
        if off == end:
            return
        m = m_copym(chain.m, off, length)
        header = chain.header and off == 0
        assert (m.pkthdr_len is not None) is header
        self.chains.append(Chain(m, chain.data[off:end], chain.where[off:end], header))

    @precondition(lambda self: self.chains and len(self.chains) < 12)
    @rule(data=st.data())
    def packet_copy(self, data: st.DataObject) -> None:
        chain = self.pick(data)
        if not chain.header:
            with pytest.raises(ArgumentError):
                m_copypacket(chain.m)
            return
        self.chains.append(Chain(m_copypacket(chain.m), chain.data[:], chain.where[:]))

    @precondition(lambda self: len(self.chains) >= 2)
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        tail = self.chains.pop(data.draw(st.integers(0, len(self.chains) - 1), label="tail"))
        chain = self.pick(data)
        m_cat(chain.m, tail.m)
        chain.data += tail.data
        chain.where += tail.where
        if chain.header:
            chain.m.pkthdr_len = len(chain.data)

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        chain = self.pick(data)
        at = data.draw(st.integers(0, len(chain.data)), label="at")
        with pytest.raises(ArgumentError):
            m_split(chain.m, len(chain.data) + 1)
        tail = m_split(chain.m, at)
        rest = Chain(tail, *chain.cut(at), tail.pkthdr_len is not None)
        if chain.header:
            assert rest.header
        elif rest.header:  # cut where a packet was appended, whose header is as it was then
            tail.pkthdr_len = len(rest.data)
        self.chains.append(rest)

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def adjust(self, data: st.DataObject) -> None:
        chain = self.pick(data)
        n = data.draw(st.integers(-len(chain.data) - 5, len(chain.data) + 5), label="n")
        m_adj(chain.m, n)
        if n >= 0:
            del chain.data[:n], chain.where[:n]
        else:
            chain.cut(max(0, len(chain.data) + n))

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), n=st.integers(0, MHLEN + 2))
    def pull_up(self, data: st.DataObject, n: int) -> None:
        chain = self.pick(data)
        if n > len(chain.data) or n > MHLEN:
            self.chains.remove(chain)
            with pytest.raises(ArgumentError):
                m_pullup(chain.m, n)  # which frees it
            return
        chain.m = m_pullup(chain.m, n)
        assert chain.m.m_len >= n
        if chain.m.ext_refs == 0:
            chain.where[: chain.m.m_len] = [INSIDE] * chain.m.m_len

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), n=st.integers(0, 60))
    def prepend(self, data: st.DataObject, n: int) -> None:
        chain = self.pick(data)
        chain.m = m_prepend(chain.m, n)
        if n:
            mtod(chain.m)[:n] = bytes(range(n))
        chain.data[:0] = bytes(range(n))
        chain.where[:0] = [INSIDE] * n

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), value=st.integers(0, 255))
    def write(self, data: st.DataObject, value: int) -> None:
        # Only this chain sees what is written; the invariant checks the others.
        chain = self.pick(data)
        m = chain.m
        writable = not m.m_flags & M_RDONLY and m.ext_refs <= 1
        assert m_writable(m) is writable
        view = mtod(m)
        assert view.readonly is not writable
        if len(view) and writable:
            view[0] = chain.data[0] = value

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        chain = self.pick(data)
        off = data.draw(st.integers(0, len(chain.data)), label="off")
        length = data.draw(st.integers(0, len(chain.data) - off), label="length")
        copied = self.arena.bytes_copied
        assert m_copydata(chain.m, off, length) == chain.data[off : off + length]
        assert self.arena.bytes_copied == copied + length

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), at=st.integers(0, AREA - 2), peek=st.booleans())
    def receive(self, data: st.DataObject, at: int, peek: bool) -> None:
        # At the start of a page, or where the chain's own boundaries fall on one.
        chain = self.pick(data)
        skew = data.draw(st.sampled_from([0, self.area.offset_for(chain.m)]), label="skew")
        length = data.draw(st.sampled_from([0, 1, PAGE_SIZE, PAGE_SIZE * 3 // 2]), label="length")
        length = min(length, 2 * PAGE_SIZE - skew)
        before, copied = self.area.stats(), self.arena.bytes_copied
        offset, expected = at * PAGE_SIZE + skew, bytes(chain.data[:length])
        assert recv_flip(chain.m, self.area, offset, length, peek=peek) == len(expected)
        after = self.area.stats()
        flipped = after.bytes_flipped - before.bytes_flipped
        assert flipped == (after.pages_flipped - before.pages_flipped) * PAGE_SIZE
        assert flipped + after.bytes_copied - before.bytes_copied == len(expected)
        assert self.arena.bytes_copied - copied == len(expected) - flipped
        assert not (peek and flipped)
        if expected:
            assert self.area.view(offset, len(expected)) == expected
            for page in (at, at + 1):
                try:
                    view = self.area.view(page * PAGE_SIZE, PAGE_SIZE)
                except ArgumentError:
                    continue  # nothing was received there yet
                self.received[page] = bytes(view)
        if peek:
            return
        del chain.data[: len(expected)], chain.where[: len(expected)]
        if not chain.m.owned:
            assert not chain.data
            self.chains.remove(chain)
            return
        header = chain.m.pkthdr_len is not None
        if header and not chain.header:  # that of a packet that was appended
            chain.m.pkthdr_len = len(chain.data)
        elif chain.header and header:
            assert chain.m.pkthdr_len == len(chain.data)
        chain.header = header

    # Freeing

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), foreign=st.booleans())
    def free(self, data: st.DataObject, foreign: bool) -> None:
        chain = self.pick(data)
        self.chains.remove(chain)
        if foreign:
            self.worker.call(lambda: m_freem(chain.m))
        else:
            m_freem(chain.m)
        with pytest.raises(DoubleFreeError):
            m_freem(chain.m)
        self.misuses += 1

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def free_first(self, data: st.DataObject) -> None:
        chain = self.pick(data)
        n = chain.m.m_len
        rest = m_free(chain.m)
        del chain.data[:n], chain.where[:n]
        if rest is None:
            assert not chain.data
            self.chains.remove(chain)
        else:
            chain.m, chain.header = rest, rest.pkthdr_len is not None
            if chain.header:  # that of a packet that was appended: as it was then
                rest.pkthdr_len = len(chain.data)

    # What holds

    @invariant()
    def bytes_are_those_of_the_model(self) -> None:
        for chain in self.chains:
            assert m_length(chain.m) == len(chain.data)
            assert b"".join(chain.m.segments) == chain.data
            assert chain.m.pkthdr_len == (len(chain.data) if chain.header else None)
            if chain.m.m_len and chain.where[0] in self.readonly:
                assert chain.m.m_flags & M_RDONLY  # a copy, and a copy of a copy, keep the mark
            chain.m.check()

    @invariant()
    def routines_run_once_and_not_before_the_last_reference(self) -> None:
        assert len(set(self.freed)) == len(self.freed)
        in_use = {number for chain in self.chains for number in chain.where if number is not None}
        assert not in_use & set(self.freed)
        if not self.chains:
            assert len(self.freed) == self.attached
            assert self.arena.stats().mbufs_in_use == 0
        assert self.arena.stats().misuses == self.misuses

    @invariant()
    def what_was_received_is_the_users(self) -> None:
        for page, content in self.received.items():
            assert self.area.view(page * PAGE_SIZE, PAGE_SIZE) == content
        assert self.arena.stats().pages_away == len(self.received)

    def teardown(self) -> None:
        self.area.close()
        for chain in self.chains:
            m_freem(chain.m)
        self.worker.close()
        s = self.arena.stats()
        assert sorted(self.freed) == list(range(1, self.attached + 1))
        assert (s.mbufs_in_use, s.pages_in_use, s.pages_away) == (0, 0, 0)
        assert s.mbufs_free == s.mbufs_total
        self.arena.close()


class StrictMbufs(Mbufs):
    strict = True


@pytest.mark.parametrize("machine", [Mbufs, StrictMbufs])
def test_mbuf(machine: type[Mbufs]) -> None:
    run(machine, examples=25, steps=50)
