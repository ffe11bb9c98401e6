"""An index follows its stores: replaced, deleted, moved, damaged ones, and batches that end the process."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_perf.analysis import index_cache
from otel_perf.analysis.index import Builder
from otel_perf.analysis.index_stores import KEPT, TRIES
from otel_perf.analysis.index_tables import store_and_batch
from otel_perf.core.home import STORE_FILE, make_private
from otel_perf.store.database import StoreReader
from otel_perf.view.reading import index_path
from tests.e2e.support import wait_for
from tests.view.test_index import build, content, one_span, put, rows
from tests.view.test_questions import log_lines

NAMES = "SELECT value FROM span JOIN operation ON operation.id = op JOIN text ON text.id = name ORDER BY span.id"


def names(path):
    return [name for (name,) in rows(path, NAMES)]


def shown(path):
    try:
        return names(path)
    except sqlite3.Error:  # it is just made
        return None


def fill(home, *spans):
    for number, name in enumerate(spans):
        put(home, "traces", one_span(tid=name.encode().ljust(16), name=name), created=10**18 + 10**9 + number)


def without_id(home):
    """As a release wrote it that gave stores none."""
    connection = sqlite3.connect(home / STORE_FILE, isolation_level=None)
    connection.execute("PRAGMA application_id = 0")
    connection.close()


def replace(home, other):
    """Another store in the same file: deleting one and making one often comes to the same inode, but not always."""
    for file in home.glob("telemetry.db-*"):
        file.unlink()
    shutil.copyfile(other / STORE_FILE, home / STORE_FILE)


@pytest.mark.parametrize("is_old", [False, True], ids=["with its id", "of before there were ids"])
@pytest.mark.parametrize("new", [["d"], ["d", "e", "f"], ["d", "e", "f", "g", "h"]], ids=["fewer", "as many", "more"])
def test_another_store_in_its_place_is_read_from_the_start(tmp_path, is_old, new):
    home, other, path = tmp_path / "home", tmp_path / "other", tmp_path / "index.db"
    fill(home, "a", "b", "c")
    fill(other, *new)
    if is_old:
        without_id(home)
        without_id(other)
    build(path, home)
    replace(home, other)
    build(path, home)
    assert names(path) == new


def test_another_store_is_known_by_its_id_where_no_batch_tells(tmp_path):
    home, other, path = tmp_path / "home", tmp_path / "other", tmp_path / "index.db"
    fill(home, "a", "b", "c")
    fill(other, "d", "e", "f", "g")
    connection = sqlite3.connect(other / STORE_FILE)
    connection.execute("DELETE FROM batch WHERE id = 3")  # it was delivered
    connection.commit()
    connection.close()
    build(path, home)
    replace(home, other)
    build(path, home)
    assert names(path) == ["d", "e", "g"]


def test_a_store_that_gets_its_id_later_is_the_same_one(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    fill(home, "a", "b")
    without_id(home)
    build(path, home)
    assert rows(path, "SELECT own FROM store") == [(0,)]
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO mark(kind) VALUES ('still this index')")
    connection.commit()
    connection.close()
    fill(home, "c")
    build(path, home)
    reader = StoreReader(home)
    assert rows(path, "SELECT own FROM store") == [(reader.own_id(),)] != [(0,)]
    reader.close()
    assert names(path) == ["a", "b", "c"]
    assert rows(path, "SELECT kind FROM mark") == [("still this index",)]


def test_what_was_deleted_leaves_the_index(tmp_path):
    """GIVEN two stores WHEN one is deleted THEN nothing of it is left, and the other one is still there."""
    first, second, path = tmp_path / "a", tmp_path / "b", tmp_path / "index.db"
    fill(first, "secret work")
    fill(second, "other work")
    build(path, first, second)
    assert names(path) == ["secret work", "other work"]
    shutil.rmtree(first)
    build(path, first, second)
    assert names(path) == ["other work"]
    assert not any(b"secret" in file.read_bytes() for file in tmp_path.glob("index.db*"))


def test_a_home_that_was_moved_with_its_index_counts_once(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    fill(old, "a", "b")
    build(old / "index.db", old)
    old.rename(new)
    build(new / "index.db", new)
    assert names(new / "index.db") == ["a", "b"]


@pytest.mark.parametrize(
    ("after", "left"), [(KEPT - 3600, ["a", "b"]), (KEPT + 3600, ["b"])], ids=["a while", "for ever"]
)
def test_what_has_left_a_store_is_shown_for_a_while(tmp_path, after, left):
    home, path, now = tmp_path / "home", tmp_path / "index.db", [2e9]
    fill(home, "a", "b")
    builder = Builder(path, [home], clock=lambda: now[0])
    assert sum(builder.update()) == 2
    connection = sqlite3.connect(home / STORE_FILE)
    connection.execute("DELETE FROM batch WHERE id = 1")
    connection.commit()
    connection.close()
    now[0] += after
    list(builder.update())
    builder.close()
    assert names(path) == left


def test_what_is_all_there_stays_however_old(tmp_path):
    home, path, now = tmp_path / "home", tmp_path / "index.db", [2e9]
    fill(home, "a")
    builder = Builder(path, [home], clock=lambda: now[0])
    list(builder.update())
    builder._connection.execute("INSERT INTO mark(kind) VALUES ('still this index')")
    now[0] += 10 * KEPT
    list(builder.update())
    builder.close()
    assert rows(path, "SELECT kind FROM mark") == [("still this index",)]


def damage(home):
    """Overwrite the second half of the file."""
    file = home / STORE_FILE
    whole = file.read_bytes()
    with file.open("r+b") as handle:
        handle.seek(len(whole) // 2)
        handle.write(b"\xa5" * (len(whole) - len(whole) // 2))


def test_a_damaged_store_keeps_no_other_one_waiting(tmp_path):
    first, second, path = tmp_path / "a", tmp_path / "b", tmp_path / "index.db"
    for number in range(30):
        put(first, "traces", one_span(tid=number.to_bytes(16), name="x" * 5_000))
    fill(second, "b")
    damage(first)
    build(path, first, second)
    assert "b" in names(path)
    problems = dict(rows(path, "SELECT home, problem FROM store"))
    assert "cannot be read" in problems[str(first)]
    assert not problems[str(second)]
    shutil.rmtree(first)
    fill(first, "mended")
    build(path, first, second)
    assert names(path) == ["mended", "b"]
    assert rows(path, "SELECT DISTINCT problem FROM store") == [("",)]


def test_rows_name_their_store_in_whatever_order_stores_are_said(tmp_path):
    """GIVEN an index of two stores WHEN one is replaced while they are said the other way round THEN none is mistaken."""
    first, second, other, path = tmp_path / "a", tmp_path / "b", tmp_path / "other", tmp_path / "index.db"
    fill(first, "a", "aa")
    fill(second, "b")
    fill(other, "c")
    build(path, first, second)
    builder = Builder(path, [second, first])
    list(builder.update())
    replace(first, other)
    put(second, "traces", one_span(tid=b"later".ljust(16), name="later"))
    list(builder.update())
    builder.close()
    homes = dict(rows(path, "SELECT id, home FROM store"))
    found = set()
    for place, name in rows(path, NAMES.replace("SELECT value", "SELECT place, value")):
        number, batch = store_and_batch(place)
        reader = StoreReader(tmp_path / homes[number])
        assert name.encode() in reader.body(batch)
        reader.close()
        found.add(name)
    assert found == {"c", "b", "later"}


PROGRAM = textwrap.dedent("""
    import os, signal, sys, time
    from pathlib import Path
    from otel_perf.analysis import index, index_spans

    taken = index_spans.Spans.add
    def add(self, place, body):
        if b"deadly" in body:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory is short
        if b"long" in body:
            print("long", flush=True)
            for _ in range(600):  # a signal that comes just before a rest does not end that one
                time.sleep(0.1)
        return taken(self, place, body)
    index_spans.Spans.add = add
    signal.signal(signal.SIGTERM, index._end)
    builder = index.Builder(Path(sys.argv[1]), [Path(sys.argv[2])])
    print(sum(builder.update()), flush=True)
