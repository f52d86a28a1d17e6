"""Our TCP against the kernel's: streams, files, and peers that misbehave."""

import errno
import hashlib
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from nic_harness import Arena, Frame, Nic, Offloads, Stack, Strategy, Tap, TcpState
from nic_harness.base.waiter import Waiter
from nic_harness.errors import (
    ArgumentError,
    BusyError,
    ClosedError,
    FileError,
    TcpAbortedError,
    TcpClosedError,
    TcpError,
    TcpRefusedError,
    TcpResetError,
    TcpTimeoutError,
    TcpUnreachableError,
    UnsupportedError,
    WaitTimeoutError,
)
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

OURS, KERNELS = "198.18.0.2", "198.18.0.1"
SIZES = [0, 1, 4096, 4097, (1 << 20) - 1, (2 << 20) + 1]


class Host:
    """Our stack on a wire, and the kernel's side of it."""

    def __init__(self, exits, pool, mtu, arena_pages, nic_options, stack_options):
        self.tap = exits.enter_context(Tap(mtu=mtu))
        self.arena = exits.enter_context(Arena(arena_pages))
        self.nic = exits.enter_context(Nic(self.tap, self.arena, **nic_options))
        self.stack = exits.enter_context(Stack(self.nic, **stack_options))
        self._exits = exits
        self._pool = pool

    def kernel_socket(self):
        sock = self._exits.enter_context(self.tap.namespace.socket())
        sock.settimeout(30)
        self._exits.callback(_wake, sock)
        return sock

    def kernel_listens(self, **options):
        sock = self.kernel_socket()
        for name, value in options.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        sock.bind((KERNELS, 0))
        sock.listen()
        return sock, sock.getsockname()[1]

    def background(self, work, *arguments):
        return self._pool.submit(work, *arguments)

    def settle(self):
        """Wait for vhost_net, whose ring may still hold what was acknowledged."""
        deadline = time.monotonic() + 60
        while self.nic.stats().tx_outstanding:
            assert time.monotonic() < deadline
            self.stack.poll()


def _wake(sock):
    """End the wait of another thread on a socket, which closing it would not do."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def host():
    with ThreadPoolExecutor(4) as pool, ExitStack() as exits:

        def make(*, mtu=1500, pages=4096, stack=None, **nic):
            return Host(exits, pool, mtu, pages, nic, stack or {})

        yield make


def receive_all(listener):
    """Accept one connection and read it to its end; return its size and digest."""
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(30)
        digest, total = hashlib.sha256(), 0
        while data := peer.recv(1 << 20):
            digest.update(data)
            total += len(data)
    return total, digest.hexdigest()


def read_to_the_end(peer):
    got = bytearray()
    while part := peer.recv(1 << 20):
        got += part
    return bytes(got)


def stream(size, seed=1):
    return random.Random(seed).randbytes(size)


def digest_of(data):
    return len(data), hashlib.sha256(data).hexdigest()


@pytest.fixture
def file_of(tmp_path):
    def make(data):
        path = tmp_path / "file"
        path.write_bytes(data)
        return path

    return make


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("offloads", [None, Offloads.NONE], ids=["offloads", "plain"])
@pytest.mark.parametrize("mtu", [1500, 9000, 65520])
@pytest.mark.parametrize("size", SIZES)
def test_sendfile(host, file_of, size, mtu, offloads, strategy):
    h = host(mtu=mtu, offloads=offloads)
    data = stream(size)
    path = file_of(data)
    listener, port = h.kernel_listens()
    received = h.background(receive_all, listener)
    with h.stack.connect(KERNELS, port, timeout=10) as connection:
        done = connection.sendfile(path, strategy=strategy)
        assert (done.sbytes, done.shrunk) == (size, False)
    assert received.result(30) == digest_of(data)
    h.settle()
    stats = h.arena.stats()
    copied = size if strategy is Strategy.COPY else 0
    if offloads is None:
        assert stats.bytes_copied == copied
    assert (stats.sfbufs_in_use, stats.sfbufs_wired) == (0, 0)
    assert stats.pages_in_use == h.nic.attached.rx_ring_size


@pytest.mark.parametrize(
    ("offset", "nbytes"), [(0, 1), (1, None), (4095, 2), (5000, 100_000), (0, 0), (300_000, None)]
)
def test_a_part_of_a_file_between_header_and_trailer(host, file_of, offset, nbytes):
    h = host()
    data = stream(300_000)
    part = data[offset:] if nbytes is None else data[offset : offset + nbytes]
    listener, port = h.kernel_listens()
    received = h.background(receive_all, listener)
    with h.stack.connect(KERNELS, port, timeout=10) as connection, file_of(data).open("rb") as file:
        file.seek(77)
        sent = connection.sendfile(
            file, offset, nbytes, header=b"begin", trailer=memoryview(b"end"), sync=True
        )
        assert sent.sbytes == len(part) + 8
        assert file.tell() == 77
        assert connection.info().unacked == 0
    assert received.result(30) == digest_of(b"begin" + part + b"end")


@pytest.mark.parametrize("size", SIZES)
def test_bytes_there_and_back(host, size):
    """The kernel's side sends back what it gets, so that both directions are busy at once."""
    h = host()
    listener, port = h.kernel_listens()
    data = stream(size)

    def echo():
        peer, _ = listener.accept()
        with peer:
            while part := peer.recv(1 << 16):
                peer.sendall(part)

    echoing = h.background(echo)
    with h.stack.connect(KERNELS, port, timeout=10) as connection:

        def send():
            assert connection.send(data, timeout=30) == size
            connection.shutdown()

        sending = h.background(send)
        got = bytearray()
        while part := connection.recv(timeout=30):
            got += part
        sending.result(30)
        assert digest_of(got) == digest_of(data)
    echoing.result(30)


