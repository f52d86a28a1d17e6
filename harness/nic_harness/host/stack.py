"""A host on a NIC: ARP, IPv4, ICMP echo and TCP of our own, and sendfile over it."""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
import ipaddress
import os
import stat
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias, TypeVar

from nic_harness._native import ffi, lib
from nic_harness.base import check
from nic_harness.base import site as _site
from nic_harness.base.live import Closing, track
from nic_harness.base.owner import this_process
from nic_harness.base.waiter import Waiter
from nic_harness.errors import (
    ArgumentError,
    ArgumentTypeError,
    ClosedError,
    Deed,
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
from nic_harness.host.turns import Ticket, Turns
from nic_harness.nic.frame import Chain, Frame, Offload
from nic_harness.nic.nic import Nic, check_sending
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
_YIELD_S = 0.0001  # how long another thread may take to see that the lock is free
_MOST = (1 << 31) - 1  # bytes or frames that one call can be asked for
_BACKLOG_MAX = (1 << 31) - 1
_OFF_MAX = (1 << 63) - 1  # of off_t
_ANY = 1 << 200  # only the type is looked at first


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
        strategy: how its bytes were got at: COPY where they could not be mapped.
    """

    sbytes: int
    syscalls: int
    shrunk: bool
    strategy: Strategy


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
        self._own = ffi.new("struct inet **")  # C fills and empties it in one step with the deed
        self._owner = this_process()
        self._lock = threading.RLock()
        self._waiter = Waiter()
        check.instance("make stack on", "a NIC", "nic", nic, Nic)
        ours = nic.tap.nic_address if address is None else _interface(address)
        if not isinstance(ours, ipaddress.IPv4Interface):
            raise ArgumentError("make stack on", nic.tap.name, f"{ours} is no IPv4 address")
        q = nic._queue(queue)
        config = ffi.new("struct inet_config *")
        config.addr = _to_be32(ours.ip)
        config.netmask = _to_be32(ours.netmask)
        config.gateway = 0 if gateway is None else _to_be32(_address(gateway))
        config.queue = queue
        on = nic.tap.name
        for what, value in (("sndbuf", sndbuf), ("rcvbuf", rcvbuf)):
            if value is not None:
                low, high = lib.INET_BUF_MIN, lib.INET_BUF_MAX
                setattr(config, what, check.integer("make stack on", on, what, value, low, high))
        config.unclaimed = check.integer(
            "make stack on", on, "unclaimed", unclaimed, 0, (1 << 32) - 1
        )
        config.seed = check.integer("make stack on", on, "seed", seed, 0, (1 << 64) - 1)
        if budget is not None:
            config.budget = check.integer("make stack on", on, "budget", budget, 1, (1 << 32) - 1)
        self.nic = nic
        self.address = str(ours.ip)
        self.queue = queue
        self._q = q
        self._keeps_unclaimed = unclaimed > 0
        self._left: deque[Frame] = deque()  # unclaimed, taken from C, and not passed up yet
        self._dropped: deque[Any] = deque()  # struct tcp_conn ** that nobody has any more
        self._turn = _Turn(self._own, self._waiter)
        try:
            other = nic._users.setdefault(queue, self)
            if other is not self:
                raise nic._belongs(queue, other)
            code = lib.inet_create(nic.handle, config, self._own)
            if code:
                raise error_from_errno(code, "make stack on", nic.tap.name, deed=Deed.TCP)
        except BaseException:
            self.close()
            raise
        track(self)

    def __repr__(self) -> str:
        return "<Stack closed>" if self.closed else f"<Stack {self.address}>"

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return not self._own[0]

    def close(self) -> None:
        """Abort what connections there are and give the queue back; again has no effect.

        In a forked child nothing happens to them: they are the parent's.
        """
        if not self._owner.here:
            # The parent's; without the lock, which a thread of it may hold.
            self._own[0] = ffi.NULL
            self._left.clear()
            return
        self._waiter.close()
        with self._lock:
            self._left.clear()
            lib.inet_let_go(self._own)
            if self.nic._users.get(self.queue) is self:
                del self.nic._users[self.queue]

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self._turn.own = ffi.new("struct inet **")

    def _alive(self, operation: str) -> Any:
        self._owner.check(operation, "stack")
        inet = self._own[0]
        if not inet or self._waiter.closing:
            raise ClosedError(operation, "stack", "it is closed")
        return inet

    def _drop(self, own: Any) -> None:
        """Have a connection reset that was let go of, when somebody next polls; from anywhere."""
        self._dropped.append(own)
        self._waiter.wake()

    # Progress

    def poll(self) -> int:
        """Receive what waits, answer it, run the timers, transmit what may go; never waits.

        Returns: frames received.
        """
        with self._lock, self._turn:
            return self._poll()[0]

    def _poll(self) -> tuple[int, bool]:
        """Poll, in a turn: frames, and whether the link is down."""
        while self._dropped:
            own = self._dropped[0]
            lib.tcp_let_go(own, True)
            with contextlib.suppress(ValueError):  # a signal handler polled, too
                self._dropped.remove(own)
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
        check.seconds("serve", self, seconds, "seconds")
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
        check.integer("receive from", self, "max", max, 1, _MOST)
        check.seconds("receive from", self, timeout)
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
        check.instance("send on", self, "frames", frames, Iterable)
        check_sending(self.nic.tap.name, offload, timeout)

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
        check.seconds("connect from", self, timeout)
        address = _address(host)
        _check_port("connect to", host, port, 1)
        _check_port("connect from", self.address, local_port, 0)
        what = f"{host}:{port}"
        connection = Connection(self)
        try:
            with self._lock, self._turn:
                inet = self._alive("connect")
                code = lib.tcp_connect(inet, _to_be32(address), port, local_port, connection._own)
                if code:
                    raise _tcp_error(code, "connect to", what)
                connection._name()
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
        check.integer("listen on", self, "backlog", backlog, 0, _BACKLOG_MAX)
        _check_port("listen on", self.address, port, 1)
        listener = Listener(self, port)
        try:
            with self._lock:
                code = lib.tcp_listen(self._alive("listen"), port, backlog, listener._own)
            if code:
                raise _tcp_error(code, "listen on", f"{self.address}:{port}")
        except BaseException:
            listener.abort()
            raise
        return listener

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

    __slots__ = ("_waiter", "due", "own")

    def __init__(self, own: Any, waiter: Waiter) -> None:
        self._waiter = waiter
        self.own = own  # struct inet **
        self.due = _NEVER  # ns of CLOCK_MONOTONIC, as inet_deadline()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        inet = self.own[0]
        if not inet:
            return
        due = lib.inet_deadline(inet)
        if due < self.due:
            self._waiter.wake()
        self.due = due


class _Endpoint:
    """What a listener and a connection share: a struct tcp_conn that is ours until it is closed."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._site = int(ffi.cast("uintptr_t", _site.caller()))
        # Filled and emptied by C, in one step with the deed: what is made is never without an
        # owner, and nothing is closed twice, wherever a signal handler raises. What frees it runs
        # no line of Python either.
        self._own = ffi.gc(ffi.new("struct tcp_conn **"), stack._dropped.append)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close() if value is None else self.abort()

    def __del__(self) -> None:
        own = getattr(self, "_own", None)
        if own is None or not own[0] or self.stack.closed or not self.stack._owner.here:
            return
        # Not now: this may be any thread, in the middle of anything.
        self.stack._drop(own)
        left = f"unclosed {self._what()}, made at {_site.name(self._site)}"
        del self  # a warning that is raised keeps this frame
        warnings.warn(left, ResourceWarning, stacklevel=1)

    @property
    def closed(self) -> bool:
        """Whether it was closed or aborted, by itself or with its stack."""
        return not self._own[0] or self.stack.closed

    def _what(self) -> str:
        raise NotImplementedError

    def _conn(self, operation: str) -> Any:
        """Return the struct tcp_conn; call with the stack's lock held."""
        self.stack._owner.check(operation, "connection")
        if self.closed:
            raise ClosedError(operation, repr(self), "it is closed")
        return self._own[0]

    def close(self) -> None:
        """Let go of it; again has no effect."""
        self._let_go(reset=False)

    def abort(self) -> None:
        """Send RST where there is a peer, and forget everything; again has no effect."""
        self._let_go(reset=True)

    def _let_go(self, *, reset: bool) -> None:
        if not self.stack._owner.here:
            self._own[0] = ffi.NULL  # a forked child: it is the parent's
            return
        with self.stack._lock, self.stack._turn:
            if not self.closed:
                lib.tcp_let_go(self._own, reset)
        # Other threads may wait for what will not come.
        self.stack._waiter.wake()


class Listener(_Endpoint):
    """A port that accepts connections; use as a context manager.

    One that is let go of without close() is closed, with a ResourceWarning, by the stack's next
    call that waits or polls.
    """

    def __init__(self, stack: Stack, port: int) -> None:
        super().__init__(stack)
        self.port = port

    def __repr__(self) -> str:
        return f"<Listener {self.stack.address}:{self.port}{' closed' * self.closed}>"

    def _what(self) -> str:
        return f"listener on {self.stack.address}:{self.port}"

    def accept(self, timeout: float | None = None) -> Connection:
        """Wait for the next connection.

        Raises:
            WaitTimeoutError: none came within `timeout` seconds.
            ClosedError: closed, also from another thread meanwhile.
        """
        check.seconds("accept on", self, timeout)
        connection = Connection(self.stack)

        def next_one() -> Connection | None:
            if not lib.tcp_accept_into(self._conn("accept on"), connection._own):
                return None
            connection._name()
            return connection

        try:
            return self.stack._until(next_one, timeout, "accept on", repr(self))
        except BaseException:
            connection.abort()
            raise


class Connection(_Endpoint):
    """A TCP connection; use as a context manager: it is closed, or aborted after an exception.

    Threads may share one: calls that send take turns, each has the connection until all its bytes
    are taken; so do calls that receive. A connection that is let go of without close() is reset,
    with a ResourceWarning, by the stack's next call that waits or polls.

    Attributes:
        local, peer: (address, port).
    """

    local: tuple[str, int]
    peer: tuple[str, int] = ("0.0.0.0", 0)

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self._senders = Turns()
        self._receivers = Turns()

    def _name(self) -> None:
        info = self.info()
        self.local = info.local
        self.peer = info.peer

    def __repr__(self) -> str:
        which = f"Connection to {self.peer[0]}:{self.peer[1]}"
        if not self.stack._owner.here:
            return f"<{which} {'closed' if self.closed else 'of another process'}>"
        with self.stack._lock:
            return f"<{which} {'closed' if self.closed else self.info().state.name}>"

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

    def _in_turn(self, line: Turns, operation: str, left: _Countdown, act: Callable[[], _T]) -> _T:
        """Do something when it is this caller's turn.

        Raises:
            TcpTimeoutError: it did not come in time.
            BusyError: this thread has the turn.
        """
        ticket = Ticket()

        def come() -> bool | None:
            self._conn(operation)
            if line.has(ticket):
                return True
            if line is self._senders:
                self._check_sendable()
            return None

        try:
            with self.stack._lock:
                line.join(ticket, operation, self._what())
                mine = line.has(ticket)
            if not mine:
                try:
                    self.stack._until(come, left(), operation, self._what())
                except WaitTimeoutError as e:
                    raise TcpTimeoutError(
                        e.operation, e.object, f"other threads had the turn for {left.total} s"
                    ) from None
            return act()
        finally:
            with self.stack._lock:
                waiting = line.leave(ticket)
            if waiting:
                self.stack._waiter.wake()

    def send(self, data: Bytes | Chain, timeout: float | None = None) -> int:
        """Put bytes into the send buffer, waiting for room and for pages as need be.

        Bytes are copied, into pages; a Chain (a received one, say) is sent from where it lies, and
        may be released as soon as this returns. Another thread's send() or sendfile() comes before
        or after all of it, never in between.

        Args:
            data: any number of bytes.
            timeout: seconds for all of it, the wait for its turn included.

        Returns: bytes taken: all of them.

        Raises:
            TcpTimeoutError: no room in time. Its `sent`, as that of each of these, says how many
                bytes were taken before; they are sent.
            TcpResetError, TcpTimeoutError, TcpAbortedError: the connection broke.
            TcpClosedError: after shutdown(), also from another thread meanwhile.
            ClosedError: closed, also from another thread meanwhile.
            BusyError: called by what this thread's own send() or sendfile() calls.
        """
        if not isinstance(data, Chain):
            check.buffer("send on", self._what(), "data", data)
        check.seconds("send on", self._what(), timeout)
        left = _Countdown(timeout)
        source = _Source(data, "send on", self._what())
        try:
            return self._in_turn(
                self._senders, "send on", left, lambda: self._send_source(source, left)
            )
        except BaseException as e:
            _tell_sent(e, source.done)
            raise

    def _send_source(self, source: _Source, left: _Countdown) -> int:
        def step() -> bool | None:
            conn = self._conn("send on")
            before = source.done
            code = lib.tcp_send_some(conn, source.c)
            if source.done != before:
                lib.tcp_output(conn)
            if code < 0:
                if -code in (errno.EPIPE, errno.ENOTCONN):
                    self._check_sendable()
                raise self._error(code, "send on")
            return True if code else (False if source.done != before else None)

        try:
            while not self.stack._until(step, left(), "send on", self._what()):
                pass
        except WaitTimeoutError as e:
            raise TcpTimeoutError(
                e.operation, e.object, f"the peer took nothing for {left.total:.1f} s"
            ) from None
        return source.done

    def _check_sendable(self) -> None:
        info = self.info()
        if info.error:
            raise self._error(info.error, "send on")
        if info.state not in (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT):
            raise TcpClosedError("send on", self._what(), f"it is {info.state.name.lower()}")

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
        check.integer("receive from", self._what(), "max", max, 1, _MOST)
        check.seconds("receive from", self._what(), timeout)
        free = self.stack.nic.arena._free_chain
        frame = ffi.new("struct frame *")
        left = _Countdown(timeout)

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

        def receive() -> Chain | None:
            return self.stack._until(found, left(), "receive from", self._what())[0]

        try:
            return self._in_turn(self._receivers, "receive from", left, receive)
        except TcpTimeoutError:
            raise
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

        Another thread's send() or sendfile() comes before or after all of it, never in between. A
        file that tells a wrong size, as those of /proc and /sys do, is read to its end.

        Args:
            file: a path, a descriptor, or an open file; its own offset stays where it is.
            offset: first byte.
            nbytes: how many; None: to the end of the file.
            header: sent before it; of any length.
            trailer: sent after it, unless the file ended early; of any length.
            strategy: how to get at its bytes. A file that cannot be mapped is copied instead, and
                the result says so.
            sync: return only when everything is acknowledged.
            progress: called with the bytes handed over so far, some twenty times a second. What it
                raises ends the transfer. It cannot send on the connection.

        Returns: what was done, also when the file was shorter than asked for.

        Raises:
            FileError: not to be opened or read, or not a regular file. After a read error in the
                middle, or when it shrank below what is in the send buffer, the connection was
                reset, so that nobody takes the rest for the file. Strategy.DIRECT: its file system
                has no direct I/O. Its `sent`, as that of each of these, says how many bytes were
                taken before, header and trailer included.
            UnsupportedError: Strategy.DIRECT: io_uring may not be used here.
            ArgumentError: an offset or length that no file has.
            TcpClosedError, TcpResetError, TcpTimeoutError, TcpAbortedError, ClosedError, BusyError:
                as send().
        """
        _check_sendfile(
            self._what(), file, offset, nbytes, header, trailer, strategy, sync, progress
        )
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
        around = [_Source(data, "send file", name) for data in (header, trailer)]
        machine = self.stack.nic.arena.handle
        # Whatever it holds goes with it, however this ends.
        end = functools.partial(lib.sendfile_end)  # C's: no signal handler raises in it
        end.__dict__["keeps"] = machine
        transfer = ffi.gc(ffi.new("struct sendfile *"), end)

        def run() -> SendfileResult:
            with self.stack._lock, self.stack._turn:
                code = lib.sendfile_begin(
                    transfer,
                    self._conn("send file on"),
                    self.stack._alive("send file"),
                    machine.sf_map,
                    machine.jumbo,
                    fd,
                    offset,
                    nbytes or 0,
                    around[0].c,
                    around[1].c,
                    lib.SF_SYNC if sync else 0,
                    strategy.value,
                )
            if code:
                if strategy is Strategy.DIRECT and -code in _NO_DIRECT:
                    _check_regular(fd, name)
                    raise _NO_DIRECT[-code](name)
                raise self._sendfile_error(code, fd, name)
            if nbytes == 0:  # which sendfile(2) takes for "to the end"
                transfer.end = offset
            try:
                return self._run_transfer(transfer, fd, name, progress)
            finally:
                with self.stack._lock, self.stack._turn:
                    if not self.closed:
                        lib.tcp_set_more(self._own[0], False)

        try:
            return self._in_turn(self._senders, "send file on", _Countdown(None), run)
        except BaseException as e:
            _tell_sent(e, int(transfer.sbytes))
            raise
        finally:
            if self.stack._owner.here:
                lib.sendfile_end(transfer)
            else:
                ffi.gc(transfer, None)  # a forked child: it is the parent's

    def _run_transfer(
        self, transfer: Any, fd: int, name: str, progress: Callable[[int], object] | None
    ) -> SendfileResult:
        while True:
            with self.stack._lock, self.stack._turn:
                self._conn("send file on")
                code = lib.sendfile_run(transfer, _SLICE_NS)
            self.stack._waiter.wake()
            if progress is not None:
                progress(transfer.sbytes)
            if code == 1:
                return SendfileResult(
                    transfer.sbytes,
                    transfer.syscalls,
                    transfer.shrunk,
                    Strategy(transfer.strategy),
                )
            if code not in (0, -errno.EINTR):
                if transfer.of_file:
                    raise self._file_error(code, name)
                raise self._sendfile_error(code, fd, name)
            # The lock is not fair: a thread that waits for it would see it taken for ever.
            time.sleep(_YIELD_S)

    def _file_error(self, code: int, name: str) -> HarnessError:
        if code == -errno.EIO:
            return _pages_gone("send file", name)
        if code == -errno.ENOMEM:
            return ResourceError("send file", name, errno=-code)
        return FileError("send file", name, errno=-code)

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

        A send() or sendfile() of another thread that is not through ends with TcpClosedError.

        Raises:
            TcpClosedError: it is not connected.
        """
        with self.stack._lock, self.stack._turn:
            self._finish(self._conn("shut down"))
        self.stack._waiter.wake()

    def _finish(self, conn: Any) -> None:
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
        check.seconds("drain", self._what(), timeout)
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
        check.seconds("close", self._what(), timeout)
        if not self.stack._owner.here:
            super().close()
            return
        try:
            with self.stack._lock, self.stack._turn:
                if self.closed:
                    return
                info = self.info()
                if info.state in (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT):
                    self._finish(self._own[0])
            self.stack._waiter.wake()
            sending = info.unsent or info.unacked or info.state not in _FINISHED
            if sending and info.state is not TcpState.SYN_SENT:
                error = self._wait_finished(timeout)
                if error:
                    raise self._error(error, "close")
        finally:
            super().close()

    def _wait_finished(self, timeout: float | None) -> int:
        """Wait until the peer has everything, the time is over, or another thread let go of it.

        Returns: the error number that ended it, or 0.
        """

        def found() -> int | None:
            if self.closed:
                return 0
            info = self.info()
            return info.error or (0 if info.state in _FINISHED else None)

        try:
            return self.stack._until(found, timeout, "close", self._what())
        except WaitTimeoutError:
            return 0


class _Countdown:
    """Seconds that are left of a timeout, at each call; None: there is none."""

    __slots__ = ("_deadline", "total")

    def __init__(self, timeout: float | None) -> None:
        self.total = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def __call__(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


class _Source:
    """What is to be sent, as C takes it piece by piece; it stays as it is meanwhile."""

    __slots__ = ("_held", "c")

    def __init__(self, data: Bytes | Chain, operation: str, what: str) -> None:
        self.c = ffi.new("struct tcp_source *")
        if isinstance(data, Chain):
            self._held = self.c.chain = data._chain("send")
            self.c.len = len(data)
            return
        try:
            self._held = self.c.data = ffi.from_buffer(data)
        except (TypeError, ValueError, BufferError) as e:
            raise ArgumentTypeError(
                operation,
                what,
                f"a {type(data).__name__} is no contiguous buffer of bytes: {e}",
                "bytes, a bytearray or memoryview is wanted",
            ) from e
        self.c.len = len(self._held)

    @property
    def done(self) -> int:
        return int(self.c.done)


def _tell_sent(error: BaseException, sent: int) -> None:
    """Say in an exception how many bytes were taken."""
    if isinstance(error, HarnessError):
        error.sent = sent


def _pages_gone(operation: str, what: str) -> FileError:
    problem = "a file shrank, or could not be read, while it was being sent: the peer got a reset"
    return FileError(operation, what, problem, "send files that nobody cuts", errno=errno.EIO)


def _tcp_error(code: int, operation: str, what: str) -> HarnessError:
    code = abs(code)
    if code == errno.EIO:
        return _pages_gone(operation, what)
    error = error_from_errno(code, operation, what, deed=Deed.TCP)
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
    found = check.interface_address("make", "stack", "address", text)
    if not isinstance(found, ipaddress.IPv4Interface):
        raise ArgumentError("use", text, "not an IPv4 address")
    return found


def _address(text: str) -> ipaddress.IPv4Address:
    found = check.address("use", "an address", "host", text)
    if not isinstance(found, ipaddress.IPv4Address):
        raise ArgumentError("use", text, "not an IPv4 address")
    return found


def _check_sendfile(
    what: str,
    file: object,
    offset: object,
    nbytes: object,
    header: object,
    trailer: object,
    strategy: object,
    sync: object,
    progress: object,
) -> None:
    """See that the arguments of sendfile() are of their types; offset and length may be sent."""
    on = "send file on"
    if isinstance(file, str | os.PathLike):
        check.path(on, what, "file", file)
    elif not hasattr(file, "fileno"):
        check.integer(on, what, "file", file, ~_MOST, _MOST)
    first = check.integer(on, what, "offset", offset, -_ANY, _ANY)
    length = 0 if nbytes is None else check.integer(on, what, "nbytes", nbytes, -_ANY, _ANY)
    if first < 0 or length < 0 or first + length > _OFF_MAX:
        problem = f"offset {offset}, {length} bytes"
        raise ArgumentError(on, what, problem, f"give 0 or more, and no end above {_OFF_MAX}")
    check.buffer(on, what, "header", header)
    check.buffer(on, what, "trailer", trailer)
    check.instance(on, what, "strategy", strategy, Strategy)
    check.flag(on, what, "sync", sync)
    if progress is not None:
        check.callback(on, what, "progress", progress)


def _check_port(operation: str, host: str, port: int, least: int) -> None:
    check.integer(operation, str(host), "port", port, -_MOST, _MOST)
    if not least <= port <= 65535:
        raise ArgumentError(operation, f"{host}:{port}", "no such port", f"{least} to 65535")


def _to_be32(address: ipaddress.IPv4Address) -> int:
    """Four bytes in network byte order, as the integer that C sees there."""
    return int.from_bytes(address.packed, sys.byteorder)


def _from_be32(value: int) -> str:
    return str(ipaddress.IPv4Address(value.to_bytes(4, sys.byteorder)))
