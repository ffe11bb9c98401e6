"""Every format gives the same spans, compressed or not, and what is wrong in a file is named."""

import gzip
import json
import lzma

import pytest

from otel_perf.analysis.sources import Skipped, Span, read, service_of
from otel_perf.core.errors import SettingError

CSV = """Minute,TraceID,SpanID,ParentID,PodName,OperationName,StartTimeUnixNano,EndTimeUnixNano
03_53,t1,a,root,front-end-579b9bff58-t2dbm,GET /,1000,9000
03_53,t1,b,a,cart-0,"add, then ""get\""",2000,5000
"""
ROWS = [("t1", "a", "root", "front-end", "GET /", 1000, 9000), ("t1", "b", "a", "cart", 'add, then "get"', 2000, 5000)]


def otlp(*spans, service="cart"):
    resource = {"attributes": [{"key": "host.name", "value": {"stringValue": "h"}}]}
    if service:
        resource["attributes"].append({"key": "service.name", "value": {"stringValue": service}})
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(spans)}]}]})


def span(**changed):
    made = {
        "traceId": "t1",
        "spanId": "a",
        "name": "GET /",
        "kind": 2,
        "startTimeUnixNano": "1000",
        "endTimeUnixNano": "9000",
    }
    return {**made, **changed}


def jaeger(*spans):
    return json.dumps(
        {"data": [{"traceID": "t1", "spans": list(spans), "processes": {"p1": {"serviceName": "cart"}}}]}, indent=2
    )


def jaeger_span(**changed):
    made = {"traceID": "t1", "spanID": "a", "operationName": "GET /", "startTime": 1, "duration": 8, "processID": "p1"}
    return {**made, **changed}


def rows(spans):
    return [tuple(getattr(span, name) for name in Span.__slots__) for span in spans]


@pytest.fixture
def load(tmp_path):
    """Read a file of this text: its rows, and what was skipped."""

    def load(text, name="spans", write=None):
        path = tmp_path / name
        write(path, text) if write else path.write_text(text)
        skipped = Skipped()
        return rows(read(path, skipped)), skipped

    return load


def test_csv_is_found_by_its_header_in_any_order_and_pods_are_services(load):
    assert load(CSV)[0] == ROWS
    turned = "\n".join(",".join(reversed(line.split(","))) for line in CSV.splitlines()[:2])
    assert load("\ufeff" + turned.replace("SpanID", "span_id"))[0] == ROWS[:1]
    assert load(CSV.replace("PodName", "ServiceName"))[0][1][3] == "cart-0", "a service's own name is left alone"


@pytest.mark.parametrize(
    ("pod", "service"),
    [
        ("ts-order-service-5b67c48447-mv5hb", "ts-order-service"),
        ("cart-579f59597d-wc2lz", "cart"),
        ("redis-12", "redis"),
        ("worker-2-579f59597d-wc2lz", "worker-2"),
        ("front-proxy-agent", "front-proxy-agent"),
        ("my-svc-https", "my-svc-https"),
    ],
)
def test_a_pod_is_named_by_its_workload(pod, service):
    assert service_of(pod) == service


def test_otlp_lines_give_spans_and_pass_over_other_signals(load):
    text = "\n".join(
        [
            '{"resourceLogs":[]}',
            otlp(span(), span(spanId="b", parentSpanId="a", startTimeUnixNano=2000)),
            "",
            otlp(span(spanId="c"), service=""),
        ]
    )
    found, skipped = load(text)
    assert [row[1:4] for row in found] == [("a", "", "cart"), ("b", "a", "cart"), ("c", "", "unknown_service")]
    assert found[1][5:] == (2000, 9000)
    assert skipped.count == 0


def test_jaeger_gives_times_in_microseconds_and_parents_before_predecessors(load):
    follows = {"refType": "FOLLOWS_FROM", "traceID": "t1", "spanID": "x"}
    child = {"refType": "CHILD_OF", "traceID": "t1", "spanID": "a"}
    found, _ = load(
        jaeger(
            jaeger_span(),
            jaeger_span(spanID="b", references=[follows, child]),
            jaeger_span(spanID="c", references=[follows]),
        )
    )
    assert found[0] == ("t1", "a", "", "cart", "GET /", 1000, 9000)
    assert [row[2] for row in found] == ["", "a", "x"]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files_are_read_and_cut_off_ones_named(load, suffix, compress):
    def whole(path, text):
        path.write_bytes(compress(text.encode()))

    def half(path, text):
        path.write_bytes(compress(text.encode())[:-9])

    assert load(CSV, f"t.csv{suffix}", whole)[0] == ROWS
    with pytest.raises(SettingError, match=rf"t\.csv{suffix} cannot be read"):
        load(CSV, f"t.csv{suffix}", half)
    with pytest.raises(SettingError, match="cannot be read"):
        load(CSV, f"t.csv{suffix}")


@pytest.mark.parametrize(
    ("text", "good", "first"),
    [
        (CSV.replace("1000", "soon"), 1, "line 2: invalid literal for int() with base 10: 'soon'"),
        (CSV + "t2,x\n", 2, "line 4: columns are missing"),
        (CSV + "t2," + "x" * 200_000 + "\n", 2, "line 4: field larger than field limit (131072)"),
        (f"{otlp(span())}\n{{cut o\n[]\n", 1, "line 2: no OTLP JSON: Expecting property name"),
        (f"{otlp(span(), span(startTimeUnixNano='x'))}\n{otlp(span())}", 1, "line 1: no OTLP JSON: invalid literal"),
        (otlp({"spanId": "a"}), 0, "line 1: no OTLP JSON: 'traceId' is missing"),
        (jaeger(jaeger_span(), jaeger_span(processID="p9")), 1, "span 2 of trace t1: no span of Jaeger's: 'p9' is mis"),
    ],
)
def test_a_bad_line_is_counted_and_the_first_is_named(load, text, good, first):
    found, skipped = load(text)
    assert len(found) == good
    assert skipped.count >= 1
    assert skipped.first.startswith(first)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "unknown format: line 1 is ''"),
        ("hello\nworld\n", "unknown format: line 1 is 'hello'; give OTLP JSON lines, Jaeger JSON, or CSV"),
        ("TraceID,SpanID\n", "no column here is ParentID, ServiceName or PodName, OperationName, Start"),
        ('{"data": [{"traceID": "t1", "spa', "no Jaeger JSON: "),
        ('{"traceID": "t1"}', "no Jaeger JSON: 'data' is missing; export the trace again"),
    ],
)
def test_an_unknown_format_is_an_error_with_the_remedy(load, text, complaint):
    with pytest.raises(SettingError) as caught:
        load(text)
    assert complaint in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingError, match="none cannot be read"):
        list(read(tmp_path / "none", Skipped()))


def test_what_json_leaves_out_costs_no_line(load):
    """GIVEN a batch with a span that has no name and no end, which protobuf's JSON leaves out THEN all of it is read."""
    bare = {key: value for key, value in span(spanId="b").items() if key not in {"name", "endTimeUnixNano"}}
    spans, skipped = load(otlp(span(), bare))
    assert spans == [("t1", "a", "", "cart", "GET /", 1000, 9000), ("t1", "b", "", "cart", "", 1000, 1000)]
    assert not skipped.count
