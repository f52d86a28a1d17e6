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


@ONCE
def test_a_wheel_is_the_package_and_its_extensions(tmp_path: Path) -> None:
    settings = ["--no-build-isolation", f"-Cbuild-dir={tmp_path}/build", f"--wheel-dir={tmp_path}"]
    quickly = "-Csetup-args=-Doptimization=0"  # the test looks only at the contents
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", *settings, quickly, CHECKOUT)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {"nic_harness/__init__.py", "nic_harness/py.typed"} < names
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {f"nic_harness/_native{suffix}", f"nic_harness/_views{suffix}"} < names
    assert all(name.startswith("nic_harness/") for name in names)
