"""`harness doctor`: what this machine offers, and how to get what is missing."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from nic_harness.cli.failure import FAILED, one_line_errors
from nic_harness.cli.options import Debug
from nic_harness.plugins.doctor import Finding, Report, State, diagnose

_STYLE = {
    State.OK: "green",
    State.LACKING: "yellow",
    State.BROKEN: "bold red",
    State.UNTRIED: "dim",
}


@one_line_errors
def doctor(
    json_: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, and nothing else.")
    ] = False,
    _debug: Debug = False,
) -> None:
    """Try out what this machine offers, and say how to get what is missing.

    Exit code 1 if the main job, a NIC on a TAP, cannot run here.
    """
    report = diagnose()
    if json_:
        print(json.dumps(report.to_json(), indent=2))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(FAILED)


def _show(report: Report) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(f.name) for f in report.findings)
    for finding in report.findings:
        console.print(_line(finding, width))
    if not report.ok:
        console.print("The harness cannot run here.", style="bold red")


def _line(finding: Finding, width: int) -> Text:
    line = Text(f"{finding.state:<8}", style=_STYLE[finding.state])
    line.append(f"{finding.name:<{width}}  {finding.found}", style="not bold default")
    if finding.use:
        line.append(f"; {finding.use}", style="not bold default")
    if finding.remedy:
        line.append(f"; remedy: {finding.remedy}", style="not bold default")
    return line
