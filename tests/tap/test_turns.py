"""Threads share a connection, and calls end in the middle: no byte is mixed up or lost."""

import gc
import itertools
import random
import signal
import socket
import struct
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from nic_harness import Arena, Nic, Stack, Strategy, Tap
from nic_harness.errors import (
    ArgumentError,
    BusyError,
    ClosedError,
    FileError,
    TcpClosedError,
    TcpResetError,
    TcpTimeoutError,
)

KERNELS = "198.18.0.1"


class Host:
    """A stack of ours, a listening socket of the kernel's, and threads."""

    def __init__(self, exits, sndbuf):
        self.tap = exits.enter_context(Tap())
        self.arena = exits.enter_context(Arena(4096))
        self.nic = exits.enter_context(Nic(self.tap, self.arena))
        self.stack = exits.enter_context(Stack(self.nic, sndbuf=sndbuf))
        self.pool = exits.enter_context(ThreadPoolExecutor(8))
        self.listener = exits.enter_context(self.tap.namespace.socket())
        self.listener.settimeout(60)
        self.listener.bind((KERNELS, 0))
        self.listener.listen(64)
        self._exits = exits

    def connect(self):
        connection = self.stack.connect(*self.listener.getsockname(), timeout=60)
        # Before the threads are waited for: one of them may be in the middle of a send.
        self._exits.callback(connection.abort)
        peer = self._exits.enter_context(self.listener.accept()[0])
        peer.settimeout(60)
        return connection, peer

    def received(self, peer):
        """Return everything that the peer reads, in the background."""
        return self.pool.submit(read_to_the_end, peer)

    def is_as_before(self, before):
        """Wait until nothing more is held than at the start."""
        deadline = time.monotonic() + 60
        while (now := self.arena.stats().outstanding()) != before:
            assert time.monotonic() < deadline, f"{before} before, {now} now"
            self.stack.serve(0.05)


@pytest.fixture
def host():
    with ExitStack() as exits:
        yield lambda sndbuf=None: Host(exits, sndbuf)


def read_to_the_end(peer):
    got = bytearray()
    while part := peer.recv(1 << 20):
        got += part
    return bytes(got)


def runs_of(data):
    return [(bytes([kind]), len(list(group))) for kind, group in itertools.groupby(data)]


def filled(size, kind, tmp_path):
    path = tmp_path / kind.decode()
    path.write_bytes(kind * size)
    return path


@pytest.mark.parametrize("sndbuf", [1 << 16, None])
def test_each_send_is_whole(host, tmp_path, sndbuf):
    """Calls of several threads follow each other: no byte of one lies between those of another."""
    h = host(sndbuf)
    connection, peer = h.connect()
    received = h.received(peer)
    size = 3 << 20
    path = filled(size, b"f", tmp_path)
    mapped = h.pool.submit(connection.sendfile, path)
    copied = h.pool.submit(connection.sendfile, path, strategy=Strategy.COPY)
    sent = [h.pool.submit(connection.send, kind * size, 60) for kind in (b"a", b"b", b"c")]
    assert [call.result(60) for call in sent] == [size] * 3
    assert [call.result(60).sbytes for call in (mapped, copied)] == [size] * 2
    connection.close(60)
    # Two files one after the other look like one.
    assert {n % size for _, n in runs_of(received.result(60))} == {0}
    assert sum(n for _, n in runs_of(received.result())) == 5 * size


def test_a_waiting_sender_has_a_time_of_its_own(host):
    h = host(1 << 16)
    connection, _ = h.connect()
    first = h.pool.submit(connection.send, bytes(64 << 20))
    while not connection.info().unsent:
        time.sleep(0.01)
    with pytest.raises(TcpTimeoutError, match="other threads had the turn") as caught:
        connection.send(b"second", 0.1)
    assert caught.value.sent == 0
    assert not first.done()
    connection.abort()
    with pytest.raises(ClosedError) as caught:
        first.result(60)
    assert caught.value.sent


@pytest.mark.parametrize(
    ("end", "error"),
    [("shutdown", TcpClosedError), ("abort", ClosedError), ("close", TcpClosedError)],
)
@pytest.mark.parametrize("call", ["send", "sendfile"])
def test_an_end_wakes_all_who_wait(host, tmp_path, call, end, error):
    """The sender and the next in turn learn at once of the end, and how many bytes were taken."""
    h = host(1 << 16)
    connection, peer = h.connect()
    size = 16 << 20
    data = filled(size, b"f", tmp_path) if call == "sendfile" else bytes(size)
    first = h.pool.submit(getattr(connection, call), data)
    while connection.info().unsent < 1 << 14:
        time.sleep(0.01)
    second = h.pool.submit(connection.send, b"second")
    reader = h.pool.submit(connection.recv)
    while not connection._senders._line or not connection._receivers._line:
        time.sleep(0.01)
    if end == "close":
        closing = h.pool.submit(connection.close)
    else:
        getattr(connection, end)()
    with pytest.raises(error) as caught:
        first.result(60)
    assert 0 < caught.value.sent < size
    with pytest.raises(error) as behind:
        second.result(60)
    assert behind.value.sent == 0
    if end == "abort":
        with pytest.raises(ClosedError):
            reader.result(60)
    else:
        # What was taken arrives, and no byte more.
        taken = len(h.received(peer).result(60))
        assert taken == caught.value.sent
        peer.close()
        with suppress(ClosedError):
            assert reader.result(60) == b""
    if end == "close":
        closing.result(60)


