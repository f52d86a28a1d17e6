"""tools/vmrun itself: what its machine offers, what it leaves behind, how it ends.

Every machine that gets as far as its command takes about ten seconds under emulation,
so one of them answers several questions.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

VMRUN = str(Path(__file__).parents[2] / "tools" / "vmrun")


def vmrun(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VMRUN, *arguments], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def qemu_of(pid: int) -> set[int]:
    """Return the children that are QEMU; a wrapper in place of python3 has others before it."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {int(p) for p in found if Path(f"/proc/{p}/comm").read_text().startswith("qemu")}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def wait_until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def started() -> Iterator[subprocess.Popen[bytes]]:
    """Start a vmrun that would run for minutes, and wait until its QEMU runs."""
    with subprocess.Popen([VMRUN, "sleep 200"], stderr=subprocess.PIPE) as process:
        wait_until(lambda: qemu_of(process.pid), "QEMU was not started")
        yield process
        process.kill()


def test_output_status_and_place(tmp_path: Path) -> None:
    run = vmrun(
        "--accel",
        "tcg",
        "pwd; echo $HARNESS_IN_VM; echo complaint >/dev/stderr; exit 7",
        cwd=tmp_path,
    )
    assert run.stdout == f"{tmp_path}\ntcg\n"
    assert run.stderr == "complaint\n"
    assert run.returncode == 7


def test_devices_share_and_read_only_root(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "kept").write_text("host\n")
    command = """
        test -c /dev/vhost-net && test -c /dev/net/tun && test "$(id -u)" = 0 || exit 90
        echo guest >kept && echo guest >new && cat kept
        echo result >share/result
        ls /sys/class/net
        sleep 1000 &
        head -c 3000000 /dev/zero
    """
    run = vmrun("--share", str(tmp_path / "share"), command, cwd=tmp_path)
    assert run.returncode == 0
    # Every byte arrives, and what still runs does not keep the machine alive.
    assert run.stdout == "guest\nlo\n" + "\0" * 3_000_000
    assert (tmp_path / "kept").read_text() == "host\n"
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "share" / "result").read_text() == "result\n"


def test_time_limit() -> None:
    run = vmrun("--limit", "1", "true")
    assert run.returncode == 124
    assert run.stderr.startswith("vmrun: ended at its limit of 1 s, before COMMAND was started")


#: vmrun with its constants changed; its arguments follow.
CHANGED = """
import importlib.machinery, importlib.util, json, sys
loader = importlib.machinery.SourceFileLoader("vmrun", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("vmrun", loader))
loader.exec_module(module)
vars(module).update(json.loads(sys.argv[2]))
sys.exit(module.main(sys.argv[3:]))
"""


def changed(command: str, **constants: int) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", CHANGED, VMRUN, json.dumps(constants), command]
    environment = {k: v for k, v in os.environ.items() if k != "HARNESS_VM_LIMIT"}
    return subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_silent_command_may_take_its_time_and_gives_signs_of_life() -> None:
    with changed("sleep 6; exit 5", SILENCE_S=1, BOOT_IDLE_S=600) as run:
        _, err = run.communicate()
    assert run.returncode == 5
    lines = err.splitlines()
    assert len(lines) > 3
    sign = re.compile(r"vmrun: running for \d+ s; lately the machine used \d+\.\d\d CPUs")
    assert all(sign.fullmatch(line) for line in lines), err


def test_a_boot_that_does_not_get_on_is_ended() -> None:
    with changed("true", BOOT_CPU_S=1) as run:
        _, err = run.communicate()
    assert run.returncode == 124
    assert re.match(r"vmrun: ended: still booting after \d+ s of CPU time, before COMMAND", err)
    with changed("true", BOOT_IDLE_S=3) as run:
        wait_until(lambda: qemu_of(run.pid), "QEMU was not started")
        (machine,) = qemu_of(run.pid)
        os.kill(machine, signal.SIGSTOP)
        _, err = run.communicate()
    assert run.returncode == 124
    assert err.startswith("vmrun: ended: no progress for 3 s, before COMMAND was started")


def test_panic_is_told_from_a_status() -> None:
    run = vmrun("echo c >/proc/sysrq-trigger; sleep 100")
    assert run.returncode == 126
    assert run.stderr.startswith("vmrun: the machine went away, while COMMAND ran")
    assert "sysrq triggered crash" in run.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing(started: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    machine = qemu_of(started.pid)
    started.send_signal(signum)
    expected = -signum if signum == signal.SIGKILL else 128 + signum
    assert started.wait(30) == expected
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in machine), "QEMU is still there"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND is missing"),
        (["--memory", "much", "true"], "'much' is not a positive number"),
        (["--accel", "magic", "true"], "acceleration is tcg or kvm"),
        (["--module", "no_such", "true"], "has no module no_such"),
        (["--share", "/no/such", "true"], "/no/such is not a directory"),
    ],
)
def test_wrong_usage_is_its_own_status(arguments: list[str], complaint: str) -> None:
    run = vmrun(*arguments)
    assert run.returncode == 125
    assert complaint in run.stderr
    assert run.stdout == ""
