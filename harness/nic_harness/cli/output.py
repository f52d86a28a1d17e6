"""What the commands print: a table or JSON, and a progress bar while they work."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from nic_harness.base.live import Ending
from nic_harness.cli.terminal import Figures, Terminal, plain
from nic_harness.errors import FileError
from nic_harness.nic.capture import Capture
from nic_harness.nic.nic import Nic
from nic_harness.transfer.payload import Payload
from nic_harness.transfer.results import Report, Run, Setup

#: Seconds between two pictures of the bar: drawing it costs about a millisecond of the sender's.
_REDRAW = 0.25


def console_for(*paths: Path | None) -> Terminal:
    """Return the console for people: standard output, unless one of the results goes there."""
    return Terminal(stderr=any(is_stdout(path) for path in paths))


def is_stdout(path: Path | None) -> bool:
    """Whether a path given on the command line means standard output."""
    return path is not None and str(path) == "-"


def stdout_for_commands(*paths: Path | None) -> int | None:
    """Return the descriptor that a command's standard output is: where the text for people goes."""
    return 2 if any(is_stdout(path) for path in paths) else None


def check_json(path: Path | None, *, beside: Path | None = None) -> None:
    """See that the JSON can be written before anything is measured.

    Args:
        path: where it is wanted.
        beside: where a capture is wanted, perhaps.

    Raises:
        FileError: it cannot.
        BadParameter: both are wanted on standard output.
    """
    if is_stdout(path) and is_stdout(beside):
        raise typer.BadParameter("--json - and -w -: only one of them can go to standard output")
    if path is None or is_stdout(path):
        return
    try:
        path.open("a").close()
    except OSError as e:
        raise FileError("write", str(path), remedy="name another file", errno=e.errno) from e


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Write JSON where the user wants it, if anywhere.

    Raises:
        FileError: it could not be written.
    """
    if path is None:
        return
    text = json.dumps(data, indent=2) + "\n"
    if is_stdout(path):
        print(text, end="", flush=True)
        return
    try:
        path.write_text(text)
    except OSError as e:
        raise FileError("write", str(path), remedy="name another file", errno=e.errno) from e


def open_capture(
    stack: contextlib.ExitStack,
    path: Path | None,
    *,
    snaplen: int = 1 << 18,
    at: Literal["driver", "wire"] = "driver",
) -> Capture | None:
    """Open the file of a capture, if one is wanted; - is standard output.

    Args:
        stack: closes standard output's copy; enter the NIC after this.
        path: as given on the command line.
        snaplen, at: see Capture.

    Raises:
        FileError: it cannot be written.
        BadParameter: standard output is a terminal.
    """
    if path is None or not is_stdout(path):
        return None if path is None else Capture(path, snaplen=snaplen, at=at)
    if os.isatty(1):
        raise typer.BadParameter("-w -: a capture is nothing for a terminal; send it into a pipe")
    # Without a buffer of Python's, so that the reader sees each frame soon.
    out = stack.enter_context(os.fdopen(os.dup(1), "wb", buffering=0))
    return Capture(cast("BinaryIO", out), snaplen=snaplen, at=at)


class Bar(Ending):
    """A progress bar on a terminal, nothing elsewhere; an Observer, use as a context manager.

    No thread draws it: it is drawn when the sender says how far it came, and seldom.
    """

    def __init__(self) -> None:
        self._console = Terminal(stderr=True)
        self._progress: Progress | None = None

    def _end_block(self) -> None:
        self.end()

    def begin(self, title: str, size: int) -> Callable[[int], None] | None:
        """See Observer.begin()."""
        if not self._console.is_terminal:
            return None
        self.end()
        bar = self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        task = bar.add_task(title, total=size)
        bar.start()
        bar.refresh()
        due = time.monotonic() + _REDRAW

        def progress(done: int) -> None:
            nonlocal due
            if (now := time.monotonic()) >= due:
                due = now + _REDRAW
                bar.update(task, completed=done, refresh=True)

        return progress

    def end(self) -> None:
        """See Observer.end(); the bar's line is clear for what is printed next, on any stream."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def file_line(payload: Payload) -> str:
    """Say which file is sent."""
    return plain(f"file: {payload.name}, {payload.size:,} bytes")


def attached_line(attached: Setup) -> str:
    """Say in one line what was attached; in a second why it is no faster device, if that is so."""
    parts = []
    if attached.device is not None:
        queues = f"{attached.queues} queue{'s' * (attached.queues != 1)}"
        offloads = " ".join(attached.offloads)
        parts += [attached.device, f"offloads: {offloads}", f"MTU {attached.mtu}", queues]
    else:
        parts.append(f"MTU {attached.mtu}")
    if attached.congestion_control is not None:
        parts.append(f"baseline: veth, {attached.congestion_control}")
    parts.append("user namespaces" if attached.rootless else "root")
    line = "attached: " + ", ".join(parts)
    return f"{line}\nno faster one: {attached.why_not}" if attached.why_not else line


def nic_lines(nic: Nic) -> str:
    """Say what is attached, and why it is no faster device, if that is so."""
    line = f"attached: {nic}"
    why_not = nic.attached.why_not
    return f"{line}\nno faster one: {why_not}" if why_not else line


def runs_table(report: Report) -> Figures:
    """One row for each strategy: its median run, and between what its runs lie."""
    passes = len(report.runs) // max(1, len(report.strategies()))
    notes = [f"median of {passes} runs each"] if passes > 1 else []
    spread = ("Gbit/s\nmin-max",) if passes > 1 else ()
    heads = ("CPU\nns/KiB", "system\ncalls", "frames", "bytes\nresent", "bytes\ncopied")
    table = Figures(
        ("strategy", "time\ns", "Gbit/s", *spread, *heads, "SHA\n256"),
        notes=[*notes, *report.attached.notes],
    )
    for run in report.typical():
        least, most = report.spread(run.strategy)
        table.add_row(
            run.strategy,
            f"{run.seconds:.3f}",
            f"{run.gbit_per_s:.1f}",
            *((f"{least:.1f}-{most:.1f}",) if spread else ()),
            f"{run.cpu_ns_per_kib:.0f}",
            f"{run.syscalls}",
            f"{run.frames}",
            f"{run.bytes_resent}",
            f"{run.bytes_copied}",
            _verdict(run),
        )
    return table


def _verdict(run: Run) -> str | Text:
    if run.sha256_ok is None:
        return "not checked"
    return "equal" if run.sha256_ok else Text("DIFFERENT", style="red")
