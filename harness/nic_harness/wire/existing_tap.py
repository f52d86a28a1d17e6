"""A TAP that somebody else set up: the way from our NIC to a real network without being root.

The administrator makes it once, for a user, and puts it into a bridge or routes to it:

    ip tuntap add dev tap0 mode tap user alice
    ip link set tap0 master br0 up
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
from typing import NoReturn

from nic_harness.base import check
from nic_harness.base.descriptors import descriptors_for
from nic_harness.base.live import track
from nic_harness.errors import (
    LinkError,
    ResourceError,
    UnsupportedError,
)
from nic_harness.wire.holder import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, StageError, open_queue
from nic_harness.wire.netns import Namespace, tun_error
from nic_harness.wire.rtnl import LinkInfo, Rtnl
from nic_harness.wire.wire import Address, Queues

__all__ = ["ExistingTap"]


class ExistingTap(Queues):
    """One queue of a persistent TAP in this process's network namespace; a context manager.

    The interface stays when it is closed, and nothing of it is changed: no address, no MTU. What
    would change it is refused with UnsupportedError.

    Args:
        name: of the interface.
        nic_address: of our side, with its prefix length; free in the network that it leads to.
        nic_mac: of our side; None: a random one, locally administered.

    Raises:
        ArgumentError: a value makes no sense.
        LinkError: there is no such TAP, it is in use, or it belongs to another user.
        TunMissingError, TunPermissionError: /dev/net/tun is missing or may not be opened.
    """

    def __init__(self, name: str, *, nic_address: str, nic_mac: str | None = None) -> None:
        check.interface_name("attach to TAP", name)
        ours = check.interface_address("attach to TAP", name, "nic_address", nic_address)
        if nic_mac is not None:
            check.mac("attach to TAP", name, "nic_mac", nic_mac)
        super().__init__()
        self.name = name
        self.namespace: Namespace | None = None  # this process's own has no object
        self.address: Address | None = None
        self.nic_address: Address | None = ours
        self._ours = str(ours.ip)
        self.nic_mac = nic_mac or "02:" + secrets.token_bytes(5).hex(":")
        self.mac = self._link("attach to TAP").mac
        self._take([_open_queue(name)])
        track(self)

    def _link(self, operation: str) -> LinkInfo:
        with descriptors_for(operation, self.name):
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        with netlink as sock:
            try:
                return Rtnl(sock).link(self.name)
            except LinkError as e:
                remedy = f"make it first: ip tuntap add dev {self.name} mode tap user USER"
                raise LinkError(operation, self.name, e.problem, remedy, errno=e.errno) from e

    def link(self) -> LinkInfo:
        """Look at the kernel's side: MTU, state, statistics."""
        self._open("look at")
        return self._link("look at")

    def set_link(
        self,
        *,
        up: bool | None = None,  # noqa: ARG002 - as Tap takes them
        mtu: int | None = None,  # noqa: ARG002
        mac: str | None = None,  # noqa: ARG002
        txqueuelen: int | None = None,  # noqa: ARG002
    ) -> None:
        """Refuse: the interface is the administrator's.

        Raises:
            UnsupportedError: always.
        """
        self._refuse("configure", f"use ip link set dev {self.name} ...")

    def static_neighbour(self) -> None:
        """Refuse: the kernel's neighbours are the administrator's.

        Raises:
            UnsupportedError: always.
        """
        address = f"{self._ours} lladdr {self.nic_mac}"
        self._refuse("add neighbour to", f"use ip neighbour replace {address} dev {self.name}")

    def _refuse(self, operation: str, remedy: str) -> NoReturn:
        self._open(operation)
        problem = "it was set up by somebody else, and is left as it is"
        raise UnsupportedError(operation, self.name, problem, remedy)

    def packet_socket(self, proto: int = 0x0003) -> socket.socket:
        """Make an AF_PACKET socket on the kernel's side: whole frames, both directions.

        Args:
            proto: EtherType it sees; ETH_P_ALL by default, 0 for a socket that only sends.

        Raises:
            LinkError: not permitted (it takes CAP_NET_RAW), or the interface is gone.
        """
        self._open("open packet socket on")
        with contextlib.ExitStack() as stack:
            try:
                with descriptors_for("open packet socket on", self.name):
                    sock = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
                sock.bind((self.name, proto))
            except OSError as e:
                remedy = "run as root, or with CAP_NET_RAW" if e.errno == errno.EPERM else None
                raise LinkError(
                    "open packet socket on", self.name, remedy=remedy, errno=e.errno
                ) from e
            stack.pop_all()
        return sock


def _open_queue(name: str) -> int:
    remedies = {
        errno.EBUSY: "end the program that has it, or make it without multi_queue",
        errno.EPERM: "have it made for your user: ip tuntap add dev NAME mode tap user USER",
        errno.EINVAL: "name a TAP of one queue, made by ip tuntap add ... mode tap",
    }
    try:
        return open_queue(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)[0]
    except StageError as e:
        code = e.errno or 0
        if code in (errno.EMFILE, errno.ENFILE):
            raise ResourceError.from_errno(code, "open", "/dev/net/tun") from e
        if e.stage == "open tun":
            raise tun_error(code) from e
        raise LinkError("attach to TAP", name, remedy=remedies.get(code), errno=code) from e
