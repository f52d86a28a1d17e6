"""The control socket: what a running process's arenas hold, asked from outside.

Served by Arena(control=True), or by every arena of a process with NIC_HARNESS_CONTROL=1 in its
environment: one small thread, which sleeps until somebody asks. Only processes of the same user are
answered (SO_PEERCRED).

The socket has a name in the file system, not an abstract one, for those belong to a network
namespace and the asker is often in another. It is looked for under the process's own root
(/proc/PID/root) and by the PID that it has in its own PID namespace.

One line of JSON is asked, {}, {"page": 12} or {"page": 12, "file": [st_dev, st_ino]}, and one is
answered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nic_harness.base import site as _site
from nic_harness.base.version import VERSION
from nic_harness.errors import ArgumentError, HarnessError

if TYPE_CHECKING:
    from nic_harness.base.misuse import Misuse
    from nic_harness.bsd.vm_page import PageInfo
    from nic_harness.memory.arena import Arena
    from nic_harness.nic.nic import Nic

__all__ = ["ControlError", "ask", "askable", "processes"]

_TIMEOUT_S = 5.0
_MAX_QUESTION = 4096
#: Counters of frames that are lost, of the driver's and the device's.
_DROPS = frozenset(
    (
        "rx_drop_no_page",
        "rx_drop_no_mbuf",
        "rx_drop_short",
        "rx_drop_stop",
        "rx_truncated",
        "tx_drop_size",
        "tx_fault",
        "tx_stopped",
        "tx_refused",
    )
)
_MEMFD = "memfd:nic-harness"


class ControlError(HarnessError):
    """A process could not be asked about its arenas."""


# ---- the side that answers ----


def wanted() -> bool:
    """Whether the environment asks for a control socket (NIC_HARNESS_CONTROL)."""
    return os.environ.get("NIC_HARNESS_CONTROL", "") not in ("", "0")


def _own_folder() -> Path:
    """Make the folder for this user's sockets, which nobody else may enter."""
    problem = ""
    uid = os.geteuid()
    for folder in (Path(f"/run/user/{uid}/nic-harness"), Path(f"/tmp/nic-harness-{uid}")):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            st = folder.lstat()
        except OSError as e:
            problem = str(e)  # not the error: its traceback would keep the arena
            continue
        if st.st_uid == uid and st.st_mode & 0o170077 == 0o040000:
            return folder
    raise ControlError(
        "make", "control socket", f"no folder for it: {problem or 'they are not ours alone'}"
    )


