"""Which device a NIC runs on, and the messages about devices that do not work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from nic_harness import Nic, Tap
from nic_harness.errors import UnsupportedError

IO_URING_SETUP = 425  # in every architecture's table

#: Run in a process of its own, whose filter of system calls stays with it.
FORBIDDEN = """
import ctypes, json, struct, sys
from nic_harness import HarnessError, Nic, Tap

RETURN_ERRNO, ALLOW = 0x00050000, 0x7FFF0000
call, error = map(int, sys.argv[1:])
# BPF: load the number of the call, compare, return one or the other (seccomp(2)).
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (6, 0, 0, RETURN_ERRNO | error), (6, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *s) for s in steps))
program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
prctl = ctypes.CDLL(None).prctl
with Tap() as tap:
    assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert prctl(22, 2, program) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    with Nic(tap) as nic:
        found = [nic.attached.device, nic.attached.why_not]
    try:
        Nic(tap, device="tap_uring")
    except HarnessError as e:
        found += [type(e).__name__, str(e)]
print(json.dumps(found))
"""


@pytest.mark.each_device
def test_a_device_asked_for_by_name_is_the_one(device, monkeypatch):
    monkeypatch.delenv("NIC_HARNESS_DEVICE")
    with Tap() as tap, Nic(tap, device=device) as nic:
        assert (nic.attached.device, nic.attached.why_not) == (device, "")


def test_a_name_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("NIC_HARNESS_DEVICE", "e1000")
    with Tap() as tap:
        with pytest.raises(UnsupportedError, match="no device 'e1000'; use auto, tap_rw, tap_ur"):
            Nic(tap)
        with Nic(tap, device="tap_rw") as nic:
            assert nic.attached.device == "tap_rw"


@pytest.mark.parametrize(
    ("error", "words"),
    [(1, "a system call filter forbids io_uring"), (38, "this kernel has no io_uring")],
    ids=["forbidden", "absent"],
)
def test_without_io_uring_auto_says_so_and_by_name_it_fails(error, words, monkeypatch):
    switch = Path("/proc/sys/kernel/io_uring_disabled")  # Linux 6.6
    if switch.exists() and switch.read_text().strip() != "0":
        pytest.skip("io_uring is switched off here")
    monkeypatch.delenv("NIC_HARNESS_DEVICE")
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, str(IO_URING_SETUP), str(error)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    device, why_not, kind, message = json.loads(done.stdout)
    assert device == "tap_rw"
    assert why_not.startswith(f"tap_uring: {words}")
    assert kind == "UnsupportedError"
    assert message.startswith(f"attach NIC to tap0: no tap_uring: {words}")
    assert message.count(";") == 1  # and the remedy


def test_vhost_net_by_name():
    with Tap() as tap:
        if Path("/dev/vhost-net").exists():
            with Nic(tap, device="vhost_net") as nic:
                assert nic.attached.device == "vhost_net"
        else:
            with pytest.raises(UnsupportedError, match=r"no vhost_net: there is no .*; load "):
                Nic(tap, device="vhost_net")
        with Nic(tap):  # the TAP is as good as new
            pass