@pytest.mark.parametrize("offloads", [None, Offloads.NONE], ids=["offloads", "plain"])
@pytest.mark.parametrize("mtu", [1500, 65520])
def test_the_kernel_connects_and_sends(host, mtu, offloads):
    h = host(mtu=mtu, offloads=offloads)
    data = stream(3_000_001)
    client = h.kernel_socket()

    def send():
        client.connect((OURS, 80))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return client.recv(100)

    with h.stack.listen(80) as listener:
        answer = h.background(send)
        with listener.accept(timeout=10) as connection:
            assert connection.peer == client.getsockname()
            assert connection.local == (OURS, 80)
            digest, total = hashlib.sha256(), 0
            while chain := connection.recv_chain(timeout=10):
                with chain:
                    total += len(chain)
                    for segment in chain.segments:
                        digest.update(segment)
            assert connection.recv() == b""
            assert h.arena.bytes_copied == 0
            connection.send(b"thanks")
        assert (total, digest.hexdigest()) == digest_of(data)
        assert answer.result(10) == b"thanks"


def test_a_received_chain_is_sent_on_without_a_copy(host):
    h = host()
    data = stream(200_000)
    listener, port = h.kernel_listens()
    received = h.background(receive_all, listener)
    client = h.kernel_socket()
    with h.stack.listen(80) as ours:

        def send():
            client.connect((OURS, 80))
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sending = h.background(send)
        with (
            ours.accept(timeout=10) as source,
            h.stack.connect(KERNELS, port, timeout=10) as sink,
        ):
            while chain := source.recv_chain(timeout=10):
                with chain:
                    sink.send(chain, timeout=10)
            sending.result(10)
    assert received.result(10) == digest_of(data)
    assert h.arena.bytes_copied == 0


def test_half_close(host):
    h = host()
    listener, port = h.kernel_listens()

    def answer_at_the_end():
        peer, _ = listener.accept()
        with peer:
            got = b""
            while part := peer.recv(100):
                got += part
            peer.sendall(got[::-1])

    answering = h.background(answer_at_the_end)
    with h.stack.connect(KERNELS, port, timeout=10) as connection:
        connection.send(b"abc")
        connection.shutdown()
        with pytest.raises(TcpClosedError):
            connection.send(b"more")
        assert connection.recv(timeout=10) == b"cba"
        assert connection.recv(timeout=10) == b""
        assert connection.recv(timeout=10) == b""
    answering.result(10)


def test_refused(host):
    h = host()
    with pytest.raises(
        TcpRefusedError, match=rf"connect to {KERNELS}:9: Connection refused; check"
    ):
        h.stack.connect(KERNELS, 9, timeout=10)


