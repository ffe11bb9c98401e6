"""structlog's lines have ids and are exported once, and the app's configuration is its own."""

import asyncio
import io
import json
import logging

import pytest
import structlog
from opentelemetry import trace

import otel_perf as perf
from otel_perf.logs import libraries
from tests import stored


def logs(home):
    """What was said; a busy machine may be slow enough for findings, which are events."""
    return [entry for entry in stored.logs(home) if not entry.event_name]


@pytest.fixture(autouse=True)
def _defaults():
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def printed():
    """A configuration that prints JSON, and what it printed."""
    out = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(out),
    )
    return lambda: [json.loads(line) for line in out.getvalue().splitlines()]


def in_span():
    return trace.get_tracer("t").start_as_current_span("s")


def hexed(span):
    ids = span.get_span_context()
    return {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"}


def test_events_in_a_span_have_its_ids_and_others_are_untouched(start, printed):
    start()
    log = structlog.get_logger()
    log.info("out", a=1)
    with in_span() as span:
        log.info("in %d", 5, b=2)
        with perf.correlation("job-17"):
            log.bind(c=3).warning("bound")
    with perf.correlation("job-18"):
        log.info("no span")
    assert printed() == [
        {"event": "out", "a": 1, "level": "info"},
        {"event": "in 5", "b": 2, "level": "info", **hexed(span)},
        {"event": "bound", "c": 3, "level": "warning", "correlation_id": "job-17", **hexed(span)},
        {"event": "no span", "correlation_id": "job-18", "level": "info"},
    ]


@pytest.mark.parametrize("when", ["before", "after", "before, cached"])
def test_it_does_not_matter_when_the_app_configures(start, when):
    out, log = io.StringIO(), structlog.get_logger()

    def configure():
        structlog.configure(
            processors=[structlog.processors.KeyValueRenderer(sort_keys=True)],
            logger_factory=structlog.PrintLoggerFactory(out), cache_logger_on_first_use="cached" in when,
        )  # fmt: skip

    if "before" in when:
        configure()
        log.info("first")
    pipeline = start()
    if when == "after":
        configure()
    with in_span() as span:
        log.info("x")
        log.info("bound", trace_id="theirs")
        log.bind(trace_id="theirs too").info("bound")
    pipeline.shutdown()
    log.info("last")
    ids = hexed(span)
    said = out.getvalue().splitlines()[-4:]
    assert said[0] == f"event='x' span_id='{ids['span_id']}' trace_id='{ids['trace_id']}'"
    assert "trace_id='theirs'" in said[1]
    assert "trace_id='theirs too'" in said[2]
    assert said[3] == "event='last'"


def test_every_line_is_exported_once(start, home, printed):
    pipeline = start()
    log = structlog.get_logger(service="shop")
    with in_span() as span, perf.correlation("job-17"):
        log.info("placed", order=7, what=object)
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            log.exception("failed")
    pipeline.shutdown()
    placed, failed = logs(home)
    assert (placed.body, placed.scope, placed.severity_text, placed.severity) == ("placed", __name__, "INFO", 9)
    assert placed.attributes == {
        "order": 7, "what": "<class 'object'>", "service": "shop", "perf.correlation.id": "job-17",
    }  # fmt: skip
    assert (failed.severity_text, failed.attributes["exception.type"]) == ("ERROR", "ZeroDivisionError")
    assert {placed.trace_id, failed.trace_id} == {hexed(span)["trace_id"]}
    assert len(printed()) == 2


def test_ids_of_the_apps_own_are_exported_with_its_fields(start, home, printed):
    pipeline = start()
    with in_span() as span:
        structlog.get_logger(correlation_id="theirs").info("x")
    pipeline.shutdown()
    (entry,) = logs(home)
    assert entry.attributes == {"correlation_id": "theirs"}
    assert printed() == [{"event": "x", "correlation_id": "theirs", "level": "info", **hexed(span)}]


def test_what_the_apps_processors_do_is_what_is_exported(start, home):
    def hide(logger, method, event):
        event["password"] = "***"
        return event

    def drop(logger, method, event):
        if event["event"] == "noise":
            raise structlog.DropEvent
        return event

    structlog.configure(
        processors=[hide, drop, structlog.processors.format_exc_info, structlog.processors.LogfmtRenderer()],
        logger_factory=structlog.PrintLoggerFactory(io.StringIO()),
    )
    pipeline = start(OTEL_PYTHON_LOG_CODE_ATTRIBUTES="true", OTEL_PERF_LOGS_REDACT="off")
    structlog.get_logger().info("noise")
    try:
        raise KeyError("k")
    except KeyError:
        structlog.get_logger().error("login", password="secret", exc_info=True)
    pipeline.shutdown()
    (entry,) = logs(home)
    assert entry.attributes["password"] == "***"
    assert "KeyError: 'k'" in entry.attributes["exception.stacktrace"]
    assert entry.attributes["code.file.path"] == __file__
    assert entry.attributes["code.function.name"].startswith("test_what_the_apps")


def test_text_that_was_made_before_the_last_processor_is_exported(start, home):
    structlog.configure(
        processors=[structlog.processors.JSONRenderer(), lambda logger, method, text: text + "!"],
        logger_factory=structlog.PrintLoggerFactory(out := io.StringIO()),
    )
    pipeline = start()
    structlog.get_logger().warn("x")
    pipeline.shutdown()
    assert [entry.body for entry in logs(home)] == ['{"event": "x"}']
    assert out.getvalue() == '{"event": "x"}!\n'


@pytest.mark.parametrize("renderer", ["json", "kwargs", "formatter"])
def test_through_the_standard_library_it_is_exported_there(start, home, renderer):
    last = {
        "json": structlog.processors.JSONRenderer(sort_keys=True),
        "kwargs": structlog.stdlib.render_to_log_kwargs,
        "formatter": structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    }[renderer]
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, last],
        logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger,
    )  # fmt: skip
    pipeline = start()
    with in_span() as span:
        structlog.get_logger("shop.orders").warning("placed", order=7)
    pipeline.shutdown()
    (entry,) = logs(home)
    ids = hexed(span)
    assert (entry.scope, entry.severity_text, entry.trace_id) == ("shop.orders", "WARN", ids["trace_id"])
    if renderer == "json":
        assert json.loads(entry.body) == {"event": "placed", "level": "warning", "order": 7, **ids}
    else:
        assert entry.body == "placed"
        assert {key: value for key, value in entry.attributes.items() if key != "level"} == {"order": 7}


