"""``otel-perf report --compare``: what it takes, what it says, and how it ends."""

import gzip
import json
import random

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf import cli
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import Database, NewBatch
from tests.analysis.noise import ROOT, Machine, points, sides, steady
from tests.e2e import programs


def fill(home, spans=(), version=""):
    home.mkdir(exist_ok=True)
    database = Database(home / STORE_FILE, limit=10**9)
    by_run = {}
    for span in spans:
        by_run.setdefault(span.resource["service.instance.id"], []).append(span)
    for instance, of_run in by_run.items():
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        service = of_run[0].resource["service.name"]
        resource = {"service.name": service, "service.instance.id": instance, "service.version": version}
        for name, value in resource.items():
            of_resource.resource.attributes.add(key=name).value.string_value = value
        scope = of_resource.scope_spans.add()
        for span in of_run:
            made = scope.spans.add(
                name=span.name, kind=1, trace_id=bytes.fromhex(span.trace_id.zfill(32)),
                span_id=bytes.fromhex(span.span_id), parent_span_id=bytes.fromhex(span.parent_id),
                start_time_unix_nano=span.start, end_time_unix_nano=span.end,
            )  # fmt: skip
            made.status.code = 2 if span.error else 0
        database.append([NewBatch("traces", len(of_run), request.SerializeToString())], 1)
    database.close()
    return home


def fill_metrics(home, found, version=""):
    """What the metrics say, as it is stored: a histogram, a sum, and a sum that goes up and down."""
    database = Database(home / STORE_FILE, limit=10**9)
    for point in found:
        request = ExportMetricsServiceRequest()
        of_resource = request.resource_metrics.add()
        resource = {**point.resource, "service.version": version}
        for name, value in resource.items():
            of_resource.resource.attributes.add(key=name).value.string_value = value
        metric = of_resource.scope_metrics.add().metrics.add(name=point.name, unit=point.unit)
        if point.name == "perf.call.duration":
            metric.exponential_histogram.aggregation_temporality = 2
            made = metric.exponential_histogram.data_points.add(count=point.count, sum=point.value)
        else:
            metric.sum.aggregation_temporality = 2
            made = metric.sum.data_points.add(as_double=point.value)
        made.time_unix_nano = point.time
        for name, value in point.attributes.items():
            made.attributes.add(key=name).value.string_value = value
        database.append([NewBatch("metrics", 1, request.SerializeToString())], 1)
    database.close()
    return home


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """A base, the same again, and one in which "price" takes half as long again."""
    folder, chance = tmp_path_factory.mktemp("homes"), random.Random(11)
    base, same = sides(chance, 5)
    machine = Machine(chance)
    slow = [span for _ in range(5) for span in machine.run("price", 1.5)]
    named = {"base": base, "same": same, "slow": slow}
    return {name: fill(folder / name, spans) for name, spans in named.items()}


def report(homes, seen, base, *more):
    return cli.main(["report", "--home", str(homes[seen]), "--compare", str(base), *more])


def test_nothing_slower_is_good(homes, capsys):
    assert report(homes, "same", homes["base"]) == 0
    out = capsys.readouterr().out
    assert "5 runs, 2,800 spans" in out
    assert "7 operations compared: none surely slower by more than 5%, none by more than 10% (--fail-over)." in out


def test_something_slower_is_bad_and_named_with_how_much(homes, capsys):
    assert report(homes, "slow", homes["base"]) == 1
    out = capsys.readouterr().out
    title, headings, first = out.splitlines()[3:6]
    assert title == "Slower"
    assert headings.split()[:3] == ["OPERATION", "KIND", "MEASURE"]
    assert first.split()[0] == "price"
    assert "100%" in first  # of its own


def test_a_regression_below_what_is_asked_for_is_told_and_good(homes, capsys):
    assert report(homes, "slow", homes["base"], "--fail-over", "90%") == 0
    assert "Slower" in capsys.readouterr().out


def test_as_json(homes, capsys):
    assert report(homes, "slow", homes["base"], "--json") == 1
    found = json.loads(capsys.readouterr().out)
    (price,) = [change for change in found["changes"] if change["name"] == "price"]
    assert price["verdict"] == "slower"
    assert 0.3 < price["surely"] < price["change"] < 0.7
    assert price["chance"] < 0.05
    assert {change["name"] for change in found["changes"] if change["verdict"] == "slower"} <= {"price", ROOT}
    assert (found["base_runs"], found["seen_runs"], found["regressions"] >= 1) == (5, 5, True)


