"""`harness inspect`: what a running process's arenas hold."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nic_harness.cli.failure import one_line_errors
from nic_harness.cli.options import Debug, JsonPath
from nic_harness.cli.output import check_json, console_for, write_json
from nic_harness.cli.terminal import Figures, plain, plain_table
from nic_harness.errors import FileError
from nic_harness.look.control import ControlError, ask, askable, processes


@one_line_errors
def inspect(
    pid: Annotated[
        int | None,
        typer.Argument(
            metavar="PID",
            min=1,
            help="The process; without it, the one that has an arena, if there is one only.",
            show_default=False,
        ),
    ] = None,
    page: Annotated[
        int | None,
        typer.Option(
            "--page",
            min=0,
            metavar="N",
            help="Tell of this page too: state, owner, the last sixteen events, sites.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            metavar="PATH|MAJOR:MINOR:INODE",
            help="--page is one of this file's, not of the arena's memory.",
            show_default=False,
        ),
    ] = None,
    json_path: JsonPath = None,
    _debug: Debug = False,
) -> None:
    """Show what the arenas of a running process hold: pools, mappings, misuse.

    The process answers if it runs with NIC_HARNESS_CONTROL=1 or made its arena with control=True.
    """
    check_json(json_path)
    if file is not None and page is None:
        raise typer.BadParameter("--file needs --page")
    found = ask(
        only_process() if pid is None else pid, page, file=None if file is None else _file(file)
    )
    write_json(json_path, found)
    console = console_for(json_path)
    if not found["arenas"]:
        console.print(f"process {found['pid']}: no arena is open")
    for arena in found["arenas"]:
        _show(console, found["pid"], arena)


def only_process() -> int:
    """Find the one process that has an arena and answers."""
    pids = askable()
    if len(pids) == 1:
        return pids[0]
    which, remedy = f"these have: {', '.join(map(str, pids))}", "name one by its PID"
    if not pids and (silent := processes()):
        which = f"none answers; these have one: {', '.join(map(str, silent))}"
        remedy = "start it with NIC_HARNESS_CONTROL=1 or use Arena(control=True)"
    elif not pids:
        which = "none has"
    raise ControlError("inspect", "the process that has an arena", which, remedy)


def _file(text: str) -> tuple[int, int]:
    """Device and inode number of a file, by path or by its numbers as they are shown."""
    if re.fullmatch(r"\d+:\d+:\d+", text):
        major, minor, inode = map(int, text.split(":"))
        return os.makedev(major, minor), inode
    try:
        st = Path(text).stat()
    except OSError as e:
        raise FileError("find", text, e.strerror or str(e), errno=e.errno) from e
    return st.st_dev, st.st_ino


def _show(console: Console, pid: int, arena: dict[str, Any]) -> None:
    mode = "strict" if arena["strict"] else "direct map"
    console.print(
        f"process {pid}, arena {arena['arena']}: {mode}, {arena['pages']} pages, "
        f"{arena['kmem_pages']} of them the harness's own; {arena['bytes_copied']} bytes copied"
    )
    console.print(_pools(arena))
    console.print(_counters(arena))
    if arena["misuses"]:
        counts = ", ".join(f"{kind} {n}" for kind, n in arena["misuses"].items())
        console.print(plain(f"misuse: {counts}"))
        for report in arena["reports"]:
            console.print(plain(f"  {_report(report)}"))
    for f in arena["files"]:
        console.print(
            f"file {_file_name(f['file'])}: {f['extents']} extents, {f['mapped']} pages mapped, "
            f"{f['users']} references and wirings"
        )
    if "page" in arena and not arena["page"]:
        console.print("page: none of that file is known here")
    for page in arena.get("page", ()):
        console.print(_page(page))


def _pools(arena: dict[str, Any]) -> Figures:
    table = Figures(("pool", "in use", "free", "total", "limit", "peak", "refused"))
    jumbo, mbuf, sf, pbuf = (arena[k] for k in ("jumbo", "mbuf", "sf_buf", "pbuf"))
    lwbuf = arena["lwbuf"]
    rows = (
        ("jumbo", jumbo["in_use"], jumbo["free"], jumbo["total"], jumbo["max_pages"], "",
         jumbo["refused"]),
        ("mbuf", mbuf["in_use"], mbuf["free"], mbuf["total"], mbuf["limit"], "", mbuf["refused"]),
        ("nsfbufs", sf["nsfbufsused"], sf["nsfbufs"] - sf["nsfbufsused"], sf["nsfbufs"],
         sf["nsfbufs"], sf["nsfbufspeak"], arena["sfstat"]["sf_allocfail"]),
        ("lwbuf", lwbuf["count"], lwbuf["reserve"], lwbuf["count"] + lwbuf["reserve"], "", "", ""),
        ("pbuf", pbuf["outstanding"], pbuf["free"], pbuf["total"], pbuf["total"], "",
         pbuf["refused"]),
    )  # fmt: skip
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _counters(arena: dict[str, Any]) -> str:
    """Make a line for each group of counters that is not all zero."""
    jumbo, sf = arena["jumbo"], arena["sf_buf"]
    groups = (
        ("jumbo", {k: jumbo[k] for k in ("stolen", "away", "held", "grown")}),
        ("sf_buf", {k: sf[k] for k in ("wired", "extents_mapped", "hits", "maps", "populates")}),
        ("sfstat", {k.removeprefix("sf_"): v for k, v in arena["sfstat"].items()}),
        ("arena", {k: arena[k] for k in ("unmaps_refused", "stale_bytes")}),
        ("pbuf", {k: arena["pbuf"][k] for k in ("backed", "counter_waits", "pool_waits")}),
    )
    lines = []
    for name, group in groups:
        counts = ", ".join(f"{k} {v}" for k, v in group.items() if v)
        if counts:
            lines.append(f"{name}: {counts}")
    return "\n".join(lines)


def _report(report: dict[str, Any]) -> str:
    if report["page"] is None:
        return f"{report['kind']}: {report['address']:#x}, at {report['site']}"
    return (
        f"{report['kind']}: page {report['page']} ({report['state']}), at {report['site']}; "
        f"allocated at {report['alloc_site']}, freed at {report['free_site']}; "
        f"{' < '.join(report['history'])}"
    )


def _file_name(file: dict[str, Any]) -> str:
    return plain(f"{file['path'] or '?'} ({file['device']}:{file['inode']})")


def _page(page: dict[str, Any]) -> Table:
    table = plain_table(None)
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    if "error" in page:
        table.add_row("page", plain(page["error"]))
        return table
    if page["file"]:
        table.add_row("file", _file_name(page["file"]))
    table.add_row("page", str(page["index"]))
    table.add_row("state", plain(f"{page['state']}, of {page['owner']}"))
    table.add_row("counts", f"wired {page['wired']}, held {page['held']}, "
                            f"references {page['references']}")  # fmt: skip
    table.add_row("generation", str(page["generation"]))
    table.add_row("KVA", "-" if page["kva"] is None else hex(page["kva"]))
    table.add_row("events", plain(" < ".join(page["history"]) or "none"))
    table.add_row("allocated", plain(page["allocated"]))
    table.add_row("freed", plain(page["freed"]))
    return table
