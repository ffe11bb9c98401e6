"""Findings become rows by the line that has to be mended."""

import pytest

from otel_perf.analysis.bottlenecks import ANYWHERE, Bottlenecks
from otel_perf.analysis.otlp import LogEntry
from otel_perf.core.events import BOTTLENECK


def finding(kind="n_plus_one", *, cost=1.0, culprit="SELECT", line=7, trace="a", service="shop", event=BOTTLENECK.name):
    place = {"code.function.name": "load", "code.file.path": "app.py", "code.line.number": line} if line else {}
    attributes = {
        "perf.bottleneck.kind": kind,
        "perf.bottleneck.cost": cost,
        "perf.bottleneck.culprit": culprit,
        **place,
    }
    body = f"{culprit} took {cost:g} s"
    return LogEntry(trace, "b", 1, 13, "WARN", body, event, attributes, "otel_perf", {"service.name": service})


def rows(*entries):
    found = Bottlenecks()
    assert all(found.add(entry) for entry in entries)
    return found.rows()


def test_other_events_are_none():
    assert not Bottlenecks().add(finding(event="perf.uncaught_error"))


def test_findings_at_one_line_are_one_row_that_shows_the_costliest():
    """GIVEN three findings at a line, two in one trace WHEN they are gathered THEN costs add up, traces count once."""
    (row,) = rows(finding(cost=1.0), finding(cost=3.0, culprit="GET", trace="c"), finding(cost=2.5, trace="c"))
    assert (row.findings, row.traces, row.cost, row.worst) == (3, 2, 6.5, 3.0)
    assert (row.evidence, row.trace_id, row.where) == ("GET took 3 s", "c", "app.py:7")
    assert (row.function, row.path, row.line) == ("load", "app.py", 7)
    assert row.culprits == ["GET", "SELECT"]


def test_what_is_of_no_trace_counts_as_none():
    (row,) = rows(finding(trace=""), finding(trace="a"), finding(trace=""))
    assert (row.findings, row.traces) == (3, 1)


@pytest.mark.parametrize("other", [{"line": 8}, {"kind": "slow_io"}, {"service": "payment"}])
def test_another_line_kind_or_service_is_another_row(other):
    assert len(rows(finding(), finding(**other))) == 2


def test_without_a_line_the_culprit_is_the_place():
    found = rows(finding(line=0, culprit="GIL"), finding(line=0, culprit="CPU"), finding(line=0, culprit="GIL"))
    assert [(row.where, row.findings, row.line) for row in found] == [("GIL", 2, 0), ("CPU", 1, 0)]


def test_the_line_that_set_off_a_collection_is_no_place():
    (culprit,) = ANYWHERE
    (row,) = rows(finding("gc_pause", culprit=culprit), finding("gc_pause", culprit=culprit, line=8))
    assert (row.where, row.findings) == (culprit, 2)
    asked = rows(finding("gc_pause", culprit="load"), finding("gc_pause", culprit="load", line=8))
    assert len(asked) == 2


def test_the_row_that_saves_most_is_first():
    found = rows(finding(cost=2.0), finding(cost=1.5, line=8), finding(cost=1.5, line=8))
    assert [row.line for row in found] == [8, 7]
