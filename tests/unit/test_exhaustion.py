"""Calls without memory, mappings or descriptors are refused and counted, and then all is well.

Each in a process of its own, for the limits are the process's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMON = """
import mmap, os, resource
import nic_harness
from nic_harness import Arena
from nic_harness.errors import ResourceError
from nic_harness.jumbo import jumbo_pg_alloc, jumbo_pg_free, jumbo_pg_steal, vm_page_free
from nic_harness.lwbuf import lwbuf_alloc, lwbuf_count
from nic_harness.mbuf import m_get, m_freem
from nic_harness.pmap import pmap_quick_enter_page
from nic_harness.sf_buf import VmObject, sf_buf_alloc, SFB_NOWAIT

def refused(call, *args):
    try:
        call(*args)
    except ResourceError as e:
        return str(e)
    raise AssertionError(f"{call} was not refused")

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def soft(limit, value):
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (value, hard))

def unlimited(limit):
    soft(limit, resource.getrlimit(limit)[1])
"""


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + program], capture_output=True, text=True, check=False
    )
    if done.stdout.startswith("skip: "):
        pytest.skip(done.stdout[6:].strip())
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}{done.stderr}"
    assert done.stderr == ""


@pytest.mark.parametrize("strict", [False, True])
def test_out_of_memory(strict: bool) -> None:
    # A memfd cannot grow beyond RLIMIT_FSIZE: the kernel refuses every growth.
    run(
        f"""
with Arena(64, max_pages=1024, strict={strict}) as arena:
    pages = [jumbo_pg_alloc() for _ in range(64)]
    mbufs = [m_get() for _ in range(256)]
    soft(resource.RLIMIT_FSIZE, arena.handle.arena.npages * 4096)
    for _ in range(3):
        refused(jumbo_pg_alloc)
        refused(m_get)
    before = nic_harness.stats()
    assert (before.jumbo.refused, before.mbuf.refused) == (3, 3), before
    assert (before.jumbo.total, before.mbuf.total) == (64, 256)
    # A slot whose page was stolen finds no other page, and waits.
    stolen = jumbo_pg_steal(pages.pop())
    refused(jumbo_pg_alloc)
    unlimited(resource.RLIMIT_FSIZE)
    pages += [jumbo_pg_alloc() for _ in range(200)]
    mbufs += [m_get() for _ in range(1000)]
    for page in pages:
        jumbo_pg_free(page)
    for m in mbufs:
        m_freem(m)
    vm_page_free(stolen)
    after = nic_harness.stats()
    assert after.jumbo.in_use == after.mbuf.in_use == 0
    assert after.jumbo.refused == 4
    assert after.misuses == {{}}
"""
    )


@pytest.mark.skipif(
    Path(sys.prefix).parent.name in ("asan", "tsan"),
    reason="a sanitizer needs the address space for itself",
)
def test_out_of_address_space() -> None:
    run(
        """
Arena(8).close()
before = descriptors()
soft(resource.RLIMIT_AS, 1 << 31)
for _ in range(10):
    refused(Arena, 8)
assert descriptors() == before
unlimited(resource.RLIMIT_AS)
with Arena(8), jumbo_pg_alloc() as page:
    assert page.view()[0] == 0
"""
    )


def test_out_of_descriptors() -> None:
    run(
        """
fd = os.memfd_create("file")
os.write(fd, b"x" * 8192)
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
with Arena(8) as arena:
    before = descriptors()
    lowest_free = os.dup(fd); os.close(lowest_free)
    soft(resource.RLIMIT_NOFILE, lowest_free)
    for _ in range(10):
        assert "Too many open files" in refused(VmObject, fd)
        refused(Arena, 8)
    soft(resource.RLIMIT_NOFILE, limit)
    assert descriptors() == before
    with VmObject(fd) as o, o.grab(1) as page, sf_buf_alloc(page) as sf:
        assert sf.copy(0, 1) == b"x"
"""
    )


@pytest.mark.parametrize("strict", [False, True])
def test_out_of_mappings(strict: bool) -> None:
    run(
        f"""
most = int(open("/proc/sys/vm/max_map_count").read())
if most > 300000:
    print(f"skip: vm.max_map_count is {{most}}: too many to make")
    raise SystemExit
strict = {strict}

fd = os.memfd_create("file")
os.write(fd, b"x" * 8192)
with Arena(64, strict=strict) as arena, VmObject(fd) as o, o.grab(1) as file_page:
    pages = [jumbo_pg_alloc() for _ in range(64)]
    page = pages.pop(20)
    # In the midst of the pool's address space there is a slot without a page.
    stolen = jumbo_pg_steal(pages.pop(30))
    # Every second page of a region may not be written: neighbours that cannot be one mapping.
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = (most + 64) * 4096
    region = mmap.mmap(-1, size)
    base = ctypes.addressof(ctypes.c_char.from_buffer(region))
    n = 0
    while libc.mprotect(base + n * 8192, 4096, mmap.PROT_READ) == 0:
        n += 1
        assert n * 8192 < size, "never refused"
    seen = nic_harness.stats()
    refusals = [lambda: sf_buf_alloc(file_page, SFB_NOWAIT)]
    if strict:
        refusals += [
            lambda: lwbuf_alloc(page),
            lambda: sf_buf_alloc(page, SFB_NOWAIT),
            lambda: pmap_quick_enter_page(page),
        ]
    for call in refusals:
        for _ in range(3):
            refused(call)
    if not strict:
        refused(jumbo_pg_alloc)
    # (In strict mode the slot is a mapping of nothing already, which another mapping replaces.)
    after = nic_harness.stats()
    assert after.jumbo.refused == seen.jumbo.refused + (not strict)
    assert after.jumbo.in_use == after.jumbo.total == 63
    assert after.sf_buf.nsfbufsused == 0 and after.sf_buf.extents_mapped == 0, after.sf_buf
    assert lwbuf_count() == 0

    libc.mprotect(base, size, mmap.PROT_READ | mmap.PROT_WRITE)
    with sf_buf_alloc(file_page) as sf, lwbuf_alloc(page) as lwb, pmap_quick_enter_page(page) as q:
        assert sf.copy(0, 1) == b"x"
        lwb.view()[0] = 7
        assert q.view()[0] == 7
    with sf_buf_alloc(page) as sf:
        assert sf.copy(0, 1) == bytes([7])
    pages += [page, jumbo_pg_alloc()]
    refused(jumbo_pg_alloc)
    for p in pages:
        jumbo_pg_free(p)
    vm_page_free(stolen)
    assert nic_harness.stats().jumbo.in_use == 0
    assert nic_harness.stats().misuses == {{}}
"""
    )