def test_the_kernel_connects_to_us_at_the_same_moment(host):
    """RFC 9293 figure 7, with Linux at the other end: both SYNs are out before either arrives."""
    h = host()
    _listener, port = h.kernel_listens()
    h.stack.connect(KERNELS, port, timeout=30).close(timeout=30)  # each has the other's MAC address
    sock = h.kernel_socket()
    sock.bind((KERNELS, 0))
    sock.setblocking(False)
    with h.tap.packet_socket() as spy:
        spy.setblocking(False)
        assert sock.connect_ex((OURS, 4000)) == errno.EINPROGRESS
        with h.stack.connect(KERNELS, sock.getsockname()[1], local_port=4000, timeout=30) as c:
            assert c.info().state is TcpState.ESTABLISHED
            c.send(b"at once")
            c.drain(timeout=30)
            sock.settimeout(30)
            assert sock.recv(100) == b"at once"
            sock.send(b"likewise")
            assert bytes(c.recv(timeout=30)) == b"likewise"
        flags = []
        with suppress(BlockingIOError):
            while True:
                packet = Ether(spy.recv(1 << 17))
                if TCP in packet and packet[TCP].flags.S:
                    flags.append((packet[IP].src, str(packet[TCP].flags)))
    assert set(flags[:2]) == {(OURS, "S"), (KERNELS, "S")}
    assert (KERNELS, "SA") in flags  # it has seen ours, which acknowledged nothing


def test_nobody_there(host):
    h = host()
    with pytest.raises((TcpUnreachableError, TcpTimeoutError)):
        h.stack.connect("198.18.0.99", 9, timeout=1)
    with pytest.raises(TcpUnreachableError):
        h.stack.connect("192.0.2.1", 9, timeout=1)


def test_no_answer_in_time(host):
    h = host()
    h.tap.namespace.run(["true"])
    h.tap.namespace.add_neighbour("tap0", OURS, "02:00:00:00:00:99")  # answers go astray
    with pytest.raises(TcpTimeoutError, match="connect to"):
        h.stack.connect(KERNELS, 9, timeout=0.2)


def test_bad_values_are_named(host):
    h = host()
    for call in (
        lambda: h.stack.connect("no.address", 1),
        lambda: h.stack.connect(KERNELS, 0),
        lambda: h.stack.connect(KERNELS, 65536),
        lambda: h.stack.connect(KERNELS, 1, local_port=-1),
        lambda: h.stack.listen(0),
    ):
        with pytest.raises(ArgumentError):
            call()
    with h.stack.listen(80) as listener:
        with pytest.raises(TcpError, match=r"listen on 198\.18\.0\.2:80: Address already in use"):
            h.stack.listen(80)
        with pytest.raises(WaitTimeoutError):
            listener.accept(timeout=0.05)
    with pytest.raises(BusyError, match="belongs to <Stack"):
        h.nic.recv()
    with pytest.raises(BusyError):
        Stack(h.nic)


def accept_and(listener, then):
    peer, _ = listener.accept()
    then(peer)


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_peer_resets(host, file_of):
    h = host()
    path = file_of(stream(20_000_000))
    for use in (
        lambda c: c.recv(timeout=10),
        lambda c: [c.send(bytes(100_000), timeout=10) for _ in range(1000)],
        lambda c: c.sendfile(path),
        lambda c: c.sendfile(path, strategy=Strategy.COPY),
        lambda c: c.close(timeout=10) if c.send(bytes(5_000_000)) else None,
    ):
        listener, port = h.kernel_listens()

        def read_a_little_and_reset(peer):
            peer.settimeout(0.2)
            with suppress(TimeoutError):
                peer.recv(10_000)
            reset(peer)

        resetting = h.background(accept_and, listener, read_a_little_and_reset)
        connection = h.stack.connect(KERNELS, port, timeout=10)
        with pytest.raises(
            TcpResetError, match=f"connection to {KERNELS}:{port}: Connection reset"
        ):
            use(connection)
        if not connection.closed:
            assert connection.info().error == errno.ECONNRESET
            connection.close()
        resetting.result(10)
    h.settle()
    assert h.arena.stats().sfbufs_in_use == 0


