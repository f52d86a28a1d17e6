"""stats(), and the control socket: only the same user may ask, from any namespace."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nic_harness
import pytest
from nic_harness import Arena, control
from nic_harness.cli import main
from nic_harness.control import ControlError, ask
from nic_harness.errors import ArgumentError, ClosedError, DoubleFreeError
from nic_harness.jumbo import jumbo_pg_alloc, jumbo_pg_free
from nic_harness.look import asking, protocol
from nic_harness.mbuf import m_freem, m_get
from nic_harness.vm_page import page_info

PROGRAM = """
import sys
from nic_harness import Arena
from nic_harness.jumbo import jumbo_pg_alloc
with Arena(16, control={control}), jumbo_pg_alloc() as page:
    print("ready", page.index, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def served() -> Iterator[Arena]:
    with Arena(16, control=True) as arena:
        yield arena


def skip_where_tmp_is_needed() -> None:
    """Skip what puts an empty /tmp in the place of this one."""
    if Path(sys.prefix).is_relative_to("/tmp"):
        pytest.skip(f"{sys.prefix} lies in /tmp, which this test hides")


def sockets() -> list[Path]:
    folders = [
        Path(f"/run/user/{os.geteuid()}/nic-harness"),
        Path(f"/tmp/nic-harness-{os.geteuid()}"),
    ]
    return [f / f"{os.getpid()}.sock" for f in folders if (f / f"{os.getpid()}.sock").exists()]


def test_stats_are_what_was_done() -> None:
    with Arena(16, sfbufs=8) as arena:
        before = nic_harness.stats()
        assert before.arena == arena.id
        assert not before.strict
        assert (before.jumbo.total, before.jumbo.in_use) == (16, 0)
        assert (before.sf_buf.nsfbufs, before.sf_buf.nsfbufsused) == (8, 0)
        assert before.misuses == {}
        page, m = jumbo_pg_alloc(), m_get()
        during = nic_harness.stats(arena)
        assert (during.jumbo.in_use, during.jumbo.free, during.mbuf.in_use) == (1, 15, 1)
        m_freem(m)
        jumbo_pg_free(page)
        with pytest.raises(DoubleFreeError):
            jumbo_pg_free(page)
        after = nic_harness.stats()
        assert after.misuses == {"double free": 1}
        assert [r.page for r in after.reports] == [page.index]
        assert after.jumbo == before.jumbo
    with pytest.raises(ClosedError):
        nic_harness.stats(arena)
    with pytest.raises(ClosedError):
        nic_harness.stats()


def test_a_page_is_told_about() -> None:
    with Arena(16), jumbo_pg_alloc() as page:
        info = page_info(page.index)
        assert (info.state, info.owner, info.kva) == ("alloc", "the driver", page.kva)
        assert info.history[0] == "alloc"
        assert info.allocated.startswith(__file__)
        for index in (-1, 1 << 40):
            with pytest.raises(ArgumentError):
                page_info(index)


def test_it_answers_as_long_as_an_arena_is_open(served: Arena) -> None:
    assert len(sockets()) == 1
    with Arena(8, control=True), Arena(8):
        found = ask(os.getpid())
        assert [a["jumbo"]["total"] for a in found["arenas"]] == [16, 8, 8]
    with jumbo_pg_alloc() as page:
        (arena,) = ask(os.getpid(), page.index)["arenas"]
        (told,) = arena["page"]
        assert (told["state"], told["file"]) == ("alloc", None)
        assert told["allocated"].startswith(__file__)
        assert "error" in ask(os.getpid(), 1 << 40)["arenas"][0]["page"][0]
    assert served.stats().pages_in_use == 0
    served.close()
    assert sockets() == []
    with pytest.raises(ControlError):
        ask(os.getpid())


def test_an_arena_that_nobody_closed_takes_the_socket_along() -> None:
    arena = Arena(8, control=True)
    assert sockets()
    del arena
    assert not sockets()


def test_what_killed_processes_left_is_swept_away(served: Arena) -> None:
    folder = sockets()[0].parent
    served.close()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(wait, stdin=subprocess.PIPE) as alive:
        left = [folder / f"{ended.pid}{kind}" for kind in (".new", ".sock")]
        making = folder / f"{alive.pid}.new"  # as if it were about to listen
        try:
            for path in (*left, making):
                with socket.socket(socket.AF_UNIX) as unheard:
                    unheard.bind(str(path))
            with Arena(8, control=True):
                assert [path for path in (*left, making) if path.exists()] == [making]
        finally:
            for path in (*left, making):
                path.unlink(missing_ok=True)


@pytest.mark.parametrize("call", ["bind", "listen", "replace"])
def test_a_socket_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Arena(8, control=True):
        (path,) = sockets()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "replace" else socket.socket, call, full)
        with pytest.raises(ControlError, match=rf"make control socket {path}: .*No space left"):
            Arena(8, control=True)
        assert not list(path.parent.glob(f"{os.getpid()}.*"))
    gc.collect()  # the arena that was not made
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with Arena(8, control=True):
        assert ask(os.getpid())["pid"] == os.getpid()


