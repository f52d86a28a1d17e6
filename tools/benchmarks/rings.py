"""`tools/bench rings`: frames through our rings, beside the bare loops and beside scapy."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from nic_harness.cli.failure import one_line_errors
from nic_harness.cli.options import Debug, JsonPath
from nic_harness.cli.output import check_json, console_for, write_json
from nic_harness.errors import CommandError
from nic_harness.nic.nic import Nic, Offloads
from nic_harness.wire.tap import Tap

from benchmarks import dpdk
from benchmarks.marks import (
    Mark,
    Series,
    least,
    limits,
    marks_table,
    measure,
    most,
    series_table,
)
from benchmarks.stats import Figures, figures

#: Frames that Python takes at a time.
_BURST = 256
#: Frames of one measurement: as many as wait on the kernel's side at one time.
_FRAMES = 4000
_FRAME = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01\x88\xb5" + bytes(50)
_NET_HDR = bytes(12)

#: The bare loops that count, and ours.
_BARE_RX = ("read", "readv", "uring")
_OURS = ("tap_rw", "tap_uring")


@dataclass(frozen=True, slots=True)
class Result:
    """All results.

    Attributes:
        series: ns a frame, of the measuring thread's own time; of 64 KiB of a TCP stream.
        two_queues: frames that two threads on a queue each move in the time in which one moves one;
            None where bpf(2) may not steer frames to queues.
    """

    series: dict[str, Figures]
    marks: tuple[Mark, ...]
    two_queues: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what json.dumps() takes."""
        return asdict(self)


def _queue(sender: socket.socket) -> None:
    for _ in range(_FRAMES):
        sender.send(_FRAME)


def _by_views(nic: Nic) -> int:
    frames = 0
    while True:
        with nic.recv_burst(_BURST, 0) as burst:
            if not burst:
                return frames
            for view in burst:
                frames += view[12] == 0x88


def _by_read(fd: int) -> int:
    frames = 0
    with contextlib.suppress(BlockingIOError):
        while data := os.read(fd, 2048):
            frames += data[24] == 0x88  # behind a struct virtio_net_hdr
    return frames


def _timed(take: Callable[[], int]) -> float:
    start = time.thread_time_ns()
    frames = take()
    spent = time.thread_time_ns() - start
    if frames != _FRAMES:
        raise CommandError("measure", "bursts", f"{frames} of {_FRAMES} frames arrived")
    return spent / frames


