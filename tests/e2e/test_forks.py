"""Forks under load: none hangs, no span is lost or doubled, each child reports itself."""

import subprocess
import sys

import pytest

from tests.e2e import programs
from tests.stored import points, spans

ROUNDS = 300

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


def test_rounds_of_fork_under_load(home):
    done = programs.run(PROGRAM, home, str(ROUNDS), timeout=300)
    assert done.err == ""
    hung, made = map(int, done.out.split())
    assert hung == 0
    found = spans(home)
    names = [span.name for span in found]
    assert names.count("child") == 3 * ROUNDS
    assert names.count("around") == ROUNDS
    assert names.count("thread") == made
    assert len({(span.trace_id, span.span_id) for span in found}) == len(found)
    children = {span.resource["service.instance.id"] for span in found if span.name == "child"}
    assert len(children) == ROUNDS
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


@pytest.mark.parametrize("workers", [50])
def test_many_processes_open_one_home_at_once(home, workers):
    program = "from opentelemetry import trace\ntrace.get_tracer('t').start_span('x').end()"
    shell = f'for i in $(seq {workers}); do {sys.executable} -c "$PROGRAM" & done; wait'
    environ = programs.environment(home, PROGRAM=program)
    done = subprocess.run(
        [str(programs.BIN / "opentelemetry-instrument"), "/bin/sh", "-c", shell],
        env=environ, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert len(spans(home)) == workers
