"""`harness trial`: the same file by every strategy, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nic_harness.cli.failure import FAILED, complain, one_line_errors
from nic_harness.cli.options import (
    Debug,
    Device,
    FaultSpec,
    JsonPath,
    MadeSize,
    Stall,
    complete_list,
    faults,
    size,
)
from nic_harness.cli.output import (
    Bar,
    attached_line,
    check_json,
    console_for,
    file_line,
    runs_table,
    write_json,
)
from nic_harness.trial import STRATEGIES, USUAL, Settings, make_payload, open_payload, open_trial


def _strategies(text: str) -> str:
    names = text.split(",")
    for name in names:
        if name not in STRATEGIES:
            raise typer.BadParameter(f"there is no strategy {name!r}; use {', '.join(STRATEGIES)}")
    if len(set(names)) < len(names):
        raise typer.BadParameter("a strategy is named twice; --runs repeats them")
    return text


@one_line_errors
def trial(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            readable=False,
            help="What to send; without it, random bytes in a temporary file (in TMPDIR).",
            show_default=False,
        ),
    ] = None,
    json_path: JsonPath = None,
    strategies: Annotated[
        str,
        typer.Option(
            "--strategies",
            callback=_strategies,
            autocompletion=complete_list(STRATEGIES),
            metavar="NAME,...",
            help="sf_buf: file pages mapped, no copy. copy: pread into buffers. "
            "direct: read past the page cache, no copy. kernel: os.sendfile over a veth pair.",
        ),
    ] = ",".join(USUAL),
    runs: Annotated[
        int, typer.Option("--runs", min=1, max=10000, help="Timed passes of each strategy.")
    ] = 3,
    mtu: Annotated[
        int,
        typer.Option(
            "--mtu",
            min=68,
            max=65521,
            metavar="BYTES",
            help="MTU of the wires; 88 and more with the baseline, below which the kernel's TCP "
            "stalls.",
        ),
    ] = 1500,
    made_size: MadeSize = "1G",
    device: Device = "auto",
    fault_spec: FaultSpec = None,
    offloads: Annotated[
        bool, typer.Option(help="Let the wires cut super-frames and sum them.")
    ] = True,
    verify: Annotated[
        bool, typer.Option(help="Compare SHA-256, in a pass of its own before the timed ones.")
    ] = True,
    stall: Stall = 30,
    _debug: Debug = False,
) -> None:
    """Send FILE by sendfile to an ordinary TCP receiver, by each strategy, and compare.

    The wire is a TAP of our own NIC in a network namespace, and for the baseline a veth pair. Each
    run is timed until the receiver has read everything. Works as root and without; nothing stays.
    """
    check_json(json_path)
    console = console_for(json_path)
    settings = Settings(
        strategies=tuple(strategies.split(",")),
        runs=runs,
        mtu=mtu,
        device=device,
        faults=None if fault_spec is None else faults(fault_spec),
        offloads=offloads,
        verify=verify,
        stall=stall,
    )
    with Bar() as bar:
        if file is None:
            # What can be refused is refused before a gigabyte is made.
            with open_trial(settings):
                pass
            progress = bar.begin("make a file", size(made_size))
            opened = make_payload(size(made_size), progress=progress)
            bar.end()
        else:
            opened = open_payload(file)
        with opened as payload, open_trial(settings) as attached:
            console.print(file_line(payload))
            console.print(attached_line(attached.attached))
            report = attached.run(payload, bar)
    console.print(runs_table(report))
    write_json(json_path, report.to_json())
    wrong = [run.strategy for run in report.typical() if run.sha256_ok is False]
    if wrong:
        complain(
            f"send {payload.name} by {', '.join(wrong)}: what arrived differs from the file; "
            "was it written to meanwhile?"
        )
        raise typer.Exit(FAILED)