""")


def indexer(path, home):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(path), str(home)], stdout=subprocess.PIPE, text=True)


def test_a_batch_that_ends_the_indexer_is_left_out(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    fill(home, "a", "b", "deadly", "c")
    ended = []
    while 0 not in ended and len(ended) < 10:
        with indexer(path, home) as process:
            ended.append(process.wait(60))
    assert ended == [-signal.SIGKILL] * (1 + TRIES) + [0]
    assert names(path) == ["a", "b", "c"]
    assert rows(path, "SELECT skipped FROM store") == [(1,)]


def test_an_end_from_outside_is_no_batchs_fault(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    fill(home, "long work")
    for _ in range(TRIES + 1):
        with indexer(path, home) as process:
            assert process.stdout.readline() == "long\n"
            process.terminate()
            assert process.wait(60) == 128 + signal.SIGTERM
    build(path, home)
    assert names(path) == ["long work"]


def test_a_cached_index_goes_with_its_stores(tmp_path, monkeypatch):
    """GIVEN cached indexes WHEN a home is gone THEN the next indexer deletes what is of it, and nothing else."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here, gone = tmp_path / "here", tmp_path / "gone"
    fill(here, "a")
    fill(gone, "b")
    cached = {}
    for name, homes in (
        ("of gone", [gone]),
        ("of both", [here, gone]),
        ("of here", [here]),
        ("in use", [gone]),
        ("mine", [gone]),
    ):
        path = cached[name] = index_cache.folder() / name / "index.db"
        make_private(path.parent)
        build(path, *homes)
    shutil.rmtree(gone)
    with index_cache.lock(cached["in use"], waits=lambda: False) as mine:
        assert mine
        index_cache.clean(cached["mine"])
    assert [name for name, path in cached.items() if path.exists()] == ["of here", "in use", "mine"]
    assert not cached["of gone"].parent.exists()


