"""Each detector has its settings; a wrong value is one line, and the rest goes on."""

import time

import pytest
from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks.detectors import DETECTORS, load_all
from tests.bottlenecks.conftest import MS


def ago(milliseconds):
    return time.time_ns() - int(milliseconds * MS)


def queries(app, number, milliseconds):
    """One root with so many queries, each so long, made after the fact."""
    start = ago(number * (milliseconds + 1) + 1)
    from opentelemetry import trace

    root = app.tracer.start_span("root", start_time=start)
    context = trace.set_span_in_context(root)
    for _ in range(number):
        app.tracer.start_span("query", context, kind=SpanKind.CLIENT, start_time=start).end(start + milliseconds * MS)
        start += (milliseconds + 1) * MS
    root.end(start + MS)


@pytest.mark.parametrize(("calls", "found"), [(None, True), ("6", True), ("7", False), ("2", True)])
def test_how_many_calls_are_too_many_is_a_setting(app, calls, found):
    app = app(**({"OTEL_PERF_BOTTLENECKS_N_PLUS_ONE_CALLS": calls} if calls else {}))
    queries(app, 6, 20)
    assert ("n_plus_one" in app.kinds()) is found


@pytest.mark.parametrize(("least", "found"), [("100ms", True), ("0.2", False)])
def test_how_long_they_have_to_be_is_a_setting(app, least, found):
    app = app(OTEL_PERF_BOTTLENECKS_N_PLUS_ONE_LEAST=least)
    queries(app, 6, 20)
    assert ("n_plus_one" in app.kinds()) is found


def test_a_detector_can_be_turned_off(app):
    app = app(OTEL_PERF_BOTTLENECKS_SLOW_IO_ENABLED="off")
    queries(app, 1, 700)
    assert app.findings() == []


def test_every_detector_can_be_turned_off():
    environ = {f"OTEL_PERF_BOTTLENECKS_{kind.kind.upper()}_ENABLED": "off" for kind in DETECTORS}
    assert load_all(environ) == ([], [])
    assert len(load_all({})[0]) == len(DETECTORS) == 14


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("N_PLUS_ONE_CALLS", "five"), ("N_PLUS_ONE_CALLS", "1"), ("N_PLUS_ONE_CALLS", "-3"), ("N_PLUS_ONE_CALLS", "5.5"),
        ("N_PLUS_ONE_LEAST", "soon"), ("N_PLUS_ONE_LEAST", "-1s"), ("SERIAL_IO_SHARE", "120%"), ("SERIAL_IO_SHARE", "-0.1"),
        ("SERIAL_IO_SHARE", "nan"), ("SLOW_IO_TIMES", "thrice"), ("SLOW_IO_TIMES", "nan"), ("SLOW_IO_TIMES", "-2"),
        ("SLOW_IO_ENABLED", "perhaps"), ("MEMORY_GROWTH_LEAST", "much"), ("MEMORY_GROWTH_LEAST", "1kB"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_that_says_all(app, caplog, name, value):
    app = app(**{f"OTEL_PERF_BOTTLENECKS_{name}": value})
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"OTEL_PERF_BOTTLENECKS_{name}={value!r}" in line
    assert "; allowed: " in line
    assert "; using " in line
    assert "\n" not in line
    queries(app, 6, 20)
    assert "n_plus_one" in app.kinds()


def test_how_long_a_span_is_open_before_its_stack_is_looked_at_is_a_setting(app, caplog):
    app = app(OTEL_PERF_BOTTLENECKS_SLOW="1h")
    with app.tracer.start_as_current_span("root"):
        time.sleep(0.2)
        (root,) = app.processor.roots.values()
        assert not root.samples
    app.pipeline.shutdown()
    assert caplog.text == ""
