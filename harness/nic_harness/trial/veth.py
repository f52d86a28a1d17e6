"""Two namespaces and a veth pair between them: the kernel's own wire, for the baseline."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from types import TracebackType

from nic_harness.errors import CommandError, LinkError, MtuError
from nic_harness.transfer.peer import ReceivingProcess
from nic_harness.wire import nest as _nest
from nic_harness.wire.netns import Namespace

#: The sender's end and the receiver's (RFC 2544 addresses, as those of Tap).
NEAR = ipaddress.ip_interface("198.18.1.1/24")
FAR = ipaddress.ip_interface("198.18.1.2/24")
#: The kernel's TCP sends segments of 48 bytes and more (TCP_MIN_MSS), 88 with their headers. With
#: a smaller MTU, IP fragments each of them, and connections stall.
MTU_MIN = 88
MTU_MAX = 65535  # of drivers/net/veth.c
#: A rate is drawn out of so many.
_DICE = 1_000_000


class VethReceiver(ReceivingProcess):
    """A receiver behind a veth pair whose near end is in a namespace; use as a context manager.

    The far end's namespace is the receiver's own and goes with it, and so does the pair.

    Args:
        namespace: of the near end.
        mtu: bytes, of both ends.
        digest: as for ReceivingProcess.
        offloads: whether the pair may hand on super-frames, and sums that are left to do.
        drops: how often a frame is lost, 0 to 1, on its way to the sender and to the receiver.

    Raises:
        LinkError: the kernel refused the pair, or to switch its offloads off.
        CommandError: nft failed.
    """

    near = "veth0"

    def __init__(
        self,
        namespace: Namespace,
        *,
        mtu: int,
        digest: bool = False,
        offloads: bool = True,
        drops: tuple[float, float] = (0, 0),
    ) -> None:
        self._namespace = namespace
        # Frames are lost where they arrive: one whose loss its sender sees would be no loss to TCP.
        near, far = drops
        nest = [sys.executable, "-I", "-S", _nest.__file__]
        nest += ["--no-offloads"] * (not offloads)
        nest += ["--nft", ruleset("veth1", far)] if far else []
        where = ("veth1", str(FAR.ip), str(FAR.netmask))
        super().__init__(namespace, str(FAR.ip), digest=digest, wrapper=(*nest, *where))
        self._far = -1
        try:
            self.line()
            # The far namespace stays while its frames are counted, also when the receiver ended.
            self._far = os.open(f"/proc/{self.process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._make_pair(mtu, offloads)
            if near:
                _nft(namespace, ruleset(self.near, near))
            self.tell("here it is")
            self.ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, value, trace)
        if self._far >= 0:
            os.close(self._far)
            self._far = -1
        if not self._namespace._owner.here:
            return
        # The kernel removes the pair with the far namespace, but takes its time.
        try:
            self._namespace.delete_link(self.near)
        except LinkError as e:
            if e.errno != errno.ENODEV:
                raise

    def _make_pair(self, mtu: int, offloads: bool) -> None:
        self._namespace.add_veth(self.near, "veth1", self.process.pid, mtu)
        if not offloads:
            with self._namespace.socket(type=socket.SOCK_DGRAM) as sock:
                try:
                    _nest.switch_offloads_off(sock, self.near)
                except OSError as e:
                    raise LinkError("switch offloads off on", self.near, errno=e.errno) from e
        self._namespace.set_link(self.near, up=True)
        self._namespace.add_address(self.near, str(NEAR))


def check_mtu(mtu: int) -> None:
    """See that the baseline works with an MTU.

    Raises:
        MtuError: it does not.
    """
    if mtu < MTU_MIN:
        raise MtuError(
            "make baseline",
            "",
            f"MTU {mtu} is too small for it: the kernel's TCP sends no segment of less than 48 "
            f"bytes, which below {MTU_MIN} IP fragments, and connections stall",
            f"use --mtu {MTU_MIN} or more, or leave it out: --strategies sf_buf,copy",
        )
    if mtu > MTU_MAX:
        raise MtuError("make veth pair", "", f"MTU {mtu} is out of range", f"use up to {MTU_MAX}")


def ruleset(device: str, rate: float) -> str:
    """Make nftables rules that lose frames which an interface receives, at random."""
    return f"""
table netdev harness {{
    chain arriving {{
        type filter hook ingress device {device} priority 0
        numgen random mod {_DICE} < {round(rate * _DICE)} counter drop
    }}
}}
"""


def why_no_loss(namespace: Namespace) -> str:
    """Say why frames cannot be lost in a namespace; empty when they can."""
    try:
        _nft(namespace, ruleset("lo", 0.5), "--check")
    except CommandError as e:
        return "nft is not installed" if e.errno == errno.ENOENT else e.problem
    return ""


def _nft(namespace: Namespace, rules: str, *options: str) -> None:
    args = ["nft", *options, "--file", "-"]
    done = namespace.run(args, input=rules, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CommandError("run", "nft", said[0])
