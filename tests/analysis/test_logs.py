"""The report's part on logs: right counts of what is stored, and of what is not."""

import json
import logging

import pytest
from opentelemetry import trace

from otel_perf import cli
from otel_perf.analysis.errors import place_of
from otel_perf.analysis.logs import LogLines
from otel_perf.analysis.otlp import LogEntry, Point
from otel_perf.core.events import FOLDED, REPEATED


def entry(body, *, time=1, severity="INFO", service="shop", scope="shop.db", event="", trace_id="", **attributes):
    return LogEntry(trace_id, "", time, 9, severity, body, event, attributes, scope, {"service.name": service})


def dropped(value, *, reason="rate", level="INFO", instance="a", delta=False):
    resource = {"service.name": "shop", "service.instance.id": instance}
    attributes = {"perf.log.reason": reason, "perf.log.level": level}
    return Point("perf.log.dropped", "{record}", 1, value, 1, attributes, "otel_perf", resource, delta)


def test_lines_are_grouped_by_template_logger_and_severity():
    lines = LogLines()
    lines.add(entry("order 2 taken", time=5))
    lines.add(entry("order 1 taken", time=3, trace_id="ab"))
    lines.add(entry("order 3 taken", time=4))
    lines.add(entry("order 3 taken", severity="WARN"))
    lines.add(entry("order 3 taken", scope="other"))
    lines.add(entry("", event="order.placed"))
    lines.add(entry("ours", event="perf.request"))
    logs = lines.logs(10)
    assert logs.records == 7
    first, *others = logs.patterns
    assert first.model_dump() == {
        "service": "shop", "logger": "shop.db", "severity": "INFO", "template": "order <*> taken", "count": 3, "folded": 0,
        "first_ns": 3, "last_ns": 5, "example": "order 1 taken", "trace_id": "ab",
    }  # fmt: skip
    assert {(row.template, row.severity, row.logger, row.count) for row in others} == {
        ("order <*> taken", "WARN", "shop.db", 1),
        ("order <*> taken", "INFO", "other", 1),
        ("order.placed", "INFO", "shop.db", 1),
    }
    assert len(lines.logs(2).patterns) == 2


def test_lines_that_were_folded_are_counted_with_the_one_that_went_out():
    lines = LogLines()
    lines.add(entry("no answer", time=1))
    lines.add(entry(f"no answer{REPEATED}41 more, a to b)", time=9, **{FOLDED: 41}))
    (row,) = lines.logs(10).patterns
    assert (row.template, row.count, row.folded, row.last_ns, row.example) == ("no answer", 42, 41, 9, "no answer")


def test_what_was_dropped_is_added_over_processes_and_over_points_of_delta():
    lines = LogLines()
    for value in (5, 9):  # since the start: the last one says it all
        lines.add_point(dropped(value))
    lines.add_point(dropped(1, level="DEBUG"))
    for value in (2, 3):
        lines.add_point(dropped(value, instance="b", delta=True))
    lines.add_point(dropped(4, reason="fold"))
    assert lines.logs(1).dropped == {"fold": 4, "rate": 15}


LIBRARY = "/usr/lib/python3/dist-packages/lib/x.py"
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/api.py", line 10, in handle
    place(order)
  File "/srv/shop/orders.py", line 20, in place
    json.loads(order)
  File "/opt/python/lib/python3.12/json/__init__.py", line 346, in loads
    return _default_decoder.decode(s)
  File "/srv/venv/lib/python3.12/site-packages/orm/session.py", line 5, in run
ValueError: no
"""


@pytest.mark.parametrize(
    ("stacktrace", "place"),
    [
        (TRACEBACK, "shop/orders.py:20 in place"),
        ('  + Exception Group Traceback (most recent call last):\n  |   File "/a/b/c.py", line 3, in f', "b/c.py:3 in f"),
        (TRACEBACK + "\nDuring handling of the above exception, another exception occurred:\n\n"
         'Traceback (most recent call last):\n  File "/srv/shop/api.py", line 12, in handle\n', "shop/api.py:12 in handle"),
        (f'Traceback (most recent call last):\n  File "{LIBRARY}", line 1, in g\n', "lib/x.py:1 in g"),
        ('Traceback (most recent call last):\n  File "C:\\shop\\api.py", line 1, in g\n', "shop/api.py:1 in g"),
        ('Traceback (most recent call last):\n  File "/venv/site-packages/otel_perf/signals/api.py", line 1, in wait\n', ""),
        ("", ""),
        (None, ""),
        ("no traceback", ""),
    ],
)  # fmt: skip
def test_the_place_of_an_error_is_the_apps_innermost_line(stacktrace, place):
    assert place_of(stacktrace) == place


def test_errors_are_grouped_by_type_and_place_wherever_they_were_seen(start, home, capsys):
    class OrderError(Exception):
        pass

    def fail():
        raise OrderError("no stock")

    pipeline = start()
    tracer = trace.get_tracer("t")
    for name in ("GET /a", "GET /b"):
        try:
            with tracer.start_as_current_span(name):
                fail()
        except OrderError:
            logging.getLogger("shop").exception("failed")  # of the span that it ended: the same error
    try:
        fail()
    except OrderError:
        logging.getLogger("shop").exception("failed")
    pipeline.shutdown()
    assert cli.main(["report", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["errors"]
    assert group["count"] == 3
    assert group["place"] == f"analysis/test_logs.py:{fail.__code__.co_firstlineno + 1} in fail"
    assert group["type"].endswith("OrderError")
    assert cli.main(["report"]) == 0
    assert group["place"] in capsys.readouterr().out


def test_the_report_shows_patterns_and_what_was_dropped(start, home, capsys):
    pipeline = start(OTEL_PERF_LOGS_RATE="3/h", OTEL_PERF_LOGS_FOLD="1h")
    for number in range(10):
        logging.getLogger("shop").warning("no answer")
        logging.getLogger("shop").warning("order %d refused", number)
    pipeline.shutdown()
    assert cli.main(["report", "--json"]) == 0
    logs = json.loads(capsys.readouterr().out)["logs"]
    assert logs["dropped"] == {"fold": 9, "rate": 7}
    counted = {row["template"]: (row["count"], row["folded"]) for row in logs["patterns"] if row["logger"] == "shop"}
    assert counted == {"no answer": (10, 9), "order <*> refused": (3, 0)}
    assert cli.main(["report"]) == 0
    out = capsys.readouterr().out
    assert "not among them: 9 by fold, 7 by rate" in out
    row = next(line for line in out.splitlines() if "order <*> refused" in line)
    assert row.split()[:6] == ["order", "<*>", "refused", "WARN", "shop", "3"]
