"""The namespace: what lives in it, and that it leaves nothing behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from nic_harness.errors import (
    ClosedError,
    CommandError,
    LinkError,
    MtuError,
    NamespaceError,
    NamespaceGoneError,
    TcpError,
    UnsupportedError,
)
from nic_harness.wire.netns import Namespace
from nic_harness.wire.tap import Tap


@pytest.fixture
def ns():
    with Namespace() as namespace:
        yield namespace


def test_it_is_another_network(ns):
    assert ns.read("/proc/net/dev").count(":") == 1  # lo
    with ns.socket() as server, ns.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        with server.accept()[0] as peer:
            client.sendall(b"x")
            assert peer.recv(1) == b"x"
        # From outside, no server listens there.
        with socket.socket() as outside, pytest.raises(ConnectionRefusedError):
            outside.connect(server.getsockname())


def test_a_user_namespace_is_taken_only_when_it_must_be(ns):
    status = Path("/proc/self/status").read_text()
    capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
    assert ns.rootless == (not capabilities >> 21 & 1)  # CAP_SYS_ADMIN


def test_ipv6_is_off_unless_asked_for():
    with Namespace() as quiet, Namespace(ipv6=True) as noisy:
        assert quiet.sysctl("ipv6.conf.default.disable_ipv6") == "1"
        assert noisy.sysctl("ipv6.conf.default.disable_ipv6") == "0"


def test_run_and_popen(ns):
    big = "x" * 300_000  # more than a pipe holds, both ways
    done = ns.run(
        ["sh", "-c", "cat; echo no >&2; exit 3"], input=big, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, big, "no\n")
    with pytest.raises(subprocess.CalledProcessError):
        ns.run(["false"], check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        ns.run(["sleep", "100"], timeout=0.05)
    with pytest.raises(CommandError, match="start /no/such/program: No such file"):
        ns.run(["/no/such/program"])
    with pytest.raises(CommandError, match="in /no/such/place"):
        ns.run(["true"], cwd="/no/such/place")
    with ns.popen(["sleep", "100"]) as process:
        assert process.poll() is None
        comm = Path(f"/proc/{process.pid}/comm")
        while comm.read_text() != "sleep\n":  # posix_spawn() returns a moment before that is set
            time.sleep(0.001)
        process.terminate()
        assert process.wait(5) == -signal.SIGTERM
    environment = ns.run(["env"], env={"A": "b"}, capture_output=True, text=True).stdout
    assert "A=b\n" in environment
    assert ns.run(["pwd"], cwd="/usr", capture_output=True, text=True).stdout == "/usr\n"


def test_commands_see_the_namespace(ns, request):
    for fd in ns.open_tap("wire7")[1]:
        request.addfinalizer(lambda fd=fd: os.close(fd))
    names = ns.run(["ls", "/sys/class/net"], capture_output=True, text=True).stdout.split()
    assert "wire7" in names or "lo" not in names  # a container may forbid a /sys of our own
    assert "wire7" in ns.read("/proc/net/dev")


def test_close_kills_what_runs_in_it_and_daemons_too(processes):
    with Namespace() as ns:
        process = ns.popen(
            ["sh", "-c", "setsid sleep 987 & echo up; wait"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "up\n"
        below = processes.below(os.getpid())
        assert len(below) >= 4  # outer, first, sh, sleep
    assert processes.all_gone(below)
    assert process.wait() == -signal.SIGKILL
    with process:
        pass
    with pytest.raises(ClosedError):
        ns.read("/proc/net/dev")


def test_kill_minus_9_of_its_first_process_is_named(processes):
    with Namespace() as ns:
        (_, first) = processes.below(os.getpid())
        os.kill(first, signal.SIGKILL)
        assert processes.all_gone([first])
        with pytest.raises(NamespaceGoneError, match="was ended"):
            ns.read("/proc/net/dev")


def test_it_outlives_the_thread_that_made_it():
    made = []
    thread = threading.Thread(target=lambda: made.append(Namespace()))
    thread.start()
    thread.join()
    time.sleep(0.05)
    with made[0] as ns:
        assert ns.read("/proc/net/dev")


def test_a_forked_child_neither_keeps_nor_ends_it(ns, processes):
    hold, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(release)
        os.read(hold, 1)
        ns.close()
        os._exit(0)
    os.close(hold)
    below = [p for p in processes.below(os.getpid()) if p != pid]
    os.close(release)
    os.waitpid(pid, 0)
    assert ns.read("/proc/net/dev")
    ns.close()
    assert processes.all_gone(below)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_dies_with_its_owner(interrupt, number):
    program = """
