"""The baseline: os.sendfile() over a veth pair, everything the kernel's own."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from nic_harness.base.live import Closing
from nic_harness.errors import Deed, TcpTimeoutError, error_from_errno
from nic_harness.nic.faults import Faults
from nic_harness.transfer.passes import Pass, Progress
from nic_harness.transfer.payload import Payload
from nic_harness.trial.veth import VethReceiver, check_mtu, why_no_loss
from nic_harness.wire.netns import Namespace

#: Bytes for one os.sendfile(): larger ones are no faster, and progress is seen between two.
CHUNK = 64 << 20


class KernelSendfile(Closing):
    """sendfile(2) of the kernel over a veth pair; use as a context manager.

    Args:
        mtu: bytes, of the pair.
        stall: seconds without any progress after which it gives up.
        congestion_control: CUBIC, because a default of BBR is at a disadvantage on such a wire;
            where the kernel does not have it, its default.
        offloads: whether segmentation and sums may be left to the wire.
        faults: those of our NIC. The kernel's wire can only lose frames, at these rates.

    Attributes:
        rootless: whether it took a user namespace.
        congestion_control: in use.
        notes: what else is different from our side, a line each.

    Raises:
        MtuError: connections stall with such a one.
    """

    name = "kernel"

    def __init__(
        self,
        *,
        mtu: int = 1500,
        stall: float = 30,
        congestion_control: str = "cubic",
        offloads: bool = True,
        faults: Faults | None = None,
    ) -> None:
        check_mtu(mtu)
        self.mtu = mtu
        self._offloads = offloads
        self._stall = stall
        self._namespace = Namespace()
        self.rootless = self._namespace.rootless
        try:
            with self._namespace.socket() as sock:
                self.congestion_control = _choose(sock, congestion_control)
            self._drops, self.notes = self._loss(faults)
        except BaseException:
            self.close()
            raise

    def _loss(self, faults: Faults | None) -> tuple[tuple[float, float], tuple[str, ...]]:
        """Find out which faults the kernel's wire can have: rates of loss, and what to say."""
        if faults is None:
            return (0, 0), ()
        drops = faults.rx.get("drop", 0), faults.tx.get("drop", 0)
        rates = {**faults.rx, **faults.tx}
        others = ", ".join(sorted(kind for kind, n in rates.items() if n and kind != "drop"))
        missing = (f"kernel: its wire has no {others}",) if others else ()
        if not any(drops):
            return (0, 0), missing
        if why := why_no_loss(self._namespace):
            return (0, 0), (f"kernel: its wire loses nothing: {why}", *missing)
        return drops, ("kernel: its wire loses frames by nftables, by no seed", *missing)

    def close(self) -> None:
        """Let go of the namespaces."""
        self._namespace.close()

    def send(self, payload: Payload, *, digest: bool, progress: Progress | None = None) -> Pass:
        """Send the whole file once; see Contender.send().

        Raises:
            TcpError: the connection failed, or made no progress in time.
        """
        with (
            VethReceiver(
                self._namespace,
                mtu=self.mtu,
                digest=digest,
                offloads=self._offloads,
                drops=self._drops,
            ) as receiver,
            self._namespace.socket() as sock,
        ):
            sock.settimeout(self._stall)
            try:
                _choose(sock, self.congestion_control)
                sock.connect((receiver.address, receiver.port))
                # Blocking, with a limit: a timeout of Python's would be a poll() before each call.
                sock.settimeout(None)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(self._stall))
                frames = self._namespace.link(VethReceiver.near).stats.tx_packets
                begin, cpu = time.monotonic_ns(), time.thread_time_ns()
                syscalls = _send_file(sock, payload, progress)
                cpu = time.thread_time_ns() - cpu
            except BlockingIOError as e:
                raise TcpTimeoutError(
                    "send to", receiver.address, f"no progress in {self._stall:g} s"
                ) from e
            except OSError as e:
                raise error_from_errno(
                    e.errno or 0, "send to", receiver.address, deed=Deed.TCP
                ) from e
            received = receiver.result(self._stall)
            frames = self._namespace.link(VethReceiver.near).stats.tx_packets - frames
            retransmits, bytes_resent = _sent_again(sock)
        return Pass(
            bytes=received.bytes,
            seconds=(received.end_ns - begin) / 1e9,
            cpu_ns=cpu,
            syscalls=syscalls,
            frames=frames,
            bytes_copied=0,
            sha256=received.sha256,
            retransmits=retransmits,
            bytes_resent=bytes_resent,
        )


def _send_file(sock: socket.socket, payload: Payload, progress: Progress | None) -> int:
    """Send all of it, then the end of the stream; return the number of system calls."""
    out, file, at, calls = sock.fileno(), payload.fileno(), 0, 0
    while True:
        sent = os.sendfile(out, file, at, CHUNK)
        calls += 1
        if sent == 0:
            break
        at += sent
        if progress is not None:
            progress(at)
    sock.shutdown(socket.SHUT_WR)
    return calls + 1


def _sent_again(sock: socket.socket) -> tuple[int, int]:
    """Return tcpi_total_retrans and tcpi_bytes_retrans of struct tcp_info (linux/tcp.h)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (segments,) = struct.unpack_from("=I", info, 100)
    (count,) = struct.unpack_from("=Q", info, 208) if len(info) >= 216 else (0,)  # Linux 4.19
    return segments, count


def _choose(sock: socket.socket, congestion_control: str) -> str:
    """Ask for a congestion control, and say which one the socket has now."""
    # Of the socket and not by sysctl: a namespace takes only what any user may use as its default.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
    name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.partition(b"\0")[0].decode()


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
