"""After every test, check that no page, mapping, TAP, namespace, process or descriptor is left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from nic_harness.base.live import open_resources


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        metavar="NAME",
        help="run tests/tap on this device; by default on the fastest, "
        "and the tests that are about devices on tap_rw and tap_uring",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    sanitizer = Path(sys.prefix).parent.name in ("asan", "tsan")
    if not sanitizer and os.environ.get("HARNESS_IN_VM") != "tcg":
        return
    for item in items:
        if marker := item.get_closest_marker("once"):
            item.add_marker(pytest.mark.skip(reason=f"not repeated here: {marker.args[0]}"))


# A shell without job control starts what it runs in the background with SIGINT ignored, and every
# command that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def descendants(pid: int) -> list[int]:
    """Return the IDs of a process's descendants, from /proc."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def runs(pid: int) -> bool:
    """Tell whether a process runs; a zombie that its parent has not yet seen does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def all_gone(pids: Sequence[int], seconds: float = 10) -> bool:
    """Tell whether all of the processes end, now or soon."""
    deadline = time.monotonic() + seconds
    while any(runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def descriptors() -> dict[str, str]:
    """Return the number and target of each open descriptor that a leak would show in."""
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        # A TAP queue was opened in another mount namespace, so its path is "/net/tun".
        if target.startswith(("socket:", "pipe:", "anon_inode:", "/memfd:")) or (
            target.endswith("/net/tun")
        ):
            found[fd.name] = target
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Check conservation. An arena shows as its memfd, which goes with the arena's last frame."""
    resources = set(map(id, open_resources()))
    fds, processes = descriptors(), set(descendants(os.getpid()))
    yield
    gc.collect()
    left = [r for r in open_resources() if id(r) not in resources]
    for resource in left:
        resource.close()
    assert not left, f"left open: {left}"
    new = [p for p in descendants(os.getpid()) if p not in processes]
    assert all_gone(new, 2), f"left running: {new}"
    assert not set(descriptors().items()) - set(fds.items()), "left descriptors open"


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where `meson install` put the C library, without Python, always a plain build."""
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    checkout = Path(__file__).parents[1]
    # Use the meson and ninja beside this Python, or those of tools/test.
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"}
    options = ["-Dpython=false", f"--prefix={prefix}", "--libdir=lib"]
    for command in (["setup", build, checkout, *options], ["install", "-C", build]):
        done = subprocess.run(
            ["meson", *command], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"meson {command}\n{done.stdout}{done.stderr}"
    return prefix


class Processes:
    """Questions that the tests ask /proc."""

    below = staticmethod(descendants)
    all_gone = staticmethod(all_gone)


@pytest.fixture(scope="session")
def processes() -> Processes:
    """processes.below(pid) and processes.all_gone(pids)."""
    return Processes()


class Interrupted(NamedTuple):
    """How a command ended that was sent a signal."""

    returncode: int
    stdout: bytes
    stderr: bytes


@pytest.fixture
def interrupt() -> Callable[..., Interrupted]:
    """Send a signal to a command while it works, and check that nothing of it stays.

    interrupt(argv, number, until=b"text"): start it in a session of its own, read its output until
    the text came, send the signal to it alone, wait for its end and for that of all below it.
    """

    def run(
        argv: Sequence[str | os.PathLike[str]],
        number: int = signal.SIGKILL,
        *,
        until: bytes,
        env: dict[str, str] | None = None,
    ) -> Interrupted:
        with subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        ) as command:
            assert command.stdout is not None
            seen = b""
            try:
                while until not in seen:
                    part = os.read(command.stdout.fileno(), 4096)
                    if not part:
                        raise AssertionError(f"ended early: {command.communicate()}, {seen!r}")
                    seen += part
                below = descendants(command.pid)
                command.send_signal(number)
                out, err = command.communicate(timeout=30)
            finally:
                command.kill()
            assert all_gone(below), f"outlived {argv[0]}: {[p for p in below if runs(p)]}"
            return Interrupted(command.returncode, seen + out, err)

    return run
