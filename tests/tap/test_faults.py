"""Faults between the rings and the wire do what their counters say, and lose nothing else."""

import os
import time
from collections import Counter

import pytest
from nic_harness import Faults, Offloads, Stack
from nic_harness.errors import ClosedError, UnsupportedError

pytestmark = pytest.mark.each_device

MANY = 400


def numbered(frame_of, i):
    return frame_of(200) + i.to_bytes(4, "big")


def settle(w):
    """Receive until nothing is under way any more; return the frames as bytes."""
    got = []
    quiet = 0
    # 20 ms, a poll each: longer than the longest delay and the longest stall; an emulated machine
    # may take longer to come round to a device that works on its own.
    while quiet < (100 if "HARNESS_IN_VM" in os.environ else 4):
        frames = w.nic.recv(timeout=0.005)
        quiet = 0 if frames else quiet + 1
        for frame in frames:
            with frame:
                got.append(bytes(frame))
    return got


def from_kernel(w, frame_of):
    sent = [numbered(frame_of, i) for i in range(MANY)]
    got = []
    for i in range(0, MANY, 50):
        for frame in sent[i : i + 50]:
            w.kernel.send(frame)
        got += settle(w)
    w.nic.check()
    return sent, got


def test_none_asked_for_none_done(wire, frame_of, device):
    w = wire(faults=Faults())
    sent, got = from_kernel(w, frame_of)
    assert got == sent
    assert w.nic.attached.device == f"faults({device})"
    assert w.nic.fault_stats().total == 0


def test_each_frame_dropped_is_counted_and_the_seed_repeats_it(wire, frame_of):
    runs = []
    for _ in range(2):
        w = wire(faults=Faults(seed=5, rx={"drop": 0.25}))
        sent, got = from_kernel(w, frame_of)
        dropped = w.nic.fault_stats().rx["drop"]
        assert 0 < dropped == MANY - len(got)
        assert got == [f for f in sent if f in set(got)]  # in order
        runs.append(got)
        w.nic.close()
        w.tap.close()
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    "kind",
    ["duplicate", "reorder", "delay", "stall"],
)
def test_frames_arrive_late_or_twice_but_whole(wire, frame_of, kind):
    w = wire(faults=Faults(rx={kind: 0.2}, delay_ns=2_000_000, stall_polls=4))
    sent, got = from_kernel(w, frame_of)
    done = w.nic.fault_stats().rx[kind]
    assert done > 0
    assert sorted(set(got)) == sorted(sent)
    assert len(got) == MANY + (done if kind == "duplicate" else 0)
    assert (got != sent) == (kind != "stall")


@pytest.mark.parametrize("kind", ["corrupt", "truncate", "short_used"])
def test_frames_arrive_broken(wire, frame_of, kind):
    w = wire(faults=Faults(rx={kind: 0.2}))
    sent, got = from_kernel(w, frame_of)
    done = w.nic.fault_stats().rx[kind]
    short = w.nic.stats().rx_drop_short  # cut to less than an Ethernet header
    assert len(got) == MANY - short
    broken = [f for f in got if f not in set(sent)]
    assert 0 < len(broken) == done - short
    for frame in broken:
        if kind == "corrupt":
            number = int.from_bytes(frame, "big")
            assert min((number ^ int.from_bytes(s, "big")).bit_count() for s in sent) == 1
        else:
            assert any(s.startswith(frame) for s in sent)


@pytest.mark.parametrize("kind", ["drop", "duplicate", "late", "corrupt", "delay"])
def test_on_the_way_out(wire, frame_of, kind):
    w = wire(faults=Faults(tx={kind: 0.2}, delay_ns=2_000_000))
    sent = [numbered(frame_of, i) for i in range(MANY)]
    got = []
    for i in range(0, MANY, 100):
        w.nic.send_many(sent[i : i + 100])
        settle(w)
        got += [w.kernel_recv() for _ in range(w.tap.stats().rx_packets - len(got))]
    done = w.nic.fault_stats().tx[kind]
    assert done > 0
    more = {"drop": -done, "duplicate": done}.get(kind, 0)
    got += [w.kernel_recv() for _ in range(MANY + more - len(got))]
    settle(w)
    assert w.tap.stats().rx_packets == len(got) == MANY + more
    if kind == "corrupt":
        assert (Counter(sent) - Counter(got)).total() == done
    else:
        assert set(got) <= set(sent)
        assert len(set(got)) == MANY + min(more, 0)
    s = w.nic.stats()
    assert (s.tx_queued, s.tx_outstanding) == (MANY, 0)
    w.nic.check()


