"""loguru's records have ids and are exported once, and the app's patchers, handlers and bindings are its own."""

import copy
import inspect
import io
import json
import logging
import pickle

import pytest
from loguru import logger
from opentelemetry import trace

import otel_perf as perf
from otel_perf.logs import libraries
from otel_perf.logs.correlation import CORRELATION_ID, SAMPLED, SERVICE_NAME, SPAN_ID, TRACE_ID
from tests.logs.test_structlog_lines import Composed, _with, hexed, in_span, logs

IDS = "{extra[otelTraceID]} {extra[otelSpanID]} {extra[otelTraceSampled]} {extra[otelServiceName]} {extra[otelCorrelationID]}"


@pytest.fixture(autouse=True)
def _defaults():
    logger.remove()
    logger.configure(extra={}, patcher=lambda record: None)
    yield
    logger.remove()
    logger.configure(extra={}, patcher=lambda record: None)


@pytest.fixture
def out():
    return io.StringIO()


def test_records_have_the_ids(start, out):
    start()
    logger.add(out, format=f"{IDS} {{message}}")
    logger.info("out")
    with in_span() as span, perf.correlation("job-17"):
        logger.bind(a=1).info("in {}", 5)
    ids = hexed(span)
    assert out.getvalue().splitlines() == [
        "0 0 False shop 0 out",
        f"{ids['trace_id']} {ids['span_id']} True shop job-17 in 5",
    ]


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_apps_patchers_have_the_last_word(start, out, when):
    def configure():
        logger.configure(
            handlers=[{"sink": out, "format": "{extra[otelTraceID]} {extra[tenant]} {message}"}],
            patcher=lambda record: record["extra"].update(tenant="t1"),
        )

    if when == "before":
        configure()
    pipeline = start()
    if when == "after":
        configure()
    with in_span() as span:
        logger.info("x")
        logger.patch(lambda record: record["extra"].update({TRACE_ID: "theirs"})).info("y")
        logger.bind(**{TRACE_ID: "bound"}).info("z")
    pipeline.shutdown()
    assert out.getvalue().splitlines() == [f"{hexed(span)['trace_id']} t1 x", "theirs t1 y", "bound t1 z"]
    sink = logger.add(lambda message: out.write(str(message.record["extra"])))
    logger.info("last")
    logger.remove(sink)
    assert out.getvalue().endswith("{'tenant': 't1'}")


def test_every_line_is_exported_once_whatever_the_handlers(start, home, out):
    pipeline = start(OTEL_PYTHON_LOG_CODE_ATTRIBUTES="true")
    logger.add(out)
    logger.add(out, serialize=True)
    logger.add(out, level="ERROR")
    with in_span() as span:
        logger.success("placed", order=7)
        logger.trace("too low for a handler")
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            logger.opt(exception=True).error("failed")
    pipeline.shutdown()
    placed, failed = logs(home)
    assert (placed.body, placed.scope, placed.severity_text, placed.severity) == ("placed", __name__, "SUCCESS", 12)
    assert placed.attributes["order"] == 7
    assert placed.attributes["code.function.name"].startswith("test_every_line")
    assert not [key for key in placed.attributes if key.startswith("otel")]
    assert failed.attributes["exception.type"] == "ZeroDivisionError"
    assert {placed.trace_id, failed.trace_id} == {hexed(span)["trace_id"]}


def test_a_patcher_that_hides_something_hides_it_from_the_export(start, home, out):
    def hide(record):
        record["message"] = record["message"].replace("secret", "***")

    pipeline = start()
    logger.add(out)
    logger.patch(hide).info("a secret")
    pipeline.shutdown()
    assert [entry.body for entry in logs(home)] == ["a ***"]


def test_lines_from_the_standard_library_are_exported_there(start, home, out):
    class Intercept(logging.Handler):
        def emit(self, record):
            frame, depth = inspect.currentframe(), 0
            while frame and (depth == 0 or frame.f_code.co_filename == logging.__file__):
                frame, depth = frame.f_back, depth + 1
            logger.opt(depth=depth, exception=record.exc_info).log(record.levelname, record.getMessage())

    pipeline = start()
    logger.add(out, format="{extra[otelTraceID]} {function} {message}")
    theirs = logging.getLogger("shop")
    theirs.propagate = False
    theirs.addHandler(handler := Intercept())
    with in_span() as span:
        theirs.warning("from there")
        logger.warning("from here")
    theirs.removeHandler(handler)
    theirs.propagate = True
    pipeline.shutdown()
    here = "test_lines_from_the_standard_library_are_exported_there"
    trace_id = hexed(span)["trace_id"]
    assert out.getvalue().splitlines() == [f"{trace_id} {here} from there", f"{trace_id} {here} from here"]
    found = {(entry.scope, entry.body) for entry in logs(home)}
    assert found == {("shop", "from there"), (__name__, "from here")}
    assert len(logs(home)) == 2


