"""The command: what it prints, how it fails, and that it leaves nothing behind."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pty
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import nic_harness
import pytest
from nic_harness.cli import main
from nic_harness.errors import LinkDownError
from nic_harness.nic.device import DEVICES
from nic_harness.transfer.ours import STRATEGIES, OurNic
from nic_harness.transfer.payload import open_payload
from nic_harness.transfer.peer import ReceivingProcess
from nic_harness.wire.netns import Namespace
from nic_harness.wire.tap import Tap
from scapy.utils import RawPcapNgReader

HARNESS = [sys.executable, "-m", "nic_harness"]
COMMANDS = ["trial", "send", "listen", "capture", "replay", "inspect", "top", "doctor"]
TUNSETPERSIST = 0x400454CB

#: A peer that accepts and then does as told; the port follows.
PEER = """
import socket, struct, sys, time
server = socket.create_server(("", int(sys.argv[1])))
sock, _ = server.accept()
{what}
"""
NEVER_READS = "time.sleep(600)"
RESETS = """
sock.recv(1 << 16)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
sock.close()
"""


def run(*args, **options):
    return subprocess.run(
        [*HARNESS, *map(str, args)], capture_output=True, text=True, check=False, **options
    )


def fails(code, line, *args):
    """Run a command that has to end with an exit code and one line on standard error.

    In this process: an interpreter for each takes far longer than what it is to refuse, and what a
    failure leaves open shows here.
    """
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as stderr,
    ):
        returncode = main([*map(str, args)])
    err = stderr.getvalue()
    assert err.count("\n") == 1, err
    assert err.startswith("harness: ")
    assert line in err
    assert returncode == code


def peer(what):
    return "--peer", shlex.join([sys.executable, "-I", "-S", "-c", PEER.format(what=what), "5001"])


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(os.urandom(300_001))
    return path


@pytest.fixture
def large(tmp_path):
    """Make a file larger than any buffer; it is a hole, and takes no space."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(256 << 20)
    return path


# What it prints


def test_trial_as_json(small, device):
    done = run("trial", small, "--json", "-", "--runs", 2)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert list(data) == ["about", "attached", "runs"]
    assert data["about"]["version"] == nic_harness.__version__
    assert data["about"]["file"] == {"name": str(small), "bytes": 300_001}
    assert data["about"]["options"]["runs"] == 2
    assert data["attached"]["device"] == device
    assert [r["strategy"] for r in data["runs"]] == ["sf_buf", "copy", "kernel"] * 2
    for r in data["runs"]:
        assert r["bytes"] == 300_001
        assert r["sha256_ok"] is True
        assert r["bytes_copied"] == (300_001 if r["strategy"] == "copy" else 0)
        assert r["gbit_per_s"] == pytest.approx(r["bytes"] * 8e-9 / r["seconds"])
        assert len(r) == 11
    assert f"attached: {device}" in done.stderr


def test_trial_as_a_table(small, tmp_path, device):
    done = run("trial", small, "--json", tmp_path / "out.json", "--mtu", 9000)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in (
        f"attached: {device}, offloads: csum",
        "MTU 9000, 1 queue",
        "median of 3",
        "300001",
    ):
        assert text in done.stdout
    assert done.stdout.count(" equal") == 3
    assert re.search(r"^ kernel .* \d+\.\d-\d+\.\d ", done.stdout, re.MULTILINE)  # the spread
    assert json.loads((tmp_path / "out.json").read_text())["attached"]["mtu"] == 9000


def on_a_terminal(*args, columns):
    """Run a command on a terminal of its own; return what it wrote there, and its exit code."""
    ours, theirs = pty.openpty()
    try:
        termios.tcsetwinsize(theirs, (50, columns))
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        command = subprocess.Popen(
            [*HARNESS, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=env | {"TERM": "xterm"},
        )
    finally:
        os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal, command:
        written = b""
        with contextlib.suppress(OSError):  # EIO: no process has it open any more
            while part := terminal.read(1 << 16):
                written += part
    return written.decode(), command.returncode


@pytest.mark.parametrize("columns", [60, 80])
def test_trial_on_a_terminal(small, columns):
    options = ["--runs", 2, "--strategies", "sf_buf,kernel"]
    written, code = on_a_terminal("trial", small, *options, columns=columns)
    assert code == 0, written
    # What stood in a line before a text was cleared (ECMA-48 EL), with the bar and all.
    lines = [line.rpartition("\x1b[2K")[2] for line in written.splitlines()]
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in lines]
    assert shown[0].startswith("file:")
    assert "check the digest" in written  # the bar was drawn
    assert any(line.startswith("attached: ") for line in shown)
    assert "…" not in written
    assert max(map(len, shown)) <= columns


