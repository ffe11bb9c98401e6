"""The thread that stores: nothing lost, nothing held up for long, and every failure counted."""

import os
import queue
import sqlite3
import threading
import time
import types

import pytest

from otel_perf.core.home import HOME_VARIABLE, STORE_FILE, Home
from otel_perf.core.threads import allocate_lock
from otel_perf.store import committer
from otel_perf.store import writer as module
from otel_perf.store.committer import Owner
from otel_perf.store.database import Database
from otel_perf.store.writer import Lane, Writer
from tests.e2e.support import wait_for
from tests.stored import batches

NOBODY = Owner()


def encode(items):
    return b",".join(b"%d" % item for item in items)


def stored(folder):
    return [int(item) for batch in batches(folder) for item in batch.body.split(b",")]


@pytest.fixture
def problems():
    return []


@pytest.fixture
def make(home, problems):
    made = []

    def make(delay=0.01, limit=10**9, queue=4096, batch=512, encode=encode, owner=NOBODY):
        writer = Writer(
            Home({HOME_VARIABLE: str(home)}),
            delay=delay,
            limit=limit,
            fsync=False,
            problem=problems.append,
            owner=owner,
        )
        lane = Lane("traces", encode, limit=queue, batch=batch)
        writer.lanes.append(lane)
        made.append(writer)
        return writer, lane

    yield make
    for writer in made:
        writer.close(5)


def test_items_are_stored_in_order_without_being_asked(make, home):
    writer, lane = make()
    for number in range(1000):
        writer.offer(lane, number)
    wait_for(lambda: writer.stored == 1000)
    assert stored(home) == list(range(1000))


def test_flush_stores_what_was_offered_before_it(make, home):
    writer, lane = make(delay=3600)
    for number in range(10):
        writer.offer(lane, number)
    assert writer.flush(10)
    assert stored(home) == list(range(10))
    assert writer.flush(0)


def test_a_full_batch_does_not_wait_for_the_delay(make):
    writer, lane = make(delay=3600, batch=10)
    for number in range(25):
        writer.offer(lane, number)
    wait_for(lambda: writer.stored >= 20)


def test_a_delay_gathers_what_comes_soon_after(make, home):
    writer, lane = make(delay=0.2)
    writer.offer(lane, 1)
    writer.offer(lane, 2)
    wait_for(lambda: writer.stored == 2)
    assert len(batches(home)) == 1


