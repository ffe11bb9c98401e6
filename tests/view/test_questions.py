"""What the page asks is answered from the index."""

import asyncio
import math
import shutil
import sqlite3
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import msgspec
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from starlette.requests import Request

from otel_perf.core.events import WAITED_FOR
from otel_perf.view import beside, server
from otel_perf.view import lines as lines_module
from otel_perf.view.lines import Words, words_of
from otel_perf.view.reading import BadQuestionError, Question, Readings, attributes_of
from tests.view.test_index import one_span, put

HOSTILE = [
    "'; DROP TABLE span; --",
    '" OR 1=1',
    "NEAR(",
    "*",
    "%",
    "_",
    "\\",
    "a" * 5000,
    "\x00",
    "<script>alert(1)</script>",
    "body:x AND",
    "-",
    "(((",
]


def test_the_state_says_services_times_and_numbers(ask):
    found = ask("state")
    assert found["services"] == ["mail", "payment", "search", "shop"]
    assert found["items"]["traces"] == found["items"]["logs"] == 10_240
    assert 0 < found["first"] < found["last"] <= time.time_ns()


def test_findings_are_grouped_costliest_first_and_lead_to_their_traces(ask):
    groups = ask("findings")["findings"]
    costs = [group["cost"] for group in groups]
    assert costs == sorted(costs, reverse=True)
    first = groups[0]
    group = ask("finding", service=first["service"], kind=first["kind"], spot=first["spot"])
    assert len(group["traces"]) == min(25, first["count"])
    assert sum(row[1] for row in group["times"]) == first["count"]
    assert group["traces"][0]["cost"] == pytest.approx(first["worst"])


def test_a_trace_is_a_tree_whose_critical_path_is_its_length(ask):
    listed = ask("traces")["traces"]
    found = ask("trace", trace=listed[0]["trace"])
    assert found["took"] == listed[0]["took"]
    assert found["list"][0]["depth"] == 0
    assert {span["depth"] for span in found["list"][1:]} == {1}
    on_path = sum(length for span in found["list"] for _, length in span.get("path", ()))
    assert on_path == found["list"][0]["took"]


def test_spans_that_are_each_others_parents_are_shown_once(tmp_path, ask_of):
    """GIVEN a root with a child, and three spans in a circle WHEN the trace is shown THEN it has all five."""
    home, tid = tmp_path / "home", b"g" * 16
    for sid, parent in ((b"r", b""), (b"c", b"r"), (b"x", b"z"), (b"y", b"x"), (b"z", b"y")):
        put(home, "traces", one_span(tid=tid, sid=sid * 8, parent=parent * 8))
    shown = ask_of(home)("trace", trace=tid.hex())["list"]
    assert sorted(span["span"] for span in shown) == sorted((sid * 8).hex() for sid in (b"r", b"c", b"x", b"y", b"z"))
    assert sorted(span["depth"] for span in shown) == [0, 0, 1, 1, 2]


def signal_span(sid, kind, attributes, events=()):
    request = one_span(tid=b"g" * 16, sid=sid * 8, parent=b"r" * 8, name="signal")
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.kind = kind
    for of, said in ((span, attributes), *((span.events.add(name=name), said) for name, said in events)):
        for key, value in said.items():
            pair = of.attributes.add()
            pair.key = key
            if isinstance(value, list):
                for text in value:
                    pair.value.array_value.values.add().string_value = text
            else:
                pair.value.string_value = value
    return request


