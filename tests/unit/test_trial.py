"""Parts of the trial and of the command line that need neither TAP nor namespace."""

import errno
import hashlib
import json
import os
import resource
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from benchmarks.stats import figures, ratio, take_turns
from nic_harness.cli import options
from nic_harness.errors import FileError
from nic_harness.nic.faults import Faults
from nic_harness.transfer import receiver
from nic_harness.transfer.results import About
from nic_harness.trial import (
    USUAL,
    Report,
    Run,
    Settings,
    Setup,
    make_payload,
    median_run,
    open_payload,
)

ATTACHED = Setup("tap_rw", ("csum", "tso4"), 1500, 1, False, "cubic")


def run(strategy="sf_buf", seconds=1.0, **other):
    values = {
        "bytes": 1 << 30,
        "cpu_ns_per_kib": 100.0,
        "syscalls": 10,
        "frames": 5,
        "bytes_copied": 0,
        "sha256_ok": True,
    } | other
    return Run(strategy=strategy, seconds=seconds, **values)


# Results


ABOUT = About.now("a file", 1 << 30, {"runs": 3})


def test_the_json_has_exactly_these_keys():
    data = json.loads(json.dumps(Report(ABOUT, ATTACHED, (run(),)).to_json()))
    assert list(data) == ["about", "attached", "runs"]
    assert list(data["about"]) == [
        "version",
        "date",
        "kernel",
        "machine",
        "cpu",
        "cpus",
        "file",
        "options",
    ]
    assert data["attached"]["device"] == "tap_rw"
    assert list(data["runs"][0]) == [
        "strategy",
        "bytes",
        "seconds",
        "gbit_per_s",
        "cpu_ns_per_kib",
        "syscalls",
        "frames",
        "bytes_copied",
        "sha256_ok",
        "retransmits",
        "bytes_resent",
    ]


def test_a_report_says_where_and_when_it_was_made():
    about = ABOUT.__class__.now("x", 7, {})
    assert about.kernel == os.uname().release
    assert about.cpus == len(os.sched_getaffinity(0))
    assert abs(datetime.now(UTC) - datetime.fromisoformat(about.date)) < timedelta(days=1)
    cpuinfo = Path("/proc/cpuinfo").read_text()
    assert about.cpu in cpuinfo or about.cpu == os.uname().machine
    assert about.file == {"name": "x", "bytes": 7}


def test_the_options_of_a_trial_can_be_given_again():
    faults = Faults.random(7)
    options = json.loads(json.dumps(Settings(faults=faults).to_json()))
    assert Faults.parse(options["faults"]) == faults
    assert Settings(**options | {"strategies": USUAL, "faults": faults}) == Settings(faults=faults)


def test_speed_is_bits_of_payload():
    assert run(bytes=1_250_000_000, seconds=0.5).gbit_per_s == pytest.approx(20.0)
    assert run(bytes=0, seconds=0.0).gbit_per_s == 0


def test_the_typical_run_is_the_median_in_time():
    runs = [run(seconds=s) for s in (5.0, 1.0, 2.0, 4.0)]
    assert median_run(runs).seconds == 2.0
    report = Report(ABOUT, ATTACHED, (run("copy", 3.0), *runs, run("copy", 1.0), run("copy", 2.0)))
    assert [(r.strategy, r.seconds) for r in report.typical()] == [("copy", 2.0), ("sf_buf", 2.0)]
    least, most = report.spread("copy")
    assert least == pytest.approx((1 << 33) / 3e9)
    assert most == pytest.approx((1 << 33) / 1e9)


def test_ratios_and_figures():
    series = {"a": [10.0, 20.0, 30.0], "b": [10.0, 10.0, 20.0]}
    found = ratio(series, "a", "b", 1.5)
    assert (found.name, found.ratio, found.paired, found.met) == ("a / b", 2.0, 1.5, True)
    assert ratio(series, "b", "a", 0.8).met is False
    assert ratio(series, "b", "a").met is None
    assert figures([3.0, 1.0, 2.0]).median == 2.0


