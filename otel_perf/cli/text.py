"""Numbers, tables and sections as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_perf.analysis.summary import Report
    from otel_perf.cli.sections import Section

WIDTH: Final = 110  # of sentences


def seconds(value: float) -> str:
    """A duration with three significant digits and a fitting unit."""
    if value >= 99.995:
        return f"{value:.0f} s"
    if value >= 0.9995:  # what is rounded to a thousand milliseconds is a second
        return f"{value:.2f} s"
    if value >= 0.9995e-3:
        return f"{value * 1e3:.3g} ms"
    if value >= 0.9995e-6:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1e9:.0f} ns"


def size(value: float) -> str:
    """Bytes in decimal units."""
    sign = "-" if value < 0 else ""
    value = abs(value)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{sign}{value:.0f} {unit}" if unit == "B" else f"{sign}{value:.1f} {unit}"
        value /= 1000
    return f"{sign}{value:.1f} GB"


def percent(share: float) -> str:
    """``25%``; what is above nothing is not ``0%``, nor what is below all of it ``100%``."""
    shown = f"{share:.0%}"
    return f"{share * 100:.3g}%" if share not in {0.0, 1.0} and shown in {"0%", "100%"} else shown


def counted(number: int, thing: str) -> str:
    """``1 span``, ``2 spans``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Aligned columns, numbers to the right; the columns in ``left`` are text."""
    cells = [list(headings), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def printable(value: str) -> str:
    """``value`` with a mark for each character that is none to be seen, of which escapes are the harmful ones."""
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in value)


def clip(value: str, width: int) -> str:
    """``value`` on one line of at most ``width`` characters."""
    line = printable(" ".join(value.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def clip_left(value: str, width: int) -> str:
    """The end of ``value``, where a path is telling."""
    line = printable(value)
    return line if len(line) <= width else "…" + line[1 - width :]


def render(report: Report, *, asked: str = "") -> str:
    """The whole report; ``asked`` are the options that chose a part of the store."""
    from otel_perf.cli.sections import of  # which uses what is above

    return "\n".join(line for section in of(report, asked) for line in (*lines_of(section), "")).rstrip("\n")


def lines_of(section: Section) -> list[str]:
    """One section: its title, the table with what belongs beneath its rows, and what follows."""
    lines = [section.title] if section.title else []
    if section.rows:
        first, *rows = table(section.headings, section.rows, left=section.left)
        lines.append(first)
        for number, row in enumerate(rows):
            lines.append(row)
            for sentence in section.beneath.get(number, ()):
                lines += _wrapped(sentence, " " * 6, " " * 6)
    for sentence in section.after:
        lines += _wrapped(sentence, "  " if section.title else "", "    ")
    return lines


def _wrapped(sentence: str, first: str, others: str) -> list[str]:
    """Paths stay whole, so that they can be copied."""
    return textwrap.wrap(
        sentence, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
