"""Whatever is wrong with the home folder, the program's output and status stay; one line says what is done."""

import contextlib
import os
import re
import subprocess

import pytest

from otel_perf.store import EXIT_TIMEOUT
from tests.built import missing
from tests.e2e import programs
from tests.stored import spans

PROGRAM = """
import sys
from opentelemetry import trace
tracer = trace.get_tracer("t")
for number in range(int(sys.argv[1])):
    with tracer.start_as_current_span("work") as span:
        span.set_attribute("text", "x" * 500)
provider = trace.get_tracer_provider()
if hasattr(provider, "force_flush"): provider.force_flush()
print("done")
sys.exit(3)
"""


def check(home, line, count=50, **variables):
    """Run with and without us: same output, same status, and exactly the one line of ours."""
    ours, plain = programs.both(PROGRAM, home, str(count), **variables)
    assert (ours.status, ours.out) == (plain.status, plain.out) == (3, "done\n")
    assert re.fullmatch(line, ours.err.strip(), re.DOTALL), ours.err
    assert "\n" not in ours.err.strip()


@contextlib.contextmanager
def tmpfs(path, size):
    """A small file system of its own on ``path``."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "otel-perf-test", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def temporary(tmp_path):
    """The folder that takes the place of a home that cannot be used."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def test_a_home_that_is_a_file(home, temporary):
    home.write_text("in the way")
    check(home, r"otel-perf: .* cannot be used \(.*\); storing in .* instead", TMPDIR=temporary)
    assert len(spans(next(temporary.glob("*/*")))) == 50


def test_a_read_only_home(tmp_path, temporary):
    with tmpfs(tmp_path / "small", "1m") as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        check(
            folder / "home", r"otel-perf: .* cannot be used \(.*Read-only.*\); storing in .* instead", TMPDIR=temporary
        )
    assert len(spans(next(temporary.glob("*/*")))) == 50


def test_a_home_on_a_full_file_system(tmp_path, temporary):
    with tmpfs(tmp_path / "small", "100k") as folder:
        with contextlib.suppress(OSError), (folder / "fill").open("wb", buffering=0) as fill:
            while True:
                fill.write(b"\0" * 4096)
        check(folder / "home", r"otel-perf: .* cannot be used \(.*\); storing in .* instead", TMPDIR=temporary)
    assert len(spans(next(temporary.glob("*/*")))) == 50


def test_neither_home_nor_temporary_folder(tmp_path, monkeypatch):
    with tmpfs(tmp_path / "small", "1m") as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        line = (
            r"otel-perf: the store in .* cannot be written \(.*\); keeping the newest 16 MB in memory and trying again"
        )
        # Python falls back to /tmp when TMPDIR cannot be written: take that away as well.
        monkeypatch.setattr(
            "tests.e2e.test_home_failures.PROGRAM", f"import tempfile; tempfile.tempdir = {str(folder)!r}\n{PROGRAM}"
        )
        check(folder / "home", line)


def test_a_disk_that_fills_up(tmp_path):
    with tmpfs(tmp_path / "small", "1500k") as folder:
        line = r"otel-perf: the store in .* cannot be written \(database or disk is full\); keeping .*"
        check(folder / "home", line, count=5000)
        assert 0 < len(spans(folder / "home")) < 5000


def test_the_line_is_said_though_the_app_disabled_every_logger(home, temporary):
    home.write_text("in the way")
    setup = "import logging.config; logging.config.dictConfig({'version': 1, 'root': {'handlers': []}})\n"
    done = programs.run(setup + PROGRAM, home, "5", TMPDIR=temporary)
    assert (done.status, done.out) == (3, "done\n")
    assert "cannot be used" in done.err


def test_a_log_handler_of_the_app_that_fails_does_not_stop_the_store(home, temporary):
    home.write_text("in the way")
    setup = "import logging\nclass Bad(logging.Handler):\n  def handle(self, record): raise ValueError\n"
    done = programs.run(
        setup + "logging.getLogger().addHandler(Bad())\n" + PROGRAM, home, "5", TMPDIR=temporary, timeout=20
    )
    assert (done.status, done.out) == (3, "done\n")
    assert len(spans(next(temporary.glob("*/*")))) == 5


@pytest.mark.alone
def test_a_store_that_somebody_holds_delays_the_exit_by_a_bounded_time(home):
    import sqlite3
    import time

    programs.run(PROGRAM, home, "1")
    blocker = sqlite3.connect(home / "telemetry.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    program = "from opentelemetry import trace\ntrace.get_tracer('t').start_span('x').end()"
    done = programs.run(program, home)
    took = time.monotonic() - began
    blocker.close()
    assert done.status == 0
    assert took < EXIT_TIMEOUT + 4
    assert "did not answer in 5 s" in done.err


CHILD = """import multiprocessing, sqlite3, sys, threading
from opentelemetry import trace

def work():
    trace.get_tracer("t").start_span("child").end()

def run():
    trace.get_tracer("t").start_span("parent").end()
    trace.get_tracer_provider().force_flush()
    blocker = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    threading.Timer(3, blocker.close).start()
    process = multiprocessing.get_context("forkserver").Process(target=work)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


def test_a_child_of_multiprocessing_waits_for_a_slow_disk_as_any_normal_end(home, tmp_path):
    (tmp_path / "children.py").write_text(CHILD)
    program = "import children; children.run()"
    done = programs.run(program, home, str(home / "telemetry.db"), cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert sorted(span.name for span in spans(home)) == ["child", "parent"]


def test_a_temporary_folder_of_somebody_else_is_not_written(home, temporary):
    """An attacker made our folder first, with a link to a file that we would write."""
    home.write_text("in the way")
    trap, target = temporary / f"otel-perf-{os.getuid()}", temporary / "target"
    trap.mkdir(mode=0o700)
    (trap / ".gitignore").symlink_to(target)
    os.chown(trap, 65534, 65534)
    done = programs.run(PROGRAM, home, "5", TMPDIR=temporary)
    assert done.status == 3
    assert "belongs to another user" in done.err
    assert not target.exists()


def test_a_home_that_others_may_enter_still_hides_the_store(home):
    home.mkdir(mode=0o755)
    programs.run(PROGRAM, home, "5")
    assert [oct(path.stat().st_mode & 0o777) for path in home.glob("telemetry.db*")] == ["0o600"]


def test_a_corrupt_store(home):
    home.mkdir()
    (home / "telemetry.db").write_bytes(b"not a database at all " * 1000)
    check(home, r"otel-perf: the store was corrupt \(.*\); set aside as .*corrupt-\d+, a new one was begun")
    assert len(spans(home)) == 50


def test_what_is_lost_is_counted(tmp_path):
    """GIVEN a disk that is full WHEN metrics go to the console THEN perf.store.dropped tells the loss."""
    with tmpfs(tmp_path / "small", "600k") as folder:
        done = programs.run(
            PROGRAM, folder / "home", "40000", OTEL_METRICS_EXPORTER="console", OTEL_LOGS_EXPORTER="none"
        )
        kept = len(spans(folder / "home"))
    block = done.out[done.out.index('"perf.store.dropped"') :]
    dropped = int(re.search(r'"value": (\d+)', block)[1])
    assert done.status == 3
    assert dropped > 0
    assert kept + dropped <= 40000
