"""The examples of the README, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
FOR_PYTEST = [e for e in EXAMPLES if "def test_" in e]
PROGRAMS = [e for e in EXAMPLES if e not in FOR_PYTEST]


@pytest.mark.parametrize("example", PROGRAMS, ids=[str(n) for n in range(len(PROGRAMS))])
def test_it_runs(example):
    if "header_split" in example and os.environ.get("NIC_HARNESS_DEVICE") == "vhost_net":
        pytest.skip("vhost_net does not split headers")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("example", FOR_PYTEST, ids=[str(n) for n in range(len(FOR_PYTEST))])
def test_it_passes(pytester, example):
    pytester.makepyfile(example)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=example.count("def test_"))


def output_of(words):
    """Run the example that has these words."""
    (example,) = [e for e in PROGRAMS if words in e]
    command = [sys.executable, "-c", example]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_they_print(device):
    first = output_of("what is really attached")
    assert first.startswith(f"{device} on tap0, MTU 1500, ")
    assert first.endswith("47 b'hello'\n")
    assert output_of("Faults(").startswith(f"capture(faults({device})) on tap0")
    assert "is at 02:00:00:00:00:01" in output_of("NicSocket")
    assert "copied: 0\n" in output_of("sendfile")