def test_many_threads_that_are_faster_than_the_disk_lose_nothing(make, home):
    writer, lane = make(queue=64, batch=16)
    count, threads = 3000, 8

    def produce(base):
        for number in range(count):
            writer.offer(lane, base + number)

    workers = [threading.Thread(target=produce, args=(index * count,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert writer.flush(30)
    assert lane.dropped == 0
    assert sorted(stored(home)) == list(range(count * threads))


def test_a_stuck_thread_costs_the_producer_one_wait_then_drops_are_counted(make):
    release = threading.Event()

    def stuck(items):
        release.wait(30)
        return encode(items)

    writer, lane = make(queue=16, batch=8, encode=stuck)
    began = time.perf_counter()
    for number in range(200):
        writer.offer(lane, number)
    took = time.perf_counter() - began
    release.set()
    assert took < 20 * module.PATIENCE
    assert writer.flush(10)
    assert lane.dropped > 0
    assert writer.stored + lane.dropped == 200
    writer.offer(lane, 1)
    assert not lane.stuck


def test_a_pause_of_the_whole_process_is_no_stuck_thread(make, home, monkeypatch):
    """GIVEN a process that was stopped for longer than producers wait THEN they wait on: nobody could make room."""

    class Paused:
        """A lock in whose first wait nobody runs."""

        def __init__(self):
            self.lock, self.waits = allocate_lock(), 0

        def acquire(self, timeout=-1):
            self.waits += timeout > 0
            if self.waits == 1 and timeout > 0:
                return False
            return self.lock.acquire(timeout=timeout)

        def release(self):
            self.lock.release()

    writer, lane = make(queue=16, batch=8)
    with monkeypatch.context() as patched:
        patched.setattr(module, "PATIENCE", 30.0)  # of a busy machine's thread
        patched.setattr(module, "allocate_lock", Paused)
        for number in range(200):
            writer.offer(lane, number)
    assert writer.flush(10)
    assert lane.dropped == 0
    assert stored(home) == list(range(200))


def test_flush_gives_up_when_its_time_is_over(make):
    release = threading.Event()
    writer, lane = make(encode=lambda items: release.wait(30) and encode(items))
    writer.offer(lane, 1)
    assert not writer.flush(0.05)
    release.set()
    assert writer.flush(10)


def test_an_item_that_cannot_be_encoded_costs_only_itself(make, home, problems):
    writer, lane = make(delay=3600)
    for item in (1, "two", 3, "four"):
        writer.offer(lane, item)
    assert writer.flush(10)
    assert stored(home) == [1, 3]
    assert lane.dropped == 2
    (line,) = problems
    assert "traces item cannot be encoded" in line


def test_a_home_that_cannot_be_made_is_replaced_by_a_temporary_one(make, home, problems, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home.write_text("a file is in the way")
    writer, lane = make()
    writer.offer(lane, 1)
    assert writer.flush(10)
    assert stored(Home({HOME_VARIABLE: str(home)}).with_file(STORE_FILE)) == [1]
    (line,) = problems
    assert str(home) in line
    assert "EEXIST" in line


def test_without_any_place_the_newest_stays_in_memory_and_the_rest_is_counted(make, home, problems, monkeypatch):
    monkeypatch.setattr(Home, "make", lambda self: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monkeypatch.setattr(Home, "fallback", lambda self: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monkeypatch.setattr(committer, "MEMORY_LIMIT", 100)
    writer, lane = make(delay=3600, batch=10)
    for number in range(1000, 1200):
        writer.offer(lane, number)
    assert not writer.flush(10)
    assert len(problems) == 1
    assert "cannot be written" in problems[0]
    assert lane.dropped >= 150
    monkeypatch.undo()
    monkeypatch.setenv("OTEL_PERF_HOME", str(home))
    assert writer.flush(10)
    assert lane.dropped + len(stored(home)) == 200
    assert stored(home)[-1] == 1199


def test_a_failed_store_is_tried_again_only_after_a_while(make, monkeypatch, problems):
    attempts = []

    def refuse(self, batches, now):
        attempts.append(1)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Database, "append", refuse)
    writer, lane = make()
    writer.offer(lane, 1)
    wait_for(lambda: attempts)
    for number in range(5):
        writer.offer(lane, number)
        wait_for(lambda: not lane.items)
    assert len(attempts) == 1
    monkeypatch.setattr(committer, "RETRY", 0.0)
    monkeypatch.undo()
    assert writer.flush(10)
    assert writer.stored == 6
    assert len(problems) == 1


def test_a_corrupt_store_is_set_aside_and_a_new_one_begun(make, home, problems):
    home.mkdir()
    (home / STORE_FILE).write_bytes(b"garbage " * 4096)
    writer, lane = make()
    writer.offer(lane, 7)
    assert writer.flush(10)
    assert stored(home) == [7]
    assert [path.read_bytes()[:7] for path in home.glob("telemetry.db.corrupt-*")] == [b"garbage"]
    (line,) = problems
    assert "set aside" in line


def test_a_store_that_turns_corrupt_while_open_is_set_aside(make, home, problems):
    writer, lane = make(delay=3600)
    for number in range(500):
        writer.offer(lane, number)
    assert writer.flush(10)
    writer.close(5)
    size = (home / STORE_FILE).stat().st_size
    with (home / STORE_FILE).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (size - 100))
    writer.offer(lane, 7)
    assert writer.flush(10)
    assert stored(home) == [7]
    assert "corrupt" in problems[0]


def test_another_process_that_set_the_file_aside_first_is_not_undone(make, home, problems):
    writer, lane = make()
    writer.offer(lane, 1)
    assert writer.flush(10)
    (home / STORE_FILE).rename(home / "set-aside.db")
    fresh = Database(home / STORE_FILE, limit=10**9)
    writer._committer.set_aside(sqlite3.DatabaseError("malformed"))
    assert not list(home.glob("telemetry.db.corrupt-*"))
    assert not problems
    writer.offer(lane, 2)
    assert writer.flush(10)
    assert stored(home) == [2]
    fresh.close()


def test_a_deleted_store_is_made_again(make, home):
    writer, lane = make()
    writer.offer(lane, 1)
    assert writer.flush(10)
    for path in home.glob("telemetry.db*"):
        path.unlink()
    writer.offer(lane, 2)
    assert writer.flush(10)
    assert stored(home) == [2]


def test_the_limit_counts_what_it_drops_by_signal(make):
    writer, lane = make(limit=300_000, batch=1, encode=lambda items: b"x" * 40_000)
    for number in range(20):
        writer.offer(lane, number)
        writer.flush(10)
    assert lane.dropped > 0
    assert writer.size <= 300_000


def test_when_no_thread_can_start_the_flush_is_done_by_the_caller(make, home, monkeypatch):
    def refuse(*_arguments):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    writer, lane = make()
    monkeypatch.setattr(module, "start_new_thread", refuse)
    writer.offer(lane, 5)
    assert writer.flush(10)
    assert stored(home) == [5]
    writer._lock.acquire()
    writer.offer(lane, 6)
    assert not writer.flush(0.01)
    writer._lock.release()


def test_a_busy_store_is_not_a_problem_worth_a_line(make, home, problems, monkeypatch):
    monkeypatch.setattr("otel_perf.store.database.BUSY_TIMEOUT", 0.01)
    writer, lane = make()
    writer.offer(lane, 1)
    assert writer.flush(10)
    blocker = sqlite3.connect(home / STORE_FILE, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    writer.offer(lane, 2)
    assert not writer.flush(10)
    assert problems == []
    blocker.execute("ROLLBACK")
    blocker.close()
    assert writer.flush(10)
    assert stored(home) == [1, 2]


def test_a_child_starts_empty_and_stores_its_own(make, home):
    writer, lane = make(delay=3600)
    writer.offer(lane, 1)
    assert writer.flush(10)
    writer.offer(lane, 2)  # still queued at the fork: the parent's
    writer.before_fork()
    pid = os.fork()
    if pid == 0:
        writer.after_fork_in_child()
        writer.offer(lane, 3)
        os._exit(0 if writer.flush(10) and writer.stored == 1 else 1)
    writer.after_fork_in_parent()
    assert os.waitpid(pid, 0)[1] == 0
    assert writer.flush(10)
    assert stored(home) == [1, 3, 2]


def test_a_closed_writer_opens_again(make, home):
    writer, lane = make()
    writer.offer(lane, 1)
    assert writer.close(10)
    writer.offer(lane, 2)
    assert writer.close(10)
    assert stored(home) == [1, 2]


def test_the_thread_wakes_only_for_work(make):
    writer, lane = make(delay=0.001)
    writer.offer(lane, 1)
    assert writer.flush(10)
    wait_for(writer._wake.empty, what="it has heard of the flush")
    with pytest.raises(queue.Empty):
        writer._wake.get(timeout=0.05)


def test_a_child_of_a_parent_whose_disk_hangs_leaves_sqlite_alone(make, home, problems):
    """GIVEN a writer in the middle of a write that does not end WHEN it forks THEN the child holds in memory."""
    writer, lane = make(delay=3600)
    writer.offer(lane, 1)
    assert writer.flush(10)
    writer._lock.acquire()
    writer.before_fork()
    pid = os.fork()
    if pid == 0:
        writer.after_fork_in_child()
        writer.offer(lane, 2)
        done = writer.flush(10)
        os._exit(0 if not done and "cannot be written (the parent process" in problems[0] else 1)
    writer.after_fork_in_parent()
    writer._lock.release()
    assert os.waitpid(pid, 0)[1] == 0
    writer.offer(lane, 3)
    assert writer.flush(10)
    assert stored(home) == [1, 3]


def test_two_threads_may_fork_at_once(make):
    writer, lane = make()
    writer.offer(lane, 1)
    writer.before_fork()
    other = threading.Thread(target=writer.before_fork)
    other.start()
    writer.after_fork_in_parent()
    other.join()
    writer.after_fork_in_parent()  # not this thread's to release
    assert writer._lock.locked()
    writer._lock.release()
    assert writer.flush(10)


def test_a_clock_that_is_set_back_is_one_line_and_the_order_stays(make, problems, home, monkeypatch):
    writer, lane = make()
    writer.offer(lane, 1)
    assert writer.flush(10)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    for number in (2, 3):
        writer.offer(lane, number)
        assert writer.flush(10)
    assert len(problems) == 1
    assert "the clock was set back by 3600 s" in problems[0] or "by 3599 s" in problems[0]
    assert stored(home) == [1, 2, 3]
    made = [batch.created for batch in batches(home)]
    assert made[0] > made[1] < made[2]


@pytest.mark.parametrize("destination", ["", "somewhere"])
def test_a_full_store_is_one_line_if_what_it_drops_waited_to_be_sent(destination, make, problems, home):
    writer, lane = make(limit=200_000, encode=lambda _items: b"x" * 50_000, owner=Owner("shop", destination))
    for number in range(10):
        writer.offer(lane, number)
        assert writer.flush(10)
    assert lane.dropped > 0
    assert len(problems) == bool(destination)
    assert all("raise OTEL_PERF_STORE_LIMIT (now 0.2MB)" in line for line in problems)


def test_an_encoder_rests_unless_somebody_waits(make, monkeypatch):
    """GIVEN an encoder that rests WHEN a round comes by itself THEN it sleeps, but not in a flush or before a fork."""
    slept, kinds = [], []
    clock = types.SimpleNamespace(sleep=slept.append, monotonic=time.monotonic, time_ns=time.time_ns)
    monkeypatch.setattr(module, "time", clock)

    def encode_and_rest(items):
        before = len(slept)
        writer.rest(0.001)
        writer.rest(60)
        kinds.append(slept[before:])
        return encode(items)

    writer, lane = make(encode=encode_and_rest)
    writer.offer(lane, 1)
    wait_for(lambda: writer.stored == 1)
    assert kinds == [[0.001, module.LONGEST_REST]]
    writer.before_fork()
    writer.rest(1)
    writer.after_fork_in_parent()
    assert len(slept) == 2
    writer.rest(0.002)
    assert slept[2:] == [0.002]
    writer, lane = make(delay=3600, encode=encode_and_rest)
    writer.offer(lane, 2)
    assert writer.flush(10)
    assert kinds[1:] == [[]]
