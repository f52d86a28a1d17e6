"""The side that answers: one small thread of a process, which sleeps until a question comes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nic_harness.base import site as _site
from nic_harness.base.version import VERSION
from nic_harness.errors import ArgumentError, HarnessError
from nic_harness.look.protocol import (
    QUESTION_LIMIT,
    TIME_LIMIT,
    Answer,
    ArenaAnswer,
    ControlError,
    MisuseAnswer,
    NicAnswer,
    NoPage,
    QueueAnswer,
    Refusal,
    credentials,
    is_private,
    own_pid_name,
    receive_line,
)
from nic_harness.nic.counters import DROPS

if TYPE_CHECKING:
    from nic_harness.base.misuse import Misuse
    from nic_harness.bsd.vm_page import PageInfo
    from nic_harness.memory.arena import Arena
    from nic_harness.nic.nic import Nic

_BACKLOG = 64
#: Seconds to wait if the process has no descriptor for another connection.
_PAUSE = 0.1


def wanted() -> bool:
    """Whether the environment asks for a control socket (NIC_HARNESS_CONTROL)."""
    return os.environ.get("NIC_HARNESS_CONTROL", "") not in ("", "0")


# ---- the place of the socket ----


def _own_folder() -> Path:
    """Make the folder for this user's sockets, which nobody else may enter.

    Another user can take the name in /tmp first. Then a folder with an unpredictable name is used.
    """
    uid = os.geteuid()
    for folder in (Path(f"/run/user/{uid}/nic-harness"), Path(f"/tmp/nic-harness-{uid}")):
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
        if is_private(folder, (uid,)):
            return folder
    problem = ""
    prefix = f"nic-harness-{uid}."
    try:
        for folder in sorted(Path("/tmp").glob(f"{prefix}*")):
            if is_private(folder, (uid,)):
                return folder
        return Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    except OSError as e:
        problem = str(e)  # not the error itself: its traceback would keep the arena alive
    raise ControlError("make", "control socket", f"no folder for it: {problem}")


def _sweep(folder: Path) -> None:
    """Remove the sockets of processes that were killed, where nothing listens any more."""
    for path in folder.glob("*.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(TIME_LIMIT)
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue
    # And of those killed before they listened; a process that is making its socket is alive.
    for path in folder.glob("*.new"):
        if not Path("/proc", path.stem).exists():
            path.unlink(missing_ok=True)


def _listening(path: Path) -> socket.socket:
    """Make a socket that gets its name once it listens; earlier, others would sweep it away."""
    unnamed = path.with_suffix(".new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        unnamed.unlink(missing_ok=True)
        listener.bind(os.fspath(unnamed))
        listener.listen(_BACKLOG)
        unnamed.replace(path)
    except BaseException:
        listener.close()
        with contextlib.suppress(OSError):
            unnamed.unlink()
        raise
    return listener


# ---- the thread ----


class _Server:
    """The socket and its thread; a process has one."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.closed = False
        folder = _own_folder()
        self.path = folder / own_pid_name(self.pid)
        problem = ""
        try:
            _sweep(folder)
            self.socket = _listening(self.path)
        except OSError as e:
            problem = str(e)  # not the error itself, as above
        if problem:
            raise ControlError("make", f"control socket {self.path}", problem)
        self.thread = threading.Thread(target=self.serve, name="harness-control", daemon=True)
        self.thread.start()

    def serve(self) -> None:
        """Answer one question after the other until close(); no question ends this thread."""
        while not self.closed:
            try:
                peer, _ = self.socket.accept()
            except OSError:  # closed; or out of descriptors or memory, which may pass
                time.sleep(0 if self.closed else _PAUSE)
                continue
            # A peer that goes away, or asks nonsense, harms only itself.
            with peer, contextlib.suppress(Exception):
                peer.settimeout(TIME_LIMIT)
                if credentials(peer)[1] == os.geteuid():
                    peer.sendall(json.dumps(_respond(peer)).encode() + b"\n")

    def close(self) -> None:
        self.closed = True
        if os.getpid() != self.pid:  # in a forked child the name and the thread are the parent's
            self.socket.close()
            return
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # ends accept()
        if threading.current_thread() is not self.thread:
            self.thread.join()
        self.socket.close()


#: Reentrant, because the garbage collector may close an arena while it is held.
_lock = threading.RLock()
_users: set[int] = set()
_server: _Server | None = None


def enter(arena_id: int, by_name: bool) -> bool:
    """Serve for as long as this arena is open; see leave().

    Args:
        arena_id: its number.
        by_name: whether the caller asked for it, rather than the environment, which asks for all.

    Returns: whether it is served. If the user did not ask by name, the arena goes on without.

    Raises:
        ControlError: the caller asked for it, and there is no place for the socket.
    """
    global _server
    problem = ""
    with _lock:
        try:
            if _server is None or _server.pid != os.getpid():
                _server = _Server()
        except ControlError as e:
            if by_name:
                raise
            problem = str(e)
        else:
            _users.add(arena_id)
    if problem:
        warnings.warn(f"{problem}; the arena goes on without it", RuntimeWarning, stacklevel=3)
    return not problem


def leave(arena_id: int) -> None:
    """Stop serving with the last arena that asked for it."""
    global _server
    with _lock:
        _users.discard(arena_id)
        if _users or _server is None:
            return
        server, _server = _server, None
    server.close()


