"""Charts say what the processes said."""

import contextlib
import random

import msgspec
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_perf.analysis.summary import summarize
from otel_perf.store.database import StoreReader
from otel_perf.view import charts, summaries
from otel_perf.view.reading import Question, Reading
from tests.view.test_index import build, one_span, put, rows

BEGIN = 1_800_000_000_000  # ms
CUMULATIVE, DELTA = 2, 1


class Metrics:
    """A store of metrics, as processes say them."""

    def __init__(self, folder):
        self.home, self.path = folder / "home", folder / "index.db"

    def put(self, name, kind, seconds, instance="1", said=(), *, service="shop", created=None, **fields):
        """One data point, ``seconds`` after the begin; ``fields`` are the point's and its metric's."""
        request = ExportMetricsServiceRequest()
        of = request.resource_metrics.add()
        for key, value in (("service.name", service), ("service.instance.id", instance)):
            pair = of.resource.attributes.add()
            pair.key, pair.value.string_value = key, value
        scope = of.scope_metrics.add()
        scope.scope.name = fields.pop("scope", "")
        metric = scope.metrics.add()
        metric.name, metric.unit = name, "1"
        data = getattr(metric, kind)
        for field in ("aggregation_temporality", "is_monotonic"):
            if field in fields:
                setattr(data, field, fields.pop(field))
        point = data.data_points.add()
        at = (BEGIN + int(seconds * 1000)) * 1_000_000
        point.time_unix_nano = at
        for field, value in fields.items():
            if isinstance(value, dict):
                point.positive.offset = value["offset"]
                point.positive.bucket_counts.extend(value["counts"])
            elif isinstance(value, list):
                getattr(point, field).extend(value)
            else:
                setattr(point, field, value)
        for key, value in said:
            pair = point.attributes.add()
            pair.key, pair.value.string_value = key, value
        put(self.home, "metrics", request, created=at if created is None else created)

    @contextlib.contextmanager
    def reading(self):
        build(self.path, self.home)
        reading = Reading(self.path)
        assert reading.begin()
        try:
            yield reading
        finally:
            reading.close()

    def panel(self, key, **question):
        """Lines of a panel by label, each with (seconds, value)."""
        with self.reading() as reading:
            found = charts.charts(reading, Question({name: str(value) for name, value in question.items()}))
        panel = next(panel for panel in found["panels"] if panel["key"] == key)
        return {line["label"]: in_seconds(found, line["points"]) for line in panel["lines"]}

    def metric(self, name):
        """The unit, and the values of a metric's lines."""
        with self.reading() as reading:
            found = charts.metric(reading, Question({"name": name}))
        msgspec.json.encode(found)
        panel = found["panels"][0]
        return panel["unit"], {line["label"]: [value for _, value in line["points"]] for line in panel["lines"]}


def in_seconds(found, points):
    return [((found["begin"] + at * found["step"] - BEGIN) / 1000, value) for at, value in points]


@pytest.fixture
def metrics(tmp_path):
    return Metrics(tmp_path)


def total(**more):
    return {"aggregation_temporality": CUMULATIVE, "is_monotonic": True, **more}


def test_what_goes_up_and_down_is_drawn_as_it_is(metrics):
    for minute, value in enumerate((5.0, 7.0, 3.0)):
        metrics.put("queue.length", "sum", 60 * minute, as_double=value, aggregation_temporality=CUMULATIVE)
        metrics.put("requests", "sum", 60 * minute, as_double=60.0 * minute, **total())
    assert metrics.metric("queue.length") == ("1", {"shop": [5, 7, 3]})
    assert metrics.metric("requests") == ("1/s", {"shop": [1, 1]})


def test_changes_of_what_goes_up_and_down_add_up(metrics):
    for minute, value in enumerate((5.0, 2.0, -4.0)):
        metrics.put("queue.length", "sum", 60 * minute, as_double=value, aggregation_temporality=DELTA)
    assert metrics.metric("queue.length") == ("1", {"shop": [5, 7, 3]})


def test_long_attributes_stay_attributes(metrics):
    """GIVEN series whose attributes are too long to be kept WHEN they are asked for THEN they are told apart, cut."""
    long = "é" * 1_500
    for end in ("a", "b"):
        said = [("path", long + end), ("zone", long), ("n", end)] + [
            (f"key {number}", "v" * 100) for number in range(30)
        ]
        for name in ("perf.cache.size", "perf.call.duration"):
            metrics.put(name, "gauge", 0, said=[*said, ("perf.cache.name", "of " + end)], as_double=1.0)
    _, lines = metrics.metric("perf.cache.size")
    assert len(lines) == 2
    assert all(len(label) < 4_000 for label in lines)
    assert len(metrics.panel("entries")) == 1
    with metrics.reading() as reading:
        assert len(summaries.functions(reading, Question({}))["functions"]) == 1
        stored = rows(metrics.path, "SELECT max(length(attributes)) FROM series")[0][0]
    assert stored < 2_200


