"""Foreign programs on the kernel's side: ping, arping and iperf3."""

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import iperf3_server
import pytest
from nic_harness import Arena, Namespace, Nic, Stack, Tap
from nic_harness.errors import ClosedError
from nic_harness.plugins.pytest_plugin import Peer

pytestmark = pytest.mark.each_device


def needs(program: str) -> str:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: tools/peers does that")
    return program


@pytest.fixture
def host():
    """Make a host of ours that answers in the background, and give its peer."""
    with ExitStack() as stack:

        def make(mtu: int = 1500) -> tuple[Stack, Peer]:
            tap = stack.enter_context(Tap(mtu=mtu))
            nic = stack.enter_context(Nic(tap))
            ours = stack.enter_context(Stack(nic))

            def serve() -> None:
                with pytest.raises(ClosedError):
                    ours.serve()

            thread = threading.Thread(target=serve)
            stack.callback(thread.join, 60)
            thread.start()
            stack.callback(ours.close)
            return ours, Peer(tap)

        yield make


@pytest.mark.parametrize(("mtu", "size"), [(1500, 0), (1500, 56), (1500, 1472), (9000, 8972)])
def test_ping(host, mtu, size):
    program = needs("ping")
    stack, peer = host(mtu)
    said = peer.run(
        *(program, "-q", "-n", "-c", "100", "-i", "0.005", "-W", "20", "-s", str(size)),
        *("-p", "a55a", "198.18.0.2"),
        timeout=120,
    ).stdout
    if size:
        assert "100 packets transmitted, 100 received, 0% packet loss" in said
    else:
        # ping waits for twice the round trip after the last packet. It measures none with so little
        # payload, and leaves at once: the kernel's count says what came.
        assert "100 packets transmitted" in said
        for _ in range(1000):
            if snmp(peer, "Icmp", "InEchoReps") == 100:
                break
            time.sleep(0.01)
        assert snmp(peer, "Icmp", "InEchoReps") == 100
    assert stack.stats().rx_icmp == 100


def test_arping(host):
    program = needs("arping")
    _, peer = host()
    said = peer.run(program, "-c", "3", "-w", "20", "-i", "tap0", "198.18.0.2", timeout=120).stdout
    assert "02:00:00:00:00:02" in said
    assert "3 packets received, " in said


class Bridge:
    """Two NICs back to back: what one receives the other sends, from the same pages."""

    def __init__(self, stack: ExitStack, mtu: int) -> None:
        self.arena = stack.enter_context(Arena(4096))
        self.taps = [
            stack.enter_context(
                Tap(stack.enter_context(Namespace()), mtu=mtu, address=address, mac=mac)
            )
            for address, mac in (
                ("198.18.0.1/24", "02:00:00:00:00:01"),
                ("198.18.0.2/24", "02:00:00:00:00:02"),
            )
        ]
        # A NIC's own address means nothing here: it takes whatever comes.
        self.nics = [stack.enter_context(Nic(tap, self.arena)) for tap in self.taps]
        self.peers = [Peer(tap) for tap in self.taps]
        for peer in self.peers:
            stack.callback(peer.close)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._forward, args=(a, b))
            for a, b in (self.nics, self.nics[::-1])
        ]
        for thread in self._threads:
            thread.start()
        stack.callback(self.end)

    def _forward(self, come: Nic, leave: Nic) -> None:
        while not self._stop.is_set():
            frames = come.recv(timeout=0.1)
            leave.send_many(frames)
            for frame in frames:
                frame.release()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def bridge():
    with ExitStack() as stack:
        yield lambda mtu=1500: Bridge(stack, mtu)


def iperf3(bridge: Bridge, *args: str) -> dict:
    program = needs("iperf3")
    client, server = bridge.peers
    listening = server.start(program, "-s", "-1", "--forceflush")
    while "listening" not in listening.stdout.readline():
        assert listening.poll() is None
    said = client.run(program, "-c", "198.18.0.2", "--json", *args, check=False, timeout=200).stdout
    result = json.loads(said)
    assert "error" not in result, result["error"]
    assert listening.wait(60) == 0
    return result


@pytest.fixture
def iperf3_to_us(tmp_path):
    """Run an iperf3 client against a host of ours; return its report, our counts and our NIC."""
    program = needs("iperf3")
    with ExitStack() as stack:

        def run(*args: str, **options) -> tuple[dict, iperf3_server.Counts, Nic]:
            tap = stack.enter_context(Tap())
            nic = stack.enter_context(Nic(tap))
            peer = Peer(tap)
            stack.callback(peer.close)
            payload = tmp_path / "payload"
            payload.touch()
            os.truncate(payload, 32 << 20)
            with Stack(nic, **options) as ours, ThreadPoolExecutor(1) as pool:
                serving = pool.submit(iperf3_server.serve, ours, payload)
                # A connection is open to the kernel before it is to its server.
                said = peer.run(
                    *(program, "-c", "198.18.0.2", "--json", *args), check=False, timeout=250
                ).stdout
                counts = serving.result(250)
            result = json.loads(said)
            assert "error" not in result, result["error"]
            return result["end"], counts, nic

        yield run