def test_peer_never_reads(host, file_of):
    h = host(stack={"sndbuf": 1 << 20})
    path = file_of(stream(50_000_000))
    listener, port = h.kernel_listens(SO_RCVBUF=65536)
    accepted = h.background(listener.accept)
    connection = h.stack.connect(KERNELS, port, timeout=10)
    peer, _ = accepted.result(10)

    class EnoughError(Exception):
        pass

    started = time.monotonic()

    def progress(sbytes):
        assert sbytes < 50_000_000
        if time.monotonic() - started > 0.5:
            raise EnoughError

    with pytest.raises(EnoughError):
        connection.sendfile(path, progress=progress)
    with pytest.raises(TcpTimeoutError, match="peer took nothing for"):
        connection.send(bytes(10_000_000), timeout=0.2)
    assert h.arena.stats().sfbufs_in_use > 0  # the peer has not acknowledged them
    with pytest.raises(TcpTimeoutError):
        connection.drain(timeout=0.1)
    connection.abort()
    h.settle()
    assert h.arena.stats().sfbufs_in_use == 0
    with peer, pytest.raises(ConnectionResetError):
        read_to_the_end(peer)


def test_peer_reads_late(host, file_of):
    h = host(stack={"sndbuf": 1 << 20})
    data = stream(5_000_000)
    listener, port = h.kernel_listens(SO_RCVBUF=65536)

    def later():
        time.sleep(0.5)
        return receive_all(listener)

    received = h.background(later)
    with h.stack.connect(KERNELS, port, timeout=10) as connection:
        connection.sendfile(file_of(data))
    assert received.result(30) == digest_of(data)


def test_what_is_no_file_is_named(host, tmp_path):
    h = host()
    listener, port = h.kernel_listens()
    h.background(receive_all, listener)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with h.stack.connect(KERNELS, port, timeout=10) as connection:
        for file, words in (
            (tmp_path / "missing", "missing: No such file"),
            (tmp_path, "it is a directory; only a regular file"),
            (fifo, "it is a pipe; only a regular file"),
            ("/dev/null", "it is a device; only a regular file"),
            (12345, "descriptor 12345: Bad file descriptor"),
        ):
            for nbytes in (None, 0):
                with pytest.raises(FileError, match=words) as caught:
                    connection.sendfile(file, nbytes=nbytes)
                assert "\n" not in str(caught.value)
        for offset, nbytes in ((-1, None), (0, -1)):
            with pytest.raises(ArgumentError):
                connection.sendfile(__file__, offset, nbytes)
        # The connection still works.
        connection.send(b"fine")


def test_what_cannot_be_read_past_the_page_cache_is_named(host):
    h = host()
    _, port = h.kernel_listens()
    # A regular file, of a file system without a disk.
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        with h.stack.connect(KERNELS, port, timeout=10) as connection:
            with pytest.raises((FileError, UnsupportedError), match=r"direct|io_uring"):
                connection.sendfile(fd, strategy=Strategy.DIRECT)
            with pytest.raises(FileError, match="a directory"):
                connection.sendfile("/", strategy=Strategy.DIRECT)
            connection.send(b"fine")  # it still works
    finally:
        os.close(fd)


@pytest.mark.parametrize("strategy", Strategy)
def test_a_file_that_shrinks_meanwhile(host, file_of, strategy):
    """What arrives is a beginning of the file, without the trailer, or the connection is reset."""
    h = host(stack={"sndbuf": 1 << 20})
    data = stream(8_000_000)
    path = file_of(data)
    listener, port = h.kernel_listens(SO_RCVBUF=65536)
    go = threading.Event()
    arrived = bytearray()

    def receive():
        peer, _ = listener.accept()
        with peer, suppress(ConnectionResetError):
            go.wait(10)
            while part := peer.recv(1 << 20):
                arrived.extend(part)

    received = h.background(receive)
    connection = h.stack.connect(KERNELS, port, timeout=10)

    def shrink(sbytes):
        if sbytes and not go.is_set():
            os.truncate(path, 4096)
            go.set()

    with suppress(FileError, TcpError):
        done = connection.sendfile(
            path, nbytes=len(data), trailer=b"end", progress=shrink, strategy=strategy, sync=True
        )
        assert done.shrunk
        assert done.sbytes < len(data)
        connection.close(timeout=10)
    connection.abort()
    # Bytes are missing before the RST: the peer asks once more (RFC 5961 section 3.2).
    while not received.done():
        h.stack.serve(0.01)
    received.result()
    assert data.startswith(arrived)
    h.settle()
    assert h.arena.stats().sfbufs_in_use == 0


