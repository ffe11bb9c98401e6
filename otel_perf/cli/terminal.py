"""Shows the report: with rich in a terminal, where that is installed, and as plain text everywhere else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from otel_perf.cli import text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from otel_perf.analysis.summary import Report
    from otel_perf.cli.sections import Section

_GAP: Final = 2  # spaces between columns
_LEAST: Final = (16, 8, 1)  # characters that are left of names, of ids, and of numbers


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
        console.print(Padding(_table(section, console.width - 2), (0, 0, 0, 2)))
    for sentence in section.after:
        console.print(Padding(Text(sentence), (0, 0, 0, 2)))


def _table(section: Section, width: int) -> Any:
    """Within ``width`` characters, as long as numbers can stay whole."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for number, (heading, wide) in enumerate(zip(section.headings, _widths(section, width), strict=True)):
        table.add_column(
            heading.lower(), justify="left" if number in section.left else "right", no_wrap=True, overflow="ellipsis",
            style="dim" if _is_id(heading) else "", width=wide,
        )  # fmt: skip
    for row in section.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _is_id(heading: str) -> bool:
    return heading.endswith((" TRACE", "TRACE ID"))


def _widths(section: Section, width: int) -> list[int]:
    """Of each column. Where there is no room, names are cut first, the widest most, then ids, numbers at last."""
    from rich.cells import cell_len

    columns = zip(section.headings, *section.rows, strict=True)
    widths = [max(map(cell_len, cells)) for cells in columns]
    kinds = [
        1 if _is_id(heading) else 0 if number in section.left else 2 for number, heading in enumerate(section.headings)
    ]
    room = width - _GAP * len(widths)
    for kind, least in enumerate(_LEAST):
        while sum(widths) > room:
            may = [(wide, number) for number, wide in enumerate(widths) if kinds[number] <= kind and wide > least]
            if not may:
                break
            widths[max(may)[1]] -= 1
    return widths


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