def test_signals_are_in_the_waterfall_of_their_trace(tmp_path, ask_of):
    """GIVEN a trace in which one emits, one waits and one waits in vain WHEN it is shown THEN its spans say so."""
    home = tmp_path / "home"
    put(home, "traces", one_span(tid=b"g" * 16, sid=b"r" * 8))
    got = ("perf.signal.received", {"perf.signal.name": "A", "perf.signal.emitter": "agent-1"})
    for sid, kind, attributes, events in (
        (b"e", 4, {"perf.signal.name": "A", "perf.signal.state": "ready"}, ()),
        (b"w", 5, {WAITED_FOR: ["A", "B"], "perf.signal.outcome": "ready"}, (got,)),
        (b"v", 5, {WAITED_FOR: ["C"], "perf.signal.outcome": "timeout", "perf.signal.missing": ["C"]}, ()),
    ):
        put(home, "traces", signal_span(sid, kind, attributes, events))
    said = {span["span"]: span.get("signal") for span in ask_of(home)("trace", trace=(b"g" * 16).hex())["list"]}
    assert said == {
        (b"r" * 8).hex(): None,
        (b"e" * 8).hex(): {"waits": False, "names": ["A"], "bad": False, "end": ""},
        (b"w" * 8).hex(): {"waits": True, "names": ["A", "B"], "bad": False, "end": "A by agent-1"},
        (b"v" * 8).hex(): {"waits": True, "names": ["C"], "bad": True, "end": "timeout, missing C"},
    }


def test_whatever_fails_is_a_named_answer_and_the_next_question_is_answered(filled, capfd):
    def ask(function):
        handler = server._question(readings, threads, function)
        request = Request({"type": "http", "query_string": b"", "headers": []})
        answered = asyncio.run(handler(request))
        return answered.status_code, msgspec.json.decode(answered.body)

    with ThreadPoolExecutor(1) as threads:
        readings = Readings(filled / "index.db")
        status, said = ask(lambda *_: {}["no such key"])
        assert status == 500
        assert "KeyError: 'no such key'" in said["problem"]
        assert "Traceback" in capfd.readouterr().err  # whoever runs it sees where
        status, said = ask(lambda reading, _: {"spans": reading.row("SELECT count(*) FROM span")[0]})
        assert (status, said) == (200, {"spans": 10_240})
        threads.submit(lambda: readings.mine().close()).result()


