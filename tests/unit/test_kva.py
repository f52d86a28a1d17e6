"""The five interfaces and mbufs from Python: lifetimes, views, and misuse by name."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nic_harness
import pytest
from nic_harness import Arena, jumbo
from nic_harness.errors import (
    ArenaBusyError,
    ArgumentError,
    BusyError,
    ClosedError,
    DoubleFreeError,
    FileError,
    ForeignAddressError,
    FreeAfterStealError,
    HarnessError,
    QuickBlockingError,
    QuickForeignError,
    QuickNestedError,
    RefCountError,
    ResourceError,
    SleepInterruptedError,
    UnsupportedError,
    WriteAfterFreeError,
)
from nic_harness.jumbo import (
    JumboPage,
    jumbo_freem,
    jumbo_pg_alloc,
    jumbo_pg_free,
    jumbo_pg_steal,
    vm_page_free,
)
from nic_harness.lwbuf import lwbuf_alloc, lwbuf_count, lwbuf_free, lwbuf_kva_bytes, lwbuf_reserve
from nic_harness.mbuf import (
    EXT_SFBUF,
    M_RDONLY,
    Mbuf,
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
    m_prepend,
    m_pullup,
    m_split,
    m_writable,
    mtod,
)
from nic_harness.pbuf import Pfreecnt, getpbuf, nswbuf, relpbuf, trypbuf
from nic_harness.pmap import pmap_quick_enter_page, pmap_quick_remove_page
from nic_harness.sf_buf import (
    SFB_CATCH,
    SFB_NOWAIT,
    VmObject,
    file_page_info,
    mapped_files,
    sf_buf_alloc,
    sf_buf_free,
    sf_buf_kva,
    sf_buf_ref,
)
from nic_harness.vm_page import (
    PAGE_SIZE,
    FileId,
    vm_page_hold,
    vm_page_to_phys,
    vm_page_unhold,
    vm_page_unwire,
    vm_page_wire,
)


@pytest.fixture(params=[False, True], ids=["direct", "strict"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    with Arena(64, sfbufs=4, strict=request.param) as arena:
        yield arena


def is_strict(arena: Arena) -> bool:
    return not arena.handle.arena.direct


@contextlib.contextmanager
def file_of(*pages: bytes) -> Iterator[int]:
    fd = os.memfd_create("pages")
    for page in pages:
        os.write(fd, page.ljust(PAGE_SIZE, page[-1:]))
    yield fd
    os.close(fd)


class TestJumbo:
    def test_a_page_goes_back_at_the_end_of_its_block(self, arena: Arena) -> None:
        with jumbo_pg_alloc() as page:
            page.view()[:5] = b"hello"
            assert page.info.state == "alloc"
            assert page.info.allocated.startswith(__file__)
            pa = vm_page_to_phys(page)
            assert pa is not None
            assert jumbo.jumbo_phys_to_kva(pa + 3) == page.kva + 3
        assert arena.stats().pages_in_use == 0
        assert jumbo.jumbo_phys_to_kva(1 << 60) is None
        with pytest.raises(ClosedError):
            page.view()

    def test_double_free_is_named_with_its_history(self, arena: Arena) -> None:
        page = jumbo_pg_alloc()
        kva = page.kva
        jumbo_pg_free(page)
        for what in (page, kva):
            with pytest.raises(DoubleFreeError, match=r"history .*free < alloc") as e:
                jumbo_pg_free(what)
            assert str(e.value).count(__file__) == 3  # allocated, freed, misused
            assert e.value.misuse is not None
            assert e.value.misuse.page == page.index
        # By now it has another owner, and the old handle does not free it.
        with jumbo_pg_alloc() as other:
            assert other.index == page.index
            with pytest.raises(DoubleFreeError):
                jumbo_pg_free(page)
            assert other.info.state == "alloc"
        assert arena.stats().misuses == 3

    def test_a_free_by_address_is_the_handles_end(self, arena: Arena) -> None:
        page = jumbo_pg_alloc()
        jumbo_freem(page.kva, "ignored")
        assert not page.owned
        assert arena.stats().pages_in_use == 0

    @pytest.mark.usefixtures("arena")
    @pytest.mark.parametrize("address", [0, 0x1000, 1 << 40])
    def test_a_foreign_address_is_named(self, address: int) -> None:
        with pytest.raises(ForeignAddressError, match=f"{address:#x}"):
            jumbo_pg_free(address)
        with jumbo_pg_alloc() as page, pytest.raises(ForeignAddressError):
            jumbo_pg_free(page.kva + 1)

    def test_the_pool_says_when_it_is_dry(self, arena: Arena) -> None:
        pages = [jumbo_pg_alloc() for _ in range(64)]
        with pytest.raises(ResourceError, match="64 of 64 pages"):
            jumbo_pg_alloc()
        assert arena.stats().pages_refused == 1
        for page in pages:
            jumbo_pg_free(page)

    def test_a_view_holds_its_page(self, arena: Arena) -> None:
        page = jumbo_pg_alloc()
        piece = page.view()[10:20]
        jumbo_pg_free(page)
        assert page.info.state == "held"
        with pytest.raises(ArenaBusyError):
            arena.close()
        piece[0] = 1
        del piece
        assert page.info.state == "free"

    def test_a_stolen_page_lives_on(self, arena: Arena) -> None:
        page = jumbo_pg_alloc()
        page.view()[:3] = b"abc"
        view = page.view()
        with pytest.raises(BusyError):
            jumbo_pg_steal(page)
        del view
        with jumbo_pg_steal(page) as stolen:
            assert stolen.info.state == "stolen"
            assert stolen.info.kva is None
            assert (arena.stats().pages_in_use, arena.stats().pages_away) == (0, 1)
            with pytest.raises(ArenaBusyError, match="1 stolen page in use"):
                arena.close()
            with pytest.raises(FreeAfterStealError):
                jumbo_pg_free(page)
            with sf_buf_alloc(stolen) as sf:
                assert sf.copy(0, 3) == b"abc"
            if is_strict(arena):
                with pytest.raises(UnsupportedError):
                    stolen.view()
            else:
                assert stolen.view()[:3] == b"abc"
        with pytest.raises(DoubleFreeError):
            vm_page_free(stolen)

    def test_a_lost_page_is_named(self, arena: Arena) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            jumbo_pg_alloc()
            gc.collect()
            page = jumbo_pg_alloc()
            jumbo_pg_steal(page)
            gc.collect()
        assert [w.category for w in caught] == [ResourceWarning, ResourceWarning]
        assert all(__file__ in str(w.message) for w in caught)
        assert (arena.stats().pages_in_use, arena.stats().pages_away) == (0, 0)

    @pytest.mark.usefixtures("arena")
    def test_a_lost_page_does_not_come_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may be collected with its arena, whose memory is gone when the report is read."""
        reported: list[sys.UnraisableHookArgs] = []
        monkeypatch.setattr(sys, "unraisablehook", reported.append)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            jumbo_pg_alloc()
            gc.collect()
        (report,) = reported
        assert isinstance(report.exc_value, ResourceWarning)
        trace = report.exc_value.__traceback__
        assert trace is not None
        for frame, _ in traceback.walk_tb(trace):
            assert not any(isinstance(v, JumboPage) for v in frame.f_locals.values())

    @pytest.mark.usefixtures("arena")
    def test_holds_and_wirings_are_counted(self) -> None:
        with jumbo_pg_alloc() as page:
            vm_page_hold(page)
            vm_page_wire(page)
            assert (page.info.held, page.info.wired) == (1, 1)
            vm_page_unhold(page)
            vm_page_unwire(page)
            for undo in (vm_page_unhold, vm_page_unwire):
                with pytest.raises(RefCountError):
                    undo(page)
            assert (page.info.held, page.info.wired) == (0, 0)

    def test_a_write_after_free_is_seen_in_strict_mode(self) -> None:
        from nic_harness._native import ffi

        with Arena(64, strict=True) as arena:
            page = jumbo_pg_alloc()
            other = sf_buf_alloc(page)  # the pool's own mapping goes away with the free
            stale = ffi.cast("char *", sf_buf_kva(other))
            jumbo_pg_free(page)
            stale[100] = b"!"
            sf_buf_free(other)
            with pytest.raises(WriteAfterFreeError):
                jumbo_pg_alloc()
            assert arena.stats().pages_in_use == 0
            jumbo_pg_free(jumbo_pg_alloc())  # it was filled again

    def test_without_an_arena_there_is_no_page(self) -> None:
        with pytest.raises(ClosedError, match="Arena"):
            jumbo_pg_alloc()


