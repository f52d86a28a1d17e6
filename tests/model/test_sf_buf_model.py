"""sf_buf(9) against dictionaries: references, figures, replacement, sleepers."""

from __future__ import annotations

import os

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from model_support import Worker, run
from nic_harness import Arena
from nic_harness._native import ffi, lib
from nic_harness.errors import RefCountError, ResourceError
from nic_harness.sf_buf import (
    SFB_CPUPRIVATE,
    SFB_NOWAIT,
    FilePage,
    SfBuf,
    VmObject,
    sf_buf_alloc,
    sf_buf_free,
    sf_buf_ref,
)
from nic_harness.vm_page import PAGE_SIZE

NSFBUFS = 3  # and as many extents
EXTENT = 512  # pages
FILES = 2
PINDEX = st.sampled_from([0, 1, 2, 511, 512, 513, 1024, 1025])
Name = tuple[int, int]  # file, page number


def content(name: Name) -> bytes:
    return f"file {name[0]}, page {name[1]}".encode()


class SfBufs(RuleBasedStateMachine):
    strict = False

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(4, sfbufs=NSFBUFS, strict=self.strict)
        self.workers = [Worker(), Worker()]
        self.objects = []
        for f in range(FILES):
            fd = os.memfd_create("model")
            for pindex in (0, 1, 2, 511, 512, 513, 1024, 1025):
                os.pwrite(fd, content((f, pindex)).ljust(PAGE_SIZE), pindex * PAGE_SIZE)
            self.objects.append(VmObject(fd))
            os.close(fd)
        self.wired: dict[Name, list[FilePage]] = {}
        self.refs: dict[Name, list[SfBuf]] = {}
        self.kva: dict[Name, int] = {}  # of pages that stayed bound since
        self.warm: set[Name] = set()  # mapped since their extent was bound
        self.bindings: dict[int, tuple[int, Name]] = {}  # handle -> generation, page
        self.peak = self.misuses = 0

    def stats(self) -> object:
        s = ffi.new("struct sf_map_stats *")
        lib.sf_map_get_stats(self.arena.handle.sf_map, s)
        return s

    def active(self) -> set[tuple[int, int]]:
        """Return the extents that may not be replaced."""
        return {(f, p // EXTENT) for f, p in (*self.wired, *self.refs)}

    def forget_idle(self) -> None:
        """Expect nothing of extents without a user, whose mappings may go at any time."""
        active = self.active()
        for name in list(self.kva):
            if (name[0], name[1] // EXTENT) not in active:
                del self.kva[name]
                self.warm.discard(name)

    @rule(file=st.integers(0, FILES - 1), pindex=PINDEX)
    def grab(self, file: int, pindex: int) -> None:
        name = file, pindex
        active = self.active()
        if (file, pindex // EXTENT) not in active and len(active) == NSFBUFS:
            with pytest.raises(ResourceError):
                self.objects[file].grab(pindex)
            return
        page = self.objects[file].grab(pindex)
        assert page.index == pindex
        # A handle that is bound anew carries a new generation.
        at = int(ffi.cast("uintptr_t", page.handle))
        generation = page.info.generation
        if at in self.bindings:
            former, what = self.bindings[at]
            assert what == name or former != generation
        self.bindings[at] = generation, name
        self.wired.setdefault(name, []).append(page)

    @precondition(lambda self: self.wired)
    @rule(data=st.data(), private=st.booleans())
    def alloc(self, data: st.DataObject, private: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.wired)))
        page = self.wired[name][-1]
        before = self.stats()
        flags = SFB_NOWAIT | (SFB_CPUPRIVATE if private else 0)
        if name not in self.refs and len(self.refs) == NSFBUFS:
            with pytest.raises(ResourceError):
                sf_buf_alloc(page, flags)
            assert self.stats().sf_allocwait == before.sf_allocwait  # type: ignore[attr-defined]
            return
        sf = sf_buf_alloc(page, flags)
        after = self.stats()
        assert after.sf_allocwait == before.sf_allocwait  # type: ignore[attr-defined]
        assert self.kva.setdefault(name, sf.kva) == sf.kva
        if name in self.warm:
            assert after.maps == before.maps  # type: ignore[attr-defined]
        self.warm.add(name)
        self.refs.setdefault(name, []).append(sf)
        self.peak = max(self.peak, len(self.refs))

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def ref(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.refs)))
        self.refs[name].append(sf_buf_ref(self.refs[name][0]))

    @precondition(lambda self: self.refs)
    @rule(data=st.data(), foreign=st.booleans())
    def free(self, data: st.DataObject, foreign: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.refs)))
        sf = self.refs[name].pop()
        if not self.refs[name]:
            del self.refs[name]
        if foreign:
            self.workers[0].call(lambda: sf_buf_free(sf))
        else:
            sf_buf_free(sf)
        with pytest.raises(RefCountError):
            sf_buf_free(sf)
        self.misuses += 1
        self.forget_idle()

    @precondition(lambda self: self.wired)
    @rule(data=st.data())
    def unwire(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.wired)))
        self.wired[name].pop().release()
        if not self.wired[name]:
            del self.wired[name]
        self.forget_idle()

    @rule()
    def drop_cached(self) -> None:
        lib.sf_map_drop_cached(self.arena.handle.sf_map)

    @precondition(lambda self: len(self.refs) == NSFBUFS and set(self.wired) - set(self.refs))
    @rule(data=st.data(), both=st.booleans())
    def sleep_and_wake(self, data: st.DataObject, both: bool) -> None:
        """Threads sleep for a buffer; a last free wakes them, and they share what they map."""
        name = data.draw(st.sampled_from(sorted(set(self.wired) - set(self.refs))))
        page = self.wired[name][-1]
        # Drawn before the threads sleep: an example may end here, and nobody would wake them.
        victim = data.draw(st.sampled_from(sorted(self.refs)))
        sleepers = self.workers[: 1 + both]
        slept = self.stats().sf_allocwait  # type: ignore[attr-defined]
        for worker in sleepers:
            worker.start(lambda: sf_buf_alloc(page))
        while self.stats().sf_allocwait < slept + len(sleepers):  # type: ignore[attr-defined]
            pass
        for sf in self.refs.pop(victim):
            sf_buf_free(sf)
        got = [worker.result() for worker in sleepers]
        assert len({sf.kva for sf in got}) == 1  # after the sleep, the page was looked up again
        self.refs[name] = got
        assert self.kva.setdefault(name, got[0].kva) == got[0].kva
        self.warm.add(name)
        self.forget_idle()

    @invariant()
    def figures(self) -> None:
        s = self.arena.stats()
        assert s.sfbufs_in_use == len(self.refs)  # buffers with a reference, not references
        assert s.sfbufs_peak == self.peak
        assert s.sfbufs_in_use <= s.sfbufs_peak <= s.sfbufs_total == NSFBUFS
        assert s.sfbufs_wired == sum(map(len, self.wired.values()))
        assert s.misuses == self.misuses

    @invariant()
    def a_buffer_with_a_reference_is_its_pages(self) -> None:
        for name, bufs in self.refs.items():
            expected = content(name)
            for sf in bufs:
                assert sf.kva == bufs[0].kva
                assert sf.copy(0, len(expected)) == expected

    def teardown(self) -> None:
        for bufs in self.refs.values():
            for sf in bufs:
                sf_buf_free(sf)
        for pages in self.wired.values():
            for page in pages:
                page.release()
        for worker in self.workers:
            worker.close()
        for o in self.objects:
            o.close()
        s = self.arena.stats()
        assert (s.sfbufs_in_use, s.sfbufs_wired, s.extents_mapped) == (0, 0, 0)
        self.arena.close()


class StrictSfBufs(SfBufs):
    strict = True


@pytest.mark.parametrize("machine", [SfBufs, StrictSfBufs])
def test_sf_buf(machine: type[SfBufs]) -> None:
    run(machine, examples=30)
