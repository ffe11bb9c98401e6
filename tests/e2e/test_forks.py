"""Forks under load: none hangs, no span is lost or doubled, each child reports itself."""

import subprocess
import sys

import pytest

from tests.e2e import programs
from tests.e2e.support import wait_for
from tests.stored import points, spans

UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}  # coverage would take as long again as the program

PROGRAM = """
import logging, os, sys, threading, time
from opentelemetry import metrics, trace
tracer = trace.get_tracer("forks")
counter = metrics.get_meter("forks").create_counter("made")
histogram = metrics.get_meter("forks").create_histogram("took")
stop, made = threading.Event(), [0] * 4

def work(index):
    while not stop.is_set():
        with tracer.start_as_current_span("thread"):
            made[index] += 1
            logging.getLogger("app").info("working")
        counter.add(1)
        histogram.record(0.1, {"thread": index})
        stop.wait(0.0003)

threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
for thread in threads: thread.start()
hung = 0
for number in range(int(sys.argv[1])):
    with tracer.start_as_current_span("around"):
        pid = os.fork()
        if pid == 0:
            for _ in range(3):
                with tracer.start_as_current_span("child"):
                    counter.add(1)
                    histogram.record(0.2, {"thread": 0})
            if number % 2:
                sys.exit(0)  # unwinds "around", which is the parent's
            os._exit(0)
    deadline = time.monotonic() + 20
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            hung += 1
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            break
        time.sleep(0.0005)
stop.set()
for thread in threads: thread.join()
print(hung, sum(made))
"""


@pytest.mark.parametrize("rounds", [30, pytest.param(300, marks=pytest.mark.soak)])
def test_rounds_of_fork_under_load(home, rounds):
    # The program has threads of its own, of which Python 3.12 warns.
    done = programs.run(
        PROGRAM, home, str(rounds), timeout=300, PYTHONWARNINGS="ignore::DeprecationWarning", **UNMEASURED
    )
    assert done.err == ""
    hung, made = map(int, done.out.split())
    assert hung == 0
    found = spans(home)
    names = [span.name for span in found]
    assert names.count("child") == 3 * rounds
    assert names.count("around") == rounds
    assert names.count("thread") == made
    assert len({(span.trace_id, span.span_id) for span in found}) == len(found)
    children = {span.resource["service.instance.id"] for span in found if span.name == "child"}
    assert len(children) == rounds
    reported = {point.resource["service.instance.id"] for point in points(home) if point.name == "process.memory.usage"}
    assert children <= reported


def test_a_child_reports_its_own_memory(home):
    program = """
import os, time
from opentelemetry import trace
pid = os.fork()
kept = bytearray(80_000_000) if pid == 0 else b""
trace.get_tracer("t").start_span("child" if pid == 0 else "parent").end()
if pid: os.waitpid(pid, 0)
"""
    assert programs.run(program, home).status == 0
    process = {span.name: span.resource["service.instance.id"] for span in spans(home)}
    memory = {
        point.resource["service.instance.id"]: point.value
        for point in points(home)
        if point.name == "process.memory.usage"
    }
    assert memory[process["child"]] > memory[process["parent"]] + 60_000_000


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_do_not_share_an_id_that_was_given(home, method):
    """GIVEN the id of a container, as the Operator gives it WHEN its workers report THEN each has its own, and so its series."""
    program = """
import multiprocessing, sys
work = "from opentelemetry import trace; trace.get_tracer('t').start_span('child').end()"
exec(work.replace("child", "parent"))
children = [multiprocessing.get_context(sys.argv[1]).Process(target=exec, args=(work,)) for _ in range(2)]
for child in children: child.start()
for child in children: child.join()
"""
    given = {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=shop.pod.web"}
    assert programs.run(program, home, method, PYTHONWARNINGS="ignore::DeprecationWarning", **given).status == 0
    found = {span.name: set() for span in spans(home)}
    for span in spans(home):
        found[span.name].add(span.resource["service.instance.id"])
    assert found["parent"] == {"shop.pod.web"}
    assert len(found["child"] - found["parent"]) == 2


def test_a_child_counts_its_own(home):
    """Upstream's child goes on from its parent's totals, so that what happened before the fork counts twice."""
    program = """
import os
from opentelemetry import metrics
counter = metrics.get_meter("m").create_counter("orders")
counter.add(5)
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
    counter.add(1)
else:
    counter.add(2)
"""
    assert programs.run(program, home).status == 0
    assert sorted(point.value for point in points(home) if point.name == "orders") == [2, 6]


def test_children_that_outlive_their_parent_keep_their_spans(home):
    """SQLite's locks are per process and inode: the parent's end must not take the WAL from under its children."""
    program = """
import os, sys, time
from opentelemetry import trace
tracer = trace.get_tracer("t")
tracer.start_span("parent").end()
trace.get_tracer_provider().force_flush()
read, write = os.pipe()
for child in range(3):
    if os.fork() == 0:
        os.close(write)
        for _ in range(200):
            tracer.start_span("early").end()
        trace.get_tracer_provider().force_flush()
        os.read(read, 1)  # until the parent has ended
        for _ in range(200):
            tracer.start_span("late").end()
        os._exit(0)
"""
    done = programs.run(program, home)
    assert (done.status, done.err) == (0, "")
    wait_for(lambda: len(spans(home)) == 1 + 3 * 400, what="the children's spans")
    names = [span.name for span in spans(home)]
    assert (names.count("parent"), names.count("early"), names.count("late")) == (1, 600, 600)


def test_a_child_that_makes_nothing_stores_nothing(home):
    program = """
import os
from opentelemetry import trace
trace.get_tracer("t").start_span("parent").end()
trace.get_tracer_provider().force_flush()
for _ in range(5):
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
"""
    assert programs.run(program, home).status == 0
    assert len({point.resource["service.instance.id"] for point in points(home)}) == 1


@pytest.mark.parametrize("workers", [50])
def test_many_processes_open_one_home_at_once(home, workers):
    program = "from opentelemetry import trace\ntrace.get_tracer('t').start_span('x').end()"
    shell = f'for i in $(seq {workers}); do {sys.executable} -c "$PROGRAM" & done; wait'
    environ = programs.environment(home, PROGRAM=program, **UNMEASURED)
    done = subprocess.run(
        [str(programs.BIN / "opentelemetry-instrument"), "/bin/sh", "-c", shell],
        env=environ, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert len(spans(home)) == workers
