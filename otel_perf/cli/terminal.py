"""Shows the report: with rich in a terminal, where that is installed, and as plain text everywhere else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from otel_perf.cli import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TextIO

    from otel_perf.analysis.summary import Report
    from otel_perf.cli.sections import Section

_GAP: Final = 2  # spaces between columns
_INDENT: Final = 2
_LEAST: Final = 16  # characters of a name, beneath which its letters would stand one above the other


def show(report: Report, *, asked: str = "", to: TextIO | None = None) -> None:
    """Print the whole report to a stream (default: standard output)."""
    stream = to or sys.stdout
    console = _console(stream)
    if console is None:
        print(text.render(report, asked=asked), file=stream)
        return
    from otel_perf.cli.sections import of

    draw(console, of(report, asked))


def draw(console: Any, sections: Iterable[Section]) -> None:
    """Print ``sections`` on a rich console."""
    for section in sections:
        _show(console, section)
        console.print()


def _console(stream: TextIO) -> Any:
    """A rich console, or ``None`` where lines are better: no terminal, a dumb one, or no rich."""
    if not stream.isatty() or os.environ.get("TERM", "") in {"", "dumb"}:
        return None
    try:
        from rich.console import Console
    except ImportError:  # pip install 'otel-perf[rich]'
        return None
    return Console(file=stream, highlight=False)  # honours NO_COLOR


def _show(console: Any, section: Section) -> None:
    from rich.padding import Padding
    from rich.text import Text

    # Names come from the program that is looked at: as Text they are no markup.
    console.print(Text(section.title, style="bold" if section.rows or section.after else ""))
    if section.beneath:
        _show_findings(console, section)
    elif section.rows:
        for part in _tabulated(section, console.width - _INDENT):
            console.print(Padding(part, (0, 0, 0, _INDENT)))
    for sentence in section.after:
        console.print(Padding(Text(sentence), (0, 0, 0, 2)))


def _tabulated(section: Section, width: int) -> Iterator[Any]:
    """As a table within ``width`` characters, in which nothing is cut: what is too long goes on in the next line.

    Where that leaves no room for ids, each is beneath its row; where numbers have none, a row is a block of its own.
    """
    columns = range(len(section.headings))
    names = [number for number in columns if not _is_id(section.headings[number])]
    for shown in (columns, names):
        widths = _widths(section, shown, width)
        if widths is not None:
            yield from _table(section, shown, widths)
            return
    yield from _blocks(section, width)


def _table(section: Section, shown: Sequence[int], widths: Sequence[int]) -> Iterator[Any]:
    """The columns that are ``shown``. In several parts if ids are beneath the rows."""
    from rich.text import Text

    table = _headed(section, shown, widths)
    for row in section.rows:
        table.add_row(*(Text(row[number]) for number in shown))
        beneath = [number for number, cell in enumerate(row) if cell and number not in shown]
        if beneath:
            yield table
            for number in beneath:
                yield Text(f"  {section.headings[number].lower()} {row[number]}", style="dim")
            table = _headed(section, shown, widths, header=False)
    if table.row_count:
        yield table


def _headed(section: Section, shown: Sequence[int], widths: Sequence[int], *, header: bool = True) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim", show_header=header)
    for number, wide in zip(shown, widths, strict=True):
        heading, is_text = section.headings[number], number in section.left
        table.add_column(
            heading.lower(), justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold",
            style="dim" if _is_id(heading) else "", width=wide,
        )  # fmt: skip
    return table


def _blocks(section: Section, width: int) -> Iterator[Any]:
    """A row's name, and beneath it what it says with its headings, as many in a line as there is room for."""
    from rich.padding import Padding
    from rich.text import Text

    for row in section.rows:
        yield Text(row[0])
        line = Text()
        for heading, cell in zip(section.headings[1:], row[1:], strict=True):
            if not cell:
                continue
            said = Text.assemble((f"{heading.lower()} ", "dim"), (cell, "dim" if _is_id(heading) else ""))
            if line and line.cell_len + _GAP + said.cell_len > width - _INDENT:
                yield Padding(line, (0, 0, 0, _INDENT))
                line = Text()
            line = Text("  ").join([line, said]) if line else said
        yield Padding(line, (0, 0, 0, _INDENT))


def _is_id(heading: str) -> bool:
    return heading.endswith((" TRACE", "TRACE ID"))


def _widths(section: Section, shown: Sequence[int], width: int) -> list[int] | None:
    """Of each column. Without room text is made narrower, the widest first; ``None`` if that is not enough."""
    from rich.cells import cell_len

    columns = list(zip(section.headings, *section.rows, strict=True))
    widths = {number: max(map(cell_len, columns[number])) for number in shown}
    room = width - _GAP * (len(widths) - 1)
    while sum(widths.values()) > room:
        may = [
            (wide, number)
            for number, wide in widths.items()
            if number in section.left and not _is_id(section.headings[number]) and wide > _LEAST
        ]
        if not may:
            return None
        widths[max(may)[1]] -= 1
    return list(widths.values())


def _show_findings(console: Any, section: Section) -> None:
    """One block each: what it is and saves, then the sentence."""
    from rich.padding import Padding
    from rich.text import Text

    for number, row in enumerate(section.rows):
        cells = dict(zip(section.headings, row, strict=True))
        line = Text()
        line.append("● ", style="red")
        line.append(cells.pop("KIND"), style="bold red")
        where, trace = cells.pop("WHERE"), cells.pop("IN TRACE")
        for heading, cell in cells.items():
            line.append(f"  {heading.lower()} ", style="dim")
            line.append(cell, style="bold" if heading == "SAVES" else "")
        line.append(f"  {where}", style="cyan")
        console.print(Padding(line, (0, 0, 0, 2)))
        for sentence in section.beneath.get(number, ()):
            console.print(Padding(Text(sentence), (0, 0, 0, 4)))
        if trace:
            console.print(Padding(Text(f"in trace {trace}", style="dim"), (0, 0, 0, 4)))