@pytest.mark.parametrize("offloads", [None, Offloads.NONE], ids=["offloads", "plain"])
@pytest.mark.parametrize("peer_reads", [True, False], ids=["reads", "sleeps"])
def test_a_file_that_shrinks_while_it_waits_to_be_sent(
    host, file_of, tmp_path, offloads, peer_reads
):
    """sendfile() has returned; that connection ends, and no other."""
    h = host(offloads=offloads)
    data = stream(4_000_000)
    path = file_of(data)
    other = tmp_path / "other"
    other.write_bytes(data)
    listener, port = h.kernel_listens(SO_RCVBUF=65536)
    connections, peers = [], []
    for _ in range(2):
        connections.append(h.stack.connect(KERNELS, port, timeout=10))
        peers.append(h._exits.enter_context(listener.accept()[0]))
        peers[-1].settimeout(30)
    doomed, fine = connections
    with doomed, fine:
        assert fine.sendfile(other).sbytes == len(data)
        assert doomed.sendfile(path).sbytes == len(data)
        os.truncate(path, 4096)
        arrived = h.background(read_to_the_end, peers[0]) if peer_reads else None
        with pytest.raises(FileError, match="a file shrank, or could not be read") as caught:
            doomed.drain(60)
        assert caught.value.errno == errno.EIO
        assert doomed.info().error == errno.EIO
        with pytest.raises(FileError):
            doomed.send(b"more")
        # What the other one has to send is all that is still mapped, once the device has let go.
        deadline = time.monotonic() + 60
        while h.arena.stats().sfbufs_in_use > -(-len(data) // 4096):
            assert time.monotonic() < deadline
            h.stack.serve(0.01)
        assert h.arena.stats().sfbufs_in_use > 0
        received = h.background(read_to_the_end, peers[1])
        fine.shutdown()
        fine.drain(30)
        while arrived and not arrived.done():
            h.stack.serve(0.01)
        if arrived:
            with pytest.raises(ConnectionResetError):
                arrived.result()
        else:
            with pytest.raises(ConnectionResetError):
                read_to_the_end(peers[0])
        assert received.result(30) == data
        doomed.abort()
    h.settle()
    assert h.arena.stats().sfbufs_in_use == 0


def test_a_file_that_cannot_be_read(host):
    """What was sent before is not taken for all of it: reading the speed of lo is an error."""
    h = host()
    listener, port = h.kernel_listens()
    with h.stack.connect(KERNELS, port, timeout=10) as connection:
        peer, _ = listener.accept()
        with peer:
            with pytest.raises(FileError, match="could not be read"):
                connection.sendfile(
                    "/sys/class/net/lo/speed", header=b"before", strategy=Strategy.COPY
                )
            with pytest.raises(ConnectionResetError):
                read_to_the_end(peer)
        connection.abort()


@pytest.mark.parametrize("sndbuf", [2048, 100_000, 256 << 10, 300_000])
def test_a_send_buffer_smaller_than_a_chunk(host, file_of, sndbuf):
    h = host(stack={"sndbuf": sndbuf})
    data = stream(700_001)
    listener, port = h.kernel_listens()
    received = h.background(receive_all, listener)
    with h.stack.connect(KERNELS, port, timeout=10) as connection:
        assert connection.sendfile(file_of(data)).sbytes == len(data)
        connection.close(timeout=30)
    assert received.result(30) == digest_of(data)
    h.settle()
    assert h.arena.stats().sfbufs_in_use == 0


@pytest.mark.parametrize("strategy", Strategy)
def test_a_file_shorter_than_asked_for(host, file_of, strategy):
    """All of the file arrives, and no trailer that would make it look whole."""
    h = host()
    data = stream(5000)
    listener, port = h.kernel_listens()

    def receive():
        peer, _ = listener.accept()
        with peer:
            return b"".join(iter(lambda: peer.recv(1 << 16), b""))

    received = h.background(receive)
    with h.stack.connect(KERNELS, port, timeout=10) as connection:
        done = connection.sendfile(file_of(data), nbytes=9000, trailer=b"end", strategy=strategy)
        assert (done.sbytes, done.shrunk) == (5000, True)
        connection.close(timeout=10)
    assert received.result(10) == data


def test_ping_is_answered(host):
    h = host()
    with h.tap.namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.settimeout(10)
        echo = bytes([8, 0]) + (0xFFFF - 0x0800 - 0x0102).to_bytes(2, "big") + b"\1\2\0\0"
        icmp.sendto(echo, (OURS, 0))
        h.stack.serve(0.2)
        assert (
            icmp.recv(100)[20:]
            == bytes([0, 0]) + (0xFFFF - 0x0102).to_bytes(2, "big") + b"\1\2\0\0"
        )
    assert h.stack.stats().rx_icmp == 1


def test_closing_in_any_order(host):
    h = host()
    listener, port = h.kernel_listens()
    connection = h.stack.connect(KERNELS, port, timeout=10)
    ours = h.stack.listen(80)
    waiting = h.background(ours.accept)
    receiving = h.background(connection.recv)
    time.sleep(0.1)
    peer, _ = listener.accept()
    h.nic.close()
    assert h.stack.closed
    for left in (waiting, receiving):
        with pytest.raises(ClosedError):
            left.result(10)
    with peer, pytest.raises(ConnectionResetError):
        peer.recv(1)
    connection.close()
    ours.close()
    for use in (
        connection.recv,
        connection.info,
        connection.shutdown,
        lambda: connection.send(b"x"),
        lambda: connection.sendfile(__file__),
        ours.accept,
        h.stack.poll,
        h.stack.stats,
        lambda: h.stack.connect(KERNELS, port),
        lambda: h.stack.listen(80),
    ):
        with pytest.raises(ClosedError):
            use()


def test_an_exception_aborts_the_connection(host):
    h = host()
    listener, port = h.kernel_listens()
    with pytest.raises(ZeroDivisionError), h.stack.connect(KERNELS, port, timeout=10):
        _ = 1 / 0
    peer, _ = listener.accept()
    with peer, pytest.raises(ConnectionResetError):
        peer.recv(1)


def test_info(host):
    h = host(mtu=9000)
    listener, port = h.kernel_listens()
    with h.stack.connect(KERNELS, port, local_port=4321, timeout=10) as connection:  # noqa: SIM117
        with listener.accept()[0] as peer:
            info = connection.info()
            assert info.state is TcpState.ESTABLISHED
            assert info.local == peer.getpeername() == (OURS, 4321)
            assert info.peer == (KERNELS, port)
            assert info.mss == 9000 - 20 - 20 - 12 * info.timestamps
            peer.sendall(b"12345")
            connection.send(b"1234567")
            assert peer.recv(100) == b"1234567"
            connection.drain(timeout=10)
            h.stack.serve(0.05)
            info = connection.info()
            assert (info.readable, info.bytes_acked, info.unacked) == (5, 7, 0)
            assert connection.recv(3) + connection.recv(3) == b"12345"


def test_two_threads_take_turns(host, file_of):
    h = host()
    data = stream(3_000_000)
    path = file_of(data)

    def send_one(_):
        listener, port = h.kernel_listens()
        received = h.background(receive_all, listener)
        with h.stack.connect(KERNELS, port, timeout=20) as connection:
            connection.sendfile(path)
        return received.result(30)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(send_one, range(2), timeout=60)) == [digest_of(data)] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_while_it_sends(interrupt, file_of, number):
    """Ctrl-C is a KeyboardInterrupt at once, even while the peer takes nothing; nothing stays."""
    path = file_of(bytes(1 << 20) * 40)
    program = f"""
from nic_harness import Nic, Stack, Tap
with Tap() as tap, Nic(tap) as nic, Stack(nic) as stack, tap.namespace.socket() as listener:
    listener.bind(("", 5001))
    listener.listen()
    with stack.connect("198.18.0.1", 5001) as connection:
        peer, _ = listener.accept()
        connection.sendfile("{path}", progress=lambda n: print("at", n, flush=True))
"""
    done = interrupt([sys.executable, "-c", program], number, until=b"at")
    if number == signal.SIGINT:
        assert done.stderr.rstrip().endswith(b"KeyboardInterrupt")


