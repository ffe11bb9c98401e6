"""The process's resident memory, also in a child."""

import os
import sys

import psutil
import pytest

from otel_perf.core import resident


def test_it_is_what_the_system_says():
    assert resident.resident() == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_where_there_is_no_proc_psutil_is_asked(monkeypatch):
    monkeypatch.setattr(resident, "_LINUX", False)
    assert resident.resident() == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)


def test_a_child_reads_its_own():
    resident.resident()
    pid = os.fork()
    if pid == 0:
        grown = bytearray(b"x") * 100_000_000
        os._exit(0 if resident.recent() > 100_000_000 and grown else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_descriptor_that_the_app_closed_is_opened_again():
    before = resident.resident()
    number = resident._file._number
    os.close(number)
    assert resident.resident() == 0  # not known this time
    assert resident.resident() == pytest.approx(before, rel=0.5)


def test_a_recent_reading_is_shared(monkeypatch):
    monkeypatch.setattr(resident, "_last", (float("-inf"), 0))
    read = []
    monkeypatch.setattr(resident, "resident", lambda: read.append(1) or 5)
    monkeypatch.setattr(resident, "RECENT", 3600)
    assert [resident.recent(), resident.recent()] == [5, 5]
    assert len(read) == 1
