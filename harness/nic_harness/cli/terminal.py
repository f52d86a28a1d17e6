"""The terminal: no control character of somebody else's reaches it, and no number is cut.

Names of files and interfaces, what a peer or another process says, and what stands in a capture may
have any character in them, escape sequences too. plain() is what makes a text harmless; a Terminal
does so with everything it prints, and complain() with everything it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

#: Wider than any table, to find out how wide it wants to be.
_WIDE = 10_000


def plain(text: object) -> str:
    r"""Return a text in which every character is a visible one: others become \x1b and the like.

    Others are control and format characters, line breaks, and bytes that were no UTF-8.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Terminal(Console):
    """Standard output or standard error, for people.

    What is printed is text and no markup, since "[x]" may be part of a name.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)
        # Lines are broken between words where there is an edge, and left alone in a file or pipe.
        self.soft_wrap = not self.is_terminal

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as Console does, with what is no text of ours made visible."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                text = "\n".join(plain(line) for line in segment.text.split("\n"))
                yield Segment(text, segment.style)


class Figures:
    """Rows of figures: a table where there is room for it whole, else a block for each row.

    Args:
        heads: of the columns; the first one names the row.
        notes: lines below it.

    A file or a pipe has room for any table.
    """

    def __init__(self, heads: Sequence[str], *, notes: Sequence[str] = ()) -> None:
        self._heads = tuple(heads)
        self._notes = tuple(notes)
        self._rows: list[tuple[str | Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row: a cell for each head."""
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose the form by the room there is; see rich's console protocol."""
        table = self._table()
        width = Measurement.get(console, options.update(max_width=_WIDE), table).maximum
        if width <= options.max_width or not console.is_terminal:
            table.width = width
            yield table
        else:
            yield from self._blocks()
        for note in self._notes:
            yield Text(note)

    def _table(self) -> Table:
        table = plain_table(None)
        for i, head in enumerate(self._heads):
            table.add_column(head, justify="right" if i else "left", no_wrap=True)
        for row in self._rows:
            table.add_row(*row)
        return table

    def _blocks(self) -> Iterable[Text]:
        heads = [head.replace("\n", " ") for head in self._heads]
        width = max(len(head) for head in heads[1:])
        for name, *cells in self._rows:
            yield Text("")
            yield Text.assemble(name, overflow="fold")
            for head, cell in zip(heads[1:], cells, strict=True):
                if len(cell):
                    yield Text.assemble(f"  {head:<{width}}  ", cell, overflow="fold")
        yield Text("")


def plain_table(caption: str | None) -> Table:
    """Return a table without a frame, narrow enough for 80 columns."""
    return Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=0)