def test_an_answer_is_of_one_moment(filled, tmp_path):
    """GIVEN an index that is written WHEN a question reads twice THEN it reads the same, and the next one what is new."""
    path = tmp_path / "index.db"
    shutil.copy(filled / "index.db", path)
    query = "SELECT count(*) FROM log"
    writer, readings = sqlite3.connect(path), Readings(path)

    def twice(reading, _):
        before = reading.row(query)[0]
        with writer:
            writer.execute("DELETE FROM log WHERE id = (SELECT max(id) FROM log)")
        return {"counts": [before, reading.row(query)[0]]}

    def ask():
        request = Request({"type": "http", "query_string": b"", "headers": []})
        return msgspec.json.decode(asyncio.run(server._question(readings, Here(), twice)(request)).body)["counts"]

    class Here(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.set_result(fn(*args, **kwargs))
            return future

    assert ask() == [10_240, 10_240]
    assert ask() == [10_239, 10_239]
    readings.mine().close()
    writer.close()


def test_a_span_and_a_line_are_shown_in_full_from_the_store(ask):
    found = ask("trace", trace=ask("traces")["traces"][0]["trace"])
    span = found["list"][0]
    full = ask("span", place=span["at"][0], pos=span["at"][1])
    assert full["attributes"]["http.route"] == found["names"][str(span["op"])]["name"] == found["name"]
    line = ask("lines")["lines"][0]
    assert ask("line", place=line["at"][0], pos=line["at"][1])["text"] == line["text"]
    assert ask("span", place=1 << 39, pos=0) == ask("line", place=0, pos=5) == {"gone": True}


def test_traces_are_ordered_filtered_and_paged(ask):
    took = [row["took"] for row in ask("traces", limit=100)["traces"]]
    assert took == sorted(took, reverse=True)
    assert [row["took"] for row in ask("traces", limit=50, skip=50)["traces"]] == took[50:]
    assert all(row["errors"] for row in ask("traces", failed=1)["traces"])
    assert all(row["took"] >= 200_000_000 for row in ask("traces", least=200, limit=200)["traces"])
    assert all(row["service"] == "mail" for row in ask("traces", service="mail")["traces"])
    newest = [row["start"] for row in ask("traces", sort="newest")["traces"]]
    assert newest == sorted(newest, reverse=True)
    some = ask("traces")["traces"][7]["trace"]
    assert [row["trace"] for row in ask("traces", q=some)["traces"]] == [some]
    assert ask("traces", q="table_3")["traces"]


def test_a_range_of_time_bounds_everything(ask):
    last = ask("state")["last"] // 1_000_000
    half = {"from": last - 30 * 60_000, "to": last}
    begin = half["from"] * 1_000_000
    assert all(row["start"] >= begin for row in ask("traces", **half)["traces"])
    assert all(row["time"] >= begin for row in ask("lines", **half)["lines"])
    whole, part = (sum(row["count"] for row in ask("operations", **times)["operations"]) for times in ({}, half))
    assert 0.4 < part / whole < 0.6
    assert ask("findings", **half)["findings"][0]["first"] >= begin


def test_lines_are_found_by_words_level_logger_and_template(ask):
    line = ask("lines")["lines"][0]
    words = " ".join(line["text"].split()[:2])
    assert all(words in row["text"] for row in ask("lines", q=words)["lines"])
    assert {row["severity"] for row in ask("lines", severity=17)["lines"]} == {17}
    assert {row["logger"] for row in ask("lines", logger="app.module_3")["lines"]} == {"app.module_3"}
    template = ask("templates")["templates"][0]
    assert {row["template"] for row in ask("lines", template=template["id"])["lines"]} == {template["id"]}
    assert sum(row["count"] for row in ask("templates")["templates"]) == sum(1 for _ in all_lines(ask))


def all_lines(ask, **filters):
    before = ""
    while True:
        found = ask("lines", before=before, limit=1000, **filters)
        yield from found["lines"]
        if not found["more"]:
            return
        before = found["cursor"]


def test_pages_of_lines_have_each_line_once_and_in_order(ask):
    lines = list(all_lines(ask))
    assert len({line["id"] for line in lines}) == len(lines)
    assert [line["time"] for line in lines] == sorted((line["time"] for line in lines), reverse=True)


def test_what_came_after_a_line_is_told(ask):
    newest = ask("lines")["newest"]
    assert ask("lines", after=newest)["lines"] == []
    assert 0 < len(ask("lines", after=newest - 10)["lines"]) <= 10


def test_the_first_of_a_list_can_be_asked_for_alone(ask):
    for name in ("operations", "errors"):
        assert ask(name, limit=3)[name] == ask(name)[name][:3]


def test_functions_add_up_and_flames_hold_their_parts(ask):
    assert ask("functions")["all"] == 4 * 60
    assert len(ask("functions")["functions"]) == 100
    found = ask("functions", q="function_0")["functions"]
    assert [row["calls"] for row in found] == [14 * 60] * 4
    flame = ask("flame")
    for op, number, total, own, children in flame["tree"]:
        assert str(op) in flame["names"]
        assert number > 0
        assert 0 <= own <= total
        assert sum(child[1] for child in children) >= number


def test_charts_have_memory_rates_and_ratios(ask):
    panels = {panel["key"]: panel for panel in ask("charts")["panels"]}
    assert {"memory", "cpu", "pauses", "lag", "collections", "hits"} <= set(panels)
    memory = panels["memory"]["lines"][0]["points"]
    assert memory[0][1] < memory[-1][1] <= 1e8 + 1e5 * 60
    assert panels["hits"]["lines"][0]["points"][-1][1] == pytest.approx(0.5)
    assert ask("metric", name="process.cpu.time")["panels"][0]["lines"]
    assert {row["name"] for row in ask("metrics")["metrics"]} >= {"perf.cache.hits", "perf.call.duration"}
    assert any(mark["kind"] == "start" for mark in ask("charts")["marks"])


def log_lines(*records, service="shop"):
    """A request of (time, text, other fields, attributes)."""
    request = ExportLogsServiceRequest()
    of = request.resource_logs.add()
    pair = of.resource.attributes.add()
    pair.key, pair.value.string_value = "service.name", service
    scope = of.scope_logs.add()
    for at, text, fields, attributes in records:
        record = scope.log_records.add(time_unix_nano=at, **{"severity_number": 9, **fields})
        record.body.string_value = text
        for key, value in attributes.items():
            pair = record.attributes.add()
            pair.key = key
            setattr(pair.value, f"{'string' if isinstance(value, str) else 'double'}_value", value)
    return request


def found_at(at, cost, trace, text):
    attributes = {"perf.bottleneck.kind": "slow_io", "perf.bottleneck.culprit": "SELECT 1", "perf.bottleneck.cost": cost,
                  "code.file.path": "app.py", "code.line.number": 7.0, "code.function.name": f"function of {text}"}  # fmt: skip
    return at, text, {"event_name": "perf.bottleneck", "trace_id": trace * 16}, attributes


def test_a_finding_shows_the_costliest_of_its_group_and_leads_to_its_trace(tmp_path, ask_of):
    """GIVEN findings alike of which neither the first nor the last cost the most WHEN they are listed THEN all is of that."""
    home = tmp_path / "home"
    for trace in b"abc":
        put(home, "traces", one_span(tid=bytes([trace]) * 16))
    records = [
        found_at(1000, 1.0, b"a", "first"),
        found_at(2000, 5.0, b"b", "worst"),
        found_at(3000, 2.0, b"c", "last"),
    ]
    put(home, "logs", log_lines(*records), items=3)
    records.append((1500, "of no trace", {"event_name": "perf.bottleneck"}, found_at(0, 0.0, b"", "")[3]))
    put(home, "logs", log_lines(records[-1]), items=1)
    (group,) = ask_of(home)("findings")["findings"]
    assert (group["count"], group["traces"], group["cost"], group["worst"]) == (4, 3, 8.0, 5.0)
    assert (group["first"], group["last"]) == (1000, 3000)
    assert (group["evidence"], group["function"]) == ("worst", "function of worst")
    assert group["trace"] == (b"b" * 16).hex()


def test_errors_alike_show_the_message_and_the_trace_of_the_last(tmp_path, ask_of):
    home = tmp_path / "home"
    records = []
    for at, trace in ((2000, b"b"), (3000, b"c"), (1000, b"a")):
        put(home, "traces", one_span(tid=trace * 16))
        records.append(
            (at, f"error of {at}", {"severity_number": 17, "severity_text": "ERROR", "trace_id": trace * 16}, {})
        )
    put(home, "logs", log_lines(*records), items=3)
    (group,) = ask_of(home)("errors")["errors"]
    assert (group["count"], group["first"], group["last"]) == (3, 1000, 3000)
    assert (group["message"], group["trace"]) == ("error of 3000", (b"c" * 16).hex())


BOUNDS = {"as they are": {}, "by words": {"FEW": 5}, "walked in short pieces": {"FEW": 5, "MATCHES": 10, "LOOKED": 40}}


@pytest.fixture
def two_stores(tmp_path, ask_of):
    """300 lines in each of two stores, all of one time; the first one has its errors at the very beginning."""
    for name in ("a", "b"):
        records = [
            (10**18 + number * 1000, f"order {number} said in {name}", {"severity_number": 17 if name == "a" and number < 7 else 9}, {})
            for number in range(300)
        ]  # fmt: skip
        put(tmp_path / name, "logs", log_lines(*records, service=name), items=300)
    return ask_of(tmp_path / "a", tmp_path / "b")


def paged(ask, limit, **filters):
    """All pages, and how many there were."""
    lines, before, pages = [], "", 0
    while True:
        found = ask("lines", before=before, limit=limit, **filters)
        lines += found["lines"]
        pages += 1
        if not found["more"]:
            return lines, pages
        assert found["cursor"] != before
        before = found["cursor"]


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize(
    ("filters", "count"),
    [({"q": "said"}, 600), ({"q": "order SAI"}, 600), ({"q": "said in b"}, 300), ({"q": "said", "severity": 17}, 7),
     ({"q": "said", "service": "a"}, 300), ({"q": "said", "severity": 5, "own": 1}, 600), ({"q": "order 299 said"}, 2),
     ({"event": "none"}, 0), ({"q": "sai said"}, 0), ({"q": "said", "service": "b", "severity": 17}, 0)],
)  # fmt: skip
def test_pages_of_lines_with_words_lose_none_whatever_their_order_in_the_index(
    two_stores, monkeypatch, bounds, filters, count
):
    for name, value in bounds.items():
        monkeypatch.setattr(lines_module, name, value)
    lines, pages = paged(two_stores, 50, **filters)
    assert len({line["id"] for line in lines}) == len(lines) == count
    assert [(line["time"], line["id"]) for line in lines] == sorted(
        ((line["time"], line["id"]) for line in lines), reverse=True
    )
    if not bounds:
        assert pages == max(1, -(-count // 50))


def test_an_answer_that_did_not_look_at_everything_says_so(two_stores, monkeypatch):
    monkeypatch.setattr(lines_module, "LOOKED", 100)
    found = two_stores("lines", event="none")
    assert (found["lines"], found["more"], found["cut"]) == ([], True, True)
    assert two_stores("lines", limit=50)["cut"] is False


@pytest.mark.parametrize("filters", [{}, {"q": "said"}, {"severity": 17}, {"service": "b"}, {"q": "nothing"}])
def test_what_came_after_a_line_is_told_once_and_whole(two_stores, monkeypatch, filters):
    """GIVEN more lines than one answer has WHEN somebody asks until there are no more THEN each was told once."""
    monkeypatch.setattr(lines_module, "LOOKED", 90)
    wanted, _ = paged(two_stores, 1000, **filters)
    told, after = [], 0
    while True:
        found = two_stores("lines", after=after, limit=50, **filters)
        told += [line["id"] for line in found["lines"]]
        after = found["upto"]
        if not found["more"]:
            break
    assert sorted(told) == sorted(line["id"] for line in wanted)
    assert after == found["newest"]


LINES = [
    "order_77 paid",
    "Order 77 PAID",
    "reorder 770",
    "café crème",
    "CAFE",
    "a-b",
    "ab",
    "straße",
    "naïve",
    "x" * 50,
    "77",
    "paid 77 order",
    "",
    "user_id=5",
]
QUESTIONS = [
    "order",
    "order 77",
    "77 paid",
    "café",
    "cafe",
    "a b",
    "a-b",
    "ord",
    "77",
    "paid order",
    "STRASSE",
    "straße",
    "naive",
    "x",
    "user_id",
    "user id",
    "id=5",
    "_",
]


@pytest.mark.parametrize("text", QUESTIONS)
def test_words_are_found_in_a_line_as_the_full_text_search_finds_them(text):
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE words USING fts5 (body)")
    connection.executemany("INSERT INTO words(body) VALUES (?)", [(line,) for line in LINES])
    found = {row[0] for row in connection.execute("SELECT body FROM words WHERE words MATCH ?", (words_of(text),))}
    connection.close()
    assert {line for line in LINES if Words(text).are_in(line)} == (found if text != "_" else set(LINES))


def test_numbers_that_no_column_takes_are_cut(ask):
    for name in server.questions(beside.Beside([], [])):
        for parameter in (
            "from",
            "to",
            "least",
            "limit",
            "skip",
            "after",
            "severity",
            "operation",
            "template",
            "place",
            "pos",
            "line",
        ):
            try:
                msgspec.json.encode(ask(name, **{"trace": "0" * 32, parameter: 10**18 + 7}))
            except BadQuestionError as error:
                assert str(error)  # noqa: PT017  it may be no question; it must be no other error


def test_attributes_that_were_cut_off_are_none():
    assert attributes_of('{"a": 1}') == {"a": 1}
    assert attributes_of('{"a": "lon') == attributes_of(None) == attributes_of("[1]") == {}


@pytest.mark.parametrize("text", HOSTILE)
def test_words_are_words_whatever_they_are(ask, text):
    before = ask("state")
    for name in ("search", "lines", "traces", "operations", "functions"):
        msgspec.json.encode(ask(name, q=text))
    for parameter in ("service", "logger", "event", "template", "trace", "before"):
        try:
            msgspec.json.encode(ask("lines", **{parameter: text}))
        except BadQuestionError:
            assert parameter == "template"
    assert ask("state") == before


def test_words_are_quoted_for_the_full_text_search():
    assert words_of('paid" OR x') == '"paid" "OR" "x"*'
    assert words_of("!!!") == ""


def test_a_parameter_that_cannot_be_is_named():
    with pytest.raises(BadQuestionError, match="limit is '1; DROP'"):
        Question({"limit": "1; DROP"}).number("limit", 1)
    with pytest.raises(BadQuestionError, match="one of slowest"):
        Question({"sort": "x"}).one_of("sort", ("slowest",))
    with pytest.raises(BadQuestionError, match="32 hex digits"):
        Question({"trace": "../../etc"}).identifier("trace")
    assert Question({"from": "9" * 19}).times[0] > 0


def test_source_is_of_python_files_in_the_folders_that_may_be_shown(tmp_path):
    from otel_perf.view.beside import Beside

    folder, secret = tmp_path / "app", tmp_path / "secret.py"
    folder.mkdir()
    (folder / "orders.py").write_text("\n".join(f"line {number}" for number in range(1, 40)))
    (folder / "settings.env").write_text("PASSWORD=1")
    secret.write_text("password = 1")
    (folder / "link.py").symlink_to(secret)
    (folder / "pipe.py").mkdir()
    beside = Beside([], [folder])

    def source(path, line=20):
        return beside.source(None, Question({"path": str(path), "line": str(line)}))

    assert [20, "line 20"] in source("orders.py")["lines"]
    assert source(folder / "orders.py")["line"] == 20
    for hidden in (
        "../secret.py",
        secret,
        "link.py",
        "settings.env",
        "/etc/passwd",
        "pipe.py",
        "",
        "\0.py",
        "orders.py/../../secret.py",
    ):
        assert source(hidden) == {"missing": True}, hidden


def test_numbers_that_javascript_has_not_are_shown_as_they_are(tmp_path, ask_of):
    """GIVEN an id of 19 digits, and no number THEN the page gets their digits: its own numbers would round them."""
    request = one_span()
    (span,) = request.resource_spans[0].scope_spans[0].spans
    span.attributes.add(key="id").value.int_value = 1_234_567_890_123_456_789
    span.attributes.add(key="least").value.int_value = -(2**63)
    span.attributes.add(key="exact").value.int_value = 2**53 - 1
    span.attributes.add(key="none").value.double_value = math.nan
    span.attributes.add(key="list").value.array_value.values.add().int_value = 2**53
    put(tmp_path / "home", "traces", request)
    ask = ask_of(tmp_path / "home")
    (shown,) = ask("trace", trace=(b"t" * 16).hex())["list"]
    place, pos = shown["at"]
    assert ask("span", place=place, pos=pos)["attributes"] == {
        "id": "1234567890123456789", "least": "-9223372036854775808", "exact": 2**53 - 1, "none": "nan",
        "list": ["9007199254740992"],
    }  # fmt: skip
