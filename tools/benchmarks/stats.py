"""Medians and ratios of interleaved runs, and their marks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ratio:
    """One subject against another, measured in turns in one run.

    Attributes:
        name: "sf_buf / bare".
        ratio: of the medians.
        paired: median of the ratios of neighbouring runs; near `ratio` when the machine was quiet.
        mark: what it should at least be, or None.
        met: whether it is; None without a mark.
    """

    name: str
    ratio: float
    paired: float
    mark: float | None
    met: bool | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The median and spread of a series."""

    median: float
    least: float
    most: float
    runs: int


def figures(series: Sequence[float]) -> Figures:
    """Return the median, minimum and maximum of a series that is not empty."""
    return Figures(statistics.median(series), min(series), max(series), len(series))


def ratio(
    series: Mapping[str, Sequence[float]], over: str, under: str, mark: float | None = None
) -> Ratio:
    """Return how much more `over` is than `under`, for series of equal length."""
    a, b = series[over], series[under]
    value = statistics.median(a) / statistics.median(b)
    paired = statistics.median(x / y for x, y in zip(a, b, strict=True))
    met = None if mark is None else value >= mark
    return Ratio(f"{over} / {under}", value, paired, mark, met)


def take_turns(names: Sequence[str], turn: int) -> Sequence[str]:
    """Return the order of one turn, rotated, so that no subject always follows the same one."""
    at = turn % len(names)
    return [*names[at:], *names[:at]]
