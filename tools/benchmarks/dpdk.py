"""DPDK's testpmd over its own TAP (net_tap), for comparison: its time for one frame of 64 B."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

from nic_harness.errors import CommandError, LinkError, WaitTimeoutError
from nic_harness.wire.netns import Namespace, Process

#: Debian's package of it.
PACKAGE = "dpdk-dev"

_PROGRAM = "dpdk-testpmd"
_LINK = "dtap0"
#: Frames that wait in the TAP at one time, and how long it transmits. Each frame is a signal
#: to it, and one that the kernel cannot queue (RLIMIT_SIGPENDING) would end it.
_FRAMES = 20_000
_TRANSMIT_S = 0.3
#: Seconds within which it has to be ready, or through.
_PATIENCE = 30.0
_FRAME = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01\x88\xb5" + bytes(50)


def available() -> bool:
    """Tell whether it is installed."""
    return shutil.which(_PROGRAM) is not None


def receive() -> float:
    """Let it empty a full queue; return ns per frame."""
    with _running("rxonly") as (namespace, process):
        namespace.set_link(_LINK, txqueuelen=2 * _FRAMES)
        with namespace.packet_socket(_LINK, 0) as sender:
            for _ in range(_FRAMES):
                sender.send(_FRAME)
        begin, before = time.monotonic_ns(), namespace.link(_LINK).stats.tx_packets
        _tell(process, "start")
        # The kernel counts a frame as transmitted when it is read from the queue.
        _until(process, lambda: namespace.link(_LINK).stats.tx_packets - before >= _FRAMES)
        return (time.monotonic_ns() - begin) / _FRAMES


def transmit() -> float:
    """Let it send as fast as it can; return ns per frame."""
    with _running("txonly") as (namespace, process):
        _tell(process, "start")
        _until(process, lambda: namespace.link(_LINK).stats.rx_packets > 0)
        begin, before = time.monotonic_ns(), namespace.link(_LINK).stats.rx_packets
        time.sleep(_TRANSMIT_S)
        end, after = time.monotonic_ns(), namespace.link(_LINK).stats.rx_packets
        if after == before:
            raise CommandError("measure", _PROGRAM, "it sent nothing")
        return (end - begin) / (after - before)


@contextlib.contextmanager
def _running(mode: str) -> Iterator[tuple[Namespace, Process]]:
    command = [
        # It polls without a pause: with a real-time priority, inherited, it would lock us out.
        *("chrt", "--other", "0"),
        *(_PROGRAM, "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "-l", "0,1"),
        *(f"--vdev=net_tap0,iface={_LINK}", "--", f"--forward-mode={mode}", "--interactive"),
        *("--no-mlockall", "--total-num-mbufs=8192", "--txpkts=64"),
    ]
    with (
        Namespace() as namespace,
        namespace.popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        _until(process, lambda: namespace.link(_LINK).up)
        yield namespace, process


def _tell(process: Process, command: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{command}\n")
    process.stdin.flush()


def _until(process: Process, true: Callable[[], bool]) -> None:
    """Wait until its work shows a condition; what it prints comes too late for that."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(LinkError):  # its interface is not there yet, or no more
            if true():
                return
        if process.poll() is not None:
            assert process.stdout is not None
            said = process.stdout.read().strip().splitlines()
            why = " ".join([f"exit code {process.poll()}:", *said[-3:]])
            raise CommandError("run", _PROGRAM, why)
        if time.monotonic() > deadline:
            raise WaitTimeoutError("measure", _PROGRAM, f"nothing came of it in {_PATIENCE:g} s")
        time.sleep(0.0005)
