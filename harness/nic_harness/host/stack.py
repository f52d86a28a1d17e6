"""A host on a NIC: ARP, IPv4, ICMP echo and TCP of our own, and sendfile over it."""

from __future__ import annotations

import contextlib
import enum
import errno
import ipaddress
import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias, TypeVar

from nic_harness._native import ffi, lib
from nic_harness.base import site as _site
from nic_harness.base.live import Closing, track
from nic_harness.base.owner import this_process
from nic_harness.base.waiter import Waiter
from nic_harness.errors import (
    ArgumentError,
    ClosedError,
    FileError,
    HarnessError,
    ResourceError,
    TcpClosedError,
    TcpError,
    TcpTimeoutError,
    UnsupportedError,
    WaitTimeoutError,
    error_from_errno,
)
from nic_harness.host.counters import StackStats
from nic_harness.nic.frame import Chain, Frame, Offload
from nic_harness.nic.nic import Nic
from nic_harness.nic.queue import BURST, Bytes, Sendable

__all__ = [
    "Connection",
    "Listener",
    "SendfileResult",
    "Stack",
    "StackMemory",
    "Strategy",
    "TcpInfo",
    "TcpState",
]

File: TypeAlias = int | str | os.PathLike[str] | IO[Any]
_T = TypeVar("_T")

_SLICE_NS = 50_000_000  # how long a call into C may take before signals are looked at
_DOWN_POLL_S = 0.02
_NEVER = (1 << 64) - 1  # of inet_deadline()
_CHUNK = 256 * 1024  # bytes copied into pages at a time


class Strategy(enum.Enum):
    """How sendfile gets at the bytes of the file."""

    SF_BUF = lib.SENDFILE_SF_BUF
    """Its pages are mapped and sent from there: no copy in user space."""
    COPY = lib.SENDFILE_COPY
    """They are read into pages of the arena."""
    DIRECT = lib.SENDFILE_DIRECT
    """The disk puts them into pbuf windows, past the page cache (O_DIRECT, io_uring): no copy."""


class TcpState(enum.Enum):
    """States of a connection (RFC 9293 section 3.3.2)."""

    CLOSED = lib.TCPS_CLOSED
    LISTEN = lib.TCPS_LISTEN
    SYN_SENT = lib.TCPS_SYN_SENT
    SYN_RECEIVED = lib.TCPS_SYN_RECEIVED
    ESTABLISHED = lib.TCPS_ESTABLISHED
    CLOSE_WAIT = lib.TCPS_CLOSE_WAIT
    FIN_WAIT_1 = lib.TCPS_FIN_WAIT_1
    CLOSING = lib.TCPS_CLOSING
    LAST_ACK = lib.TCPS_LAST_ACK
    FIN_WAIT_2 = lib.TCPS_FIN_WAIT_2
    TIME_WAIT = lib.TCPS_TIME_WAIT


#: The peer has not agreed yet; SYN_RECEIVED is seen by one that connects to us at the same moment.
_OPENING = frozenset({TcpState.SYN_SENT, TcpState.SYN_RECEIVED})
#: The peer has everything, our FIN included.
_FINISHED = frozenset({TcpState.CLOSED, TcpState.FIN_WAIT_2, TcpState.TIME_WAIT})


@dataclass(frozen=True, slots=True)
class StackMemory:
    """What a stack holds at one moment, and how much of it it may hold.

    Attributes:
        pages_limit, pages_used: pages of the arena, of what was received and what is to be sent.
        pages_promised: pages set aside for the windows that were advertised.
        mbufs_limit, mbufs_used: mbufs, likewise.
        conns_limit, conns: connections and listeners.
        half_open: connections whose handshake is not finished.
        orphans: connections that were closed here and still have something to send or to wait for.
        time_wait: connections in TIME_WAIT that were closed here.
    """

    pages_limit: int
    pages_used: int
    pages_promised: int
    mbufs_limit: int
    mbufs_used: int
    conns_limit: int
    conns: int
    half_open: int
    orphans: int
    time_wait: int


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """A connection at one moment.

    Attributes:
        state: RFC 9293 section 3.3.2.
        error: the error number that ended it, or None.
        local, peer: (address, port).
        mss: payload bytes per segment towards the peer.
        snd_wnd, rcv_wnd, cwnd, ssthresh: bytes.
        unsent, unacked: bytes in the send buffer.
        readable: bytes in the receive buffer.
        srtt_us, rto_us: microseconds.
        timestamps, window_scale: whether the options were negotiated.
        bytes_acked, bytes_received: payload bytes.
        retransmits: segments sent again.
    """

    state: TcpState
    error: int | None
    local: tuple[str, int]
    peer: tuple[str, int]
    mss: int
    snd_wnd: int
    rcv_wnd: int
    cwnd: int
    ssthresh: int
    unsent: int
    unacked: int
    readable: int
    srtt_us: int
    rto_us: int
    timestamps: bool
    window_scale: bool
    bytes_acked: int
    bytes_received: int
    retransmits: int