def test_numbers_that_are_none_are_left_out(metrics):
    for minute, value in enumerate((60.0, float("nan"), 180.0, float("inf"))):
        metrics.put("process.cpu.time", "sum", 60 * minute, as_double=value, **total())
        metrics.put("process.memory.usage", "gauge", 60 * minute, as_double=value)
    metrics.put("process.cpu.time", "sum", 240, as_double=300.0, **total())
    assert metrics.metric("process.cpu.time") == ("1/s", {"shop": [1, 1]})
    assert metrics.metric("process.memory.usage") == ("1", {"shop": [60, 180]})


def test_processes_that_say_theirs_at_other_times_are_added_up(metrics):
    """GIVEN two processes, half a minute apart WHEN their caches are added up THEN nothing goes up and down."""
    said = [("perf.cache.name", "orders")]
    for minute in range(10):
        for instance, after, entries in (("a", 0, 10.0), ("b", 30, 20.0)):
            at = 60 * minute + after
            metrics.put("perf.cache.size", "gauge", at, instance, said, as_double=entries)
            hits, misses = (3.0, 1.0) if instance == "a" else (1.0, 3.0)
            metrics.put("perf.cache.hits", "sum", at, instance, said, as_double=hits * 60 * minute, **total())
            metrics.put("perf.cache.misses", "sum", at, instance, said, as_double=misses * 60 * minute, **total())
    entries = metrics.panel("entries")["orders · shop"]
    assert {value for at, value in entries if at >= 30} == {30}
    assert entries[-1][0] == pytest.approx(570, abs=3)
    ratios = metrics.panel("hits")["orders · shop"]
    assert {value for at, value in ratios if at > 95} == {0.5}


def test_a_process_that_is_gone_is_not_added_for_ever(metrics):
    said = [("perf.cache.name", "orders")]
    for minute in range(20):
        metrics.put("perf.cache.size", "gauge", 60 * minute, "a", said, as_double=10.0)
        if minute < 5:
            metrics.put("perf.cache.size", "gauge", 60 * minute + 30, "b", said, as_double=20.0)
    entries = dict(metrics.panel("entries")["orders · shop"])
    assert {value for at, value in entries.items() if 60 < at < 300} == {30}
    assert {value for at, value in entries.items() if at > 430} == {10}


def test_a_short_range_begins_with_what_was_said_before_it(metrics):
    for minute in range(10):
        metrics.put("process.memory.usage", "gauge", 60 * minute, as_double=100.0 + minute)
        metrics.put("process.cpu.time", "sum", 60 * minute, as_double=30.0 * minute, **total())
    begin = BEGIN + 425_000
    times = {"from": begin, "to": begin + 50_000}
    assert {value for _, value in metrics.panel("memory", **times)["shop"]} == {107}
    assert metrics.panel("memory", **times)["shop"][0][0] == 425
    assert all(
        value == pytest.approx(0.5) for _, value in metrics.panel("cpu", **{**times, "to": begin + 100_000})["shop"]
    )


def pause(metrics, seconds, scale, offset, counts, temporality, **more):
    metrics.put(
        "perf.gc.pause", "exponential_histogram", seconds, scale=scale, aggregation_temporality=temporality,
        positive={"offset": offset, "counts": counts}, count=sum(counts), sum=float(sum(counts)), **more,
    )  # fmt: skip


def pauses(metrics):
    build(metrics.path, metrics.home)
    return rows(metrics.path, "SELECT high, count FROM point ORDER BY time")


def test_functions_of_processes_with_other_buckets_add_up(metrics):
    """GIVEN calls of about 1 s, and of about 16 s at another scale WHEN they are added THEN each stays how long it was."""
    for instance, scale, bucket, calls in (("a", 3, -1, 90), ("b", 0, 3, 9), ("c", 5, -1, 1)):
        metrics.put(
            "perf.call.duration", "exponential_histogram", 0, instance, [("code.function.name", "shop.pay")], scale=scale,
            positive={"offset": bucket, "counts": [calls]}, count=calls, sum=1000.0, aggregation_temporality=CUMULATIVE,
        )  # fmt: skip
    with metrics.reading() as reading:
        (row,) = summaries.functions(reading, Question({}))["functions"]
    assert (row["calls"], row["p50"], row["p99"]) == (100, 1.0, 16.0)
    reader = StoreReader(metrics.home)
    report = summarize(reader).functions
    reader.close()
    assert [(row.calls, row.p50, row.p99) for row in report] == [(100, 1.0, 16.0)]


