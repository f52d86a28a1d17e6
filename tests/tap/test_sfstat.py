"""What sendfile(2) counts in struct sfstat, against what was asked for."""

import os

import nic_harness
import pytest
from nic_harness import Arena, Nic, Stack, Strategy, Tap
from nic_harness.vm_page import PAGE_SIZE

PAGES = 100


@pytest.mark.parametrize("sfbufs", [8, 4096])
def test_figures_of_a_transfer(sfbufs, tmp_path):
    path = tmp_path / "file"
    data = os.urandom(PAGES * PAGE_SIZE)
    path.write_bytes(data)
    with (
        Tap() as tap,
        Arena(2048, sfbufs=sfbufs) as arena,
        Nic(tap, arena) as nic,
        Stack(nic) as stack,
        tap.namespace.socket() as listener,
    ):
        listener.bind((str(tap.address.ip), 0))
        listener.listen()
        listener.settimeout(30)
        got = bytearray()
        with stack.connect(*listener.getsockname(), timeout=10) as connection:
            peer, _ = listener.accept()
            with peer:
                peer.setblocking(False)

                def read(_handed_over=0):
                    try:
                        while part := peer.recv(1 << 20):
                            got.extend(part)
                    except BlockingIOError:
                        pass

                before = nic_harness.stats(arena)
                done = connection.sendfile(path, strategy=Strategy.SF_BUF, progress=read)
                assert done.sbytes == len(data)
                while len(got) < len(data):
                    stack.serve(0.01)
                    read()
                connection.drain(30)
        assert got == data
        after = nic_harness.stats(arena)
    s = after.sfstat
    assert s.sf_syscalls == before.sfstat.sf_syscalls + 1
    # Each page of the file was taken once, from a mapping.
    assert s.sf_pages_valid == PAGES
    # Out of buffers there is a chunk cut short, and never more of them than there are.
    assert (s.sf_allocfail > 0) is (sfbufs < PAGES)
    assert after.sf_buf.nsfbufspeak <= sfbufs
    assert (after.sf_buf.nsfbufspeak == sfbufs) is (sfbufs < PAGES)
    assert (after.sf_buf.nsfbufsused, after.sf_buf.wired) == (0, 0)
