"""Figures compared with marks, and the C programs of tools/limits that some of them come from."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nic_harness.cli.terminal import Figures
from nic_harness.errors import CommandError, FileError
from rich.text import Text

from benchmarks.stats import figures

__all__ = ["Mark", "Series", "least", "limits", "marks_table", "measure", "most", "series_table"]

#: Figures of each round, by what was measured and in which way.
Series = dict[tuple[str, str], list[float]]


@dataclass(frozen=True, slots=True)
class Mark:
    """One figure, and what it should be.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: "x" for a ratio to something measured in the same run, "bytes".
        limit: what it should be at most, or at least when `at_least`.
        at_least: which of the two.
        met: whether it is.
    """

    name: str
    value: float
    unit: str
    limit: float
    at_least: bool
    met: bool


def most(name: str, value: float, unit: str, limit: float) -> Mark:
    """Return a figure that should be no more than `limit`."""
    return Mark(name, value, unit, limit, at_least=False, met=value <= limit)


def least(name: str, value: float, limit: float) -> Mark:
    """Return a ratio that should be no less than `limit`."""
    return Mark(name, value, "x", limit, at_least=True, met=value >= limit)


def limits() -> Path:
    """Return the folder of the bare loops, built.

    Raises:
        FileError: not run by tools/bench.
    """
    path = os.environ.get("HARNESS_LIMITS")
    if path is None:
        raise FileError(
            "find", "the bare loops", "HARNESS_LIMITS is not set", "run tools/bench in a checkout"
        )
    return Path(path)


def measure(program: Path, *args: str) -> Series:
    """Run a program that prints lines of name, variant, round and value.

    Raises:
        CommandError: it failed; with what it said.
    """
    done = subprocess.run([program, *args], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError("run", program.name, done.stderr.strip() or f"exit {done.returncode}")
    series: Series = {}
    for line in done.stdout.splitlines():
        name, variant, _round, value = line.split()
        series.setdefault((name, variant), []).append(float(value))
    return series


def series_table(title: str, series: Series) -> Figures:
    """Return the median, minimum and maximum of each."""
    table = Figures(("operation", "median", "least", "most"), notes=[title])
    for (name, variant), values in series.items():
        f = figures(values)
        table.add_row(f"{name} {variant}", *(f"{v:.1f}" for v in (f.median, f.least, f.most)))
    return table


def marks_table(marks: Sequence[Mark]) -> Figures:
    """Return the figures that were reached, beside those that should be."""
    table = Figures(("figure", "value", "unit", "mark", "verdict"))
    for m in marks:
        table.add_row(
            m.name,
            f"{m.value:.2f}",
            m.unit,
            f"{'>=' if m.at_least else '<='} {m.limit:g}",
            "met" if m.met else Text("missed", style="red"),
        )
    return table
