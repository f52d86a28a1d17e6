"""Our NIC on a TAP: sending the file by sendfile over our own TCP, mapped or copied."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from nic_harness.errors import FileError, LinkDownError, TcpResetError, TcpTimeoutError
from nic_harness.host.stack import Connection, Stack
from nic_harness.host.stack import Strategy as Sendfile
from nic_harness.memory.arena import Arena
from nic_harness.nic.capture import Capture
from nic_harness.nic.faults import Faults
from nic_harness.nic.nic import Attached, Nic, Offloads
from nic_harness.transfer.passes import Pass, Progress
from nic_harness.transfer.payload import Payload
from nic_harness.transfer.peer import ReceivingProcess
from nic_harness.transfer.results import Setup
from nic_harness.wire.tap import Tap
from nic_harness.wire.wire import Wire

_HOW = {"sf_buf": Sendfile.SF_BUF, "copy": Sendfile.COPY, "direct": Sendfile.DIRECT}
#: Names of the ways that a file page can take to the wire.
STRATEGIES: tuple[str, ...] = tuple(_HOW)


@dataclass(frozen=True, slots=True)
class Sent:
    """What the sender knows of one transfer.

    Attributes:
        bytes: bytes that the peer acknowledged.
        begin_ns, end_ns: CLOCK_MONOTONIC before the first call and when all was acknowledged.
        cpu_ns: CPU time of the calling thread in between, user and system.
        syscalls: system calls by the device and by sendfile itself.
        frames: frames of all kinds put on the transmit ring.
        bytes_copied: payload bytes copied in user space.
        retransmits: frames sent again.
        bytes_resent: payload in them.
    """

    bytes: int
    begin_ns: int
    end_ns: int
    cpu_ns: int
    syscalls: int
    frames: int
    bytes_copied: int
    retransmits: int
    bytes_resent: int


class OurNic:
    """Arena, TAP, NIC and TCP, ready to send files; use as a context manager.

    Args:
        tap: the wire; None: a TAP of its own, in a namespace of its own.
        mtu: MTU of the TAP that it makes, bytes.
        device, faults, capture: passed to the NIC; see Nic.
        offloads: whether segmentation and checksums may be left to the TAP.
        gateway: the way to hosts beyond the wire; None: there are none.
        stall: seconds without progress after which a transfer fails.

    Attributes:
        attached: what the NIC really runs on.
        rootless: whether the wire's namespace needed a user namespace.
        arena: for its figures.
    """

    def __init__(
        self,
        *,
        tap: Wire | None = None,
        mtu: int = 1500,
        device: str = "auto",
        offloads: bool = True,
        faults: Faults | None = None,
        capture: Capture | None = None,
        gateway: str | None = None,
        stall: float = 30,
    ) -> None:
        self._stall = stall
        with contextlib.ExitStack() as stack:
            self._tap: Wire = stack.enter_context(Tap(mtu=mtu)) if tap is None else tap
            self.arena = stack.enter_context(Arena())
            self._nic = stack.enter_context(
                Nic(
                    self._tap,
                    self.arena,
                    device=device,
                    offloads=None if offloads else Offloads.NONE,
                    faults=faults,
                    capture=capture,
                )
            )
            self._stack = stack.enter_context(Stack(self._nic, gateway=gateway))
            self.attached: Attached = self._nic.describe()
            where = self._tap.namespace
            self.rootless: bool = where is not None and where.rootless
            self._close = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close.__exit__(kind, value, trace)

    def summary(self) -> Setup:
        """Return what is attached, for a report without a baseline."""
        return Setup(
            device=self.attached.device,
            offloads=tuple(str(self.attached.offloads).split()),
            mtu=self.attached.mtu,
            queues=self.attached.queues,
            rootless=self.rootless,
            congestion_control=None,
            why_not=self.attached.why_not,
        )

    def strategy(self, name: str) -> OurSendfile:
        """Return one of STRATEGIES, which can send any number of times."""
        return OurSendfile(self, name)

    def receiver(self, *, digest: bool) -> ReceivingProcess:
        """Start a receiver at the other end of the wire."""
        assert self._tap.namespace is not None
        assert self._tap.address is not None
        return ReceivingProcess(self._tap.namespace, str(self._tap.address.ip), digest=digest)

    def transfer(
        self,
        host: str,
        port: int,
        payload: Payload,
        strategy: str,
        *,
        progress: Progress | None = None,
    ) -> Sent:
        """Send a whole file over a connection of its own, until everything is acknowledged.

        Raises:
            TcpError: no connection, or it broke, or it made no progress in time.
            LinkDownError: it made none because the wire is down.
            FileError: the file shrank meanwhile, or reading it failed.
        """
        try:
            return self._transfer(host, port, payload, strategy, progress)
        except TcpResetError as e:
            raise TcpResetError(
                "send to",
                f"{host}:{port}",
                "the peer reset the connection before it had everything",
                "see the receiver's messages",
                errno=e.errno,
            ) from e
        except TcpTimeoutError as e:
            if self._tap.link().up:
                raise
            name = self._tap.name
            raise LinkDownError(
                "send over", name, "it is down", f"ip link set dev {name} up"
            ) from e
        except FileError as e:
            # Reading a page that is gone fails with a read error.
            raise (payload.shrunk() if payload.is_shorter() else e) from e

    def _transfer(
        self, host: str, port: int, payload: Payload, strategy: str, progress: Progress | None
    ) -> Sent:
        with self._stack.connect(host, port, timeout=self._stall) as connection:
            device = self._nic.device_stats()
            queued = self._nic.stats().tx_queued

            watch = _Watch(connection, self._stall, progress)
            copied = self.arena.stats().bytes_copied
            resent = self._stack.stats().tx_payload_retransmitted
            begin, cpu = time.monotonic_ns(), time.thread_time_ns()
            # The size is given, so that a file that shrinks during the transfer is noticed.
            result = connection.sendfile(
                payload.fileno(), 0, payload.size, strategy=_HOW[strategy], progress=watch
            )
            if result.shrunk:
                raise payload.shrunk()
            connection.shutdown()
            watch.drain()
            cpu = time.thread_time_ns() - cpu
            end = time.monotonic_ns()
            copied = self.arena.stats().bytes_copied - copied
            now = self._nic.device_stats()
            resent = self._stack.stats().tx_payload_retransmitted - resent
            retransmits = connection.info().retransmits
        return Sent(
            bytes=result.sbytes,
            begin_ns=begin,
            end_ns=end,
            cpu_ns=cpu,
            syscalls=result.syscalls + now.syscalls - device.syscalls,
            frames=self._nic.stats().tx_queued - queued,
            bytes_copied=copied,
            retransmits=retransmits,
            bytes_resent=resent,
        )


class _Watch:
    """Makes sure that a transfer goes on, and reports its progress.

    Args:
        connection: the connection that it uses.
        stall: seconds without a new acknowledgement after which it fails.
        progress: called with the number of bytes acknowledged.
    """

    def __init__(self, connection: Connection, stall: float, progress: Progress | None) -> None:
        self._connection = connection
        self._stall = stall
        self._progress = progress
        self._acked = -1
        self._since = 0.0

    def __call__(self, _handed_over: int) -> None:
        """Check the progress; called some twenty times a second.

        Raises:
            TcpTimeoutError: there was no progress for too long.
        """
        acked = self._connection.info().bytes_acked
        now = time.monotonic()
        if acked != self._acked:
            self._acked, self._since = acked, now
            if self._progress is not None:
                self._progress(acked)
            return
        if now - self._since > self._stall:
            host, port = self._connection.peer
            raise TcpTimeoutError(
                "send to",
                f"{host}:{port}",
                f"the peer has taken nothing for {self._stall:g} s, after {acked} bytes",
                "make sure that it reads, or wait longer with --stall",
            )

    def drain(self) -> None:
        """Wait until the peer has acknowledged everything.

        Raises:
            TcpError: the connection broke, or made no progress for too long.
        """
        while True:
            try:
                self._connection.drain(0.05)
            except TcpTimeoutError:
                if self._connection.info().error is not None:
                    raise
                self(0)
            else:
                return


class OurSendfile:
    """A Contender: our own sendfile with one of STRATEGIES."""

    def __init__(self, nic: OurNic, name: str) -> None:
        self.name = name
        self._nic = nic
        self._stall = nic._stall

    def send(self, payload: Payload, *, digest: bool, progress: Progress | None = None) -> Pass:
        """Send the whole file once; see Contender.send()."""
        with self._nic.receiver(digest=digest) as receiver:
            receiver.ready()
            sent = self._nic.transfer(
                receiver.address, receiver.port, payload, self.name, progress=progress
            )
            received = receiver.result(self._stall)
        return Pass(
            bytes=received.bytes,
            seconds=(received.end_ns - sent.begin_ns) / 1e9,
            cpu_ns=sent.cpu_ns,
            syscalls=sent.syscalls,
            frames=sent.frames,
            bytes_copied=sent.bytes_copied,
            sha256=received.sha256,
            retransmits=sent.retransmits,
            bytes_resent=sent.bytes_resent,
        )