def test_the_smallest_mtu_of_a_baseline_is_said(small):
    line = "MTU 87 is too small for it: the kernel's TCP sends no segment of less than 48 bytes"
    fails(2, line, "trial", small, "--mtu", 87)
    fails(2, "use --mtu 88 or more, or leave it out: ", "trial", small, "--mtu", 68)
    for options in (["--mtu", "68", "--strategies", "sf_buf,copy"], ["--mtu", "88"]):
        done = run("trial", small, "--runs", 1, *options)
        assert done.returncode == 0, done.stderr
        assert "DIFFERENT" not in done.stdout


def test_trial_says_what_the_baseline_lacks(small):
    faults = ["--faults", "seed=7,rx.drop=0.01,tx.duplicate=0.01"]
    done = run("trial", small, "--runs", 1, "--json", "-", *faults)
    assert done.returncode == 0, done.stderr
    notes = json.loads(done.stdout)["attached"]["notes"]
    assert "seed=7" in json.loads(done.stdout)["about"]["options"]["faults"]
    assert "kernel: its wire has no duplicate" in notes
    for note in notes:
        assert note in done.stderr.splitlines()
    env = os.environ | {"PATH": "/nowhere"}
    done = run("trial", small, "--runs", 1, "--faults", "drop=0.01", env=env)
    assert "kernel: its wire loses nothing: nft is not installed" in done.stdout


