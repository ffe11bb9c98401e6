"""The head while many processes write it: never half of one and half of another."""

import contextlib
import subprocess
import sys

import pytest

from otel_perf.logs.audit import heads
from otel_perf.logs.audit.chain import Checkpoint
from otel_perf.logs.audit.heads import Heads
from tests.e2e import programs

WRITER = """
import sys
from pathlib import Path
from otel_perf.logs.audit.chain import Checkpoint
from otel_perf.logs.audit.heads import Heads
head = Heads(Path(sys.argv[1]), Path(sys.argv[1]) / "none")
print("ready", flush=True)
while True:
    for digit in "123456789":
        head.write(Checkpoint(digit * 32, 1, digit * 64, digit * 64, digit * 128), force=True)
"""


def test_a_head_that_is_being_written_is_read_whole(tmp_path):
    reader = Heads(tmp_path, tmp_path / "none")
    reader.begin(Checkpoint("1" * 32, 0, "1" * 64, "1" * 64, "1" * 128))
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            writer = stack.enter_context(
                subprocess.Popen(command, env=programs.environment(tmp_path), stdout=subprocess.PIPE, text=True)
            )
            stack.callback(writer.kill)
            writer.stdout.readline()
        for _ in range(20_000):
            found = reader.read()
            assert found is not None
            assert len(set(found.trail + found.hash + found.key + found.seal)) == 1
    reader.close()


def test_a_head_never_goes_back_unless_it_must(tmp_path):
    head = Heads(tmp_path, tmp_path / "none")
    head.begin(Checkpoint("t", 0, "", "", ""))
    head.write(Checkpoint("t", 5, "aa", "", ""))
    head.write(Checkpoint("t", 4, "bb", "", ""))
    assert head.read().seq == 5
    head.write(Checkpoint("t", 4, "bb", "", ""), force=True)
    assert head.read().seq == 4
    head.begin(Checkpoint("u", 0, "", "", ""))
    assert head.read().seq == 4, "what was there before is not hidden by a new trail"
    assert (tmp_path / heads.HEAD_FILE).stat().st_size == heads.HEAD_BYTES
    head.close()


def test_a_process_that_is_stopped_as_it_writes_the_head_does_not_hang_others(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(heads, "PATIENCE", 0.1)
    head = Heads(tmp_path, tmp_path / "none")
    head.begin(Checkpoint("t", 0, "", "", ""))
    with (tmp_path / heads.HEAD_FILE).open("rb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        for action in (head.read, lambda: head.write(Checkpoint("t", 1, "aa", "", ""))):
            with pytest.raises(TimeoutError, match=r"another process has locked it for 0.1 s"):
                action()
    head.write(Checkpoint("t", 1, "aa", "", ""))
    assert head.read().seq == 1
    head.close()
