"""An uncaught error becomes an event with its trace, and what happened before still happens."""

import asyncio
import gc
import sys
import threading

import pytest
import uvloop
from opentelemetry import trace

import otel_perf as perf
from tests.stored import apps_logs, logs, spans


@pytest.fixture
def events(start, home):
    """Start, and hand out the uncaught errors after the shutdown."""
    pipeline = start()

    def events():
        pipeline.shutdown()
        return [entry for entry in logs(home) if entry.event_name == "perf.uncaught_error"]

    events.pipeline = pipeline
    return events


def call_excepthook(error):
    try:
        raise error
    except BaseException:
        sys.excepthook(*sys.exc_info())


def test_the_main_thread_reports_and_prints_as_before(events, capsys):
    call_excepthook(KeyError("no such item"))
    (event,) = events()
    assert event.attributes["exception.type"] == "KeyError"
    assert event.attributes["exception.message"] == "'no such item'"
    assert "call_excepthook" in event.attributes["exception.stacktrace"]
    assert event.attributes["perf.error.source"] == "main"
    assert event.severity_text == "ERROR"
    assert "KeyError: 'no such item'" in capsys.readouterr().err


def test_the_trace_of_the_span_that_the_error_ended_is_found(events, home):
    tracer = trace.get_tracer("t")
    try:
        with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
            raise ValueError("deep")
    except ValueError:
        sys.excepthook(*sys.exc_info())
    (event,) = events()
    inner = next(span for span in spans(home) if span.name == "inner")
    assert (event.trace_id, event.span_id) == (inner.trace_id, inner.span_id)


def test_the_id_that_its_work_was_given_is_found(events):
    try:
        with perf.correlation("job-17"), trace.get_tracer("t").start_as_current_span("s"):
            raise ValueError("deep")
    except ValueError:
        sys.excepthook(*sys.exc_info())
    (event,) = events()
    assert event.attributes["perf.correlation.id"] == "job-17"


def test_a_current_span_wins(events, home):
    with trace.get_tracer("t").start_as_current_span("now"):
        call_excepthook(ValueError("x"))
    (event,) = events()
    assert event.span_id == spans(home)[0].span_id


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_error_is_not_reported(events, kind):
    call_excepthook(kind())
    assert events() == []


def test_an_exception_whose_text_fails_is_reported_all_the_same(events):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    call_excepthook(Odd())
    (event,) = events()
    assert event.attributes["exception.message"] == "<Odd whose str() fails>"
    assert event.attributes["exception.type"].endswith("Odd")


def test_threads_report_and_the_hook_that_was_there_is_called(start, home, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    pipeline = start()
    thread = threading.Thread(target=lambda: 1 / 0, name="worker-7")
    thread.start()
    thread.join()
    pipeline.shutdown()
    (event,) = apps_logs(home)
    assert event.attributes["perf.error.source"] == "thread"
    assert event.attributes["thread.name"] == "worker-7"
    assert [arguments.exc_type for arguments in seen] == [ZeroDivisionError]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_finalizers_report(events):
    class Closes:
        def __del__(self):
            raise OSError("cannot close")

    Closes()
    gc.collect()
    (event,) = events()
    assert event.attributes["perf.error.source"] == "unraisable"


async def forget_a_task():
    asyncio.get_running_loop().create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()


async def fail():
    raise LookupError("in a task")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_tasks_whose_error_nobody_takes_report_and_are_logged_as_before(events, caplog, loop):
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(forget_a_task())
    (event,) = events()
    assert event.attributes["perf.error.source"] == "asyncio"
    assert event.attributes["exception.type"] == "LookupError"
    assert "never retrieved" in event.body
    assert "Task exception was never retrieved" in caplog.text


def test_a_handler_that_the_app_gave_its_loop_is_still_called(events):
    seen = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context["message"]))
        await forget_a_task()

    asyncio.run(main())
    assert seen == ["Task exception was never retrieved"]
    assert len(events()) == 1


def test_uvloop_is_hooked_when_it_is_imported_later(start, home, monkeypatch):
    monkeypatch.delitem(sys.modules, "uvloop")
    pipeline = start()
    before = uvloop.Loop.call_exception_handler
    from wrapt import notify_module_loaded

    notify_module_loaded(uvloop)
    assert uvloop.Loop.call_exception_handler is not before
    pipeline.shutdown()
    assert uvloop.Loop.call_exception_handler is before
    notify_module_loaded(uvloop)
    assert uvloop.Loop.call_exception_handler is before


def test_a_hook_that_somebody_chained_to_is_silenced_not_removed(events):
    ours = sys.excepthook
    seen = []

    def theirs(*arguments):
        seen.append(arguments[0])
        ours(*arguments)

    sys.excepthook = theirs
    try:
        call_excepthook(ValueError("first"))
        found = events()
        assert sys.excepthook is theirs
        call_excepthook(ValueError("second"))
        assert seen == [ValueError, ValueError]
        assert [event.attributes["exception.message"] for event in found] == ["first"]
    finally:
        sys.excepthook = sys.__excepthook__


def test_each_error_is_an_event_however_alike(events):
    for _ in range(50):
        call_excepthook(ValueError("x"))
    assert len(events()) == 50


def test_one_exception_raised_in_two_traces_has_the_ids_of_the_last(events, home):
    shared = ValueError("made once")
    for number in range(2):
        try:
            with trace.get_tracer("t").start_as_current_span(f"request {number}"):
                raise shared
        except ValueError:
            sys.excepthook(*sys.exc_info())
    first, second = events()
    names = {span.trace_id: span.name for span in spans(home)}
    assert [names[event.trace_id] for event in (first, second)] == ["request 0", "request 1"]


def test_an_exception_that_forbids_attributes_passes_unharmed(events):
    class Frozen(Exception):
        def __setattr__(self, name, value):
            if name.startswith("__otel"):
                raise TypeError("frozen")
            super().__setattr__(name, value)

    with pytest.raises(Frozen), trace.get_tracer("t").start_as_current_span("s"):
        raise Frozen
    assert events() == []