def test_lost_frames_are_sent_again(host, file_of):
    """One of every 50 frames is lost, in both directions."""
    h = host(offloads=Offloads.NONE)
    rules = """
table netdev t {
    chain in { type filter hook ingress device "tap0" priority 0; numgen inc mod 50 0 drop; }
    chain out { type filter hook egress device "tap0" priority 0; numgen inc mod 50 0 drop; }
}
"""
    loaded = h.tap.namespace.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True)
    if loaded.returncode:
        pytest.skip(f"nft: {loaded.stderr.splitlines()[0]}")
    data = stream(2_000_000)
    listener, port = h.kernel_listens()
    received = h.background(receive_all, listener)
    with h.stack.connect(KERNELS, port, timeout=20) as connection:
        connection.sendfile(file_of(data))
        connection.close()
    assert received.result(30) == digest_of(data)
    assert h.stack.stats().tx_retransmits > 0
    assert h.arena.bytes_copied == 0 or h.nic.stats().tx_linearized


def test_aborted_by_us(host):
    h = host()
    listener, port = h.kernel_listens()
    connection = h.stack.connect(KERNELS, port, timeout=10)
    connection.abort()
    connection.abort()
    with pytest.raises(ClosedError):
        connection.send(b"x")
    with listener.accept()[0] as peer, pytest.raises(ConnectionResetError):
        peer.recv(1)
    assert TcpAbortedError.from_errno(errno.ECONNABORTED, "x").errno == errno.ECONNABORTED


