"""What waits and signals leave in spans and metrics, however they end."""

import asyncio
import threading

import pytest

from otel_perf.core.errors import SignalFailedError, SignalTimeoutError
from otel_perf.signals.api import Signals
from otel_perf.signals.telemetry import EMITS, NAMES, OTHER, RECEIPTS, REFUSED, WAITING, Telemetry
from tests.e2e.support import wait_for


@pytest.fixture
def pipeline(start):
    return start(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none")


@pytest.fixture
def spans(pipeline):
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    pipeline.providers.tracer.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter.get_finished_spans


@pytest.fixture
def signals(pipeline):
    made = Signals({"OTEL_PERF_SIGNALS_URL": "memory:", "OTEL_SERVICE_NAME": "shop"})
    made.telemetry = Telemetry(pipeline)
    yield made
    made.close()


def outcomes(signals):
    return {
        (point.attributes["perf.signal.name"], point.attributes["perf.signal.outcome"]): sum(point.buckets)
        for point in signals.telemetry.counted()
    }


def by_name(spans):
    return {span.name: span for span in spans()}


def test_each_end_of_a_wait_is_told(signals, spans):
    signals.emit("A")
    signals.wait_sync("A")
    with pytest.raises(SignalTimeoutError):
        signals.wait_sync("A", "B", timeout=0.05, then=["C"])
    signals.emit("F", failed="no disk", key=7, agent="loader")
    with pytest.raises(SignalFailedError):
        signals.wait_sync("F", key=7)

    async def cancelled():
        task = asyncio.create_task(signals.wait("NEVER"))
        await asyncio.sleep(0.05)
        assert signals.waiting == 1
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancelled())
    assert outcomes(signals) == {
        ("A", "ready"): 1,
        ("A, B", "timeout"): 1,
        ("F", "failed"): 1,
        ("NEVER", "cancelled"): 1,
    }
    found = by_name(spans)
    assert {name: span.attributes["perf.signal.outcome"] for name, span in found.items() if name.startswith("wait")} == {
        "wait A": "ready", "wait A, B": "timeout", "wait F": "failed", "wait NEVER": "cancelled",
    }  # fmt: skip
    assert found["wait A, B"].attributes["perf.signal.missing"] == ("B",)
    assert found["wait A, B"].attributes["perf.signal.then"] == ("C",)
    assert not found["wait A, B"].status.is_ok
    assert not found["wait F"].status.is_ok
    assert found["wait NEVER"].status.is_unset
    emit, wait = found["emit F"], found["wait F"]
    assert (emit.attributes["perf.signal.reason"], emit.attributes["gen_ai.agent.name"]) == ("no disk", "loader")
    assert [link.context.span_id for link in wait.links] == [emit.context.span_id]
    assert wait.links[0].context.is_remote


def test_a_handler_has_a_span_that_links_to_the_emitter(signals, spans):
    done = threading.Event()
    signals.on("A", lambda signal: done.set())
    signals.emit("A")
    assert done.wait(10)
    found = wait_for(lambda: "handle A" in by_name(spans) and by_name(spans), what="the handler's span has ended")
    assert [link.context.span_id for link in found["handle A"].links] == [found["emit A"].context.span_id]


def test_counts_are_by_state(signals):
    signals.emit("A")
    signals.emit("B", failed="why")
    signals.wait_sync("A", "B", accept_failed=True)
    telemetry = signals.telemetry
    for readings in (telemetry.emits(), telemetry.receipts()):
        assert sorted((attributes["perf.signal.state"], number) for number, attributes in readings) == [
            ("failed", 1), ("ready", 1),
        ]  # fmt: skip


def test_names_without_end_share_one_histogram(signals):
    for number in range(NAMES + 5):
        signals.emit(f"S{number}")
        signals.wait_sync(f"S{number}")
    found = outcomes(signals)
    assert len(found) == NAMES + 1
    assert found[OTHER, "ready"] == 5


def test_a_signal_with_another_mark_is_refused_counted_and_said_once(home, pipeline, caplog):
    common = {"OTEL_PERF_HOME": str(home)}
    ours, theirs = Signals({**common, "OTEL_PERF_SIGNALS_KEY": "ours"}), Signals(common)
    ours.telemetry = Telemetry(pipeline)
    theirs.emit("A")
    for _ in range(3):
        with pytest.raises(SignalTimeoutError):
            ours.wait_sync("A", timeout=0.05)
    assert list(ours.telemetry.refusals()) == [(1, {})]
    said = [
        r.message for r in caplog.records if "has not the mark of OTEL_PERF_SIGNALS_KEY and is refused" in r.message
    ]
    assert len(said) == 1
    ours.emit("A")
    assert ours.wait_sync("A", timeout=5)["A"].ready
    for each in (ours, theirs):
        each.close()


def test_the_feature_reports_its_metrics_and_falls_silent_when_it_is_off(start, monkeypatch):
    from otel_perf.signals import api

    pipeline = start(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none")
    assert api.signals.telemetry is not None
    assert pipeline.census.read(REFUSED) == [(0, {})]
    assert pipeline.census.read(WAITING) == [(0, {})]
    assert (pipeline.census.read(EMITS), pipeline.census.read(RECEIPTS)) == ([], [])
    pipeline.step_down("signals", "a test")
    assert api.signals.telemetry is None
    assert pipeline.census.read(WAITING) == []


def test_what_was_said_is_replayed_from_a_number(signals):
    said = [signals.emit(name, scope=scope) for name, scope in (("A", ""), ("B", "blue"), ("A", ""), ("C", ""))]
    assert signals.since() == [said[0], said[2], said[3]]
    assert signals.since(said[0].seq) == [said[2], said[3]]
    assert signals.since(scope="blue") == [said[1]]
