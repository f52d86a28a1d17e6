"""Tests that need a virtual machine: QEMU, emulated unless asked otherwise, and a kernel for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="session", autouse=True)
def _a_machine_can_be_run() -> None:
    """Say why no machine can run here, and which command would enable it."""
    check = subprocess.run([TOOLS / "vmrun", "--check"], capture_output=True, text=True)
    if check.returncode:
        pytest.skip(f"{check.stderr.strip()} (or, for all of it, tools/vmrun --setup)")
