"""`tools/bench kva`: the cost of each buffer operation, beside its bare counterpart."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from nic_harness.cli.failure import one_line_errors
from nic_harness.cli.options import Debug, JsonPath
from nic_harness.cli.output import check_json, console_for, write_json

from benchmarks.marks import (
    Mark,
    Series,
    least,
    limits,
    marks_table,
    measure,
    most,
    series_table,
)
from benchmarks.stats import Figures, figures

#: Bytes of the file whose pages are mapped one by one.
_FILE = 256 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """All results; `series` is in ns of the thread's own time, for two threads of the clock."""

    series: dict[str, Figures]
    marks: tuple[Mark, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what json.dumps() takes."""
        return asdict(self)


def _measure(program: Path, rounds: int) -> Series:
    with tempfile.NamedTemporaryFile(prefix="harness-bench-") as file:
        # Written, so that its pages are in the page cache: cold is the mapping, not the disk.
        for _ in range(_FILE >> 20):
            file.write(bytes(1 << 20))
        file.flush()
        return measure(program, str(rounds), file.name)


def marks(series: Series) -> tuple[Mark, ...]:
    """Return the figures that have a mark.

    Args:
        series: by (operation, variant), as tools/limits/kva_ops.c prints them.
    """
    median = {key: figures(values).median for key, values in series.items()}
    sizes = [median[key] for key in median if key[0] == "jumbo_size"]

    cold = median["cold_file", "ours"]
    pair = median["sf_buf", "atomic"]

    def over_malloc(name: str) -> float:
        return median[name, "ours"] / median[name, "malloc"]

    return (
        most(
            "jumbo_pg_alloc + jumbo_pg_free over malloc(4096) + free", over_malloc("jumbo"), "x", 1
        ),
        most(
            "  dearest over cheapest, 1,024 to 1,048,576 pages", max(sizes) / min(sizes), "x", 1.1
        ),
        least(
            "  two threads over one",
            median["jumbo_threads", "1"] / median["jumbo_threads", "2"],
            1.8,
        ),
        most(
            "sf_buf_alloc + sf_buf_free, mapped, over an atomic pair",
            median["sf_buf", "ours"] / pair,
            "x",
            4.5,
        ),
        most(
            "cold file over a loop of 2 MiB mmap", cold / median["cold_file", "extents"], "x", 1.3
        ),
        least("one mmap a page over cold file", median["cold_file", "pages"] / cold, 20),
        most(
            "lwbuf_alloc + kva + free, direct map, over an atomic pair",
            median["lwbuf", "ours"] / pair,
            "x",
            0.75,
        ),
        most(
            "pmap_quick enter + remove, direct map, over an atomic pair",
            median["quick", "ours"] / pair,
            "x",
            1.2,
        ),
        most("m_get + m_extadd + m_freem over malloc(256) + free", over_malloc("mbuf"), "x", 3),
        most("getpbuf + relpbuf over malloc(MAXPHYS) + free", over_malloc("pbuf"), "x", 1.2),
        most("descriptor of a page", median["descriptor", "bytes"], "bytes", 64),
    )


@one_line_errors
def command(
    json_path: JsonPath = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=3, max=100, help="How often to measure everything.")
    ] = 7,
    _debug: Debug = False,
) -> None:
    """Measure jumbo, sf_buf, lwbuf, pmap_quick, pbuf and mbuf, hot and on one thread.

    Each operation takes turns with what a program without it would do: malloc(3), a pair of atomic
    additions, mmap(2). Times are those of the measuring thread: other programs count little.
    """
    check_json(json_path)
    console = console_for(json_path)
    series = _measure(limits() / "kva_ops", rounds)
    result = Result(
        series={f"{name} {variant}": figures(values) for (name, variant), values in series.items()},
        marks=marks(series),
    )
    console.print(series_table("nanoseconds for one operation", series))
    console.print(marks_table(result.marks))
    write_json(json_path, result.to_json())