class TestSfBuf:
    def test_open_file_object_page_buffer(self, arena: Arena) -> None:
        with file_of(b"a", b"b") as fd, VmObject(fd) as o, o.grab(1) as page:
            assert o.size == 2 * PAGE_SIZE
            with sf_buf_alloc(page) as one, sf_buf_alloc(page) as two:
                assert one.kva == two.kva
                assert arena.stats().sfbufs_in_use == 1
                view = one.view()
                assert view.readonly
                sf_buf_free(one)
                assert view[:3] == b"bbb"  # it has a reference of its own
                third = sf_buf_ref(two)
                with pytest.raises(RefCountError):
                    sf_buf_free(one)
            assert third.copy(5, 2) == b"bb"
            del view
            sf_buf_free(third)
            assert arena.stats().sfbufs_in_use == 0
            assert page.info.wired == 1
        with pytest.raises(ClosedError):
            sf_buf_alloc(page)

    def test_a_files_page_has_a_record(self, arena: Arena, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(3 * PAGE_SIZE))
        st = path.stat()
        device = f"{os.major(st.st_dev)}:{os.minor(st.st_dev)}"
        # With a direct map the mapping stays.
        gone = ("unmap", "unref") if is_strict(arena) else ("unref",)
        assert file_page_info(path, 2) == ()
        with path.open("rb") as file, VmObject(file) as o:
            with o.grab(2) as page:
                here = sys._getframe().f_lineno - 1
                info = page.info
                assert info.file == FileId(device, st.st_ino, str(path))
                assert (info.index, info.state) == (2, "file")
                assert info.owner == "the caller that wired it"
                assert (info.wired, info.references, info.kva) == (1, 0, None)
                assert info.history == ("alloc",)
                assert info.allocated == f"{__file__}:{here}"
                with sf_buf_alloc(page) as sf:
                    (info,) = file_page_info(path, 2)
                    assert info == page.info
                    assert (info.owner, info.references) == ("the holder of its sf_buf", 1)
                    assert info.kva == sf.kva
                    assert info.history == ("ref", "map", "alloc")
                assert page.info.history == (*gone, "ref", "map", "alloc")
                assert page.info.freed.startswith(__file__)
                (known,) = mapped_files()
                assert (known.file, known.extents, known.users) == (info.file, 1, 1)
                assert known.mapped == (0 if is_strict(arena) else 3)
            (info,) = file_page_info((st.st_dev, st.st_ino), 2)
            assert (info.owner, info.kva is None) == ("nobody", is_strict(arena))
            (other,) = file_page_info(file, 0)
            assert other.history == (("alloc",) if is_strict(arena) else ("map", "alloc"))
            # A file that is opened again is known twice, and each has mappings of its own.
            with VmObject(file) as again, again.grab(2):
                assert [p.wired for p in file_page_info(path, 2)] == [0, 1]
        assert mapped_files() == ()
        assert file_page_info(path, 2) == ()
        # The descriptor's next page has a record of its own.
        with file_of(b"x") as fd, VmObject(fd) as o, o.grab(0) as page:
            assert page.info.history == ("alloc",)
            assert page.info.freed == "-"
        with pytest.raises(FileError, match="No such file"):
            file_page_info(tmp_path / "none", 0)
        with pytest.raises(ArgumentError):
            file_page_info(path, -1)

    def test_a_page_behind_the_end(self, arena: Arena) -> None:
        with file_of(b"a") as fd, VmObject(fd, arena=arena) as o:
            with o.grab(7) as page, pytest.raises(FileError, match="end of its file"):
                sf_buf_alloc(page)
            with o.grab(0) as page, sf_buf_alloc(page) as sf:
                os.ftruncate(fd, 0)
                with pytest.raises(FileError, match="shrank"):
                    sf.copy()

    def test_what_is_no_file(self, arena: Arena) -> None:
        with pytest.raises(FileError):
            VmObject(-1)
        r, w = os.pipe()
        try:
            with pytest.raises(ArgumentError):
                VmObject(r, arena=arena)
        finally:
            os.close(r)
            os.close(w)

    def test_out_of_buffers(self, arena: Arena) -> None:
        with file_of(*[b"x"] * 5) as fd, VmObject(fd) as o, contextlib.ExitStack() as stack:
            pages = [stack.enter_context(o.grab(i)) for i in range(5)]
            bufs = [stack.enter_context(sf_buf_alloc(p)) for p in pages[:4]]
            with pytest.raises(ResourceError):
                sf_buf_alloc(pages[4], SFB_NOWAIT)
            # Without SFB_NOWAIT it sleeps, and a free wakes it.
            got: list[int] = []
            sleeper = threading.Thread(
                target=lambda: got.append(len(sf_buf_alloc(pages[4]).copy()))
            )
            sleeper.start()
            while not arena.handle.arena or _sleeps(arena) == 0:
                pass
            assert not got
            sf_buf_free(bufs.pop())
            sleeper.join()
            assert got == [PAGE_SIZE]

    @pytest.mark.usefixtures("arena")
    def test_a_signal_ends_the_sleep(self) -> None:
        class Alarm(Exception):  # noqa: N818
            pass

        def on_alarm(*_: object) -> None:
            raise Alarm

        with file_of(*[b"x"] * 5) as fd, VmObject(fd) as o, contextlib.ExitStack() as stack:
            pages = [stack.enter_context(o.grab(i)) for i in range(5)]
            for page in pages[:4]:
                stack.enter_context(sf_buf_alloc(page))
            former = signal.signal(signal.SIGALRM, lambda *_: None)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
                with pytest.raises(SleepInterruptedError):
                    sf_buf_alloc(pages[4], SFB_CATCH)
                # As with system calls (PEP 475), only what the handler raises ends this call.
                signal.signal(signal.SIGALRM, on_alarm)
                with pytest.raises(Alarm):
                    sf_buf_alloc(pages[4])
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, former)