@pytest.mark.parametrize("enqueue", [False, True])
def test_lines_to_the_standard_library_are_exported_here(start, home, enqueue):
    class Propagate(logging.Handler):
        def emit(self, record):
            logging.getLogger(record.name).handle(record)

    pipeline = start()
    logger.add(Propagate(), format="{message}", enqueue=enqueue)
    logger.warning("once")
    logger.remove()
    pipeline.shutdown()
    assert [entry.body for entry in logs(home)] == ["once"]


def test_the_core_can_be_pickled_and_copied_as_before(start, out):
    start()
    logger.configure(patcher=keep_patcher)
    assert pickle.loads(pickle.dumps(logger))._core.patcher.__name__
    assert vars(copy.copy(logger)._core)["patcher"] is keep_patcher


def keep_patcher(record):
    """A patcher that pickles by its name."""


@pytest.mark.usefixtures("absorbing")
def test_an_internal_error_leaves_the_line_alone(start, out, monkeypatch):
    pipeline = start()
    logger.add(out, format="{message}")
    monkeypatch.setattr("otel_perf.logs.loguru_lines.Ids", lambda *_: 1 / 0)
    logger.info("still here")
    monkeypatch.undo()
    monkeypatch.setattr("otel_perf.logs.loguru_lines._first", lambda *_: 1 / 0)
    logger.info("and here")
    assert out.getvalue().splitlines() == ["still here", "and here"]
    assert pipeline.guards["logs"].errors == 2


def test_the_undo_restores(start):
    from loguru._handler import Handler
    from loguru._logger import Core
    from loguru._simple_sinks import StandardSink

    before = (Handler.emit, StandardSink.write, Handler._serialize_record)
    pipeline = start()
    assert "patcher" in vars(Core)
    pipeline.shutdown()
    assert "patcher" not in vars(Core)
    assert (Handler.emit, StandardSink.write, Handler._serialize_record) == before


@pytest.fixture
def changed(monkeypatch):
    """Install the lines with these parts of other modules, which have tests of their own."""
    original = libraries.install

    def change(**parts):
        monkeypatch.setattr(libraries, "install", lambda lines, undo: original(_with(lines, **parts), undo))

    return change


def test_json_takes_the_formats_place_in_files_and_streams(start, out, changed, tmp_path):
    changed(compose=(made := Composed()))
    heard = []
    logger.add(out, format="{message}")
    logger.add(tmp_path / "log", format="{message}")
    logger.add(lambda message: heard.append(str(message)), format="{message}")
    pipeline = start()
    error = ValueError("x")
    with in_span() as span:
        logger.opt(exception=error).bind(a=1).error("bad")
    pipeline.shutdown()
    logger.info("plain")
    assert out.getvalue() == "composed bad\nplain\n"
    assert (tmp_path / "log").read_text() == out.getvalue()
    assert heard[0].startswith("bad\nValueError: x")
    assert made[0] == made[1]
    ids = hexed(span)
    parts = made[0]
    assert parts["time"] > 0
    assert parts["place"][0::2] == (__file__, "test_json_takes_the_formats_place_in_files_and_streams")
    assert {key: parts[key] for key in parts if key not in {"time", "place"}} == {
        "level": "ERROR", "levelno": logging.ERROR, "logger": __name__, "message": "bad", "attributes": {"a": 1},
        "error": error, "ids": (ids["trace_id"], ids["span_id"], True), "correlation": ids["trace_id"],
    }  # fmt: skip


@pytest.mark.usefixtures("absorbing")
def test_json_that_fails_leaves_logurus_own(start, out, changed):
    changed(compose=lambda **_: 1 / 0)
    start()
    logger.add(out, format="{message}")
    logger.info("x")
    assert json.loads(out.getvalue())["record"]["message"] == "x"


def test_a_filter_drops_a_line_for_all_handlers(start, home, out, changed):
    asked = []

    def keep_line(*given):
        asked.append(given)
        return given[2] != "noise"

    changed(keep_line=keep_line)
    pipeline = start()
    logger.add(out, format="{message}")
    logger.add(out, format="{message}")
    logger.debug("noise")
    logger.info("news")
    pipeline.shutdown()
    assert out.getvalue() == "news\nnews\n"
    assert [entry.body for entry in logs(home)] == ["news"]
    assert [(name, level, text, place[0]) for name, level, text, place in asked] == [
        (__name__, 10, "noise", __file__), (__name__, 20, "news", __file__),
    ]  # fmt: skip


def test_stamps_are_all_there(start, out):
    start()
    found = []
    logger.add(lambda message: found.append(message.record["extra"]))
    with trace.get_tracer("t").start_as_current_span("s"):
        logger.info("x")
    assert set(found[0]) == {TRACE_ID, SPAN_ID, SAMPLED, SERVICE_NAME, CORRELATION_ID}
