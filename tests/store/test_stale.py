"""What earlier runs left goes when it is old, and empty or superseded; what may be wanted stays."""

import os
import tempfile
import time

import pytest

from otel_perf.core import cleaning
from otel_perf.core.home import HOME_VARIABLE, STORE_FILE, Home
from otel_perf.store.database import SIGNALS, Database, NewBatch
from otel_perf.store.stale import AGE, StaleStores


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def made(home):
    return Home({HOME_VARIABLE: str(home)})


def other(tmp_path, name, batches=0, delivered=False):
    """The stand-in of another home, whose process is gone."""
    folder = Home({HOME_VARIABLE: str(tmp_path / name)}).fallback()
    database = Database(folder / STORE_FILE, limit=10**9, delivered=delivered)
    database.append([NewBatch(SIGNALS[0], 1, b"x") for _ in range(batches)], 1)
    database.close()
    (folder / "drain-x.lock").touch()
    return folder


def age(folder, seconds=AGE + 60):
    then = time.time() - seconds
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


def test_an_old_and_empty_stand_in_goes(made, tmp_path):
    folder = other(tmp_path, "gone")
    age(folder)
    assert sum(StaleStores(made).run()) > 8_000
    assert not folder.exists()
    assert folder.parent.exists()


@pytest.mark.parametrize("why", ["young", "waiting", "kept copies", "own", "a link", "of others", "corrupt"])
def test_one_that_may_be_wanted_stays(made, tmp_path, why):
    folder = other(tmp_path, "other", batches=why in {"waiting", "kept copies"}, delivered=why == "kept copies")
    if why == "corrupt":
        (folder / STORE_FILE).write_bytes(b"garbage" * 2_000)
    age(folder, AGE - 60 if why == "young" else AGE + 60)
    if why == "own":
        made = Home({HOME_VARIABLE: str(tmp_path / "other")})
    elif why == "of others":
        folder.chmod(0o755)
    elif why == "a link":
        target = tmp_path / "elsewhere"
        folder.rename(target)
        folder.symlink_to(target)
    before = sorted(path.name for path in folder.iterdir())
    assert sum(StaleStores(made).run()) == 0
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("batches", [0, 1])
def test_one_of_a_process_that_was_killed_is_read_with_its_wal(made, tmp_path, batches):
    folder = Home({HOME_VARIABLE: str(tmp_path / "killed")}).fallback()
    pid = os.fork()
    if pid == 0:
        database = Database(folder / STORE_FILE, limit=10**9)
        database.append([NewBatch(SIGNALS[0], 1, b"x")] * batches, 1)
        os._exit(0)
    os.waitpid(pid, 0)
    assert (folder / f"{STORE_FILE}-wal").stat().st_size
    age(folder)
    list(StaleStores(made).run())
    assert folder.exists() == (batches > 0)


def test_a_file_of_somebody_elses_stays_where_it_is(made, tmp_path):
    folder = other(tmp_path, "shared")
    (folder / "notes.txt").write_text("mine")
    age(folder)
    list(StaleStores(made).run())
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_of_the_corrupt_files_the_newest_and_the_young_stay(made, home):
    made.make()
    for number in range(1, 6):
        for ending in ("", "-wal", "-shm"):
            (home / f"{STORE_FILE}.corrupt-{number}{ending}").write_bytes(b"x" * 100)
    Database(home / STORE_FILE, limit=10**9).close()
    age(home)
    os.utime(home / f"{STORE_FILE}.corrupt-2")
    assert sum(StaleStores(made).run()) == 3 * 3 * 100
    left = {path.name.partition("corrupt-")[2] for path in home.glob("*.corrupt-*")}
    assert left == {"2", "2-wal", "2-shm", "5", "5-wal", "5-shm"}
    assert (home / STORE_FILE).exists()


def test_a_child_can_use_it_whoever_used_it_at_the_fork(made, tmp_path):
    stale, folder = StaleStores(made), other(tmp_path, "gone")
    age(folder)
    stale.before_fork()
    pid = os.fork()
    if pid == 0:
        stale.after_fork_in_child()
        os._exit(0 if sum(stale.run()) else 1)
    stale.after_fork_in_parent()
    assert os.waitpid(pid, 0)[1] == 0
    assert not folder.exists()
    assert sum(stale.run()) == 0


def test_the_tasks_of_the_store_come_and_go_with_it(start):
    names = {"otel_perf.store: stale stores", "otel_perf.store: vacuum", "otel_perf.memory: dead weak references"}
    pipeline = start()
    assert names <= {task.name for task in cleaning.tasks}
    assert [list(task.run()) for task in cleaning.tasks if "otel_perf.store" in task.name] == [[], []]
    pipeline.shutdown()
    assert not names & {task.name for task in cleaning.tasks}