def test_an_index_that_no_home_has_is_where_it_is_cleaned_up(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, other = tmp_path / "one", tmp_path / "other"
    for home in (one, other):
        home.mkdir()
    assert index_path([one]) == one / "index.db"
    together = index_path([one, other])
    assert together == index_path([other, one])
    assert together.parent.parent == index_cache.folder()


def test_the_process_cleans_up_and_leaves_no_deleted_store_in_its_own_index(tmp_path):
    home, gone = tmp_path / "home", tmp_path / "gone"
    fill(home, "a")
    fill(gone, "b")
    old = tmp_path / "cache" / "otel-perf" / "view" / "0123" / "index.db"
    old.parent.mkdir(parents=True)
    build(old, gone)
    shutil.rmtree(gone)
    process = subprocess.Popen(
        [sys.executable, "-m", "otel_perf.analysis.index", str(home / "index.db"), str(home)],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    try:
        wait_for(lambda: shown(home / "index.db") == ["a"], what="the index")
        assert not old.exists()
        for file in home.glob("telemetry.db*"):
            file.unlink()
        wait_for(lambda: shown(home / "index.db") == [], what="an empty index")
    finally:
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM


def test_what_a_program_sent_to_the_page_as_well_counts_once(filled, tmp_path):
    """GIVEN a home, and all of it once more in another store, in other batches WHEN both are indexed THEN it counts once."""
    home, received = tmp_path / "home", tmp_path / "received"
    home.mkdir()
    shutil.copy(filled / STORE_FILE, home)
    reader = StoreReader(home)
    by_signal = {name: list(reader.batches([name])) for name in ("metrics", "logs", "traces")}
    reader.close()
    for name, batches in by_signal.items():
        for at in range(0, len(batches), 3):  # as a drain sends them: several in a request
            some = batches[at : at + 3]
            put(received, name, b"".join(one.body for one in some), sum(one.items for one in some), some[-1].created)
    build(tmp_path / "one.db", home)
    build(tmp_path / "both.db", home, received)
    assert content(tmp_path / "both.db") == content(tmp_path / "one.db")
    build(tmp_path / "both.db", home, received)  # goes on, and nothing is new
    assert content(tmp_path / "both.db") == content(tmp_path / "one.db")


def test_what_two_stores_have_is_read_where_it_stays(tmp_path, ask_of):
    """GIVEN a span that was sent on, and then deleted where it was first THEN its attributes are still to be seen."""
    home, received = tmp_path / "home", tmp_path / "received"
    for place in (home, received):
        put(place, "traces", one_span())
        put(place, "logs", log_lines((10**18, "hello", {"trace_id": b"t" * 16}, {"number": "7"})))
    ask = ask_of(home, received)
    connection = sqlite3.connect(home / STORE_FILE)
    connection.execute("DELETE FROM batch")
    connection.commit()
    connection.close()
    assert ask("state")["items"] == {"traces": 1, "logs": 1}
    found = ask("trace", trace=(b"t" * 16).hex())
    (span,), (line,) = found["list"], found["lines"]
    assert ask("span", place=span["at"][0], pos=span["at"][1])["resource"] == {"service.name": "shop"}
    assert ask("line", place=line["place"][0], pos=line["place"][1])["attributes"] == {"number": "7"}


def test_what_was_deleted_before_it_was_read_counts_where_it_was_sent(tmp_path):
    """GIVEN a home of which the indexer saw each second batch before it was delivered THEN the others are not lost."""
    home, received = tmp_path / "home", tmp_path / "received"
    for number in range(10):
        here = [received] if number % 2 else [home, received]
        for place in here:
            at = 10**18 + number * 10**9
            put(place, "traces", one_span(tid=number.to_bytes(16), sid=b"s" * 8, start=at))
            put(place, "logs", log_lines((at, f"line {number}", {}, {})))
            put(place, "metrics", delta(at, 1 + number))
    build(tmp_path / "index.db", home, received)
    assert rows(tmp_path / "index.db", "SELECT count(*), (SELECT count(*) FROM log) FROM span") == [(10, 10)]
    assert rows(tmp_path / "index.db", "SELECT total FROM series") == [(sum(range(1, 11)),)]


def delta(at, value):
    """A point of a sum that says what came since the one before."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="requests")
    metric.sum.aggregation_temporality = 1
    metric.sum.data_points.add(time_unix_nano=at, as_double=value)
    return request


def test_of_one_store_nothing_is_twice(tmp_path):
    """GIVEN a program that says the same at one tick of its clock, and another span of one id THEN each counts."""
    home, other = tmp_path / "home", tmp_path / "other"
    put(home, "logs", log_lines(*[(10**18, "tick", {}, {})] * 3))
    put(home, "traces", one_span())
    put(home, "traces", one_span())
    put(other, "traces", one_span(name="another"))  # as Zipkin's libraries do: client and server share an id
    put(other, "traces", one_span(sid=bytes(8)))
    build(tmp_path / "index.db", home, other)
    assert rows(tmp_path / "index.db", "SELECT count(*), (SELECT count(*) FROM log) FROM span") == [(4, 3)]
