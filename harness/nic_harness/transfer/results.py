"""The results of a trial, as data."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nic_harness.base.version import VERSION


@dataclass(frozen=True, slots=True)
class Setup:
    """What was really attached, whatever was requested.

    Attributes:
        device: name of the device behind the rings, or None if the harness's NIC was not used.
        offloads: names of the negotiated offloads.
        mtu: MTU of every wire of the trial, bytes.
        queues: queue pairs.
        rootless: whether the namespaces took user namespaces.
        congestion_control: of the kernel's sender in the baseline, or None without one.
        why_not: why no faster device was attached, and the remedy; empty when there is none.
        notes: what is different for the baseline, a line each.
    """

    device: str | None
    offloads: tuple[str, ...]
    mtu: int
    queues: int
    rootless: bool
    congestion_control: str | None
    why_not: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """What somebody else needs to know to do the same again.

    Attributes:
        version: of nic-harness.
        date: ISO 8601, UTC, when it began.
        kernel, machine, cpu, cpus: of this machine; `cpus` are those that may be used.
        file: name of the file that was sent, and its bytes.
        options: those of the command, defaults included; `faults` with their seed.
    """

    version: str
    date: str
    kernel: str
    machine: str
    cpu: str
    cpus: int
    file: dict[str, str | int]
    options: dict[str, Any]

    @classmethod
    def now(cls, file: str, size: int, options: dict[str, Any]) -> About:
        """Describe this machine, at this moment."""
        system = platform.uname()
        return cls(
            version=VERSION,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            kernel=system.release,
            machine=system.machine,
            cpu=_cpu(),
            cpus=len(os.sched_getaffinity(0)),
            file={"name": file, "bytes": size},
            options=options,
        )


def _cpu() -> str:
    """Name the processor; not every architecture says it in /proc/cpuinfo."""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("model name", "cpu model", "processor name", "cpu"):
            return value.strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class Run:
    """One timed pass of one strategy over the whole file.

    Attributes:
        strategy: "sf_buf", "copy", "direct", "kernel".
        bytes: payload that arrived.
        seconds: from the sender's first call, on an established connection, until the receiver has
            read the end of the stream; the same two moments for every strategy.
        cpu_ns_per_kib: CPU time of the sending thread, user and system, in ns per 1024 bytes.
        syscalls: system calls that the sender made for the transfer.
        frames: frames that the sender gave to the wire; up to 64 KiB each with segmentation
            offload.
        bytes_copied: payload bytes copied in user space.
        sha256_ok: whether the receiver's digest was that of the file, in a pass of its own; None
            when nobody looked.
        retransmits: what was sent again: frames of ours (up to 64 KiB), segments of the kernel's.
        bytes_resent: payload in them, which is the same measure for both.
    """

    strategy: str
    bytes: int
    seconds: float
    gbit_per_s: float = field(init=False)
    cpu_ns_per_kib: float
    syscalls: int
    frames: int
    bytes_copied: int
    sha256_ok: bool | None
    retransmits: int = 0
    bytes_resent: int = 0

    def __post_init__(self) -> None:
        speed = self.bytes * 8 / self.seconds / 1e9 if self.seconds > 0 else 0.0
        object.__setattr__(self, "gbit_per_s", speed)


@dataclass(frozen=True, slots=True)
class Report:
    """All results of a trial."""

    about: About
    attached: Setup
    runs: tuple[Run, ...]

    def to_json(self) -> dict[str, Any]:
        """Return {"about": {...}, "attached": {...}, "runs": [...]}, for json.dumps()."""
        return asdict(self)

    def spread(self, strategy: str) -> tuple[float, float]:
        """Return the least and the most Gbit/s of a strategy's runs."""
        speeds = [r.gbit_per_s for r in self.runs if r.strategy == strategy]
        return min(speeds), max(speeds)

    def typical(self) -> list[Run]:
        """Return the run with the median time of each strategy, in order of appearance."""
        return [median_run(r for r in self.runs if r.strategy == s) for s in self.strategies()]

    def strategies(self) -> list[str]:
        """Return the strategies in order of appearance."""
        return list(dict.fromkeys(r.strategy for r in self.runs))


def median_run(runs: Iterable[Run]) -> Run:
    """Return the run with the median time; for an even number, the faster of the middle two."""
    ordered = sorted(runs, key=lambda r: r.seconds)
    middle = statistics.median_low([r.seconds for r in ordered])
    return next(r for r in ordered if r.seconds == middle)
