"""What is vhost-net's own: what it asks for, and that its worker goes when it should."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from harness import Arena, Nic, Tap
from harness.errors import UnsupportedError

pytestmark = pytest.mark.skipif(
    not os.access("/dev/vhost-net", os.R_OK | os.W_OK),
    reason="no /dev/vhost-net: modprobe vhost_net, or tools/vmrun, whose machine has it",
)

SENDS_FOR_EVER = """
from harness import Nic, Tap
with Tap(queues=2) as tap, Nic(tap, device="vhost_net") as nic:
    print("sending", flush=True)
    while True:
        for queue in range(2):
            nic.send_many([bytes(1000)] * 64, queue=queue)
"""


def workers() -> int:
    """Kernel threads of vhost's, whosever they are."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            count += (process / "comm").read_text().startswith("vhost-")
        except OSError:  # ended meanwhile
            continue
    return count


def wait_for_workers(many: int) -> None:
    deadline = time.monotonic() + 60
    while workers() > many:
        assert time.monotonic() < deadline, f"more than {many} workers"
        time.sleep(0.05)


def test_a_worker_for_each_queue_while_it_is_attached() -> None:
    before = workers()
    with Tap(queues=3) as tap, Nic(tap, device="vhost_net") as nic:
        assert workers() == before + 3
        assert nic.attached.device == "vhost_net"
    wait_for_workers(before)


def test_room_for_the_longest_frame_is_asked_for() -> None:
    with Tap() as tap, Arena(64) as arena:
        with pytest.raises(UnsupportedError, match="use ring_size=32 or more"):
            Nic(tap, arena, device="vhost_net", ring_size=16)
        with Nic(tap, arena, device="vhost_net", ring_size=32):
            pass
        assert arena.stats().outstanding() == ""


def test_kill_in_the_middle_leaves_no_worker(interrupt) -> None:
    before = workers()
    killed = interrupt([sys.executable, "-c", SENDS_FOR_EVER], until=b"sending")
    assert killed.returncode == -signal.SIGKILL
    wait_for_workers(before)
