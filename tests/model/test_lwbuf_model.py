"""lwbuf(9) and quick mappings against counts, on several threads."""

from __future__ import annotations

import functools
import os

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from model_support import Worker, peek, poke, run
from nic_harness import Arena
from nic_harness.errors import (
    DoubleFreeError,
    QuickBlockingError,
    QuickForeignError,
    QuickNestedError,
)
from nic_harness.jumbo import JumboPage, jumbo_pg_alloc, jumbo_pg_free
from nic_harness.lwbuf import (
    Lwbuf,
    lwbuf_alloc,
    lwbuf_count,
    lwbuf_free,
    lwbuf_kva_bytes,
    lwbuf_reserve,
    lwbuf_set_global,
)
from nic_harness.pmap import QuickMapping, pmap_quick_enter_page, pmap_quick_remove_page
from nic_harness.sf_buf import SFB_NOWAIT, VmObject, sf_buf_alloc
from nic_harness.vm_page import PAGE_SIZE

THREADS, PAGES = 3, 4
THREAD = st.integers(0, THREADS - 1)
PAGE = st.integers(0, PAGES - 1)
CHUNK = 32  # handles that a pool grows by


class Mappings(RuleBasedStateMachine):
    strict = False

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(PAGES, strict=self.strict)
        self.workers = [Worker() for _ in range(THREADS)]
        self.pages: list[JumboPage] = []
        for i in range(PAGES):
            self.pages.append(jumbo_pg_alloc())
            poke(self.pages[i].kva, bytes([i + 1]) * 8)
        fd = os.memfd_create("model")
        os.write(fd, b"f" * PAGE_SIZE)
        self.object = VmObject(fd)
        os.close(fd)
        self.file_page = self.object.grab(0)
        self.handles: list[tuple[int, int, Lwbuf]] = []  # owner, page, handle
        self.most = [0] * THREADS  # handles that were a thread's at one time
        self.stable: dict[int, int] = {}  # direct: KVA of a page
        self.quick: list[tuple[int, QuickMapping] | None] = [None] * THREADS
        self.misuses = 0

    # lwbuf(9)

    @rule(thread=THREAD, page=PAGE, n=st.sampled_from([1, 1, 20]))
    def alloc(self, thread: int, page: int, n: int) -> None:
        for _ in range(n):
            lwb = self.workers[thread].call(lambda: lwbuf_alloc(self.pages[page]))
            assert (lwb.handle == lwb._own) is not self.strict  # result == argument
            if not self.strict:
                assert self.stable.setdefault(page, lwb.kva) == lwb.kva
            self.handles.append((thread, page, lwb))
        mine = sum(owner == thread for owner, _, _ in self.handles)
        self.most[thread] = max(self.most[thread], mine)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), thread=THREAD, n=st.sampled_from([1, 1, 20]))
    def free(self, data: st.DataObject, thread: int, n: int) -> None:
        for _ in range(min(n, len(self.handles))):
            at = data.draw(st.integers(0, len(self.handles) - 1)) if n == 1 else 0
            _, _, lwb = self.handles.pop(at)
            self.workers[thread].call(functools.partial(lwbuf_free, lwb))
        with pytest.raises(DoubleFreeError):
            lwbuf_free(lwb)
        self.misuses += 1

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), thread=THREAD)
    def use(self, data: st.DataObject, thread: int) -> None:
        _, page, lwb = data.draw(st.sampled_from(self.handles))
        lwbuf_set_global(lwb)
        assert self.workers[thread].call(lambda: peek(lwb.kva)) == bytes([page + 1]) * 8
        assert lwb.page is self.pages[page]

    @invariant()
    def counted(self) -> None:
        count = len(self.handles) if self.strict else 0
        assert lwbuf_count() == count
        assert lwbuf_kva_bytes() >= count * PAGE_SIZE
        assert (lwbuf_count() + lwbuf_reserve()) * PAGE_SIZE == lwbuf_kva_bytes()
        if self.strict:
            # A handle freed on a foreign thread is its owner's again: no pool exceeds its own peak.
            chunks = sum(-(-most // CHUNK) for most in self.most)
            assert lwbuf_kva_bytes() == chunks * CHUNK * PAGE_SIZE

    # pmap_quick_enter_page(9)

    @rule(thread=THREAD, page=PAGE)
    def enter(self, thread: int, page: int) -> None:
        def enter() -> QuickMapping:
            return pmap_quick_enter_page(self.pages[page])

        if self.quick[thread] is not None:
            with pytest.raises(QuickNestedError):
                self.workers[thread].call(enter)
            self.misuses += 1
            return
        self.quick[thread] = page, self.workers[thread].call(enter)

    @rule(thread=THREAD, of=THREAD)
    def remove(self, thread: int, of: int) -> None:
        held = self.quick[of]
        if held is None:
            return
        quick = held[1]

        def remove() -> None:
            pmap_quick_remove_page(quick)

        if thread == of:
            self.workers[thread].call(remove)
            self.quick[of] = None
        with pytest.raises(QuickForeignError):
            self.workers[thread].call(remove)
        self.misuses += 1

    @rule(thread=THREAD, nowait=st.booleans())
    def might_block(self, thread: int, nowait: bool) -> None:
        def call() -> None:
            with sf_buf_alloc(self.file_page, SFB_NOWAIT if nowait else 0) as sf:
                assert sf.copy(0, 1) == b"f"

        if self.quick[thread] is None or nowait:
            self.workers[thread].call(call)
            return
        with pytest.raises(QuickBlockingError):
            self.workers[thread].call(call)
        self.misuses += 1

    @invariant()
    def frames_show_their_pages(self) -> None:
        held = [q for q in self.quick if q is not None]
        for page, quick in held:
            assert peek(quick.kva) == bytes([page + 1]) * 8
        if self.strict:
            assert len({quick.kva for _, quick in held}) == len(held)  # one for each thread
        assert self.arena.stats().misuses == self.misuses

    def teardown(self) -> None:
        for thread, held in enumerate(self.quick):
            if held is not None:
                quick = held[1]
                self.workers[thread].call(lambda quick=quick: pmap_quick_remove_page(quick))  # type: ignore[misc]
        while self.handles:
            lwbuf_free(self.handles.pop()[2])
        assert lwbuf_count() == 0
        for worker in self.workers:
            worker.close()
        self.file_page.release()
        self.object.close()
        for page in self.pages:
            jumbo_pg_free(page)
        self.arena.close()


class StrictMappings(Mappings):
    strict = True


@pytest.mark.parametrize("machine", [Mappings, StrictMappings])
def test_lwbuf_and_quick(machine: type[Mappings]) -> None:
    run(machine, examples=25, steps=50)
