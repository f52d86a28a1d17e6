"""The file that a trial sends: one of the user's, or one made for the trial."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from nic_harness.base.live import Ending
from nic_harness.errors import FileError

_CHUNK = 1 << 20
#: Large enough that the file system can use large folios, as with cp(1) and similar programs.
_PIECE = 8 << 20
_TURN = 4099  # prime: a position repeats only after 2^23 pieces


class Payload(Ending):
    """An open regular file and its digest; use as a context manager.

    Attributes:
        name: its name in messages.
        size: bytes, when it was opened.
        file: the file, open for reading; its position has no meaning.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self._sha256: str | None = None

    def _end_block(self) -> None:
        self.file.close()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.file.fileno()

    def is_shorter(self) -> bool:
        """Whether the file has become shorter since it was opened."""
        return os.fstat(self.fileno()).st_size < self.size

    def shrunk(self) -> FileError:
        """Make the error for a file that became shorter."""
        return FileError(
            "send",
            self.name,
            f"it shrank from {self.size} to {os.fstat(self.fileno()).st_size} bytes "
            "while it was being sent",
            "send a file that nothing writes to",
        )

    def sha256(self) -> str:
        """Return the digest of the whole file, hexadecimal; computed once."""
        if self._sha256 is None:
            sha256, at = hashlib.sha256(), 0
            while data := os.pread(self.fileno(), _CHUNK, at):
                sha256.update(data)
                at += len(data)
            self._sha256 = sha256.hexdigest()
        return self._sha256


def open_payload(path: str | os.PathLike[str]) -> Payload:
    """Open a file for sending.

    Raises:
        FileError: it is missing, may not be read, or is not a regular file.
    """
    name = os.fspath(path)
    try:
        # A FIFO would block until it has a writer; it is refused below.
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as e:
        remedies = {errno.EACCES: "you need permission to read it"}
        remedy = remedies.get(e.errno or 0, "check the name")
        raise FileError("open", name, remedy=remedy, errno=e.errno) from e
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise FileError("send", name, "it is a directory", "name a file, or make an archive")
        raise FileError(
            "send",
            name,
            f"it is a {_kind(mode)}, and only a regular file can be mapped",
            "copy its contents to a file first",
        )
    payload = Payload(name, os.fdopen(fd, "rb"))
    try:
        _check_size(payload)
    except BaseException:
        payload.file.close()
        raise
    return payload


def _check_size(payload: Payload) -> None:
    """See that a file is as long as it says, which those of /proc and /sys are not.

    Raises:
        FileError: it is longer or shorter, or cannot be read.
    """
    size = payload.size
    try:
        longer = bool(os.pread(payload.fileno(), 1, size))
        shorter = size > 0 and not os.pread(payload.fileno(), 1, size - 1)
    except OSError as e:
        raise FileError("read", payload.name, errno=e.errno) from e
    if longer or (shorter and not payload.is_shorter()):
        raise FileError(
            "send",
            payload.name,
            f"it says that it is {size} bytes long, and it is {'longer' if longer else 'shorter'}",
            "copy its contents to a file first",
        )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


def make_payload(
    size: int,
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Payload:
    """Make a file of random bytes that has no name and disappears when it is closed.

    It consists of 8 MiB of random bytes, rotated a little further each time they are repeated. So
    no two pages are equal, as a digest needs, and making the file takes no longer than writing it.

    Args:
        size: bytes.
        folder: where to make it; None: the folder for temporary files (TMPDIR, /tmp).
        progress: called after each 8 MiB with the number of bytes written so far.

    Raises:
        FileError: there is no room, or the folder cannot be written to.
    """
    # If the folder in TMPDIR cannot be used, that is an error: no other one is chosen silently.
    where = Path(folder or os.environ.get("TMPDIR") or tempfile.gettempdir())
    what = f"{_human(size)} test file in"
    room = "free some space, name another folder in TMPDIR, or send a FILE of your own"
    try:
        space = os.statvfs(where)
        free = space.f_bavail * space.f_frsize
        if free < size:
            problem = f"{os.strerror(errno.ENOSPC)}: {_human(free)} free"
            raise FileError("make", f"{what} {where}", problem, room, errno=errno.ENOSPC)
        # O_TMPFILE, or created and unlinked at once: a killed process leaves nothing.
        file = tempfile.TemporaryFile("w+b", buffering=0, dir=where)  # noqa: SIM115
    except OSError as e:
        if isinstance(e, FileError):
            raise
        raise FileError("make", f"{what} {where}", remedy=room, errno=e.errno) from e
    try:
        twice = memoryview(os.urandom(_PIECE) * 2)
        for at in range(0, size, _PIECE):
            turn = at // _PIECE * _TURN % _PIECE
            left = twice[turn : turn + min(_PIECE, size - at)]
            while left:
                left = left[file.write(left) :]
            if progress is not None:
                progress(min(at + _PIECE, size))
    except OSError as e:
        file.close()
        raise FileError("make", f"{what} {where}", remedy=room, errno=e.errno) from e
    except BaseException:
        file.close()
        raise
    return Payload(_random_name(size), file)


def _random_name(size: int) -> str:
    if size == 0:
        return "an empty file"
    return f"{_human(size)} of random bytes" if size >= 1024 else f"{size} random bytes"


def _human(size: int) -> str:
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.4g} {unit}"
