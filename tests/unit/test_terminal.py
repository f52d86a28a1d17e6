"""No control characters from outside reach a terminal, and no number is cut."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nic_harness import Arena
from nic_harness.cli import main
from nic_harness.cli.doctor import _show
from nic_harness.cli.failure import complain
from nic_harness.cli.inspect import _show as show_arena
from nic_harness.cli.output import file_line, runs_table
from nic_harness.cli.terminal import Figures, Terminal, plain
from nic_harness.cli.top import _picture
from nic_harness.control import ask
from nic_harness.errors import DoubleFreeError
from nic_harness.jumbo import jumbo_pg_alloc, jumbo_pg_free
from nic_harness.plugins.doctor import Finding, State
from nic_harness.plugins.doctor import Report as Diagnosis
from nic_harness.sf_buf import VmObject
from nic_harness.transfer.payload import open_payload
from nic_harness.transfer.results import About, Report, Run, Setup

#: Clears the screen, rings, goes back, renames the window, breaks the line, turns the text around.
HOSTILE = "a\x1b[2J\x07\b\x9b31m\x1b]0;x\x07\r\n\u202e\u2028\x7f\udcff[/b][red]z"
#: Categories of Unicode that leave no mark, or none that one should believe.
CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def assert_visible(text: str) -> None:
    """Check that a text holds only visible characters and line ends."""
    found = {c for c in text if c != "\n" and unicodedata.category(c) in CONTROLS}
    assert not found


@pytest.fixture(params=[20, 40, 60, 80, 132])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make a terminal without colours, of several widths."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("LINES", "50")
    made = Terminal()
    assert made.is_terminal
    assert made.width == request.param
    return made


@given(st.text())
def test_plain_text_is_visible_and_the_rest_stays(text: str) -> None:
    assert_visible(plain(text))
    assert "\n" not in plain(text)
    visible = "".join(c for c in text if c.isprintable())
    assert plain(visible) == visible
    assert plain(plain(text)) == plain(text)


def test_the_usual_attacks_are_shown() -> None:
    assert plain("\x1b[2J") == r"\x1b[2J"
    assert plain("a\nb\u202ec\udcff") == r"a\nb\u202ec\udcff"
    assert plain("Grüße, 世界") == "Grüße, 世界"
    assert plain(Path("/tmp/\x07")) == r"/tmp/\x07"


def test_whatever_is_printed_is_visible(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.print(HOSTILE, soft_wrap=True)
    table = Figures(("name", "n"))
    table.add_row(HOSTILE, "1")
    terminal.print(table)
    complain(HOSTILE)
    out, err = capsys.readouterr()
    assert_visible(out)
    assert_visible(err)
    assert err.count("\n") == 1
    assert "[/b][red]z" in err  # no markup either
    assert "[/b][red]z" in out


def poisoned(found: object) -> object:
    """Put the attack into every text of an answer."""
    match found:
        case dict():
            return {key: poisoned(value) for key, value in found.items()}
        case list():
            return [poisoned(value) for value in found]
        case str():
            return found + HOSTILE
    return found


def test_an_answer_of_a_hostile_process(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Arena(16, control=True),
        Path(__file__).open("rb") as file,
        VmObject(file) as mapped,
        mapped.grab(0),
    ):
        page = jumbo_pg_alloc()
        jumbo_pg_free(page)
        with pytest.raises(DoubleFreeError):
            jumbo_pg_free(page)
        found = ask(os.getpid(), 0)
    found["arenas"][0]["page"].append({"error": "no such page"})
    answer = poisoned(found)
    assert isinstance(answer, dict)
    show_arena(terminal, 1, answer["arenas"][0])
    terminal.print(_picture(answer))
    assert_visible(capsys.readouterr().out)


# Numbers

ATTACHED = Setup("tap_uring", ("csum", "tso4"), 1500, 1, False, "cubic")
ABOUT = About.now("a file", 1 << 44, {})
LARGE = Run("sf_buf", 1 << 44, 123456.789, 98765.0, 123456789, 987654321, 1 << 43, True, 7, 7654321)


def shown(capsys: pytest.CaptureFixture[str], width: int) -> str:
    text = capsys.readouterr().out
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    return text


def test_no_number_of_a_trial_is_cut(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.print(runs_table(Report(ABOUT, ATTACHED, (LARGE,) * 2)))
    if terminal.width < 40:
        assert "…" not in capsys.readouterr().out
        return
    text = shown(capsys, terminal.width)
    for number in ("123456.789", "123456789", "987654321", str(1 << 43), "98765", "7654321"):
        assert re.search(rf"(?<!\d){re.escape(number)}(?!\d)", text), number


def test_a_pipe_gets_the_table_whole(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().print(runs_table(Report(ABOUT, ATTACHED, (LARGE,) * 2)))
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "sf_buf" in line)
    assert str(1 << 43) in row
    assert row.rstrip().endswith("equal")


def test_no_number_of_top_is_cut(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    counters = itertools.count(61001)
    ring = {"size": 256, "avail": 65535, "used": 65534, "taken": 65533}
    queue = {"rx": ring, "tx": ring, "stats": {}, "device": {}}
    rates = dict.fromkeys(("rx_delivered", "rx_bytes", "tx_completed", "tx_bytes"), 12345678)
    nic = {"attached": "tap_rw on tap0", "queues": [queue], "rates": rates, "drops": {}}
    pool = {"in_use": next(counters), "total": next(counters), "refused": next(counters)}
    arena = {"arena": 1, "jumbo": pool, "mbuf": pool, "bytes_copied": 1 << 40, "nics": [nic]}
    terminal.print(_picture({"pid": 1, "version": "1", "arenas": [arena]}))
    text = shown(capsys, terminal.width)
    for number in ("65535", "65534", "65533", "12345678", str(1 << 40), "61001", "61002", "61003"):
        assert re.search(rf"(?<!\d){number}(?!\d)", text), number
    assert text.count("█") >= 1


def test_doctor_breaks_its_lines_between_words(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    found = "vm.max_map_count 65530, and 292 in use by this process of ours"
    finding = Finding("memory mappings", State.OK, found, "strict arenas are possible", "sysctl")
    _show(terminal, Diagnosis((finding,), "tap_rw", {}))
    words = shown(capsys, terminal.width).split()
    assert " ".join(words) == f"ok memory mappings {found}; {finding.use}; remedy: sysctl"


def test_a_file_name_of_any_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "1", "--page", "0", "--file", "/no/\udcff\x1b"]) == 1
    assert r"/no/\udcff\x1b" in capsys.readouterr().err


def test_a_name_breaks_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a\n\x1b[31mb"
    path.write_bytes(b"1234")
    with open_payload(path) as payload:
        assert file_line(payload) == rf"file: {tmp_path}/a\n\x1b[31mb, 4 bytes"
