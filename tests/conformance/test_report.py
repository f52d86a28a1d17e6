"""NIC_HARNESS_MISUSE: what a C program says on standard error about its own mistakes."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SANITIZER = {"asan": "address", "tsan": "thread"}.get(Path(sys.prefix).parent.name)
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.endswith("SAN_OPTIONS")}

# Functions are exported (-rdynamic), so that a report has their names.
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sys/buf.h>
#include <sys/jumbo.h>
#include <sys/mbuf.h>
#include <sys/sf_buf.h>
#include <vm/vm_object.h>

/* A call of a function of its own, which is not its last: so its return address has this name. */
#define OWN(name, type, expression)                \
    __attribute__((noinline, noclone)) type name   \
    {                                              \
        type it = (expression);                    \
        __asm__ volatile("");                      \
        return it;                                 \
    }

OWN(take_page(void), vm_page_t, jumbo_pg_alloc())
OWN(take_mbuf(void), struct mbuf *, m_get(M_NOWAIT, MT_DATA))
OWN(take_pbuf(void), struct buf *, getpbuf(NULL))
OWN(map_page(vm_page_t m), struct sf_buf *, sf_buf_alloc(m, SFB_DEFAULT))
OWN(give_page(char *kva), int, (jumbo_freem(kva, NULL), 0))
OWN(give_twice(char *kva), int, (jumbo_freem(kva, NULL), 0))

static struct mbuf *late;

static void give_at_exit(void) { m_freem(late); }

static int a_file(void)
{
    FILE *file = tmpfile();

    fputs("x", file);
    fflush(file);
    return fileno(file);
}

int main(int argc, char **argv)
{
    if (argc != 2 || !jumbo_vm_init())
        return 1;
    for (const char *c = argv[1]; *c; c++) {
        if (*c == 'p') { /* three pages, and one that is stolen */
            for (int i = 0; i < 3; i++)
                take_page();
            jumbo_pg_steal(take_page());
        } else if (*c == 'm') {
            take_mbuf();
            take_pbuf();
        } else if (*c == 'f') { /* a mapped page of a file */
            map_page(vm_page_grab(vm_object_of_file(a_file()), 0, VM_ALLOC_WIRED));
        } else if (*c == 'l') {
            late = take_mbuf();
            atexit(give_at_exit);
        } else if (*c == 'c') {
            pid_t child = fork();

            if (child == 0)
                exit(0);
            waitpid(child, NULL, 0);
        } else if (*c == 'd' || *c == 'D') {
            char *kva = jumbo_phys_to_kva(VM_PAGE_TO_PHYS(take_page()));

            give_page(kva);
            for (int i = 0; i < (*c == 'd' ? 1 : 1000); i++)
                give_twice(kva);
        }
    }
    return 3;
}
"""

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs PROGRAM: its exit code, and the lines that it said."""
    path = tmp_path_factory.mktemp("report")
    (path / "prog.c").write_text(PROGRAM)
    option = [f"--sanitize={SANITIZER}"] if SANITIZER else []
    flags = subprocess.run(
        [CHECKOUT / "tools/cflags", *option], env=ENVIRONMENT, capture_output=True, text=True
    ).stdout.split()
    command = ["gcc", "-Wall", "-pthread", "-rdynamic", "-o", path / "prog", path / "prog.c"]
    subprocess.run([*command, *flags], env=ENVIRONMENT, check=True)

    def run(what: str, misuse: str | None = None, strict: str = "0") -> tuple[int, list[str]]:
        environment = ENVIRONMENT | {"NIC_HARNESS_STRICT": strict}
        environment.pop("NIC_HARNESS_MISUSE", None)
        if misuse is not None:
            environment["NIC_HARNESS_MISUSE"] = misuse
        done = subprocess.run(
            [path / "prog", what], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout == ""
        return done.returncode, done.stderr.splitlines()

    return run


@pytest.mark.parametrize("misuse", [None, "", "print"])
def test_a_misuse_is_printed_with_its_sites(program: Run, misuse: str | None) -> None:
    code, said = program("d", misuse)
    assert code == 3
    (line,) = said
    assert line.startswith("nic-harness: double free: page ")
    taken, given, twice = re.findall(r"(\w+)\+0x[0-9a-f]+ \(prog\)", line)
    assert (taken, given, twice) == ("take_page", "give_page", "give_twice")


def test_abort_ends_the_program_at_its_misuse(program: Run) -> None:
    code, said = program("d", "abort")
    assert code == -signal.SIGABRT
    assert len(said) == 1
    assert "give_twice" in said[0]
    assert program("pm", "abort")[0] == 3  # at exit there is nothing left to look at


def test_off_is_silent(program: Run) -> None:
    assert program("pmfD", "off") == (3, [])


def test_an_unknown_value_is_said_once_and_prints(program: Run) -> None:
    code, said = program("dm", "prnt")
    assert code == 3
    assert [line for line in said if "NIC_HARNESS_MISUSE" in line] == said[:1]
    assert "prnt" in said[0]
    assert all(word in said[0] for word in ("print", "abort", "off"))
    assert "double free" in said[1]


def test_a_loop_does_not_flood(program: Run) -> None:
    code, said = program("D")
    assert code == 3
    assert sum("double free" in line for line in said) == 100
    assert "not printed" in said[100]
    assert said[101:] == ["nic-harness: 1000 misuses in all"]


@pytest.mark.parametrize("strict", ["0", "1"])
def test_what_is_out_at_exit_is_counted_by_place(program: Run, strict: str) -> None:
    code, said = program("pmpf", strict=strict)
    assert code == 3
    line = re.compile(r"nic-harness: not given back at exit: (\d+) x ([\w ]+), taken at (\w+)\+0x")
    found = [match.groups() for match in map(line.match, said) if match]
    assert len(found) == len(said)
    assert found[:2] == [("6", "jumbo page", "take_page"), ("2", "stolen page", "take_page")]
    assert sorted(found[2:]) == [
        ("1", "mbuf", "take_mbuf"),
        ("1", "pbuf", "take_pbuf"),
        ("1", "sf_buf", "map_page"),
        ("1", "wired page", "map_page"),  # where the page was taken last
    ]


def test_nothing_is_said_of_what_is_given_back_at_exit(program: Run) -> None:
    assert program("l") == (3, [])


def test_a_child_does_not_answer_for_its_parent(program: Run) -> None:
    code, said = program("pc")
    assert code == 3
    assert len(said) == 2  # not four


def test_python_keeps_its_exceptions_and_prints_nothing() -> None:
    text = """
import ctypes
from nic_harness import Arena
from nic_harness.errors import DoubleFreeError
from nic_harness.jumbo import jumbo_pg_alloc, jumbo_pg_free
arena = Arena(pages=16)
page = jumbo_pg_alloc()
kva = page.kva
jumbo_pg_free(page)
try:
    jumbo_pg_free(kva)
except DoubleFreeError:
    print("an exception", flush=True)
kept = jumbo_pg_alloc()
ctypes.CDLL(None).exit(0)  # the library's destructors run, and the page is out
"""
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=os.environ | {"NIC_HARNESS_MISUSE": "print"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "an exception\n", "")
