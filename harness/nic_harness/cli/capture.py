"""`harness capture`: what passes a wire, both ways, as a pcapng file."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from nic_harness.cli.failure import FAILED, one_line_errors
from nic_harness.cli.options import (
    Debug,
    Device,
    FaultSpec,
    JsonPath,
    KernelAddress,
    Mtu,
    Netns,
    OurAddress,
    TapName,
    complete_of,
    faults,
)
from nic_harness.cli.output import (
    check_json,
    console_for,
    is_stdout,
    nic_lines,
    open_capture,
    stdout_for_commands,
    write_json,
)
from nic_harness.cli.terminal import plain
from nic_harness.cli.wire import make_tap
from nic_harness.errors import CommandError
from nic_harness.host.stack import Stack
from nic_harness.nic.nic import Nic, Offloads
from nic_harness.wire.netns import Process

#: Seconds: how often to see whether the command has ended, and what it is given to do so.
_LOOK_S, _END_S = 0.05, 10.0


@one_line_errors
def capture(
    out: Annotated[
        Path,
        typer.Option(
            "--write",
            "-w",
            readable=False,
            metavar="FILE",
            help="pcapng; - for standard output, where nothing else is printed then.",
        ),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="Run this on the kernel's side of the wire, and end with it.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0, help="End after so long.", show_default=False),
    ] = None,
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="WHERE",
            autocompletion=complete_of("driver", "wire"),
            help="driver: what the driver sees; wire: behind the faults.",
        ),
    ] = "driver",
    snaplen: Annotated[
        int, typer.Option("--snaplen", min=1, max=1 << 18, help="Bytes kept of each frame.")
    ] = 1 << 18,
    offloads: Annotated[
        bool, typer.Option(help="Let super-frames come in one piece, with sums left to do.")
    ] = True,
    netns: Netns = None,
    tap: TapName = None,
    ours: OurAddress = "198.18.0.2/24",
    kernel: KernelAddress = "198.18.0.1/24",
    mtu: Mtu = 1500,
    device: Device = "auto",
    fault_spec: FaultSpec = None,
    json_path: JsonPath = None,
    _debug: Debug = False,
) -> None:
    """Put a host of ours on a wire, which answers ARP and ping, and write down what passes it.

    It ends with COMMAND, after --seconds, or with Ctrl-C, which COMMAND gets too and may answer;
    it fails when COMMAND does. For example:

    harness capture -w out.pcapng ping -c 3 198.18.0.2
    """
    check_json(json_path, beside=out)
    console = console_for(json_path, out)
    if tap is not None and command:
        raise CommandError(
            "start", command[0], "a TAP that is there has no namespace of ours", "start it yourself"
        )
    with contextlib.ExitStack() as stack:
        wire = make_tap(stack, netns=netns, tap=tap, kernel=kernel, address=ours, mtu=mtu)
        kept = open_capture(stack, out, snaplen=snaplen, at=_side(at))
        assert kept is not None
        nic = stack.enter_context(
            Nic(
                wire,
                device=device,
                offloads=None if offloads else Offloads.NONE,
                faults=None if fault_spec is None else faults(fault_spec),
                capture=kept,
            )
        )
        host = stack.enter_context(Stack(nic))
        process = None
        ended_here = True
        with contextlib.suppress(KeyboardInterrupt):
            console.print(nic_lines(nic))
            if command and wire.namespace is not None:
                where = stdout_for_commands(out, json_path)
                process = stack.enter_context(wire.namespace.popen(command, stdout=where))
            ended_here = not _serve(host, process, seconds)
        code = None if process is None else _let_end(host, process)
        attached = nic.attached.device
    s = kept.stats()
    if code is not None:
        console.print(f"{plain(command[0]) if command else ''} ended with exit code {code}")
    console.print(
        f"{s.received} frames in, {s.sent} out, {s.kept} kept in {_name(out)}, {s.dropped} not kept"
    )
    write_json(
        json_path,
        {
            "device": attached,
            "received": s.received,
            "sent": s.sent,
            "kept": s.kept,
            "dropped": s.dropped,
            "exit_code": code,
        },
    )
    if code and not ended_here:
        raise typer.Exit(FAILED)


def _name(out: Path) -> str:
    return "standard output" if is_stdout(out) else plain(out)


def _side(text: str) -> Literal["driver", "wire"]:
    if text == "driver":
        return "driver"
    if text == "wire":
        return "wire"
    raise typer.BadParameter(f"--at {text!r}: use driver or wire")


def _serve(host: Stack, process: Process | None, seconds: float | None) -> bool:
    """Answer what comes for so long, or until the command ended; return whether it did."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        host.serve(_LOOK_S)
        if process is not None and process.poll() is not None:
            host.serve(_LOOK_S)  # what it sent last
            return True
    return False


def _let_end(host: Stack, process: Process) -> int | None:
    """Ask a command to end, as Ctrl-C does, and see what it has to say; return its exit code.

    It has a session of its own, where Ctrl-C does not reach it. Another Ctrl-C kills it, and so
    does not ending in time.
    """
    with contextlib.suppress(KeyboardInterrupt):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            _serve(host, process, _END_S)
    if process.poll() is None:
        process.kill()
        process.wait()
    return process.poll()
