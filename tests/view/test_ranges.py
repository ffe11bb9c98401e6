"""Ranges of time: what one clock that is wrong does to them, and what is counted in them."""

import pytest

from otel_perf.view import traces as traces_module
from tests.view.test_index import one_span, put
from tests.view.test_questions import log_lines

MINUTE = 60 * 10**9
HOUR = 60 * MINUTE
NOW = 1_800_000_000 * 10**9  # an hour that begins
WRONG = {"1970": 10**15, "2100": 4_102_444_800 * 10**9}


def request(number, start, *, took=10**6, failed=False, service="shop"):
    """A span that serves, in a trace of its own."""
    made = one_span(
        tid=number.to_bytes(16), sid=(number + 1).to_bytes(8), name="GET /", start=start, took=took, service=service
    )
    span = made.resource_spans[0].scope_spans[0].spans[0]
    span.kind, span.status.code = 2, 2 if failed else 0
    return made


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_one_wrong_clock_stretches_no_range(tmp_path, ask_of, wrong):
    """GIVEN a span and a line of 1970 or 2100 WHEN the page asks THEN its ranges are those of all others, and both count."""
    home = tmp_path / "home"
    for number in range(10):
        put(home, "traces", request(number, NOW + number * MINUTE), created=NOW + 10 * MINUTE)
    put(home, "traces", request(77, wrong, failed=True), created=NOW + 10 * MINUTE)
    put(home, "logs", log_lines((wrong, "of no time", {}, {})), created=NOW + 10 * MINUTE)
    ask = ask_of(home)
    state = ask("state")
    assert (state["first"], state["last"]) == (NOW, NOW + 9 * MINUTE + 10**6)
    timeline = ask("timeline")
    assert [slot for slot, *_ in timeline["slots"]] == [(NOW + number * MINUTE) // 10**9 for number in range(10)]
    assert (timeline["width"], timeline["count"], timeline["errors"]) == (60, 11, 1)
    (operation,) = ask("operations")["operations"]
    assert (operation["count"], operation["errors"]) == (11, 1)
    last = {
        "from": state["last"] // 10**6 - 5 * 60_000,
        "to": state["last"] // 10**6 + 1,
    }  # as the page asks for 5 minutes
    assert ask("timeline", **last)["count"] == ask("operations", **last)["operations"][0]["count"] == 6
    assert len(ask("traces", **last)["traces"]) == 5


def test_telemetry_that_is_older_than_its_store_has_its_own_range(tmp_path, ask_of):
    """GIVEN nothing but spans of last year, as of an import WHEN the page asks THEN it is of last year."""
    home = tmp_path / "home"
    year = 365 * 24 * HOUR
    for number in range(3):
        put(home, "traces", request(number, NOW - year + number * MINUTE), created=NOW)
    ask = ask_of(home)
    state = ask("state")
    assert (state["first"], state["last"]) == (NOW - year, NOW - year + 2 * MINUTE + 10**6)
    assert [count for _, count, _ in ask("timeline")["slots"]] == [1, 1, 1]


def test_the_last_time_that_there_is_has_charts(tmp_path, ask_of):
    """GIVEN nothing but a line of the year 2554 THEN the page says that there is no figure, and not that it cannot."""
    put(tmp_path / "home", "logs", log_lines((2**64 - 1, "far", {}, {})))
    assert ask_of(tmp_path / "home")("charts")["panels"] == []


def test_nothing_is_a_range_as_well(tmp_path, ask_of):
    put(tmp_path / "home", "logs", log_lines())
    ask = ask_of(tmp_path / "home")
    assert (ask("state")["first"], ask("state")["last"]) == (0, 0)
    assert ask("timeline")["slots"] == ask("operations")["operations"] == ask("charts")["panels"] == []


def test_a_range_of_hours_counts_its_minutes_and_no_others(tmp_path, ask_of):
    """GIVEN a request each ten minutes of a day WHEN hours are asked for that begin anywhere THEN those in them count."""
    home = tmp_path / "home"
    for number in range(24 * 6):
        failed = number % 3 == 0
        put(
            home,
            "traces",
            request(number, NOW + number * 10 * MINUTE, took=number + 1, failed=failed),
            created=NOW + 24 * HOUR,
        )
    ask = ask_of(home)
    for begin, hours in ((0, 24), (1, 5), (30, 6), (59, 12), (60, 6), (95, 1), (0, 4)):
        first = -(-begin // 10)  # of requests
        last = (begin + hours * 60 - 1) // 10
        times = {"from": NOW // 10**6 + begin * 60_000, "to": NOW // 10**6 + (begin + hours * 60) * 60_000 - 1}
        (operation,) = ask("operations", **times)["operations"]
        wanted = range(first, min(last, 24 * 6 - 1) + 1)
        assert operation["count"] == len(wanted), (begin, hours)
        assert operation["longest"] == wanted[-1] + 1
        assert int(operation["trace"], 16) == wanted[-1]
        timeline = ask("timeline", **times)
        assert timeline["count"] == sum(count for _, count, _ in timeline["slots"]) == len(wanted)
        assert timeline["errors"] == sum(number % 3 == 0 for number in wanted)
        assert timeline["width"] == (3600 if hours > 5 or (begin, hours) == (0, 4) else timeline["width"])


def test_a_range_that_ends_before_it_begins_has_nothing(ask):
    times = {"from": 2_000, "to": 1_000}
    assert ask("operations", **times)["operations"] == ask("timeline", **times)["slots"] == []
    assert ask("charts", **times)["panels"] == []


def test_an_operation_leads_to_the_traces_that_have_it(tmp_path, ask_of):
    """GIVEN queries beneath requests, some of them alone WHEN their operation is asked for THEN all their traces are listed."""
    home = tmp_path / "home"
    for number in range(6):
        tid = number.to_bytes(16)
        put(
            home,
            "traces",
            one_span(tid=tid, name=f"GET /{number % 2}", start=NOW + number * HOUR),
            created=NOW + 6 * HOUR,
        )
        if number % 2:
            child = one_span(
                tid=tid, sid=b"c" * 8, parent=b"s" * 8, name="SELECT 1", start=NOW + number * HOUR + 10, took=10
            )
            put(home, "traces", child, created=NOW + 6 * HOUR)
    put(home, "traces", one_span(tid=b"\xff" * 16, name="SELECT 1", start=NOW), created=NOW + 6 * HOUR)
    ask = ask_of(home)
    number = {row["name"]: row["op"] for row in ask("operations")["operations"]}

    def traces(name, **more):
        return sorted(int(row["trace"], 16) & 255 for row in ask("traces", operation=number[name], **more)["traces"])

    assert traces("GET /0") == [0, 2, 4]
    assert traces("SELECT 1") == [1, 3, 5, 255]
    times = {"from": (NOW + HOUR) // 10**6, "to": (NOW + 4 * HOUR) // 10**6}
    assert traces("SELECT 1", **times) == [1, 3]
    assert traces("SELECT 1", q="GET /1", sort="newest") == [1, 3, 5]
    assert {row["trace"] for row in ask("traces", q="SELECT")["traces"]} >= {
        (1).to_bytes(16).hex(),
        (b"\xff" * 16).hex(),
    }
    assert ask("flame", operation=number["SELECT 1"])["traces"] == 4


@pytest.mark.parametrize("chosen", ["operation", "q"])
def test_an_operation_whose_slowest_spans_are_of_another_time_is_there(tmp_path, ask_of, monkeypatch, chosen):
    """GIVEN more traces in a range than are sorted, and slower spans before it WHEN asked THEN those of the range come."""
    monkeypatch.setattr(traces_module, "FEW", 2)
    monkeypatch.setattr(traces_module, "SLOWEST", 3)
    home = tmp_path / "home"
    for number in range(8):
        tid, start = number.to_bytes(16), NOW + number * HOUR
        put(home, "traces", one_span(tid=tid, name="GET /", start=start, took=10**6), created=NOW + 8 * HOUR)
        child = one_span(
            tid=tid, sid=b"c" * 8, parent=b"s" * 8, name="SELECT 1", start=start + 10, took=1000 - 100 * number
        )
        put(home, "traces", child, created=NOW + 8 * HOUR)
    ask = ask_of(home)
    number = next(row["op"] for row in ask("operations")["operations"] if row["name"] == "SELECT 1")
    asked = {"operation": number} if chosen == "operation" else {"q": "SELECT"}
    times = {"from": (NOW + 4 * HOUR) // 10**6, "to": (NOW + 8 * HOUR) // 10**6}
    assert [int(row["trace"], 16) for row in ask("traces", sort="newest", **asked, **times)["traces"]] == [6, 5, 4]
    assert [int(row["trace"], 16) for row in ask("traces", sort="newest", **asked)["traces"]] == [2, 1, 0]
    assert ask("traces", **asked, **times)["slowest"] == 3, "the page says of which these are"
    times["from"] = (NOW + 7 * HOUR) // 10**6
    assert ask("traces", **asked, **times)["slowest"] == 0, "all that there are"


def test_flames_hang_what_is_deep_under_what_is_above_it(tmp_path, ask_of):
    """GIVEN spans in each other, deeper than a flame graph is WHEN it is drawn THEN nothing of them is a root of its own."""
    home = tmp_path / "home"
    for depth in range(100):
        parent = depth.to_bytes(8) if depth else b""
        span = one_span(
            sid=(depth + 1).to_bytes(8), parent=parent, name=f"level {depth}", start=NOW + depth, took=1000 - depth
        )
        put(home, "traces", span, created=NOW)
    put(home, "traces", one_span(sid=b"lost" * 2, parent=b"gone" * 2, name="lost", start=NOW, took=5), created=NOW)
    flame = ask_of(home)("flame")
    assert [(flame["names"][str(op)]["name"], count, total) for op, count, total, *_ in flame["tree"]] == [
        ("level 0", 1, 1000), ("lost", 1, 5)
    ]  # fmt: skip
    assert sum(own for _, _, _, own, _ in frames(flame["tree"])) == 1005


def frames(tree):
    for frame in tree:
        yield frame
        yield from frames(frame[4])
