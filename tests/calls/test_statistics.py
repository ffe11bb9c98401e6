"""The counts as metrics: cumulative and delta, each reader for itself, and a Prometheus page that does not break."""

import pytest
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

import otel_perf as perf
from otel_perf.calls import CALL_DURATION
from otel_perf.calls import call as module
from otel_perf.calls.function import FUNCTIONS
from otel_perf.calls.lazy_span import LazySpan
from otel_perf.calls.statistics import sources
from otel_perf.core.histograms import BOUNDS, HistogramProducer
from otel_perf.providers import produce_into
from otel_perf.testing import FixedClock

DELTA = {Histogram: AggregationTemporality.DELTA}


@pytest.fixture
def take(calls):
    """Make calls that take so many seconds."""
    clock = FixedClock()
    module.set_clock(clock.monotonic)

    @perf.monitored(name="work")
    def work(seconds):
        clock.advance(seconds)

    yield lambda *durations: [work(seconds) for seconds in durations]
    module.set_clock(None)


@pytest.fixture
def producer():
    return HistogramProducer(CALL_DURATION, FUNCTIONS.counts)


def reading(producer, reader):
    """Collect by ``reader``; the histogram's points."""
    produce_into(reader, [producer])
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("m").create_observable_gauge("always", [lambda _: [Observation(1)]])

    def collect():
        data = reader.get_metrics_data()
        found = [
            metric
            for scope in data.resource_metrics[0].scope_metrics
            for metric in scope.metrics
            if metric.name == "perf.call.duration"
        ]
        return found[0].data.data_points if found else []

    return collect


def test_cumulative_points_count_from_the_start(take, producer):
    collect = reading(producer, InMemoryMetricReader())
    assert collect() == []
    take(1.0, 3.0)
    (first,) = collect()
    take(0.5)
    (second,) = collect()
    assert (first.count, first.sum, first.min, first.max) == (2, 4.0, 1.0, 3.0)
    assert (second.count, second.sum, second.min, second.max) == (3, 4.5, 0.5, 3.0)
    assert first.start_time_unix_nano == second.start_time_unix_nano < second.time_unix_nano
    assert first.attributes == {"code.function.name": "work"}
    assert (first.scale, first.zero_count) == (3, 0)
    assert first.positive.offset == 0
    assert first.positive.bucket_counts == [1, *[0] * 11, 1]  # 3 is in 2 ** (12/8) … 2 ** (13/8)


def test_delta_points_count_from_the_one_before_and_readers_do_not_disturb_each_other(take, producer):
    delta = reading(producer, InMemoryMetricReader(preferred_temporality=DELTA))
    other = reading(producer, InMemoryMetricReader(preferred_temporality=DELTA))
    take(1.0, 1.0)
    (first,) = delta()
    assert delta() == []
    take(4.0)
    (second,) = delta()
    (whole,) = other()
    assert (first.count, first.sum, second.count, second.sum) == (2, 2.0, 1, 4.0)
    assert (whole.count, whole.sum) == (3, 6.0)
    assert second.start_time_unix_nano >= first.time_unix_nano
    assert second.min <= 4.0 <= second.max
    assert second.max - second.min < 0.5


def test_a_real_span_is_the_exemplar(calls, producer):
    collect = reading(producer, InMemoryMetricReader())
    perf.monitored(name="work", span="always")(lambda: None)()
    (point,) = collect()
    assert [exemplar.span_id for exemplar in point.exemplars] == [calls.spans[0].context.span_id]
    assert point.exemplars[0].value == point.sum


def test_self_time_errors_and_untimed_calls_are_counters(take):
    take(2.0)
    readings = {metric.name: list(source()) for metric, source in sources(FUNCTIONS).items()}
    assert readings["perf.call.self_time"] == [(2.0, {"code.function.name": "work"})]
    assert readings["perf.call.errors"] == readings["perf.call.untimed"] == []


def test_a_reader_of_prometheus_gets_explicit_buckets(take, producer):
    class Pull(InMemoryMetricReader):
        pass

    Pull.__module__ = "opentelemetry.exporter.prometheus"
    collect = reading(producer, Pull())
    take(0.3, 0.4, 1e-7, 1000.0)
    (point,) = collect()
    assert len(BOUNDS) <= 12
    assert point.explicit_bounds == BOUNDS
    assert sum(point.bucket_counts) == point.count == 4
    assert (point.bucket_counts[0], point.bucket_counts[-1]) == (1, 1)
    assert point.bucket_counts[BOUNDS.index(0.5)] == 2


def test_all_that_goes_over_the_limit_is_one_series(calls, producer, monkeypatch):
    from otel_perf.calls.function import Functions

    functions = Functions()
    functions.limit = 1
    for number in range(3):
        function = functions.add(f"f{number}", "auto", {})
        function.on = True
        LazySpan(function).finish()
    scope = HistogramProducer(CALL_DURATION, functions.counts).produce(InMemoryMetricReader())
    assert [dict(point.attributes) for point in scope.metrics[0].data.data_points] == [
        {"code.function.name": "f0"},
        {"otel.metric.overflow": True},
    ]


def test_a_producer_that_fails_costs_the_others_nothing(calls, caplog):
    class Failing:
        def produce(self, reader):
            raise RuntimeError

    collect = reading(Failing(), InMemoryMetricReader())
    assert collect() == []
    assert "a metric producer failed" in caplog.text


def test_a_forked_child_begins_anew(take, producer):
    reader = InMemoryMetricReader(preferred_temporality=DELTA)
    collect = reading(producer, reader)
    take(1.0)
    collect()
    FUNCTIONS.after_fork_in_child()
    producer.after_fork_in_child()
    take(1.0)
    assert [point.count for point in collect()] == [1]
