"""A stack on a small arena, or with many peers that take nothing, gets slow and never stops."""

import hashlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from nic_harness import Arena, Nic, Stack, Tap
from nic_harness.errors import ClosedError, TcpTimeoutError

KERNELS, OURS, PORT = "198.18.0.1", "198.18.0.2", 5001
MEGABYTE = bytes(range(256)) * 4096


class Small:
    """A stack on an arena with `spare` pages beyond its ring's, and the kernel's side."""

    def __init__(self, exits, spare):
        self._exits = exits
        self.tap = exits.enter_context(Tap())
        self.arena = exits.enter_context(Arena(64 + spare))
        self.nic = exits.enter_context(Nic(self.tap, self.arena, ring_size=64))
        self.stack = exits.enter_context(Stack(self.nic))

    def kernel_socket(self):
        sock = self._exits.enter_context(self.tap.namespace.socket())
        sock.settimeout(120)
        return sock

    def kernel_listens(self):
        sock = self.kernel_socket()
        sock.bind((KERNELS, PORT))
        sock.listen(64)
        return sock


@pytest.fixture
def small():
    with ExitStack() as exits:
        yield lambda spare: Small(exits, spare)


def digest_to_the_end(peer):
    digest = hashlib.sha256()
    while data := peer.recv(1 << 18):
        digest.update(data)
    return digest.hexdigest()


def send_all(sock, data):
    sock.connect((OURS, PORT))
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("spare", [32, 192, 4096])
def test_one_client_after_the_other(small, spare):
    """The data of the others wait in the backlog, and take nothing from the one that is read."""
    h = small(spare)
    with h.stack.listen(PORT) as listener, ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(send_all, h.kernel_socket(), MEGABYTE) for _ in range(6)]
        for _ in clients:
            with listener.accept(timeout=120) as connection:
                digest = hashlib.sha256()
                while chunk := connection.recv(timeout=120):
                    digest.update(chunk)
                assert digest.digest() == hashlib.sha256(MEGABYTE).digest()
        for client in clients:
            client.result(120)
    assert h.stack.memory().pages_used == 0


def test_unread_connections_leave_room_for_the_next(small):
    h = small(192)
    unread, stop = [], threading.Event()

    def fill(sock):
        sock.settimeout(0.1)
        while not stop.is_set():
            with suppress(TimeoutError):
                sock.send(MEGABYTE)

    with h.stack.listen(PORT, backlog=64) as listener, ThreadPoolExecutor(21) as pool:
        serving = pool.submit(h.stack.serve, None)
        try:
            for _ in range(20):
                sock = h.kernel_socket()
                sock.connect((OURS, PORT))
                unread.append(listener.accept(timeout=120))
                pool.submit(fill, sock)
            last = h.kernel_socket()
            last.connect((OURS, PORT))
            with listener.accept(timeout=120) as connection:
                last.sendall(b"x" * 20000)
                got = 0
                while got < 20000:
                    got += len(connection.recv(timeout=120))
            memory = h.stack.memory()
            assert memory.pages_used <= memory.pages_limit + 24  # and what each may begin with
        finally:
            stop.set()
            for connection in unread:
                connection.abort()
            h.stack.close()
        with pytest.raises(ClosedError):
            serving.result(60)


@pytest.mark.parametrize("spare", [32, 192])
def test_sending_waits_for_pages(small, spare):
    h = small(spare)
    listener = h.kernel_listens()
    with ThreadPoolExecutor(6) as pool:
        connections, receivers = [], []
        for _ in range(3):
            connections.append(h.stack.connect(KERNELS, PORT, timeout=60))
            peer, _ = listener.accept()
            peer.settimeout(120)
            receivers.append((peer, pool.submit(digest_to_the_end, peer)))
        sent = [pool.submit(c.send, MEGABYTE, 120) for c in connections]
        assert [s.result(120) for s in sent] == [len(MEGABYTE)] * 3
        for connection, (peer, received) in zip(connections, receivers, strict=True):
            connection.close(timeout=120)
            with peer:
                assert received.result(120) == hashlib.sha256(MEGABYTE).hexdigest()
    assert h.stack.stats().tx_no_memory > 0


def test_a_send_without_room_says_what_was_taken(small):
    h = small(192)
    listener = h.kernel_listens()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection = h.stack.connect(KERNELS, PORT, timeout=60)
    peer, _ = listener.accept()
    with peer, pytest.raises(TcpTimeoutError) as e:
        connection.send(MEGABYTE, timeout=0.5)
    info = connection.info()
    assert e.value.sent == info.bytes_acked + info.unacked + info.unsent
    assert 0 < e.value.sent < len(MEGABYTE)
    connection.abort()
