"""``otel-perf report --compare``: what it takes, what it says, and how it ends."""

import gzip
import json
import random

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf import cli
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import Database, NewBatch
from tests.analysis.noise import ROOT, Machine, sides


def fill(home, spans, version=""):
    home.mkdir(exist_ok=True)
    database = Database(home / STORE_FILE, limit=10**9)
    by_run = {}
    for span in spans:
        by_run.setdefault(span.resource["service.instance.id"], []).append(span)
    for instance, of_run in by_run.items():
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        resource = {"service.name": "orders", "service.instance.id": instance, "service.version": version}
        for name, value in resource.items():
            of_resource.resource.attributes.add(key=name).value.string_value = value
        scope = of_resource.scope_spans.add()
        for span in of_run:
            scope.spans.add(
                name=span.name, kind=1, trace_id=bytes.fromhex(span.trace_id.zfill(32)),
                span_id=bytes.fromhex(span.span_id), parent_span_id=bytes.fromhex(span.parent_id),
                start_time_unix_nano=span.start, end_time_unix_nano=span.end,
            )  # fmt: skip
        database.append([NewBatch("traces", len(of_run), request.SerializeToString())], 1)
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


def test_two_runs_are_told_to_be_too_few(tmp_path, homes, capsys):
    machine = Machine(random.Random(1))
    few = fill(tmp_path / "few", [span for _ in range(2) for span in machine.run("price", 3.0)])
    assert report({"few": few}, "few", homes["base"]) == 0
    out = capsys.readouterr().out
    assert "Changed, but perhaps by chance" in out
    assert "Nothing is sure with fewer than 3 runs on each side" in out


@pytest.mark.parametrize(
    ("base", "more", "complaint"),
    [
        ("nowhere", [], "no such folder or file"),
        ("version=9", [], "no other release than version=9"),
        ("{base}", ["--fail-over", "much"], "is not a share"),
        ("{base}", ["--html", "x.html"], "goes with neither"),
        ("{text}", [], "line 1 is no OTLP JSON"),
    ],
)
def test_wrong_usage(base, more, complaint, homes, tmp_path, capsys):
    (tmp_path / "text").write_text("hello\n")
    words = [
        "report",
        "--home",
        str(homes["same"]),
        "--compare",
        base.format(base=homes["base"], text=tmp_path / "text"),
    ]
    try:
        status = cli.main([*words, *more])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert complaint in capsys.readouterr().err