@pytest.mark.parametrize("scale", [-(2**31), -10, 2**31 - 1])
def test_buckets_that_no_number_is_in_keep_no_function_from_being_shown(metrics, scale):
    for name, at_scale in (("shop.pay", scale), ("shop.pack", 0)):
        metrics.put(
            "perf.call.duration", "exponential_histogram", 0, said=[("code.function.name", name)], scale=at_scale,
            positive={"offset": 3, "counts": [1]}, count=1, sum=16.0, aggregation_temporality=CUMULATIVE,
        )  # fmt: skip
    with metrics.reading() as reading:
        found = summaries.functions(reading, Question({}))["functions"]
    reader = StoreReader(metrics.home)
    report = summarize(reader).functions
    reader.close()
    assert {row["name"]: row["p50"] for row in found}["shop.pack"] == 16.0
    assert {row.name: row.p50 for row in report} == {row["name"]: row["p50"] for row in found}


def test_explicit_buckets_are_no_quantiles(metrics):
    """Their bounds say no more than a power of ten; what counts calls since the start counts each once."""
    for seconds in (0, 60):
        metrics.put(
            "perf.call.duration", "histogram", seconds, said=[("code.function.name", "shop.pay")], count=5, sum=4.0,
            explicit_bounds=[0.5, 1.0], bucket_counts=[0, 5, 0], aggregation_temporality=CUMULATIVE,
        )  # fmt: skip
    with metrics.reading() as reading:
        (row,) = summaries.functions(reading, Question({}))["functions"]
    reader = StoreReader(metrics.home)
    (other,) = summarize(reader).functions
    reader.close()
    assert (row["calls"], row["total"], row["p50"]) == (other.calls, other.total, other.p50) == (5, 4.0, 0.0)


