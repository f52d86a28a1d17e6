"""A build has one version everywhere, and a C library that other programs can use."""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nic_harness
import pytest
from nic_harness._native import ffi, lib

CHECKOUT = Path(__file__).parents[2]

# Use the meson and ninja beside this Python, or those of tools/test.
ENVIRONMENT = os.environ | {"PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}


ONCE = pytest.mark.once("what is built here is the same, and has no sanitizer")


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, env=ENVIRONMENT | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_one_version() -> None:
    version = importlib.metadata.version("nic-harness")
    assert nic_harness.__version__ == version
    assert ffi.string(lib.harness_version()).decode() == version


PROGRAM = """
#include <harness/version.h>
#include <stdio.h>

int main(void) { return puts(harness_version()) < 0; }
"""


@pytest.fixture(params=["c", "c++"])
def language(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    done = subprocess.run(["gcc", "-x", name, "-fsyntax-only", "/dev/null"], capture_output=True)
    if done.returncode:
        pytest.skip(f"gcc knows no {name} here: apt-get install g++")
    return name


@ONCE
def test_a_program_uses_the_installed_library(prefix: Path, tmp_path: Path, language: str) -> None:
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM)
    flags = run(
        "pkg-config", "--cflags", "--libs", "nic-harness", PKG_CONFIG_PATH=f"{prefix}/lib/pkgconfig"
    ).split()
    run("gcc", "-x", language, "-Wall", "-Werror", "-o", program, source, *flags)
    version = run(program, LD_LIBRARY_PATH=f"{prefix}/lib").strip()
    assert version == importlib.metadata.version("nic-harness")


@ONCE
def test_each_public_header_is_usable_alone(prefix: Path, language: str) -> None:
    include = prefix / "include/nic-harness"
    headers = sorted(include.rglob("*.h"))
    assert headers
    for header in headers:
        flags = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{include}"]
        run("gcc", "-x", language, *flags, "-include", header, "/dev/null")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    settings = ["--no-build-isolation", f"-Cbuild-dir={folder}/build", f"--wheel-dir={folder}"]
    quickly = "-Csetup-args=-Doptimization=0"  # its tests are not about speed
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", *settings, quickly, CHECKOUT)
    (found,) = folder.glob("*.whl")
    return found


@ONCE
def test_a_wheel_is_the_package_and_its_extensions(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {"nic_harness/__init__.py", "nic_harness/py.typed"} < names
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {f"nic_harness/_native{suffix}", f"nic_harness/_views{suffix}"} < names
    assert all(name.startswith("nic_harness/") for name in names)


PROJECT_TEST = """
import sys

import harness
import nic_harness


def test_each_import_finds_its_own(arena):
    assert harness.OWNER == "the project"
    assert nic_harness.__file__.startswith(sys.prefix)
    assert isinstance(arena, nic_harness.Arena)
"""


@ONCE
def test_a_wheel_goes_beside_others_that_are_called_harness(wheel: Path, tmp_path: Path) -> None:
    """Our command is called harness, and so are packages and folders of other people."""
    environment, project = tmp_path / "venv", tmp_path / "project"
    python = environment / "bin/python"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    (site,) = environment.glob("lib/python3*/site-packages")
    # What we depend on is borrowed; Python reads no .pth file, such as that of an editable
    # installation, in a folder that a .pth file names.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    (site / "harness").mkdir()
    (site / "harness/__init__.py").write_text("OWNER = 'another distribution'\n")
    pip = ["pip", "--python", python, "install", "--no-index", "--no-deps", "--ignore-installed"]
    run(sys.executable, "-m", *pip, wheel)
    ask = "import harness, nic_harness; print(harness.OWNER, nic_harness.__file__)"
    found = run(python, "-c", ask).strip()
    assert found == f"another distribution {site}/nic_harness/__init__.py"
    assert "Usage: harness" in run(environment / "bin/harness", "--help")
    (project / "harness").mkdir(parents=True)
    (project / "harness/__init__.py").write_text("OWNER = 'the project'\n")
    (project / "test_it.py").write_text(PROJECT_TEST)
    done = run(python, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={project}", project)
    assert " 1 passed" in done
