"""The side that asks. It trusts nothing, because the answer comes from another process.

It asks a process only if that runs as the same user or as root, and only at a socket in a folder
that nobody else may enter. The answer is bounded in length and in time; if it does not have the
shape that the protocol defines, it is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nic_harness.base import check
from nic_harness.base.version import VERSION
from nic_harness.look.protocol import (
    ANSWER_LIMIT,
    TIME_LIMIT,
    Answer,
    ControlError,
    Refusal,
    credentials,
    folders_below,
    own_pid_name,
    receive_line,
)

_MEMFD = "memfd:nic-harness"
_RETRY_S = 0.01
#: The other side's counts fit into 64 bits, and its ring positions into 16.
_NUMBERS = range(1 << 64)
_POSITIONS = range(1 << 16)
_SIZES = range(1, 1 << 15 | 1)


def processes() -> list[int]:
    """List the processes of this user and of root that have an arena, as far as visible."""
    pids = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return sorted(pid for pid in pids if _is_trusted(pid) and _has_arena(pid))


def askable() -> list[int]:
    """List the processes that have an arena and accept questions."""
    found = []
    for pid in processes():
        with contextlib.suppress(ControlError):  # gone meanwhile
            if any(True for _ in _connections(pid, time.monotonic() + TIME_LIMIT)):
                found.append(pid)
    return found


def _trusted() -> tuple[int, ...]:
    """Return the users whose answers are trusted enough to be read."""
    return (os.geteuid(), 0)


def _status(pid: int) -> dict[str, list[str]]:
    """Read /proc/PID/status: the words of each line, by its name; empty if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


def _is_trusted(pid: int) -> bool:
    uids = _status(pid).get("Uid")  # real, effective, ...
    return uids is not None and int(uids[1]) in _trusted()


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
    """List the names that a process's socket may have, as this process sees them."""
    status = _status(pid)
    if not status:
        raise ControlError("ask", f"process {pid}", "there is no such process")
    # The last number is the one in the process's own PID namespace.
    inner = int(status.get("NSpid", [str(pid)])[-1])
    folders = folders_below(Path(f"/proc/{pid}/root"), _trusted())
    return [f"{folder}/{own_pid_name(inner)}" for folder in folders]


def _connections(pid: int, deadline: float) -> Iterator[socket.socket]:
    """Connect to a process by each name at which it listens."""
    for path in _candidates(pid):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(TIME_LIMIT)
            try:
                _connect(peer, path, deadline)
                owner, uid = credentials(peer)
            except OSError:
                continue
            # Any other PID: another process bound a leftover name. 0: it is in a PID namespace.
            if owner in (pid, 0) and uid in _trusted():
                yield peer


def _connect(peer: socket.socket, path: str, deadline: float) -> None:
    """Connect, and wait while many others are connecting too."""
    while True:
        try:
            return peer.connect(path)
        except BlockingIOError:  # its backlog is full
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_S)


def ask(
    pid: int, page: int | None = None, *, file: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Ask a process what its arenas hold.

    Args:
        pid: PID of a process of the same user.
        page: number of a page to report as well, of the arena or of `file`.
        file: (st_dev, st_ino) of a file.

    Returns: {"pid", "version", "arenas": [...]}, each arena as from nic_harness.stats(), with sites
    by name, "files" (see nic_harness.sf_buf.mapped_files) and perhaps "page": a list, as from
    page_info() or file_page_info(). Types and ranges are checked; texts come from the other process
    and may contain any character.

    Raises:
        ControlError: there is no such process, no control socket, or no valid answer.
    """
    check.integer("ask", "a process", "pid", pid, 1, (1 << 31) - 1)
    if page is not None:
        check.integer("ask", f"process {pid}", "page", page, 0, (1 << 63) - 1)
    asked = {"page": page, "file": file}
    question = json.dumps({k: v for k, v in asked.items() if v is not None}).encode() + b"\n"
    deadline = time.monotonic() + TIME_LIMIT
    problem, remedy = "", ""
    for peer in _connections(pid, deadline):
        try:
            peer.sendall(question)
            line = receive_line(peer, ANSWER_LIMIT, deadline)
        except TimeoutError:
            problem = f"it did not answer within {TIME_LIMIT:g} s"
            remedy = "see whether it is stopped, and try again"
        except OSError:
            continue
        except ValueError as e:
            problem, remedy = f"its answer is refused: {e}", "check which program it is"
        else:
            if line:
                return _read_answer(pid, line)
    if not problem:
        problem = (
            "its arena has no control socket, or belongs to another user"
            if _has_arena(pid)
            else "it has no arena, or belongs to another user"
        )
        remedy = "start it with NIC_HARNESS_CONTROL=1 or use Arena(control=True)"
    raise ControlError("ask", f"process {pid}", problem, remedy)


def _read_answer(pid: int, line: bytes) -> dict[str, Any]:
    """Check a whole answer against the protocol.

    Raises:
        ControlError: it differs from the protocol, or it is a refusal.
    """
    from pydantic import TypeAdapter, ValidationError

    shape: TypeAdapter[Answer | Refusal] = TypeAdapter(Answer | Refusal)
    problem = ""
    try:
        read = shape.validate_json(line, strict=True)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        problem = f"{first['msg']}, in {place}" if place else str(first["msg"])
    if problem:
        raise _nonsense(pid, problem)
    found: dict[str, Any] = shape.dump_python(read, mode="json")
    if isinstance(read, Refusal):
        raise ControlError("ask", f"process {pid}", read.error)
    _check_numbers(pid, found)
    for arena in found["arenas"]:
        if arena["page"] is None:
            del arena["page"]
        for queue in (q for nic in arena["nics"] for q in nic["queues"]):
            for ring in (queue["rx"], queue["tx"]):
                places = (ring["avail"], ring["used"], ring["taken"])
                if ring["size"] not in _SIZES or any(n not in _POSITIONS for n in places):
                    raise _nonsense(pid, f"no ring can be like {ring}")
    return found


def _check_numbers(pid: int, found: object) -> None:
    match found:
        case dict():
            for value in found.values():
                _check_numbers(pid, value)
        case list():
            for value in found:
                _check_numbers(pid, value)
        case int() if found not in _NUMBERS:
            raise _nonsense(pid, "a number is out of range")


def _nonsense(pid: int, problem: str) -> ControlError:
    return ControlError(
        "ask",
        f"process {pid}",
        f"its answer makes no sense: {problem}",
        f"it must run the same version of nic-harness as this command, {VERSION}",
    )
