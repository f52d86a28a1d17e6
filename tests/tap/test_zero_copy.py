"""One physical frame: what the consumer sees, what the ring pointed at, what the page cache holds.

The numbers of page frames are the kernel's (/proc/self/pagemap), not ours.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Arena
from harness._native import ffi, lib
from harness.mbuf import m_extadd, m_freem, m_get, mtod
from harness.sf_buf import VmObject, sf_buf_alloc
from harness.vm_page import PAGE_SIZE, page_info


def address_of(view: memoryview | mmap.mmap) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(view)))


def frame_number(address: int) -> int:
    """Page frame behind an address, which was touched before."""
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE_SIZE * 8)
        (entry,) = struct.unpack("=Q", pagemap.read(8))
    assert entry >> 63, "the page is not in memory"
    number: int = entry & (1 << 55) - 1
    if number == 0:
        pytest.skip("the kernel hides page frame numbers from this user (no CAP_SYS_ADMIN)")
    return number


def memory_of(arena: Arena) -> int:
    """Descriptor of the arena's memfd: its page cache is the physical memory."""
    size = arena.handle.arena.npages * PAGE_SIZE
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found = "memfd:nic-harness" in str(fd.readlink()) and fd.stat().st_size == size
        except FileNotFoundError:
            continue
        if found:
            return int(fd.name)
    raise AssertionError("the arena has no memfd")


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("payload")
    os.write(fd, b"a" * PAGE_SIZE + b"b" * PAGE_SIZE)
    yield fd
    os.close(fd)


def test_a_received_page_is_the_one_that_was_on_the_ring(wire, frame_of):
    w = wire(mtu=9000)
    machine = w.nic.arena.handle
    w.kernel.send(frame_of(9000))
    (frame,) = w.nic.recv(timeout=5)
    with frame:
        cache = memoryview(mmap.mmap(memory_of(w.nic.arena), 0, prot=mmap.PROT_READ))
        base = address_of(cache)
        for view in frame.segments:
            address = address_of(view)
            seen = frame_number(address)
            page = lib.jumbo_page_at(machine.jumbo, ffi.cast("void *", address))
            # The page that was posted, and has not been anywhere else since.
            events = page_info(page.pindex, arena=w.nic.arena).history
            assert "alloc" not in events[: events.index("post") + 1]
            direct = int(ffi.cast("uintptr_t", lib.arena_kva(machine.arena, page)))
            assert direct != address // PAGE_SIZE * PAGE_SIZE
            assert ffi.cast("char *", direct)[100] is not None  # touch
            assert frame_number(direct) == seen
            assert cache[page.pindex * PAGE_SIZE] is not None
            assert frame_number(base + page.pindex * PAGE_SIZE) == seen
        assert w.nic.arena.bytes_copied == 0
        del cache, view, page


@pytest.mark.parametrize("strict", [False, True])
def test_a_page_on_its_way_out_is_the_page_caches(file, strict):
    with (
        Arena(8, strict=strict) as arena,
        VmObject(file) as o,
        o.grab(1) as page,
    ):
        cache = memoryview(mmap.mmap(file, 0, prot=mmap.PROT_READ))
        assert cache[PAGE_SIZE] == ord("b")
        expected = frame_number(address_of(cache) + PAGE_SIZE)
        sf = sf_buf_alloc(page)
        assert sf.kva != address_of(cache) + PAGE_SIZE
        assert frame_number(sf.kva) == expected
        m = m_get()
        m_extadd(m, sf)
        m.m_len = PAGE_SIZE
        view = mtod(m)
        assert view[0] == ord("b")
        assert frame_number(address_of(view)) == expected
        assert arena.bytes_copied == 0
        del view, cache
        m_freem(m)
