"""audit_event: durable when it returns, for threads, tasks, forks, signals, with and without the rest of us."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from types import ModuleType

import pytest
from opentelemetry import trace

import otel_perf as perf
from otel_perf.core import served
from otel_perf.core.errors import AuditError, SettingError
from otel_perf.logs.audit import chain, database, events, heads, waiting, writer
from otel_perf.logs.audit.database import AUDIT_FILE
from otel_perf.logs.redaction import MARK
from tests.e2e import programs
from tests.logs.audit import trails
from tests.stored import logs


def record(number=0, **fields):
    return perf.audit_event("role.changed", actor="alice", target="bob", outcome="success", n=number, **fields)


@contextlib.contextmanager
def busy(home):
    """Another process is in the middle of a commit."""
    with contextlib.closing(sqlite3.connect(home / AUDIT_FILE, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def waits(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_record_is_in_the_file_when_the_call_returns(home):
    first, second = record(1), record(2, roles=["admin"], note=None)
    assert (first, second) == (3, 4), "after the key and the process's first record"
    kept = trails.bodies(home)
    assert list(kept) == [first, second]
    assert kept[second].pop("process").startswith(f"{os.getpid()}-")
    assert kept[second] == {
        "name": "role.changed", "actor": "alice", "target": "bob", "outcome": "success",
        "fields": {"n": 2, "roles": ["admin"], "note": None},
    }  # fmt: skip
    assert trails.judge(home).good


def test_files_are_the_owners_alone(home):
    record()
    for path in home.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_process_says_when_it_begins_and_ends(home):
    record()
    record()
    events.close()
    (opening,), (closing,) = trails.bodies(home, chain.OPEN).values(), trails.bodies(home, chain.CLOSE).values()
    assert opening["pid"] == os.getpid()
    assert closing == {"process": opening["process"], "events": 2}
    record()
    assert len(trails.bodies(home, chain.OPEN)) == 2, "it can be used again"
    found = trails.judge(home)
    assert (found.good, found.opened, found.closed) == (True, 2, 1)


@pytest.mark.alone
def test_the_end_takes_no_longer_than_it_says_and_does_not_spin(home, monkeypatch):
    record()
    monkeypatch.setattr(writer, "CLOSE_PATIENCE", 1.0)
    monkeypatch.setattr(writer, "ENDING_PATIENCE", 0.5)
    with busy(home):
        began, used = time.monotonic(), time.thread_time()
        events.close()
        took, used = time.monotonic() - began, time.thread_time() - used
    assert took < 1.5
    assert used < 0.2


def test_a_home_that_was_removed_is_not_made_again_at_the_end(home):
    record()
    home.rename(home.with_name("gone"))  # in one step: the trail's thread may still write what is beside its file
    shutil.rmtree(home.with_name("gone"), ignore_errors=True)
    events.close()
    assert not home.exists()


def test_what_cannot_be_stored_leaves_nothing_behind(home):
    record()
    for wrong in ({"when": object()}, {"n": float("nan")}):
        with pytest.raises(SettingError, match="audit_event\\('x'\\): field"):
            perf.audit_event("x", actor="a", target="t", outcome="o", **wrong)
    with pytest.raises(SettingError, match="actor is of type int"):
        perf.audit_event("x", actor=1, target="t", outcome="o")
    with pytest.raises(SettingError, match="the name has 0 characters"):
        perf.audit_event("", actor="a", target="t", outcome="o")
    assert len(trails.bodies(home)) == 1


def test_a_field_may_be_called_name(home):
    perf.audit_event("user.added", actor="a", target="t", outcome="success", name="x")
    assert next(iter(trails.bodies(home).values()))["fields"] == {"name": "x"}


def test_secrets_by_key_do_not_get_into_the_chain(home):
    record(password="hunter2", nested=[{"api_key": "hunter2"}])
    assert b"hunter2" not in b"".join(row.body for row in trails.rows(home))
    assert "password" in next(iter(trails.bodies(home).values()))["fields"]


def test_names_of_secrets_that_were_added_hold_for_the_chain_too(home, monkeypatch):
    monkeypatch.setenv("OTEL_PERF_LOGS_REDACT_KEYS", "iban,badge")
    record(customer_iban="DE0012345", city="Ulm")
    assert next(iter(trails.bodies(home).values()))["fields"] == {"n": 0, "customer_iban": MARK, "city": "Ulm"}


def test_the_current_span_is_named(home, perf_capture):
    with trace.get_tracer("t").start_as_current_span("work") as span:
        seq = record()
    found = trails.bodies(home)[seq]
    assert (found["trace"], found["span"]) == (
        f"{span.get_span_context().trace_id:032x}",
        f"{span.get_span_context().span_id:016x}",
    )


def test_a_record_has_the_ids_that_a_line_has_where_no_span_is_current(home, perf_capture):
    """In a server, outside of the request's span: its access log, its handlers of errors, what it closes."""
    with trace.get_tracer("t").start_as_current_span("work") as span:
        ids = span.get_span_context()
    tokens = served.begin_request()
    served.request.get().span, served.request.get().correlation = ids, "order-7"
    try:
        seq = record()
    finally:
        served.end_request(tokens)
    found = trails.bodies(home)[seq]
    assert (found["trace"], found["span"]) == (f"{ids.trace_id:032x}", f"{ids.span_id:016x}")
    assert found["correlation"] == "order-7"
    with perf.correlation("job-8"):
        seq = record()
    assert trails.bodies(home)[seq]["correlation"] == "job-8"


