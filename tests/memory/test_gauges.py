"""The process's own figures, under the conventions' names."""

import os
import sys
from contextlib import ExitStack

import psutil
import pytest
from opentelemetry.semconv._incubating.metrics import cpython_metrics, process_metrics

from otel_perf.core.census import Census
from otel_perf.memory import gauges


@pytest.fixture
def readings():
    census, undo = Census(), ExitStack()
    gauges.install(census, undo)

    def read(metric):
        return census.read(metric)

    read.undo = undo
    return read


def test_the_names_are_the_conventions(readings):
    assert gauges.MEMORY_USAGE.name == process_metrics.PROCESS_MEMORY_USAGE
    assert gauges.MEMORY_VIRTUAL.name == process_metrics.PROCESS_MEMORY_VIRTUAL
    assert gauges.CPU_TIME.name == process_metrics.PROCESS_CPU_TIME
    assert gauges.THREAD_COUNT.name == process_metrics.PROCESS_THREAD_COUNT
    assert gauges.GC_COLLECTIONS.name == cpython_metrics.CPYTHON_GC_COLLECTIONS
    assert gauges.GC_COLLECTED.name == cpython_metrics.CPYTHON_GC_COLLECTED_OBJECTS
    assert gauges.GC_UNCOLLECTABLE.name == cpython_metrics.CPYTHON_GC_UNCOLLECTABLE_OBJECTS


def test_memory_agrees_with_psutil(readings):
    ((usage, attributes),) = readings(gauges.MEMORY_USAGE)
    ((virtual, _),) = readings(gauges.MEMORY_VIRTUAL)
    info = psutil.Process().memory_info()
    assert attributes == {}
    assert usage == pytest.approx(info.rss, rel=0.1)
    assert virtual == pytest.approx(info.vms, rel=0.1)


def test_threads_and_descriptors_agree_with_psutil(readings):
    assert readings(gauges.THREAD_COUNT) == [(psutil.Process().num_threads(), {})]
    assert readings(gauges.DESCRIPTORS)[0][0] == psutil.Process().num_fds() - 1  # psutil counts its own listing


def test_cpu_time_is_split_by_mode_and_gc_by_an_integer_generation(readings):
    assert [attributes["cpu.mode"] for _, attributes in readings(gauges.CPU_TIME)] == ["user", "system"]
    generations = [attributes for _, attributes in readings(gauges.GC_COLLECTIONS)]
    assert generations == [{"cpython.gc.generation": number} for number in range(3)]


def test_elsewhere_psutil_reads_them(readings, monkeypatch):
    monkeypatch.setattr(gauges, "_LINUX", False)
    assert readings(gauges.MEMORY_USAGE)[0][0] > 1_000_000
    assert readings(gauges.THREAD_COUNT)[0][0] >= 1
    assert readings(gauges.DESCRIPTORS)[0][0] > 0
    monkeypatch.delattr(psutil.Process, "num_fds")
    assert readings(gauges.DESCRIPTORS) == []


def test_undone_nothing_is_read(readings):
    readings.undo.close()
    assert readings(gauges.MEMORY_USAGE) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and /proc are Linux's")
def test_a_forked_child_reads_itself(readings):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        grown = bytearray(200_000_000)
        os.write(writer, b"%d" % readings(gauges.MEMORY_USAGE)[0][0])
        del grown
        os._exit(0)
    os.waitpid(pid, 0)
    assert int(os.read(reader, 100)) > readings(gauges.MEMORY_USAGE)[0][0] + 100_000_000
