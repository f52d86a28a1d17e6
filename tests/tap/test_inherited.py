"""What a process inherits, or did to itself, and the namespace works all the same or says why not.

Each program runs in a process of its own: what it does to itself is not to be undone here.
"""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress

import pytest
from nic_harness.errors import CommandError
from nic_harness.wire.netns import Namespace


@pytest.fixture
def ns():
    with Namespace() as namespace:
        yield namespace


#: A namespace, a command in it, its end and its output; a file through the rings.
WORKS = """
import os, signal, subprocess, sys
from nic_harness import Namespace, Nic, Tap
def works():
    with Tap() as tap, Nic(tap, device="tap_rw") as nic:
        done = tap.namespace.run(["echo", "hello"], capture_output=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, b"hello\\n"), done
        with tap.namespace.popen(["sleep", "600"]) as process:
            process.terminate()
            assert process.wait(60) == -signal.SIGTERM
        assert tap.namespace.run(["true"], timeout=60).returncode == 0
        frame = bytes.fromhex("020000000001 020000000002 88b5") + bytes(46)
        with tap.packet_socket() as kernel:
            kernel.settimeout(60)
            nic.send(frame)
            assert kernel.recv(100) == frame
"""


def in_a_process(program, **how):
    """Run a program after WORKS; it must print nothing and succeed."""
    done = subprocess.run(
        [sys.executable, "-c", WORKS + program],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **how,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "before",
    [
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "[signal.signal(n, signal.SIG_IGN) for n in signal.valid_signals() - {9, 19}]",
    ],
    ids=["SIGCHLD blocked", "all blocked", "SIGCHLD ignored", "all ignored"],
)
def test_signals_that_are_blocked_or_ignored(before):
    in_a_process(f"{before}\nworks()")


def test_a_current_directory_that_was_removed(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    in_a_process(f"os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\nworks()")


def test_a_relative_directory_is_this_processs_own(ns, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    ns.run(["true"], cwd="/")
    told = ns.run(["pwd"], cwd="below", capture_output=True, text=True).stdout
    assert told == f"{tmp_path / 'below'}\n"


def test_a_long_environment(ns):
    # execve(2): one string may have 128 KiB, all together a quarter of the stack.
    environment = {f"LONG{i}": "x" * 100_000 for i in range(10)} | {"PATH": os.environ["PATH"]}
    said = ns.run(["env"], env=environment, capture_output=True).stdout
    assert Counter(line[:4] for line in said.splitlines())[b"LONG"] == 10
    in_a_process("os.environ |= {f'LONG{i}': 'x' * 100_000 for i in range(10)}\nworks()")
    with pytest.raises(CommandError, match="Argument list too long; pass less in its"):
        ns.run(["env"], env={"A": "x" * 200_000})
    in_a_process(
        """
os.environ["TOO_LONG"] = "x" * 200_000
with Namespace() as namespace:
    assert namespace.run(["/bin/true"], env={}).returncode == 0
"""
    )


def test_names_that_are_no_text(ns):
    told = ns.run(
        [b"printenv", "NAME"], env={"NAME": os.fsdecode(b"\xff\xfe")}, capture_output=True
    )
    assert told.stdout == b"\xff\xfe\n"


def test_a_program_is_found_in_the_path_of_its_environment(ns, tmp_path):
    program = tmp_path / "a-program-of-ours"
    program.write_text("#!/bin/sh\nexit 7\n")
    with pytest.raises(CommandError, match="No such file"):
        ns.run([program.name])
    with pytest.raises(CommandError, match="Permission denied"):
        ns.run([program.name], env={"PATH": f"/usr/bin:{tmp_path}"})
    program.chmod(0o755)
    assert ns.run([program.name], env={"PATH": f"{tmp_path}:/usr/bin"}).returncode == 7


@pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1", "0, 1, 2"])
def test_closed_standard_descriptors(closed):
    in_a_process(f"[os.close(fd) for fd in ({closed},)]\nworks()")


def test_a_command_gets_nothing_of_ours_where_a_standard_descriptor_is_closed():
    """A queue of a TAP, or the arena, may have that number."""
    in_a_process(
        """
os.close(0); os.close(1)
with Tap() as tap, Nic(tap):
    told = tap.namespace.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True).stdout
    assert "/dev/null" in told, told
    assert "memfd" not in told and "tun" not in told, told
    assert tap.namespace.run(["sh", "-c", "echo into the void"]).returncode == 0
"""
    )


def test_a_full_table_of_descriptors():
    in_a_process(
        """
from nic_harness import HarnessError
from nic_harness.errors import ResourceError
import resource
with Tap() as tap, Tap() as second:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    top = os.open("/dev/null", os.O_RDONLY)
    os.close(top)
    for free in range(40):
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + free, hard))
        for use in (
            Namespace,
            Tap,
            lambda: Nic(tap, device="tap_rw"),
            lambda: Nic(tap, device="tap_uring"),
            tap.namespace.socket,
            tap.packet_socket,
            lambda: tap.namespace.run(["true"], capture_output=True),
            lambda: tap.namespace.run(["true"], input=b"x"),
        ):
            try:
                made = use()
            except ResourceError as e:
                assert "ulimit -n" in str(e), e
            else:
                getattr(made, "close", lambda: None)()
    assert tap.namespace.run(["true"], timeout=60).returncode == 0
works()
"""
    )


def test_a_descriptor_that_is_not_open_is_named(ns):
    with pytest.raises(CommandError, match="descriptor 987, for it to use, is not open"):
        ns.popen(["true"], stdout=987)


def test_a_long_answer(ns, tmp_path):
    """Return 64 KiB of bytes that are not text, each of which takes six in JSON."""
    (tmp_path / "noise").write_bytes(b"\xff" * (1 << 16))
    assert ns.read(tmp_path / "noise") == "\N{REPLACEMENT CHARACTER}" * (1 << 16)


def test_a_timeout_of_all_sockets_is_not_for_ours():
    in_a_process("import socket\nsocket.setdefaulttimeout(1e-9)\nNamespace().close()")


class InterruptionError(Exception):
    """An exception that a signal handler raises."""


@pytest.fixture
def interrupted():
    """Call something, and at some moment of it deliver a signal whose handler raises."""
    chance = random.Random(1)
    armed = False

    def handler(*_):
        nonlocal armed
        if armed:
            armed = False
            raise InterruptionError

    def call(what):
        nonlocal armed
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, 4e-4))
            return what()
        finally:
            armed = False

    former = signal.signal(signal.SIGALRM, handler)
    yield call
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


def test_an_interrupted_request_leaves_its_answer_to_nobody(ns, interrupted):
    names = ["ipv4.tcp_sack", "ipv4.ip_forward", "ipv4.tcp_congestion_control"]
    expected = {name: ns.sysctl(name) for name in names}
    broken = 0
    for _ in range(2000):
        try:
            interrupted(lambda: ns.sysctl("ipv4.tcp_sack"))
        except InterruptionError:
            broken += 1
        for name in names:
            assert ns.sysctl(name) == expected[name]
        if broken == 50:
            break
    assert broken
    with ns.socket() as sock:
        assert sock.type == sock.type.SOCK_STREAM


def test_an_interrupted_wait_does_not_forget_the_exit_code(ns, interrupted):
    for _ in range(60):
        with ns.popen(["sh", "-c", "exit 5"]) as process:
            while process.returncode is None:
                with suppress(InterruptionError):
                    interrupted(process.wait)
            assert process.returncode == 5