@pytest.mark.parametrize("call", ["send", "sendfile"])
def test_a_reset_says_how_much_was_taken(host, tmp_path, call):
    h = host(1 << 16)
    connection, peer = h.connect()
    size = 16 << 20
    data = filled(size, b"f", tmp_path) if call == "sendfile" else bytes(size)
    sending = h.pool.submit(getattr(connection, call), data)
    seen = 0
    while seen < 1 << 20:
        seen += len(peer.recv(1 << 16))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with pytest.raises(TcpResetError) as caught:
        sending.result(60)
    assert seen <= caught.value.sent < size


def test_a_timeout_says_how_much_was_taken(host):
    h = host(1 << 16)
    connection, peer = h.connect()
    with pytest.raises(TcpTimeoutError, match="peer took nothing") as caught:
        connection.send(bytes(64 << 20), timeout=0.5)
    received = h.received(peer)
    connection.close(60)
    assert len(received.result(60)) == caught.value.sent


def test_no_call_waits_for_itself(host, tmp_path):
    """A callback of a send gets a named error if it sends on the same connection."""
    h = host(1 << 16)
    connection, peer = h.connect()
    received = h.received(peer)
    path = filled(1 << 20, b"f", tmp_path)
    with pytest.raises(BusyError, match="in the middle of such a call"):
        connection.sendfile(path, progress=lambda _: connection.send(b"x"))
    assert connection.send(b"after") == 5
    connection.close(60)
    assert received.result(60).endswith(b"after")


def test_receivers_take_turns(host):
    h = host()
    connection, peer = h.connect()
    first = h.pool.submit(connection.recv, 5, 60)
    while not connection._receivers._line:
        time.sleep(0.01)
    with pytest.raises(TcpTimeoutError):
        connection.recv(5, timeout=0.1)
    peer.sendall(b"first")
    assert first.result(60) == b"first"


def test_many_close_one_connection(host):
    h = host()
    for _ in range(20):
        connection, peer = h.connect()
        start = threading.Barrier(4)

        def close(connection=connection, start=start):
            start.wait()
            connection.close(60)

        closing = [h.pool.submit(close) for _ in range(4)]
        assert peer.recv(1) == b""
        peer.close()
        assert [one.result(60) for one in closing] == [None] * 4
        assert connection.closed


def test_close_wakes_accept(host):
    h = host()
    listener = h.stack.listen(5001)
    accepting = [h.pool.submit(listener.accept) for _ in range(2)]
    time.sleep(0.1)
    listener.close()
    for one in accepting:
        with pytest.raises(ClosedError):
            one.result(60)


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize(("head", "tail"), [(2000, 10), (5000, 10), (10, 5000), (100_000, 50_000)])
def test_header_and_trailer_longer_than_the_send_buffer(host, tmp_path, strategy, head, tail):
    h = host(4096)
    connection, peer = h.connect()
    received = h.received(peer)
    size = 150_000  # more than a window that is read past the page cache
    path = filled(size, b"f", tmp_path)
    done = connection.sendfile(path, header=b"h" * head, trailer=b"t" * tail, strategy=strategy)
    assert (done.sbytes, done.shrunk) == (head + size + tail, False)
    assert connection.sendfile(path, nbytes=0, header=b"H" * head, trailer=b"T").sbytes == head + 1
    connection.close(60)
    assert runs_of(received.result(60)) == [
        (b"h", head),
        (b"f", size),
        (b"t", tail),
        (b"H", head),
        (b"T", 1),
    ]


def test_a_chain_longer_than_the_send_buffer(host):
    """Bytes that came are sent on from where they lie, piece by piece."""
    h = host(4096)
    connection, peer = h.connect()
    data = random.Random(1).randbytes(200_000)
    h.pool.submit(peer.sendall, data)
    while connection.info().readable < len(data):
        h.stack.serve(0.01)
    received = h.received(peer)
    with connection.recv_chain() as chain:
        copied = h.arena.bytes_copied
        assert connection.send(chain, timeout=60) == len(data)
        assert h.arena.bytes_copied - copied < len(data) // 10  # headers, and small mbufs
    connection.close(60)
    assert received.result(60) == data


@pytest.mark.parametrize("strategy", [Strategy.SF_BUF, Strategy.COPY])
@pytest.mark.parametrize(
    "path",
    ["/proc/version", "/proc/kallsyms", "/sys/devices/system/cpu/online"],
)
def test_a_size_that_lies(host, path, strategy):
    """A file whose content is made as it is read is sent to its end, whatever its size says."""
    try:
        expected = Path(path).read_bytes()
    except OSError as e:
        pytest.skip(str(e))
    assert Path(path).stat().st_size != len(expected)
    h = host()
    connection, peer = h.connect()
    received = h.received(peer)
    done = connection.sendfile(path, header=b"<", trailer=b">", strategy=strategy)
    assert (done.sbytes, done.shrunk) == (len(expected) + 2, False)
    assert done.strategy is Strategy.COPY
    part = connection.sendfile(path, 1, 2, strategy=strategy)
    assert (part.sbytes, part.shrunk) == (2, False)
    beyond = connection.sendfile(path, nbytes=len(expected) + 1, trailer=b"!", strategy=strategy)
    assert (beyond.sbytes, beyond.shrunk) == (len(expected), True)
    connection.close(60)
    assert received.result(60) == b"<" + expected + b">" + expected[1:3] + expected


