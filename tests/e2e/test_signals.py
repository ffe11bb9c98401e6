"""Signals between instrumented programs: their spans in the real Collector, and what the distribution waits for."""

import contextlib
import json

import pytest

from tests.e2e import programs
from tests.e2e.collector import Collector
from tests.e2e.support import wait_for
from tests.stored import spans

EMITTER = """
import sys
import otel_perf as perf
from opentelemetry import trace
sys.stdin.readline()
with trace.get_tracer("app").start_as_current_span("warm"):
    signal = perf.signals.emit("CACHE_WARM", payload={"rows": 7}, agent="loader")
    print(signal.traceparent)
"""
WAITER = """
import asyncio, sys
import otel_perf as perf
from opentelemetry import trace
async def main():
    with trace.get_tracer("app").start_as_current_span("start") as span:
        print(f"{span.get_span_context().trace_id:032x}", flush=True)
        found = await perf.signals.wait("CACHE_WARM", timeout=30)
        print(found["CACHE_WARM"].value["rows"])
asyncio.run(main())
"""


def attributes(item):
    def plain(value):
        kind, held = next(iter(value.items()))
        return [plain(each) for each in held.get("values", ())] if kind == "arrayValue" else held

    return {each["key"]: plain(each["value"]) for each in item.get("attributes", ())}


def test_a_wait_links_to_the_span_of_the_emitter_in_another_process(tmp_path, home):
    collector = Collector(tmp_path)
    with collector.running():
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url(), "OTEL_PERF_STORE_EXIT": "20s"}
        with (
            programs.started(WAITER, home, OTEL_SERVICE_NAME="waiter", **variables) as waiter,
            programs.started(EMITTER, home, OTEL_SERVICE_NAME="emitter", **variables) as emitter,
        ):
            waiters_trace = waiter.stdout.readline().strip()
            emitter.stdin.write("go\n")
            emitter.stdin.close()
            traceparent = emitter.stdout.readline().strip()
            assert (emitter.wait(30), waiter.wait(30)) == (0, 0)
            assert waiter.stdout.read() == "7\n"
        wait_for(lambda: len(collector.received("traces")) >= 4, what="four spans arrive")
        wait_for(lambda: len(events(collector)) >= 2, what="two events arrive")
    by_name = {span["name"]: span for span in collector.received("traces")}
    emit, wait = by_name["emit CACHE_WARM"], by_name["wait CACHE_WARM"]
    assert traceparent == f"00-{emit['traceId']}-{emit['spanId']}-{traceparent[-2:]}"
    assert [(link["traceId"], link["spanId"]) for link in wait["links"]] == [(emit["traceId"], emit["spanId"])]
    # Each stays in its own trace.
    assert wait["traceId"] == waiters_trace == by_name["start"]["traceId"]
    assert emit["traceId"] == by_name["warm"]["traceId"] != waiters_trace
    assert (emit["parentSpanId"], wait["parentSpanId"]) == (by_name["warm"]["spanId"], by_name["start"]["spanId"])
    assert (emit["kind"], wait["kind"]) == (4, 5)  # PRODUCER, CONSUMER
    assert attributes(emit)["gen_ai.agent.name"] == "loader"
    assert [event["name"] for event in emit["events"]] == ["perf.signal.emitted"]
    (received,) = [event for event in wait["events"] if event["name"] == "perf.signal.received"]
    assert attributes(received)["perf.signal.emitter"].startswith("loader (pid ")
    told = {record["eventName"]: record for record in events(collector)}
    assert told["perf.signal.emitted"]["traceId"] == emit["traceId"]
    assert told["perf.signal.received"]["spanId"] == wait["spanId"]


def events(collector):
    return [
        record for record in collector.received("logs") if record.get("eventName", "").startswith("perf.signal.")
    ]  # fmt: skip


