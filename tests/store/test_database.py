"""The file of the store: order, limit, corruption, many openers."""

import contextlib
import multiprocessing
import sqlite3
import stat
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_perf.core.errors import StoreError
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import (
    SIGNALS,
    Database,
    NewBatch,
    StoreReader,
    identity_of,
    is_busy,
    is_corrupt,
    set_aside,
)
from tests.stored import batches

BIG = 10**9


@pytest.fixture
def folder(home):
    home.mkdir(mode=0o700)
    return home


def open_database(folder, limit=BIG):
    return Database(folder / STORE_FILE, limit=limit)


def test_batches_come_back_in_the_order_in_which_they_were_stored(folder):
    database = open_database(folder)
    for number in range(200):
        database.append([NewBatch(SIGNALS[number % 3], 1, b"%d" % number)], number)
    reader = StoreReader(folder)
    assert [int(batch.body) for batch in reader.batches()] == list(range(200))
    assert [int(batch.body) for batch in reader.batches(["logs"])] == list(range(2, 200, 3))
    assert [int(batch.body) for batch in reader.batches(after=190)] == list(range(190, 200))
    assert [batch.created for batch in reader.batches(since_ns=198)] == [198, 199]
    assert reader.last_id() == 200
    assert reader.pending() == {"traces": (67, 67), "metrics": (67, 67), "logs": (66, 66)}
    assert reader.size() > 0
    database.close()
    reader.close()


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 60_000), min_size=1, max_size=60))
def test_the_file_stays_under_its_limit_and_counts_what_it_drops(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("limit")
    limit = 400_000
    database = open_database(folder, limit)
    dropped = 0
    for size in sizes:
        dropped += sum(items for _, items in database.append([NewBatch("traces", 2, b"x" * size)], 1))
        assert database.size <= limit
    kept = batches(folder)
    assert sum(batch.items for batch in kept) + dropped == 2 * len(sizes)
    with contextlib.closing(StoreReader(folder)) as reader:
        assert reader.dropped().get("traces", (0, 0))[1] == dropped
    ids = [batch.id for batch in kept]
    assert ids == list(range(len(sizes) - len(ids) + 1, len(sizes) + 1)), "the oldest go first"
    database.close()


def test_delivered_copies_are_dropped_first_and_are_no_loss(folder):
    database = open_database(folder, 300_000)
    for _ in range(4):
        database.append([NewBatch("logs", 1, b"x" * 40_000)], 1)
    database._connection.execute("UPDATE batch SET delivered = 1 WHERE id > 2")
    lost = [database.append([NewBatch("logs", 1, b"x" * 40_000)], 1) for _ in range(3)]
    assert [batch.id for batch in batches(folder)][:2] == [1, 2]
    assert not any(lost)
    database.close()


def test_a_file_far_above_its_limit_gets_there_over_several_commits(folder):
    """A limit that was lowered must not hold up one commit for as long as half a gigabyte takes to delete."""
    database = open_database(folder)
    database.append([NewBatch("traces", 1, b"x" * 10_000)] * 3000, 1)
    database.close()
    database = open_database(folder, 1_000_000)
    dropped = [sum(items for _, items in database.append([NewBatch("traces", 1, b"y")], 1)) for _ in range(4)]
    assert dropped[0] == dropped[1] == 1024
    assert dropped[-1] == 0
    assert database.size <= 1_000_000
    assert batches(folder)[-1].body == b"y"
    database.close()


def test_a_batch_over_the_limit_by_itself_is_kept(folder):
    database = open_database(folder, 100_000)
    database.append([NewBatch("traces", 1, b"x" * 200_000)], 1)
    assert len(batches(folder)) == 1
    database.close()


def test_a_failed_append_stores_nothing(folder):
    database = open_database(folder)
    with pytest.raises(ValueError, match="not in tuple"):
        database.append([NewBatch("traces", 1, b"a"), NewBatch("unknown", 1, b"b")], 1)
    assert not batches(folder)
    database.append([NewBatch("traces", 1, b"a")], 1)
    database.close()


def test_a_replaced_or_deleted_file_is_noticed(folder):
    database = open_database(folder)
    assert database.is_current()
    (folder / STORE_FILE).rename(folder / "other.db")
    assert not database.is_current()
    (folder / STORE_FILE).touch()
    assert not database.is_current()
    database.close()


def own_id(folder):
    reader = StoreReader(folder)
    try:
        return reader.own_id()
    finally:
        reader.close()


def test_each_store_has_an_id_of_its_own_and_keeps_it(folder, tmp_path):
    open_database(folder).close()
    first = own_id(folder)
    open_database(folder).close()
    assert own_id(folder) == first
    other = tmp_path / "other"
    other.mkdir()
    open_database(other).close()
    assert own_id(other) not in {0, first}


def test_a_store_of_before_there_were_ids_is_read_and_gets_one(folder):
    """GIVEN a store as an older release wrote it WHEN it is opened to write THEN it has all it had, and an id."""
    database = open_database(folder)
    database.append([NewBatch("traces", 1, b"a")], 1)
    database._connection.execute("PRAGMA application_id = 0")
    database.close()
    assert own_id(folder) == 0
    assert [batch.body for batch in batches(folder)] == [b"a"]
    database = open_database(folder)
    database.append([NewBatch("traces", 1, b"b")], 2)
    database.close()
    assert own_id(folder)
    assert [batch.body for batch in batches(folder)] == [b"a", b"b"]


def test_who_reads_an_older_store_does_not_write_to_it(folder):
    database = open_database(folder)
    database._connection.execute("PRAGMA application_id = 0")
    database.close()
    before = (folder / STORE_FILE).read_bytes()
    assert own_id(folder) == 0
    assert (folder / STORE_FILE).read_bytes() == before


def open_and_read(folder, start, found):
    start.wait()
    open_database(folder).close()
    found.put(own_id(folder))


def test_programs_that_open_an_older_store_at_once_agree_on_its_id(folder):
    database = open_database(folder)
    database._connection.execute("PRAGMA application_id = 0")
    database.close()
    context = multiprocessing.get_context("fork")
    start, found = context.Event(), context.Queue()
    processes = [context.Process(target=open_and_read, args=(folder, start, found)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    ids = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(ids) == 1
    assert 0 not in ids


def test_large_batches_are_read_a_few_at_a_time(folder):
    database = open_database(folder)
    for number in range(9):
        database.append([NewBatch("traces", 1, bytes([number]) * 3 * 2**20)], 1)
    database.close()
    reader = StoreReader(folder)
    tracemalloc.start()
    try:
        assert [batch.body[0] for batch in reader.batches()] == list(range(9))
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20  # of 27 MB
    finally:
        tracemalloc.stop()
        reader.close()


def test_a_store_of_a_newer_version_is_refused(folder):
    database = open_database(folder)
    database._connection.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreError, match=r"format 99.*upgrade"):
        open_database(folder)


def test_garbage_is_known_as_corrupt_and_set_aside(folder):
    path = folder / STORE_FILE
    path.write_bytes(b"this is not a database, it only looks long enough to be one" * 100)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        open_database(folder)
    assert is_corrupt(caught.value)
    assert not is_busy(caught.value)
    target = set_aside(path, identity_of(path))
    assert target.read_bytes().startswith(b"this is not")
    assert not path.exists()
    path.touch()
    assert set_aside(path, (0, 0)) is None
    assert path.exists()


def test_reading_what_is_not_there_says_how_to_make_it(home):
    with pytest.raises(StoreError, match="run the program under opentelemetry-instrument"):
        StoreReader(home)


def test_reading_garbage_names_the_file(folder):
    (folder / STORE_FILE).write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match=r"telemetry\.db cannot be read"):
        StoreReader(folder)


def test_the_fsync_setting_reaches_sqlite(folder):
    database = Database(folder / STORE_FILE, limit=BIG, fsync=True)
    assert database._connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    database.close()
    database = open_database(folder)
    assert database._connection.execute("PRAGMA synchronous").fetchone()[0] == 1
    assert database._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    database.close()


def _open_and_write(folder, start, results):
    start.wait()
    try:
        database = open_database(folder)
        for _ in range(5):
            database.append([NewBatch("traces", 1, b"x")], 1)
        database.close()
        results.put(None)
    except Exception as error:
        results.put(repr(error))


@pytest.mark.soak  # tests/e2e/test_forks.py has fifty programs
def test_fifty_processes_open_one_home_at_once(folder):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=_open_and_write, args=(folder, start, results)) for _ in range(50)]
    for process in processes:
        process.start()
    start.set()
    assert [results.get(timeout=60) for _ in processes] == [None] * 50
    for process in processes:
        process.join(60)
    assert sum(batch.items for batch in batches(folder)) == 250
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
