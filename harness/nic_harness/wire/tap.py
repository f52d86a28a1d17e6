"""A TAP interface in a namespace: the wire between a NIC of ours and the stock kernel."""

from __future__ import annotations

import errno
import ipaddress
import socket
import weakref
from typing import Any

from nic_harness._native import lib
from nic_harness.base.live import Closing, track
from nic_harness.base.owner import Owner, close_owned, own, this_process
from nic_harness.errors import (
    ArgumentError,
    ClosedError,
    MtuError,
    UnsupportedError,
    error_from_errno,
)
from nic_harness.wire.netns import Namespace
from nic_harness.wire.rtnl import LinkInfo, LinkStats, mac_bytes

__all__ = ["Tap"]

#: Queues that one NIC can have (NIC_MAX_QUEUES).
_MAX_QUEUES = 16
#: Bytes of the longest frame.
_FRAME_MAX = 65553


class Tap(Closing):
    """A TAP with the kernel on its far side and its queues here; use as a context manager.

    The defaults make a wire that works: the kernel is 198.18.0.1, the NIC's side is to be
    198.18.0.2 (RFC 2544 gives 198.18.0.0/15 to benchmarks; it is never routed).

    Args:
        namespace: where the kernel's side lives; None: a namespace of its own, closed with it.
        name: of the interface.
        mtu: bytes, 68 to what the kernel allows (65521 on an Ethernet-like interface).
        queues: number of queue pairs.
        address: the kernel's address with its prefix length; None for none.
        nic_address: address of our side. Nothing is configured by it; Stack takes it as its own.
        mac: of the kernel's side.
        nic_mac: of our side; what Nic takes as its own.
        ipv6: leave IPv6 on in the namespace it makes.
        txqueuelen: frames the kernel queues towards us before it drops; None: its default.
        up: bring it up.

    Attributes:
        namespace: where the kernel's side lives.
        name: of the interface.
        fds: descriptor of each queue, non-blocking; they stay the Tap's. A forked child has none of
            them, so that the interface goes with the Tap.

    Raises:
        MtuError: the kernel does not allow that MTU.
        ArgumentError: another value is out of range.
        TunMissingError, TunPermissionError: /dev/net/tun is missing or may not be opened.
        NamespacePermissionError: neither root nor allowed to make a user namespace.
        LinkError: the kernel refused something else.
    """

    def __init__(
        self,
        namespace: Namespace | None = None,
        *,
        name: str = "tap0",
        mtu: int = 1500,
        queues: int = 1,
        address: str | None = "198.18.0.1/24",
        nic_address: str | None = "198.18.0.2/24",
        mac: str = "02:00:00:00:00:01",
        nic_mac: str = "02:00:00:00:00:02",
        ipv6: bool = False,
        txqueuelen: int | None = None,
        up: bool = True,
    ) -> None:
        if not 1 <= queues <= _MAX_QUEUES:
            raise ArgumentError(
                "make TAP", name, f"{queues} queues", f"1 to {_MAX_QUEUES} are possible"
            )
        for which, value in (("MAC address", mac), ("MAC address of the NIC", nic_mac)):
            _checked("make TAP", name, which, value, mac_bytes)
        self.address = _checked_interface(name, "address", address)
        self.nic_address = _checked_interface(name, "nic_address", nic_address)
        self.mac = mac
        self.nic_mac = nic_mac
        self.fds: tuple[int, ...] = ()
        self._owner = this_process()
        self._owns_namespace = namespace is None
        self.namespace = Namespace(ipv6=ipv6) if namespace is None else namespace
        try:
            self.name, fds = self.namespace.open_tap(name, queues=queues)
            self.fds = tuple(map(own, fds))
            self._close_fds = weakref.finalize(self, _close_all, self.fds, self._owner)
            info = self.namespace.link(self.name)
            # The kernel's own limits: they differ between kernels and kinds of interface.
            if not info.min_mtu <= mtu <= info.max_mtu:
                raise MtuError(
                    "make TAP",
                    name,
                    f"MTU {mtu} is out of range",
                    f"this kernel allows {info.min_mtu} to {info.max_mtu}",
                )
            self.namespace.set_link(self.name, mtu=mtu, mac=mac, txqueuelen=txqueuelen)
            if up:
                self.namespace.set_link(self.name, up=True)
            if self.address is not None:
                self.namespace.add_address(self.name, str(self.address))
        except BaseException:
            self.close()
            raise
        track(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"queues={len(self.fds)}"
        return f"<Tap {getattr(self, 'name', '?')} {state}>"

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return not self.fds

    def close(self) -> None:
        """Close the queues, which removes the interface, and the namespace if it is the Tap's own.

        Again has no effect. A NIC on the Tap keeps its own descriptors: close it first.
        """
        if self.fds:
            self._close_fds()
            self.fds = ()
        if self._owns_namespace:
            self.namespace.close()

    def _open(self, operation: str) -> None:
        if self.closed:
            raise ClosedError(operation, getattr(self, "name", "TAP"), "the TAP is closed")
        self._owner.check(operation, self.name)

    def link(self) -> LinkInfo:
        """Look at the kernel's side: MTU, state, statistics."""
        self._open("look at")
        return self.namespace.link(self.name)

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

    def set_link(
        self,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        txqueuelen: int | None = None,
    ) -> None:
        """Change what is given of the kernel's side; see Namespace.set_link()."""
        self._open("configure")
        self.namespace.set_link(self.name, up=up, mtu=mtu, mac=mac, txqueuelen=txqueuelen)

    def static_neighbour(self) -> None:
        """Tell the kernel our MAC for our address, so that it never asks ARP for it."""
        if self.nic_address is None:
            raise ArgumentError("add neighbour to", self.name, "the TAP has no nic_address")
        self.namespace.add_neighbour(self.name, str(self.nic_address.ip), self.nic_mac)

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
        self._open("steer")
        if byte is None:
            code = lib.tap_steer_automatic(self.fds[0])
        elif 0 <= byte <= _FRAME_MAX:
            code = lib.tap_steer_by_byte(self.fds[0], byte)
        else:
            raise ArgumentError("steer", self.name, f"byte={byte}", f"0 to {_FRAME_MAX}")
        if code == -errno.EPERM:
            raise UnsupportedError(
                "steer",
                self.name,
                "bpf(2) is not allowed here",
                "be root, or have CAP_BPF, or sysctl kernel.unprivileged_bpf_disabled=0",
                errno=-code,
            )
        if code:
            raise error_from_errno(code, "steer", self.name)

    def packet_socket(self, proto: int = 0x0003) -> socket.socket:
        """AF_PACKET socket on the kernel's side; see Namespace.packet_socket()."""
        self._open("open packet socket on")
        return self.namespace.packet_socket(self.name, proto)


def _checked(operation: str, name: str, what: str, value: str, parse: Any) -> Any:
    try:
        return parse(value)
    except ValueError as e:
        raise ArgumentError(operation, name, f"{what} {value!r}: {e}") from None


def _checked_interface(
    name: str, what: str, value: str | None
) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    if value is None:
        return None
    parsed: ipaddress.IPv4Interface | ipaddress.IPv6Interface = _checked(
        "make TAP", name, what, value, ipaddress.ip_interface
    )
    return parsed


def _close_all(fds: tuple[int, ...], owner: Owner) -> None:
    if owner.here:
        for fd in fds:
            close_owned(fd)
