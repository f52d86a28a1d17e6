"""`harness listen`: the receiver, for a second terminal or another machine."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from nic_harness.cli.failure import one_line_errors
from nic_harness.cli.options import Debug, JsonPath, checked
from nic_harness.cli.output import check_json, console_for, write_json
from nic_harness.errors import FileError, TcpError
from nic_harness.transfer import receiver


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"{text!r} is not [HOST:]PORT")
    return host, int(port)


@one_line_errors
def listen(
    where: Annotated[
        str,
        typer.Argument(
            metavar="[HOST:]PORT",
            callback=checked(_split),
            help="Where to listen; port 0 lets the kernel choose.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Keep what arrives.", show_default=False
        ),
    ] = None,
    json_path: JsonPath = None,
    _debug: Debug = False,
) -> None:
    """Receive one connection with a plain socket of the kernel's and print size and SHA-256."""
    host, port = _split(where)
    console = console_for(json_path)
    check_json(json_path)
    with contextlib.ExitStack() as stack:
        out: BinaryIO | None = None
        try:
            if output is not None:
                out = stack.enter_context(output.open("wb"))
        except OSError as e:
            raise FileError("write", str(output), remedy="name another file", errno=e.errno) from e
        try:
            server = stack.enter_context(receiver.listen(host, port))
            console.print("listening on {}:{}".format(*server.getsockname()))
            got = receiver.receive(server, digest=True, output=out)
        except OSError as e:
            remedies = {
                errno.EADDRINUSE: "choose another port",
                errno.EACCES: "choose a port of 1024 or more",
                errno.EADDRNOTAVAIL: "choose an address of this machine",
                errno.ENOSPC: "free some space",
            }
            raise TcpError(
                "receive on", where, remedy=remedies.get(e.errno or 0), errno=e.errno
            ) from e
    seconds = (got.end_ns - got.begin_ns) / 1e9
    speed = got.bytes * 8 / seconds / 1e9 if seconds else 0.0
    console.print(f"{got.bytes:,} bytes in {seconds:.3f} s, {speed:.1f} Gbit/s")
    console.print(f"sha256 {got.sha256}")
    write_json(json_path, {**asdict(got), "seconds": seconds, "gbit_per_s": speed})