def test_threads_share_a_commit(home):
    record()
    numbers, before = [], len([row for row in trails.rows(home) if row.seal])
    with busy(home):
        threads = [threading.Thread(target=lambda n=n: numbers.append(record(n))) for n in range(40)]
        for thread in threads:
            thread.start()
        waits(lambda: len(events.current_writer()._waiting) == 40)
        assert numbers == []
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(4, 44))
    assert len([row for row in trails.rows(home) if row.seal]) == before + 1
    assert trails.judge(home).good


def test_tasks_share_a_commit_and_the_loop_goes_on(home):
    record()

    async def main():
        with busy(home):
            tasks = [
                asyncio.create_task(perf.audit_event_async("x", actor="a", target="t", outcome="ok", n=n))
                for n in range(100)
            ]
            for _ in range(50):  # the other process lets go only once the loop came round so often
                await asyncio.sleep(0.001)
            assert not any(task.done() for task in tasks)
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == list(range(4, 104))
    assert [row.seq for row in trails.rows(home) if row.seal][-1] == 103
    assert trails.judge(home).good


def test_errors_reach_the_task_that_made_the_record(home):
    record()
    events.close()
    (home / AUDIT_FILE).write_bytes(b"not a database" * 1000)

    async def main():
        with pytest.raises(AuditError, match=r"the record is not stored.*damaged"):
            await perf.audit_event_async("x", actor="a", target="t", outcome="ok")
        with pytest.raises(SettingError):
            await perf.audit_event_async("x", actor="a", target="t", outcome="ok", n=object())

    asyncio.run(main())


