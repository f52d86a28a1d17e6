"""The fixtures in a foreign test project: pytest in pytest, with the package as it is installed."""

import os
import sys

import pytest
from nic_harness.errors import CommandError

#: Options of unshare(1) for a mount namespace, for root and for other users.
MOUNT = ["--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


@pytest.fixture
def project(pytester):
    """Run a user's test file, which only names the fixtures; return what pytest reported."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def run(source, *args, apart=False):
        pytester.makepyfile(source)
        # Neither this project's settings nor its conftest.py: a directory of its own. A test that
        # keeps something does so in a process that ends.
        pytest_run = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return pytest_run("-p", "no:cacheprovider", *args)

    return run


def test_frames_both_ways(project):
    project(
        """
        import socket
        import sys

        def test_in_and_out(nic, tap, peer):
            with peer.socket(type=socket.SOCK_DGRAM) as kernel, peer.packet_socket() as wire:
                kernel.sendto(b"hello", (peer.nic_address, 9))
                (frame,) = nic.recv(timeout=20)
                with frame:
                    assert bytes(frame.data[-5:]) == b"hello"
                nic.send(bytes(60))
                wire.settimeout(20)
                while (got := wire.recvfrom(100))[1][2] == 4:  # its own
                    pass
                assert got[0] == bytes(60)

        def test_commands_there(peer, netns):
            assert peer.run("cat", "/proc/sys/net/ipv6/conf/all/disable_ipv6").stdout == "1\\n"
            listing = peer.python("import socket; print(socket.if_nameindex())").stdout
            assert "tap0" in listing and "eth0" not in listing
            process = peer.start(
                sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"
            )
            assert process.stdout.readline() == "1\\n"
        """
    ).assert_outcomes(passed=2)


def test_the_marker_and_the_options(project):
    source = """
        import pytest
        from nic_harness import Offloads

        pytestmark = pytest.mark.harness(mtu=9000, queues=2, pages=8192)

        @pytest.mark.harness(mtu=4000, ring_size=64, offloads=Offloads.NONE, ipv6=True)
        def test_nearest_wins(nic, tap, arena, peer):
            a = nic.attached
            assert (a.device, a.mtu, a.queues, a.rx_ring_size) == ("tap_rw", 4000, 2, 64)
            assert a.offloads == Offloads.NONE
            assert tap.mtu == 4000 and arena.stats().pages_total == 8192
            assert nic.arena is arena
            assert peer.run("cat", "/proc/sys/net/ipv6/conf/all/disable_ipv6").stdout == "0\\n"

        def test_strict(arena):
            from nic_harness._native import ffi
            assert arena.handle.arena.direct == ffi.NULL
    """
    project(source, "--harness-device=tap_rw", "--harness-strict").assert_outcomes(passed=2)


def test_what_is_left_is_named(project):
    result = project(
        """
        import socket
        import pytest
        from nic_harness import Arena, Tap, jumbo
        from nic_harness.errors import DoubleFreeError

        kept = []

        def test_frame(nic, peer):
            with peer.socket(type=socket.SOCK_DGRAM) as kernel:
                kernel.sendto(b"hello", (peer.nic_address, 9))
            kept.extend(nic.recv(timeout=20))

        def test_after_it(nic):
            pass

        def test_tap(netns):
            kept.append(Tap(netns, name="mine"))

        def test_arena(arena):
            kept.append(Arena(16))

        def free_twice():
            page = jumbo.jumbo_pg_alloc()
            address = page.kva
            jumbo.jumbo_freem(page)
            with pytest.raises(DoubleFreeError):
                jumbo.jumbo_freem(address)

        def test_misuse(arena):
            free_twice()

        @pytest.mark.harness(misuses=1)
        def test_misuse_expected(arena):
            free_twice()
        """,
        apart=True,
    )
    result.assert_outcomes(passed=6, errors=4)
    result.stdout.fnmatch_lines(
        [
            "harness: close arena: 1 page, * in use; *",
            "harness: left open: <Tap mine queues=1>",
            "harness: left open: <Arena pages=0/16 in use>",
            "harness: 1 misuses, 0 expected; the last: double free: page *",
        ]
    )


def test_a_failure_shows_what_the_nic_did(project):
    result = project(
        """
        import socket

        def test_fails(nic, peer):
            with peer.socket(type=socket.SOCK_DGRAM) as kernel:
                kernel.sendto(b"hello", (peer.nic_address, 9))
            frames = nic.recv(timeout=20)
            assert not frames
        """,
        apart=True,
    )
    # Its traceback holds the frame, which is not reported a second time.
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- harness -*", "* on tap0, *", "*rx_received 1, *"])


@pytest.mark.parametrize(
    ("source", "args", "said"),
    [
        (
            "import pytest\n@pytest.mark.harness(mut=9000)\ndef test(nic): pass",
            (),
            "*pytest.mark.harness has no mut; it takes *mtu*",
        ),
        ("def test(nic): pass", ("--harness-device=tap_x",), "harness: *tap_x*"),
        (
            "import pytest\n@pytest.mark.harness(mtu=1)\ndef test(tap): pass",
            (),
            "harness: *MTU 1 is out of range*",
        ),
    ],
    ids=["marker", "device", "mtu"],
)
def test_what_is_wrong_is_one_line(project, source, args, said):
    result = project(source, *args)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])
    result.stdout.no_fnmatch_line("*Traceback*")


ONE_FRAME = """
import asyncio
import socket
import pytest
from nic_harness import Stack, jumbo
from nic_harness.sf_buf import VmObject

def put_one(peer):
    with peer.socket(type=socket.SOCK_DGRAM) as kernel:
        kernel.sendto(b"hello", (peer.nic_address, 9))

def one_frame(nic, peer):
    put_one(peer)
    return nic.recv(timeout=20)
"""


def test_what_an_exception_holds_is_not_left(project):
    result = project(
        ONE_FRAME
        + """
@pytest.mark.xfail
def test_expected(nic, peer):
    frames = one_frame(nic, peer)
    assert not frames

@pytest.mark.xfail(strict=True, raises=AssertionError)
def test_expected_strictly(nic, peer):
    frames = one_frame(nic, peer)
    assert not frames

def test_skipped_in_the_middle(nic, peer):
    frames = one_frame(nic, peer)
    pytest.skip("not here")

def test_expected_in_the_middle(nic, peer):
    frames = one_frame(nic, peer)
    pytest.xfail("not here")

@pytest.fixture
def fails(nic, peer):
    frames = one_frame(nic, peer)
    assert not frames

def test_of_a_fixture_that_fails(fails):
    pass

@pytest.fixture
def fails_afterwards(nic, peer):
    frames = one_frame(nic, peer)
    yield
    assert not frames

def test_of_a_fixture_that_fails_afterwards(fails_afterwards):
    pass

def test_after_them(nic, peer):
    for frame in one_frame(nic, peer):
        frame.release()
        """,
        apart=True,
    )
    result.assert_outcomes(xfailed=3, skipped=1, passed=2, errors=2)
    result.stdout.no_fnmatch_line("harness: *")


def test_a_leak_names_the_line_that_took_the_page(project, pytester):
    result = project(
        ONE_FRAME
        + """
kept = []

def test_recv(nic, peer):
    put_one(peer)
    kept.extend(nic.recv(timeout=20))  # here

def test_iteration(nic, peer):
    put_one(peer)
    for frame in nic:  # here
        kept.append(frame)
        break

def test_burst(nic, peer):
    put_one(peer)
    kept.append(nic.recv_burst(timeout=20))  # here

def test_callback(nic, peer):
    put_one(peer)
    with nic.on_frames(kept.extend) as receiver:  # here
        while not kept:
            receiver.wait(0.01)

def test_asyncio(nic, peer):
    async def first():
        async for frame in nic:  # here
            return frame
    put_one(peer)
    kept.append(asyncio.run(first()))

def test_jumbo(arena):
    kept.append(jumbo.jumbo_pg_alloc(arena=arena))  # here

def test_unclaimed(nic, peer):
    put_one(peer)
    with Stack(nic, unclaimed=1) as stack:
        kept.extend(stack.recv_unclaimed(timeout=20))  # here

def test_stream(nic, peer):
    with Stack(nic) as stack, peer.socket() as server:
        server.bind((peer.address, 5001))
        server.listen()
        with stack.connect(*server.getsockname()) as connection:
            with server.accept()[0] as kernel:
                kernel.send(b"hello")
                kept.append(connection.recv_chain(timeout=20))  # here

def test_file(arena):
    with open(__file__, "rb") as file, VmObject(file, arena=arena) as pages:
        kept.append(pages.grab(0))  # here

@pytest.fixture(autouse=True)
def each_on_its_own():
    kept.clear()
        """,
        apart=True,
    )
    (file,) = pytester.path.glob("test_*.py")
    here = [i for i, t in enumerate(file.read_text().splitlines(), 1) if t.endswith("# here")]
    result.assert_outcomes(passed=9, errors=len(here))
    result.stdout.fnmatch_lines(
        [f"harness: close arena: *in use; taken at {file}:{line} (1 page);*" for line in here]
    )


def test_what_is_left_open_names_the_line_that_made_it(project, pytester):
    result = project(
        """
        from nic_harness import Tap

        def opened(netns):
            return Tap(netns)  # here

        kept = []

        def test_it(netns):
            kept.append(opened(netns))
        """,
        apart=True,
    )
    (file,) = pytester.path.glob("test_*.py")
    number = 1 + next(i for i, t in enumerate(file.read_text().splitlines()) if "# here" in t)
    result.stdout.fnmatch_lines(
        ["harness: left open: <Tap tap0 queues=1>", f"  made at {file}:{number}"]
    )


@pytest.mark.parametrize(
    ("ini", "args", "marker", "outcomes"),
    [
        ("", (), "", {"errors": 1}),
        ("harness_missing = skip", (), "", {"skipped": 1}),
        ("", ("--harness-missing=skip",), "", {"skipped": 1}),
        ("harness_missing = skip", ("--harness-missing=fail",), "", {"errors": 1}),
        ("", (), "missing='skip'", {"skipped": 1}),
        ("", ("--harness-missing=skip",), "missing='fail'", {"errors": 1}),
    ],
)
def test_a_machine_without_tun(pytester, ini, args, marker, outcomes):
    pytester.makeini(f"[pytest]\nasyncio_default_fixture_loop_scope = function\n{ini}")
    pytester.makepyfile(f"import pytest\n@pytest.mark.harness({marker})\ndef test_it(nic): pass\n")
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    pytest_run = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *args]
    result = pytester.run("unshare", *MOUNT, "sh", "-c", hide, "sh", *pytest_run)
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines(["*harness: open /dev/net/tun: *"])


def test_a_name_that_no_machine_has_is_never_skipped(project):
    result = project("def test(nic): pass", "--harness-device=tap_x", "--harness-missing=skip")
    result.assert_outcomes(errors=1)


def test_settings(pytester):
    source = """
        def test_it(nic, arena):
            from nic_harness._native import ffi
            assert nic.attached.device == "tap_rw"
            assert arena.handle.arena.direct == ffi.NULL
    """
    pytester.makepyfile(source)
    ini = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
    pytester.makeini(f"{ini}harness_device = tap_rw\nharness_strict = true\n")
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    pytester.makeini(f"{ini}harness_missing = perhaps\n")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.stderr.fnmatch_lines(["*harness_missing = perhaps: it is one of fail, skip*"])


def test_a_traceback_ends_at_the_users_line(project):
    result = project(
        """
        import subprocess

        def test_refused(nic):
            nic.recv(max=0)

        def test_refused_deeper(nic):
            nic.send(bytes(13))

        def test_through_the_peer(peer):
            peer.run("false")

        def test_own_exception_from_a_callback(nic, peer):
            def callback(frames):
                raise ZeroDivisionError
            with peer.packet_socket() as wire:
                with nic.on_frames(callback) as receiver:
                    wire.send(bytes.fromhex("020000000002 020000000001 88b5") + bytes(46))
                    receiver.wait()
        """,
        apart=True,
    )
    result.assert_outcomes(failed=4)
    for line in ("nic.recv(max=0)", "nic.send(bytes(13))", 'peer.run("false")', "receiver.wait()"):
        result.stdout.fnmatch_lines([f">  *{line}"])
    result.stdout.no_fnmatch_line("*nic_harness/*.py:*: *")


def test_under_xdist(project):
    result = project(
        ONE_FRAME
        + """
kept = []

@pytest.mark.parametrize("n", range(6))
def test_it(nic, peer, n):
    for frame in one_frame(nic, peer):
        frame.release()

def test_leak(nic, peer):
    kept.extend(one_frame(nic, peer))
        """,
        "-n3",
        apart=True,
    )
    result.assert_outcomes(passed=7, errors=1)
    result.stdout.fnmatch_lines(["harness: close arena: 1 page*; taken at *test_*.py:* (1 page);*"])


ASYNC = """
async def first(nic):
    async for frame in nic:
        return frame

async def one_of_two(nic, peer):
    put_one(peer)
    with await first(nic) as frame:
        assert bytes(frame.data[-5:]) == b"hello"
"""


def test_under_pytest_asyncio(project):
    result = project(
        ONE_FRAME
        + ASYNC
        + """
@pytest.mark.asyncio
async def test_it(nic, peer):
    await one_of_two(nic, peer)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first(nic), 0.01)
    await one_of_two(nic, peer)

