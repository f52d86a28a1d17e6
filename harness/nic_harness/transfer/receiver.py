"""The receiver: an ordinary process with a plain socket of the kernel's TCP.

It runs as a program in the namespace, with -I -S, and imports only the standard library. It prints
one JSON object per line: {"listening": PORT}, then what it received, or {"error": ...}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import BinaryIO

BUFFER = 1 << 20


@dataclass(frozen=True)
class Received:
    """One connection, read to its end.

    Attributes:
        bytes: bytes that arrived.
        begin_ns, end_ns: CLOCK_MONOTONIC when it was accepted and when its end was read.
        sha256: hexadecimal digest of all bytes, or None in a pass that only counts.
    """

    bytes: int
    begin_ns: int
    end_ns: int
    sha256: str | None


def listen(address: str, port: int) -> socket.socket:
    """Make the listening socket; port 0 lets the kernel choose."""
    return socket.create_server((address, port), backlog=8)


def receive(server: socket.socket, *, digest: bool, output: BinaryIO | None = None) -> Received:
    """Accept one connection and read it to its end.

    Raises:
        OSError: the connection was reset, or the output could not be written.
    """
    buffer = bytearray(BUFFER)
    view = memoryview(buffer)
    sha256 = hashlib.sha256()
    count = 0
    connection, _ = server.accept()
    begin = time.monotonic_ns()
    with connection:
        while got := connection.recv_into(buffer):
            count += got
            if digest:
                sha256.update(view[:got])
            if output is not None:
                output.write(view[:got])
        end = time.monotonic_ns()
    return Received(count, begin, end, sha256.hexdigest() if digest else None)


def say(**what: object) -> None:
    """Print one line for the parent process; exit if that process is gone."""
    try:
        print(json.dumps(what), flush=True)
    except BrokenPipeError:
        # Send the rest of the buffer to /dev/null, so that flushing it at exit does not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def main(argv: list[str]) -> int:
    """Receive once, as the arguments say; return 0, or 1 after printing an error."""
    parser = argparse.ArgumentParser(prog="receiver")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--digest", action="store_true")
    args = parser.parse_args(argv)
    try:
        with listen(args.address, args.port) as server:
            say(listening=server.getsockname()[1])
            say(**asdict(receive(server, digest=args.digest)))
    except OSError as e:
        say(error=e.strerror or str(e))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
