"""`harness doctor` on incomplete machines names what is missing and the remedy, and exits 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

#: A command prefix: a user who may mount, in a mount namespace of its own.
UNSHARE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def doctor(*wrapper: str, json_: bool = True) -> subprocess.CompletedProcess[str]:
    options = ["--json", "-"] if json_ else []
    return subprocess.run(
        [*wrapper, sys.executable, "-m", "nic_harness", "doctor", *options],
        env={k: v for k, v in os.environ.items() if k != "NIC_HARNESS_DEVICE"},
        capture_output=True,
        text=True,
        check=False,
    )


def findings(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.stderr.splitlines()[0].split()[1] == "kernel"  # the text for people says the same
    report = json.loads(run.stdout)
    assert report["ok"] == (run.returncode == 0)
    broken = [f for f in report["findings"] if f["state"] in ("broken", "untried")]
    assert report["ok"] == (not broken)
    return {f["name"]: f for f in report["findings"]}


def shell(script: str) -> list[str]:
    return ["sh", "-c", f'{script} && exec "$@"', "sh"]


def needs_namespaces(*options: str) -> None:
    try_it = subprocess.run([*UNSHARE, *options, "true"], capture_output=True, text=True)
    if try_it.returncode:
        pytest.skip(f"no namespace to take something away in: {try_it.stderr.strip()}")


def test_no_memory_for_an_arena() -> None:
    # The arena is a file in memory, and may not grow beyond this.
    found = findings(run := doctor("prlimit", "--fsize=1048576"))
    assert run.returncode == 1
    assert found["arena"]["state"] == "broken"
    assert found["arena"]["remedy"] == "ulimit -f unlimited"
    assert found["main job"]["state"] == "untried"


def test_few_descriptors() -> None:
    found = findings(doctor("prlimit", "--nofile=100"))
    assert found["limits"]["state"] == "lacking"
    assert "100 open files" in found["limits"]["found"]
    assert found["limits"]["remedy"] == "ulimit -n 1024"


def test_one_core() -> None:
    cpu = min(os.sched_getaffinity(0))
    found = findings(doctor("taskset", "--cpu-list", str(cpu)))
    assert (found["cores"]["state"], found["cores"]["found"]) == ("lacking", "1")


def test_no_tun() -> None:
    needs_namespaces()
    run = doctor(*UNSHARE, *shell("mount -t tmpfs none /dev/net"))
    found = findings(run)
    if found["network namespace"]["state"] == "ok":
        assert found["TAP"]["state"] == "broken"
        assert "/dev/net/tun" in found["TAP"]["found"] + found["TAP"]["remedy"]
        assert "modprobe tun" in found["TAP"]["remedy"]
    assert found["tap_rw"]["state"] == "untried"
    assert run.returncode == 1


@pytest.mark.parametrize("which", ["net", "user"])
def test_no_namespaces(which: str) -> None:
    options = () if "--user" in UNSHARE else ("--user", "--map-root-user")
    needs_namespaces(*options)
    sysctl = f"user.max_{which}_namespaces"
    file = f"/proc/sys/{sysctl.replace('.', '/')}"
    found = findings(run := doctor(*UNSHARE, *options, *shell(f"echo 0 >{file}")))
    name = {"net": "network namespace", "user": "user namespaces"}[which]
    assert found[name]["state"] == {"net": "broken", "user": "lacking"}[which]
    assert found[name]["remedy"] == f"sysctl {sysctl}=10000"
    assert which == "user" or run.returncode == 1


def test_a_line_for_each_finding() -> None:
    shown, data = doctor(json_=False), doctor()
    assert shown.returncode == data.returncode
    lines = shown.stdout.splitlines()
    for line, finding in zip(lines, json.loads(data.stdout)["findings"], strict=False):
        assert line.startswith(finding["state"])
        assert finding["name"] in line
        assert finding["remedy"] in line
    assert os.uname().release in lines[0]