@pytest.mark.asyncio
@pytest.mark.xfail(strict=True)
async def test_expected(nic, peer):
    put_one(peer)
    frame = await first(nic)
    assert frame is None
        """,
        "-p",
        "no:anyio",
        apart=True,
    )
    result.assert_outcomes(passed=1, xfailed=1)


def test_under_anyio_on_asyncio_and_on_trio(project):
    result = project(
        ONE_FRAME
        + ASYNC
        + """
import anyio

@pytest.mark.anyio
async def test_it(nic, peer):
    await one_of_two(nic, peer)
    with anyio.move_on_after(0.01) as scope:  # a wait that is cancelled loses no frame
        await first(nic)
    assert scope.cancelled_caught
    await one_of_two(nic, peer)

@pytest.mark.anyio
async def test_waits(nic, peer):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one_of_two, nic, peer)

@pytest.mark.anyio
async def test_is_woken_by_close(nic):
    ended = []
    async def receive():
        ended.append(await first(nic))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        while not nic._sleepers._waking:
            await anyio.sleep(0.001)
        nic.close()
    assert ended == [None]
        """,
        "-p",
        "no:asyncio",
        apart=True,
    )
    result.assert_outcomes(passed=6)


def test_an_event_loop_of_another_kind_is_one_clear_error(nic):
    from nic_harness.errors import UnsupportedError

    frames = nic.__aiter__()
    with pytest.raises(UnsupportedError, match="neither asyncio nor trio runs here; await under"):
        frames.__anext__().send(None)


def test_a_command_that_failed_without_a_word(peer):
    with pytest.raises(CommandError, match=r"run sh: exit code 3: it said nothing$"):
        peer.run("sh", "-c", "exit 3")
    with pytest.raises(CommandError, match=r"run sh: exit code 3: alas$"):
        peer.run("sh", "-c", "echo alas >&2; exit 3")
