"""Helps to test code that uses otel-perf or OpenTelemetry.

In ``conftest.py``: ``pytest_plugins = ["otel_perf.testing"]``; then a test takes the fixture ``perf_capture``::

    def test_order(perf_capture):
        place_order()
        assert [span.name for span in perf_capture.spans] == ["place_order"]

Under the fixture internal errors are raised instead of absorbed (strict mode).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.id_generator import IdGenerator

from otel_perf.core import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.trace import ReadableSpan

try:
    import pytest
except ImportError:  # the module is useful without pytest too
    pytest = None  # type: ignore[assignment]


class FixedClock:
    """A clock that moves only when it is told to. For :mod:`otel_perf.core.clock`."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self.now_ns = start_ns
        self.elapsed = 0.0

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self.now_ns

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self.elapsed

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.now_ns += round(seconds * 1e9)
        self.elapsed += seconds


class SequentialIds(IdGenerator):
    """An id generator that counts 1, 2, 3, …, so that a test can name the ids."""

    def __init__(self) -> None:
        self._spans = 0
        self._traces = 0

    def generate_span_id(self) -> int:
        """The next span id."""
        self._spans += 1
        return self._spans

    def generate_trace_id(self) -> int:
        """The next trace id."""
        self._traces += 1
        return self._traces

    def is_trace_id_random(self) -> bool:
        """They are not."""
        return False


class Capture:
    """What was made while it was in force: finished spans, log records, and metrics on demand."""

    def __init__(self) -> None:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._spans = InMemorySpanExporter()
        self._logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self._metrics = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(id_generator=SequentialIds(), shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(_bridge())
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self.meter_provider = MeterProvider([self._metrics], shutdown_on_exit=False)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The finished spans, in the order in which they ended."""
        return tuple(self._spans.get_finished_spans())

    @property
    def logs(self) -> tuple[ReadableLogRecord, ...]:
        """The log records and events."""
        return tuple(self._logs.get_finished_logs())

    def metrics(self) -> dict[str, list[tuple[float, dict[str, Any]]]]:
        """Collect now: metric name → its points as (value, attributes); a histogram's value is its sum."""
        found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        data = self._metrics.get_metrics_data()
        for of_resource in data.resource_metrics if data is not None else ():
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    points = found.setdefault(metric.name, [])
                    for point in metric.data.data_points:
                        value = getattr(point, "value", None)
                        points.append((point.sum if value is None else value, dict(point.attributes or {})))  # type: ignore[union-attr]
        return found

    def clear(self) -> None:
        """Forget the spans and log records."""
        self._spans.clear()
        self._logs.clear()


def _bridge() -> Any:
    """Makes events span events as well, as where the distribution runs."""
    from otel_perf.logs.bridge import SpanEventBridge

    bridge = SpanEventBridge(lambda: guard.Guard("testing"))
    bridge.on = True
    return bridge


@contextlib.contextmanager
def capture() -> Iterator[Capture]:
    """Make an in-memory SDK the global one for the block, in strict mode.

    OpenTelemetry's globals can be set once; this goes round that, so use it in tests only.
    """
    from opentelemetry import trace
    from opentelemetry._logs import _internal as logs_api
    from opentelemetry.metrics import _internal as metrics_api

    found = Capture()
    places: list[tuple[Any, str, Any]] = [
        (trace, "_TRACER_PROVIDER", found.tracer_provider),
        (metrics_api, "_METER_PROVIDER", found.meter_provider),
        (logs_api, "_LOGGER_PROVIDER", found.logger_provider),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    strict_before = guard.is_strict()
    for module, name, provider in places:
        setattr(module, name, provider)
    guard.strict(True)
    try:
        yield found
    finally:
        guard.strict(strict_before)
        for module, name, provider in before:
            setattr(module, name, provider)


if pytest is not None:

    @pytest.fixture
    def perf_capture() -> Iterator[Capture]:
        """The spans, logs and metrics that the test makes."""
        with capture() as found:
            yield found