def test_a_cancelled_task_does_not_take_its_record_back(home):
    record()

    async def main():
        with busy(home):
            task = asyncio.create_task(perf.audit_event_async("x", actor="a", target="t", outcome="ok"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return await perf.audit_event_async("y", actor="a", target="t", outcome="ok")

    assert asyncio.run(main()) == 5
    assert [found["name"] for found in trails.bodies(home).values()] == ["role.changed", "x", "y"]


def test_a_task_whose_loop_is_gone_hurts_nobody(home):
    record()
    loop = asyncio.new_event_loop()
    with busy(home):
        task = loop.create_task(perf.audit_event_async("x", actor="a", target="t", outcome="ok"))
        loop.run_until_complete(asyncio.sleep(0.01))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
    assert record() == 5


def test_a_blocked_loop_is_told_once(home, caplog):
    events._warned = False

    async def main():
        record()
        record()

    asyncio.run(main())
    lines = [entry.getMessage() for entry in caplog.records if "blocks the event loop" in entry.getMessage()]
    assert lines == [
        "otel-perf: audit_event blocks the event loop while it waits for the disk: await audit_event_async"
    ]


def test_asyncio_may_be_in_the_middle_of_its_import(home, monkeypatch):
    """In another thread: the package is there, and has nothing yet."""
    events._warned = False
    for name in ("asyncio", "asyncio.events"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert record() == 3


def test_an_unusable_home_raises(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OTEL_PERF_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(AuditError, match=r"the record is not stored.*OTEL_PERF_HOME"):
        record()


@pytest.mark.parametrize(("name", "limit"), [("WAITING", 3), ("WAITING_BYTES", 400)])
def test_too_many_that_wait_for_a_dead_disk_are_refused_and_not_dropped(home, monkeypatch, name, limit):
    monkeypatch.setattr(waiting, name, limit)
    record()
    with busy(home):
        threads = [threading.Thread(target=record) for _ in range(3)]
        for thread in threads:
            thread.start()
        waits(lambda: len(events.current_writer()._waiting) == 3)
        with pytest.raises(AuditError, match="3 records wait for the disk"):
            record()
    for thread in threads:
        thread.join()
    assert len(trails.bodies(home)) == 4


def test_a_file_that_stays_busy_raises_in_the_end(home, monkeypatch):
    record()
    monkeypatch.setattr(writer, "PATIENCE", 0.05)
    with busy(home), pytest.raises(AuditError, match="other processes kept it busy"):
        record()
    assert record(5) == 4


def test_a_file_that_was_put_in_place_of_the_open_one_is_seen(home, tmp_path):
    for number in range(5):
        record(number)
    events.close()
    older = (home / AUDIT_FILE).read_bytes()
    record(6)
    (tmp_path / "older").write_bytes(older)
    (tmp_path / "older").replace(home / AUDIT_FILE)
    for suffix in ("-wal", "-shm"):
        (home / f"{AUDIT_FILE}{suffix}").unlink(missing_ok=True)
    seq = record(7)
    gaps = trails.bodies(home, chain.GAP)
    assert [gap["why"] for gap in gaps.values()] == ["records are missing at the end"]
    assert trails.bodies(home)[seq]["fields"]["n"] == 7, "the record is kept all the same"
    found = trails.judge(home)
    assert (found.good, found.first_bad) == (False, next(iter(gaps)))
    record(8)
    assert trails.judge(home).first_bad == found.first_bad, "for good"
    assert len(trails.bodies(home, chain.GAP)) == 1


@pytest.mark.parametrize("removed", [[AUDIT_FILE], ["audit.head"]])
def test_files_that_were_removed_leave_a_gap(home, removed):
    record()
    events.close()
    for name in removed:
        (home / name).unlink()
    record()
    assert not trails.judge(home).good
    assert len(trails.bodies(home, chain.GAP)) == 1


def test_a_head_that_cannot_be_opened_for_a_moment_is_no_gap(home, monkeypatch):
    """A process that has no descriptor left: that is no proof of anything, and would stay in the trail for ever."""
    record()
    events.close()
    usual = os.open

    def refused(path, *arguments, **options):
        if str(path).endswith(heads.HEAD_FILE):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return usual(path, *arguments, **options)

    with monkeypatch.context() as then:
        then.setattr(os, "open", refused)
        with pytest.raises(AuditError, match=r"the record is not stored.*Too many open files"):
            record()
    record()
    assert trails.bodies(home, chain.GAP) == {}
    assert trails.judge(home).good


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors by Linux' way")  # noqa: PTH112
def test_a_trail_that_cannot_be_begun_costs_no_descriptor(made, monkeypatch):
    home = made(3)
    (home / AUDIT_FILE).unlink()

    def refused(_folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(database, "sync_folder", refused)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="error"):
            trails.opened(home)
    assert len(os.listdir("/proc/self/fd")) == before


def test_heartbeats_are_written_by_a_process_that_has_nothing_else_to_say(home, monkeypatch):
    monkeypatch.setenv("OTEL_PERF_LOGS_AUDIT_HEARTBEAT", "20ms")
    record()
    waits(lambda: len(trails.bodies(home, chain.BEAT)) >= 3)
    assert trails.judge(home).good


def test_a_wrong_setting_is_said_and_the_default_used(home, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_PERF_LOGS_AUDIT_HEARTBEAT", "soon")
    record()
    assert "OTEL_PERF_LOGS_AUDIT_HEARTBEAT='soon' is not a duration" in caplog.text


def test_a_handler_that_audits_what_is_said_of_a_setting_waits_for_nobody(home, monkeypatch):
    monkeypatch.setenv("OTEL_PERF_LOGS_AUDIT_HEARTBEAT", "soon")
    ended = []

    class Handler(logging.Handler):
        def handle(self, entry):  # under no lock
            if not ended:
                ended.append(None)
                other = threading.Thread(target=record, daemon=True)
                other.start()
                other.join(10)
                ended.append(not other.is_alive())

    handler = Handler()
    logging.getLogger("otel_perf").addHandler(handler)
    try:
        record()
    finally:
        logging.getLogger("otel_perf").removeHandler(handler)
    assert ended == [None, True]


def test_old_records_are_removed_by_whoever_writes(home, monkeypatch):
    with monkeypatch.context() as then:
        then.setattr(time, "time_ns", lambda: trails.START_NS)
        trails.fill(home, [100])
    monkeypatch.setenv("OTEL_PERF_LOGS_AUDIT_KEEP", "30d")
    record()
    waits(lambda: trails.judge(home).removed == 101)
    assert len(trails.bodies(home)) == 1
    assert trails.judge(home).good


def test_checkpoints_go_where_they_are_asked_to(home, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere" / "heads"
    elsewhere.parent.mkdir()
    monkeypatch.setenv("OTEL_PERF_LOGS_AUDIT_CHECKPOINTS", str(elsewhere))
    record()
    waits(elsewhere.exists)
    for _ in range(3):
        record()
    events.close()
    found = [chain.Checkpoint.parse(line).seq for line in elsewhere.read_text().splitlines()]
    assert (found[0], found[-1]) == (3, 7)
    assert trails.judge(home, files=[elsewhere]).good
    with trails.tampering(home) as connection:
        connection.execute("DELETE FROM record WHERE seq > 5")
    (home / "audit.head").unlink()
    assert trails.judge(home, files=[elsewhere], open_end=True).first_bad == 6


def test_a_checkpoint_file_that_cannot_be_written_is_said_and_costs_no_record(home, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_PERF_LOGS_AUDIT_CHECKPOINTS", "/nonexistent/folder/heads")
    record()
    waits(lambda: "a checkpoint of the audit trail cannot be written" in caplog.text)
    assert record() == 4


def test_a_handler_of_logs_that_audits_does_not_wait_for_itself(home):
    """The first record's line (the key that was made) is said by the thread that commits."""
    seen = []

    class Handler(logging.Handler):
        def emit(self, entry):
            seen.append(perf.audit_event("logged", actor="a", target="t", outcome="ok"))

    handler = Handler()
    logging.getLogger("otel_perf").addHandler(handler)
    try:
        record()
        waits(lambda: seen)
    finally:
        logging.getLogger("otel_perf").removeHandler(handler)
    assert trails.judge(home).good


def test_a_handler_of_logs_that_audits_does_not_hold_up_the_thread_that_commits(home):
    """It has its lock while it waits for the disk, and the key that was made is said to it too."""
    program = """
import logging
class Handler(logging.Handler):
    def emit(self, entry):
        if entry.name == "app": print(record(), record(), record())
logging.getLogger().addHandler(Handler())
logging.getLogger("app").warning("x")
"""
    done = run(program, home)
    assert (done.returncode, done.stdout) == (0, "3 4 5\n"), done.stderr


def test_records_and_checkpoints_go_out_as_events_too(start, home):
    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("work") as span:
        seq = record(4)
    events.close()
    pipeline.shutdown()
    kept = {entry.event_name: entry for entry in logs(home)}
    found = kept["role.changed"]
    attributes = dict(found.attributes)
    assert attributes.pop("perf.audit.hash") == trails.rows(home)[seq - 1].hash.hex()
    assert attributes == {
        "n": 4, "perf.audit.actor": "alice", "perf.audit.target": "bob", "perf.audit.outcome": "success",
        "perf.audit.sequence": seq,
    }  # fmt: skip
    assert found.trace_id == f"{span.get_span_context().trace_id:032x}"
    checkpoint = dict(kept["perf.audit.checkpoint"].attributes)
    assert checkpoint["perf.audit.sequence"] == seq + 1, "the last one is of the end"
    record()
    assert len([entry for entry in logs(home) if entry.event_name == "role.changed"]) == 1, "off is off"


# --- processes -----------------------------------------------------------------------------------------

PLAIN = "import otel_perf as perf\ndef record(n=0): return perf.audit_event('x', actor='a', target='t', outcome='ok', n=n)\n"


def run(program, home, **variables):
    return subprocess.run(
        [sys.executable, "-c", PLAIN + program], env=programs.environment(home, **variables),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("variables", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_PERF_ENABLED": "off"}])
def test_it_works_with_the_distribution_off(home, variables):
    done = programs.run(PLAIN + "print(record())", home, **variables)
    assert (done.status, done.out) == (0, "3\n")
    assert trails.judge(home).good


def test_it_works_without_opentelemetry(home):
    program = "import sys; sys.modules['opentelemetry'] = None\nprint(record())"
    done = run(program, home)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert next(iter(trails.bodies(home, chain.CLOSE).values()))["events"] == 1, "it ended in good order"


def test_the_key_is_told_once_and_the_chain_alone_without_the_extra(home, tmp_path):
    first, second = run("record(); record()", home), run("record()", home)
    assert first.stderr.count("its public key is") == 1
    assert (home / "audit.pub").read_text().strip() in first.stderr
    assert second.stderr == ""
    hidden = "import sys; sys.modules['cryptography'] = None\nrecord(); record()"
    other = tmp_path / "other"
    done = run(hidden, other)
    assert done.stderr == "otel-perf: audit records are chained but not signed: pip install 'otel-perf[audit]'\n"
    found = trails.judge(other)
    assert (found.good, found.signed) == (True, False)
    assert run("record()", other).returncode == 0, "from now on it is signed"
    found = trails.judge(other)
    assert (found.good, found.signed) == (True, True)
    done = run(hidden, other)
    assert "AuditError" in done.stderr
    assert "the trail is signed, and this process cannot sign: pip install 'otel-perf[audit]'" in done.stderr


def test_a_forked_child_writes_on_while_threads_of_the_parent_do(home):
    program = """
import os, threading
record()  # an import that another thread is in the middle of waits for ever in a child, whoever imports
stop = threading.Event()
def work():
    while not stop.is_set(): record()
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
children = []
for number in range(20):
    pid = os.fork()
    if not pid:
        record(number); record(number)
        os._exit(0)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 20
stop.set()
for thread in threads: thread.join()
print(record())
"""
    done = run(program, home)
    assert done.returncode == 0, done.stderr
    found = trails.judge(home)
    assert found.good, found.reason
    assert len(trails.bodies(home, chain.OPEN)) == 21
    assert max(trails.bodies(home)) == int(done.stdout)


def test_processes_contend_without_error(home):
    program = "for n in range(100): record(n)"
    environ = programs.environment(home)
    started = [
        subprocess.Popen([sys.executable, "-c", PLAIN + program], env=environ, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 8, errors
    found = trails.judge(home)
    assert (found.good, found.opened, found.closed) == (True, 8, 8), found.reason
    by_process = {}
    for body in trails.bodies(home).values():
        by_process.setdefault(body["process"], []).append(body["fields"]["n"])
    assert list(by_process.values()) == [list(range(100))] * 8, "each in its order"


def test_a_signal_handler_may_audit_in_the_middle_of_a_record(home):
    program = """
import signal
record()  # imports cannot be interrupted by themselves
seen = []
def handle(*_):
    seen.append(record(1))
    signal.setitimer(signal.ITIMER_REAL, 0.002)  # the next one when this one is done
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.002)
plain = [record() for _ in range(200)]
signal.setitimer(signal.ITIMER_REAL, 0)
assert seen
print(len(seen) + len(plain), len({*seen, *plain}))
"""
    done = run(program, home)
    assert done.returncode == 0, done.stderr
    made, numbers = done.stdout.split()
    assert made == numbers
    assert trails.judge(home).good


def test_the_end_of_the_interpreter_is_not_held_up(home):
    """Handlers that run after ours, daemon threads that still write, and finalizers."""
    program = """
import atexit, threading, sys
atexit.register(lambda: print("late", record(5)))
record()
def work():
    while True: record(7)
for _ in range(3): threading.Thread(target=work, daemon=True).start()
class Last:
    def __del__(self):
        try: record(9)
        except BaseException as error: pass
sys.last = Last()
"""
    done = run(program, home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("late ")
    assert int(done.stdout.split()[1]) in trails.bodies(home)
    assert trails.judge(home).good


def test_it_works_under_gevent(home):
    program = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent
jobs = [gevent.spawn(record, n) for n in range(20)]
gevent.joinall(jobs)
print(sorted(job.value for job in jobs) == list(range(3, 23)))
"""
    done = run(program, home)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert trails.judge(home).good


def test_a_process_that_is_killed_loses_nothing_that_was_acknowledged(home):
    done = run("import os, signal\nprint(record(), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)", home)
    assert done.returncode == -signal.SIGKILL
    assert int(done.stdout) in trails.bodies(home)
    found = trails.judge(home)
    assert (found.good, found.opened, found.closed) == (True, 1, 0)


def test_an_export_can_be_followed_by_hand(made):
    home = made(2, 3)
    command = [str(programs.BIN / "otel-perf"), "audit", "export", "--home", str(home)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    before, seal = chain.start(trails.judge(home).trail), None
    for line in map(json.loads, lines):
        body = json.dumps(line["body"], sort_keys=True, separators=(",", ":")).encode()
        sealed = line["seal"] is not None
        before = chain.link(before, seal, line["seq"], line["time"], line["kind"], sealed, body)
        assert before.hex() == line["hash"]
        seal = bytes.fromhex(line["seal"]) if sealed else None
    assert len(lines) == 6
