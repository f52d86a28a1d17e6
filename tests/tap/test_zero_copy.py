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
from nic_harness import Arena, Nic, Stack, Tap
from nic_harness._native import ffi, lib
from nic_harness.errors import BusyError
from nic_harness.flip import UserArea, recv_flip
from nic_harness.mbuf import m_extadd, m_freem, m_get, mtod
from nic_harness.sf_buf import VmObject, sf_buf_alloc
from nic_harness.vm_page import PAGE_SIZE, page_info


def address_of(view: memoryview | mmap.mmap) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(view)))


def frame_number(address: int) -> int:
    """Return the page frame behind an address that was touched before."""
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE_SIZE * 8)
        (entry,) = struct.unpack("=Q", pagemap.read(8))
    assert entry >> 63, "the page is not in memory"
    number: int = entry & (1 << 55) - 1
    if number == 0:
        pytest.skip("the kernel hides page frame numbers from this user (no CAP_SYS_ADMIN)")
    return number


def memory_of(arena: Arena) -> int:
    """Return the descriptor of the arena's memfd, whose page cache is the physical memory."""
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


def on_the_ring(nic: Nic, *, tx: bool) -> list[int]:
    """Return the addresses in those descriptors of a ring that were ever used."""
    ring = lib.nic_vring(nic.handle, 0, tx)
    return [ring.desc[i].addr for i in range(ring.num) if ring.desc[i].len]


def test_a_received_page_is_the_one_that_was_on_the_ring(wire, frame_of):
    w = wire(mtu=9000)
    machine = w.nic.arena.handle
    # Before the frame comes: what the device was told to write to, and the page frames that is.
    posted = {address: frame_number(address) for address in on_the_ring(w.nic, tx=False)}
    w.kernel.send(frame_of(9000))
    (frame,) = w.nic.recv(timeout=5)
    with frame:
        cache = memoryview(mmap.mmap(memory_of(w.nic.arena), 0, prot=mmap.PROT_READ))
        base = address_of(cache)
        for view in frame.segments:
            address = address_of(view)
            seen = frame_number(address)
            assert posted.pop(address // PAGE_SIZE * PAGE_SIZE) == seen
            page = lib.jumbo_page_at(machine.jumbo, ffi.cast("void *", address))
            # It has not been anywhere else since.
            assert page_info(page.pindex, arena=w.nic.arena).history[:3] == (
                "mbuf",
                "receive",
                "post",
            )
            direct = int(ffi.cast("uintptr_t", lib.arena_kva(machine.arena, page)))
            assert direct != address // PAGE_SIZE * PAGE_SIZE
            assert ffi.cast("char *", direct)[100] is not None  # touch
            assert frame_number(direct) == seen
            assert cache[page.pindex * PAGE_SIZE] is not None
            assert frame_number(base + page.pindex * PAGE_SIZE) == seen
        assert len(frame.segments) == 3
        assert w.nic.arena.bytes_copied == 0
        del cache, view, page


def test_a_page_that_was_received_becomes_the_users(wire, frame_of):
    w = wire(mtu=65520)
    posted = {address: frame_number(address) for address in on_the_ring(w.nic, tx=False)}
    w.kernel.send(frame_of(40_000))
    (frame,) = w.nic.recv(timeout=5)
    with UserArea(16, arena=w.nic.arena) as area:
        addresses = [address_of(view) // PAGE_SIZE * PAGE_SIZE for view in frame.segments]
        slice_of_it = frame.segments[1][:1]
        with pytest.raises(BusyError, match="slices"):
            recv_flip(frame, area)
        del slice_of_it
        at = area.offset_for(frame)
        assert recv_flip(frame, area, at) == 40_000
        assert frame.released
        assert len(addresses) == 10
        assert bytes(area.view(at, 40_000)) == frame_of(40_000)
        # All but the first and the last, which the data do not fill.
        for i in range(1, 9):
            view = area.view(i * PAGE_SIZE, PAGE_SIZE)
            assert view[0] is not None  # touch
            assert frame_number(address_of(view)) == posted[addresses[i]]
        del view
        s = area.stats()
        assert (s.pages_flipped, s.bytes_copied) == (8, 40_000 - 8 * PAGE_SIZE)
        assert w.nic.arena.bytes_copied == s.bytes_copied
        # A part of a frame stays a frame.
        w.kernel.send(frame_of(100))
        (frame,) = w.nic.recv(timeout=5)
        with frame:
            assert recv_flip(frame, area, 0, 60) == 60
            assert len(frame) == 40
            assert bytes(frame) == frame_of(100)[60:]
    w.nic.check()


def test_a_payload_behind_its_header_is_flipped_from_its_first_byte(wire, frame_of, device):
    if device == "vhost_net":
        pytest.skip("vhost_net does not split headers")
    w = wire(mtu=65520, header_split=14)
    w.kernel.send(frame_of(14 + 4 * PAGE_SIZE))
    (frame,) = w.nic.recv(timeout=5)
    with UserArea(8, arena=w.nic.arena) as area:
        at = area.offset_for(frame)
        assert at == PAGE_SIZE - 14
        assert recv_flip(frame, area, at) == 14 + 4 * PAGE_SIZE
        assert bytes(area.view(at, 14 + 4 * PAGE_SIZE)) == frame_of(14 + 4 * PAGE_SIZE)
        assert (area.stats().pages_flipped, area.stats().bytes_copied) == (4, 14)


def test_what_the_transmit_ring_points_at_is_the_page_cache(tmp_path):
    pages = 4096
    path = tmp_path / "payload"
    path.write_bytes(b"".join(i.to_bytes(8, "little") * (PAGE_SIZE // 8) for i in range(pages)))
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
        memoryview(mapped) as cache,
        Tap() as tap,
        Nic(tap) as nic,
        Stack(nic) as stack,
        tap.namespace.socket() as listener,
    ):
        base = address_of(cache)
        cached = {}
        for i in range(pages):
            assert cache[i * PAGE_SIZE] == i & 255  # touch
            cached[frame_number(base + i * PAGE_SIZE)] = i
        assert len(cached) == pages
        listener.bind((str(tap.address.ip), 0))
        listener.listen()
        seen: set[int] = set()

        def look(_handed_over: int) -> None:
            """Follow the descriptors while the file is mapped."""
            ring = lib.nic_vring(nic.handle, 0, True)
            for i in range(ring.num):
                address, length = ring.desc[i].addr, ring.desc[i].len
                if length < PAGE_SIZE:
                    continue  # headers
                for at in range(address // PAGE_SIZE * PAGE_SIZE, address + length, PAGE_SIZE):
                    number = cached[frame_number(at)]
                    content = ffi.cast("uint64_t *", at)[0]
                    assert content == number
                    seen.add(number)
            if len(seen) >= 8:
                raise LookedError

        # The peer does not read, so the transfer stops with the file mapped.
        connection = stack.connect(*listener.getsockname())
        with pytest.raises(LookedError):
            connection.sendfile(file, progress=look)
        connection.abort()
        assert nic.arena.bytes_copied == 0


class LookedError(Exception):
    """Enough was seen."""


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
