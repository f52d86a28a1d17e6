"""Arenas and chains, without a NIC."""

import gc

import pytest
from nic_harness import Arena, Chain, Gso, Offload, Offloads
from nic_harness._native import ffi, lib
from nic_harness.errors import ArenaBusyError, ArgumentError, ClosedError, FrameReleasedError


def chain_of(arena: Arena, data: bytes) -> Chain:
    machine = arena.handle
    described = ffi.new("struct frame *")
    lib.frame_describe(lib.mb_frombytes(machine.mbufs, machine.jumbo, data, len(data)), described)
    return Chain(described, arena._free_chain)


def test_sums_and_close():
    with Arena(64, max_pages=128) as arena:
        s = arena.stats()
        assert (s.pages_total, s.pages_free, s.pages_in_use, s.pages_max) == (64, 64, 0, 128)
        assert s.mbufs_free + s.mbufs_in_use == s.mbufs_total
        assert s.outstanding() == ""
        assert arena.bytes_copied == 0
        assert arena.last_misuse() is None
    assert arena.closed
    for use in (arena.stats, lambda: arena.bytes_copied, arena.last_misuse):
        with pytest.raises(ClosedError):
            use()


@pytest.mark.parametrize(
    "sizes", [{"pages": 0}, {"pages": -1}, {"pages": 1 << 32}, {"pages": 64, "max_pages": 63}]
)
def test_sizes_out_of_range(sizes):
    with pytest.raises(ArgumentError):
        Arena(**sizes)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("size", [0, 1, 100, 4096, 4097, 100_000])
def test_views_of_a_chain(size, strict):
    data = bytes(i * 7 & 255 for i in range(size))
    with Arena(64, strict=strict) as arena:
        with chain_of(arena, data) as chain:
            assert len(chain) == size
            assert b"".join(chain) == data
            assert sum(map(len, chain.segments)) == size
            copied = arena.bytes_copied
            assert bytes(chain) == data
            assert arena.bytes_copied - copied == size
            if len(chain.segments) <= 1:
                assert chain.data == data
        assert chain.released
        with pytest.raises(FrameReleasedError):
            bytes(chain)
        assert arena.stats().outstanding() == ""


def test_the_last_slice_gives_the_page_back():
    with Arena(64) as arena:
        chain = chain_of(arena, bytes(range(250)) * 20)
        first, second = chain.segments
        slices = [first[5:10], second[:3]]
        del first, second
        chain.release()
        with pytest.raises(ArenaBusyError, match="2 pages, 2 mbufs in use"):
            arena.close()
        del slices[0]
        assert arena.stats().pages_in_use == 2  # a chain goes as a whole
        assert bytes(slices[0]) == bytes([4096 % 250, 4097 % 250, 4098 % 250])
        slices.clear()
        assert arena.stats().outstanding() == ""


def test_numpy_keeps_the_page_too():
    numpy = pytest.importorskip("numpy")
    with Arena(64) as arena:
        chain = chain_of(arena, bytes(range(200)))
        array = numpy.frombuffer(chain.data, dtype=numpy.uint8)
        chain.release()
        assert array.sum() == sum(range(200))
        assert arena.stats().pages_in_use == 1
        del array
        assert arena.stats().outstanding() == ""


def test_dropped_without_release():
    with Arena(64) as arena:
        chain_of(arena, bytes(5000))
        assert arena.stats().outstanding() == ""
        loop = [chain_of(arena, bytes(5000))]
        loop.append(loop)
        del loop
        gc.collect()
        assert arena.stats().outstanding() == ""


def test_an_exception_is_not_hidden_by_what_it_leaves_open():
    with pytest.raises(ZeroDivisionError) as caught, Arena(64) as arena:  # noqa: PT012
        chain = chain_of(arena, bytes(1000))
        _ = 1 / 0
    del caught
    chain.release()
    arena.close()


def test_a_double_free_is_named():
    with Arena(64) as arena:
        jumbo = arena.handle.jumbo
        chain = chain_of(arena, bytes(1000))
        page = chain._data
        chain.release()
        lib.jumbo_free(jumbo, page, ffi.NULL)
        misuse = arena.last_misuse()
        assert misuse is not None
        assert (misuse.kind, misuse.state) == ("double free", "free")
        assert misuse.history[0] == "free"
        assert arena.stats().misuses == 1


def test_offload_fields_round_trip():
    o = Offload(
        needs_csum=True,
        csum_start=34,
        csum_offset=16,
        gso=Gso.TCP4,
        gso_size=1448,
        hdr_len=66,
        ecn=True,
    )
    tx = ffi.new("struct frame_tx *")
    o._put(tx)
    assert Offload._of(tx) == o
    Offload()._put(tx)
    assert Offload._of(tx) == Offload()


def test_offloads_are_told_by_name():
    assert str(Offloads.NONE) == "none"
    assert str(Offloads.CSUM | Offloads.USO) == "csum uso"
    assert str(Offloads.ALL) == "csum tso4 tso6 ecn uso"