def test_how_a_file_was_sent(host, tmp_path):
    h = host()
    connection, peer = h.connect()
    received = h.received(peer)
    path = filled(9000, b"f", tmp_path)
    for strategy in (Strategy.SF_BUF, Strategy.COPY):
        assert connection.sendfile(path, strategy=strategy).strategy is strategy
    empty = filled(0, b"e", tmp_path)
    assert connection.sendfile(empty, trailer=b"t").sbytes == 1
    connection.close(60)
    assert received.result(60) == b"f" * 18000 + b"t"


def test_what_cannot_be_read_is_named(host):
    """An error of the file leaves the connection usable."""
    h = host()
    connection, peer = h.connect()
    h.received(peer)
    with pytest.raises(FileError, match=r"/mem: Input/output error|read") as caught:
        connection.sendfile("/proc/self/mem", header=b"head")
    assert caught.value.sent == 4


def test_a_refused_call_makes_nothing(host):
    h = host()
    connection, _ = h.connect()
    before = h.arena.stats().outstanding()
    for offset, nbytes in [
        (1 << 63, None),
        (1 << 64, 1),
        (1, (1 << 63) - 1),
        (0, 1 << 64),
        (-1, 1),
    ]:
        for _ in range(100):
            with pytest.raises(ArgumentError, match="offset"):
                connection.sendfile(
                    __file__, offset, nbytes, header=bytes(5000), trailer=bytes(5000)
                )
    with pytest.raises(ArgumentError, match="no contiguous buffer"):
        connection.sendfile(__file__, header=bytes(5000), trailer="text")
    assert h.arena.stats().outstanding() == before


class AlarmError(Exception):
    """The exception that the signal handler raises."""


@pytest.mark.filterwarnings("ignore:unclosed connection:ResourceWarning")  # struck before `with`
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # struck in __del__
def test_a_signal_handler_that_raises_loses_nothing(host, tmp_path):
    """Wherever the signal strikes, pages, mappings, connections and the turn are given back."""
    h = host(1 << 16)
    path = filled(200_000, b"f", tmp_path)
    before = h.arena.stats().outstanding()
    stop = threading.Event()

    def drain():
        h.listener.settimeout(0.2)
        while not stop.is_set():
            with suppress(OSError):
                peer, _ = h.listener.accept()
                with peer:
                    while peer.recv(1 << 20):
                        pass

    def strike(*_):
        raise AlarmError

    def work():
        with h.stack.connect(*h.listener.getsockname(), timeout=60) as connection:
            connection.send(bytes(100_000))
            connection.sendfile(path, header=bytes(70_000), trailer=bytes(3000))
            connection.sendfile(path, strategy=Strategy.COPY)

    draining = h.pool.submit(drain)
    former = signal.signal(signal.SIGALRM, strike)
    chance = random.Random(3)
    struck = 0
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 8e-3))
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except AlarmError:
                struck += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        stop.set()
    assert struck > 30
    draining.result(60)
    gc.collect()
    h.is_as_before(before)
    # The stack is whole.
    h.listener.settimeout(60)
    connection, peer = h.connect()
    received = h.received(peer)
    connection.send(b"fine")
    connection.close(60)
    assert received.result(60) == b"fine"


def test_a_connection_that_is_dropped(host):
    """It is reset, and a warning names it and the place where it was made."""
    h = host()
    before = h.arena.stats().outstanding()
    held = [h.stack.connect(*h.listener.getsockname(), timeout=60)]
    port = held[0].peer[1]
    peer, _ = h.listener.accept()
    held[0].send(b"x")
    which = f"connection to {KERNELS}:{port}, made at .*{__file__}:"
    with pytest.warns(ResourceWarning, match=which):
        held.clear()
    h.stack.poll()
    with peer, pytest.raises(ConnectionResetError):
        read_to_the_end(peer)
    h.is_as_before(before)


def test_a_listener_that_is_dropped(host):
    h = host()
    held = [h.stack.listen(5001)]
    which = f"listener on 198.18.0.2:5001, made at .*{__file__}:"
    with pytest.warns(ResourceWarning, match=which):
        held.clear()
    h.stack.poll()
    h.stack.listen(5001).close()  # the port is free again


def test_what_was_closed_is_dropped_in_silence(host):
    h = host()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for end in ("close", "abort"):
            connection = h.stack.connect(*h.listener.getsockname(), timeout=60)
            peer, _ = h.listener.accept()
            with peer:
                getattr(connection, end)(*((1,) if end == "close" else ()))
            del connection
            gc.collect()