@dataclass(frozen=True, slots=True)
class SendfileResult:
    """What sendfile did.

    Attributes:
        sbytes: bytes handed to TCP, header and trailer included.
        syscalls: system calls it made for the file.
        shrunk: the file ended before the bytes asked for; no trailer was sent.
    """

    sbytes: int
    syscalls: int
    shrunk: bool


class Stack(Closing):
    """A host on one queue of a NIC; use as a context manager.

    Nothing happens behind its back: frames move and timers run while one of its calls waits, or in
    poll() and serve(). Calls from several threads take turns; who waits runs the others' timers.

    Args:
        nic: the NIC; the queue belongs to the stack until it is closed.
        address: ours with its prefix length, "198.18.0.2/24"; None: the `nic_address` of the TAP.
        gateway: where to send what is on no network of ours.
        queue: the NIC's queue.
        sndbuf: bytes that a connection keeps unsent or unacknowledged; None: 8 MiB.
        rcvbuf: bytes that a connection keeps for its reader; None: 4 MiB.
        budget: pages of the arena that it holds at most, received and to be sent; None: three
            quarters of what the receive rings leave.
        unclaimed: frames that no protocol here takes, to keep for recv_unclaimed(); 0: none.
        seed: of sequence numbers and ports, for a run that can be repeated; 0: random.

    Raises:
        ArgumentError: no address, or not an IPv4 one; a number out of range.
        BusyError: the queue belongs to another stack.
        ResourceError: out of memory.
    """

    def __init__(
        self,
        nic: Nic,
        address: str | None = None,
        *,
        gateway: str | None = None,
        queue: int = 0,
        sndbuf: int | None = None,
        rcvbuf: int | None = None,
        budget: int | None = None,
        unclaimed: int = 0,
        seed: int = 0,
    ) -> None:
        self._inet: Any = None
        self._owner = this_process()
        self._lock = threading.RLock()
        self._waiter = Waiter()
        ours = nic.tap.nic_address if address is None else _interface(address)
        if not isinstance(ours, ipaddress.IPv4Interface):
            raise ArgumentError("make stack on", nic.tap.name, f"{ours} is no IPv4 address")
        q = nic._queue(queue)
        config = ffi.new("struct inet_config *")
        config.addr = _to_be32(ours.ip)
        config.netmask = _to_be32(ours.netmask)
        config.gateway = 0 if gateway is None else _to_be32(_address(gateway))
        config.queue = queue
        config.sndbuf = sndbuf or 0
        config.rcvbuf = rcvbuf or 0
        if not 0 <= unclaimed < 1 << 32:
            raise ArgumentError(
                "make stack on", nic.tap.name, f"unclaimed={unclaimed}", "0 or more frames"
            )
        if budget is not None and not 1 <= budget < 1 << 32:
            raise ArgumentError("make stack on", nic.tap.name, f"budget={budget}", "1 page or more")
        config.budget = budget or 0
        config.unclaimed = unclaimed
        config.seed = seed
        out = ffi.new("struct inet **")
        code = lib.inet_create(nic.handle, config, out)
        if code:
            raise error_from_errno(code, "make stack on", nic.tap.name)
        self.nic = nic
        self.address = str(ours.ip)
        self.queue = queue
        self._q = q
        self._keeps_unclaimed = unclaimed > 0
        self._left: deque[Frame] = deque()  # unclaimed, taken from C, and not passed up yet
        self._inet = out[0]
        self._turn = _Turn(self._inet, self._waiter)
        nic._users[queue] = self
        track(self)

    def __repr__(self) -> str:
        return "<Stack closed>" if self.closed else f"<Stack {self.address}>"

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._inet is None

    def close(self) -> None:
        """Abort what connections there are and give the queue back; again has no effect.

        In a forked child nothing happens to them: they are the parent's.
        """
        if self._inet is None:
            return
        if not self._owner.here:
            # The parent's; without the lock, which a thread of it may hold.
            self._inet = self._turn.inet = None
            self._left.clear()
            return
        self._waiter.close()
        with self._lock:
            inet, self._inet = self._inet, None
            self._turn.inet = None
            self._left.clear()
            lib.inet_destroy(inet)
            del self.nic._users[self.queue]

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self._turn.inet = None

    def _alive(self, operation: str) -> Any:
        self._owner.check(operation, "stack")
        if self._inet is None or self._waiter.closing:
            raise ClosedError(operation, "stack", "it is closed")
        return self._inet

    # Progress

    def poll(self) -> int:
        """Receive what waits, answer it, run the timers, transmit what may go; never waits.

        Returns: frames received.
        """
        with self._lock, self._turn:
            return self._poll()[0]

    def _poll(self) -> tuple[int, bool]:
        """Poll, in a turn: frames, and whether the link is down."""
        got = lib.inet_poll(self._alive("poll"))
        if got == -errno.ENETDOWN:
            return 0, True
        if got < 0:
            raise self._q.error(got, "receive from")
        if got:
            # What came may be for a connection that another thread waits on.
            self._waiter.wake()
        return got, False

    def serve(self, seconds: float | None = None) -> None:
        """Answer ARP and ping, acknowledge and retransmit, for a time; None: until it is closed."""
        with contextlib.suppress(WaitTimeoutError):
            self._until(lambda: None, seconds, "serve", self.address)

    def _until(
        self,
        result: Callable[[], _T | None],
        timeout: float | None,
        operation: str,
        what: str,
    ) -> _T:
        """Make progress until there is a result; `result` is called with the lock held.

        Raises:
            WaitTimeoutError: the time is over.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                with self._turn:
                    self._alive(operation)
                    found = result()
                    if found is not None:
                        return found
                    got, down = self._poll()
                    found = result()
                    if found is not None:
                        return found
                # From here on another thread may take what this one is about to wait for, or
                # start a timer that is due before.
                wakes = self._waiter.wakes
                due = self._turn.due
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeoutError(operation, what, f"nothing for {timeout} s")
            if got:
                continue
            timer = None if due == _NEVER else (due - time.monotonic_ns()) / 1e9
            if down:
                timer = _DOWN_POLL_S
            elif timer is not None and timer <= 0:
                continue
            seconds = min((s for s in (left, timer) if s is not None), default=None)
            fd = None if down else self._q.wait_fd
            self._waiter.wait(fd, self.nic._patience(seconds), wakes)

    # Protocols beside ours

    def recv_unclaimed(
        self,
        max: int = BURST,  # noqa: A002 - as Nic.recv()
        timeout: float | None = None,
    ) -> list[Frame]:
        """Receive what came for our MAC address, or a group's, and no protocol here takes.

        That is: EtherTypes other than ARP and IPv4, IPv4's protocols other than ICMP and TCP, and
        whatever is for another IPv4 address; whole frames, fragments of those too (of ICMP and TCP
        to us they are dropped, and counted as `rx_fragments`). `Stack(unclaimed=N)`
        keeps up to N of them, each with its pages; those that come later are dropped, and counted
        as `rx_no_buffer`.

        Args:
            max: frames at most, at least 1.
            timeout: seconds to wait for the first one; None: for ever; 0: a look at what is there.

        Returns: frames, 1 to `max`; none when the time was over. release() them soon.

        Raises:
            ArgumentError: the stack keeps none.
            ClosedError: closed, also from another thread meanwhile.
        """
        if max < 1:
            raise ArgumentError("receive from", repr(self), f"max={max}", "at least 1")
        if not self._keeps_unclaimed:
            raise ArgumentError(
                "receive from", repr(self), "it keeps no such frames", "use Stack(unclaimed=N)"
            )
        chain = ffi.new("struct mbuf **")
        d = ffi.new("struct frame *")
        free = self.nic.arena._free_chain

        def found() -> list[Frame] | None:
            inet = self._alive("receive from")
            frames: list[Frame] = []
            try:
                while self._left and len(frames) < max:
                    frames.append(self._left.popleft())
                while len(frames) < max and lib.inet_recv_unclaimed(inet, chain, 1):
                    lib.frame_describe(chain[0], d)
                    frames.append(Frame(d, free, self.queue))
                    lib.frames_taken(d, 1, _site.caller())
            except BaseException:  # as QueuePair.harvest()
                self._left.extendleft(reversed(frames))
                frames.clear()
                raise
            return frames or None

        try:
            return self._until(found, timeout, "receive from", repr(self))
        except WaitTimeoutError:
            return []

    def send_frames(
        self,
        frames: Iterable[Sendable],
        *,
        offload: Offload | None = None,
        timeout: float | None = None,
    ) -> int:
        """Send whole Ethernet frames on the stack's queue, beside its own; see Nic.send_many()."""

        def transmit(batch: Sequence[Sendable], offload: Offload | None) -> int:
            with self._lock:
                self._alive("send on")
                return self._q.transmit(batch, offload)

        return self.nic._send_all(transmit, frames, offload, timeout)

    # Connections

    def connect(
        self,
        host: str,
        port: int,
        *,
        local_port: int = 0,
        timeout: float | None = None,
    ) -> Connection:
        """Open a connection.

        Args:
            host: IPv4 address.
            port: of the peer.
            local_port: ours; 0: any that is free.
            timeout: seconds; None: until TCP gives up.

        Raises:
            TcpRefusedError: nobody listens there.
            TcpUnreachableError: no route, or nobody answered ARP.
            TcpTimeoutError: no answer in time.
            TcpError: the local port is taken.
        """
        address = _address(host)
        _check_port("connect to", host, port, 1)
        _check_port("connect from", self.address, local_port, 0)
        what = f"{host}:{port}"
        out = ffi.new("struct tcp_conn **")
        with self._lock, self._turn:
            inet = self._alive("connect")
            code = lib.tcp_connect(inet, _to_be32(address), port, local_port, out)
        if code:
            raise _tcp_error(code, "connect to", what)
        connection = Connection(self, out[0])
        try:
            connection._wait(lambda i: i.state not in _OPENING, timeout, "connect to")
            info = connection.info()
            if info.state is TcpState.CLOSED or info.state in _OPENING:
                raise _tcp_error(info.error or errno.ECONNABORTED, "connect to", what)
        except WaitTimeoutError:
            connection.abort()
            raise TcpTimeoutError(
                "connect to",
                what,
                f"no answer for {timeout} s",
                "check the address, the way back to ours, and that no firewall drops it",
            ) from None
        except BaseException:
            connection.abort()
            raise
        return connection

    def listen(self, port: int, backlog: int = 16) -> Listener:
        """Wait for connections on a port.

        Raises:
            TcpError: the port is taken.
        """
        _check_port("listen on", self.address, port, 1)
        out = ffi.new("struct tcp_conn **")
        with self._lock:
            code = lib.tcp_listen(self._alive("listen"), port, backlog, out)
        if code:
            raise _tcp_error(code, "listen on", f"{self.address}:{port}")
        return Listener(self, out[0], port)

    def stats(self) -> StackStats:
        """Counters since it was made."""
        s = ffi.new("struct inet_stats *")
        with self._lock:
            lib.inet_get_stats(self._alive("count"), s)
        return StackStats(**{f.name: getattr(s, f.name) for f in fields(StackStats)})

    def memory(self) -> StackMemory:
        """Look at what it holds of its budget."""
        m = ffi.new("struct inet_memory *")
        with self._lock:
            lib.inet_get_memory(self._alive("look at"), m)
        return StackMemory(**{f.name: getattr(m, f.name) for f in fields(StackMemory)})


