"""A scapy socket over a NIC: `sniff`, `sendp`, `AsyncSniffer` and `sr1` on frames of the rings.

sock = NicSocket(nic)
answer = sock.sr1(Ether(...) / IP(...) / ICMP(), timeout=1)
sendp(frames, socket=sock)
sniff(opened_socket=sock, count=3)
"""

from __future__ import annotations

import collections
import contextlib
import select as _select
import time
from collections.abc import Iterable
from typing import Any

try:
    from scapy.data import MTU
    from scapy.layers.l2 import Ether
    from scapy.packet import Packet
    from scapy.supersocket import SuperSocket
    from scapy.utils import checksum
except ModuleNotFoundError as e:
    raise ModuleNotFoundError(
        "import nic_harness.scapy_socket: scapy is not installed; pip install nic-harness[scapy]",
        name=e.name,
    ) from None

from nic_harness.base import check
from nic_harness.errors import ClosedError, LinkDownError
from nic_harness.nic.frame import Frame, Gso
from nic_harness.nic.nic import Nic

__all__ = ["NicSocket"]


class NicSocket(SuperSocket):
    """A layer 2 socket of scapy's on one queue of a NIC.

    Frames are taken off the ring in bursts, copied once into bytes (counted in `bytes_copied` of
    the arena), and their pages given back at once: a slow dissector never holds pages. Sums that
    the sender left to do are done, so that a frame looks as it would on a wire. Super-frames come
    as they are: attach the NIC with Offloads.NONE to have none.

    Sending and receiving from different threads is fine. Closing it leaves the NIC open.

    Args:
        nic: the NIC; it must be open for as long as the socket is.
        queue: its queue.
    """

    desc = "frames through the rings of a harness.Nic"

    def __init__(self, nic: Nic, queue: int = 0) -> None:
        check.instance("make", "a scapy socket", "nic", nic, Nic)
        check.integer("make", "a scapy socket", "queue", queue, 0, nic.attached.queues - 1)
        self.nic = nic
        self.queue = queue
        self.iface = nic.tap.name
        self._harvested: collections.deque[tuple[bytes, float]] = collections.deque()

    def __repr__(self) -> str:
        return f"<NicSocket on {self.nic!r}>"

    def fileno(self) -> int:
        """Return the descriptor that is readable when frames wait in the device."""
        return self.nic.fileno(self.queue)

    def send(self, x: Packet | bytes) -> int:
        """Send one packet; its length in bytes.

        Raises:
            FrameSizeError, FrameError, ClosedError: as Nic.send().
        """
        if not isinstance(x, Packet):
            check.buffer("send on", self, "x", x)
        data = bytes(x)
        if isinstance(x, Packet):
            x.sent_time = time.time()
        self.nic.send(data, queue=self.queue)
        return len(data)

    def recv_raw(self, x: int = MTU) -> tuple[type[Packet] | None, bytes | None, float | None]:
        """Take one frame: its class, bytes and time; (None, None, None) when none is there.

        Raises:
            EOFError: the NIC was closed.
        """
        check.integer("receive from", self, "x", x, 0, (1 << 31) - 1)
        if not self._harvested:
            self._harvest()
        try:
            data, when = self._harvested.popleft()
        except IndexError:
            return None, None, None
        return Ether, data[:x], when

    def _harvest(self) -> None:
        try:
            frames = self.nic.recv(timeout=0, queue=self.queue)
        except ClosedError:
            raise EOFError("the NIC was closed") from None
        except LinkDownError:
            return  # it may come up again; nothing to read until then
        for frame in frames:
            with frame:
                self._harvested.append((_on_the_wire(frame), frame.timestamp / 1e9))

    def close(self) -> None:
        """Forget what was harvested; the NIC stays open."""
        self.closed = True
        harvested = getattr(self, "_harvested", None)
        if harvested is not None:
            harvested.clear()

    @staticmethod
    def select(sockets: Iterable[Any], remain: float | None = None) -> list[Any]:
        """Wait for one of several sockets; what was harvested already is looked at first.

        Args:
            sockets: these and others that have a fileno().
            remain: seconds; None: for ever.
        """
        sockets = list(sockets)
        ready = [s for s in sockets if isinstance(s, NicSocket) and s._harvested]
        with contextlib.suppress(InterruptedError):
            try:
                polled, _, _ = _select.select(sockets, [], [], 0 if ready else remain)
            except (ClosedError, ValueError, OSError):
                # One was closed under us: its recv() says so.
                return [s for s in sockets if _is_closed(s)] or ready
            ready += [s for s in polled if s not in ready]
        return ready


def _is_closed(sock: Any) -> bool:
    try:
        return bool(sock.fileno() < 0)
    except (ClosedError, OSError, ValueError):
        return True


def _on_the_wire(frame: Frame) -> bytes:
    """Copy a frame, with its sum done as the last hop before the wire would have."""
    o = frame.offload
    data = bytes(frame)
    at = o.csum_start + o.csum_offset
    if not o.needs_csum or o.gso is not Gso.NONE or at + 2 > len(data):
        return data
    # The field holds the sum of the pseudo header. 0 means "no sum" to UDP (RFC 768).
    value = checksum(data[o.csum_start :]) or 0xFFFF
    return data[:at] + value.to_bytes(2, "big") + data[at + 2 :]