STATES = """
import json, sys, time
from otel_perf.distro import pipeline
def states(): return {name: [state.on, state.reason, state.unproven] for name, state in pipeline().features.items()}
print(json.dumps(states()), flush=True)
for line in sys.stdin:
    print(json.dumps(states()), flush=True)
"""
WAITING = {"logs": "ERROR_HANDLING_READY", "memory": "ERROR_HANDLING_READY", "bottlenecks": "HEALTH_MONITORING_READY",
           "cleanup": "HEALTH_MONITORING_READY", "gc_tuning": "HEALTH_MONITORING_READY"}  # fmt: skip


def look(program):
    program.stdin.write("\n")
    program.stdin.flush()
    return json.loads(program.stdout.readline())


def on(states):
    return {name for name, (is_on, *_) in states.items() if is_on}


def signal(home, *arguments):
    from otel_perf import cli

    return cli.main(["signals", *arguments, "--home", str(home)])


def test_with_nothing_external_all_is_ready_before_the_first_line(home):
    with programs.started(STATES, home, OTEL_SERVICE_NAME="shop") as program:
        states = json.loads(program.stdout.readline())
        assert all(is_on and not unproven for is_on, _, unproven in states.values()), states
        # What the process emits stands on the board of the home for others, under its name.
        names = ("ERROR_HANDLING_READY", "MEMORY_MANAGEMENT_READY", "ENHANCED_LOGGING_READY",
                 "HEALTH_MONITORING_READY", "PERFORMANCE_OPTIMIZATION_COMPLETE")  # fmt: skip
        assert signal(home, "wait", *names, "--key", "shop", "--timeout", "20") == 0
        assert signal(home, "wait", "ERROR_HANDLING_READY", "--timeout", "0") == 3


def test_what_waits_for_others_is_armed_when_they_come_without_a_restart(home):
    external = "ERROR_HANDLING_READY,HEALTH_MONITORING_READY"
    with programs.started(STATES, home, OTEL_PERF_SIGNALS_EXTERNAL=external) as program:
        states = json.loads(program.stdout.readline())
        assert {name: reason for name, (is_on, reason, _) in states.items() if not is_on} == {
            name: f"waits for {signal}" for name, signal in WAITING.items()
        }
        assert on(states) == {"calls", "errors", "health", "signals", "store"}  # probes are answered meanwhile
        assert signal(home, "emit", "ERROR_HANDLING_READY", "--agent", "errors") == 0
        wait_for(lambda: {"logs", "memory"} <= on(look(program)), what="logs and memory are on")
        assert not on(look(program)) & {"bottlenecks", "cleanup", "gc_tuning"}
        # A failure is an answer, too: the rest works.
        assert signal(home, "emit", "HEALTH_MONITORING_READY", "--failed", "no probe", "--agent", "health") == 0
        wait_for(lambda: on(look(program)) >= set(WAITING), what="all are on")
        # It is one of a team: what it emits is the team's.
        ours = ("MEMORY_MANAGEMENT_READY", "ENHANCED_LOGGING_READY", "PERFORMANCE_OPTIMIZATION_COMPLETE")
        assert signal(home, "wait", *ours, "--timeout", "20") == 0
        program.stdin.close()
        assert program.wait(30) == 0
    names = {span.name for span in spans(home)}
    assert {f"emit {name}" for name in ours} <= names
    assert "handle ERROR_HANDLING_READY" in names


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"OTEL_PERF_SIGNALS_EXTERNAL": "READY"},
            "OTEL_PERF_SIGNALS_EXTERNAL='READY' is not understood: 'READY' is none of the signals; allowed: names",
        ),
        (
            {"OTEL_PERF_SIGNALS_EXTERNAL": "ERROR_HANDLING_READY", "OTEL_PERF_SIGNALS": "off"},
            "OTEL_PERF_SIGNALS_EXTERNAL needs signals, which are off: it is ignored",
        ),
    ],
)
def test_what_cannot_be_waited_for_is_told_and_nothing_waits(home, variables, line):
    with programs.started(STATES, home, **variables) as program:
        states = json.loads(program.stdout.readline())
        assert not any(reason.startswith("waits") for _, reason, _ in states.values())
        program.stdin.close()
        assert program.wait(30) == 0
        assert line in program.stderr.read()


