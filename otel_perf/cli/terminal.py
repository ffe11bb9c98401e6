"""Shows the report: with rich in a terminal, where that is installed, and as plain text everywhere else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from otel_perf.cli import text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_perf.analysis.summary import Report
    from otel_perf.cli.sections import Section


def show(report: Report, *, asked: str) -> None:
    """Print the whole report to standard output."""
    console = _console()
    if console is None:
        print(text.render(report, asked=asked))
        return
    from otel_perf.cli.sections import of

    draw(console, of(report, asked))


def draw(console: Any, sections: Iterable[Section]) -> None:
    """Print ``sections`` on a rich console."""
    for section in sections:
        _show(console, section)
        console.print()


def _console() -> Any:
    """A rich console, or ``None`` where lines are better: no terminal, a dumb one, or no rich."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "") in {"", "dumb"}:
        return None
    try:
        from rich.console import Console
    except ImportError:  # pip install 'otel-perf[rich]'
        return None
    return Console(highlight=False)  # honours NO_COLOR


def _show(console: Any, section: Section) -> None:
    from rich.padding import Padding
    from rich.text import Text

    # Names come from the program that is looked at: as Text they are no markup.
    console.print(Text(section.title, style="bold" if section.rows or section.after else ""))
    if section.beneath:
        _show_findings(console, section)
    elif section.rows:
        console.print(Padding(_table(section), (0, 0, 0, 2)))
    for sentence in section.after:
        console.print(Padding(Text(sentence), (0, 0, 0, 2)))


def _table(section: Section) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, heading in enumerate(section.headings):
        is_text = number in section.left
        is_id = heading.endswith(("TRACE", "TRACE ID"))
        table.add_column(
            heading.lower(), justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis",
            style="dim" if is_id else "", ratio=None, min_width=8 if is_text else None,
        )  # fmt: skip
    for row in section.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _show_findings(console: Any, section: Section) -> None:
    """One block each: what it is and saves, then the sentence."""
    from rich.padding import Padding
    from rich.text import Text

    for number, row in enumerate(section.rows):
        cells = dict(zip(section.headings, row, strict=True))
        line = Text("● ", style="red")
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
