"""Business events, requests and summaries in the report."""

import json

from opentelemetry import trace
from opentelemetry.trace import SpanKind

import otel_perf as perf
from otel_perf.analysis.summary import summarize
from otel_perf.cli import main
from otel_perf.store.database import StoreReader


def report_of(home):
    reader = StoreReader(home)
    try:
        return summarize(reader)
    finally:
        reader.close()


def serve(route, status=200, attributes=()):
    given = {"http.request.method": "GET", "http.route": route, "http.response.status_code": status}
    with trace.get_tracer("t").start_as_current_span(route, kind=SpanKind.SERVER, attributes=given):
        for _ in range(2):
            with trace.get_tracer("t").start_as_current_span("q", kind=SpanKind.CLIENT, attributes={"db.system": "x"}):
                pass
        perf.business_event("order.seen", status=status)


def test_the_report_has_them(start, home, capsys, absorbing):
    pipeline = start(OTEL_PERF_LOGS_SUMMARY="1h")
    for status in (200, 200, 500):
        serve("/a", status)
    perf.business_event("")
    pipeline.shutdown()
    report = report_of(home)
    (request,) = report.requests
    assert (request.name, request.count, request.failed, request.db_calls) == ("GET /a", 3, 1, 6)
    assert 0 < request.p50 <= request.p99 <= request.longest
    assert request.longest_trace
    seen, wrong = report.events
    assert (seen.name, seen.count, seen.traces, seen.invalid) == ("order.seen", 3, 3, 0)
    assert (wrong.count, wrong.invalid) == (1, 1)
    assert "is no name" in wrong.reason
    (summary,) = report.summaries
    assert "3 requests (1 failed" in summary.text
    assert report.logs.records == 0  # none of them is a line of the app's
    assert [group for group in report.errors if "log" in group.source] == []
    main(["report", "--home", str(home)])
    printed = capsys.readouterr().out
    for part in (
        "Requests, by their time",
        "GET /a",
        "Business events",
        "order.seen",
        "The last summary of each process",
    ):
        assert part in printed


def test_there_is_no_section_for_what_is_not_there(start, home, capsys):
    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("a"):
        pass
    pipeline.shutdown()
    main(["report", "--home", str(home)])
    printed = capsys.readouterr().out
    for part in ("Requests", "Business events", "summary"):
        assert part not in printed
    main(["report", "--json", "--home", str(home)])
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == found["events"] == found["summaries"] == []
