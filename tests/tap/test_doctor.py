"""Where the main job can run, `harness doctor` reports what can be seen by other means."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from nic_harness import Tap
from nic_harness.plugins.doctor import State, diagnose

TUNSETOFFLOAD = 0x400454D0
#: Bits of linux/if_tun.h: what was asked for, with what the kernel wants beside it.
TUN_F = {"csum": 0x01, "tso4": 0x03, "tso6": 0x05, "ecn": 0x0B, "uso": 0x61}


def takes(fd: int, bits: int) -> bool:
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, bits)
    except OSError:
        return False
    return True


def test_what_this_machine_offers(device: str) -> None:
    report = diagnose()
    found = {f.name: f for f in report.findings}
    assert report.ok, [f for f in report.findings if f.state is State.BROKEN]
    assert report.device == device
    assert found["cores"].found == str(len(os.sched_getaffinity(0)))
    vhost = os.access("/dev/vhost-net", os.R_OK | os.W_OK)
    assert found["vhost_net"].state is (State.OK if vhost else State.LACKING)
    most = Path("/proc/sys/vm/max_map_count").read_text().strip()
    assert most in found["memory mappings"].found


def test_offloads_are_those_the_kernel_takes() -> None:
    with Tap() as tap:
        expected = {name: takes(tap.fds[0], bits) for name, bits in TUN_F.items()}
    assert diagnose().offloads == expected
