"""What both sides of the control socket know: its place, the question, and the answer.

The question is one line of JSON: {}, {"page": 12} or {"page": 12, "file": [st_dev, st_ino]}. The
answer is one line, too. The dataclasses below are its shape: one side fills them in, and the other
accepts nothing that differs from them.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from nic_harness.bsd.sf_buf import MappedFile
from nic_harness.bsd.vm_page import PageInfo
from nic_harness.errors import HarnessError
from nic_harness.memory.stats import Stats
from nic_harness.nic.counters import DeviceStats, NicStats
from nic_harness.nic.faults import FaultStats
from nic_harness.nic.stats import RingPositions

#: Seconds for a question or an answer, from its first byte to its last.
TIME_LIMIT = 10.0
#: Bytes of a question, and of an answer.
QUESTION_LIMIT = 4096
ANSWER_LIMIT = 4 << 20


class ControlError(HarnessError):
    """A process could not be asked about its arenas."""


@dataclass(frozen=True, slots=True)
class MisuseAnswer:
    """A nic_harness.Misuse with its sites by name, as another process cannot look them up."""

    kind: str
    address: int
    page: int | None
    state: str
    history: tuple[str, ...]
    site: str
    alloc_site: str
    free_site: str


@dataclass(frozen=True, slots=True)
class QueueAnswer:
    """A queue pair: the positions of its rings, and its counters."""

    rx: RingPositions
    tx: RingPositions
    stats: NicStats
    device: DeviceStats


@dataclass(frozen=True, slots=True)
class NicAnswer:
    """A NIC.

    Attributes:
        id: distinguishes it from the other NICs of its process.
        attached: what str(nic) says.
        interface, device: their names.
        drops: frames lost, by the name of the counter.
        faults: how often each fault occurred; None without fault injection.
    """

    id: int
    attached: str
    interface: str
    device: str
    queues: tuple[QueueAnswer, ...]
    drops: dict[str, int]
    faults: FaultStats | None


@dataclass(frozen=True, slots=True)
class NoPage:
    """Says why there is nothing to report about the page in question."""

    error: str


@dataclass(frozen=True, slots=True)
class ArenaAnswer(Stats):
    """An arena: its statistics, its NICs and files, and the page in question.

    Attributes:
        page: None if the question names no page.
    """

    reports: tuple[MisuseAnswer, ...]  # type: ignore[assignment]
    nics: tuple[NicAnswer, ...]
    files: tuple[MappedFile, ...]
    page: tuple[PageInfo | NoPage, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """All arenas of a process."""

    pid: int
    version: str
    arenas: tuple[ArenaAnswer, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reply to a question that cannot be answered."""

    error: str


def credentials(peer: socket.socket) -> tuple[int, int]:
    """Return PID and UID of the other side of a connection."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return pid, uid


def is_private(folder: Path, uids: tuple[int, ...]) -> bool:
    """Whether a folder belongs to one of these users, and only its owner may enter it."""
    try:
        st = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(st.st_mode) and st.st_uid in uids and not st.st_mode & 0o077


def receive_line(peer: socket.socket, limit: int, deadline: float) -> bytes:
    """Read a line, or what comes before the end of the stream.

    Args:
        peer: the connection.
        limit: the longest line that is accepted, bytes.
        deadline: in time.monotonic(), for the whole line, however slowly it comes.

    Raises:
        ValueError: the line is longer.
        TimeoutError: it took too long.
        OSError: the connection broke.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        peer.settimeout(left)
        part = peer.recv(1 << 16)
        if not part:
            break
        head, newline, _ = part.partition(b"\n")
        line += head + newline
        if len(line) > limit:
            raise ValueError(f"it is longer than {limit} bytes")
    return bytes(line)


def own_pid_name(pid: int) -> str:
    """Return the name of a process's socket, by its PID in its own PID namespace."""
    return f"{pid}.sock"


def folders_below(root: Path, uids: tuple[int, ...]) -> list[Path]:
    """List the folders that may hold control sockets and that only these users can write to."""
    run, tmp = root / "run/user", root / "tmp"
    found = [run / user / "nic-harness" for user in _names(run)]
    found += [tmp / name for name in _names(tmp) if name.startswith("nic-harness-")]
    return [folder for folder in found if is_private(folder, uids)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 -- names, not paths
    except OSError:
        return []