def test_what_another_thread_took_just_before_this_one_sleeps_wakes_it(host, monkeypatch):
    h = host()
    h.tap.static_neighbour()  # nothing comes by itself
    listener, port = h.kernel_listens()
    connection = h.stack.connect(KERNELS, port)
    peer, _ = listener.accept()
    sleep = Waiter.wait

    def late(waiter, fd, _seconds, *since):
        monkeypatch.undo()
        peer.send(b"x")
        while not connection.info().readable:
            h.stack.poll()
        sleep(waiter, fd, None, *since)  # as if no timer were near

    with peer:
        monkeypatch.setattr(Waiter, "wait", late)
        assert h.background(connection.recv).result(30) == b"x"
        connection.abort()


@pytest.mark.parametrize("how", ["serve", "recv"])
def test_who_waits_sends_again_what_another_thread_sent_and_was_lost(host, how):
    h = host()
    h.tap.static_neighbour()  # nothing comes by itself
    run = h.tap.namespace.run
    listener, port = h.kernel_listens()
    ours, other = (h.stack.connect(KERNELS, port, timeout=10) for _ in range(2))
    peer, _ = listener.accept()
    waiting, _ = listener.accept()
    rules = """
table netdev t {
    chain in { type filter hook ingress device "tap0" priority 0; tcp flags psh drop; }
}
"""
    with peer, waiting:
        peer.settimeout(30)
        loaded = run(["nft", "-f", "-"], input=rules, text=True, capture_output=True)
        if loaded.returncode:
            pytest.skip(f"nft: {loaded.stderr.splitlines()[0]}")
        deadline = time.monotonic() + 60
        while h.stack._turn.due < time.monotonic_ns() + 35 * 10**9:  # only ARP has a timer
            assert time.monotonic() < deadline
            h.stack.serve(0.1)
        sleeper = h.background(h.stack.serve if how == "serve" else other.recv)
        while not h.stack._waiter._asleep:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert ours.send(b"x") == 1
        run(["nft", "delete", "table", "netdev", "t"], check=True)
        assert peer.recv(1) == b"x"
        assert h.stack.stats().tx_retransmits > 0
        h.stack.close()
        with pytest.raises(ClosedError):
            sleeper.result(60)
    h.nic.check()


# Protocols beside ours


def echo(frame):
    """Answer a UDP datagram, by scapy."""
    with frame:
        asked = Ether(bytes(frame))
    answer = Ether(src=asked.dst, dst=asked.src) / IP(src=asked[IP].dst, dst=asked[IP].src)
    return bytes(answer / UDP(sport=7, dport=asked[UDP].sport) / bytes(asked[UDP].payload))


def test_a_udp_echo_beside_a_tcp_stream(host):
    h = host(stack={"unclaimed": 256})
    listener, port = h.kernel_listens()
    data = stream(8 << 20)
    receiving = h.background(receive_all, listener)

    def send():
        with h.stack.connect(KERNELS, port) as connection:
            connection.send(data, timeout=60)

    sending = h.background(send)
    with h.tap.namespace.socket(type=socket.SOCK_DGRAM) as kernel:
        kernel.settimeout(60)
        kernel.connect((OURS, 7))
        for i in range(100):
            said = stream(i * 14, seed=i)
            kernel.send(said)
            (frame,) = h.stack.recv_unclaimed(timeout=60)
            assert h.stack.send_frames([echo(frame)]) == 1
            assert kernel.recv(1 << 16) == said
    sending.result(60)
    assert receiving.result(60) == (len(data), hashlib.sha256(data).hexdigest())
    s = h.stack.stats()
    assert (s.rx_other, s.rx_no_buffer) == (100, 0)
    h.settle()
    h.nic.check()


