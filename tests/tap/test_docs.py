"""The examples of the README and the pages of docs/, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
EXAMPLES = {
    f"{page.stem}-{n}": example
    for page in PAGES
    for n, example in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
}
FOR_PYTEST = {name: e for name, e in EXAMPLES.items() if "def test_" in e}
PROGRAMS = {name: e for name, e in EXAMPLES.items() if name not in FOR_PYTEST}


@pytest.mark.parametrize("example", PROGRAMS.values(), ids=list(PROGRAMS))
def test_it_runs(example):
    if "header_split" in example and os.environ.get("NIC_HARNESS_DEVICE") == "vhost_net":
        pytest.skip("vhost_net does not split headers")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("example", FOR_PYTEST.values(), ids=list(FOR_PYTEST))
def test_it_passes(pytester, example):
    pytester.makepyfile(example)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=example.count("def test_"))


def output_of(words):
    """Run the example that has these words."""
    (example,) = [e for e in PROGRAMS.values() if words in e]
    command = [sys.executable, "-c", example]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_they_print(device):
    first = output_of("what is really attached")
    assert first.startswith(f"{device} on tap0, MTU 1500, ")
    assert first.endswith("47 b'hello'\n")
    assert output_of("Faults(").startswith(f"capture(faults({device})) on tap0")
    assert "is at 02:00:00:00:00:01" in output_of("NicSocket")
    assert "copied: 0\n" in output_of("sendfile")


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_its_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
