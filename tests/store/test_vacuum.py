"""What a store's file does not need any more is given back, without harm to who writes."""

import sqlite3
import threading
import time

import pytest

from otel_perf.core.home import HOME_VARIABLE, STORE_FILE, Home
from otel_perf.store import vacuum
from otel_perf.store.database import SIGNALS, Database, NewBatch
from otel_perf.store.writer import Lane, Writer
from tests.stored import batches

BODY = bytes(100_000)


def number(folder, pragma):
    connection = sqlite3.connect(folder / STORE_FILE)
    try:
        return connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    finally:
        connection.close()


@pytest.fixture
def writer(home):
    made = Writer(Home({HOME_VARIABLE: str(home)}), delay=0.01, limit=10**9, fsync=False, problem=lambda _line: None)
    made.lanes.append(Lane("logs", lambda items: items[0], limit=4096, batch=1))
    yield made
    made.close(5)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(vacuum, "SPARE", 1_000_000)


def deliver(home, kept=0):
    """Take all batches out, as the drain does, but for the newest."""
    connection = sqlite3.connect(home / STORE_FILE, isolation_level=None)
    connection.execute("DELETE FROM batch WHERE id NOT IN (SELECT id FROM batch ORDER BY id DESC LIMIT ?)", (kept,))
    connection.close()


def fill(writer, number=200):
    for _ in range(number):
        writer.offer(writer.lanes[0], BODY)
    assert writer.flush(30)


def test_a_file_that_had_a_backlog_gets_shorter_and_keeps_what_is_in_it(writer, home, small):
    """GIVEN 20 MB that were delivered but for the newest WHEN it is vacuumed THEN that and 1 MB of room are left."""
    fill(writer)
    assert list(vacuum.run(writer.give_back)) == []
    deliver(home, kept=3)
    steps = list(vacuum.run(writer.give_back))
    assert len(steps) > 20
    assert max(steps) <= (vacuum.PAGES + 1) * 8192  # SQLite counts a page of its map on top
    assert sum(steps) > 18_000_000
    fill(writer, 1)
    writer.close(5)
    assert [batch.body for batch in batches(home)] == [BODY] * 4
    assert (home / STORE_FILE).stat().st_size < 2_000_000
    assert number(home, "integrity_check") == "ok"


def test_as_much_as_is_in_use_stays_for_what_comes(writer, home):
    fill(writer)
    deliver(home)
    assert sum(vacuum.run(writer.give_back)) == pytest.approx(20_000_000 - vacuum.SPARE, rel=0.3)


def test_one_of_before_is_made_anew_when_there_is_little_in_it(home, small):
    home.mkdir(mode=0o700)
    old = sqlite3.connect(home / STORE_FILE)
    old.execute("PRAGMA page_size = 8192")
    old.execute("PRAGMA auto_vacuum = NONE")
    old.execute("VACUUM")
    old.close()
    database = Database(home / STORE_FILE, limit=10**9)
    database.append([NewBatch(SIGNALS[0], 1, BODY) for _ in range(200)], 1)
    assert number(home, "auto_vacuum") == 0
    deliver(home, kept=100)
    assert database.give_back() == 0  # 10 MB would have to be copied
    deliver(home, kept=5)
    assert database.give_back() > 15_000_000
    assert number(home, "auto_vacuum") == 2
    assert database.append([NewBatch(SIGNALS[0], 1, b"last")], 2) == []
    assert database.give_back() == 0
    database.close()
    assert [len(batch.body) for batch in batches(home)] == [100_000] * 5 + [4]
    assert [batch.id for batch in batches(home)] == [196, 197, 198, 199, 200, 201]


@pytest.mark.alone
def test_it_waits_for_nobody(writer, home, small):
    """GIVEN another process in the midst of a transaction WHEN it is this one's turn THEN it comes another time."""
    fill(writer, 100)
    deliver(home)
    other = sqlite3.connect(home / STORE_FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    assert writer.give_back() == 0
    assert time.monotonic() - began < 1
    other.execute("ROLLBACK")
    other.close()
    assert writer.give_back() > 0
    fill(writer, 1)  # it still waits where it has to


def test_who_stores_meanwhile_loses_nothing(writer, home, small):
    fill(writer, 300)
    deliver(home)
    done = threading.Event()

    def store():
        for index in range(200):
            writer.offer(writer.lanes[0], b"%d" % index)
            if index % 20 == 0:
                time.sleep(0.005)
        done.set()

    thread = threading.Thread(target=store)
    thread.start()
    while not done.is_set():
        for _ in vacuum.run(writer.give_back):
            pass
    thread.join()
    assert writer.close(10)
    assert [int(batch.body) for batch in batches(home)] == list(range(200))


def test_without_a_connection_there_is_nothing_to_do(writer):
    assert writer.give_back() == 0
