"""Chains with storage of one's own, completions, and waiting for room."""

import threading
import time

import pytest
from nic_harness import Faults
from nic_harness.errors import (
    ArgumentError,
    ArgumentTypeError,
    ClosedError,
    FrameError,
    FrameReleasedError,
    FrameSizeError,
    RingFullError,
)
from nic_harness.jumbo import jumbo_pg_alloc, jumbo_pg_free
from nic_harness.mbuf import m_cat, m_extadd, m_freem, m_get, m_gethdr

pytestmark = pytest.mark.each_device


def chain_of(arena, data, freef=None):
    """Make a packet whose storage is a buffer of Python's."""
    m = m_gethdr(arena=arena)
    m_extadd(m, data, freef)
    m.m_len = m.pkthdr_len = len(data)
    return m


def in_pages(arena, parts):
    """Make a packet of jumbo pages, with a part of it in each."""
    top = None
    for part in parts:
        page = jumbo_pg_alloc(arena=arena)
        page.view()[: len(part)] = part
        m = m_get(arena=arena) if top else m_gethdr(arena=arena)
        m_extadd(m, page)
        m.m_len = len(part)
        if top:
            m_cat(top, m)
        else:
            top = m
    top.pkthdr_len = sum(map(len, parts))
    return top


def test_pages_of_a_chain_go_out_from_where_they_lie(wire, frame_of):
    w = wire(mtu=9000)
    sent = frame_of(9000)
    m = in_pages(w.nic.arena, [sent[:100], sent[100:4196], sent[4196:8292], sent[8292:]])
    w.nic.send(m)
    assert w.kernel_recv() == sent
    assert w.nic.arena.bytes_copied == 0
    w.nic.send(m)  # it is still ours
    assert w.kernel_recv() == sent
    m_freem(m)
    w.nic.check()


def test_storage_outside_of_the_arena_is_copied_and_counted(wire, frame_of):
    w = wire()
    freed = []
    m = chain_of(w.nic.arena, bytearray(frame_of(1000)), lambda buf, _: freed.append(bytes(buf)))
    w.nic.send(m)
    assert w.kernel_recv() == frame_of(1000)
    assert w.nic.arena.bytes_copied == 1000
    assert freed == []
    m_freem(m)
    assert freed == [frame_of(1000)]


def test_a_free_routine_runs_when_the_frame_is_out_and_not_before(wire, frame_of):
    w = wire(faults=Faults(tx={"late": 1}, delay_ns=200_000_000))
    freed = []
    pages = [jumbo_pg_alloc(arena=w.nic.arena) for _ in range(20)]
    for i, page in enumerate(pages):
        sent = frame_of(100 + i)
        page.view()[: len(sent)] = sent
        m = m_gethdr(arena=w.nic.arena)
        m_extadd(m, page.view()[: len(sent)], lambda _buf, i: freed.append(i), i)
        m.m_len = m.pkthdr_len = len(sent)
        w.nic.send(m)
        m_freem(m)
        assert w.kernel_recv() == sent
    out = w.nic.stats()
    assert out.tx_outstanding + len(freed) == 20 == out.tx_queued
    deadline = time.monotonic() + 30
    while len(freed) < 20:
        assert time.monotonic() < deadline
        assert w.nic.recv(timeout=0.01) == []  # receiving alone gets them back, too
    assert sorted(freed) == list(range(20))
    assert w.nic.stats().tx_outstanding == 0
    for page in pages:
        jumbo_pg_free(page)


def test_a_free_routine_may_send_and_what_it_raises_loses_no_frame(wire, frame_of):
    w = wire(faults=Faults(tx={"late": 1}, delay_ns=20_000_000))
    second = frame_of(70)

    def send_another(_buf, _args):
        w.nic.send(second)  # no lock is held
        raise KeyError("said")

    page = jumbo_pg_alloc(arena=w.nic.arena)
    page.view()[:60] = frame_of(60)
    m = m_gethdr(arena=w.nic.arena)
    m_extadd(m, page, send_another)
    m.m_len = m.pkthdr_len = 60
    w.nic.send(m)
    m_freem(m)
    assert w.kernel_recv() == frame_of(60)
    got = []

    def receive():
        for i in range(1000):
            w.kernel.send(frame_of(100 + i))
            got.extend(map(len, w.nic.recv(timeout=5)))
            time.sleep(0.001)

    with pytest.raises(KeyError, match="said"):
        receive()
    got.extend(map(len, w.nic.recv(1000, timeout=0)))
    assert got == [100 + i for i in range(len(got))]
    assert w.kernel_recv() == second
    assert w.nic.stats().rx_delivered == len(got)
    jumbo_pg_free(page)
    w.nic.check()