def bad_sums(namespace):
    """Count the TCP segments that the kernel discarded for their checksum."""
    lines = namespace.read("/proc/net/snmp").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("InCsumErrors")])


@pytest.mark.parametrize(("offloads", "corrupt"), [(None, 0.1), (Offloads.NONE, 0.03)])
def test_tcp_gets_its_bytes_through_all_of_it(wire, tmp_path, offloads, corrupt):
    faults = Faults(
        rx={"drop": 0.01, "duplicate": 0.01, "reorder": 0.02, "corrupt": 0.03, "alloc": 0.05},
        tx={
            "drop": 0.01,
            "duplicate": 0.01,
            "reorder": 0.02,
            "late": 0.05,
            "corrupt": corrupt,
            "alloc": 0.02,
        },
    )
    w = wire(faults=faults, offloads=offloads)
    data = bytes(range(256)) * 2000
    path = tmp_path / "file"
    path.write_bytes(data)
    with w.tap.namespace.socket() as server, Stack(w.nic) as stack:
        server.bind(("198.18.0.1", 5001))
        server.listen()
        server.settimeout(60)
        with stack.connect("198.18.0.1", 5001, timeout=60) as connection:
            connection.sendfile(path)
            connection.shutdown()
            receiver, _ = server.accept()
            with receiver:
                receiver.settimeout(0.05)
                got = b""
                deadline = time.monotonic() + 120
                while time.monotonic() < deadline:
                    stack.poll()
                    try:
                        part = receiver.recv(1 << 20)
                    except TimeoutError:
                        continue
                    if not part:
                        break
                    got += part
            assert got == data
    done = w.nic.fault_stats()
    assert done.rx["alloc"] > 0
    # The receiver's check sees a turned bit, even if the sum was left to the device.
    assert done.tx["corrupt"] > 0
    assert bad_sums(w.tap.namespace) > 0
    w.nic.check()


def test_no_memory_for_a_frame_that_arrives(wire, frame_of):
    w = wire(faults=Faults(rx={"alloc": 0.2}))
    sent, got = from_kernel(w, frame_of)
    done = w.nic.fault_stats().rx["alloc"]
    s = w.nic.stats()
    assert 0 < done == s.rx_drop_no_page + s.rx_drop_no_mbuf == MANY - len(got)
    assert got == [f for f in sent if f in set(got)]


def test_zero_bytes_behind_a_frame(wire, frame_of):
    w = wire(faults=Faults(rx={"trailer": 0.2}))
    sent, got = from_kernel(w, frame_of)
    assert len(got) == MANY
    longer = [(s, g) for s, g in zip(sent, got, strict=True) if s != g]
    assert 0 < len(longer) == w.nic.fault_stats().rx["trailer"]
    for s, g in longer:
        assert (g[: len(s)], g[len(s) :].strip(b"\0")) == (s, b"")
        assert len(s) < len(g) <= len(s) + 64


def test_random_faults_leave_nothing_behind(wire, frame_of):
    w = wire(faults=Faults.random(11, most=0.2), ring_size=64)
    for i in range(MANY):
        w.kernel.send(numbered(frame_of, i))
        for frame in w.nic.recv(timeout=0):
            with frame:
                w.nic.send(frame)
        w.nic.check()
    settle(w)
    assert w.nic.fault_stats().total > 0


def test_a_nic_without_faults_has_none_to_count(wire):
    w = wire()
    with pytest.raises(UnsupportedError, match="the NIC has none"):
        w.nic.fault_stats()
    w.nic.close()
    with pytest.raises(ClosedError):
        w.nic.fault_stats()