def _sleeps(arena: Arena) -> int:
    from nic_harness._native import ffi, lib

    s = ffi.new("struct sf_map_stats *")
    lib.sf_map_get_stats(arena.handle.sf_map, s)
    return int(s.sf_allocwait)


class TestLwbufAndQuick:
    def test_handles(self, arena: Arena) -> None:
        with jumbo_pg_alloc() as page:
            with lwbuf_alloc(page) as one, lwbuf_alloc(page) as two:
                one.view()[:2] = b"hi"
                assert two.view()[:2] == b"hi"
                assert lwbuf_count() == 2 * is_strict(arena)
                assert lwbuf_kva_bytes() >= lwbuf_count() * PAGE_SIZE
                view = one.view()
                with pytest.raises(BusyError):
                    lwbuf_free(one)
                del view
            assert lwbuf_count() == 0
            assert lwbuf_reserve() * PAGE_SIZE == lwbuf_kva_bytes()
            with pytest.raises(DoubleFreeError):
                lwbuf_free(one)

    @pytest.mark.usefixtures("arena")
    def test_a_quick_mapping_is_one_at_a_time(self) -> None:
        with jumbo_pg_alloc() as page, jumbo_pg_alloc() as other:
            with pmap_quick_enter_page(page) as quick:
                quick.view()[:2] = b"hi"
                with pytest.raises(QuickNestedError):
                    pmap_quick_enter_page(other)
                assert quick.view()[:2] == b"hi"  # the first one stays good
                errors: list[HarnessError] = []

                def remove() -> None:
                    try:
                        pmap_quick_remove_page(quick)
                    except QuickForeignError as e:
                        errors.append(e)

                thread = threading.Thread(target=remove)
                thread.start()
                thread.join()
                assert len(errors) == 1
            with pytest.raises(QuickForeignError):
                pmap_quick_remove_page(quick)
            with pytest.raises(QuickForeignError):
                pmap_quick_remove_page(0x1234)
            assert page.view()[:2] == b"hi"

    def test_a_call_that_might_sleep_is_named(self, arena: Arena) -> None:
        with (
            file_of(b"a") as fd,
            VmObject(fd, arena=arena) as o,
            o.grab(0) as page,
            pmap_quick_enter_page(page) as quick,
        ):
            assert quick.view().readonly
            with pytest.raises(QuickBlockingError):
                sf_buf_alloc(page)
            sf_buf_alloc(page, SFB_NOWAIT)


