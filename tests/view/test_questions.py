"""What the page asks is answered from the index."""

import time

import msgspec
import pytest

from otel_perf.view.lines import words_of
from otel_perf.view.reading import BadQuestionError, Question

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
    on_path = sum(length for span in found["list"] for _, length in span["path"])
    assert on_path == found["list"][0]["took"]


def test_a_span_and_a_line_are_shown_in_full_from_the_store(ask):
    span = ask("trace", trace=ask("traces")["traces"][0]["trace"])["list"][0]
    full = ask("span", place=span["at"][0], pos=span["at"][1])
    assert full["attributes"]["http.route"] == span["name"]
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
        before = found["lines"][-1]["cursor"]


def test_pages_of_lines_have_each_line_once_and_in_order(ask):
    lines = list(all_lines(ask))
    assert len({line["id"] for line in lines}) == len(lines)
    assert [line["time"] for line in lines] == sorted((line["time"] for line in lines), reverse=True)


def test_what_came_after_a_line_is_told(ask):
    newest = ask("lines")["newest"]
    assert ask("lines", after=newest)["lines"] == []
    assert 0 < len(ask("lines", after=newest - 10)["lines"]) <= 10


def test_functions_add_up_and_flames_hold_their_parts(ask):
    functions = ask("functions")["functions"]
    assert len(functions) == 4 * 60
    assert {row["calls"] for row in functions if row["name"].endswith("function_0")} == {14 * 60}
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