def test_a_feature_that_is_off_holds_up_nobody(home):
    off = {"OTEL_PERF_ERRORS": "off", "OTEL_PERF_LOGS": "off", "OTEL_PERF_HEALTH": "off"}
    with programs.started(STATES, home, OTEL_SERVICE_NAME="shop", **off) as program:
        states = json.loads(program.stdout.readline())
        assert {"bottlenecks", "cleanup", "gc_tuning", "memory"} <= on(states)
        assert signal(home, "wait", "MEMORY_MANAGEMENT_READY", "--key", "shop", "--timeout", "20") == 0
        assert signal(home, "wait", "ERROR_HANDLING_READY", "--key", "shop", "--timeout", "20") == 1


FORKS = """
import os, sys, time
import otel_perf as perf
perf.signals.emit("PARENT")
pid = os.fork()
if pid == 0:
    perf.signals.wait_sync("PARENT", timeout=10)
    perf.signals.emit("CHILD")
    print("child", flush=True)
    sys.exit(0)
print(sorted(perf.signals.wait_sync("CHILD", timeout=20)), os.waitpid(pid, 0)[1])
"""


def test_a_forked_child_takes_part_with_a_life_of_its_own(home):
    done = programs.run(FORKS, home, OTEL_SERVICE_NAME="shop")
    assert (done.status, sorted(done.out.split("\n"))) == (0, ["", "['CHILD'] 0", "child"]), done.err
    names = {span.name for span in spans(home)}
    assert {"emit PARENT", "emit CHILD", "wait PARENT", "wait CHILD"} <= names


def test_everything_works_without_telemetry_when_the_distribution_is_off(home):
    done = programs.run(FORKS, home, OTEL_PERF_ENABLED="off")
    assert (done.status, sorted(done.out.split("\n"))) == (0, ["", "['CHILD'] 0", "child"]), done.err
    assert not (home / "telemetry.db").exists()


CHAIN = """
import sys, time
import otel_perf as perf
waits_for, emits, work = sys.argv[1:]
if waits_for:
    perf.signals.wait_sync(waits_for, timeout=30, then=[emits])
time.sleep(float(work))
perf.signals.emit(emits)
"""


def test_the_report_says_who_waited_for_whom_and_the_critical_chain(home, capsys):
    from otel_perf import cli

    agents = [("db", "", "DB_READY", "1.5"), ("cache", "DB_READY", "CACHE_WARM", "0.3"), ("web", "CACHE_WARM", "UP", "0"),
              ("mail", "", "MAIL_READY", "0.1")]  # fmt: skip
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(programs.started(CHAIN, home, *arguments, OTEL_SERVICE_NAME=name))
            for name, *arguments in agents
        ]
        for program in running:
            assert program.wait(60) == 0, program.stderr.read()
    assert cli.main(["report", "--home", str(home), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    readiness = report["readiness"]
    assert [(step["service"], step["name"]) for step in readiness["chain"]] == [
        ("db", "DB_READY"), ("cache", "CACHE_WARM"), ("web", "UP"),
    ]  # fmt: skip
    assert readiness["chain"][1]["worked"] >= 0.3
    waits = {row["service"]: row for row in readiness["waits"]}
    assert waits["cache"]["emitter"].startswith("db (pid ")
    assert (waits["web"]["last"], waits["web"]["outcome"]) == ("CACHE_WARM", "ready")
    assert waits["web"]["seconds"] > 0.3
    # A wait is no request, and nobody's slow operation.
    assert not [row for row in report["requests"] + report["operations"] if row["name"].startswith("wait ")]
    assert cli.main(["report", "--home", str(home)]) == 0
    text = capsys.readouterr().out
    assert "waits for DB_READY" in text
    assert "critical chain: db emits DB_READY → cache emits CACHE_WARM (waited " in " ".join(text.split())