@pytest.mark.parametrize("name", ["base.jsonl", "base.jsonl.gz"])
def test_a_base_that_was_exported_is_the_same(homes, name, tmp_path, capsys):
    report(homes, "slow", homes["base"], "--json")
    of_store = json.loads(capsys.readouterr().out)
    assert cli.main(["export", "--home", str(homes["base"])]) == 0
    exported = capsys.readouterr().out.encode()
    (tmp_path / name).write_bytes(gzip.compress(exported) if name.endswith(".gz") else exported)
    assert report(homes, "slow", tmp_path / name, "--json") == 1
    assert json.loads(capsys.readouterr().out)["changes"] == of_store["changes"]


def test_releases_in_one_store(tmp_path, capsys):
    chance = random.Random(12)
    machine = Machine(chance)
    home = tmp_path / "home"
    for version, factor in (("1.0", 1.0), ("1.1", 1.5)):
        fill(home, [span for _ in range(5) for span in machine.run("fetch", factor)], version)
    assert cli.main(["report", "--home", str(home), "--compare", "version=1.0"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("version=1.1: 5 runs")
    assert "against version=1.0: 5 runs" in out


def test_of_several_services_each_has_its_own_releases(tmp_path, capsys):
    """GIVEN a service that has no release 1.0 was seen last WHEN compared with it THEN it is none of the sides."""
    home = tmp_path / "home"
    fill(home, steady({"pay": 0.1}), "1.0")
    fill(home, steady({"pay": 0.15}, since=1000), "1.1")
    fill(home, steady({"pay": 0.1}, service="stock", since=2000), "3.0")
    for more in ((), ("--service", "orders")):
        assert cli.main(["report", "--home", str(home), "--compare", "version=1.0", *more]) == 1
        out = capsys.readouterr().out
        assert out.startswith("version=1.1: 5 runs, 200 spans")
        assert "stock" not in out
    assert cli.main(["report", "--home", str(home), "--compare", "version=1.0", "--service", "stock"]) == 2
    assert "no service stock with version=1.0; it has version=3.0" in capsys.readouterr().err


def test_services_that_share_the_base_are_compared_with_the_next_of_each(tmp_path, capsys):
    home = tmp_path / "home"
    for number, (service, version, took) in enumerate(
        [("orders", "1", 0.1), ("stock", "1", 0.1), ("orders", "2", 0.1), ("stock", "5", 0.15), ("mail", "1", 0.1)]
    ):
        fill(home, steady({"step": took}, service=service, since=1000 * number), version)
    assert cli.main(["report", "--home", str(home), "--compare", "version=1"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("version=2 of orders, 5 of stock: 10 runs of 2 services, 400 spans")
    assert "against version=1: 10 runs of 2 services" in out
    assert "stock: step" in out
    assert "mail" not in out  # it has no other
    assert cli.main(["report", "--home", str(home), "--compare", "version=1", "--service", "orders"]) == 0
    assert capsys.readouterr().out.startswith("version=2: 5 runs, 200 spans")


def test_two_runs_are_told_to_be_too_few(tmp_path, homes, capsys):
    """What is not sure is no good end: a build that compares single runs would never fail."""
    machine = Machine(random.Random(1))
    few = fill(tmp_path / "few", [span for _ in range(2) for span in machine.run("price", 3.0)])
    assert report({"few": few}, "few", homes["base"]) == 2
    out, err = capsys.readouterr()
    assert "Changed, but perhaps by chance" in out
    assert "compared" not in out
    assert "not sure of anything: that takes 3 runs on each side (here 2 against 5)" in err
    assert report({"few": few}, "few", homes["base"], "--json") == 2
    assert json.loads(capsys.readouterr().out)["judged"] == 0


def test_nothing_on_both_sides_is_an_error_and_not_good(homes, tmp_path, capsys):
    renamed = fill(tmp_path / "renamed", steady({"charge": 0.1}))
    assert report({"renamed": renamed}, "renamed", homes["base"]) == 2
    out, err = capsys.readouterr()
    assert "Operations that are gone" in out
    assert "nothing could be compared: no operation or function of orders is on both sides" in err
    assert report({"renamed": renamed}, "renamed", homes["base"], "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["compared"], found["judged"], found["regressions"]) == (0, 0, 0)


def test_memory_alone_does_not_stand_for_what_is_slow(tmp_path, capsys):
    """GIVEN the operations have other names now WHEN only the memory can be compared THEN that is not good."""
    chance = random.Random(16)
    for name, step in (("base", "pay"), ("seen", "charge")):
        spans = steady({step: 0.1})
        fill_metrics(fill(tmp_path / name, spans), [point for point in points(spans, chance) if "memory" in point.name])
    assert cli.main(["report", "--home", str(tmp_path / "seen"), "--compare", str(tmp_path / "base")]) == 2
    assert "nothing could be compared" in capsys.readouterr().err


def test_failures_are_named_and_bad(tmp_path, capsys):
    base, seen = (
        fill(tmp_path / "base", steady({"pay": 0.1})),
        fill(tmp_path / "seen", steady({"pay": 0.1}, failing=20)),
    )
    assert report({"seen": seen}, "seen", base, "--fail-over", "90%") == 1
    lines = capsys.readouterr().out.splitlines()
    title = lines.index("Fail more often")
    assert lines[title + 2].split()[:4] == ["pay", "internal", "0.0%", "50.0%"]
    assert lines[title + 2].endswith("0 of 200 → 100 of 200")
    assert "1 that surely fail in 1% more of all cases" in lines[-1]
    assert "Faster" not in lines


def test_the_exit_code_follows_what_is_surely_over_the_threshold(tmp_path, capsys):
    base, seen = fill(tmp_path / "base", steady({"pay": 0.1})), fill(tmp_path / "seen", steady({"pay": 0.115}))
    assert report({"seen": seen}, "seen", base) == 0
    out = capsys.readouterr().out
    assert "+15%" in out
    assert "1 operation compared: 1 surely slower by more than 5%, none by more than 10% (--fail-over)." in out
    assert report({"seen": seen}, "seen", base, "--fail-over", "1%") == 1  # as 5 %, the least that is told
    assert "1 by more than 5% (--fail-over)." in capsys.readouterr().out


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The same three, with what the metrics say, and one with half as much memory again."""
    folder, chance = tmp_path_factory.mktemp("measured"), random.Random(13)
    base, same = sides(chance, 5)
    machine = Machine(chance)
    slow = [span for _ in range(5) for span in machine.run("price", 1.5)]
    made = {}
    for name, spans, memory in (("base", base, 1.0), ("same", same, 1.0), ("slow", slow, 1.0), ("large", same, 1.5)):
        home = fill(folder / name, spans)
        made[name] = fill_metrics(home, points(spans, chance, memory=memory))
    return made


def test_functions_and_memory_that_are_the_same_are_good(measured, capsys):
    assert report(measured, "same", measured["base"]) == 0
    out = capsys.readouterr().out
    assert "7 operations, 7 functions and the memory of 1 service compared: none surely slower by more than 5%" in out


def test_a_slower_function_is_bad_and_named(measured, capsys):
    assert report(measured, "slow", measured["base"]) == 1
    lines = capsys.readouterr().out.splitlines()
    title = lines.index("Slower functions")
    assert lines[title + 1].split()[:2] == ["FUNCTION", "MEASURE"]
    assert lines[title + 2].split()[0] == "price"
    assert "400 → 400" in lines[title + 2]


def test_more_memory_is_bad_and_said_in_bytes(measured, capsys):
    assert report(measured, "large", measured["base"]) == 1
    out = capsys.readouterr().out
    title = out.splitlines().index("More memory")
    row = out.splitlines()[title + 2].split()
    assert row[:2] == ["orders", "peak"]
    assert (row[3], row[5]) == ("MB", "MB")
    assert "1 with surely more memory, 1 by more than 10% (--fail-over)." in out
    assert report(measured, "large", measured["base"], "--fail-over", "90%") == 0


def test_functions_and_memory_as_json_and_from_an_export(measured, tmp_path, capsys):
    assert report(measured, "slow", measured["base"], "--json") == 1
    of_store = json.loads(capsys.readouterr().out)
    (price,) = [change for change in of_store["functions"] if change["name"] == "price"]
    assert (price["verdict"], price["measure"] in {"mean", "own"}) == ("slower", True)
    assert 0.2 < price["surely"] < price["change"] < 0.8
    (memory,) = of_store["memory"]
    assert (memory["verdict"], memory["measure"], memory["base_runs"]) == ("same", "peak", 5)
    assert cli.main(["export", "--home", str(measured["base"])]) == 0
    (tmp_path / "base.jsonl").write_text(capsys.readouterr().out)
    assert report(measured, "slow", tmp_path / "base.jsonl", "--json") == 1
    of_file = json.loads(capsys.readouterr().out)
    assert (of_file["functions"], of_file["memory"]) == (of_store["functions"], of_store["memory"])


def test_releases_that_only_have_metrics(tmp_path, capsys):
    machine, chance, home = Machine(random.Random(14)), random.Random(15), tmp_path / "home"
    for version, memory in (("1.0", 1.0), ("1.1", 1.5)):
        spans = [span for _ in range(4) for span in machine.run()]
        home.mkdir(exist_ok=True)
        fill_metrics(home, points(spans, chance, memory=memory), version)
    assert cli.main(["report", "--home", str(home), "--compare", "version=1.0"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("version=1.1: 4 runs, 0 spans")
    assert "7 functions and the memory of 1 service compared" in out


PROGRAM = """
import sys, time
import otel_perf as perf

@perf.monitored(span="never")
def changed():
    time.sleep(float(sys.argv[1]))

@perf.monitored(span="never")
def unchanged():
    time.sleep(0.004)

held = b"x" * int(sys.argv[2])
for _ in range(20):
    changed()
    unchanged()
"""


def test_real_runs_with_a_slower_function_and_more_memory(tmp_path, capsys):
    """GIVEN a program without any span WHEN one function sleeps thrice as long, and 80 MB more are held THEN it is told."""
    homes = {"base": ("0.004", "0"), "seen": ("0.012", "80000000")}
    for _ in range(3):
        for name, arguments in homes.items():
            done = programs.run(PROGRAM, tmp_path / name, *arguments, OTEL_SERVICE_NAME="shop")
            assert (done.status, done.err) == (0, "")
    assert cli.main(["report", "--home", str(tmp_path / "seen"), "--compare", str(tmp_path / "base"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    verdicts = {change["name"]: change["verdict"] for change in found["functions"]}
    assert verdicts["__main__.changed"] == "slower"
    assert verdicts["__main__.unchanged"] in {"same", "unsure"}
    assert [(change["service"], change["verdict"]) for change in found["memory"]] == [("shop", "more")]
    assert (found["base_runs"], found["seen_runs"], found["base_spans"]) == (3, 3, 0)


@pytest.mark.parametrize(
    ("base", "more", "complaint"),
    [
        ("nowhere", [], "no such folder or file"),
        ("{base}/nowhere", [], "no such folder or file"),
        ("{folder}", [], "no store at"),
        ("{empty}", [], "no span, function or memory in"),
        ("{same}", [], "is what is judged itself"),
        ("{same}/telemetry.db", [], "is what is judged itself"),
        ("{base}", ["--home", "nowhere"], "no store at"),
        (
            "{base}",
            ["--service", "order"],
            "nothing can be compared: no span, function or memory of the service order in",
        ),
        ("{base}", ["--service", "order"], "which has orders"),
        ("{base}", ["--since", "1ms"], "no span, function or memory within --since in"),
        ("version=9", [], "no service with version=9; set service.version in OTEL_RESOURCE_ATTRIBUTES"),
        ("version=", [], "version= names no release"),
        ("{base}", ["--fail-over", "much"], "is not a share"),
        ("{base}", ["--html", "x.html"], "goes with neither"),
        ("{text}", [], "line 1 is no OTLP JSON"),
    ],
)
def test_wrong_usage(base, more, complaint, homes, tmp_path, capsys):
    (tmp_path / "text").write_text("hello\n")
    places = {
        "base": homes["base"],
        "same": homes["same"],
        "text": tmp_path / "text",
        "folder": tmp_path,
        "empty": fill(tmp_path / "empty"),
    }
    words = [
        "report",
        "--home",
        str(homes["same"]),
        "--compare",
        base.format(**places),
    ]
    try:
        status = cli.main([*words, *more])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert complaint in capsys.readouterr().err
