"""Two namespaces and a veth pair between them: the kernel's own wire, for the baseline."""

from __future__ import annotations

import errno
import ipaddress
import os
import sys
from types import TracebackType

from nic_harness.errors import LinkError, MtuError
from nic_harness.transfer.peer import ReceivingProcess
from nic_harness.wire import nest as _nest
from nic_harness.wire.netns import Namespace

#: The sender's end and the receiver's (RFC 2544 addresses, as those of Tap).
NEAR = ipaddress.ip_interface("198.18.1.1/24")
FAR = ipaddress.ip_interface("198.18.1.2/24")
#: What drivers/net/veth.c allows.
MTU_MIN, MTU_MAX = 68, 65535


class VethReceiver(ReceivingProcess):
    """A receiver behind a veth pair whose near end is in a namespace; use as a context manager.

    The far end's namespace is the receiver's own and goes with it, and so does the pair.

    Args:
        namespace: of the near end.
        mtu: bytes, of both ends.
        digest: as for ReceivingProcess.

    Raises:
        MtuError: not an MTU for veth.
        LinkError: the kernel refused the pair.
    """

    near = "veth0"

    def __init__(self, namespace: Namespace, *, mtu: int, digest: bool = False) -> None:
        self._namespace = namespace
        if not MTU_MIN <= mtu <= MTU_MAX:
            raise MtuError(
                "make veth pair", "", f"MTU {mtu} is out of range", f"use {MTU_MIN} to {MTU_MAX}"
            )
        nest = (sys.executable, "-I", "-S", _nest.__file__)
        where = ("veth1", str(FAR.ip), str(FAR.netmask))
        super().__init__(namespace, str(FAR.ip), digest=digest, wrapper=(*nest, *where))
        self._far = -1
        try:
            self.line()
            # The far namespace stays while its frames are counted, also when the receiver ended.
            self._far = os.open(f"/proc/{self.process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._make_pair(mtu)
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

    def _make_pair(self, mtu: int) -> None:
        self._namespace.add_veth(self.near, "veth1", self.process.pid, mtu)
        self._namespace.set_link(self.near, up=True)
        self._namespace.add_address(self.near, str(NEAR))
