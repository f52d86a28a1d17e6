"""Each room of the package imports only what its charter allows."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import nic_harness
import pytest

PACKAGE = Path(nic_harness.__file__).parent


def charter(room: str) -> str:
    """Read the docstring that a room opens with."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
    assert text is not None, f"{room} has no charter"
    return text


def may_use(room: str) -> list[str]:
    """List the rooms that a room may use, from its charter, the only place that says so."""
    (line,) = re.findall(r"^May use: (.*)\.$", charter(room), re.MULTILINE)
    return line.split(", ")


ROOMS = sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__")


def imports(path: Path) -> list[str]:
    """List the modules that a file imports anywhere, including those for the type checker only."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            if node.module == "nic_harness":
                found += [f"nic_harness.{alias.name}" for alias in node.names]
            else:
                found.append(node.module)
    return [name for name in found if name.split(".")[0] == "nic_harness"]


def room(module: str) -> str:
    """Name the room of a module, "" for the package itself."""
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_opens_with_its_charter(name: str) -> None:
    text = charter(name)
    assert text.splitlines()[0].endswith(".")
    assert "\nOwns: " in text
    assert set(may_use(name)) <= {*ROOMS, "errors"} - {name}


def test_the_rooms_have_an_order() -> None:
    graphlib.TopologicalSorter({name: may_use(name) for name in ROOMS}).prepare()  # CycleError


@pytest.mark.parametrize("name", ROOMS)
def test_arrows_go_down(name: str) -> None:
    allowed = {name, *may_use(name), "_native", "_views"}
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in sorted((PACKAGE / name).rglob("*.py"))
        for module in imports(path)
        if room(module) not in allowed
    ]
    assert not wrong


def test_errors_use_nothing() -> None:
    assert not imports(PACKAGE / "errors.py")


def test_front_doors_are_the_rooms_own_modules() -> None:
    doors = [p for p in PACKAGE.glob("*.py") if p.stem not in ("__init__", "__main__", "errors")]
    assert doors
    for door in doors:
        (target,) = set(imports(door))
        assert target.split(".")[-1] == door.stem
        assert len(target.split(".")) == 3


@pytest.mark.parametrize("module", ["nic_harness", "nic_harness.trial.veth"])
def test_what_takes_long_to_import_is_imported_where_it_is_used(module: str) -> None:
    """In a process of its own: this one has imported all of it."""
    heavy = {"scapy", "pyroute2", "typer", "rich", "numpy", "pydantic"}
    heavy -= {"pydantic"} if module != "nic_harness" else set()  # results are models
    program = f"import sys, {module}; print(*{heavy!r} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_a_missing_scapy_is_one_line_that_names_the_extra() -> None:
    program = "import sys; sys.modules['scapy'] = None; import nic_harness.scapy_socket"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install nic-harness[scapy]")