class TestPbuf:
    def test_a_counter_is_a_share_of_the_pool(self, arena: Arena) -> None:
        assert 16 <= nswbuf() <= 256
        mine = Pfreecnt(1)
        with getpbuf(mine) as bp:
            assert int(mine) == 0
            assert trypbuf(mine) is None
            bp.view()[:5] = b"hello"
            view = bp.view()
            with pytest.raises(BusyError):
                relpbuf(bp)
            with pytest.raises(ArenaBusyError):
                arena.close()
            del view
            with trypbuf() or pytest.fail("no limit but the pool's") as other:
                assert other.kva != bp.kva
        assert int(mine) == 1
        with pytest.raises(DoubleFreeError):
            relpbuf(bp)
        with pytest.raises(ClosedError):
            bp.view()
        with pytest.raises(ArgumentError):
            Pfreecnt(-2)

    @pytest.mark.usefixtures("arena")
    def test_a_file_is_read_into_its_window(self) -> None:
        with file_of(b"abc") as fd, getpbuf() as bp:
            assert os.preadv(fd, [bp.view()], 0) == PAGE_SIZE
            assert bp.view()[:5] == b"abccc"

    def test_not_under_a_quick_mapping(self, arena: Arena) -> None:
        with jumbo_pg_alloc() as page, pmap_quick_enter_page(page):
            with pytest.raises(QuickBlockingError):
                getpbuf()
            with trypbuf() or pytest.fail("trypbuf does not sleep"):
                pass
        assert nic_harness.stats(arena).pbuf.outstanding == 0


