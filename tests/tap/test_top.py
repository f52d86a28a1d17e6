"""`harness top` and the control socket, against counts of the kernel and of this test."""

import json
import os
import subprocess
import sys

import pytest
from nic_harness import Arena, Faults, Nic, Tap
from nic_harness.control import ask
from nic_harness.errors import ClosedError

pytestmark = pytest.mark.each_device

TOP = [sys.executable, "-m", "nic_harness", "top", str(os.getpid()), "-i", "0.05"]


@pytest.fixture
def watched(frame_of):
    """Make a NIC that answers, with 300 frames received, 5 of them held, 20 sent, one refused."""
    with (
        Tap() as tap,
        Arena(1024, control=True) as arena,
        Nic(tap, arena, ring_size=64, faults=Faults(rx={"duplicate": 0})) as nic,
        tap.packet_socket() as kernel,
    ):
        for _ in range(10):
            for _ in range(30):
                kernel.send(frame_of(60))
            frames = []
            while len(frames) < 30:
                frames += nic.recv(timeout=60)
        del frames[5:]
        nic.send_many([frame_of(100)] * 20)
        nic.flush()
        with pytest.raises(ValueError, match="longer than MTU"):
            nic.send(frame_of(4000))
        yield tap, nic
        for frame in frames:
            frame.release()


def test_rings(watched):
    tap, nic = watched
    rx, tx = nic.rings()
    assert rx.size == tx.size == 64
    # One page for each frame; the kernel counts what it gave us.
    assert tap.stats().tx_packets == 300 == rx.used == rx.taken
    assert rx.avail == 64 + 300
    assert tx.avail == tx.used == tx.taken == tap.stats().rx_packets == 20


def test_the_answer_and_once_as_json(watched):
    tap, nic = watched
    done = subprocess.run([*TOP, "--json", "-"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for found in (json.loads(done.stdout), ask(os.getpid())):
        (arena,) = found["arenas"]
        (seen,) = arena["nics"]
        assert arena["jumbo"]["in_use"] == 64 + 5
        assert (seen["attached"], seen["interface"]) == (str(nic), "tap0")
        (queue,) = seen["queues"]
        assert queue["stats"]["rx_delivered"] == tap.stats().tx_packets
        assert queue["stats"]["tx_bytes"] == tap.stats().rx_bytes == 2000
        assert queue["rx"] == {"size": 64, "avail": 364, "used": 300, "taken": 300}
        assert {k: n for k, n in seen["drops"].items() if n} == {"tx_drop_size": 1}
        assert seen["faults"] == {"rx": {}, "tx": {}}
    rates = json.loads(done.stdout)["arenas"][0]["nics"][0]["rates"]
    assert set(rates.values()) == {0}  # nothing moved meanwhile


def test_once_for_a_person(watched):
    _, nic = watched
    done = subprocess.run([*TOP, "--once"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for text in (str(nic), "69 of 1024 pages", "rx 0 ████", "tx 0 ····", "too long to send 1"):
        assert text in done.stdout


def test_a_closed_nic_is_not_shown():
    with Tap() as tap, Arena(512, control=True) as arena:
        nic = Nic(tap, arena, ring_size=64)
        nic.close()
        assert [a["nics"] for a in ask(os.getpid())["arenas"]] == [[]]
        with pytest.raises(ClosedError):
            nic.rings()
