"""Every record carries its trace's ids, and logging behaves as it did."""

import importlib
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import baggage, context, trace

import otel_perf as perf
from otel_perf.core.ids import KEY
from otel_perf.core.served import begin_request, end_request, request
from otel_perf.logs.correlation import CORRELATION_ID, SAMPLED, SERVICE_NAME, SPAN_ID, TRACE_ID
from tests.stored import apps_logs, lines, spans


class Keep(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def kept():
    handler = Keep()
    logger = logging.getLogger("shop")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def ids(record):
    return (
        record.__dict__[TRACE_ID],
        record.__dict__[SPAN_ID],
        record.__dict__[SAMPLED],
        record.__dict__[SERVICE_NAME],
    )


def test_a_record_in_a_span_has_its_ids(start, kept):
    start()
    with trace.get_tracer("t").start_as_current_span("s") as span:
        logging.getLogger("shop").info("in")
    logging.getLogger("shop").info("out")
    context_ = span.get_span_context()
    assert ids(kept[0]) == (f"{context_.trace_id:032x}", f"{context_.span_id:016x}", True, "shop")
    assert ids(kept[1]) == ("0", "0", False, "shop")


def test_a_context_within_another_has_ids_of_its_own(start, kept):
    """GIVEN lines in one context, before and after one within it THEN each has the ids of where it is."""
    start()
    log = logging.getLogger("shop").info
    with trace.get_tracer("t").start_as_current_span("s") as outer:
        log("1"), log("2")
        with perf.correlation("job-7"):
            log("3"), log("4")
            with trace.get_tracer("t").start_as_current_span("t") as inner:
                log("5"), log("6")
        log("7")
    log("8")
    trace_id, spans_ = f"{outer.get_span_context().trace_id:032x}", [outer, outer, outer, outer, inner, inner, outer]
    assert [record.__dict__[SPAN_ID] for record in kept] == [f"{s.get_span_context().span_id:016x}" for s in spans_] + [
        "0"
    ]
    assert [record.__dict__[CORRELATION_ID] for record in kept] == [trace_id] * 2 + ["job-7"] * 4 + [trace_id, "0"]


def test_a_record_made_while_an_exception_is_handled_has_its_ids(start, kept):
    start()
    with trace.get_tracer("t").start_as_current_span("s") as span:
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            logging.getLogger("shop").exception("failed")
    assert kept[0].__dict__[TRACE_ID] == f"{span.get_span_context().trace_id:032x}"


@pytest.mark.parametrize("where", ["block", "baggage"])
def test_an_error_that_is_logged_after_its_span_has_all_ids_of_its_work(start, home, kept, where):
    """Servers log an app's error where neither its span nor the id that the work was given is current any more."""
    pipeline = start()
    block = perf.correlation("job-17" if where == "block" else "")
    parent = baggage.set_baggage(KEY, "job-17") if where == "baggage" else None
    try:
        with block, trace.get_tracer("t").start_as_current_span("s", context=parent) as span:
            raise ValueError("x")
    except ValueError:
        logging.getLogger("shop").exception("failed")
    pipeline.shutdown()
    (entry,) = lines(home)
    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert (kept[0].__dict__[TRACE_ID], kept[0].__dict__[CORRELATION_ID]) == (trace_id, "job-17")
    assert (entry.trace_id, entry.attributes[KEY]) == (trace_id, "job-17")


def test_reading_a_requests_headers_may_log(start, kept, caplog):
    """GIVEN baggage that is none, of which its propagator logs THEN that line does not have it read again and again."""
    start()
    tokens = begin_request()
    request.get().headers = lambda: {"baggage": "none", "traceparent": f"00-{7:032x}-{8:016x}-01"}
    logging.getLogger("shop").info("before the span")
    end_request(tokens)
    assert kept[0].__dict__[TRACE_ID] == f"{7:032x}"
    assert len([record for record in caplog.records if record.name.startswith("opentelemetry.baggage")]) == 1


def test_a_thread_that_was_given_the_context_has_its_ids(start, kept):
    start()
    with trace.get_tracer("t").start_as_current_span("s") as span, ThreadPoolExecutor(1) as pool:
        here = context.get_current()

        def work():
            token = context.attach(here)
            logging.getLogger("shop").info("thread")
            context.detach(token)

        pool.submit(work).result()
    assert kept[0].__dict__[TRACE_ID] == f"{span.get_span_context().trace_id:032x}"


def test_a_record_that_came_from_elsewhere_keeps_its_ids(start, kept):
    start()
    with trace.get_tracer("t").start_as_current_span("s"):
        record = logging.makeLogRecord({"name": "shop", "msg": "x", "levelno": 20, "process": 1, TRACE_ID: "ab" * 16})
        logging.getLogger("shop").handle(record)
    assert kept[0].__dict__[TRACE_ID] == "ab" * 16


def test_records_of_loggers_that_do_not_propagate_are_exported(start, home):
    pipeline = start()
    logger = logging.getLogger("access.test")  # as uvicorn.access
    logger.propagate = False
    logger.warning("GET /")
    pipeline.shutdown()
    assert [entry.body for entry in lines(home)] == ["GET /"]


def test_levels_texts_extras_and_exceptions_are_exported(start, home):
    pipeline = start()
    logger = logging.getLogger("shop")
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.critical(
            "failed %d", 3, exc_info=True, extra={"order": {"id": 2**70, "rows": [1, object]}, "who": print}
        )
    quiet = logging.getLogger("shop.quiet")  # pytest's own handler would raise for wrong arguments
    quiet.propagate = False
    quiet.warning("wrong arguments %d", "x")
    pipeline.shutdown()
    first, second = lines(home)
    assert (first.severity, first.severity_text, first.body, first.scope) == (21, "FATAL", "failed 3", "shop")
    assert first.attributes["exception.type"] == "ValueError"
    assert "raise ValueError" in first.attributes["exception.stacktrace"]
    assert first.attributes["order"] == {"id": str(2**70), "rows": [1, "<class 'object'>"]}
    assert first.attributes["who"] == "<built-in function print>"
    assert not [key for key in first.attributes if key.startswith("otel")]
    assert (second.severity_text, second.body) == ("WARN", "wrong arguments %d ('x',)")


@pytest.mark.parametrize("key", ["otel.event.name", "event.name"])
def test_an_extra_names_the_event_as_upstreams_handler_reads_it(key, start, home):
    pipeline = start()
    logging.getLogger("shop").warning("placed", extra={key: "order.placed", "order": 7})
    pipeline.shutdown()
    (entry,) = apps_logs(home)
    assert entry.event_name == "order.placed"
    assert entry.attributes == {"order": 7}


def test_an_extra_whose_repr_fails_costs_nothing_else(start, home):
    class Odd:
        def __repr__(self):
            raise RuntimeError

    pipeline = start()
    logging.getLogger("shop").warning("x", extra={"odd": Odd(), "raw": b"\x00", "none": None})
    pipeline.shutdown()
    (entry,) = lines(home)
    assert entry.attributes["odd"] == "<Odd whose repr() fails>"


def test_a_record_with_ids_was_exported_where_it_was_made(start, home, kept):
    pipeline = start()
    record = logging.makeLogRecord(
        {"name": "shop", "msg": "from a queue", "levelno": 20, "process": 1, TRACE_ID: "ab" * 16}
    )
    logging.getLogger("shop").handle(record)
    pipeline.shutdown()
    assert [entry.getMessage() for entry in kept] == ["from a queue"]
    assert apps_logs(home) == []


def test_an_app_that_has_upstreams_record_factory_is_exported_as_any_other(start, home, kept):
    """``LoggingInstrumentor().instrument()`` in the app puts ids on every record before we see it."""
    from opentelemetry.instrumentation.logging import LoggingInstrumentor

    before = logging.getLogRecordFactory()
    pipeline = start()
    LoggingInstrumentor().instrument(skip_dep_check=True)
    try:
        with trace.get_tracer("shop").start_as_current_span("request"), perf.correlation("job-7"):
            logging.getLogger("shop").warning("placed", extra={"order": 7})
    finally:
        LoggingInstrumentor().uninstrument()
        logging.setLogRecordFactory(before)
    pipeline.shutdown()
    (span,) = spans(home)
    (entry,) = [entry for entry in lines(home) if entry.body == "placed"]
    assert (entry.trace_id, entry.span_id) == (span.trace_id, span.span_id)
    assert entry.attributes == {"order": 7, "perf.correlation.id": "job-7"}
    (record,) = [record for record in kept if record.getMessage() == "placed"]
    assert (getattr(record, TRACE_ID), getattr(record, CORRELATION_ID)) == (span.trace_id, "job-7")


@pytest.mark.parametrize("module", ["opentelemetry.instrumentation.logging.handler", "opentelemetry.sdk._logs"])
@pytest.mark.filterwarnings("ignore:.*LoggingHandler.*")  # the SDK's own is deprecated
def test_a_handler_of_upstreams_that_the_app_adds_exports_nothing_twice(start, home, module):
    pipeline = start()
    handler = importlib.import_module(module).LoggingHandler()
    logging.getLogger("shop").addHandler(handler)
    try:
        logging.getLogger("shop").warning("placed")
    finally:
        logging.getLogger("shop").removeHandler(handler)
    pipeline.shutdown()
    assert [entry.body for entry in lines(home)] == ["placed"]


def test_an_exception_that_is_none_costs_nothing(start, home):
    pipeline = start()
    for exc_info in ((), (None, None, None)):
        logging.getLogger("shop").handle(logging.makeLogRecord({"msg": "x", "levelno": 30, "exc_info": exc_info}))
    pipeline.shutdown()
    assert [entry.body for entry in lines(home)] == ["x"] * 2


def test_texts_that_protobuf_refuses_are_exported_with_a_mark(start, home):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    pipeline = start()
    logging.getLogger("shop").warning("name %s", "a\udcff", extra={"file": "b\udcff"})
    logging.getLogger("shop").warning("umlaut ü", exc_info=Odd())
    pipeline.shutdown()
    first, second = lines(home)
    assert (first.body, first.attributes["file"]) == ("name a?", "b?")
    assert (second.body, second.attributes["exception.message"]) == ("umlaut ü", "<Odd whose str() fails>")


def test_code_attributes_are_exported_when_asked_for(start, home):
    pipeline = start(OTEL_PYTHON_LOG_CODE_ATTRIBUTES="true")
    logging.getLogger("shop").warning("x")
    pipeline.shutdown()
    (entry,) = lines(home)
    assert entry.attributes["code.file.path"] == __file__
    assert entry.attributes["code.function.name"].startswith("test_code_attributes")


def test_upstreams_switches_are_honoured(start, home, kept):
    pipeline = start(OTEL_PYTHON_LOG_HANDLER_LEVEL="error")
    logging.getLogger("shop").warning("no")
    logging.getLogger("shop").error("yes")
    pipeline.shutdown()
    assert [entry.body for entry in lines(home)] == ["yes"]
    assert kept[0].__dict__[TRACE_ID] == "0"


def test_export_can_be_switched_off_and_ids_stay(start, home, kept):
    pipeline = start(OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION="false")
    logging.getLogger("shop").warning("x")
    pipeline.shutdown()
    assert apps_logs(home) == []
    assert kept[0].__dict__[TRACE_ID] == "0"


def test_a_wrong_level_is_one_line(start, caplog):
    start(OTEL_PYTHON_LOG_HANDLER_LEVEL="loud")
    assert "OTEL_PYTHON_LOG_HANDLER_LEVEL='loud' is not a level; allowed: DEBUG" in caplog.text


def test_nothing_is_exported_where_instrumentation_is_suppressed(start, home):
    from opentelemetry.instrumentation.utils import suppress_instrumentation

    pipeline = start()
    with suppress_instrumentation():
        logging.getLogger("shop").warning("from an exporter")
    pipeline.shutdown()
    assert apps_logs(home) == []


def test_the_caller_of_a_logging_function_is_still_found(start, kept):
    """GIVEN the recipe that hands records to loguru THEN it finds the user's frame, not ours."""
    start()
    frames = []

    class Intercept(logging.Handler):
        def emit(self, record):
            frame, depth = sys._getframe(), 0
            while frame and (depth == 0 or frame.f_code.co_filename == logging.__file__):
                frame, depth = frame.f_back, depth + 1
            frames.append(frame.f_code.co_name)

    handler = Intercept()
    logging.getLogger("shop").addHandler(handler)
    logging.getLogger("shop").info("x")
    logging.getLogger("shop").removeHandler(handler)
    assert frames == ["test_the_caller_of_a_logging_function_is_still_found"]
    assert kept[0].funcName == "test_the_caller_of_a_logging_function_is_still_found"


@pytest.mark.usefixtures("absorbing")
def test_an_internal_error_leaves_the_line_alone(start, kept, monkeypatch):
    pipeline = start()
    monkeypatch.setattr("otel_perf.logs.correlation.stamp", lambda *_: 1 / 0)
    logging.getLogger("shop").info("still here")
    assert [record.getMessage() for record in kept if record.name == "shop"] == ["still here"]
    assert pipeline.guards["logs"].errors >= 1


def test_a_patch_on_top_of_ours_stays_and_ours_falls_silent(start, kept):
    before = logging.Logger.callHandlers
    pipeline = start()
    ours = logging.Logger.callHandlers

    def theirs(self, record):
        ours(self, record)

    logging.Logger.callHandlers = theirs
    try:
        pipeline.shutdown()
        assert logging.Logger.callHandlers is theirs
        logging.getLogger("shop").info("x")
        assert TRACE_ID not in kept[0].__dict__
    finally:
        logging.Logger.callHandlers = before


def test_threads_log_without_mixing_their_traces(start, home):
    pipeline = start()
    tracer = trace.get_tracer("t")

    def work(number):
        for _ in range(20):
            with tracer.start_as_current_span(f"work {number}"):
                logging.getLogger("shop").warning("work %d", number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipeline.shutdown()
    names = {span.span_id: span.name for span in spans(home)}
    entries = lines(home)
    assert len(entries) == 160
    assert all(names[entry.span_id] == entry.body for entry in entries)
