"""vhost-net only: what it asks for, and that its worker ends when it should."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from nic_harness import Arena, Nic, Tap
from nic_harness.errors import UnsupportedError

pytestmark = pytest.mark.skipif(
    not os.access("/dev/vhost-net", os.R_OK | os.W_OK),
    reason="no /dev/vhost-net: modprobe vhost_net, or tools/vmrun, whose machine has it",
)

SENDS_FOR_EVER = """
import os
from nic_harness import Nic, Tap
with Tap(queues=2) as tap, Nic(tap, device="vhost_net") as nic:
    print(os.getpid(), "sending", flush=True)
    while True:
        for queue in range(2):
            nic.send_many([bytes(1000)] * 64, queue=queue)
"""


def workers(of: int) -> int:
    """Return the kernel threads of vhost for a process, which have its number in their names."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            count += (process / "comm").read_text() == f"vhost-{of}\n"
        except OSError:  # ended meanwhile
            continue
    return count


def wait_until_no_worker(of: int) -> None:
    deadline = time.monotonic() + 60
    while workers(of):
        assert time.monotonic() < deadline, f"a worker of {of} is still there"
        time.sleep(0.05)


def test_a_worker_for_each_queue_while_it_is_attached() -> None:
    us = os.getpid()
    wait_until_no_worker(us)  # of an earlier test
    with Tap(queues=3) as tap, Nic(tap, device="vhost_net") as nic:
        assert workers(us) == 3
        assert nic.attached.device == "vhost_net"
    wait_until_no_worker(us)


def test_room_for_the_longest_frame_is_asked_for() -> None:
    with Tap() as tap, Arena(64) as arena:
        with pytest.raises(UnsupportedError, match="use ring_size=32 or more"):
            Nic(tap, arena, device="vhost_net", ring_size=16)
        with Nic(tap, arena, device="vhost_net", ring_size=32):
            pass
        assert arena.stats().outstanding() == ""


def test_kill_in_the_middle_leaves_no_worker(interrupt) -> None:
    killed = interrupt([sys.executable, "-c", SENDS_FOR_EVER], until=b"sending")
    assert killed.returncode == -signal.SIGKILL
    wait_until_no_worker(int(killed.stdout.split()[0]))