@pytest.mark.usefixtures("served")
def test_nonsense_is_its_askers_trouble() -> None:
    for question in (
        b"",
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"page": "x"}\n',
        b'{"page": 1, "file": [1]}\n',
        b"x" * 10000 + b"\n",
    ):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(10)
            peer.connect(str(sockets()[0]))
            peer.sendall(question)
            peer.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while part := peer.recv(4096):
                    answer += part
            except ConnectionResetError:
                pass  # the question was not read to its end
            if answer:
                assert isinstance(json.loads(answer), dict)
    askers = [threading.Thread(target=ask, args=(os.getpid(),)) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()


@pytest.mark.usefixtures("served")
def test_another_user_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ControlError):
        ask(os.getpid())


def started(
    program: str, *before: str, arguments: Sequence[str] = (), **environment: str
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*before, sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    if not process.stdout.readline().startswith("ready"):
        process.communicate()
        pytest.skip(f"cannot start a program by {before}")
    return process


def test_another_process() -> None:
    with started(PROGRAM.format(control=None), NIC_HARNESS_CONTROL="1") as process:
        assert process.pid in control.processes()
        found = ask(process.pid)
        assert found["pid"] == process.pid
        assert found["version"] == nic_harness.__version__
        assert found["arenas"][0]["jumbo"]["in_use"] == 1
        process.communicate("end\n")
    assert process.returncode == 0
    with pytest.raises(ControlError, match="no such process"):
        ask(process.pid)


def test_a_process_that_was_not_told_to_answer() -> None:
    with started(PROGRAM.format(control=False)) as process:
        with pytest.raises(ControlError, match="NIC_HARNESS_CONTROL=1"):
            ask(process.pid)
        process.communicate("end\n")


def test_in_other_namespaces() -> None:
    """A user, network, PID and mount namespace with a /tmp of its own."""
    skip_where_tmp_is_needed()
    unshare = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork"]
    script = 'mount -t tmpfs none /tmp && exec "$@"'
    program = PROGRAM.format(control=True)
    with started(program, *unshare, "sh", "-c", script, "sh") as process:
        inner = [pid for pid in control.processes() if below(pid, process.pid)]
        assert len(inner) == 1
        assert ask(inner[0])["arenas"][0]["jumbo"]["in_use"] == 1
        process.communicate("end\n")


def below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # another user's process, or it ended
            return False
    return False


FILE_PROGRAM = """
import sys
from nic_harness import Arena
from nic_harness.sf_buf import VmObject, sf_buf_alloc
with (
    Arena(16, control=True),
    open(sys.argv[1], "rb") as file,
    VmObject(file) as object,
    object.grab(2) as page,
    sf_buf_alloc(page),
):
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_a_page_of_a_file(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a [file]"
    path.write_bytes(bytes(3 * 4096))
    st = path.stat()
    numbers = f"{os.major(st.st_dev)}:{os.minor(st.st_dev)}:{st.st_ino}"
    with started(FILE_PROGRAM, arguments=[str(path)]) as process:
        pid = str(process.pid)
        for name in (str(path), numbers):
            assert main(["inspect", pid, "--page", "2", "--file", name]) == 0
            text = capfd.readouterr().out
            assert f"file {path} ({numbers}): 1 extents, 3 pages mapped, 2 references" in text
            assert "file, of the holder of its sf_buf" in text
            assert "wired 1, held 0, references 1" in text
            assert "ref < map < alloc" in text
            assert "allocated  <string>:10" in text
        assert main(["inspect", pid, "--page", "512", "--file", str(path)]) == 0
        assert "none of that file is known here" in capfd.readouterr().out
        assert main(["inspect", pid, "--page", "0", "--file", str(tmp_path / "none")]) == 1
        assert "No such file" in capfd.readouterr().err
        assert main(["inspect", pid, "--file", str(path)]) == 2
        assert "--file needs --page" in capfd.readouterr().err
        process.communicate("end\n")
    assert process.returncode == 0


def test_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    with started(PROGRAM.format(control=True)) as process:
        assert main(["inspect", str(process.pid), "--page", "0"]) == 0
        text = capfd.readouterr().out
        assert "jumbo" in text
        assert "alloc, of the driver" in text
        assert "allocated  <string>:5" in text
        assert main(["inspect", str(process.pid), "--json", "-"]) == 0
        out, err = capfd.readouterr()
        assert json.loads(out)["arenas"][0]["jumbo"]["in_use"] == 1
        assert "jumbo" in err
        process.communicate("end\n")
    assert main(["inspect", str(process.pid)]) == 1
    assert "no such process" in capfd.readouterr().err


# A process that is not what it claims to be

#: Has what an arena's process has, and answers as it was told.
LIAR = """
import os, socket, sys, time
folder, answer, *rest = sys.argv[1:]
fd = os.memfd_create("nic-harness")
path = f"{folder}/{os.getpid()}.sock"
with socket.socket(socket.AF_UNIX) as server:
    server.bind(path)
    server.listen()
    print("ready", flush=True)
    try:
        while True:
            with server.accept()[0] as peer:
                try:
                    if not peer.recv(4096):
                        continue
                    for _ in range(int(rest[0])):
                        peer.sendall(answer.encode())
                        time.sleep(float(rest[1]))
                except OSError:
                    pass
    finally:
        os.unlink(path)
"""


def end(process: subprocess.Popen[str]) -> None:
    """Have a liar take its socket away and end."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


@pytest.fixture
def liar(served: Arena) -> Iterator[Callable[..., int]]:
    """Start a process of the same user that answers something; make(answer, times, pause)."""
    assert not served.closed
    folder = sockets()[0].parent
    with ExitStack() as stack:

        def make(answer: str, times: int = 1, pause: float = 0) -> int:
            process = stack.enter_context(
                started(LIAR, arguments=[str(folder), answer, str(times), str(pause)])
            )
            stack.callback(end, process)
            return process.pid

        yield make


def true_answer() -> dict[str, Any]:
    found: dict[str, Any] = ask(os.getpid(), 0)
    return found


def put(found: dict[str, Any], value: object, *path: str | int) -> str:
    """Return an answer as JSON, with one value replaced."""
    inner: Any = found
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(found) + "\n"


WRONG = [
    (7, "arenas"),
    ({}, "arenas", 0),
    ("many", "arenas", 0, "pages"),
    (1.5, "arenas", 0, "pages"),
    (True, "arenas", 0, "pages"),
    (-1, "arenas", 0, "pages"),
    (1 << 64, "arenas", 0, "pages"),
    ([], "arenas", 0, "jumbo"),
    ({"double free": "x"}, "arenas", 0, "misuses"),
    ([1], "arenas", 0, "files"),
    ([{"error": 1}], "arenas", 0, "page"),
    ([{}], "arenas", 0, "nics"),
    (None, "version"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_an_answer_of_another_shape_is_refused(
    liar: Callable[..., int], wrong: tuple[Any, ...]
) -> None:
    value, *path = wrong
    pid = liar(put(true_answer(), value, *path))
    with pytest.raises(ControlError, match=rf"ask process {pid}: its answer makes no sense: "):
        ask(pid)


@pytest.mark.parametrize(
    "answer", ["{}\n", "[]\n", "null\n", "7", "nonsense\n", "[" * 100_000 + "\n", "\x00\n"]
)
def test_an_answer_that_is_none_is_refused(liar: Callable[..., int], answer: str) -> None:
    # A process gets no zero byte in its arguments.
    pid = liar(answer.replace("\x00", "\x01"))
    with pytest.raises(ControlError, match="its answer makes no sense: "):
        ask(pid)


def test_a_true_answer_of_another_process_is_taken(liar: Callable[..., int]) -> None:
    found = true_answer()
    assert ask(liar(json.dumps(found) + "\n")) == found


def test_an_endless_answer_is_refused(liar: Callable[..., int]) -> None:
    with pytest.raises(ControlError, match="its answer is refused: it is longer than 4194304"):
        ask(liar("A" * 65536, 1 << 20))


def test_an_answer_that_trickles_is_not_waited_for(
    liar: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TIME_LIMIT", 0.5)
    pid = liar(" ", 10_000, 0.01)  # without a limit for the whole answer it would take 100 s
    with pytest.raises(ControlError, match=r"it did not answer within 0\.5 s"):
        ask(pid)


def test_a_process_of_another_user_is_not_asked() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root sees what other users' processes hold")
    folder = Path(f"/tmp/nic-harness-of-another-{os.getpid()}")
    folder.mkdir(mode=0o700)
    try:
        os.chown(folder, 65534, 65534)
        # Import first: another user may not be able to read the files of Python.
        become = "import os, socket, sys, time\nos.setgid(65534)\nos.setuid(65534)\n"
        program = become + LIAR
        process = started(program, arguments=[str(folder), "A" * 1000, "1000000", "0"])
        with process:
            assert process.pid not in control.processes()
            with pytest.raises(ControlError, match="belongs to another user"):
                ask(process.pid)
            # A name does not count that it put where only the folder's owner may.
            assert str(folder) not in map(str, protocol.folders_below(Path("/"), (0,)))
            end(process)
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


# Malformed questions


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (b"[" * 4000 + b"\n", "nested too deeply"),
        (b"x" * 10000 + b"\n", "longer than 4096"),
        (b"[1]\n", "it is not an object"),
        (b"\xff\xfe\n", "read question"),
        (b"nonsense\n", "read question"),
        (b'{"page": "x"}\n', "it is not a page number"),
        (b'{"page": true}\n', "it is not a page number"),
        (b'{"page": 1e3}\n', "it is not a page number"),
        (b'{"page": -1}\n', "it is not a page number"),
        (b'{"page": 9999999999999999999999}\n', "it is not a page number"),
        (b'{"page": 1, "file": [1]}\n', "it is not a device and inode number"),
        (b'{"page": 1, "file": {"\\u001b": [[[[]]]]}}\n', "it is not a device and inode number"),
    ],
)
@pytest.mark.usefixtures("served")
def test_a_bad_question_gets_an_error_and_the_next_one_an_answer(
    question: bytes, said: str
) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(60)
        peer.connect(str(sockets()[0]))
        peer.sendall(question)
        with peer.makefile("rb") as lines:
            answer = json.loads(lines.readline())
    assert list(answer) == ["error"]
    assert said in answer["error"]
    assert ask(os.getpid())["pid"] == os.getpid()


@pytest.mark.usefixtures("served")
def test_a_process_without_descriptors_answers_when_it_has_some_again() -> None:
    with ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        peer = stack.enter_context(socket.socket(socket.AF_UNIX))
        peer.settimeout(60)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        peer.connect(str(sockets()[0]))
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        peer.sendall(b"{}\n")
        time.sleep(0.3)  # time for an accept() that fails
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with peer.makefile("rb") as lines:
            assert json.loads(lines.readline())["pid"] == os.getpid()


# A place for the socket

SQUATTED = """
import os, sys
from nic_harness import Arena
from nic_harness.control import ask
with Arena(16, control=True):
    assert ask(os.getpid())["pid"] == os.getpid()
"""


@pytest.mark.parametrize("squat", ["mkdir", "mkdir -m 777", "mkfifo", "touch", "ln -s /nowhere"])
def test_a_name_that_somebody_took_is_no_obstacle(squat: str) -> None:
    """In a /tmp and a /run of its own."""
    skip_where_tmp_is_needed()
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    mounts = "mount -t tmpfs none /tmp && mount -t tmpfs none /run"
    # In this namespace everybody else is 65534, and only root's own files can be made: others'
    # folder is one that all may enter.
    take = f"{squat} /tmp/nic-harness-0" if squat != "mkdir" else "mkdir -m 755 /tmp/nic-harness-0"
    done = subprocess.run(
        [
            *unshare,
            "sh",
            "-c",
            f'{mounts} && {take} && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            SQUATTED,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip(f"no namespace for it: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


NO_PLACE = """
import sys, warnings
from nic_harness import Arena
from nic_harness.control import ControlError
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with Arena(16) as arena:
        assert not arena.closed
    assert "goes on without" in str(caught[0].message), caught
    assert caught[0].filename == "<string>", caught[0].filename
try:
    Arena(16, control=True)
except ControlError as e:
    assert "no folder for it" in str(e)
else:
    sys.exit("no error")
"""


def test_without_any_place_an_arena_goes_on_and_says_so() -> None:
    skip_where_tmp_is_needed()
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    mounts = "mount -t tmpfs -o ro none /tmp && mount -t tmpfs -o ro none /run"
    done = subprocess.run(
        [*unshare, "sh", "-c", f'{mounts} && exec "$@"', "sh", sys.executable, "-c", NO_PLACE],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NIC_HARNESS_CONTROL": "1"},
    )
    if "unshare" in done.stderr:
        pytest.skip(f"no namespace for it: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
