"""vhost_net in a virtual machine, which always has one: the C test and a part of tests/tap.

`tools/vmtest` runs all of tests/tap there for each device, which takes half an hour each.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

CHOSEN = [
    "tests/tap/test_vhost_net.py",
    "tests/tap/test_doctor.py",
    "tests/tap/test_moods.py",
    "tests/tap/test_nic.py::test_received_byte_for_byte",
    "tests/tap/test_nic.py::test_the_pool_runs_dry_and_recovers",
    "tests/tap/test_nic.py::test_many_queues",
]


@pytest.mark.timeout(1800)  # emulated, on a machine that has other work
def test_vhost_net() -> None:
    run = subprocess.run(
        ["tools/vmtest", "--cycles", "100", "vhost_net", "--", "-q", *CHOSEN],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    # Nothing is skipped for want of a vhost-net.
    summary = run.stdout.splitlines()[-1]
    assert re.search(r"\d+ passed", summary)
    assert "/dev/vhost-net" not in run.stdout