def test_everybody_follows_everybody():
    orders = [tuple(take_turns("abc", turn)) for turn in range(3)]
    assert sorted(orders) == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")]


# Files


def test_a_made_file_has_no_name_and_no_two_equal_pages(tmp_path):
    seen = []
    with make_payload((16 << 20) + 5, tmp_path, seen.append) as payload:
        assert list(tmp_path.iterdir()) == []
        data = os.pread(payload.fileno(), payload.size + 1, 0)
        assert len(data) == payload.size == (16 << 20) + 5
        pages = {data[i : i + 4096] for i in range(0, len(data), 4096)}
        assert len(pages) == 16 * 256 + 1
        assert payload.sha256() == hashlib.sha256(data).hexdigest()
    assert seen == [8 << 20, 16 << 20, (16 << 20) + 5]


def test_an_empty_file_can_be_made_and_opened(tmp_path):
    with make_payload(0, tmp_path) as payload:
        assert payload.size == 0
    (tmp_path / "empty").touch()
    with open_payload(tmp_path / "empty") as payload:
        assert payload.sha256() == hashlib.sha256().hexdigest()


def test_no_room_for_the_file(tmp_path):
    with pytest.raises(FileError, match=r"No space left on device: .* free; free some space"):
        make_payload(1 << 60, tmp_path)


def test_the_disk_fills_while_the_file_is_made(tmp_path):
    # The nearest thing that takes no file system of our own: the write fails half-way.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(FileError, match=r"make 2 MiB test file in .*; free some space"):
            make_payload(2 << 20, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to():
    with pytest.raises(FileError, match="make 1 MiB test file in /proc"):
        make_payload(1 << 20, "/proc")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "No such file or directory; check the name"),
        (os.mkdir, "it is a directory; name a file"),
        (os.mkfifo, "it is a FIFO, and only a regular file can be mapped; copy its contents"),
    ],
)
def test_what_is_no_file(tmp_path, make, message):
    path = tmp_path / "it"
    make(path)
    with pytest.raises(FileError, match=message):
        open_payload(path)


def test_devices_are_no_files():
    with pytest.raises(FileError, match="it is a character device"):
        open_payload("/dev/null")


# The receiver


@pytest.mark.parametrize("digest", [True, False])
def test_the_receiver_reads_to_the_end(digest, tmp_path):
    data = os.urandom(300_000)
    with receiver.listen("127.0.0.1", 0) as server, (tmp_path / "out").open("wb") as out:

        def send():
            with socket.create_connection(server.getsockname()) as sock:
                sock.sendall(data)

        sender = threading.Thread(target=send)
        sender.start()
        got = receiver.receive(server, digest=digest, output=out)
        sender.join()
    assert got.bytes == len(data)
    assert got.sha256 == (hashlib.sha256(data).hexdigest() if digest else None)
    assert got.begin_ns <= got.end_ns
    assert (tmp_path / "out").read_bytes() == data


# Options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4097", 4097),
        ("64K", 65536),
        ("64kib", 65536),
        ("1GiB", 1 << 30),
        ("2 MB", 2 << 20),
    ],
)
def test_sizes(text, value):
    assert options.size(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5G", "5x"])
def test_no_sizes(text):
    with pytest.raises(typer.BadParameter, match="is not a size"):
        options.size(text)


def test_endpoints():
    assert options.endpoint("198.18.0.1:80") == ("198.18.0.1", 80)
    for text in ("host", "host:", ":80", "host:0", "host:65536", "host:x"):
        with pytest.raises(typer.BadParameter, match="is not HOST:PORT"):
            options.endpoint(text)


def test_addresses():
    assert options.interface("10.0.0.1/8") == "10.0.0.1/8"
    assert options.address("10.0.0.1") == "10.0.0.1"
    for read in (options.interface, options.address):
        for text in ("", "10.0.0", "::1", "x/24"):
            with pytest.raises(typer.BadParameter):
                read(text)


def test_errors_name_operation_problem_and_remedy():
    error = FileError("open", "x", remedy="check the name", errno=errno.ENOENT)
    assert str(error) == "open x: No such file or directory; check the name"
