"""What a trial found out, as data."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Setup:
    """What was really attached; what was asked for does not matter here.

    Attributes:
        device: name of the device behind the rings, or None when no NIC of ours was used.
        offloads: names of those negotiated.
        mtu: bytes, of every wire of the trial.
        queues: queue pairs.
        rootless: whether the namespaces took user namespaces.
        congestion_control: of the kernel's sender in the baseline, or None without one.
        why_not: why no faster device was attached, and the remedy; empty when there is none.
    """

    device: str | None
    offloads: tuple[str, ...]
    mtu: int
    queues: int
    rootless: bool
    congestion_control: str | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One timed pass of one strategy over the whole file.

    Attributes:
        strategy: "sf_buf", "copy", "direct", "kernel".
        bytes: payload that arrived.
        seconds: from the sender's first call, on an established connection, until the receiver has
            read the end of the stream; the same two moments for every strategy.
        cpu_ns_per_kib: CPU time of the sending thread, user and system, in ns for each 1024 bytes.
        syscalls: made by the sender for the transfer.
        frames: given to the wire by the sender; with segmentation offload up to 64 KiB each.
        bytes_copied: payload bytes copied in user space.
        sha256_ok: whether the receiver's digest was that of the file, in a pass of its own; None
            when nobody looked.
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

    def __post_init__(self) -> None:
        speed = self.bytes * 8 / self.seconds / 1e9 if self.seconds > 0 else 0.0
        object.__setattr__(self, "gbit_per_s", speed)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a trial found out."""

    attached: Setup
    runs: tuple[Run, ...]

    def to_json(self) -> dict[str, Any]:
        """Return {"attached": {...}, "runs": [...]}, made of what json.dumps() takes."""
        return asdict(self)

    def typical(self) -> list[Run]:
        """Return the run with the median time of each strategy, in order of appearance."""
        return [median_run(r for r in self.runs if r.strategy == s) for s in self.strategies()]

    def strategies(self) -> list[str]:
        """Return the strategies in order of appearance."""
        return list(dict.fromkeys(r.strategy for r in self.runs))


def median_run(runs: Iterable[Run]) -> Run:
    """Return the run with the median time; of an even number the faster one in the middle."""
    ordered = sorted(runs, key=lambda r: r.seconds)
    middle = statistics.median_low([r.seconds for r in ordered])
    return next(r for r in ordered if r.seconds == middle)
