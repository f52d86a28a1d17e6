"""The devices behind a NIC: which there are, which work here, and why others do not."""

from __future__ import annotations

import enum
import errno
import grp
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nic_harness._native import ffi, lib
from nic_harness.errors import Deed, HarnessError, UnsupportedError, error_from_errno

__all__ = ["DEVICES", "Attached", "Offloads"]

_VHOST = Path("/dev/vhost-net")
#: Feature bits as virtio 1.x names them.
_FEATURES = {
    15: "VIRTIO_NET_F_MRG_RXBUF",
    28: "VIRTIO_F_INDIRECT_DESC",
    29: "VIRTIO_F_EVENT_IDX",
    32: "VIRTIO_F_VERSION_1",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A device, as the table in C describes it (native/device/kinds.c).

    Attributes:
        name: the name that selects it.
        does: what it does, in words.
        create: makes one on TAP queues.
        automatic: "auto" tries the device with the highest number first; 0: by name only.
        everywhere: whether it needs nothing but the TAP.
    """

    name: str
    does: str
    create: Callable[[Sequence[int], int, Any], int]
    automatic: int
    everywhere: bool


def _kinds() -> dict[str, Kind]:
    table = (lib.device_kinds[i] for i in range(lib.device_nkinds))
    kinds = (
        Kind(
            ffi.string(k.name).decode(),
            ffi.string(k.does).decode(),
            k.create,
            k.automatic,
            k.everywhere,
        )
        for k in table
    )
    return {kind.name: kind for kind in kinds}


#: The devices by name.
KINDS = _kinds()

#: The names that select a device.
DEVICES = tuple(KINDS)

#: What "auto" tries, the fastest first.
_AUTO = tuple(sorted((k for k in DEVICES if KINDS[k].automatic), key=lambda k: -KINDS[k].automatic))

#: The device that works everywhere, for remedies.
_FALLBACK = next(name for name, kind in KINDS.items() if kind.everywhere)


class Offloads(enum.Flag):
    """The work that each side may leave to the other."""

    NONE = 0
    CSUM = lib.OFFLOAD_CSUM
    TSO4 = lib.OFFLOAD_TSO4
    TSO6 = lib.OFFLOAD_TSO6
    ECN = lib.OFFLOAD_ECN
    USO = lib.OFFLOAD_USO
    ALL = lib.OFFLOAD_ALL

    def __str__(self) -> str:
        return " ".join(str(o.name).lower() for o in Offloads if o in self) or "none"


@dataclass(frozen=True, slots=True)
class Attached:
    """What a NIC really runs on; str() describes it in one line.

    Attributes:
        device: its name, with what is wrapped around it: "tap_uring", "faults(tap_rw)".
        why_not: says why "auto" chose no faster device, and the remedy; otherwise empty.
    """

    device: str
    interface: str
    mtu: int
    queues: int
    rx_ring_size: int
    tx_ring_size: int
    offloads: Offloads
    mac: str
    why_not: str = ""

    def __str__(self) -> str:
        return (
            f"{self.device} on {self.interface}, MTU {self.mtu}, "
            f"{self.queues} queue{'s' * (self.queues > 1)} of {self.rx_ring_size} receive and "
            f"{self.tx_ring_size} transmit descriptors, offloads: {self.offloads}"
        )


def wanted(device: str, operation: str, interface: str) -> str:
    """Resolve the name of a device: "auto" is NIC_HARNESS_DEVICE if that is set.

    Raises:
        UnsupportedError: there is no device with that name.
    """
    if device == "auto":
        device = os.environ.get("NIC_HARNESS_DEVICE", "") or "auto"
    if device != "auto" and device not in DEVICES:
        raise UnsupportedError(
            operation,
            interface,
            f"there is no device {device!r}",
            f"use auto, {', '.join(DEVICES[:-1])} or {DEVICES[-1]}",
        )
    return device


def create(fds: Sequence[int], device: str, interface: str) -> tuple[str, Any, str]:
    """Make a device on the queues of a TAP.

    Args:
        fds: TAP queues.
        device: as wanted() returns it.
        interface: name, for messages.

    Returns: its name, the `struct device *`, which the caller must attach, and why no faster device
    was chosen.

    Raises:
        UnsupportedError: the device was requested by name, and cannot work here.
        HarnessError: no device can be made on these queues.
    """
    reasons: list[str] = []
    out = ffi.new("struct device **")
    names = _AUTO if device == "auto" else (device,)
    for name in names:
        code = KINDS[name].create(fds, len(fds), out)
        if code == 0:
            return name, out[0], "; ".join(reasons)
        if name == names[-1]:
            break
        reasons.append("{}: {}; {}".format(name, *_explain(name, code)))
    raise refused(name, code, interface) or error_from_errno(
        code, "open queues of", interface, deed=Deed.DEVICE
    )


def refused(name: str, code: int, interface: str) -> HarnessError | None:
    """Make the error for a device that cannot work here; None if `code` has another cause.

    Args:
        name: name of the device.
        code: the negative error number from making or attaching it.
        interface: name of the interface, for the message.
    """
    if KINDS[name].everywhere or code in (
        -errno.EINVAL,
        -errno.EBADF,
        -errno.ENOMEM,
        -errno.EMFILE,
    ):
        return None
    problem, remedy = _explain(name, code)
    return UnsupportedError(
        "attach NIC to", interface, f"no {name}: {problem}", remedy, errno=-code
    )


def _explain(name: str, code: int) -> tuple[str, str]:
    """Say why a device does not work, and what can be done about it."""
    explain = _EXPLAIN.get(name)
    known = None if explain is None else explain(code)
    return known or (os.strerror(-code), f"use device {_FALLBACK}")


def _explain_uring(code: int) -> tuple[str, str] | None:
    if code == -errno.ENOSYS:
        return "this kernel has no io_uring, or one older than 5.11", "use device tap_rw"
    if code == -errno.ENOMEM:
        return "the limit on locked memory is too low for io_uring", "raise ulimit -l"
    if code != -errno.EPERM:
        return None
    try:
        level = Path("/proc/sys/kernel/io_uring_disabled").read_text().strip()
    except OSError:  # before Linux 6.6
        level = "0"
    if level == "0":
        return "a system call filter forbids io_uring", "allow io_uring_setup in the filter"
    who = "everybody" if level == "2" else "all but root and kernel.io_uring_group"
    return (
        f"io_uring is switched off for {who}: kernel.io_uring_disabled is {level}",
        "sysctl kernel.io_uring_disabled=0",
    )


def _explain_vhost(code: int) -> tuple[str, str] | None:
    if code in (-errno.ENOENT, -errno.ENODEV, -errno.ENXIO):
        return f"there is no {_VHOST}", "load it: modprobe vhost_net"
    if code in (-errno.EACCES, -errno.EPERM):
        return f"{_VHOST} cannot be opened by this user", f"be root, or {_group_of(_VHOST)}"
    if code == -errno.ENOSPC:
        return (
            "the receive ring has no room for a frame of 64 KiB, and vhost-net would wait for it",
            "use ring_size=32 or more",
        )
    if code == -errno.EOPNOTSUPP:
        return (
            f"this kernel's vhost-net lacks features that the rings need: {_missing_features()}",
            "use device tap_uring or tap_rw",
        )
    return None


#: Explains why a device does not work; for a device not listed here, the text of errno serves.
_EXPLAIN = {"tap_uring": _explain_uring, "vhost_net": _explain_vhost}


def _missing_features() -> str:
    missing = ffi.new("uint64_t *")
    lib.vhost_net_missing(missing)
    return " ".join(name for bit, name in _FEATURES.items() if missing[0] >> bit & 1)


def _group_of(path: Path) -> str:
    """Say how to get access to a file: by its group if that may read and write, or by setfacl."""
    try:
        st = path.stat()
        if st.st_mode & 0o060 == 0o060:
            return f"a member of group {grp.getgrgid(st.st_gid).gr_name}"
    except (OSError, KeyError):
        pass
    return f"have it opened for you: setfacl -m u:$USER:rw {path}"
