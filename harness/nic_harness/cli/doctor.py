"""`harness doctor`: what this machine offers, and how to get what is missing."""

from __future__ import annotations

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nic_harness.cli.failure import FAILED, one_line_errors
from nic_harness.cli.options import Debug, JsonPath
from nic_harness.cli.output import check_json, console_for, write_json
from nic_harness.cli.terminal import Terminal, plain
from nic_harness.plugins.doctor import Finding, Report, State, diagnose

#: Columns below which a finding's text goes below its name.
_NARROW = 72

_STYLE = {
    State.OK: "green",
    State.LACKING: "yellow",
    State.BROKEN: "bold red",
    State.UNTRIED: "dim",
}


@one_line_errors
def doctor(
    json_path: JsonPath = None,
    _debug: Debug = False,
) -> None:
    """Try out what this machine offers, and say how to get what is missing.

    Exit code 1 if the main job, a NIC on a TAP, cannot run here.
    """
    check_json(json_path)
    report = diagnose()
    write_json(json_path, report.to_json())
    _show(console_for(json_path), report)
    if not report.ok:
        raise typer.Exit(FAILED)


def _show(console: Terminal, report: Report) -> None:
    width = max(len(f.name) for f in report.findings)
    for finding in report.findings:
        _show_finding(console, finding, width)
    if not report.ok:
        console.print("The harness cannot run here.", style="bold red")


def _show_finding(console: Terminal, finding: Finding, width: int) -> None:
    """Print a finding: on a line, and on a terminal broken between words, below its text."""
    state = Text(f"{finding.state:<8}", style=_STYLE[finding.state])
    parts = (finding.found, finding.use, finding.remedy and f"remedy: {finding.remedy}")
    text = "; ".join(plain(part) for part in parts if part)
    if not console.is_terminal:
        console.print(state, f"{finding.name:<{width}}  {text}", sep="")
        return
    if console.width >= _NARROW:
        lines = Table.grid()
        for size in (8, width + 2):
            lines.add_column(width=size, no_wrap=True)
        lines.add_column(overflow="fold")
        lines.add_row(state, finding.name, text)
        console.print(lines)
        return
    console.print(state, finding.name, sep="")
    console.print(Padding(Text(text, overflow="fold"), (0, 0, 0, 4)))
