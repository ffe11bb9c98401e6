"""One instrument a metric, however many sources come and go."""

import pytest

from otel_perf.core.census import Census, Metric

HITS = Metric("demo.hits", "1", "counter", "Hits")
SIZE = Metric("demo.size", "By", "gauge", "Size")
LEVEL = Metric("demo.level", "1", "updowncounter", "Level")


@pytest.mark.parametrize("metric", [HITS, SIZE, LEVEL])
def test_sources_added_before_and_after_the_meter_are_collected(perf_capture, metric):
    census = Census()
    census.add(metric, lambda: [(1, {"who": "early"})])
    census.attach(perf_capture.meter_provider.get_meter("test"))
    census.add(metric, lambda: [(2, {"who": "late"})])
    found = perf_capture.metrics()[metric.name]
    assert sorted(found) == [(1, {"who": "early"}), (2, {"who": "late"})]


def test_a_metric_that_is_new_after_the_meter_gets_its_instrument(perf_capture):
    census = Census()
    census.attach(perf_capture.meter_provider.get_meter("test"))
    census.add(SIZE, lambda: [(5, {})])
    assert perf_capture.metrics()["demo.size"] == [(5, {})]


def test_a_removed_source_is_silent_and_may_come_back(perf_capture):
    census = Census()
    census.attach(perf_capture.meter_provider.get_meter("test"))
    remove = census.add(SIZE, lambda: [(5, {})])
    remove()
    remove()
    assert "demo.size" not in perf_capture.metrics()
    census.add(SIZE, lambda: [(6, {})])
    assert perf_capture.metrics()["demo.size"] == [(6, {})]


def test_a_failing_source_leaves_the_others():
    census = Census()
    census.add(SIZE, lambda: 1 / 0)
    census.add(SIZE, lambda: [(7, {})])
    assert census.read(SIZE) == [(7, {})]
