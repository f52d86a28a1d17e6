"""The same without root: in a user namespace, with a /dev/net/tun that anybody may open.

Run as root, which makes a mount namespace with a /dev/net of its own and then becomes an ordinary
user. Where such a user cannot read this interpreter, it keeps the one capability to read any file.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nic_harness
import pytest
from nic_harness import _native, _views

TESTS = Path(__file__).parent
ANYBODY = "mknod -m 0666 /dev/net/tun c 10 200"
CACHE_TAG = sys.implementation.cache_tag
NOBODY = ["--reuid=65534", "--regid=65534", "--clear-groups"]
PROGRAM = """
from nic_harness import HarnessError, Tap
try:
    Tap().close()
except HarnessError as e:
    print(type(e).__name__, e)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a program as another user (options of setpriv); /dev/net is empty, to be prepared."""
    if os.geteuid() != 0:
        pytest.skip("takes root to try out what it is like without")
    # An editable install compiles when it is imported, in a folder that is not everybody's.
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(Path(nic_harness.__file__).parent, site / "nic_harness")
    for extension in (_native, _views):
        shutil.copy(extension.__file__, site / "nic_harness")
    for folder in (site, site.parent, site.parent.parent):
        folder.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {
        "PYTHONPATH": str(site),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MESONPY_EDITABLE_SKIP": str(Path(_native.__file__).parents[2]),
    }

    def run(who, *program, prepare=ANYBODY, unshare=()):
        script = f'mount -t tmpfs tmpfs /dev/net && {prepare} && exec setpriv "$@"'
        # env: the program is started by an exec of its own, after the one that loses capabilities.
        then = [*who, "--no-new-privs", "env", *program]
        return subprocess.run(
            ["unshare", "--mount", *unshare, "sh", "-c", script, "sh", *then],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )

    return run


@pytest.fixture(scope="module")
def nobody(run):
    """Options of setpriv that make an ordinary user who can run this interpreter."""
    reads = [*NOBODY, "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
    for who in ([*NOBODY, "--inh-caps=-all"], reads):
        probe = run(who, sys.executable, "-c", "import nic_harness")
        if probe.returncode == 0:
            return who
    pytest.skip(f"an ordinary user cannot run this interpreter: {probe.stderr.splitlines()[-1]}")


@pytest.mark.once("the library's part is the same as root, and the tests run as that")
@pytest.mark.timeout(600)
def test_the_same_tests_pass(run, nobody, tmp_path):
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o777)
    pytest_in_there = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    folders = [f"--rootdir={TESTS.parents[1]}", f"--basetemp={tmp_path}/base"]
    done = run(nobody, *pytest_in_there, *folders, TESTS / "test_netns.py", TESTS / "test_nic.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        ("true", "TunMissingError open /dev/net/tun: there is no such device; load it: "),
        ("mknod -m 0666 /dev/net/tun c 10 201", "TunMissingError open /dev/net/tun: no driver"),
        (
            "mknod -m 0600 /dev/net/tun c 10 200",
            "TunPermissionError open /dev/net/tun: not permitted; "
            "run as root, or: chmod 666 /dev/net/tun",
        ),
    ],
    ids=["no device", "no driver", "not permitted"],
)
def test_what_is_missing_is_named_in_one_line(run, nobody, prepare, line):
    done = run(nobody, sys.executable, "-c", PROGRAM, prepare=prepare)
    assert done.stdout.startswith(line), done
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("limit", "line"),
    [
        (
            "echo 0 >/proc/sys/user/max_user_namespaces",
            "NamespacePermissionError make user namespace: the limit of namespaces is reached",
        ),
        (
            "true",
            "NamespacePermissionError make user namespace: Operation not permitted; "
            "run as an ordinary user, or with CAP_SYS_ADMIN",
        ),
    ],
    ids=["limit", "root without capabilities"],
)
def test_no_namespaces_is_named_in_one_line(run, limit, line):
    nothing = ["--bounding-set=-all", "--inh-caps=-all"]
    root_of_a_container = ["--user", "--map-root-user"]
    done = run(nothing, sys.executable, "-c", PROGRAM, prepare=limit, unshare=root_of_a_container)
    assert done.stdout.startswith(line), done
    assert done.stdout.count("\n") == 1


@pytest.fixture(scope="module")
def harness_command(run):
    """Options of setpriv and the command, for a user who can run an interpreter in a namespace.

    There the capability to read any file is gone, and the receiver is a program of the same
    interpreter.
    """
    who = [*NOBODY, "--inh-caps=-all"]
    packages = sysconfig.get_path("purelib")
    script = f'PYTHONPATH=$PYTHONPATH:{packages} exec "$0" "$@"'
    probe = "import sys, nic_harness.cli; print(sys.implementation.cache_tag)"
    for python in (sys.executable, "/usr/bin/python3"):
        if run(who, "sh", "-c", script, python, "-c", probe).stdout.strip() == CACHE_TAG:
            return who, ["sh", "-c", script, python, "-m", "nic_harness"]
    pytest.skip(f"an ordinary user cannot run {sys.executable}, nor a /usr/bin/python3 like it")


def test_a_trial_without_root(run, harness_command):
    who, command = harness_command
    done = run(who, *command, "trial", "--size", "3M", "--runs", "1", "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["attached"]["rootless"] is True
    assert [(r["strategy"], r["bytes"], r["sha256_ok"]) for r in result["runs"]] == [
        (strategy, 3 << 20, True) for strategy in ("sf_buf", "copy", "kernel")
    ]


def test_a_baseline_without_root_has_the_same_options(run, harness_command):
    who, command = harness_command
    options = ["--size", "1M", "--runs", "1", "--strategies", "kernel", "--json", "-"]
    options += ["--no-offloads", "--faults", "drop=0.05"]
    done = run(who, *command, "trial", *options)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["runs"]
    assert result["frames"] >= (1 << 20) / 1460
    assert result["sha256_ok"] is True
    if shutil.which("nft"):
        assert result["retransmits"] > 0


def test_a_file_that_may_not_be_read(run, harness_command):
    who, command = harness_command
    done = run(who, *command, "trial", "/etc/shadow")
    line = "open /etc/shadow: Permission denied; you need permission to read it"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"harness: {line}\n")


def test_a_namespace_that_may_not_be_joined(run, nobody):
    roots = ["--netns", str(os.getpid())]
    done = run(
        nobody, sys.executable, "-m", "nic_harness", "send", "/etc/passwd", "198.18.0.1:80", *roots
    )
    line = f"harness: join network namespace /proc/{os.getpid()}/ns/net: Permission denied; run as"
    assert done.returncode == 1
    assert done.stderr.startswith(line), done
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["trial"], ["send", "/etc/passwd", "198.18.0.1:5001"]])
def test_the_command_without_a_tun_device(run, nobody, command):
    done = run(nobody, sys.executable, "-m", "nic_harness", *command, prepare="true")
    line = "harness: open /dev/net/tun: there is no such device; load it: modprobe tun "
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_the_command_without_namespaces(run):
    nothing = ["--bounding-set=-all", "--inh-caps=-all"]
    done = run(
        nothing,
        *(sys.executable, "-m", "nic_harness", "trial"),
        prepare="true",
        unshare=["--user", "--map-root-user"],
    )
    assert done.returncode == 1
    assert done.stderr.startswith("harness: make user namespace: Operation not permitted; run as ")
    assert done.stderr.count("\n") == 1


READ_ONLY = f"{ANYBODY} && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"

QUIET = """
import time, warnings
from nic_harness import Nic, Tap
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    tap = Tap()
with tap, Nic(tap) as nic:
    (warning,) = said
    print(warning.category.__name__, warning.filename == __file__, warning.message)
    print(tap.namespace.why_ipv6)
    print("fe80" in tap.namespace.read("/proc/net/if_inet6"))
    # A solicitation of routers comes after a second at most, one that looks for duplicates too.
    end = time.monotonic() + 3
    while (left := end - time.monotonic()) > 0:
        for frame in nic.recv(timeout=left):
            print(bytes(frame))
"""


def test_a_read_only_proc_sys_is_done_without(run, nobody, tmp_path):
    """As in an ordinary container: where a user namespace cannot mount a /proc of its own."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    program = tmp_path / "quiet.py"
    program.write_text(QUIET)
    done = run(nobody, sys.executable, program, prepare=READ_ONLY)
    warning, why, *frames = done.stdout.splitlines()
    assert warning.startswith("HarnessWarning True IPv6 could not be switched off"), done
    assert why == "/proc/sys is read-only here, as in an ordinary container"
    assert frames == ["False"]
    assert done.stderr == ""


def test_doctor_on_a_read_only_proc_sys(run, nobody):
    command = [sys.executable, "-m", "nic_harness", "doctor", "--json", "-"]
    done = run(nobody, *command, prepare=READ_ONLY)
    report = json.loads(done.stdout)
    (found,) = (f for f in report["findings"] if f["name"] == "IPv6")
    assert report["ok"], report
    assert found["state"] == "lacking"
    assert "/proc/sys is read-only" in found["found"]
    assert "systempaths=unconfined" in found["remedy"]