# ---- the answer ----


@dataclasses.dataclass(frozen=True, slots=True)
class _Question:
    """A question about everything and, if given, one page of the arenas' memory or of a file."""

    page: int | None = None
    file: tuple[int, int] | None = None

    @classmethod
    def read(cls, line: bytes) -> _Question:
        """Read a question from a line.

        Raises:
            ArgumentError: it is not a valid question.
        """
        try:
            asked = json.loads(line)
        except (ValueError, RecursionError) as e:
            problem = str(e) if isinstance(e, ValueError) else "it is nested too deeply"
            raise ArgumentError("read", "question", problem, "ask one line of JSON") from None
        if not isinstance(asked, dict):
            raise ArgumentError("read", "question", "it is not an object", 'ask {} or {"page": 12}')
        page, file = asked.get("page"), asked.get("file")
        return cls(
            None if page is None else _page_number(page), None if file is None else _numbers(file)
        )


def _page_number(page: object) -> int:
    if type(page) is int and 0 <= page < 1 << 63:
        return page
    raise ArgumentError("look at", f"page {page!r:.60}", "it is not a page number")


def _numbers(file: object) -> tuple[int, int]:
    match file:
        case [int(dev), int(ino)] if 0 <= dev < 1 << 64 and 0 <= ino < 1 << 64:
            return dev, ino
    raise ArgumentError("look at", f"file {file!r:.60}", "it is not a device and inode number")


def _respond(peer: socket.socket) -> dict[str, Any]:
    """Read a question and make the reply."""
    try:
        line = receive_line(peer, QUESTION_LIMIT, time.monotonic() + TIME_LIMIT)
        return _as_json(_answer(_Question.read(line)))
    except HarnessError as e:
        refusal = str(e)
    except ValueError as e:
        refusal = f"read question: {e}"
    except Exception as e:  # a bug here: report it to the peer, and serve the next one
        refusal = repr(e)
    return dataclasses.asdict(Refusal(refusal))


def _as_json(answer: Answer) -> dict[str, Any]:
    found = dataclasses.asdict(answer)
    for arena in found["arenas"]:
        if arena["page"] is None:
            del arena["page"]
    return found


def _answer(question: _Question) -> Answer:
    from nic_harness.memory.arena import open_arenas

    arenas = []
    for arena in open_arenas():
        with contextlib.suppress(HarnessError):  # closed meanwhile
            arenas.append(_describe(arena, question))
    return Answer(os.getpid(), VERSION, tuple(arenas))


def _describe(arena: Arena, question: _Question) -> ArenaAnswer:
    from nic_harness.bsd.sf_buf import mapped_files
    from nic_harness.memory.stats import stats

    found = stats(arena)
    values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    nics = []
    for nic in _nics_on(arena):
        with contextlib.suppress(HarnessError):  # closed meanwhile
            nics.append(_describe_nic(nic))
    values["reports"] = tuple(_with_names(m) for m in found.reports)
    return ArenaAnswer(
        **values,
        nics=tuple(nics),
        files=mapped_files(arena=arena),
        page=None if question.page is None else _pages(arena, question.page, question.file),
    )


def _pages(arena: Arena, page: int, file: tuple[int, int] | None) -> tuple[PageInfo | NoPage, ...]:
    from nic_harness.bsd.sf_buf import file_page_info
    from nic_harness.bsd.vm_page import page_info

    try:
        if file is None:
            return (page_info(page, arena=arena),)
        return file_page_info(file, page, arena=arena)
    except ArgumentError as e:
        return (NoPage(str(e)),)


def _nics_on(arena: Arena) -> list[Nic]:
    from nic_harness.base.live import open_resources
    from nic_harness.nic.nic import Nic

    nics = [r for r in open_resources() if isinstance(r, Nic) and r.arena is arena]
    return sorted(nics, key=lambda nic: nic.attached.interface)


def _describe_nic(nic: Nic) -> NicAnswer:
    """Describe a NIC: rings and counters of each queue, and frames lost, by reason."""
    queues: list[QueueAnswer] = []
    drops: dict[str, int] = {}
    with nic._held():  # it is not closed meanwhile
        for i in range(nic.attached.queues):
            rx, tx = nic.rings(i)
            queue = QueueAnswer(rx, tx, nic.stats(i), nic.device_stats(i))
            queues.append(queue)
            for counters in (queue.stats, queue.device):
                for name, count in dataclasses.asdict(counters).items():
                    if name in DROPS:
                        drops[name] = drops.get(name, 0) + count
        faults = None if nic._faults is None else nic.fault_stats()
        attached, text = nic.attached, str(nic.attached)
    with contextlib.suppress(HarnessError):  # the interface may be gone
        drops["kernel_tx_dropped"] = nic.tap.tx_dropped
    return NicAnswer(
        id=id(nic),
        attached=text,
        interface=attached.interface,
        device=attached.device,
        queues=tuple(queues),
        drops=drops,
        faults=faults,
    )


def _with_names(m: Misuse) -> MisuseAnswer:
    values = dataclasses.asdict(m)
    for key in ("site", "alloc_site", "free_site"):
        values[key] = _site.name(values[key])
    return MisuseAnswer(**values)
