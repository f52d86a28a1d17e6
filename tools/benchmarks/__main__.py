"""`tools/bench SUBJECT`: one command for each subject."""

from __future__ import annotations

import sys

import typer
from nic_harness.cli.app import run_app

from benchmarks import kva, rings, sendfile

app = typer.Typer(
    help="Benchmarks: ratios against bare loops, within one run.",
    epilog="Exit codes: 0 measured, even if a mark is missed; 1 failed; 2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _subjects() -> None:
    """Make the subjects commands, even if there is only one."""


app.command("kva")(kva.command)
app.command("rings")(rings.command)
app.command("sendfile")(sendfile.command)

if __name__ == "__main__":
    sys.exit(run_app(app, "tools/bench"))