def test_the_place_is_the_apps(start, printed):
    out = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.CallsiteParameterAdder(), structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(out),
    )
    start()
    structlog.get_logger().info("x")
    assert json.loads(out.getvalue())["func_name"] == "test_the_place_is_the_apps"


def test_lines_from_coroutines_have_ids_and_place(start, home, printed):
    pipeline = start(OTEL_PYTHON_LOG_CODE_ATTRIBUTES="true")

    async def main():
        with in_span() as span:
            await structlog.get_logger().ainfo("async")
            return span

    span = asyncio.run(main())
    pipeline.shutdown()
    (line,) = printed()
    assert line.items() >= hexed(span).items()
    (entry,) = [entry for entry in logs(home) if entry.body == "async"]
    assert entry.attributes["code.function.name"] == "main"


@pytest.mark.usefixtures("absorbing")
def test_an_internal_error_leaves_the_line_alone(start, printed, monkeypatch):
    pipeline = start()
    monkeypatch.setattr("otel_perf.logs.structlog_lines.Ids", lambda *_: 1 / 0)
    structlog.get_logger().info("still here")
    monkeypatch.undo()
    monkeypatch.setattr("otel_perf.logs.export.Exporter.line", lambda *_, **__: 1 / 0)
    structlog.get_logger().info("and here")
    assert {"still here", "and here"} <= {line["event"] for line in printed()}
    assert pipeline.guards["logs"].errors == 2


def test_the_undo_restores(start):
    from structlog._base import BoundLoggerBase

    before = BoundLoggerBase._process_event
    pipeline = start()
    assert BoundLoggerBase._process_event is not before
    pipeline.shutdown()
    assert BoundLoggerBase._process_event is before


class Composed(list):
    """Stands for the JSON encoder, which has tests of its own."""

    def __call__(self, **parts):
        self.append(parts)
        return f"composed {parts['message']}"


@pytest.fixture
def composed(monkeypatch):
    made = Composed()
    original = libraries.install
    monkeypatch.setattr(libraries, "install", lambda lines, undo: original(_with(lines, compose=made), undo))
    return made


def _with(lines, **changes):
    for name, value in changes.items():
        setattr(lines, name, value)
    return lines


@pytest.mark.parametrize("kind", ["PrintLogger", "WriteLogger", "BytesLogger"])
def test_json_takes_the_renderers_place(start, composed, kind):
    out = io.BytesIO() if kind == "BytesLogger" else io.StringIO()
    structlog.configure(logger_factory=getattr(structlog, f"{kind}Factory")(out))
    start()
    error = ValueError("x")
    with in_span() as span, perf.correlation("job-17"):
        structlog.get_logger().error("bad", a=1, exc_info=error)
    text = out.getvalue()
    assert (text.decode() if isinstance(text, bytes) else text) == "composed bad\n"
    (parts,) = composed
    ids = hexed(span)
    assert parts.pop("time") > 0
    assert parts.pop("place")[0::2] == (__file__, "test_json_takes_the_renderers_place")
    assert parts == {
        "level": "ERROR", "levelno": logging.ERROR, "logger": __name__, "message": "bad", "attributes": {"a": 1},
        "error": error, "ids": (ids["trace_id"], ids["span_id"], True), "correlation": "job-17",
    }  # fmt: skip


def test_a_filter_drops_lines(start, home, printed, monkeypatch):
    asked = []
    original = libraries.install

    def keep_line(*given):
        asked.append(given)
        return given[2] != "noise"

    monkeypatch.setattr(libraries, "install", lambda lines, undo: original(_with(lines, keep_line=keep_line), undo))
    pipeline = start()
    structlog.get_logger().debug("noise")
    structlog.get_logger().info("news")
    pipeline.shutdown()
    assert [line["event"] for line in printed()] == [entry.body for entry in logs(home)] == ["news"]
    assert [(name, level, text, place[0]) for name, level, text, place in asked] == [
        (__name__, logging.DEBUG, "noise", __file__), (__name__, logging.INFO, "news", __file__),
    ]  # fmt: skip
