"""A TAP that somebody else set up: the way from our NIC to a real network without being root.

The administrator makes it once, for a user, and puts it into a bridge or routes to it:

    ip tuntap add dev tap0 mode tap user alice
    ip link set tap0 master br0 up
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import secrets
import socket
import struct
import weakref

from nic_harness.base.descriptors import descriptors_for
from nic_harness.base.owner import own, this_process
from nic_harness.errors import ArgumentError, LinkError, TunMissingError, TunPermissionError
from nic_harness.wire.holder import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, TUNSETIFF
from nic_harness.wire.rtnl import LinkInfo, Rtnl
from nic_harness.wire.tap import Tap, _close_all

__all__ = ["ExistingTap"]


class ExistingTap(Tap):
    """One queue of a persistent TAP in this process's network namespace; a context manager.

    The interface stays when it is closed, and nothing of it is changed: no address, no MTU.

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
        self.name = name
        self.fds = ()
        self.address = None
        try:
            self.nic_address = ipaddress.ip_interface(nic_address)
        except ValueError as e:
            raise ArgumentError("attach to TAP", name, str(e)) from None
        self.nic_mac = nic_mac or "02:" + secrets.token_bytes(5).hex(":")
        self._owner = this_process()
        self._owns_namespace = False
        self.mac = self._link("attach to TAP").mac
        self.fds = (own(_open_queue(name)),)
        self._close_fds = weakref.finalize(self, _close_all, self.fds, self._owner)

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


def _open_queue(name: str) -> int:
    remedies = {
        errno.EBUSY: "end the program that has it, or make it without multi_queue",
        errno.EPERM: "have it made for your user: ip tuntap add dev NAME mode tap user USER",
        errno.EINVAL: "name a TAP of one queue, made by ip tuntap add ... mode tap",
    }
    try:
        with descriptors_for("open", "/dev/net/tun"):
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        kind = TunPermissionError if e.errno in (errno.EACCES, errno.EPERM) else TunMissingError
        raise kind("open", "/dev/net/tun", errno=e.errno) from e
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as e:
        os.close(fd)
        raise LinkError(
            "attach to TAP", name, remedy=remedies.get(e.errno or 0), errno=e.errno
        ) from e
    return fd
