"""The report in a terminal with rich: nothing of it is cut, however narrow."""

import io

import pytest
from rich.console import Console

from otel_perf.cli.sections import Section
from otel_perf.cli.terminal import draw

TRACE = "0123456789abcdef0123456789abcdef"
NAME = "GET /orders/{order}/items/{item}"


def drawn(section, width):
    """What is on the screen, line by line."""
    written = io.StringIO()
    draw(Console(file=written, width=width, color_system=None, highlight=False), [section])
    return [line.rstrip() for line in written.getvalue().splitlines()]


def operations(*figures):
    headings = ["OPERATION", *(f"FIGURE {number}" for number in range(len(figures))), "IN TRACE"]
    row = [NAME, *figures, TRACE]
    return Section("Operations", headings, [row, [NAME, *figures, ""]], (0, len(headings) - 1))


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 200])
def test_nothing_is_cut_and_ids_stay_whole(width):
    """GIVEN more columns than there is room for WHEN they are drawn THEN numbers stay whole, and ids can be copied."""
    figures = [f"{number}00 ms" for number in range(1, 8)]
    lines = drawn(operations(*figures), width)
    assert all(len(line) <= width for line in lines)
    assert any(TRACE in line for line in lines)
    assert "…" not in "".join(lines)
    assert all(any(figure in line for line in lines) for figure in figures), "a number stays with its unit"


def test_ids_are_beside_their_rows_where_there_is_room():
    lines = drawn(operations("1 ms"), 120)
    assert lines[1].split() == ["operation", "figure", "0", "in", "trace"]
    assert lines[2] == f"  {NAME}      1 ms  {TRACE}"


def test_ids_are_beneath_their_rows_where_there_is_none():
    """AND a row without one has nothing beneath it, and the columns stay where they were."""
    lines = drawn(operations("1 ms", "2 ms"), 70)
    assert lines[1:] == [
        "  operation                         figure 0  figure 1",
        f"  {NAME}      1 ms      2 ms",
        f"    in trace {TRACE}",
        f"  {NAME}      1 ms      2 ms",
        "",
    ]


def test_rows_are_blocks_where_numbers_have_no_room():
    lines = drawn(operations("100 ms", "200 ms", "300 ms", "400 ms"), 56)
    assert lines[1:5] == [
        f"  {NAME}",
        "    figure 0 100 ms  figure 1 200 ms  figure 2 300 ms",
        "    figure 3 400 ms",
        f"    in trace {TRACE}",
    ]


def test_long_names_go_on_in_the_next_line():
    lines = drawn(operations("1 ms", "2 ms", "3 ms"), 60)
    assert lines[1:5] == [
        "  operation                     figure 0  figure 1  figure 2",
        "  GET                               1 ms      2 ms      3 ms",
        "  /orders/{order}/items/{item}",
        f"    in trace {TRACE}",
    ]
