"""What every strategy of a trial looks like from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from nic_harness.transfer.payload import Payload

#: Told the number of bytes handed over so far, now and then.
Progress: TypeAlias = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the file: what the sender counted and what the receiver said.

    Attributes:
        bytes: that arrived.
        seconds: from the sender's first call until the receiver read the end of the stream.
        cpu_ns: of the sending thread, user and system.
        syscalls: made by the sender.
        frames: given to the wire by the sender.
        bytes_copied: in user space.
        sha256: the receiver's digest, or None in a pass that only counts.
        retransmits: frames of ours, or segments of the kernel's, that were sent again.
        bytes_resent: payload in them.
    """

    bytes: int
    seconds: float
    cpu_ns: int
    syscalls: int
    frames: int
    bytes_copied: int
    sha256: str | None
    retransmits: int = 0
    bytes_resent: int = 0


class Contender(Protocol):
    """A way to send a file, attached and ready."""

    @property
    def name(self) -> str:
        """As the user calls it."""

    def send(self, payload: Payload, *, digest: bool, progress: Progress | None = None) -> Pass:
        """Send the whole file once over a connection of its own."""


class Observer(Protocol):
    """Told what a trial is doing; a Protocol so that the trial needs no terminal."""

    def begin(self, title: str, size: int) -> Progress | None:
        """Take note that something of `size` bytes begins; return what is told how far it is."""

    def end(self) -> None:
        """Take note that it is over."""