def test_a_frame_that_cannot_be_sent_stays_with_its_owner(wire, frame_of):
    w = wire()
    freed = []
    long = chain_of(w.nic.arena, bytearray(frame_of(2000)), lambda *_: freed.append("long"))
    with pytest.raises(FrameSizeError, match="frame of 2000 bytes"):
        w.nic.send(long)
    assert freed == []
    assert bytes(long) == frame_of(2000)
    m_freem(long)
    assert freed == ["long"]
    plain = m_get(arena=w.nic.arena)
    with pytest.raises(FrameError, match="pkthdr_len is None; use m_gethdr"):
        w.nic.send(plain)
    m_freem(plain)
    wrong = chain_of(w.nic.arena, bytearray(frame_of(100)))
    wrong.pkthdr_len = 99
    with pytest.raises(FrameError, match="pkthdr_len is 99"):
        w.nic.send(wrong)
    m_freem(wrong)
    w.nic.check()


def released_frame(w, frame_of):
    w.kernel.send(frame_of(70))
    (frame,) = w.nic.recv(timeout=60)
    frame.release()
    return frame


def released_view(w, frame_of):
    w.kernel.send(frame_of(70))
    with w.nic.recv_burst(timeout=60) as burst:
        return burst[0]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda *_: 7, ArgumentTypeError, "a bytes-like object is required, not 'int'"),
        (lambda *_: memoryview(bytes(60))[::2], ArgumentTypeError, "not C-contiguous"),
        (lambda *_: bytes(2000), FrameSizeError, "longer than MTU"),
        (released_frame, FrameReleasedError, "was released"),
        (released_view, FrameReleasedError, "send a memoryview: it was released"),
    ],
    ids=["int", "gaps", "long", "frame", "view"],
)
def test_what_comes_before_a_bad_frame_is_sent(wire, frame_of, make, error, said):
    w = wire(tx_ring_size=32)
    bad = make(w, frame_of)
    sent = [frame_of(60 + i) for i in range(40)]  # more than the ring holds
    queued = 0
    for before in (sent[:2], [], sent):
        with pytest.raises(error, match=said):
            w.nic.send_many([*before, bad, sent[0]], timeout=60)
        queued += len(before)
        assert w.nic.stats().tx_queued == queued
        assert [w.kernel_recv() for _ in before] == before
    w.nic.flush(60)
    assert w.nic.stats().tx_completed == queued
    w.nic.check()


@pytest.mark.polled("it does not tell of an interface that is down")
def test_waiting_for_room(wire, frame_of):
    w = wire(tx_ring_size=32)
    assert w.nic.wait_tx_room(16, timeout=0)
    with pytest.raises(ArgumentError, match="17 frames of 1 pieces and a header each in 32"):
        w.nic.wait_tx_room(17)
    w.tap.set_link(up=False)
    with pytest.raises(RingFullError):
        w.nic.send_many([frame_of(60)] * 40, timeout=0)
    queued = w.nic.stats().tx_queued
    assert not w.nic.wait_tx_room(16, timeout=0.05)
    timer = threading.Timer(0.05, w.tap.set_link, kwargs={"up": True})
    timer.start()
    assert w.nic.wait_tx_room(16, timeout=30)
    timer.join()
    assert w.nic.stats().tx_outstanding == 0
    assert w.nic.stats().tx_completed == queued
    w.nic.check()


@pytest.mark.polled("it does not tell of an interface that is down")
def test_closing_ends_a_wait_for_room(wire, frame_of):
    w = wire(tx_ring_size=32)
    w.tap.set_link(up=False)
    timer = threading.Timer(0.05, w.nic.close)
    with pytest.raises(RingFullError):
        w.nic.send_many([frame_of(60)] * 40, timeout=0)
    timer.start()
    with pytest.raises(ClosedError, match="was closed"):
        w.nic.wait_tx_room(16)
    timer.join()


@pytest.mark.polled("it does not tell of an interface that is down")
def test_what_is_on_the_ring_goes_back_when_the_nic_is_closed(wire, frame_of):
    w = wire(tx_ring_size=32)
    freed = []
    w.tap.set_link(up=False)
    page = jumbo_pg_alloc(arena=w.nic.arena)
    page.view()[:60] = frame_of(60)

    def free(*_):
        freed.append(w.nic.closed)
        raise KeyError("said")

    m = m_gethdr(arena=w.nic.arena)
    m_extadd(m, page, free)
    m.m_len = m.pkthdr_len = 60
    w.nic.send(m)
    m_freem(m)
    assert w.nic.stats().tx_outstanding == 1
    assert freed == []
    with pytest.raises(KeyError, match="said"):
        w.nic.close()
    assert freed == [True]
    jumbo_pg_free(page)