def snmp(peer: Peer, protocol: str, counter: str) -> int:
    """Read a counter of the kernel in the peer's namespace."""
    lines = peer.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith(f"{protocol}: "))
    return int(dict(zip(names, values, strict=True))[counter])


def settled(bridge: Bridge) -> None:
    """Nothing was copied, nothing lost, and everything is on the rings or in the pool."""
    bridge.end()
    assert bridge.arena.bytes_copied == 0
    for nic in bridge.nics:
        nic.flush(60)
        s = nic.stats()
        assert (s.rx_dropped, s.tx_outstanding, s.tx_linearized, s.tx_csum_soft) == (0, 0, 0, 0)
        nic.check()


@pytest.mark.parametrize("direction", [(), ("--reverse",), ("--bidir",)], ids=["", "back", "both"])
def test_iperf3_tcp(bridge, direction):
    """Super-frames arrive uncut."""
    b = bridge()
    end = iperf3(b, "-n", "32M", *direction)["end"]
    # The receivers' count is taken when a sender has nothing more to send, not when all is there.
    assert 0 < end["sum_received"]["bytes"] <= end["sum_sent"]["bytes"]
    assert sum(nic.stats().rx_bytes for nic in b.nics) > 16 << 20
    settled(b)
    if not direction:
        stats = b.nics[0].stats()
        assert stats.rx_bytes / stats.rx_delivered > 3000  # an MTU of 1500 allows no such frame


@pytest.mark.parametrize(
    ("mtu", "length"), [(1500, 64), (1500, 1400), (9000, 8900), (1500, 8000)]
)  # the last: fragments
def test_iperf3_udp(bridge, mtu, length):
    b = bridge(mtu)
    datagrams = 1000
    args = ("-u", "-b", "20M", "-l", str(length), "-n", str(datagrams * length))
    end = iperf3(b, *args)["end"]["sum"]
    assert end["packets"] >= datagrams
    # What is lost is lost where the kernel says so: in a TAP's queue, or for want of a reader.
    dropped = sum(tap.tx_dropped for tap in b.taps)
    unread = snmp(b.peers[1], "Udp", "RcvbufErrors")
    assert end["lost_packets"] <= dropped + unread
    settled(b)


def conserved(nic: Nic) -> None:
    nic.flush(30)
    s = nic.stats()
    assert (s.rx_dropped, s.tx_outstanding) == (0, 0)
    nic.check()


@pytest.mark.parametrize("streams", [1, 3])
def test_our_tcp_is_a_sink_for_iperf3(iperf3_to_us, streams):
    end, counts, nic = iperf3_to_us("-n", "32M", "-P", str(streams))
    assert len(counts.received) == streams
    assert sum(counts.received) == end["sum_sent"]["bytes"] >= 32 << 20
    assert [s["sender"]["bytes"] for s in end["streams"]] == counts.received
    assert end["sum_received"]["bytes"] == end["sum_sent"]["bytes"]
    conserved(nic)


@pytest.mark.parametrize("streams", [1, 2])
def test_our_tcp_is_a_source_for_iperf3(iperf3_to_us, streams):
    end, counts, nic = iperf3_to_us("-n", "32M", "-R", "-P", str(streams))
    assert len(counts.sent) == streams
    assert sum(counts.sent) == end["sum_received"]["bytes"] == 32 << 20
    assert [s["receiver"]["bytes"] for s in end["streams"]] == counts.sent
    conserved(nic)


@pytest.mark.parametrize("length", [64, 1400])
def test_a_udp_sink_for_iperf3_beside_our_tcp(iperf3_to_us, length):
    """The stack serves its control connection, and hands on its datagrams as unclaimed frames."""
    datagrams = 1000
    args = ("-u", "-b", "20M", "-l", str(length), "-n", str(datagrams * length))
    end, counts, nic = iperf3_to_us(*args, unclaimed=512)
    sent = snmp(Peer(nic.tap), "Udp", "OutDatagrams") - 1  # the greeting
    assert sent >= datagrams
    assert len(set(counts.numbers)) == len(counts.numbers)
    assert counts.numbers == sorted(counts.numbers)
    assert set(counts.received) == {length}
    assert len(counts.numbers) >= sent - nic.tap.tx_dropped
    assert end["sum"]["packets"] == max(counts.numbers)
    assert end["sum"]["lost_packets"] == max(counts.numbers) - len(counts.numbers)
    conserved(nic)
