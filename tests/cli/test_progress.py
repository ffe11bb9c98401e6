"""The line while long work runs: on a real terminal, to standard error, and gone when the work is done."""

import os
import random
import re
import sys
import threading
from contextlib import contextmanager

import pytest

from otel_perf import cli
from otel_perf.cli import progress
from tests.analysis.noise import Machine
from tests.cli.test_compare import fill
from tests.logs.audit import trails

HEADER = "TraceID,SpanID,ParentID,PodName,OperationName,StartTimeUnixNano,EndTimeUnixNano\n"


@contextmanager
def terminal(monkeypatch):
    """Standard error is a terminal, and nothing is too quick for a line; a list that has what was written in the end.

    No fixture: pytest puts its own standard error in place when a test begins.
    """
    master, slave = os.openpty()
    pieces, written = [], []

    def read():
        while True:
            try:
                pieces.append(os.read(master, 65536))
            except OSError:  # how Linux says that nobody has the terminal any more
                return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        patched.setattr(progress, "AFTER", 0.0)
        patched.setattr(progress, "EVERY", 0.0)
        yield written
    reader.join()
    os.close(master)
    written.append(b"".join(pieces).decode())


def fill_trail(home):
    trails.fill(home, [50] * 4)
    return ["audit", "verify", "--home", str(home)]


def fill_store(home):
    machine = Machine(random.Random(1))
    fill(home, [span for _ in range(3) for span in machine.run()])
    return ["export", "--home", str(home), "--signal", "traces"]


def fill_file(home):
    path = home.parent / "traces.csv"
    path.write_text(HEADER + "".join(f"t{n},a,root,shop,GET /,0,20000000\n" for n in range(300)))
    return ["analyze", str(path)]


WORK = {
    "verify": (fill_trail, r"records checked: [\d,]+ of 201 \(\d+%, \d+ s left\)"),
    "export": (fill_store, r"batches written: [\d,]+ of [\d,]+ \(\d+%, \d+ s left\)"),
    "analyze": (fill_file, r"traces.csv: spans read: [\d,]+ \([\d,]+ a second\)"),
}


@pytest.mark.parametrize("work", WORK)
def test_a_terminal_sees_how_far_it_is_and_the_line_goes(work, home, monkeypatch, capsys):
    make, line = WORK[work]
    arguments = make(home)
    with terminal(monkeypatch) as written:
        assert cli.main(arguments) == 0
    assert re.search(line, written[0])
    assert written[0].endswith("\r\x1b[K")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("work", WORK)
def test_a_pipe_sees_nothing(work, home, capfd, monkeypatch):
    monkeypatch.setattr(progress, "AFTER", 0.0)
    make, _ = WORK[work]
    arguments = make(home)
    assert cli.main(arguments) == 0
    assert capfd.readouterr().err == ""


def test_a_trail_that_breaks_off_leaves_no_line(home, monkeypatch, capsys):
    arguments = fill_trail(home)
    with trails.tampering(home) as connection:
        connection.execute("UPDATE record SET time = time + 1 WHERE seq = 150")
    with terminal(monkeypatch) as written:
        assert cli.main(arguments) == 1
    assert written[0].endswith("\r\x1b[K")
    assert "BAD: record 150" in capsys.readouterr().out


def test_what_is_quick_has_no_line(monkeypatch):
    with terminal(monkeypatch) as written:
        monkeypatch.setattr(progress, "AFTER", 60.0)
        assert list(progress.watched(range(1000), "things", 1000)) == list(range(1000))
    assert written == [""]
