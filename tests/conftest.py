"""After every test: nothing is left. No page, mapping, TAP, namespace, process or descriptor."""

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
    """Process IDs below one, from /proc."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie that its parent has yet to see."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def all_gone(pids: Sequence[int], seconds: float = 10) -> bool:
    """Whether none of the processes is there, now or soon."""
    deadline = time.monotonic() + seconds
    while any(runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def descriptors() -> dict[str, str]:
    """Open descriptors that a leak would show in: number and target."""
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except FileNotFoundError:
            continue  # that of the listing itself
        # A TAP queue was opened in another mount namespace: its path says "/net/tun".
        if target.startswith(("socket:", "pipe:", "anon_inode:", "/memfd:")) or (
            target.endswith("/net/tun")
        ):
            found[fd.name] = target
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Check conservation. An arena shows as its memfd: the last frame takes it along."""
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
    """Where `meson install` put the C library, without Python: always a plain build."""
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    checkout = Path(__file__).parents[1]
    # meson and ninja are those beside this Python, or tools/test's.
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
    """What the tests ask of /proc."""

    below = staticmethod(descendants)
    all_gone = staticmethod(all_gone)


@pytest.fixture(scope="session")
def processes() -> Processes:
    """processes.below(pid) and processes.all_gone(pids)."""
    return Processes()


class Interrupted(NamedTuple):
    """What became of a command that was sent a signal."""

    returncode: int
    stdout: bytes
    stderr: bytes


@pytest.fixture
def interrupt() -> Callable[..., Interrupted]:
    """Send a signal to a command while it works, and see that nothing of it stays.

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
