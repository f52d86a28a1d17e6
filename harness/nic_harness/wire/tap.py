"""A TAP interface in a namespace: the wire between a NIC of ours and the stock kernel."""

from __future__ import annotations

import socket
from types import NoneType

from nic_harness.base import check
from nic_harness.base.live import track
from nic_harness.errors import ArgumentError, MtuError
from nic_harness.wire.netns import Namespace
from nic_harness.wire.rtnl import LinkInfo
from nic_harness.wire.wire import Address, Queues

__all__ = ["Tap"]

#: Queues that one NIC can have (NIC_MAX_QUEUES).
_MAX_QUEUES = 16
_INT_MAX = (1 << 31) - 1
_ANY = 1 << 200


class Tap(Queues):
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
        check.instance("make TAP", "in a namespace", "namespace", namespace, Namespace, NoneType)
        check.interface_name("make TAP", name)
        check.integer("make TAP", name, "mtu", mtu, -_ANY, _ANY)  # the kernel says what is allowed
        check.integer("make TAP", name, "queues", queues, -_ANY, _ANY)
        if not 1 <= queues <= _MAX_QUEUES:
            raise ArgumentError(
                "make TAP", name, f"{queues} queues", f"1 to {_MAX_QUEUES} are possible"
            )
        for which, value in (("mac", mac), ("nic_mac", nic_mac)):
            check.mac("make TAP", name, which, value)
        for which, on in (("ipv6", ipv6), ("up", up)):
            check.flag("make TAP", name, which, on)
        if txqueuelen is not None:
            check.integer("make TAP", name, "txqueuelen", txqueuelen, 0, _INT_MAX)
        self.address: Address | None
        self.nic_address: Address | None
        self.address, self.nic_address = (
            None if value is None else check.interface_address("make TAP", name, which, value)
            for which, value in (("address", address), ("nic_address", nic_address))
        )
        self.mac = mac
        self.nic_mac = nic_mac
        super().__init__()
        self._owns_namespace = namespace is None
        self.namespace = Namespace(ipv6=ipv6) if namespace is None else namespace
        try:
            self.name, fds = self.namespace.open_tap(name, queues=queues)
            self._take(fds)
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

    def close(self) -> None:
        """Close the queues, which removes the interface, and the namespace if it is the Tap's own.

        Again has no effect. A NIC on the Tap keeps its own descriptors: close it first.
        """
        super().close()
        if self._owns_namespace:
            self.namespace.close()

    def link(self) -> LinkInfo:
        """Look at the kernel's side: MTU, state, statistics."""
        self._open("look at")
        return self.namespace.link(self.name)

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
        self._open("add neighbour to")
        if self.nic_address is None:
            raise ArgumentError("add neighbour to", self.name, "the TAP has no nic_address")
        self.namespace.add_neighbour(self.name, str(self.nic_address.ip), self.nic_mac)

    def packet_socket(self, proto: int = 0x0003) -> socket.socket:
        """AF_PACKET socket on the kernel's side; see Namespace.packet_socket()."""
        check.integer("open packet socket on", self.name, "proto", proto, 0, 0xFFFF)
        self._open("open packet socket on")
        return self.namespace.packet_socket(self.name, proto)
