"""The interface that every strategy of a trial has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from nic_harness.transfer.payload import Payload

#: Called now and then with the number of bytes handed over so far.
Progress: TypeAlias = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the file: what the sender counted and what the receiver said.

    Attributes:
        bytes: bytes that arrived.
        seconds: from the sender's first call until the receiver read the end of the stream.
        cpu_ns: CPU time of the sending thread, user and system.
        syscalls: system calls made by the sender.
        frames: frames that the sender gave to the wire.
        bytes_copied: bytes copied in user space.
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
        """The name by which the user selects it."""

    def send(self, payload: Payload, *, digest: bool, progress: Progress | None = None) -> Pass:
        """Send the whole file once over a connection of its own."""


class Observer(Protocol):
    """Follows what a trial is doing; a Protocol, so that the trial needs no terminal."""

    def begin(self, title: str, size: int) -> Progress | None:
        """Note that something of `size` bytes begins; return what to call with its progress."""

    def end(self) -> None:
        """Note that it has ended."""