def test_wider_buckets_are_not_new_pauses(metrics):
    """GIVEN an old long pause WHEN the SDK makes the buckets wider THEN the longest one is that of the interval."""
    # Scale 1: bucket 9 ends at 2**(10/2) = 32; bucket -1 ends at 1.
    pause(metrics, 0, 1, -1, [1, *[0] * 9, 1], CUMULATIVE)
    pause(metrics, 60, 1, -1, [2, *[0] * 9, 1], CUMULATIVE)
    pause(metrics, 120, 0, -1, [3, 0, 0, 0, 0, 1], CUMULATIVE)  # one more, of at most 1 s; the old one is in bucket 4
    pause(metrics, 180, 0, -1, [3, 1, 0, 0, 0, 1], CUMULATIVE)
    assert pauses(metrics) == [(32, 2), (1, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("scales", [(1, 1, 0), (0, 1, 1), (3, 3, 3)])
def test_deltas_of_any_scale_add_up(metrics, scales):
    """Each interval has two pauses from 1 s to 2 s, and one of up to 4 s."""
    for minute, scale in enumerate(scales):
        one, two = 2**scale - 1, 2 ** (scale + 1) - 1  # the last bucket of each power of two
        counts = [2, *[0] * (two - one - 1), 1]
        pause(metrics, 60 * minute, scale, one, counts, DELTA)
    assert pauses(metrics) == [(4, 3)] * 3
    buckets, count = rows(metrics.path, "SELECT buckets, count FROM series")[0]
    found = msgspec.json.decode(buckets)
    assert count == 9
    assert found["scale"] == min(scales)
    assert sum(found["counts"].values()) == 9
    first, last = 2 ** min(scales) - 1, 2 ** (min(scales) + 1) - 1
    assert found["counts"] == {str(first): 6, str(last): 3}


def test_an_interval_without_anything_changes_no_buckets(metrics):
    pause(metrics, 0, 1, 0, [1], DELTA)
    metrics.put("perf.gc.pause", "exponential_histogram", 60, scale=20, aggregation_temporality=DELTA)
    pause(metrics, 120, 1, 0, [1], DELTA)
    build(metrics.path, metrics.home)
    assert msgspec.json.decode(rows(metrics.path, "SELECT buckets FROM series")[0][0]) == {
        "scale": 1,
        "counts": {"0": 2},
    }


@pytest.mark.parametrize("scale", [20, 0, -3, 2**31 - 1])
def test_a_total_without_any_bucket_costs_no_batch(metrics, scale):
    """GIVEN pauses WHEN a total says that there are more, all of zero, at any scale THEN its batch is not left out."""
    pause(metrics, 0, -2, 0, [1], CUMULATIVE)
    metrics.put(
        "perf.gc.pause", "exponential_histogram", 60, scale=scale, count=2, zero_count=2,
        aggregation_temporality=CUMULATIVE,
    )  # fmt: skip
    pause(metrics, 120, 3, 7, [3], CUMULATIVE)
    assert pauses(metrics) == [(16, 1), (0, 1), (2, 1)]
    assert rows(metrics.path, "SELECT skipped FROM store") == [(0,)]


def test_a_process_that_began_anew_has_only_new_pauses(metrics):
    pause(metrics, 0, 0, 0, [0, 0, 5], CUMULATIVE)
    pause(metrics, 60, 2, 0, [1], CUMULATIVE)
    assert pauses(metrics)[1] == (pytest.approx(2**0.25), 1)


@pytest.mark.parametrize("scale", [-(2**31), 2**31 - 1, 1000, -1000])
def test_a_scale_that_cannot_be_costs_no_other_point(metrics, scale):
    pause(metrics, 0, scale, 5, [1], CUMULATIVE)
    metrics.put("process.memory.usage", "gauge", 1, as_double=1.0)
    build(metrics.path, metrics.home)
    assert rows(metrics.path, "SELECT skipped FROM store") == [(0,)]
    assert metrics.metric("process.memory.usage")[1] == {"shop": [1]}


@pytest.mark.parametrize("wrong", [0, 10**15, 4_102_444_800 * 10**9], ids=["1970", "two weeks after 1970", "2100"])
def test_one_wrong_clock_stretches_no_chart(metrics, wrong):
    """GIVEN a span and a point of a clock that is wrong WHEN charts are drawn THEN of the time of all others."""
    for minute in range(3):
        metrics.put("process.memory.usage", "gauge", 60 * minute, as_double=1.0)
    now = (BEGIN + 130_000) * 1_000_000
    metrics.put(
        "process.memory.usage", "gauge", wrong / 1e9 - BEGIN / 1000, "other", as_double=5.0, created=now
    )  # fmt: skip
    put(metrics.home, "traces", one_span(start=wrong), created=now)
    put(metrics.home, "traces", one_span(tid=b"r" * 16, start=now - 10**9), created=now)
    with metrics.reading() as reading:
        found = charts.charts(reading, Question({}))
    assert found["begin"] == BEGIN
    assert found["step"] == 1000
    times = [at for panel in found["panels"] for line in panel["lines"] for at, _ in in_seconds(found, line["points"])]
    assert 0 <= min(times) <= max(times) <= 131


def test_a_line_has_few_points_however_long_the_range(metrics):
    for hour in range(50):
        metrics.put("process.memory.usage", "gauge", 3600 * hour, as_double=1.0)
    assert charts.STEPS / 2 < len(metrics.panel("memory")["shop"]) <= charts.STEPS + 1


def steps_by_hand(metrics, found, name, column):
    """The highest value of each step, of the points themselves."""
    return dict(
        rows(
            metrics.path,
            f"SELECT (time - {found['begin']}) / {found['step']}, max(point.{column}) FROM point JOIN series ON series.id = series"
            f" JOIN text ON text.id = name WHERE text.value = '{name}' GROUP BY 1",
        )
    )


@pytest.mark.parametrize("minutes", [3, 60], ids=["12 hours", "10 days"])
def test_charts_of_many_hours_draw_the_highest_points_as_those_of_few_do(metrics, minutes):
    """GIVEN a range whose steps are slots WHEN it is drawn THEN its values are those of the points in each step."""
    chance = random.Random(3)
    for number in range(240):
        at = number * minutes * 60 + chance.randrange(60)
        metrics.put("queue.length", "gauge", at, as_double=chance.uniform(-50, 50))
        pause(metrics, at, 2, chance.randrange(-20, 20), [1], DELTA)
        if number == 100:
            build(metrics.path, metrics.home)  # what comes later is added to slots that are there
    with metrics.reading() as reading:
        for name, column in (("queue.length", "value"), ("perf.gc.pause", "high")):
            found = charts.metric(reading, Question({"name": name}))
            assert found["step"] % 300_000 == 0
            (line,) = found["panels"][0]["lines"]
            assert dict(line["points"]) == steps_by_hand(metrics, found, name, column)
    assert len(line["points"]) > charts.STEPS / 3


def test_a_range_of_many_hours_begins_and_ends_where_it_is_asked_for(metrics):
    for number in range(24 * 12):
        metrics.put("queue.length", "gauge", number * 300 + 7, as_double=float(number))
    begin = BEGIN + 6 * 3_600_000
    with metrics.reading() as reading:
        times = {"from": str(begin + 60_000), "to": str(begin + 12 * 3_600_000)}
        found = charts.metric(reading, Question({"name": "queue.length", **times}))
    drawn = in_seconds(found, found["panels"][0]["lines"][0]["points"])
    assert found["step"] == 300_000
    assert begin / 1000 - 300 < drawn[0][0] + BEGIN / 1000 <= begin / 1000 + 60
    assert drawn[-1][1] == 6 * 12 + 12 * 12  # of the slot that begins at the end


def test_processes_whose_names_begin_alike_are_lines_of_their_own(metrics):
    """GIVEN pods, and processes that are alike at both ends WHEN their memory is drawn THEN none is added to another."""
    for service, instances in (
        ("shop", ("shop-7d9f-abcdefgh", "shop-7d9f-ijklmnop")),
        ("mail", ("pool-of-1-workers-a", "pool-of-2-workers-a")),
    ):
        for value, instance in enumerate(instances, 1):
            metrics.put("process.memory.usage", "gauge", 0, instance, service=service, as_double=float(value))
    drawn = {label: {value for _, value in line} for label, line in metrics.panel("memory").items()}
    assert drawn == {
        "shop abcdefgh": {1}, "shop ijklmnop": {2}, "mail pool-of-1-workers-a": {1}, "mail pool-of-2-workers-a": {2}
    }  # fmt: skip


def test_series_whose_attributes_end_alike_are_lines_of_their_own(metrics):
    for value, name in enumerate(("client.state", "server.state"), 1):
        metrics.put("connections", "gauge", 0, said=[(name, "open")], as_double=float(value))
    assert sorted(metrics.metric("connections")[1].values()) == [[1], [2]]


def test_starts_are_those_of_the_time_that_is_shown(metrics):
    for hour in range(3):
        metrics.put("process.memory.usage", "gauge", 3600 * hour, f"{hour}-process", as_double=1.0)
    with metrics.reading() as reading:
        times = {"from": str(BEGIN + 1_800_000), "to": str(BEGIN + 5_400_000)}
        found = charts.charts(reading, Question(times))
    assert [mark["text"] for mark in found["marks"]] == ["process 1-proces started "]


def test_a_series_that_could_not_be_asked_for_a_while_neither_falls_nor_jumps(tmp_path):
    """GIVEN a counter of 1 a second, and the Collector's mark for one reading that failed THEN its rate stays 1."""
    metrics = Metrics(tmp_path)
    said = {"aggregation_temporality": CUMULATIVE, "is_monotonic": True}
    for seconds in range(10_000, 10_240, 60):
        metrics.put("requests", "sum", seconds, as_double=seconds, **said)
    metrics.put("requests", "sum", 10_200, flags=1, **said)
    for seconds in range(10_240, 10_360, 60):
        metrics.put("requests", "sum", seconds, as_double=seconds, **said)
    with metrics.reading() as reading:
        (panel,) = charts.metric(reading, Question({"name": "requests"}))["panels"]
    ((_, points),) = [(line["label"], line["points"]) for line in panel["lines"]]
    assert {round(value, 6) for _, value in points} == {1.0}


def test_what_two_libraries_count_by_one_name_is_told_apart(tmp_path):
    """GIVEN httpx and requests that ask one server WHEN both count it THEN each has its rate, and a process one memory."""
    metrics = Metrics(tmp_path)
    for minute in range(5):
        for scope, base in (("httpx", 1000), ("requests", 5)):
            at = 60 * minute + base / 1e6
            said = {"aggregation_temporality": CUMULATIVE, "is_monotonic": True, "scope": scope}
            metrics.put("http.client.calls", "sum", at, as_double=base + 60 * minute, **said)
            metrics.put("process.memory.usage", "gauge", at, as_double=1e6, scope=scope)
    with metrics.reading() as reading:
        (panel,) = charts.metric(reading, Question({"name": "http.client.calls"}))["panels"]
        memory = charts.charts(reading, Question({}))["panels"][0]
    assert {line["label"]: {round(rate, 3) for _, rate in line["points"]} for line in panel["lines"]} == {
        "shop · httpx": {1.0}, "shop · requests": {1.0},
    }  # fmt: skip
    assert [{value for _, value in line["points"]} for line in memory["lines"]] == [{1e6}]