import time
from nic_harness import Tap
tap = Tap()
tap.namespace.popen(["sleep", "986"])
print("up", flush=True)
time.sleep(100)
"""
    interrupt([sys.executable, "-c", program], number, until=b"up\n")


@pytest.mark.usefixtures("ns")
def test_ctrl_c_in_the_terminal_does_not_reach_it(processes):
    """Ctrl-C signals the foreground process group; the holder has left it."""
    outer, first = processes.below(os.getpid())
    assert os.getpgid(outer) != os.getpgid(0)
    assert os.getpgid(first) != os.getpgid(0)


def test_tap_configures_the_kernels_side():
    with Tap(mtu=9000, address="192.0.2.1/24", mac="02:00:00:00:00:0a", txqueuelen=77) as tap:
        with tap.namespace.iproute() as ipr:  # pyroute2 is a second source
            (link,) = ipr.get_links(ifname="tap0")
            address = ipr.get_addr(label="tap0")
        assert link.get("IFLA_MTU") == 9000
        assert link.get("IFLA_ADDRESS") == "02:00:00:00:00:0a"
        assert link.get("IFLA_TXQLEN") == 77
        assert link.get("state") == "up"
        assert [a.get("IFA_ADDRESS") for a in address] == ["192.0.2.1"]
        info = tap.link()
        assert (info.mtu, info.mac, info.up, info.carrier) == (
            9000,
            "02:00:00:00:00:0a",
            True,
            True,
        )
        tap.set_link(mtu=1400, up=False)
        assert tap.mtu == 1400
        assert not tap.link().up
    with pytest.raises(ClosedError):
        tap.stats()


@pytest.mark.parametrize("mtu", [-1, 0, 67, 65536, 1 << 40])
def test_mtu_out_of_range(mtu):
    with pytest.raises(MtuError, match=r"this kernel allows 68 to 655\d\d"):
        Tap(mtu=mtu)


def test_bad_values_are_named(ns):
    for arguments, words in (
        ({"mac": "02:00"}, "MAC address '02:00'"),
        ({"address": "1.2.3"}, "address '1.2.3'"),
        ({"queues": 0}, "0 queues"),
        ({"name": "a name too long for it"}, "not a name for an interface"),
    ):
        with pytest.raises((ValueError, LinkError), match=words) as caught:
            Tap(ns, **arguments)
        assert "\n" not in str(caught.value)
    with Tap(ns), pytest.raises(LinkError, match="there already"):
        Tap(ns)
    with pytest.raises(LinkError, match="no such interface"):
        ns.set_link("tap0", up=True)


def test_queues():
    with Tap(queues=4) as tap:
        assert len(tap.fds) == 4


def test_message_of_an_error_that_is_an_oserror():
    assert str(TcpError("send on", "x", "no", "try")) == "send on x: no; try"


def test_joining_one_that_is_there(ns):
    with ns.popen(["sleep", "600"]) as process:
        path = f"/proc/{process.pid}/ns/net"
        with Namespace(join=path) as joined, Tap(joined, name="joined") as tap:
            assert "joined" in ns.read("/proc/net/dev")
            assert ns.link("joined").mtu == tap.mtu
            assert not joined.rootless or ns.rootless
        # The namespace stays, and what was made in it does not.
        assert "joined" not in ns.read("/proc/net/dev")
        assert ns.link("lo").up


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/nowhere/ns", "No such file or directory; name one that"),
        ("/dev/null", "it is not a network namespace; name one that"),
    ],
)
def test_joining_what_is_no_namespace(path, problem):
    with pytest.raises(NamespaceError, match=f"join network namespace {path}: {problem}"):
        Namespace(join=path)


def test_iproute_in_a_running_loop_says_where_it_works(ns: Namespace) -> None:
    def names() -> list[str]:
        with ns.iproute() as ipr:
            return [link.get("IFLA_IFNAME") for link in ipr.get_links()]

    async def both() -> list[str]:
        with pytest.raises(UnsupportedError, match=r"asyncio\.to_thread\(\)"):
            ns.iproute()
        return await asyncio.to_thread(names)

    assert "lo" in asyncio.run(both())


def test_a_veth_pair_joins_two_namespaces(ns: Namespace) -> None:
    with ns.popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as far:
        assert far.stdin is not None
        assert far.stdout is not None
        far.stdin.write(b"x\n")
        far.stdin.flush()
        far.stdout.readline()  # it is in a namespace of its own by now
        ns.add_veth("near0", "far0", far.pid, 9000)
        with ns.iproute() as ipr:  # pyroute2 looks with its own eyes
            (link,) = ipr.get_links(ifname="near0")
        assert link.get("IFLA_MTU") == 9000
        assert link.get("IFLA_LINKINFO").get("IFLA_INFO_KIND") == "veth"
        assert "far0" not in ns.read("/proc/net/dev")
        assert "far0" in Path(f"/proc/{far.pid}/net/dev").read_text()
        with pytest.raises(LinkError, match="make veth pair near0: "):
            ns.add_veth("near0", "far1", far.pid, 1500)
