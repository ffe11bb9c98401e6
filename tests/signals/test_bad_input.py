"""What cannot be used is a clear error, on every board, and nothing of it gets there; files that others harm."""

import contextlib
import logging
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import uuid

import pytest

from otel_perf.core.errors import SettingError, SignalError, SignalTimeoutError
from otel_perf.signals import sqlite_board
from otel_perf.signals.api import Signals
from tests.e2e.support import wait_for

NAMES = ["", "a b", " A", "A\n", "a\nb", "x" * 129, "ä", None, 7, b"A", "x" * 10_240]
KEYS = ["a\nb", "x" * 257, "\x00", "\ud800", b"k", 1.5, True, None]
PAYLOADS = [
    object(), float("nan"), float("inf"), [{"a": float("-inf")}], {1: {2}}, b"bytes", "\ud800", "x" * 65_535,
    "ä" * 32_768,
]  # fmt: skip
TTLS = [0, -1, float("nan"), float("inf"), "1", 1e12]


@pytest.fixture
def made(home):
    """Makes what is closed afterwards; on the SQLite board, unless it is told another one."""
    opened = []

    def make(**environ):
        opened.append(Signals({"OTEL_SERVICE_NAME": "shop", "OTEL_PERF_HOME": str(home), **environ}))
        return opened[-1]

    yield make
    for signals in opened:
        signals.close()


@pytest.fixture(params=["memory", "sqlite", "nats"])
def signals(request, made):
    """Of one process, on each board."""
    if request.param == "memory":
        return made(OTEL_PERF_SIGNALS_URL="memory:")
    if request.param == "sqlite":
        return made()
    return made(OTEL_PERF_SIGNALS_URL=f"{request.getfixturevalue('nats_of_all').url}/t{uuid.uuid4().hex}")


def is_empty(signals):
    return signals._opened().board.since(0) == []


def test_names_that_are_none(signals):
    for name in NAMES:
        for use in (signals.emit, signals.wait_sync, lambda name: signals.on(name, print)):
            with pytest.raises(SettingError, match=r"signal name .*: it must be 1 to 128 printable ASCII") as caught:
                use(name)
            assert len(str(caught.value)) < 200
    assert is_empty(signals)


def test_keys_and_scopes_that_are_none(signals):
    for key in KEYS:
        with pytest.raises(SettingError, match=r"signal key .*: it must be at most 256 characters on one line"):
            signals.emit("A", key=key)
        if key is not None:  # the usual scope
            with pytest.raises(SettingError, match="signal key"):
                signals.emit("A", scope=key)
    assert is_empty(signals)


def test_payloads_that_are_none(signals):
    ring = []
    ring.append(ring)
    for payload in [*PAYLOADS, ring]:
        with pytest.raises(SettingError, match=r"signal payload .*(it is not JSON|at most 65,536)") as caught:
            signals.emit("A", payload=payload)
        assert len(str(caught.value)) < 300
    assert is_empty(signals)
    assert signals.emit("A", payload="x" * 65_534).value == "x" * 65_534


def test_times_that_are_none(signals):
    for ttl in TTLS:
        with pytest.raises(SettingError, match=r"signal ttl .*: it must be more than 0 seconds"):
            signals.emit("A", ttl=ttl)
    for timeout in (-1, "1"):
        with pytest.raises(SettingError, match=r"timeout .*: it must be 0 or more seconds"):
            signals.wait_sync("A", timeout=timeout)
    assert is_empty(signals)


def test_a_reason_of_many_lines_is_one_short_line(signals):
    failed = signals.emit("A", failed="no\ndatabase\x00" + "x" * 10_000)
    assert failed.reason.startswith("no database x")
    assert len(failed.reason) == 1024
    assert signals.wait_sync("A", accept_failed=True, timeout=0)["A"] == failed


# --- a key that is not the right one ------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "nats"])
def shared(request, made):
    """Makes processes on one board."""
    place = {}
    if request.param == "nats":
        place = {"OTEL_PERF_SIGNALS_URL": f"{request.getfixturevalue('nats_of_all').url}/t{uuid.uuid4().hex}"}
    return lambda key="": made(**place, OTEL_PERF_SIGNALS_KEY=key)


@pytest.mark.parametrize("key", ["", "another"])
def test_a_signal_without_the_right_mark_is_refused_and_logged_once(shared, key, caplog):
    forger, good, waiter = shared(key), shared("right"), shared("right")
    forger.emit("A")
    for _ in range(3):
        with pytest.raises(SignalTimeoutError):
            waiter.wait_sync("A", timeout=0)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "signal A of shop (pid " in line
    assert line.endswith("has not the mark of OTEL_PERF_SIGNALS_KEY and is refused")
    said = good.emit("A")
    assert waiter.wait_sync("A", timeout=0) == {"A": said}


def test_a_signal_that_was_changed_on_the_board_is_refused(made, home, caplog):
    signals = made(OTEL_PERF_SIGNALS_KEY="right")
    signals.emit("A", payload=1)
    with contextlib.closing(sqlite3.connect(home / "signals.db")) as other, other:
        other.execute("UPDATE signal SET payload = '2'")
    with pytest.raises(SignalTimeoutError):
        signals.wait_sync("A", timeout=0)
    assert "is refused" in caplog.text