def _sweep(folder: Path) -> None:
    """Remove the sockets of processes that were killed: nobody listens there."""
    for path in folder.glob("*.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_TIMEOUT_S)
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue
    # Or before they listened at all; who makes its socket just now is alive.
    for path in folder.glob("*.new"):
        if not Path("/proc", path.stem).exists():
            path.unlink(missing_ok=True)


def _listening(path: Path) -> socket.socket:
    """Make a socket that has its name when it listens: before, others would sweep it away."""
    unnamed = path.with_suffix(".new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        unnamed.unlink(missing_ok=True)
        listener.bind(os.fspath(unnamed))
        listener.listen(8)
        unnamed.replace(path)
    except BaseException:
        listener.close()
        with contextlib.suppress(OSError):
            unnamed.unlink()
        raise
    return listener


class _Server:
    """The socket and its thread; one for a process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        folder = _own_folder()
        self.path = folder / f"{self.pid}.sock"
        problem = ""
        try:
            _sweep(folder)
            self.socket = _listening(self.path)
        except OSError as e:
            problem = str(e)  # not the error, as above
        if problem:
            raise ControlError("make", f"control socket {self.path}", problem)
        self.thread = threading.Thread(target=self.serve, name="harness-control", daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return  # closed
            # A peer that goes away, or asks nonsense, is its own trouble.
            with peer, contextlib.suppress(OSError, ValueError):
                peer.settimeout(_TIMEOUT_S)
                if _credentials(peer)[1] == os.geteuid():
                    self.answer(peer)

    def answer(self, peer: socket.socket) -> None:
        with peer.makefile("rb") as lines:
            question = json.loads(lines.readline(_MAX_QUESTION) or "null")
        try:
            found: dict[str, Any] = _answer(question if isinstance(question, dict) else {})
        except HarnessError as e:
            found = {"error": str(e)}
        except (
            Exception
        ) as e:  # a defect of ours: the asker hears of it, and the next one is served
            found = {"error": repr(e)}
        peer.sendall(json.dumps(found).encode() + b"\n")

    def close(self) -> None:
        if os.getpid() != self.pid:  # a forked child: the name and the thread are its parent's
            self.socket.close()
            return
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # ends accept()
        if threading.current_thread() is not self.thread:
            self.thread.join()
        self.socket.close()


#: Entered again when the garbage collector finds an arena meanwhile.
_lock = threading.RLock()
_users: set[int] = set()
_server: _Server | None = None


def enter(arena_id: int) -> None:
    """Serve as long as this arena is open; see leave()."""
    global _server
    with _lock:
        if _server is None or _server.pid != os.getpid():
            _server = _Server()
        _users.add(arena_id)


def leave(arena_id: int) -> None:
    """Stop serving with the last arena that asked for it."""
    global _server
    with _lock:
        _users.discard(arena_id)
        if _users or _server is None:
            return
        server, _server = _server, None
    server.close()


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from nic_harness.memory.arena import open_arenas

    arenas = []
    for arena in open_arenas():
        with contextlib.suppress(HarnessError):  # closed meanwhile
            arenas.append(_describe(arena, question.get("page"), question.get("file")))
    return {"pid": os.getpid(), "version": VERSION, "arenas": arenas}


def _describe(arena: Arena, page: object, file: object) -> dict[str, Any]:
    from nic_harness.bsd.sf_buf import file_page_info, mapped_files
    from nic_harness.bsd.vm_page import page_info
    from nic_harness.memory.stats import stats

    found = stats(arena)
    answer = dataclasses.asdict(found)
    answer["nics"] = []
    for nic in _nics_on(arena):
        with contextlib.suppress(HarnessError):  # closed meanwhile
            answer["nics"].append(_describe_nic(nic))
    answer["reports"] = [_with_names(m) for m in found.reports]
    answer["files"] = [dataclasses.asdict(f) for f in mapped_files(arena=arena)]
    if page is not None:
        if not isinstance(page, int):
            raise ArgumentError("look at", f"page {page!r}", "it is no number")
        try:
            if file is None:
                pages: tuple[PageInfo, ...] = (page_info(page, arena=arena),)
            else:
                pages = file_page_info(_numbers(file), page, arena=arena)
            answer["page"] = [dataclasses.asdict(p) for p in pages]
        except ArgumentError as e:
            answer["page"] = [{"error": str(e)}]
    return answer


def _numbers(file: object) -> tuple[int, int]:
    match file:
        case [int(dev), int(ino)] if 0 <= dev < 1 << 64 and 0 <= ino < 1 << 64:
            return dev, ino
    raise ArgumentError("look at", f"file {file!r}", "it is no device and inode number")


def _nics_on(arena: Arena) -> list[Nic]:
    from nic_harness.base.live import open_resources
    from nic_harness.nic.nic import Nic

    nics = [r for r in open_resources() if isinstance(r, Nic) and r.arena is arena]
    return sorted(nics, key=lambda nic: nic.attached.interface)


def _describe_nic(nic: Nic) -> dict[str, Any]:
    """Tell what a NIC does: rings and counters of each queue, and frames lost, by reason."""
    queues: list[dict[str, Any]] = []
    drops: dict[str, int] = {}
    with nic._held():  # it is not closed meanwhile
        for i in range(nic.attached.queues):
            rx, tx = nic.rings(i)
            counters = {
                "stats": dataclasses.asdict(nic.stats(i)),
                "device": dataclasses.asdict(nic.device_stats(i)),
            }
            queues.append({"rx": dataclasses.asdict(rx), "tx": dataclasses.asdict(tx), **counters})
            for name, count in (*counters["stats"].items(), *counters["device"].items()):
                if name in _DROPS:
                    drops[name] = drops.get(name, 0) + count
        faults = None if nic._faults is None else nic.fault_stats()
        found = {"id": id(nic), "attached": str(nic.attached), "interface": nic.attached.interface}
    with contextlib.suppress(HarnessError):  # the interface may be gone
        drops["kernel_tx_dropped"] = nic.tap.tx_dropped
    return {
        **found,
        "device": nic.attached.device,
        "queues": queues,
        "drops": drops,
        "faults": None if faults is None else dataclasses.asdict(faults),
    }


def _with_names(m: Misuse) -> dict[str, Any]:
    """Make a report of use to another process: sites by name."""
    found = dataclasses.asdict(m)
    for key in ("site", "alloc_site", "free_site"):
        found[key] = _site.name(found[key])
    return found


def _credentials(peer: socket.socket) -> tuple[int, int]:
    """PID and UID of the other side."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return pid, uid


# ---- the side that asks ----


def processes() -> list[int]:
    """List the processes that have an arena, as far as this user may see: by their memfds."""
    pids = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return sorted(pid for pid in pids if _has_arena(pid))


def askable() -> list[int]:
    """List the processes that have an arena and answer."""
    found = []
    for pid in processes():
        with contextlib.suppress(ControlError):  # gone meanwhile
            if any(True for _ in _connections(pid)):
                found.append(pid)
    return found


def _has_arena(pid: int) -> bool:
    try:
        fds = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for fd in fds:
        with contextlib.suppress(OSError):
            if _MEMFD in str(fd.readlink()):
                return True
    return False


def _candidates(pid: int) -> list[str]:
    """Names that the socket of a process may have, as this process sees them."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise ControlError("ask", f"process {pid}", "there is no such process") from None
    # The last number is the one in the process's own PID namespace.
    inner = [line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")]
    name = f"{inner[0] if inner else pid}.sock"
    root = Path(f"/proc/{pid}/root")
    run, tmp = root / "run/user", root / "tmp"
    folders = [run / uid / "nic-harness" for uid in _names(run)]
    folders += [tmp / found for found in _names(tmp) if found.startswith("nic-harness-")]
    return [f"{folder}/{name}" for folder in folders]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _connections(pid: int) -> Iterator[socket.socket]:
    """Connect to a process by each name where it listens."""
    for path in _candidates(pid):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(_TIMEOUT_S)
            try:
                peer.connect(path)
                owner, _ = _credentials(peer)
            except OSError:
                continue
            if owner in (pid, 0):  # otherwise a leftover name that another process bound
                yield peer


def ask(
    pid: int, page: int | None = None, *, file: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Ask a process what its arenas hold.

    Args:
        pid: of a process of the same user.
        page: number of a page to be told about too: of the arena, or of `file`.
        file: (st_dev, st_ino) of a file.

    Returns: {"pid", "version", "arenas": [...]}, each arena as nic_harness.stats() has it, with
    sites by name, "files" (see nic_harness.sf_buf.mapped_files) and perhaps "page": a list, as
    page_info() or file_page_info() has them.

    Raises:
        ControlError: no such process, no control socket, or no answer.
    """
    asked = {"page": page, "file": file}
    question = json.dumps({k: v for k, v in asked.items() if v is not None}).encode() + b"\n"
    for peer in _connections(pid):
        try:
            peer.sendall(question)
            with peer.makefile("rb") as lines:
                line = lines.readline()
        except OSError:
            continue
        if line:
            found: dict[str, Any] = json.loads(line)
            if "error" in found:
                raise ControlError("ask", f"process {pid}", found["error"])
            return found
    problem = (
        "its arena has no control socket, or is another user's"
        if _has_arena(pid)
        else "it has no arena, or is another user's"
    )
    raise ControlError(
        "ask",
        f"process {pid}",
        problem,
        "start it with NIC_HARNESS_CONTROL=1 or use Arena(control=True)",
    )
