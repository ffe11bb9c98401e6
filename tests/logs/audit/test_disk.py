"""A disk that is full raises to whoever made the record, and costs no other."""

import contextlib
import os

import pytest

import otel_perf as perf
from otel_perf.core.errors import AuditError
from otel_perf.logs.audit import events
from tests.e2e.test_home_failures import tmpfs
from tests.logs.audit import trails


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A home of 2 MB."""
    with tmpfs(tmp_path / "small", "2m") as folder:
        monkeypatch.setenv("OTEL_PERF_HOME", str(folder / "home"))
        yield folder
        events.close()


def record(number, size=10):
    return perf.audit_event("x", actor="a", target="t", outcome="ok", n=number, text="x" * size)


def fill(folder):
    """Take what is left."""
    with contextlib.suppress(OSError), (folder / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_raises_and_nothing_acknowledged_is_lost(small):
    stored = {record(0): 0}
    fill(small)
    numbers = iter(range(1, 2000))
    with pytest.raises(AuditError, match=r"the record is not stored.*full.*free space on its volume") as caught:
        stored.update((record(number, 2000), number) for number in numbers)
    assert isinstance(caught.value, OSError)
    failed = len(stored)
    with pytest.raises(AuditError):
        record(failed, 20_000)
    (small / "fill").unlink()
    for number in range(3000, 3005):
        stored[record(number)] = number
    assert {seq: body["fields"]["n"] for seq, body in trails.bodies(small / "home").items()} == stored
    verdict = trails.judge(small / "home")
    assert verdict.good, verdict.reason


def test_a_disk_that_is_full_from_the_start(small):
    fill(small)
    with pytest.raises(AuditError, match="the record is not stored"):
        record(0)
    (small / "fill").unlink()
    assert record(1) >= 3
    assert trails.judge(small / "home").good


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_home_on_a_read_only_volume_raises_and_can_be_read(small):
    import subprocess

    record(0)
    events.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    try:
        with pytest.raises(AuditError, match="the record is not stored"):
            record(1)
        assert trails.judge(small / "home").good
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
