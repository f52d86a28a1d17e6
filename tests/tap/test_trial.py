"""The trial end to end: every byte arrives, and the counters say how it was done."""

import ctypes
import fcntl
import os
import re
import shutil
import socket
import struct
import sys
from pathlib import Path

import pytest
from nic_harness.errors import MtuError
from nic_harness.nic.faults import Faults
from nic_harness.transfer.ours import STRATEGIES, OurNic
from nic_harness.trial import Settings, make_payload, open_trial
from nic_harness.trial.kernel import KernelSendfile
from nic_harness.trial.veth import VethReceiver
from nic_harness.wire.netns import Namespace
from nic_harness.wire.tap import Tap

MIB = 1 << 20
SIZES = [0, 1, 4096, 4097, MIB - 1, 2 * MIB + 1]
MTUS = [1500, 9000, 65520]

LOSS = """
table netdev loss {
    chain to_us {
        type filter hook egress device tap0 priority 0
        numgen random mod 100 0 counter drop
    }
    chain from_us {
        type filter hook ingress device tap0 priority 0
        numgen random mod 100 0 counter drop
    }
}
"""


class Silent:
    """An Observer that ignores everything."""

    def begin(self, title, size):
        pass

    def end(self):
        pass


def send(nic, size, strategy, tmp_path):
    with make_payload(size, tmp_path) as payload:
        result = nic.strategy(strategy).send(payload, digest=True)
        assert result.sha256 == payload.sha256()
    assert result.bytes == size
    return result


def assert_copies(result, strategy):
    """Check what the strategies promise of payload bytes copied in user space."""
    promised = {"sf_buf": 0, "direct": 0, "copy": result.bytes}[strategy]
    assert result.bytes_copied == promised, f"{strategy} copied {result.bytes_copied} bytes"


@pytest.mark.parametrize("offloads", [True, False], ids=["offloads", "no-offloads"])
@pytest.mark.parametrize("mtu", MTUS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_receiver_gets_the_file(strategy, mtu, offloads, tmp_path):
    with OurNic(mtu=mtu, offloads=offloads) as nic:
        for size in SIZES:
            result = send(nic, size, strategy, tmp_path)
            assert_copies(result, strategy)
            assert result.frames >= size / 65535
            assert nic.arena.stats().sfbufs_in_use == 0


@pytest.fixture(scope="module")
def gigabyte(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gigabyte")
    slow = Path(sys.prefix).parent.name in ("asan", "tsan")
    size = 64 * MIB if slow or os.environ.get("HARNESS_IN_VM") == "tcg" else 1 << 30
    if shutil.disk_usage(folder).free < 2 * size:
        pytest.skip(f"not {2 * size // MIB} MiB free in {folder}")
    with make_payload(size, folder) as payload:
        yield payload


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "direct"])
@pytest.mark.parametrize(
    ("mtu", "offloads"), [(1500, True), (9000, True), (65520, True), (1500, False), (9000, False)]
)
def test_a_gigabyte(gigabyte, mtu, offloads, strategy):
    with OurNic(mtu=mtu, offloads=offloads) as nic:
        result = nic.strategy(strategy).send(gigabyte, digest=True)
        assert (result.bytes, result.sha256) == (gigabyte.size, gigabyte.sha256())
        assert_copies(result, strategy)
        assert nic.arena.stats().sfbufs_in_use == 0


@pytest.mark.parametrize("mtu", MTUS)
def test_the_baseline(mtu, tmp_path):
    with KernelSendfile(mtu=mtu) as kernel:
        for size in SIZES:
            with make_payload(size, tmp_path) as payload:
                result = kernel.send(payload, digest=True)
                assert result.sha256 == payload.sha256()
            assert result.bytes == size
        assert kernel.congestion_control == "cubic"


def features(namespace, name):
    """Ask what ethtool says of an interface: ETHTOOL_GTSO and the like (linux/ethtool.h)."""
    asked = {"tso": 0x1E, "gso": 0x23, "gro": 0x2B, "tx": 0x16}
    found = {}
    with namespace.socket(type=socket.SOCK_DGRAM) as sock:
        for feature, command in asked.items():
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            fcntl.ioctl(sock, 0x8946, struct.pack("16sP16x", name, ctypes.addressof(value)))
            found[feature] = struct.unpack("=II", value.raw[:8])[1]
    return found


def test_a_baseline_without_offloads_sends_frames_as_on_a_wire(tmp_path):
    with Namespace() as namespace:
        for offloads in (True, False):
            with VethReceiver(namespace, mtu=1500, offloads=offloads):
                found = features(namespace, b"veth0")
                assert found["tso"] == found["gso"] == found["tx"] == offloads
                assert offloads or not found["gro"]
    size = 4 * MIB
    frames = {}
    for offloads in (True, False):
        with KernelSendfile(offloads=offloads) as kernel, make_payload(size, tmp_path) as payload:
            result = kernel.send(payload, digest=True)
            assert result.sha256 == payload.sha256()
            frames[offloads] = result.frames
    assert frames[False] >= size / 1460
    assert frames[True] < size / 1460 / 2


