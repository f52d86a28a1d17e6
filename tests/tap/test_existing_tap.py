"""A TAP that somebody else set up, in the namespace that a process is in."""

import fcntl
import sys

import pytest
from nic_harness import Namespace, Tap

TUNSETPERSIST = 0x400454CB

#: A program in the namespace of the TAP "shared"; what stands below goes on in its `with`.
PROGRAM = """
from nic_harness import Arena, Nic
from nic_harness.base.live import made_at, open_resources
from nic_harness.errors import ClosedError, UnsupportedError
from nic_harness.wire.existing_tap import ExistingTap

with ExistingTap("shared", nic_address="198.18.0.9/24", nic_mac="02:00:00:00:00:09") as tap:
"""

CASES = {
    "open": """
    assert open_resources() == [tap], open_resources()
    assert made_at(tap) == "<string>:7", made_at(tap)
    assert tap.namespace is None
    """,
    "packet_socket": """
    with Arena() as arena, Nic(tap, arena) as nic, tap.packet_socket() as kernel:
        kernel.settimeout(60)
        frame = bytes.fromhex("020000000001 020000000009 88b5") + bytes(46)
        nic.send(frame)
        while kernel.recv(2048) != frame:
            pass
    tap.close()
    try:
        tap.packet_socket()
    except ClosedError as e:
        assert "shared" in str(e)
    else:
        raise AssertionError("it is closed")
    """,
    "what would change it": """
    before = tap.link()
    for change in (lambda: tap.set_link(mtu=1400, up=False), tap.static_neighbour):
        try:
            change()
        except UnsupportedError as e:
            assert e.object == "shared" and "dev shared" in e.remedy, e
        else:
            raise AssertionError("it is somebody else's")
    after = tap.link()
    assert (after.mtu, after.up) == (before.mtu, before.up)
    """,
}


@pytest.mark.parametrize("case", CASES)
def test_a_tap_that_is_there_does_or_refuses_what_a_wire_does(case: str) -> None:
    with Namespace() as namespace:
        with Tap(namespace, name="shared") as tap:
            fcntl.ioctl(tap.fds[0], TUNSETPERSIST, 1)
        done = namespace.run(
            [sys.executable, "-c", PROGRAM + CASES[case]], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert namespace.link("shared").up
        assert "198.18.0.9" not in namespace.read("/proc/net/arp")
