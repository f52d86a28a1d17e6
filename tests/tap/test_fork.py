"""A forked child cannot affect its parent's NIC, stack or namespace."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import subprocess
import threading
from contextlib import ExitStack

import pytest
from nic_harness import Arena, Capture, Nic, Stack, Tap, replay
from nic_harness.base.live import open_resources
from nic_harness.bsd.jumbo import jumbo_pg_alloc, jumbo_pg_steal
from nic_harness.bsd.mbuf import m_gethdr
from nic_harness.errors import ClosedError, ForkedError

pytestmark = pytest.mark.each_device

FRAME = bytes.fromhex("020000000001 020000000002 88b5") + bytes(46)
BACK = bytes.fromhex("020000000002 020000000001 88b5") + bytes(46)


class Child:
    """A forked child, and what it raised or returned."""

    def __init__(self, function, *, leaves=lambda: None):
        """Fork; the child calls `function`, then `leaves`, and ends without our clean-up."""
        out, into = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            said = "nothing"
            try:
                try:
                    said = function()
                finally:
                    leaves()
                    gc.collect()
            except BaseException as e:
                said = e
            with contextlib.suppress(BaseException):
                os.write(into, pickle.dumps((type(said), str(said))))
            os._exit(0)
        os.close(into)
        with os.fdopen(out, "rb") as pipe:
            self.kind, self.said = pickle.loads(pipe.read())
        assert os.waitpid(self.pid, 0)[1] == 0


class Wire:
    """A TAP with one object of each kind on it, with one connection and one frame in hand."""

    def __init__(self, stack):
        self.tap = stack.enter_context(Tap(queues=2))
        self.tap.steer(13)  # ARP and IPv4 are even there, and the stack's; 88b5 is odd
        self.nic = stack.enter_context(Nic(self.tap))
        self.kernel = stack.enter_context(self.tap.packet_socket(0x88B5))
        self.kernel.settimeout(60)
        self.stack = stack.enter_context(Stack(self.nic))
        server = stack.enter_context(self.tap.namespace.socket())
        server.bind(("198.18.0.1", 5001))
        server.listen()
        self.connection = stack.enter_context(self.stack.connect("198.18.0.1", 5001, timeout=60))
        self.peer = stack.enter_context(server.accept()[0])
        self.peer.settimeout(60)

    def works(self):
        """Check that frames go out and come in, and that the connection works."""
        assert self.nic.send_many([FRAME] * 64, queue=1) == 64
        for _ in range(64):
            while self.kernel.recvfrom(100)[1][2] == 4:  # PACKET_OUTGOING
                pass
        for _ in range(20):
            self.kernel.send(BACK)
        got = 0
        while got < 20:
            frames = self.nic.recv(timeout=60, queue=1)
            got += len(frames)
            for frame in frames:
                assert bytes(frame) == BACK
                frame.release()
        assert self.connection.send(b"one") == 3
        self.connection.drain(60)
        assert self.peer.recv(10) == b"one"
        self.peer.send(b"two")
        assert self.connection.recv(timeout=60) == b"two"
        self.nic.check()


@pytest.fixture
def leaving():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def wire(leaving):
    wire = Wire(leaving)
    wire.works()
    return wire


def test_a_child_that_leaves_the_blocks_leaves_the_parents_alone(wire, leaving):
    child = Child(lambda: "left", leaves=leaving.close)
    assert (child.kind, child.said) == (str, "left")
    wire.works()


def test_a_child_that_raises_in_the_blocks(wire, leaving):
    def leaves():
        with pytest.raises(ZeroDivisionError), leaving.pop_all():
            raise ZeroDivisionError

    Child(lambda: None, leaves=leaves)
    wire.works()


USES = {
    "recv": lambda w: w.nic.recv(timeout=0, queue=1),
    "recv_burst": lambda w: w.nic.recv_burst(timeout=0, queue=1),
    "send": lambda w: w.nic.send(FRAME, queue=1),
    "flush": lambda w: w.nic.flush(),
    "wait_tx_room": lambda w: w.nic.wait_tx_room(queue=1),
    "on_frames": lambda w: w.nic.on_frames(print, queue=1),
    "fileno": lambda w: w.nic.fileno(1),
    "stats": lambda w: w.nic.stats(),
    "check": lambda w: w.nic.check(),
    "rings": lambda w: w.nic.rings(),
    "arena": lambda w: w.nic.arena.stats(),
    "jumbo_pg_alloc": lambda w: jumbo_pg_alloc(arena=w.nic.arena),
    "m_gethdr": lambda w: m_gethdr(arena=w.nic.arena),
    "poll": lambda w: w.stack.poll(),
    "serve": lambda w: w.stack.serve(0.01),
    "connect": lambda w: w.stack.connect("198.18.0.1", 5001),
    "listen": lambda w: w.stack.listen(7),
    "stack stats": lambda w: w.stack.stats(),
    "connection send": lambda w: w.connection.send(b"x"),
    "connection recv": lambda w: w.connection.recv(timeout=0),
    "sendfile": lambda w: w.connection.sendfile(__file__),
    "shutdown": lambda w: w.connection.shutdown(),
    "info": lambda w: w.connection.info(),
    "drain": lambda w: w.connection.drain(),
    "tap link": lambda w: w.tap.link(),
    "tap steer": lambda w: w.tap.steer(None),
    "set_link": lambda w: w.tap.set_link(up=False),
    "namespace socket": lambda w: w.tap.namespace.socket(),
    "namespace run": lambda w: w.tap.namespace.run(["true"]),
    "namespace link": lambda w: w.tap.namespace.link("lo"),
    "another NIC": lambda w: Nic(w.tap),
}


def test_a_use_in_the_child_is_named(wire):
    for name, use in USES.items():
        child = Child(lambda use=use: use(wire))
        assert child.kind is ForkedError, (name, child.kind, child.said)
        assert f"process {os.getpid()}" in child.said, (name, child.said)
    wire.works()


def test_a_child_makes_its_own(wire):
    def own():
        with ExitStack() as stack:
            Wire(stack).works()
        return "well"

    child = Child(own)
    assert child.said == "well"
    wire.works()


def test_a_childs_child(wire):
    def own():
        with Tap() as tap, Nic(tap) as nic, tap.packet_socket():
            grandchild = Child(lambda: nic.send(FRAME))
            nic.send(FRAME)
            return f"{grandchild.kind.__name__}, {Child(lambda: wire.nic.stats()).kind.__name__}"

    assert Child(own).said == "ForkedError, ForkedError"
    wire.works()


def test_frames_and_pages_that_the_child_lets_go_of_stay_the_parents(wire):
    arena = wire.nic.arena
    for _ in range(8):
        wire.kernel.send(BACK)
    frames = []
    while len(frames) < 4:
        frames += wire.nic.recv(4 - len(frames), timeout=60, queue=1)
    burst = wire.nic.recv_burst(4, timeout=60, queue=1)
    page, stolen, chain = (
        jumbo_pg_alloc(arena=arena),
        jumbo_pg_alloc(arena=arena),
        m_gethdr(arena=arena),
    )
    stolen = jumbo_pg_steal(stolen)
    before = arena.stats()

    def let_go():
        nonlocal frames, burst, page, stolen, chain
        for frame in frames[:2]:
            frame.release()
        frames = burst = None
        with page, stolen, chain:
            pass
        page = stolen = chain = None

    Child(let_go)
    assert arena.stats() == before
    assert [bytes(frame) for frame in frames] == [BACK] * 4
    assert bytes(burst[0]) == BACK
    for handle in (*frames, burst):
        handle.release()
    with page, stolen, chain:
        pass
    wire.works()


def test_threads_of_the_parent_hold_their_locks_while_it_forks(wire):
    """A lock that a thread holds at that moment stays held in the child for ever."""
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            wire.stack.poll()
            wire.nic.stats()
            wire.tap.namespace.link("lo")

    threads = [threading.Thread(target=busy) for _ in range(3)]
    with wire.nic.on_frames(len, queue=1):
        for thread in threads:
            thread.start()
        try:
            for _ in range(30):
                uses = [USES[name] for name in ("poll", "recv", "namespace link", "info")]
                for use in uses:
                    assert Child(lambda use=use: use(wire)).kind is ForkedError
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_what_a_child_keeps_does_not_keep_the_interface(device):
    """A worker that outlives the Tap does not keep the TAP alive."""
    with Tap() as tap, Nic(tap) as nic, tap.packet_socket() as kernel:
        namespace, hold, up = tap.namespace, os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(hold[1])
            os.write(up[1], b"x")
            os.read(hold[0], 1)
            os._exit(0)
        os.read(up[0], 1)
        try:
            nic.close()
            os.close(kernel.detach())
            tap._close_fds()
            assert "tap0" not in namespace.read("/proc/net/dev")
            assert device
        finally:
            for fd in (*hold, *up):
                os.close(fd)
            os.waitpid(pid, 0)


def test_a_commands_end_is_its_starters(wire):
    with wire.tap.namespace.popen(["sleep", "600"]) as process:

        def leave():
            with process:
                return "left"

        assert Child(leave).said == "left"
        assert Child(process.kill).kind is ForkedError
        assert process.poll() is None


def test_a_capture_is_written_once(leaving, tmp_path):
    path = tmp_path / "out.pcapng"
    with Tap() as tap, Nic(tap, capture=Capture(path)) as nic:
        nic.send_many([FRAME] * 5)
        Child(lambda: None, leaves=nic.close)
        nic.send_many([FRAME] * 5)
    assert [bytes(f.data) for f in replay.read_capture(path)] == [FRAME] * 10
    assert leaving is not None


def _worker(_):
    return len(open_resources())


def test_multiprocessing_and_subprocess(wire):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_worker, range(8)) == [0] * 8
        pool.close()
        pool.join()
    done = subprocess.run(["true"], preexec_fn=lambda: None, check=False)
    assert done.returncode == 0
    wire.works()


def test_the_current_arena_is_the_parents_alone():
    with Arena(64) as arena:
        child = Child(lambda: jumbo_pg_alloc().kva)
        assert child.kind is ClosedError
        page = jumbo_pg_alloc()
        with page:
            assert arena.stats().pages_in_use == 1