def test_what_is_kept_is_bounded_whole_and_in_order(host, frame_of):
    h = host(stack={"unclaimed": 3})
    kernel = h.tap.packet_socket()
    sent = [frame_of(100 + i) for i in range(6)]
    before = time.time_ns()
    with kernel:
        for frame in sent:
            kernel.send(frame)
        deadline = time.monotonic() + 60
        while h.stack.stats().rx_other < 6:
            assert time.monotonic() < deadline
            h.stack.serve(0.01)
        frames = h.stack.recv_unclaimed(2, timeout=0) + h.stack.recv_unclaimed(timeout=0)
        assert [bytes(f) for f in frames] == sent[:3]
        assert all(before <= f.timestamp <= time.time_ns() for f in frames)
        assert h.stack.stats().rx_no_buffer == 3
        assert h.stack.recv_unclaimed(timeout=0.01) == []
        # From where they lie, and more of them than the ring has room for.
        many = frames * 500
        assert h.stack.send_frames(many) == len(many)
        got = []
        while len(got) < 3:
            data, (_, _, kind, *_) = kernel.recvfrom(1 << 16)
            if kind != 4:  # PACKET_OUTGOING
                got.append(data)
        assert got == sent[:3]
    for frame in frames:
        frame.release()
    h.settle()
    assert h.nic.stats().tx_completed == len(many)
    h.nic.check()


def test_an_exception_while_they_are_taken_keeps_the_others(host, frame_of, monkeypatch):
    h = host(stack={"unclaimed": 10})
    sent = [frame_of(100 + i) for i in range(6)]
    with h.tap.packet_socket() as kernel:
        for frame in sent:
            kernel.send(frame)
        deadline = time.monotonic() + 60
        while h.stack.stats().rx_other < 6:
            assert time.monotonic() < deadline
            h.stack.serve(0.01)

    made = 0

    class Failing(Frame):
        __slots__ = ()

        def __init__(self, *args):
            nonlocal made
            made += 1
            super().__init__(*args)
            if made == 3:
                raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("nic_harness.host.stack.Frame", Failing)
        with pytest.raises(MemoryError):
            h.stack.recv_unclaimed(timeout=0)
    first = h.stack.recv_unclaimed(1, timeout=0)
    frames = first + h.stack.recv_unclaimed(timeout=0)
    assert [bytes(f) for f in frames] == sent[:2] + sent[3:]
    for frame in frames:
        frame.release()
    assert h.arena.stats().pages_in_use == h.nic.attached.rx_ring_size
    h.nic.check()


def test_nothing_is_kept_unless_asked_for(host, frame_of):
    h = host()
    with h.tap.packet_socket() as kernel:
        kernel.send(frame_of(60))
    h.stack.serve(0.05)
    with pytest.raises(ArgumentError, match=r"it keeps no such frames; use Stack\(unclaimed=N\)"):
        h.stack.recv_unclaimed(timeout=0)
    h.stack.close()
    with pytest.raises(ArgumentError, match="unclaimed=-1"):
        Stack(h.nic, unclaimed=-1)
    with Stack(h.nic, unclaimed=1) as ours:
        with pytest.raises(ArgumentError, match="max=0"):
            ours.recv_unclaimed(0)
        with h.tap.packet_socket() as kernel:
            kernel.send(frame_of(60))
        ours.serve(0.05)  # it takes what it still keeps along
    with pytest.raises(ClosedError):
        ours.recv_unclaimed(timeout=0)
    with pytest.raises(ClosedError):
        ours.send_frames([frame_of(60)])
    h.nic.check()


def test_closing_ends_a_wait_for_what_is_unclaimed(host):
    h = host(stack={"unclaimed": 1})
    waiting = h.background(h.stack.recv_unclaimed)
    h.stack.serve(0.05)
    h.nic.close()
    with pytest.raises(ClosedError):
        waiting.result(60)