def test_trial_makes_its_file_and_leaves_nothing(tmp_path):
    env = os.environ | {"TMPDIR": str(tmp_path)}
    done = run("trial", "--size", "1M", "--runs", 1, "--strategies", "sf_buf", env=env)
    assert done.returncode == 0, done.stderr
    assert "1 MiB of random bytes" in done.stdout
    for size, name in (("0", "an empty file"), ("7", "7 random bytes")):
        one = ("--runs", 1, "--strategies", "copy", "--no-verify")
        assert f"file: {name}, {size} bytes" in run("trial", "--size", size, *one, env=env).stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("offloads", ["--offloads", "--no-offloads"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_send_to_our_receiver(small, strategy, offloads):
    how = ["--strategy", strategy, offloads, "--json", "-"]
    done = run("send", small, "198.18.0.1:5001", *how)
    assert done.returncode == 0, done.stderr
    (sent,) = json.loads(done.stdout)["runs"]
    assert (sent["strategy"], sent["bytes"], sent["sha256_ok"]) == (strategy, 300_001, True)


def test_send_to_a_program_of_the_users(small, tmp_path):
    out = tmp_path / "out"
    what = f"""
with open({str(out)!r}, "wb") as out:
    while data := sock.recv(1 << 16):
        out.write(data)
"""
    done = run("send", small, "198.18.0.1:5001", *peer(what))
    assert done.returncode == 0, done.stderr
    assert "ended with exit code 0" in done.stdout
    assert out.read_bytes() == small.read_bytes()


def test_send_into_a_namespace_that_is_there(small):
    with Namespace() as namespace:
        with namespace.socket() as server, namespace.popen(["sleep", "600"]) as process:
            server.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND: the address comes later
            server.bind(("198.18.7.1", 5001))
            server.listen()
            sender = subprocess.Popen(
                [
                    *(*HARNESS, "send", small, "198.18.7.1:5001", "--netns", str(process.pid)),
                    *("--kernel", "198.18.7.1/24", "--address", "198.18.7.2/24"),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            server.settimeout(30)
            with server.accept()[0] as sock:
                sha256 = hashlib.sha256()
                while data := sock.recv(1 << 16):
                    sha256.update(data)
            out, _ = sender.communicate(timeout=30)
            assert sender.returncode == 0, out
            assert "not checked" in out.decode()
        assert sha256.hexdigest() == hashlib.sha256(small.read_bytes()).hexdigest()
        assert "harness0" not in namespace.read("/proc/net/dev")


def test_send_over_a_tap_that_is_there(small):
    with Namespace() as namespace:
        with Tap(namespace, name="shared") as tap:
            fcntl.ioctl(tap.fds[0], TUNSETPERSIST, 1)
        with ReceivingProcess(namespace, "198.18.0.1", 5001, digest=True) as receiver:
            receiver.ready()
            done = namespace.run(
                [*HARNESS, "send", small, "198.18.0.1:5001", "--tap", "shared"],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            got = receiver.result()
        assert got.sha256 == hashlib.sha256(small.read_bytes()).hexdigest()
        assert namespace.link("shared").mtu == 1500  # it is not ours to remove


def test_listen(small):
    with subprocess.Popen(
        [*HARNESS, "listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as listener:
        assert listener.stdout is not None
        port = int(listener.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(small.read_bytes())
        out = listener.stdout.read()
    assert listener.returncode == 0
    assert "300,001 bytes" in out
    assert f"sha256 {hashlib.sha256(small.read_bytes()).hexdigest()}" in out


def test_listen_says_its_speed_as_data(small):
    with subprocess.Popen(
        [*HARNESS, "listen", "127.0.0.1:0", "--json", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as listener:
        port = int(listener.stderr.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(small.read_bytes())
        found = json.loads(listener.stdout.read())
        said = listener.stderr.read()
    assert found["seconds"] == pytest.approx((found["end_ns"] - found["begin_ns"]) / 1e9)
    assert found["gbit_per_s"] == pytest.approx(300_001 * 8e-9 / found["seconds"])
    assert f"{found['gbit_per_s']:.1f} Gbit/s" in said


def test_help_is_wrapped_once(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["send", "--help"]) == 0
    text = capsys.readouterr().out.split("Our side is")[1].split("╭")[0].strip()
    lines = [len(line.strip()) for line in f"Our side is {text}".splitlines()]
    assert len(lines) > 3
    assert min(lines[:-1]) > 60


@pytest.mark.parametrize("columns", [80, 132])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_whole(capsys, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([command, "--help"]) == 0
    assert "…" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("trial --device ", ["auto", *DEVICES]),
        ("send --device tap_u", ["tap_uring"]),
        ("trial --strategies ", ["sf_buf", "copy", "direct", "kernel"]),
        ("trial --strategies sf_buf,", ["sf_buf,copy", "sf_buf,direct", "sf_buf,kernel"]),
        ("send --strategy d", ["direct"]),
        ("capture --at ", ["driver", "wire"]),
    ],
)
def test_values_are_completed(typed, offered):
    """As bash asks; see typer.completion."""
    words = typed.split(" ")
    env = {
        "_HARNESS_COMPLETE": "complete_bash",
        "COMP_WORDS": f"harness {typed}",
        "COMP_CWORD": str(len(words)),
    }
    program = "from nic_harness.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == offered


@pytest.mark.parametrize(
    "args",
    [["--help"], ["trial", "--help"], ["--version"], ["trial", "FILE", "--json", "-"]],
    ids=" ".join,
)
def test_a_full_disk_under_standard_output(small, args):
    args = [str(small) if arg == "FILE" else arg for arg in args]
    with open("/dev/full", "wb") as full:  # noqa: PTH123 -- a device
        done = subprocess.run(
            [*HARNESS, *args], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[-1].startswith("harness: write standard output: No space left on device")
    assert "Traceback" not in done.stderr
    assert len(said) == 1 or "--json" in args


def test_help_is_everywhere(capsys):
    for command in ([], *([name] for name in COMMANDS)):
        assert main([*command, "--help"]) == 0
        text = capsys.readouterr().out
        assert "Usage: harness" in text
        assert not re.search(r"<\w+[\w\[\] ]*>", text), "a type of Python's, where a value is meant"
    assert run("--version").stdout.startswith("harness ")
    assert run("-V").stdout == run("--version").stdout


# Nothing stays


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_in_the_middle(interrupt, number, tmp_path):
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    trial = [*HARNESS, "trial", "--size", "64M", "--runs", "10000", "--no-verify"]
    done = interrupt(trial, number, until=b"attached: ", env=env)
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    assert done.returncode == codes[number], done
    assert done.stderr == (b"harness: interrupted\n" if number == signal.SIGINT else b"")
    assert list(tmp_path.iterdir()) == []


# Bad input


@pytest.mark.parametrize("command", [["trial"], ["send", "FILE", "198.18.0.1:5001"]])
@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda _: None, "No such file or directory; check the name"),
        (os.mkdir, "it is a directory; name a file, or make an archive"),
        (os.mkfifo, "it is a FIFO, and only a regular file can be mapped; copy its contents"),
    ],
    ids=["missing", "directory", "FIFO"],
)
def test_no_file(tmp_path, command, make, line):
    path = tmp_path / "it"
    make(path)
    args = [path if arg == "FILE" else arg for arg in command]
    fails(1, line, *args, *([path] if command == ["trial"] else []))


def test_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    done = run("trial", tmp_path / "empty", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert {(r["bytes"], r["sha256_ok"]) for r in json.loads(done.stdout)["runs"]} == {(0, True)}


def test_a_file_that_shrinks_after_its_last_byte_was_handed_over(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(6_000_000)
    what = f"""
import os
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
time.sleep(0.5)
os.truncate({str(path)!r}, 4096)
try:
    while sock.recv(1 << 20):
        pass
except ConnectionResetError:
    pass
"""
    line = "it shrank from 6000000 to 4096 bytes while it was being sent; "
    fails(1, line, "send", path, "198.18.0.1:5001", *peer(what))


@pytest.mark.parametrize("strategy", ["sf_buf", "copy"])
def test_a_file_that_shrinks(large, strategy):
    # The peer reads a little, cuts the file off, and reads on.
    what = f"""
import os
sock.recv(1 << 16)
os.truncate({str(large)!r}, 1 << 20)
try:
    while sock.recv(1 << 20):
        pass
except ConnectionResetError:
    pass
"""
    fails(
        1,
        f"send {large}: it shrank from {256 << 20} to {1 << 20} bytes while it was being sent; ",
        *("send", large, "198.18.0.1:5001", "--strategy", strategy, *peer(what)),
    )


@pytest.mark.parametrize(
    ("command", "state"),
    [
        ("true", "it ended with exit code 0"),
        ("sh -c 'exit 7'", "it ended with exit code 7"),
        ("sleep 600", "it is running, for 0 s now"),
    ],
)
def test_nobody_listens(small, monkeypatch, command, state):
    monkeypatch.setattr("nic_harness.cli.wire._LISTEN_PATIENCE", 0.2)
    fails(
        1,
        f": nothing listens at 198.18.0.1:5001; {state}; have it listen there",
        *("send", small, "198.18.0.1:5001", "--peer", command),
    )


def test_the_peer_resets(large):
    fails(
        1,
        "send to 198.18.0.1:5001: the peer reset the connection before it had everything; see ",
        *("send", large, "198.18.0.1:5001", *peer(RESETS)),
    )


def test_the_peer_never_reads(large):
    begin = time.monotonic()
    fails(
        1,
        "send to 198.18.0.1:5001: the peer has taken nothing for 1 s, after ",
        *("send", large, "198.18.0.1:5001", "--stall", 1, *peer(NEVER_READS)),
    )
    assert time.monotonic() - begin < 30


def test_a_host_that_is_not_there(small):
    fails(
        1,
        "send to 10.1.2.3:80: a wire of our own leads only to 198.18.0.1; use that as HOST",
        *("send", small, "10.1.2.3:80"),
    )


def test_a_namespace_or_tap_that_is_not_there(small):
    to = ("send", small, "198.18.0.1:5001")
    fails(1, "there is no /run/netns/nobody's; name one", *to, "--netns", "nobody's")
    fails(1, "attach to TAP nobody: no such interface; make it first:", *to, "--tap", "nobody")


@pytest.mark.parametrize("mtu", [0, 67, 65522, 1 << 40])
def test_an_mtu_out_of_range(small, mtu):
    fails(2, "'--mtu'", "trial", small, "--mtu", mtu)
    fails(2, f"{mtu} is not within 68 to 65521", "trial", small, "--mtu", mtu)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["trial", "--runs", "x"], "'x' is not a whole number"),
        (["trial", "--runs", "1.5"], "'1.5' is not a whole number"),
        (["trial", "--stall", "x"], "'x' is not a number"),
        (["trial", "--stall", "nan"], "'nan' is not a number"),
        (["replay", "x", "--speed", "0"], "0 is less than 1e-06"),
        (["replay", "x", "--direction", "up"], "Invalid value for '--direction': 'up' is not one"),
        (["top", "-i", "0"], "0 is not within 0.05 to 3600"),
    ],
)
def test_a_number_that_is_none(args, line):
    fails(2, line, *args)


@pytest.mark.parametrize("path", ["/proc/cpuinfo", "/proc/self/maps", "/sys/kernel/profiling"])
def test_a_file_that_lies_about_its_length(path):
    if not os.access(path, os.R_OK):
        pytest.skip(f"{path} cannot be read here")
    size = Path(path).stat().st_size
    line = f"it says that it is {size} bytes long, and it is "
    fails(1, line, "trial", path)
    fails(1, line, "send", path, "198.18.0.1:5001")


@pytest.mark.parametrize(
    "args",
    [
        ["trial", "--strategies", "magic"],
        ["trial", "--strategies", "copy,copy"],
        ["trial", "--runs", "0"],
        ["trial", "--size", "big"],
        ["send", "FILE"],
        ["send", "FILE", "198.18.0.1"],
        ["send", "FILE", "198.18.0.1:99999"],
        ["send", "FILE", "198.18.0.1:80", "--address", "here"],
        ["listen", "everywhere"],
        ["nonsense"],
        ["--nonsense"],
    ],
)
def test_wrong_usage(args):
    fails(2, "--help)", *args)


def test_no_room_for_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    fails(1, "No space left on device", "trial", "--size", "1000000T")


def test_no_folder_for_the_file(tmp_path, monkeypatch):
    """The folder that TMPDIR names is used or complained about; no other folder replaces it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    fails(1, f"test file in {tmp_path / 'gone'}: No such", "trial", "--size", "1M")


def test_nobody_answers(small):
    # The kernel's side has no way back to such an address of ours.
    to = ["send", small, "198.18.0.1:5001", "--address", "10.0.0.1/24", "--stall", "1"]
    fails(1, "connect to 198.18.0.1:5001: no answer for 1.0 s; check the address, the way", *to)


def test_json_that_cannot_be_written(small):
    fails(1, "write /nowhere/out: No such file", "trial", small, "--json", "/nowhere/out")


def test_the_traceback_is_there_on_demand(tmp_path):
    for args in (["--debug", "trial", tmp_path], ["trial", tmp_path, "--debug"]):
        done = run(*args)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("harness: send ")


def test_the_reader_of_our_output_goes(small):
    with subprocess.Popen(
        [*HARNESS, "trial", small], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as trial:
        assert trial.stdout is not None
        trial.stdout.close()
        _, err = trial.communicate()
    assert trial.returncode == 1
    assert b"Traceback" not in err


# Faults and captures


def test_send_under_faults_and_captured(small, tmp_path, device):
    out = tmp_path / "out.pcapng"
    options = ["--faults", "seed=3,drop=0.02,reorder=0.05", "-w", out, "--json", "-"]
    done = run("send", small, "198.18.0.1:5001", *options)
    assert done.returncode == 0, done.stderr
    assert f"attached: capture(faults({device}))" in done.stderr
    (sent,) = json.loads(done.stdout)["runs"]
    assert sent["sha256_ok"] is True
    with RawPcapNgReader(str(out)) as reader:
        frames = [data for data, _ in reader]
    assert sum(len(f) for f in frames) > 300_001
    arp = [f for f in frames if f[12:14] == b"\x08\x06"]
    assert arp
    assert len(arp) < len(frames)


def test_trial_under_faults(small):
    done = run("trial", small, "--strategies", "copy", "--runs", 1, "--faults", "random:1")
    assert done.returncode == 0, done.stderr
    assert "attached: faults(" in done.stdout
    fails(2, "there is no fault 'explode'", "trial", small, "--faults", "explode=1")
    fails(1, "No such file", "send", small, "198.18.0.1:5001", "-w", "/no/such/folder")


def test_capture_with_a_command_then_replay(tmp_path, device):
    out = tmp_path / "out.pcapng"
    program = "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
    program += "for i in range(5): s.sendto(bytes([i]) * 100, ('198.18.0.2', 9))"
    done = run("capture", "-w", out, "--json", "-", sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["exit_code"] == 0
    assert found["device"] == f"capture({device})"
    assert found["kept"] == found["received"] + found["sent"]
    with RawPcapNgReader(str(out)) as reader:
        frames = [data for data, _ in reader]
    assert len(frames) == found["kept"]
    assert [f[42] for f in frames if len(f) == 142 and f[23] == socket.IPPROTO_UDP] == list(
        range(5)
    )

    again = tmp_path / "again.pcapng"
    options = ["--fast", "--direction", "both", "--loop", 3, "-w", again, "--json", "-"]
    done = run("replay", out, *options)
    assert done.returncode == 0, done.stderr
    sent = json.loads(done.stdout)
    assert (sent["frames"], sent["skipped"]) == (3 * len(frames), 0)
    with RawPcapNgReader(str(again)) as reader:
        outbound = [data for data, _ in reader]
    assert [f for f in outbound if f in set(frames)] == frames * 3

    cut = tmp_path / "cut.pcapng"
    cut.write_bytes(out.read_bytes()[:-300])  # statistics, and some of the frames
    done = run("replay", cut, "--fast", "--direction", "both", "-w", again, "--json", "-")
    sent = json.loads(done.stdout)["frames"]
    said = f"harness: read {cut}: it is cut short, after {sent} whole frames; those were replayed"
    assert done.stderr.splitlines()[-1] == said
    assert "WARNING" not in done.stderr
    assert done.returncode == 1
    with RawPcapNgReader(str(again)) as reader:
        assert [f for f, _ in reader if f in set(frames)] == frames[:sent] != frames


def pcap(*frames):
    """Write a pcap file of frames (s, data) by hand."""
    records = [struct.pack("<IIII", s, 0, len(data), len(data)) + data for s, data in frames]
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(records)


def test_replay_of_a_damaged_file_and_of_one_with_other_frames(tmp_path):
    frame, path = bytes(12) + b"\x88\xb5" + bytes(46), tmp_path / "it"
    good = pcap((1, frame), (1, frame))
    path.write_bytes(good + struct.pack("<IIII", 1, 0, 1 << 30, 1 << 30) + frame)
    done = run("replay", path, "--json", "-")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["frames"], found["damaged_at"]) == (2, len(good))
    assert done.stderr.splitlines()[-1] == (
        f"harness: read {path}: it is damaged, after 2 whole frames: a frame of 1073741824 bytes, "
        f"at byte {len(good)}; the whole ones were replayed"
    )

    def block(kind, body):
        total = struct.pack("<I", len(body) + 12)
        return struct.pack("<I", kind) + total + body + total

    packet = struct.pack("<IIIII", 0, 0, 1, 60, 60) + frame
    start = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    ethernet, cooked = (block(1, struct.pack("<HHI", link, 0, 0)) for link in (1, 113))
    packets = block(6, packet) * 2
    path.write_bytes(start + ethernet + packets + start + cooked + packets)
    done = run("replay", path, "--json", "-")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["frames"], found["other_link_types"]) == (2, {"113": 2})
    assert done.stderr.splitlines()[-1] == (
        f"harness: replay {path}: it has 2 frames of other link types than Ethernet's (113), "
        "which were left out"
    )


def test_replay_ended_by_ctrl_c_tells_what_it_did(interrupt, tmp_path):
    frame, path = bytes(12) + b"\x88\xb5" + bytes(46), tmp_path / "it"
    path.write_bytes(pcap((0, frame), (0, frame), (1_700_000_000, frame)))
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [*HARNESS, "replay", str(path)]
    done = interrupt(command, signal.SIGINT, until=b"the next frame is due in", env=env)
    assert (done.returncode, done.stderr) == (0, b""), done
    assert b"\n2 frames, 120 bytes in " in done.stdout


def test_replay_of_a_pipe_more_than_once_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    fails(2, "can be read but once", "replay", tmp_path / "fifo", "--loop", 2)


def test_capture_for_a_time_and_what_it_refuses(tmp_path):
    out = tmp_path / "out.pcapng"
    done = run("capture", "-w", out, "--seconds", 0.1)
    assert done.returncode == 0, done.stderr
    assert "0 not kept" in done.stdout
    fails(1, "No such file", "capture", "-w", tmp_path / "no" / "folder", "--seconds", 1)
    fails(1, "start no-such-program", "capture", "-w", out, "no-such-program")
    fails(2, "--at 'home'", "capture", "-w", out, "--at", "home", "--seconds", 0)
    fails(1, "it is not a pcap", "replay", HARNESS[0])
    fails(2, "exclude each other", "replay", out, "--fast", "--rate", 5)


def test_capture_ended_by_ctrl_c_is_complete(interrupt, tmp_path):
    out = tmp_path / "out.pcapng"
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [*HARNESS, "capture", "-w", str(out)]
    done = interrupt(command, signal.SIGINT, until=b"attached: ", env=env)
    assert (done.returncode, done.stderr) == (0, b""), done
    with RawPcapNgReader(str(out)) as reader:
        list(reader)
    assert out.read_bytes()[-4:] != b""


#: Says what it saw when it is interrupted, as ping does.
TELLS = """
import signal, sys, time
def tell(*_):
    print("statistics", flush=True)
    sys.exit({code})
signal.signal(signal.SIGINT, {handler})
print("it runs", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("code", [0, 5])
def test_ctrl_c_reaches_the_command_of_a_capture(interrupt, tmp_path, code):
    program = TELLS.format(handler="tell", code=code)
    command = [*HARNESS, "capture", "-w", tmp_path / "out", sys.executable, "-uc", program]
    done = interrupt(command, signal.SIGINT, until=b"it runs")
    assert done.returncode == 0, done
    assert done.stdout.index(b"statistics") < done.stdout.index(b"ended with exit code %d" % code)


def test_a_command_that_does_not_end_is_killed(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("nic_harness.cli.capture._END_S", 0.2)
    program = TELLS.format(handler="signal.SIG_IGN", code=0)
    command = ["capture", "-w", str(tmp_path / "out"), "--seconds", "1"]
    assert main([*command, sys.executable, "-uc", program]) == 0
    assert f"ended with exit code {-signal.SIGKILL}" in capfd.readouterr().out


def test_a_capture_goes_down_a_pipe(small, tmp_path):
    ping = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('198.18.0.2', 9))"
    ping += "; print('sent')"
    said = {}
    for name, args in {
        "capture": ["capture", sys.executable, "-c", ping],
        "send": ["send", small, "198.18.0.1:5001"],
        "replay": ["replay", tmp_path / "capture", "--fast", "--direction", "both"],
    }.items():
        command, *rest = args
        done = subprocess.run(
            [*HARNESS, command, "-w", "-", *rest], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        (tmp_path / name).write_bytes(done.stdout)
        with RawPcapNgReader(str(tmp_path / name)) as reader:
            assert any(True for _ in reader), name
        said[name] = done.stderr
    assert b"sent" in said["capture"].splitlines()
    fails(2, "only one of them", "capture", "-w", "-", "--json", "-")


def test_output_of_a_peer_is_not_among_the_data(small):
    what = "print('I listen')\nwhile sock.recv(1 << 16):\n    pass"
    done = run("send", small, "198.18.0.1:5001", "--json", "-", *peer(what))
    assert json.loads(done.stdout)["runs"][0]["bytes"] == 300_001
    assert "I listen" in done.stderr


def test_a_tap_that_is_down_is_named(small, tmp_path):
    with Namespace() as namespace:
        with Tap(namespace, name="shared") as tap:
            fcntl.ioctl(tap.fds[0], TUNSETPERSIST, 1)
            tap.set_link(up=False)
        for command in (
            ["send", small, "198.18.0.1:5001"],
            ["capture", "-w", tmp_path / "out", "--seconds", "1"],
        ):
            done = namespace.run(
                [*HARNESS, *map(str, command), "--tap", "shared"], capture_output=True, text=True
            )
            assert done.returncode == 1
            line = "harness: use TAP shared: it is down; ip link set dev shared up\n"
            assert done.stderr == line


def test_a_wire_that_goes_down_is_named(small):
    with (
        Tap() as tap,
        OurNic(tap=tap, stall=1) as nic,
        nic.receiver(digest=False) as receiver,
        open_payload(small) as payload,
    ):
        receiver.ready()
        tap.set_link(up=False)
        with pytest.raises(LinkDownError, match="send over tap0: it is down; ip link set dev tap0"):
            nic.transfer(receiver.address, receiver.port, payload, "copy")