class TestMbuf:
    @pytest.mark.usefixtures("arena")
    def test_a_free_routine_runs_once_after_the_last_reference(self) -> None:
        calls: list[Any] = []
        storage = bytearray(b"0123456789")
        m = m_gethdr()
        m_extadd(m, storage, lambda buf, args: calls.append((buf, args)), "args")
        m.m_len = m.pkthdr_len = 10
        assert m_writable(m)
        copy, window = m_copypacket(m), m_copym(m, 3, 4)
        assert bytes(window) == b"3456"
        assert not m_writable(m)
        with pytest.raises(BufferError):
            storage.append(0)  # it is exported
        m_freem(m)
        m_freem(window)
        assert calls == []
        assert bytes(copy) == bytes(storage)
        del copy  # a handle frees its chain when it is collected
        assert calls == [(storage, "args")]
        storage.append(0)

    @pytest.mark.usefixtures("arena")
    def test_on_the_thread_that_dropped_the_last_reference(self) -> None:
        where: list[int] = []
        m = m_get()
        m_extadd(m, b"x", lambda *_: where.append(threading.get_ident()))
        thread = threading.Thread(target=m_freem, args=(m,))
        thread.start()
        ident = thread.ident
        thread.join()
        assert where == [ident]

    @pytest.mark.usefixtures("arena")
    def test_what_a_free_routine_raises_is_raised(self) -> None:
        def fail(buf: bytes, _: object) -> None:
            raise LookupError(buf)

        m = m_get()
        m_extadd(m, b"one", fail)
        with pytest.raises(LookupError, match="one") as e:
            m_freem(m)
        assert "external free routine" in e.value.__notes__[0]
        m, n = m_get(), m_get()
        m_extadd(m, b"one", fail)
        m_extadd(n, b"two", fail)
        m_cat(m, n)
        with pytest.raises(BaseExceptionGroup) as group:
            m_freem(m)
        assert [str(e) for e in group.value.exceptions] == ["b'one'", "b'two'"]

    @pytest.mark.usefixtures("arena")
    def test_a_routine_may_free_chains_itself(self) -> None:
        inner = m_get()
        m_extadd(inner, b"inner", lambda *_: 1 / 0)
        outer = m_get()
        m_extadd(outer, b"outer", lambda *_: m_freem(inner))
        with pytest.raises(ZeroDivisionError):
            m_freem(outer)

    @pytest.mark.usefixtures("arena")
    def test_with_no_call_to_raise_from_the_hook_gets_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caught: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", caught.append)
        m = m_get()
        m_extadd(m, b"x", lambda *_: 1 / 0)
        del m
        assert [c.exc_type for c in caught] == [ZeroDivisionError]

    def test_a_jumbo_page_as_storage(self, arena: Arena) -> None:
        page = jumbo_pg_alloc()
        m = m_get()
        m_extadd(m, page, jumbo_freem)
        assert not page.owned
        with pytest.raises(DoubleFreeError):
            jumbo_pg_free(page)
        m.m_len = PAGE_SIZE
        mtod(m)[:3] = b"abc"
        assert arena.stats().pages_in_use == 1
        m_freem(m)
        assert arena.stats().pages_in_use == 0

    def test_a_page_of_a_file_is_read_only(self, arena: Arena) -> None:
        with file_of(b"abc") as fd, VmObject(fd) as o, o.grab(0) as page:
            m = m_get()
            m_extadd(m, sf_buf_alloc(page))
            m.m_len = 5
            assert m.ext_type == EXT_SFBUF
            assert m.m_flags & M_RDONLY
            copy = m_copym(m)
            m_freem(m)
            assert copy.m_flags & M_RDONLY  # the copy has not lost the mark
            assert mtod(copy).readonly
            assert bytes(copy) == b"abccc"
            assert arena.stats().sfbufs_in_use == 1
            m_freem(copy)
            assert arena.stats().sfbufs_in_use == 0

    @pytest.mark.usefixtures("arena")
    def test_a_read_only_buffer_too(self) -> None:
        m = m_get()
        m_extadd(m, mmap.mmap(-1, 4096, prot=mmap.PROT_READ))
        assert not m_writable(m)
        m_freem(m)

    def test_handles_that_are_used_up(self, arena: Arena) -> None:
        m, n = self.packet(b"abc"), self.packet(b"def")
        m_cat(m, n)
        m.pkthdr_len = 6
        m.check()
        with pytest.raises(ClosedError):
            len(n)
        with pytest.raises(DoubleFreeError):
            m_freem(n)
        tail = m_split(m, 2)
        assert (bytes(m), bytes(tail)) == (b"ab", b"cdef")
        with pytest.raises(ArgumentError):
            m_cat(m, m)
        with pytest.raises(ArgumentError):
            m_split(m, 3)
        tail = m_pullup(tail, 3)
        assert len(mtod(tail)) >= 3
        tail = m_prepend(tail, 2)
        assert (len(tail), tail.pkthdr_len) == (6, 6)
        assert m_leadingspace(tail) >= 0
        with pytest.raises(ArgumentError):
            m_pullup(tail, 100)
        with pytest.raises(ClosedError):
            len(tail)
        rest = m_free(m)
        while rest is not None:  # m_split left an mbuf, perhaps an empty one
            rest = m_free(rest)
        assert arena.stats().mbufs_in_use == 0

    @pytest.mark.usefixtures("arena")
    def test_views_keep_the_chain_from_being_freed(self) -> None:
        m = self.packet(b"abc")
        (view,) = m.segments
        for operation in (m_freem, m_free, lambda m: m_pullup(m, 1), lambda m: m_split(m, 1)):
            with pytest.raises(BusyError):
                operation(m)
        view[0] = ord("A")
        assert m_copydata(m, 0, 1) == b"A"
        del view
        m_freem(m)

    @pytest.mark.usefixtures("arena")
    def test_lengths_stay_in_the_storage(self) -> None:
        with m_get() as m:
            for length in (-1, 1000, 1 << 40):
                with pytest.raises(ArgumentError):
                    m.m_len = length
            with pytest.raises(ArgumentError):
                m.pkthdr_len = 0
            with pytest.raises(ArgumentError):
                m_extadd(m, b"")
            with pytest.raises(ArgumentError):
                m_copym(m, 1)

    def packet(self, data: bytes) -> Mbuf:
        m = m_gethdr()
        m.m_len = m.pkthdr_len = len(data)
        mtod(m)[:] = data
        return m
