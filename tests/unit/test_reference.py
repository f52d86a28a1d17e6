"""docs/reference.md names every command and every environment variable that the sources read."""

import re
from pathlib import Path

import pytest
from nic_harness.cli.app import app

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs/reference.md").read_text(encoding="utf-8")


def sources():
    for folder in ("harness", "native", "tools", "vagrant"):
        for path in (CHECKOUT / folder).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".c", ".sh", ""):
                yield path.read_text(encoding="utf-8", errors="replace")


def variables():
    quoted = r'"((?:NIC_)?HARNESS_[A-Z_]+)"'  # of getenv() and os.environ
    shell = r"\$\{?((?:NIC_)?HARNESS_[A-Z_]+)"
    return sorted(
        {
            name
            for text in sources()
            for found in (quoted, shell)
            for name in re.findall(found, text)
        }
    )


@pytest.mark.parametrize("name", variables())
def test_a_variable_is_in_the_tables(name):
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("command", [c.callback.__name__ for c in app.registered_commands])
def test_a_command_is_in_the_table(command):
    assert re.search(rf"^\| `harness {command}\b", PAGE, re.MULTILINE)


def test_they_are_found():
    assert {"NIC_HARNESS_DEVICE", "NIC_HARNESS_MISUSE", "HARNESS_VM_ACCEL"} <= set(variables())
