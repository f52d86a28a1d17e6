"""C programs written from the manual pages: they compile against our headers, and run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
PAGES = sorted(path.stem for path in HERE.glob("*.c"))
STRICT = pytest.mark.parametrize("strict", ["0", "1"], ids=["direct", "strict"])
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pthread"]

# A sanitizer's Python tests a sanitizer's library. Its options are for Python alone.
SANITIZER = {"asan": "address", "tsan": "thread"}.get(Path(sys.prefix).parent.name)
SANITIZE = [f"--sanitize={SANITIZER}"] if SANITIZER else []
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.endswith("SAN_OPTIONS")}


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, env=ENVIRONMENT | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout_flags() -> list[str]:
    """Return the flags for the build under test, which tools/test made."""
    return run(CHECKOUT / "tools/cflags", *SANITIZE).split()


@pytest.mark.parametrize("page", PAGES)
def test_with_the_flags_of_a_checkout(page: str, checkout_flags: list[str], tmp_path: Path) -> None:
    program = tmp_path / page
    run("gcc", *WARNINGS, "-O1", "-g", "-o", program, HERE / f"{page}.c", *checkout_flags)
    for strict in "01":
        run(program, NIC_HARNESS_STRICT=strict)


@pytest.mark.once("the library that is installed has no sanitizer")
@STRICT
@pytest.mark.parametrize("page", PAGES)
def test_with_an_installed_library(page: str, strict: str, prefix: Path, tmp_path: Path) -> None:
    program = tmp_path / page
    flags = run(
        "pkg-config", "--cflags", "--libs", "nic-harness", PKG_CONFIG_PATH=f"{prefix}/lib/pkgconfig"
    ).split()
    run("gcc", *WARNINGS, "-o", program, HERE / f"{page}.c", *flags)
    run(program, LD_LIBRARY_PATH=f"{prefix}/lib", NIC_HARNESS_STRICT=strict)


def test_every_page_has_its_program() -> None:
    assert set(PAGES) >= {"inspect", "jumbo", "lwbuf", "mbuf", "pbuf", "pmap_quick", "sf_buf"}


@pytest.mark.parametrize("before", [True, False])
def test_pages_are_masked_as_in_bsd(before: bool, tmp_path: Path) -> None:
    # glibc's <sys/user.h> has a PAGE_MASK that is the complement of ours.
    headers = ["#include <sys/user.h>", "#include <vm/vm.h>"]
    source = tmp_path / "mask.c"
    source.write_text(
        "\n".join(headers if before else reversed(headers))
        + '\n_Static_assert(trunc_page(0x12345) == 0x12000, "down");'
        + '\n_Static_assert(round_page(0x12345) == 0x13000, "up");'
        + ('\n_Static_assert(PAGE_MASK == 0xfff, "mask");\n' if before else "\n")
    )
    run("gcc", *WARNINGS, "-fsyntax-only", f"-I{CHECKOUT}/native/include", source)
