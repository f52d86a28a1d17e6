"""`tools/bench sendfile`: our sendfile against the bare loop and against the kernel's own."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from nic_harness.cli.failure import one_line_errors
from nic_harness.cli.options import Debug, JsonPath, MadeSize, size
from nic_harness.cli.output import Bar, check_json, console_for, write_json
from nic_harness.cli.terminal import Figures as Table
from nic_harness.errors import FileError
from nic_harness.transfer.ours import OurNic
from nic_harness.trial import Contender, Pass, Payload, make_payload, open_payload
from nic_harness.trial.kernel import KernelSendfile
from rich.text import Text

from benchmarks.bare import BareLoop
from benchmarks.rss import Memory, measure
from benchmarks.stats import Figures, Ratio, figures, ratio, take_turns

#: At least 0.8 of the bare loop, and 1.1 of the better baseline.
MARK_BARE = 0.8
MARK_KERNEL = 1.1


@dataclass(frozen=True, slots=True)
class Series:
    """One subject's runs.

    Attributes:
        gbit_per_s: of each run, in their order, with the figures over them.
        cpu_ns_per_kib: of the sending thread, likewise.
        syscalls_per_gib, frames: of the last run.
    """

    gbit_per_s: Figures
    cpu_ns_per_kib: Figures
    syscalls_per_gib: float
    frames: int
    runs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """All results; `memory` has one entry for each size of file."""

    bytes: int
    series: dict[str, Series]
    ratios: tuple[Ratio, ...]
    memory: tuple[Memory, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what json.dumps() takes."""
        return asdict(self)


def _gbit(result: Pass) -> float:
    return result.bytes * 8 / result.seconds / 1e9


def _series(passes: list[Pass]) -> Series:
    speeds = [_gbit(p) for p in passes]
    last = passes[-1]
    return Series(
        gbit_per_s=figures(speeds),
        cpu_ns_per_kib=figures([p.cpu_ns * 1024 / p.bytes for p in passes]),
        syscalls_per_gib=last.syscalls * (1 << 30) / last.bytes,
        frames=last.frames,
        runs=tuple(speeds),
    )


def bench(payload: Payload, limits: Path, runs: int, bar: Bar) -> Result:
    """Measure everything, in turns, after one turn that does not count."""
    with contextlib.ExitStack() as stack:
        nic = stack.enter_context(OurNic(mtu=1500))
        subjects: dict[str, Contender] = {
            "bare": stack.enter_context(BareLoop(limits / "tap_send", mtu=1500)),
            "sf_buf": nic.strategy("sf_buf"),
            "copy": nic.strategy("copy"),
        }
        for mtu in (1500, 65520):
            subjects[f"kernel-{mtu}"] = stack.enter_context(KernelSendfile(mtu=mtu))
        passes: dict[str, list[Pass]] = {name: [] for name in subjects}
        names = list(subjects)
        for turn in range(-1, runs):
            bar.begin(f"turn {turn + 1} of {runs}", payload.size)
            for name in take_turns(names, turn):
                result = subjects[name].send(payload, digest=False)
                if result.bytes != payload.size:
                    raise FileError("send", payload.name, f"{result.bytes} bytes arrived by {name}")
                if turn >= 0:
                    passes[name].append(result)
            bar.end()
    series = {name: _series(p) for name, p in passes.items()}
    speeds = {name: [_gbit(p) for p in ps] for name, ps in passes.items()}
    kernel = max(
        (n for n in names if n.startswith("kernel")), key=lambda n: series[n].gbit_per_s.median
    )
    return Result(
        bytes=payload.size,
        series=series,
        ratios=(
            ratio(speeds, "sf_buf", "bare", MARK_BARE),
            ratio(speeds, "sf_buf", kernel, MARK_KERNEL),
            ratio(speeds, "sf_buf", "copy"),
            ratio(speeds, "bare", kernel),
        ),
        memory=(measure(payload, payload.size // 16), measure(payload, payload.size)),
    )


@one_line_errors
def command(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", readable=False, help="The file to send.", show_default=False
        ),
    ] = None,
    json_path: JsonPath = None,
    runs: Annotated[
        int, typer.Option("--runs", min=5, max=1000, help="How often to run each subject.")
    ] = 7,
    made_size: MadeSize = "1G",
    _debug: Debug = False,
) -> None:
    """Compare sf_buf with the bare loop and with the kernel's sendfile over veth at two MTUs.

    The bare loop is a C program that only writes a mapped file to a TAP (tools/limits). The
    kernel's sendfile runs with CUBIC at MTU 1500 and 65520, and the better one counts. All subjects
    take turns in one run; what matters are the ratios of their medians.
    """
    check_json(json_path)
    console = console_for(json_path)
    limits = os.environ.get("HARNESS_LIMITS")
    if limits is None:
        raise FileError(
            "find", "the bare loops", "HARNESS_LIMITS is not set", "run tools/bench in a checkout"
        )
    with Bar() as bar:
        if file is None:
            opened = make_payload(
                size(made_size), progress=bar.begin("make a file", size(made_size))
            )
            bar.end()
        else:
            opened = open_payload(file)
        with opened as payload:
            if payload.size == 0:
                raise FileError("measure with", payload.name, "it is empty", "name a larger file")
            result = bench(payload, Path(limits), runs, bar)
    console.print(_series_table(result))
    console.print(_ratio_table(result))
    for memory in result.memory:
        console.print(str(memory))
    write_json(json_path, result.to_json())


def _series_table(result: Result) -> Table:
    note = f"{result.bytes:,} bytes; median of the runs, least and most beside it"
    heads = ("Gbit/s", "least", "most", "CPU\nns/KiB", "system calls\na GiB", "frames")
    table = Table(("subject", *heads), notes=[note])
    for name, series in result.series.items():
        speed = series.gbit_per_s
        table.add_row(
            name,
            *(f"{v:.1f}" for v in (speed.median, speed.least, speed.most)),
            f"{series.cpu_ns_per_kib.median:.0f}",
            f"{series.syscalls_per_gib:,.0f}",
            f"{series.frames:,}",
        )
    return table


def _ratio_table(result: Result) -> Table:
    table = Table(("ratio of medians", "ratio", "paired", "mark", "verdict"))
    verdict: dict[bool | None, str | Text] = {
        True: "met",
        False: Text("missed", style="red"),
        None: "",
    }
    for r in result.ratios:
        mark = "" if r.mark is None else f"{r.mark:.2f}"
        table.add_row(r.name, f"{r.ratio:.2f}", f"{r.paired:.2f}", mark, verdict[r.met])
    return table
