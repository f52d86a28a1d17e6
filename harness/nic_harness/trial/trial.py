"""The trial: the same file by every strategy, checked first and then timed, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from nic_harness.nic.faults import Faults
from nic_harness.transfer.ours import STRATEGIES as OURS
from nic_harness.transfer.ours import OurNic
from nic_harness.transfer.passes import Contender, Observer, Pass
from nic_harness.transfer.payload import Payload
from nic_harness.transfer.results import About, Report, Run, Setup
from nic_harness.trial.kernel import KernelSendfile

#: Names of all strategies, in the order of the table.
STRATEGIES: tuple[str, ...] = (*OURS, KernelSendfile.name)
#: Those of a trial that names none: direct reads the disk, which the others do once.
USUAL = tuple(name for name in STRATEGIES if name != "direct")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a trial is made.

    Attributes:
        strategies: names out of STRATEGIES, without repetition.
        runs: timed passes of each.
        mtu: bytes, of the TAP and of the veth pair.
        device: of our NIC; see Nic.
        faults: of our NIC. The baseline's wire loses frames at their rates, and has no others.
        offloads: whether segmentation and sums may be left to the wires.
        verify: compare digests, in a pass of its own for each strategy, before the timed ones.
        stall: seconds without progress after which a pass fails.
    """

    strategies: tuple[str, ...] = USUAL
    runs: int = 1
    mtu: int = 1500
    device: str = "auto"
    faults: Faults | None = None
    offloads: bool = True
    verify: bool = True
    stall: float = 30.0

    def to_json(self) -> dict[str, Any]:
        """Return them as plain data; the faults as Faults.parse() reads them."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {"faults": None if self.faults is None else str(self.faults)}


class Trial:
    """Everything attached for the strategies asked for; made by open_trial()."""

    def __init__(
        self, settings: Settings, strategies: Sequence[Contender], attached: Setup
    ) -> None:
        self.settings = settings
        self.attached = attached
        self._strategies = strategies

    def run(self, payload: Payload, observer: Observer) -> Report:
        """Send the file by every strategy.

        The timed passes of the strategies take turns, so that a machine that changes its pace
        changes it for all of them.

        Raises:
            FileError: the file shrank meanwhile.
            HarnessError: a pass failed.
        """
        about = About.now(payload.name, payload.size, self.settings.to_json())
        verdicts: dict[str, bool | None] = {s.name: None for s in self._strategies}
        if self.settings.verify:
            observer.begin("digest of the file", payload.size)
            expected = payload.sha256()
            observer.end()
            for s in self._strategies:
                result = self._one(s, payload, observer, digest=True)
                verdicts[s.name] = result.sha256 == expected
        runs = []
        for _ in range(self.settings.runs):
            for s in self._strategies:
                result = self._one(s, payload, observer, digest=False)
                runs.append(_as_run(s.name, result, verdicts[s.name]))
        return Report(about, self.attached, tuple(runs))

    def _one(
        self, strategy: Contender, payload: Payload, observer: Observer, *, digest: bool
    ) -> Pass:
        title = f"{strategy.name}: " + ("check the digest" if digest else "send")
        progress = observer.begin(title, payload.size)
        try:
            result = strategy.send(payload, digest=digest, progress=progress)
        finally:
            observer.end()
        if result.bytes < payload.size:
            raise payload.shrunk()
        return result


def _as_run(name: str, result: Pass, sha256_ok: bool | None) -> Run:
    return Run(
        strategy=name,
        bytes=result.bytes,
        seconds=result.seconds,
        cpu_ns_per_kib=result.cpu_ns * 1024 / result.bytes if result.bytes else 0.0,
        syscalls=result.syscalls,
        frames=result.frames,
        bytes_copied=result.bytes_copied,
        sha256_ok=sha256_ok,
        retransmits=result.retransmits,
        bytes_resent=result.bytes_resent,
    )


@contextlib.contextmanager
def open_trial(settings: Settings) -> Iterator[Trial]:
    """Attach what the strategies need; everything is gone after the with block.

    Raises:
        NamespaceError, LinkError, ResourceError, MtuError: it could not be attached.
    """
    with contextlib.ExitStack() as stack:
        strategies: list[Contender] = []
        nic: OurNic | None = None
        kernel: KernelSendfile | None = None
        for name in settings.strategies:
            if name in OURS:
                if nic is None:
                    nic = stack.enter_context(
                        OurNic(
                            mtu=settings.mtu,
                            device=settings.device,
                            offloads=settings.offloads,
                            faults=settings.faults,
                            stall=settings.stall,
                        )
                    )
                strategies.append(nic.strategy(name))
            else:
                kernel = stack.enter_context(
                    KernelSendfile(
                        mtu=settings.mtu,
                        stall=settings.stall,
                        offloads=settings.offloads,
                        faults=settings.faults,
                    )
                )
                strategies.append(kernel)
        attached = Setup(
            device=nic.attached.device if nic else None,
            offloads=tuple(str(nic.attached.offloads).split()) if nic else (),
            mtu=settings.mtu,
            queues=nic.attached.queues if nic else 0,
            rootless=nic.rootless if nic else kernel is not None and kernel.rootless,
            congestion_control=kernel.congestion_control if kernel else None,
            why_not=nic.attached.why_not if nic else "",
            notes=kernel.notes if kernel else (),
        )
        yield Trial(settings, strategies, attached)
