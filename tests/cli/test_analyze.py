"""The command otel-perf analyze: what it prints, its exit codes, and that it reads what export writes."""

import json
import time
from pathlib import Path

import pytest
from opentelemetry import trace

from otel_perf import cli

HEADER = "TraceID,SpanID,ParentID,PodName,OperationName,StartTimeUnixNano,EndTimeUnixNano\n"


def traces(folder, name, *, stock, count=30):
    """A file of traces in which the shop asks the stock, which takes ``stock`` ms."""
    rows = [
        f"t{i},a,root,shop-579b9bff58-t2dbm,GET /,0,{stock + 20}000000\n"
        f"t{i},b,a,shop-579b9bff58-t2dbm,GET,10000000,{stock + 14}000000\n"
        f"t{i},c,b,stock-0,serve,12000000,{stock + 12}000000\n"
        for i in range(count)
    ]
    path = folder / name
    path.write_text(HEADER + "".join(rows))
    return str(path)


@pytest.fixture
def stored(start):
    """A store with one trace."""
    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("GET /orders"):
        time.sleep(0.002)  # so that it has a length on any clock
    pipeline.shutdown()


def test_against_a_baseline_the_slower_service_comes_first(tmp_path, capsys):
    usual, slow = traces(tmp_path, "usual.csv", stock=30), traces(tmp_path, "slow.csv", stock=200)
    assert cli.main(["analyze", slow, "--baseline", usual]) == 0
    out = capsys.readouterr().out
    assert "30 traces, 90 spans; the baseline has 30 traces, 90 spans" in out
    services = out.partition("Services, by what they cost a trace above the baseline")[2].splitlines()
    assert services[1].split() == ["SERVICE", "COSTS", "SELF", "TRACES"]
    assert services[2].split() == ["stock", "170", "ms", "6.12", "s", "30"], "with the calls that count for it"
    assert "serve" in out.partition("COUNTS FOR")[2]


def test_without_a_baseline_and_as_json_it_is_the_time_on_the_path(tmp_path, capsys):
    path = traces(tmp_path, "slow.csv", stock=200)
    assert cli.main(["analyze", path, "--json", "--top", "1"]) == 0
    ranking = json.loads(capsys.readouterr().out)
    assert [(row["service"], round(row["score"], 6)) for row in ranking["services"]] == [("stock", 6.0)]
    assert ranking["operations"][0]["name"] == "serve"
    assert ranking["skipped"] == {}
    assert cli.main(["analyze", path]) == 0
    assert "GET → stock" in capsys.readouterr().out


def test_nothing_slower_is_said_so_and_what_the_baseline_lacks_is_counted(tmp_path, capsys):
    usual = traces(tmp_path, "usual.csv", stock=30)
    with Path(usual).open("a") as more:
        more.write("n,a,root,shop,new page,0,5\n")
    assert cli.main(["analyze", usual, "--baseline", traces(tmp_path, "same.csv", stock=30)]) == 0
    out = capsys.readouterr().out
    assert "Nothing on the critical paths takes longer than in the baseline" in out
    assert "the baseline does not have them: 1 operations" in out


def test_the_store_is_read_without_a_file_and_its_export_gives_the_same(stored, tmp_path, capsys):
    assert cli.main(["analyze", "--json", "--since", "1h"]) == 0
    from_store = json.loads(capsys.readouterr().out)
    assert [row["service"] for row in from_store["services"]] == ["shop"]
    assert cli.main(["export"]) == 0
    exported = tmp_path / "export.jsonl"
    exported.write_text(capsys.readouterr().out)
    assert cli.main(["analyze", "--json", str(exported)]) == 0
    assert json.loads(capsys.readouterr().out) == from_store


def test_skipped_lines_are_told_on_standard_error(tmp_path, capsys):
    path = traces(tmp_path, "t.csv", stock=30)
    with Path(path).open("a") as more:
        more.write("t,a\nt,b\n")
    assert cli.main(["analyze", "--json", path]) == 0
    done = capsys.readouterr()
    assert done.err == f"otel-perf analyze: {path}: skipped 2, the first line 92: columns are missing\n"
    assert json.loads(done.out)["skipped"] == {path: 2}


def test_a_file_that_cannot_be_used_is_exit_code_2(tmp_path, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("hello\n")
    for words, complaint in (
        ([str(path)], "unknown format: line 1 is 'hello'"),
        ([str(tmp_path / "none.csv")], "cannot be read"),
        ([traces(tmp_path, "t.csv", stock=1), "--baseline", str(path)], "unknown format"),
        ([str(path), "--since", "1h"], "--home and --since choose from the store"),
    ):
        assert cli.main(["analyze", *words]) == 2
        assert complaint in capsys.readouterr().err


def test_no_store_and_no_spans_are_exit_code_1(tmp_path, capsys):
    assert cli.main(["analyze"]) == 1
    assert "run the program under opentelemetry-instrument" in capsys.readouterr().err
    path = tmp_path / "empty.csv"
    path.write_text(HEADER)
    assert cli.main(["analyze", str(path)]) == 1
    assert cli.main(["analyze", traces(tmp_path, "t.csv", stock=1), "--baseline", str(path)]) == 1
    assert capsys.readouterr().err.count(f"no spans in {path}") == 2