def needs_nft():
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed: apt-get install nftables")


@pytest.mark.parametrize("faults", [{"tx": {"drop": 0.02}}, {"rx": {"drop": 0.02}}], ids=str)
def test_a_baseline_loses_frames_too(faults, tmp_path):
    needs_nft()
    with (
        KernelSendfile(offloads=False, faults=Faults(seed=7, **faults)) as kernel,
        make_payload(4 * MIB, tmp_path) as payload,
    ):
        assert kernel.notes == ("kernel: its wire loses frames by nftables, by no seed",)
        result = kernel.send(payload, digest=True)
        assert result.sha256 == payload.sha256()
    if "tx" in faults:
        # Of 2,900 frames, 58 are lost; that fewer than 20 are is less likely than 1 in 10^8.
        assert result.retransmits >= 20
        assert result.bytes_resent >= 20 * 1448
    assert result.bytes_resent <= result.retransmits * 1460


def test_sent_again_is_what_was_lost(tmp_path):
    """Our own counts, beside those of frames that the faults dropped."""
    with OurNic(offloads=False, faults=Faults(seed=7, tx={"drop": 0.02})) as nic:
        result = send(nic, 4 * MIB, "copy", tmp_path)
        lost = nic._nic.fault_stats().tx["drop"]
    assert result.retransmits >= lost > 20
    assert result.bytes_resent >= (lost - 5) * 1448  # some were frames of the handshake
    with OurNic() as nic:
        result = send(nic, 4 * MIB, "copy", tmp_path)
    assert (result.retransmits, result.bytes_resent) == (0, 0)


@pytest.mark.parametrize("mtu", [88, 89, 100])
def test_the_smallest_baseline(mtu, tmp_path):
    with KernelSendfile(mtu=mtu) as kernel, make_payload(100_000, tmp_path) as payload:
        for _ in range(5):
            assert kernel.send(payload, digest=True).sha256 == payload.sha256()
    with pytest.raises(MtuError, match="use --mtu 88 or more"):
        KernelSendfile(mtu=87)


def test_the_claim_of_no_copies_can_fail(tmp_path):
    with OurNic() as nic:
        copied = send(nic, MIB, "copy", tmp_path)
        with pytest.raises(AssertionError, match=f"sf_buf copied {MIB} bytes"):
            assert_copies(copied, "sf_buf")
        mapped = send(nic, MIB, "sf_buf", tmp_path)
        with pytest.raises(AssertionError, match="copy copied 0 bytes"):
            assert_copies(mapped, "copy")


def test_a_digest_that_differs_is_seen(tmp_path):
    with (
        open_trial(Settings(strategies=("sf_buf", "kernel"))) as trial,
        make_payload(MIB, tmp_path) as payload,
    ):
        payload.sha256()
        os.pwrite(payload.fileno(), b"x" * 4096, 4096 * 7)
        report = trial.run(payload, Silent())
    assert [r.sha256_ok for r in report.runs] == [False, False]


def test_one_run_shows_all_side_by_side(tmp_path, device):
    with open_trial(Settings(runs=2)) as trial, make_payload(MIB, tmp_path) as payload:
        report = trial.run(payload, Silent())
    assert [r.strategy for r in report.runs] == ["sf_buf", "copy", "kernel"] * 2
    assert all(r.sha256_ok for r in report.runs)
    assert all(r.syscalls > 0 and r.frames > 0 and r.cpu_ns_per_kib > 0 for r in report.runs)
    assert report.attached.device == device
    assert "tso4" in report.attached.offloads


@pytest.mark.parametrize("strategy", ["direct"])
def test_direct_runs_beside_the_others(strategy, tmp_path):
    with (
        open_trial(Settings(strategies=("sf_buf", strategy, "kernel"))) as trial,
        make_payload(5 * MIB + 1, tmp_path) as payload,
    ):
        report = trial.run(payload, Silent())
    assert [r.strategy for r in report.runs] == ["sf_buf", "direct", "kernel"]
    assert all(r.sha256_ok for r in report.runs)
    assert [r.bytes_copied for r in report.runs[:2]] == [0, 0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_frame_in_a_hundred_is_lost_each_way(strategy, tmp_path):
    needs_nft()
    with Tap() as tap, OurNic(tap=tap, offloads=False) as nic:
        done = tap.namespace.run(["nft", "-f", "-"], input=LOSS, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert_copies(send(nic, 16 * MIB, strategy, tmp_path), strategy)
        shown = tap.namespace.run(["nft", "list", "ruleset"], capture_output=True, text=True)
        lost = [int(n) for n in re.findall(r"packets (\d+)", shown.stdout)]
        assert len(lost) == 2
        assert all(lost), shown.stdout
        assert nic.arena.stats().sfbufs_in_use == 0
