"""Tests that need a TAP: root, or a user namespace and an accessible /dev/net/tun."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from nic_harness import Arena, Nic, Strategy, Tap
from nic_harness.errors import HarnessError
from nic_harness.nic.device import KINDS

#: Devices that any machine may have; the others run by --device.
AUTOMATIC = [name for name, kind in KINDS.items() if kind.automatic]


@pytest.fixture(scope="session", autouse=True)
def _a_tap_can_be_made() -> None:
    try:
        with Tap():
            pass
    except HarnessError as e:
        pytest.skip(str(e))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("each_device"):
        named = metafunc.config.getoption("--device")
        metafunc.parametrize("device", [named] if named else AUTOMATIC, indirect=True)


def no_io_uring() -> str:
    """Ask the kernel whether io_uring may be used; return "" or the reason why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(425, 0, None)  # io_uring_setup of no entries at all
    e = ctypes.get_errno()
    return "" if e in (errno.EFAULT, errno.EINVAL) else os.strerror(e)


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name the device that "auto" is in this test and in the processes that it starts."""
    param = getattr(request, "param", None)
    named = request.config.getoption("--device")
    polled = request.node.get_closest_marker("polled")
    if polled and (param or named) == "vhost_net":
        pytest.skip(f"vhost_net works on its own: {polled.args[0]}")
    if param == "tap_uring" and not named and no_io_uring():
        pytest.skip(f"io_uring may not be used here: {no_io_uring()}")
    monkeypatch.setenv("NIC_HARNESS_DEVICE", param or named or "")
    return param or named or ("tap_rw" if no_io_uring() else "tap_uring")


@pytest.fixture(autouse=True)
def _direct_io(request: pytest.FixtureRequest) -> None:
    """Skip tests that send past the page cache where that is not possible."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is None or callspec.params.get("strategy") not in ("direct", Strategy.DIRECT):
        return
    if no_io_uring():
        pytest.skip(f"io_uring may not be used here: {no_io_uring()}")
    path = request.getfixturevalue("tmp_path") / "probe"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_DIRECT))
    except OSError as e:
        pytest.skip(f"no direct I/O in {path.parent}: {e.strerror}")
    path.unlink()


class Wire:
    """A TAP with a NIC on it, and a packet socket on the kernel's side."""

    def __init__(self, stack: ExitStack, tap: Tap, nic: Nic) -> None:
        self.tap = tap
        self.nic = nic
        self.kernel = stack.enter_context(tap.packet_socket())
        self.kernel.settimeout(60)

    def kernel_recv(self) -> bytes:
        """Return the next frame that reached the kernel from the NIC."""
        while True:
            data, (_, _, kind, *_) = self.kernel.recvfrom(1 << 17)
            if kind != 4:  # PACKET_OUTGOING
                return data


@pytest.fixture
def wire() -> Iterator:
    """Make wires, by make(mtu=..., pages=..., **nic); check that their arenas end unused."""
    with ExitStack() as stack:

        def make(*, mtu: int = 1500, pages: int = 2048, ipv6: bool = False, **options) -> Wire:
            tap = stack.enter_context(Tap(mtu=mtu, ipv6=ipv6))
            arena = stack.enter_context(Arena(pages))
            nic = stack.enter_context(Nic(tap, arena, **options))
            return Wire(stack, tap, nic)

        yield make


def frame_of(size: int, kind: int = 0x88B5) -> bytes:  # local experiments
    """Make a frame of a stated length from the kernel to the NIC."""
    payload = bytes((i * 31 + i // 251) & 255 for i in range(size - 14))
    return bytes.fromhex("020000000002 020000000001") + kind.to_bytes(2, "big") + payload


@pytest.fixture(name="frame_of")
def _frame_of():
    return frame_of
