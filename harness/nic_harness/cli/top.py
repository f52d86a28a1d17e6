"""`harness top`: the rings, pools and rates of a running process, live."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.text import Text

from nic_harness.cli.failure import one_line_errors
from nic_harness.cli.inspect import only_process
from nic_harness.cli.options import Debug, JsonPath
from nic_harness.cli.output import check_json, console_for, is_stdout, write_json
from nic_harness.cli.terminal import Terminal, plain, plain_table
from nic_harness.look.control import ask
from nic_harness.nic.counters import DROPS

#: Cells that a ring is drawn with, at most and beside its numbers at least.
_CELLS, _FEWEST_CELLS = 48, 16
_LEGEND = "█ with the device  ▒ used, not taken  · free"
_PLACES = ("avail", "used", "taken")
_PIPE_WIDTH = 80

#: What a frame can be lost to: counters of the driver, the device and the kernel, and their names.
_DROPS = DROPS | {"kernel_tx_dropped": "queue of the kernel full"}
_RATES = ("rx_delivered", "rx_bytes", "tx_completed", "tx_bytes")


@one_line_errors
def top(
    pid: Annotated[
        int | None,
        typer.Argument(
            metavar="PID",
            min=1,
            help="The process; without it, the one that has an arena, if there is one only.",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.05, max=3600, help="Seconds between looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look for one interval, and end.")] = False,
    json_path: JsonPath = None,
    _debug: Debug = False,
) -> None:
    """Show rings with their producers and consumers, pools, rates and drops of a running process.

    The process answers if it runs with NIC_HARNESS_CONTROL=1 or made its arena with control=True.
    On no terminal, and with --json, it looks once.
    """
    check_json(json_path)
    pid = only_process() if pid is None else pid
    console = console_for(json_path)
    before, at = ask(pid), time.monotonic()
    if once or json_path is not None or not console.is_terminal:
        time.sleep(interval)
        now = ask(pid)
        add_rates(before, now, time.monotonic() - at)
        write_json(json_path, now)
        if not is_stdout(json_path):
            console.print(_picture(now))
        return
    with contextlib.suppress(KeyboardInterrupt):
        _live(console, pid, before, at, interval)


def _live(console: Terminal, pid: int, before: dict[str, Any], at: float, interval: float) -> None:
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(interval)
            now, then = ask(pid), time.monotonic()
            add_rates(before, now, then - at)
            live.update(_picture(now), refresh=True)
            before, at = now, then


def add_rates(before: dict[str, Any], now: dict[str, Any], seconds: float) -> None:
    """Put "rates", for each second, to each NIC that was there before; by arena and interface."""
    known = {(a["arena"], n["id"]): n for a in before["arenas"] for n in a["nics"]}
    for arena in now["arenas"]:
        for nic in arena["nics"]:
            was = known.get((arena["arena"], nic["id"]))
            nic["rates"] = {
                key: 0.0 if was is None else (_sum(nic, key) - _sum(was, key)) / seconds
                for key in _RATES
            }


def _sum(nic: dict[str, Any], key: str) -> int:
    return sum(q["stats"][key] for q in nic["queues"])


def _picture(found: dict[str, Any]) -> Group:
    parts: list[Any] = [Text(plain(f"process {found['pid']}, nic-harness {found['version']}"))]
    for arena in found["arenas"]:
        jumbo, mbuf = arena["jumbo"], arena["mbuf"]
        parts.append(
            Text(
                f"arena {arena['arena']}: {jumbo['in_use']} of {jumbo['total']} pages in use, "
                f"{jumbo['refused']} refused; {mbuf['in_use']} mbufs; "
                f"{arena['bytes_copied']} bytes copied"
            )
        )
        for nic in arena["nics"]:
            parts += [Text(plain(f"  {nic['attached']}")), _Rings(nic), _rates(nic), _drops(nic)]
    if not found["arenas"]:
        parts.append(Text("no arena is open"))
    return Group(*parts)


class _Rings:
    """The rings of a NIC, with as many cells as there is room for; a renderable of rich's."""

    def __init__(self, nic: dict[str, Any]) -> None:
        self._rings = [
            (f"{way} {i}", queue[way])
            for i, queue in enumerate(nic["queues"])
            for way in ("rx", "tx")
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw them; below some width the numbers go below the picture."""
        numbers = [tuple(str(ring[key]) for key in _PLACES) for _, ring in self._rings]
        heads = ("produced", "used", "taken")
        wide = [max(map(len, column)) for column in zip(heads, *numbers, strict=True)]
        label = max(len(name) for name, _ in self._rings)
        room = options.max_width if console.is_terminal else _PIPE_WIDTH
        # A blank before each column and at both ends.
        cells = min(_CELLS, room - label - sum(wide) - 6)
        if cells < _FEWEST_CELLS:
            yield Text(_LEGEND)
            for (name, ring), counts in zip(self._rings, numbers, strict=True):
                yield Text(f"{name} {draw(ring, max(1, min(_CELLS, room - label - 1)))}")
                told = (f"{head} {n}" for head, n in zip(heads, counts, strict=True))
                yield Text(f"     {', '.join(told)}")
            yield Text("")
            return
        table = plain_table(None)
        table.add_column("ring", no_wrap=True)
        if cells < len(_LEGEND):
            yield Text(f"\n {_LEGEND}", end="")
        table.add_column(_LEGEND if cells >= len(_LEGEND) else "", no_wrap=True)
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True)
        for (name, ring), counts in zip(self._rings, numbers, strict=True):
            table.add_row(name, draw(ring, cells), *counts)
        yield table


def draw(ring: dict[str, int], cells: int = _CELLS) -> str:
    """Draw a ring, cut open at position 0: what each entry is, a cell for one or several.

    Args:
        ring: size, and avail, used and taken, which count to 65536 and begin again.
        cells: to draw it with, at most.
    """
    size = ring["size"]
    cells = min(cells, size)
    used = (ring["used"] - ring["taken"]) % 65536
    posted = (ring["avail"] - ring["used"]) % 65536
    picture = []
    for cell in range(cells):
        # Position of the cell's middle entry, counted from the consumer.
        entry = (2 * cell + 1) * size // (2 * cells)
        ahead = (entry - ring["taken"]) % size
        picture.append("▒" if ahead < used else "█" if ahead < used + posted else "·")
    return "".join(picture)


def _rates(nic: dict[str, Any]) -> Text:
    r = nic["rates"]
    return Text(
        f"  in {r['rx_delivered']:.0f} frames/s, {r['rx_bytes'] * 8e-6:.1f} Mbit/s; "
        f"out {r['tx_completed']:.0f} frames/s, {r['tx_bytes'] * 8e-6:.1f} Mbit/s"
    )


def _drops(nic: dict[str, Any]) -> Text:
    counts = {name: nic["drops"].get(key, 0) for key, name in _DROPS.items()}
    shown = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
    return Text(f"  dropped: {shown or 'none'}")
