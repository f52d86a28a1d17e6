"""What a NIC is attached to: an interface, its queues, and what can be done with them."""

from __future__ import annotations

import errno
import ipaddress
import socket
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from nic_harness._native import lib
from nic_harness.base import check
from nic_harness.base.live import Closing, Resource
from nic_harness.base.owner import Owner, close_owned, own, this_process
from nic_harness.errors import ClosedError, Deed, UnsupportedError, error_from_errno
from nic_harness.wire.netns import Namespace
from nic_harness.wire.rtnl import LinkInfo, LinkStats

__all__ = ["Address", "Queues", "Wire"]

Address: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface

#: Bytes of the longest frame.
_FRAME_MAX = 65553


class Wire(Resource, Protocol):
    """An interface whose queues a NIC takes over; Tap and ExistingTap are the two.

    What one of them cannot do it refuses with UnsupportedError.

    Attributes:
        namespace: where the kernel's side lives; None: where this process is.
        name: of the interface.
        fds: descriptor of each queue, non-blocking; they stay the wire's.
        address: the kernel's address, if one was set.
        nic_address: address of our side.
        mac: of the kernel's side.
        nic_mac: of our side.
    """

    @property
    def namespace(self) -> Namespace | None: ...  # noqa: D102

    name: str
    fds: tuple[int, ...]
    address: Address | None
    nic_address: Address | None
    mac: str
    nic_mac: str
    _nic: Callable[[], Resource | None] | None  # who has the queues now

    @property
    def mtu(self) -> int: ...  # noqa: D102
    @property
    def tx_dropped(self) -> int: ...  # noqa: D102
    def link(self) -> LinkInfo: ...  # noqa: D102
    def stats(self) -> LinkStats: ...  # noqa: D102
    def set_link(  # noqa: D102
        self,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        txqueuelen: int | None = None,
    ) -> None: ...
    def static_neighbour(self) -> None: ...  # noqa: D102
    def steer(self, byte: int | None) -> None: ...  # noqa: D102
    def packet_socket(self, proto: int = 0x0003) -> socket.socket: ...  # noqa: D102


class Queues(Closing):
    """What each Wire of ours is made of: the queues of a TAP, and what they alone can do."""

    name: str
    fds: tuple[int, ...] = ()
    _nic: Callable[[], Resource | None] | None = None

    def __init__(self) -> None:
        self._owner = this_process()

    def _take(self, fds: Iterable[int]) -> None:
        """Own the queues' descriptors from now on."""
        self.fds = tuple(map(own, fds))
        self._close_fds = weakref.finalize(self, _close_all, self.fds, self._owner)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"queues={len(self.fds)}"
        return f"<{type(self).__name__} {getattr(self, 'name', '?')} {state}>"

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return not self.fds

    def close(self) -> None:
        """Close the queues.

        Again has no effect. A NIC on them keeps its own descriptors: close it first.
        """
        if self.fds:
            self._close_fds()
            self.fds = ()

    def _open(self, operation: str) -> None:
        if self.closed:
            raise ClosedError(operation, getattr(self, "name", "TAP"), "the TAP is closed")
        self._owner.check(operation, self.name)

    @abstractmethod
    def link(self) -> LinkInfo:
        """Look at the kernel's side: MTU, state, statistics."""

    def stats(self) -> LinkStats:
        """Statistics of the kernel's side: its tx is what comes to us."""
        return self.link().stats

    @property
    def mtu(self) -> int:
        """MTU now, bytes."""
        return self.link().mtu

    @property
    def tx_dropped(self) -> int:
        """Frames that the kernel dropped because nobody emptied the queue in time."""
        return self.stats().tx_dropped

    def steer(self, byte: int | None) -> None:
        """Say which queue a frame of the kernel's comes to.

        Args:
            byte: offset from the start of the Ethernet header: the queue is that byte of the frame
                modulo the number of queues, by a BPF program (TUNSETSTEERINGEBPF). A shorter frame
                comes to queue 0. None: the kernel's own choice again, by a hash of addresses and
                ports.

        Raises:
            ArgumentError: the offset is out of range.
            UnsupportedError: bpf(2) is not allowed here, or the kernel's TAP has no steering.
            ClosedError: the TAP is closed.
        """
        if byte is not None:
            check.integer("steer", self.name, "byte", byte, 0, _FRAME_MAX)
        self._open("steer")
        if byte is None:
            code = lib.tap_steer_automatic(self.fds[0])
        else:
            code = lib.tap_steer_by_byte(self.fds[0], byte)
        if code == -errno.EPERM:
            raise UnsupportedError(
                "steer",
                self.name,
                "bpf(2) is not allowed here",
                "be root, or have CAP_BPF, or sysctl kernel.unprivileged_bpf_disabled=0",
                errno=-code,
            )
        if code:
            raise error_from_errno(code, "steer", self.name, deed=Deed.LINK)


def _close_all(fds: tuple[int, ...], owner: Owner) -> None:
    if owner.here:
        for fd in fds:
            close_owned(fd)