class _Turn:
    """Whoever has had the stack's lock wakes those who would sleep past its next deadline.

    Every thread that sleeps has seen `due`, or a sooner one: to be entered after the lock, and left
    before it.
    """

    __slots__ = ("_waiter", "due", "inet")

    def __init__(self, inet: Any, waiter: Waiter) -> None:
        self._waiter = waiter
        self.inet = inet
        self.due = _NEVER  # ns of CLOCK_MONOTONIC, as inet_deadline()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.inet is None:
            return
        due = lib.inet_deadline(self.inet)
        if due < self.due:
            self._waiter.wake()
        self.due = due


class _Endpoint:
    """What a listener and a connection share: a struct tcp_conn that is ours until it is closed."""

    def __init__(self, stack: Stack, handle: Any) -> None:
        self.stack = stack
        self._handle = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close() if value is None else self.abort()

    @property
    def closed(self) -> bool:
        """Whether it was closed or aborted, by itself or with its stack."""
        return self._handle is None or self.stack.closed

    def _conn(self, operation: str) -> Any:
        """Return the struct tcp_conn; call with the stack's lock held."""
        self.stack._owner.check(operation, "connection")
        if self.closed:
            raise ClosedError(operation, repr(self), "it is closed")
        return self._handle

    def close(self) -> None:
        """Let go of it; again has no effect."""
        if not self.stack._owner.here:
            self._handle = None  # a forked child: it is the parent's
            return
        with self.stack._lock, self.stack._turn:
            if not self.closed:
                lib.tcp_close(self._handle)
            self._handle = None

    def abort(self) -> None:
        """Send RST where there is a peer, and forget everything; again has no effect."""
        if not self.stack._owner.here:
            self._handle = None
            return
        with self.stack._lock, self.stack._turn:
            if not self.closed:
                lib.tcp_abort(self._handle)
            self._handle = None