# --- the file of the SQLite board -----------------------------------------------------------------------


@pytest.fixture
def file(home):
    return home / "signals.db"


def test_a_file_that_was_deleted_is_made_anew_and_what_was_said_is_there_again(made, file):
    emitter, waiter = made(), made()
    emitter.emit("A", payload=1)
    for ending in ("", "-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
    emitter.emit("B")
    assert waiter.wait_sync("A", "B", timeout=0)["A"].value == 1
    assert file.exists()


def test_who_waits_while_the_file_is_deleted_gets_what_comes_then(made, file):
    emitter, waiter = made(), made()
    found = []
    thread = threading.Thread(target=lambda: found.append(waiter.wait_sync("A", timeout=60)))
    thread.start()
    wait_for(lambda: waiter.waiting, what="it waits")
    file.unlink()
    said = emitter.emit("A")
    thread.join(60)
    assert [f["A"].uid for f in found] == [said.uid]


@pytest.mark.parametrize("content", [b"no database at all" * 1_000, b"SQLite format 3\0" + b"\xff" * 8_192])
def test_a_damaged_file_is_put_aside_and_what_was_said_is_there_again(made, file, content, caplog):
    emitter, other = made(), made()
    emitter.emit("A", payload=1)
    file.write_bytes(content)
    file.with_name("signals.db-wal").write_bytes(b"")
    emitter.emit("B")  # which may still have all in its memory
    other.emit("C")
    emitter.emit("D")
    assert other.wait_sync("A", "B", "C", "D", timeout=0)["A"].value == 1
    (broken,) = file.parent.glob("signals.db.broken-*")
    assert f"the signal board {file} was damaged; it is made anew, and kept as {broken.name}" in caplog.text


def test_a_file_that_is_damaged_from_the_start_is_put_aside(made, file):
    file.parent.mkdir(mode=0o700)
    file.write_bytes(b"no database at all" * 1_000)
    file.chmod(0o600)
    said = made().emit("A")
    assert made().wait_sync("A", timeout=0) == {"A": said}
    assert len(list(file.parent.glob("signals.db.broken-*"))) == 1


def test_the_file_is_for_its_owner_alone(made, file):
    made().emit("A")
    for path in file.parent.glob("signals.*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(made, file, mode):
    made().emit("A")
    file.chmod(mode)
    with pytest.raises(SignalError, match=r"can be written by others .*: what stands there is not trusted; chmod 600"):
        made().wait_sync("A", timeout=0)
    file.chmod(0o600)
    assert made().wait_sync("A", timeout=0)


def test_a_file_that_leads_elsewhere_or_is_of_a_later_version_is_refused(made, file):
    made().emit("A")
    real = file.rename(file.with_name("elsewhere.db"))
    file.symlink_to(real)
    with pytest.raises(SignalError, match=r"the signal board .*signals.db cannot be used: "):
        made().emit("A")
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA user_version = 99")
    file.chmod(0o600)
    with pytest.raises(SignalError, match=r"has format 99, .*: upgrade otel-perf"):
        made().emit("A")


LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(file):
    """By another process."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"locked\n"
        yield
        process.stdin.close()


def test_a_file_that_others_keep_locked_is_a_clear_error_and_no_end(made, file, monkeypatch):
    monkeypatch.setattr(sqlite_board, "PATIENCE", 0.3)
    emitter, waiter = made(), made()
    said = emitter.emit("A")
    found = []
    thread = threading.Thread(target=lambda: found.append(waiter.wait_sync("B", timeout=60)))
    thread.start()
    wait_for(lambda: waiter.waiting, what="it waits")
    with locked(file):
        with pytest.raises(SignalError, match=rf"the signal board {file} cannot be used: others keep it locked"):
            emitter.emit("B")
        assert waiter.wait_sync("A", timeout=0) == {"A": said}  # who only reads is not kept
    second = emitter.emit("B")
    thread.join(60)
    assert found == [{"B": second}]


def test_a_short_lock_is_waited_for(made, file):
    emitter = made()
    emitter.emit("A")
    with locked(file):
        put = []
        thread = threading.Thread(target=lambda: put.append(emitter.emit("B")))
        thread.start()
        thread.join(0.3)
        assert not put
    thread.join(60)
    assert emitter.wait_sync("B", timeout=0) == {"B": put[0]}


@pytest.mark.soak
def test_a_lock_of_a_minute(made, file, caplog):
    caplog.set_level(logging.WARNING)
    emitter, waiter = made(), made()
    emitter.emit("A")
    found = []
    thread = threading.Thread(target=lambda: found.append(waiter.wait_sync("B", timeout=180)))
    thread.start()
    wait_for(lambda: waiter.waiting, what="it waits")
    with locked(file):
        began, refused = time.monotonic(), 0
        while time.monotonic() - began < 60:
            with pytest.raises(SignalError, match="others keep it locked"):
                emitter.emit("B")
            refused += 1
        assert 8 <= refused <= 12  # each after 5 s
    said = emitter.emit("B")
    thread.join(60)
    assert found == [{"B": said}]