@contextlib.contextmanager
def _scapy(tap: Tap) -> Iterator[Callable[[], float]]:
    with tap.namespace.popen(
        [sys.executable, "-m", "benchmarks.recv_raw", tap.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        if child.stdout.readline().strip() != "ready":
            raise CommandError("run", "scapy", "it did not start")

        def take() -> float:
            for _ in range(_FRAMES):
                os.write(tap.fds[0], _NET_HDR + _FRAME)
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("go\n")
            child.stdin.flush()
            # What does not fit into the socket's buffer is dropped on the kernel's side.
            frames, spent = map(int, child.stdout.readline().split() or (0, 0))
            if frames == 0:
                raise CommandError("measure", "scapy's socket", "no frame arrived")
            return spent / frames

        yield take
        child.stdin.close()


def _python(rounds: int) -> Series:
    """Measure 64 B frames in Python: our views, os.read(), scapy's socket."""
    series: Series = {("python", name): [] for name in ("views", "os.read", "recv_raw")}
    with (
        Tap(txqueuelen=2 * _FRAMES) as tap,
        Nic(tap, offloads=Offloads.NONE, ring_size=1024) as nic,
        tap.namespace.packet_socket(tap.name, 0) as sender,
        _scapy(tap) as scapy,
    ):
        for turn in range(-1, rounds):  # the first turn does not count
            found = {"recv_raw": scapy()}
            _queue(sender)
            found["views"] = _timed(lambda: _by_views(nic))
            _queue(sender)
            found["os.read"] = _timed(lambda: _by_read(tap.fds[0]))
            for name, value in found.items():
                if turn >= 0:
                    series["python", name].append(value)
    return series


def _dpdk(rounds: int) -> Series:
    """Measure testpmd over its own TAP, if it is installed."""
    if not dpdk.available():
        return {}
    return {
        ("rx_64", "dpdk"): [dpdk.receive() for _ in range(rounds)],
        ("tx_64", "dpdk"): [dpdk.transmit() for _ in range(rounds)],
    }


def marks(series: Series) -> tuple[Mark, ...]:
    """Return the figures that have a mark.

    Args:
        series: ns a frame by (what, how), as tools/limits/ring_ops.c prints them, and Python's.
    """
    median = {key: figures(values).median for key, values in series.items()}
    found: list[Mark] = []

    def fastest(name: str, ways: tuple[str, ...]) -> tuple[float, str]:
        return min((median[name, way], way) for way in ways)

    for name, title in (
        ("rx_64", "64 B"),
        ("rx_1514", "1514 B"),
        ("rx_9000", "9000 B"),
        ("rx_gso_64k", "GSO 64 KiB"),
    ):
        bare, way = fastest(name, _BARE_RX)
        ours, device = fastest(name, _OURS)
        found.append(least(f"receive {title}: {device} over bare {way}", bare / ours, 0.9))
    found.append(
        least(
            "transmit 64 B: tap_uring over bare write",
            median["tx_64", "write"] / median["tx_64", "tap_uring"],
            1.4,
        )
    )
    for name, title in (("tx_9000", "9000 B"), ("tx_gso_64k", "GSO 64 KiB")):
        ours, device = fastest(name, _OURS)
        found.append(
            least(
                f"transmit {title}: {device} over bare writev",
                median[name, "writev"] / ours,
                0.95,
            )
        )
    ours, device = fastest("tcp_64k", _OURS)
    found.append(
        least(
            f"TCP stream with header split: {device} over bare readv",
            median["tcp_64k", "readv"] / ours,
            0.85,
        )
    )
    rings = [v for (n, way), v in median.items() if n == "flat" and way.endswith("/1048576")]
    pools = [v for (n, way), v in median.items() if n == "flat" and way.startswith("64/")]
    found.append(
        most("receive, ring of 64 to 32,768: dearest over cheapest", _spread(rings), "x", 1.1)
    )
    found.append(
        most("receive, pool of 1 k to 1 M pages: dearest over cheapest", _spread(pools), "x", 1.1)
    )
    if ("rx_64", "dpdk") in median:
        for name, title, limit in (("rx_64", "receive", 3), ("tx_64", "transmit", 1.5)):
            ours, device = fastest(name, _OURS)
            title = f"{title} 64 B: {device} over DPDK's net_tap"
            found.append(least(title, median[name, "dpdk"] / ours, limit))
    views = median["python", "views"]
    found.append(least("Python, 64 B as views over C", fastest("rx_64", _OURS)[0] / views, 0.7))
    found.append(least("  over a loop of os.read", median["python", "os.read"] / views, 1))
    found.append(least("  over scapy's recv_raw", median["python", "recv_raw"] / views, 4))
    return tuple(found)


def _two_queues(series: Series) -> float | None:
    if ("queues", "2") not in series:
        return None
    one, two = (figures(series["queues", threads]).median for threads in "12")
    return 2 * one / two


def _spread(values: list[float]) -> float:
    return max(values) / min(values)


@one_line_errors
def command(
    json_path: JsonPath = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=3, max=100, help="How often to measure everything.")
    ] = 7,
    _debug: Debug = False,
) -> None:
    """Measure receiving and transmitting against bare loops of system calls and of io_uring.

    Frames are queued on the kernel's side of a TAP first and then taken out, and all figures are of
    the measuring thread's own time, user and kernel: other programs count little. DPDK's testpmd,
    where it is installed, is timed from outside, by the kernel's counters.
    """
    check_json(json_path)
    console = console_for(json_path)
    series = measure(limits() / "ring_ops", str(rounds)) | _python(rounds) | _dpdk(rounds)
    result = Result(
        series={f"{name} {variant}": figures(values) for (name, variant), values in series.items()},
        marks=marks(series),
        two_queues=_two_queues(series),
    )
    console.print(series_table("nanoseconds for one frame", series))
    console.print(marks_table(result.marks))
    if not dpdk.available():
        console.print(f"no comparison with DPDK: apt-get install {dpdk.PACKAGE} brings testpmd")
    write_json(json_path, result.to_json())