class Listener(_Endpoint):
    """A port that accepts connections; use as a context manager."""

    def __init__(self, stack: Stack, handle: Any, port: int) -> None:
        super().__init__(stack, handle)
        self.port = port

    def __repr__(self) -> str:
        return f"<Listener {self.stack.address}:{self.port}{' closed' * self.closed}>"

    def accept(self, timeout: float | None = None) -> Connection:
        """Wait for the next connection.

        Raises:
            WaitTimeoutError: none came within `timeout` seconds.
        """

        def next_one() -> Any:
            return lib.tcp_accept(self._conn("accept on")) or None

        handle = self.stack._until(next_one, timeout, "accept on", repr(self))
        return Connection(self.stack, handle)


class Connection(_Endpoint):
    """A TCP connection; use as a context manager: it is closed, or aborted after an exception."""

    def __init__(self, stack: Stack, handle: Any) -> None:
        super().__init__(stack, handle)
        info = self.info()
        self.local = info.local
        self.peer = info.peer
        self._receiving = threading.Lock()

    def __repr__(self) -> str:
        if self.closed:
            return f"<Connection to {self.peer[0]}:{self.peer[1]} closed>"
        if not self.stack._owner.here:
            return f"<Connection to {self.peer[0]}:{self.peer[1]} of another process>"
        return f"<Connection to {self.peer[0]}:{self.peer[1]} {self.info().state.name}>"

    def _what(self) -> str:
        return f"connection to {self.peer[0]}:{self.peer[1]}"

    def _error(self, code: int, operation: str) -> HarnessError:
        return _tcp_error(code, operation, self._what())

    def info(self) -> TcpInfo:
        """Look at its state, windows, buffers and counters."""
        i = ffi.new("struct tcp_info_s *")
        with self.stack._lock:
            lib.tcp_get_info(self._conn("look at"), i)
        return TcpInfo(
            state=TcpState(i.state),
            error=i.error or None,
            local=(_from_be32(i.local_addr), i.local_port),
            peer=(_from_be32(i.peer_addr), i.peer_port),
            mss=i.mss,
            snd_wnd=i.snd_wnd,
            rcv_wnd=i.rcv_wnd,
            cwnd=i.cwnd,
            ssthresh=i.ssthresh,
            unsent=i.unsent,
            unacked=i.unacked,
            readable=i.readable,
            srtt_us=i.srtt_us,
            rto_us=i.rto_us,
            timestamps=bool(i.timestamps),
            window_scale=bool(i.wscale_ok),
            bytes_acked=i.bytes_acked,
            bytes_received=i.bytes_received,
            retransmits=i.retransmits,
        )

    def _wait(
        self, done: Callable[[TcpInfo], bool], timeout: float | None, operation: str
    ) -> TcpInfo:
        """Wait until the connection is as `done` says, or over."""

        def found() -> TcpInfo | None:
            info = self.info()
            return info if done(info) or info.error else None

        try:
            return self.stack._until(found, timeout, operation, self._what())
        except WaitTimeoutError as e:
            raise TcpTimeoutError(e.operation, e.object, e.problem) from None

    def send(self, data: Bytes | Chain, timeout: float | None = None) -> int:
        """Put bytes into the send buffer, waiting for room as need be.

        Bytes are copied, into pages; a Chain (a received one, say) is sent from where it lies, and
        may be released as soon as this returns.

        Args:
            data: any number of bytes.
            timeout: seconds for all of it.

        Returns: bytes taken: all of them.

        Raises:
            TcpTimeoutError: no room in time; what was taken before is sent.
            TcpResetError, TcpTimeoutError, TcpAbortedError: the connection broke.
            TcpClosedError: after shutdown().
            ResourceError: out of pages or mbufs.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        if isinstance(data, Chain):
            size = len(data)
            self._send_room(size, left())
            m = lib.m_copym(data._chain("send"), 0, lib.M_COPYALL, lib.M_NOWAIT) if size else None
            if m is not None:
                self._send_chain(self._made(m))
            return size
        view = memoryview(data).cast("B")
        done = 0
        with self.stack._lock:
            self._check_sendable()
        while done < len(view):
            room = self._send_room(1, left())
            part = view[done : done + min(room, _CHUNK)]
            self._send_chain(self._copy_in(part))
            done += len(part)
        return done

    def _check_sendable(self) -> None:
        info = self.info()
        if info.error:
            raise self._error(info.error, "send on")
        if info.state not in (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT):
            raise TcpClosedError("send on", self._what(), f"it is {info.state.name.lower()}")

    def _send_room(self, want: int, timeout: float | None) -> int:
        """Wait until the send buffer has room; how much it has."""

        def found() -> int | None:
            room = int(lib.tcp_send_room(self._conn("send on")))
            if room < want:
                self._check_sendable()
                return None
            return room

        try:
            return self.stack._until(found, timeout, "send on", self._what())
        except WaitTimeoutError as e:
            raise TcpTimeoutError(
                e.operation, e.object, f"the peer took nothing for {timeout:.1f} s"
            ) from None

    def _copy_in(self, data: Bytes) -> Any:
        machine = self.stack.nic.arena.handle
        held = ffi.from_buffer(data)
        return self._made(lib.mb_frombytes(machine.mbufs, machine.jumbo, held, len(held)))

    def _made(self, m: Any) -> Any:
        if not m:
            raise ResourceError("send on", self._what(), "out of pages or mbufs", "a larger arena")
        return m

    def _send_chain(self, m: Any) -> None:
        with self.stack._lock, self.stack._turn:
            try:
                code = lib.tcp_send(self._conn("send on"), m)
            except BaseException:
                lib.m_freem(m)
                raise
            if code:
                lib.m_freem(m)
                raise self._error(code, "send on")
            lib.tcp_output(self._handle)

    def recv(self, max: int = 65536, timeout: float | None = None) -> bytes:  # noqa: A002
        """Wait for bytes and copy them out.

        Args:
            max: bytes at most, at least 1.
            timeout: seconds.

        Returns: 1 to `max` bytes; none when the peer has finished.

        Raises:
            TcpTimeoutError: nothing came in time.
            TcpResetError, TcpTimeoutError, TcpAbortedError: the connection broke.
        """
        chain = self.recv_chain(max, timeout)
        if chain is None:
            return b""
        with chain:
            return bytes(chain)

    def recv_chain(
        self,
        max: int = 1 << 20,  # noqa: A002 - as recv()
        timeout: float | None = None,
    ) -> Chain | None:
        """Wait for bytes and take them as they lie, in the pages they came in.

        Returns: 1 to `max` bytes; None when the peer has finished. Raises as recv().
        """
        if max < 1:
            raise ArgumentError("receive from", self._what(), f"max={max}", "at least 1")
        free = self.stack.nic.arena._free_chain
        frame = ffi.new("struct frame *")

        def found() -> tuple[Chain | None] | None:
            conn = self._conn("receive from")
            m = lib.tcp_recv(conn, min(max, (1 << 32) - 1))
            if m:
                lib.frame_describe(m, frame)
                taken = Chain(frame, free)
                lib.frames_taken(frame, 1, _site.caller())
                return (taken,)
            if lib.tcp_eof(conn):
                return (None,)
            info = self.info()
            if info.error:
                raise self._error(info.error, "receive from")
            if info.state is TcpState.CLOSED:
                return (None,)
            return None

        try:
            with self._receiving:
                return self.stack._until(found, timeout, "receive from", self._what())[0]
        except WaitTimeoutError as e:
            raise TcpTimeoutError(e.operation, e.object, e.problem) from None

    def sendfile(
        self,
        file: File,
        offset: int = 0,
        nbytes: int | None = None,
        *,
        header: Bytes = b"",
        trailer: Bytes = b"",
        strategy: Strategy = Strategy.SF_BUF,
        sync: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> SendfileResult:
        """Send a file or a part of it, as FreeBSD's system call of that name does.

        Args:
            file: a path, a descriptor, or an open file; its own offset stays where it is.
            offset: first byte.
            nbytes: how many; None: to the end of the file.
            header: sent before it.
            trailer: sent after it, unless the file ended early.
            strategy: how to get at its bytes.
            sync: return only when everything is acknowledged.
            progress: called with the bytes handed over so far, some twenty times a second. What it
                raises ends the transfer.

        Returns: what was done, also when the file was shorter than asked for.

        Raises:
            FileError: not to be opened or read, or not a regular file. After a read error in the
                middle, or when it shrank below what is in the send buffer, the connection was
                reset, so that nobody takes the rest for the file. Strategy.DIRECT: its file system
                has no direct I/O.
            UnsupportedError: Strategy.DIRECT: io_uring may not be used here.
            ArgumentError: a negative offset or length.
            TcpClosedError, TcpResetError, TcpTimeoutError, TcpAbortedError: as send().
        """
        if isinstance(file, str | os.PathLike):
            try:
                fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as e:
                raise FileError("send file", os.fspath(file), errno=e.errno) from None
            try:
                return self.sendfile(
                    fd,
                    offset,
                    nbytes,
                    header=header,
                    trailer=trailer,
                    strategy=strategy,
                    sync=sync,
                    progress=progress,
                )
            finally:
                os.close(fd)
        fd = file if isinstance(file, int) else file.fileno()
        name = _name_of(fd)
        if offset < 0 or (nbytes is not None and nbytes < 0):
            raise ArgumentError("send file", name, f"offset {offset}, {nbytes} bytes", "0 or more")
        if nbytes == 0:  # which sendfile(2) takes for "to the end"
            _check_regular(fd, name)
            sent = self.send(header) + self.send(trailer)
            if sync:
                self.drain()
            return SendfileResult(sent, 0, False)
        machine = self.stack.nic.arena.handle
        transfer = ffi.new("struct sendfile *")
        with self.stack._lock, self.stack._turn:
            conn = self._conn("send file on")
            before = self._copy_in(header) if header else ffi.NULL
            try:
                after = self._copy_in(trailer) if trailer else ffi.NULL
            except BaseException:
                lib.m_freem(before)
                raise
            code = lib.sendfile_begin(
                transfer,
                conn,
                self.stack._alive("send file"),
                machine.sf_map,
                machine.jumbo,
                fd,
                offset,
                nbytes or 0,
                before,
                after,
                lib.SF_SYNC if sync else 0,
                strategy.value,
            )
        if code:
            if strategy is Strategy.DIRECT and -code in _NO_DIRECT:
                _check_regular(fd, name)
                raise _NO_DIRECT[-code](name)
            raise self._sendfile_error(code, fd, name)
        try:
            while True:
                with self.stack._lock, self.stack._turn:
                    self._conn("send file on")
                    code = lib.sendfile_run(transfer, _SLICE_NS)
                self.stack._waiter.wake()
                if progress is not None:
                    progress(transfer.sbytes)
                if code == 1:
                    return SendfileResult(transfer.sbytes, transfer.syscalls, transfer.shrunk)
                if code not in (0, -errno.EINTR):
                    raise self._sendfile_error(code, fd, name)
        finally:
            with self.stack._lock, self.stack._turn:
                if not self.stack.nic.closed and self.stack._owner.here:
                    lib.sendfile_end(transfer)

    def _sendfile_error(self, code: int, fd: int, name: str) -> HarnessError:
        code = abs(code)
        if code in (errno.EINVAL, errno.EBADF, errno.EACCES):
            try:
                _check_regular(fd, name)
            except FileError as e:
                return e
            return FileError("send file", name, errno=code)
        if code == errno.EIO:
            return _pages_gone("send file", name)
        return self._error(code, "send file on")

    def shutdown(self) -> None:
        """Finish sending: FIN after what is in the send buffer. Receiving goes on.

        Raises:
            TcpClosedError: it is not connected.
        """
        with self.stack._lock, self.stack._turn:
            conn = self._conn("shut down")
            code = lib.tcp_shutdown(conn)
            if code:
                raise self._error(code, "shut down")
            lib.tcp_output(conn)

    def drain(self, timeout: float | None = None) -> None:
        """Wait until the peer has acknowledged everything sent so far.

        Raises:
            TcpTimeoutError: not within `timeout` seconds.
            TcpResetError, TcpTimeoutError, TcpAbortedError: the connection broke.
            FileError: a file shrank while its pages waited in the send buffer.
        """
        info = self._wait(lambda i: i.unsent == 0 and i.unacked == 0, timeout, "drain")
        if info.error:
            raise self._error(info.error, "drain")

    def close(self, timeout: float | None = None) -> None:
        """Finish sending, wait until the peer has everything, and let go; again has no effect.

        What came and was not read is lost, and the peer is told so by RST (RFC 2525 section 2.17).

        Args:
            timeout: seconds to wait; then the rest is left to the stack's next calls.

        Raises:
            TcpResetError, TcpTimeoutError, TcpAbortedError: it broke before the peer had all of it.
            FileError: as drain().
        """
        if self.closed or not self.stack._owner.here:
            self._handle = None
            return
        try:
            info = self.info()
            sending = info.unsent or info.unacked or info.state not in _FINISHED
            if sending and info.state is not TcpState.SYN_SENT:
                if info.state in (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT):
                    self.shutdown()
                with contextlib.suppress(TcpTimeoutError):
                    info = self._wait(lambda i: i.state in _FINISHED, timeout, "close")
                if info.error:
                    raise self._error(info.error, "close")
        finally:
            super().close()


def _pages_gone(operation: str, what: str) -> FileError:
    problem = "a file shrank, or could not be read, while it was being sent: the peer got a reset"
    return FileError(operation, what, problem, "send files that nobody cuts", errno=errno.EIO)


def _tcp_error(code: int, operation: str, what: str) -> HarnessError:
    code = abs(code)
    if code == errno.EIO:
        return _pages_gone(operation, what)
    error = error_from_errno(code, operation, what)
    if isinstance(error, (TcpError, ResourceError)):
        return error
    return TcpError(operation, what, errno=code)


def _name_of(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return f"descriptor {fd}"


def _no_direct_io(name: str) -> HarnessError:
    return FileError(
        "send file",
        name,
        "its file system has no direct I/O, or none as fine-grained as a buffer",
        "use another strategy, or a file on a disk",
        errno=errno.EINVAL,
    )


def _no_io_uring(_name: str) -> HarnessError:
    return UnsupportedError(
        "send file by", "direct", "io_uring may not be used here", "use another strategy"
    )


#: What an error of sendfile_begin() means for Strategy.DIRECT alone.
_NO_DIRECT: dict[int, Callable[[str], HarnessError]] = {
    errno.EINVAL: _no_direct_io,
    errno.EPERM: _no_io_uring,
    errno.ENOSYS: _no_io_uring,
}


def _check_regular(fd: int, name: str) -> None:
    try:
        mode = os.fstat(fd).st_mode
    except OSError as e:
        raise FileError("send file", name, errno=e.errno) from None
    if not stat.S_ISREG(mode):
        kinds = {
            stat.S_IFDIR: "a directory",
            stat.S_IFIFO: "a pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        kind = kinds.get(stat.S_IFMT(mode), "something else")
        raise FileError(
            "send file",
            name,
            f"it is {kind}",
            "only a regular file can be sent",
            errno=errno.EINVAL,
        )


def _interface(text: str) -> ipaddress.IPv4Interface:
    try:
        return ipaddress.IPv4Interface(text)
    except ValueError as e:
        raise ArgumentError("use", text, f"not an IPv4 address: {e}", "") from None


def _address(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as e:
        raise ArgumentError("use", text, f"not an IPv4 address: {e}", "") from None


def _check_port(operation: str, host: str, port: int, least: int) -> None:
    if not least <= port <= 65535:
        raise ArgumentError(operation, f"{host}:{port}", "no such port", f"{least} to 65535")


def _to_be32(address: ipaddress.IPv4Address) -> int:
    """Four bytes in network byte order, as the integer that C sees there."""
    return int.from_bytes(address.packed, sys.byteorder)


def _from_be32(value: int) -> str:
    return str(ipaddress.IPv4Address(value.to_bytes(4, sys.byteorder)))
