"""The fixtures, in a test project of somebody else's: pytest in pytest, as it is installed."""

import pytest


@pytest.fixture
def project(pytester):
    """Run a user's test file, which has nothing but the fixtures' names; what pytest said."""

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
    # Its traceback holds the frame: that is no second complaint.
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
