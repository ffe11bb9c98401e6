"""Roll-out in real services: features flip under load and no request fails, services agree on traces, strain passes."""

import http.client
import json
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from otel_perf.features import discover
from tests.e2e import programs
from tests.e2e.support import Running, free_port, instrumented, wait_for
from tests.stored import events, spans
from tools.environments import ensure

APPS = str(Path(__file__).parent / "apps")
FLIPPED = ("bottlenecks", "calls", "cleanup", "gc_tuning", "memory")
FEATURES = {feature.name for feature in discover()}


class Load:
    """Requests from some threads, one after the other in each, until the end; what did not go well is kept."""

    def __init__(self, port, threads=4):
        self.served, self.failed = 0, []
        self._port = port
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        number = 0
        while not self._ended.wait(0.005):
            number += 1
            try:
                connection.request("GET", f"/work/{number}")
                answer = connection.getresponse()
                body = json.load(answer)
                if answer.status == 200 and body == {"number": number}:
                    self.served += 1
                else:
                    self.failed.append((answer.status, body))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(error)
                connection.close()
        connection.close()


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    answer = json.load(connection.getresponse())
    connection.close()
    return answer


def wait_until_equal(read, expected):
    """Wait until it is so; else fail with the difference."""
    try:
        wait_for(lambda: read() == expected)
    except AssertionError:
        assert read() == expected
        raise


class Flags:
    """The flag file."""

    def __init__(self, path, **values):
        self.path, self.values = path, values
        self.set()

    def set(self, **values):
        self.values |= values
        flags = {
            f"perf.{name}": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": value}
            for name, value in self.values.items()
        }
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"flags": flags}))
        new.replace(self.path)


def evaluated(home):
    """How often each flag became what."""
    told = [entry.attributes for entry in events(home, "feature_flag.evaluation")]
    return Counter((event["feature_flag.key"], event["feature_flag.result.value"]) for event in told)


@pytest.mark.parametrize("rounds", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_features_flip_under_load_and_leave_nothing_behind(home, tmp_path, rounds):
    """GIVEN requests WHEN features go on and off, again and again THEN none fails, and off is as if never on."""
    port, flags = free_port(), Flags(tmp_path / "flags.json", **dict.fromkeys(FLIPPED, "off"))
    variables = {
        "OTEL_PERF_FLAGS_FILE": str(flags.path), "OTEL_PERF_GC_TUNING_PAUSE": "1ms", "OTEL_PERF_STORE_DELAY": "100ms",
    }  # fmt: skip
    command = ("uvicorn", "flipped:app", "--app-dir", APPS, "--port", str(port), "--log-level", "warning")
    with instrumented(ensure("shop"), home, *command, variables=variables) as server:
        server.wait_until_listening(port, 60)
        with Load(port) as load:
            wait_for(lambda: load.served > 20)
            before = get(port, "/state")
            assert before["frozen"] == 0
            for number in range(rounds):
                flags.set(**dict.fromkeys(FLIPPED, "on"))
                wait_for(lambda: len(get(port, "/state")["tasks"]) == 3, what="memory is on")

                def tuned():
                    get(port, "/collect")
                    return get(port, "/state")["frozen"] > 0

                wait_for(tuned, what="gc_tuning has frozen")
                flags.set(**dict.fromkeys(FLIPPED, "off"))
                if number == 0:  # what is prepared once in a process stays: hooks of the fork, which find nothing to do
                    wait_until_equal(lambda: get(port, "/state")["tasks"], before["tasks"])
                    before["told"][-1] = get(port, "/state")["told"][-1]
                wait_until_equal(lambda: get(port, "/state"), before)
            # The kill switch: nothing of ours is in the way of a line.
            flags.set(enabled="off")
            wait_for(lambda: get(port, "/state")["lines"] == "logging", what="all is off")
            killed = load.served
            wait_for(lambda: load.served > killed + 20)
            flags.set(enabled="on")
            wait_for(lambda: get(port, "/state")["lines"] != "logging", what="it is on again")
            wait_for(lambda: load.served > killed + 40)
        assert load.failed == []
        assert server.stop(signal.SIGTERM) in {0, -signal.SIGTERM}
        assert server.output() == ""
    expected = Counter()
    for name in FEATURES:
        if name in FLIPPED:
            expected[f"perf.{name}", "100%"] += rounds
            expected[f"perf.{name}", "0%"] += rounds
        expected[f"perf.{name}", "0%"] += 1  # by the kill switch
        expected[f"perf.{name}", "0%" if name in FLIPPED else "100%"] += 1
    assert evaluated(home) == expected
    served = [span for span in spans(home) if span.kind == "SERVER" and span.name == "GET /work/{number}"]
    assert len(served) < load.served  # what was served while the store was off
    assert len(served) > 40


PROVIDER = """
import logging
from otel_perf import flags
flags.PROVIDER_EVERY = 0.5  # seconds, not 5
from openfeature import api
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

def use(**values):
    flags = {f"perf.{name}": InMemoryFlag("now", {"now": value}) for name, value in values.items()}
    api.set_provider(InMemoryProvider(flags))

async def work(request):
    return JSONResponse({"number": int(request.path_params["number"])})

async def flag(request):
    values = {"true": True, "false": False}
    use(**{name: values.get(value, value) for name, value in request.query_params.items()})
    return JSONResponse({})

async def state(request):
    return JSONResponse({"lines": logging.Logger.callHandlers.__module__})

app = Starlette(routes=[Route("/work/{number}", work), Route("/flag", flag), Route("/state", state)])
"""


def test_an_openfeature_provider_flips_features_under_load(home, tmp_path):
    """GIVEN no flag file, and an app that registers its provider when it likes THEN its flags count, also the switch."""
    (tmp_path / "service.py").write_text(PROVIDER)
    port = free_port()
    command = ("opentelemetry-instrument", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning")
    environ = programs.environment(home, OTEL_PERF_STORE_DELAY="100ms")
    running = Running(
        [str(programs.BIN / command[0]), str(programs.BIN / command[1]), *command[2:]],
        environ,
        tmp_path,
        tmp_path / "log",
    )
    with running as server:
        server.wait_until_listening(port, 60)
        with Load(port) as load:
            wait_for(lambda: load.served > 20)
            assert get(port, "/state")["lines"] != "logging"
            get(port, "/flag?enabled=false")
            wait_for(lambda: get(port, "/state")["lines"] == "logging", what="all is off")
            get(port, "/flag?enabled=true&logs=on&memory=false")
            wait_for(lambda: get(port, "/state")["lines"] != "logging", what="it is on again")
            wait_for(lambda: load.served > 100)
        assert load.failed == []
        assert server.stop(signal.SIGTERM) in {0, -signal.SIGTERM}
    told = [entry.attributes for entry in events(home, "feature_flag.evaluation")]
    by_reason = {}
    for event in told:
        by_reason.setdefault(event["feature_flag.result.reason"], set()).add(event["feature_flag.key"])
    assert by_reason == {
        "OpenFeature, perf.enabled": {f"perf.{name}" for name in FEATURES},
        "OpenFeature, perf.logs": {"perf.logs"},
        "OpenFeature, perf.memory": {"perf.memory"},
        "default": {f"perf.{name}" for name in FEATURES - {"logs", "memory"}},
    }


def test_services_agree_on_the_traces_that_are_looked_at(tmp_path):
    """GIVEN two services at 30 %, one calling the other, and a bottleneck in both THEN a trace is flagged in both or none."""
    homes, ports = [tmp_path / name / "home" for name in "ab"], [free_port(), free_port()]
    servers = []
    for number, (home, port) in enumerate(zip(homes, ports, strict=True)):
        home.parent.mkdir()
        peer = {"PEER": f"http://127.0.0.1:{ports[1]}/many"} if number == 0 else {}
        variables = {"OTEL_PERF_BOTTLENECKS": "30%", "OTEL_SERVICE_NAME": f"service-{number}", **peer}
        command = ("uvicorn", "flipped:app", "--app-dir", APPS, "--port", str(port), "--log-level", "warning")
        servers.append(instrumented(ensure("shop"), home, *command, variables=variables))
    with servers[0] as first, servers[1] as second:
        for server, port in zip((first, second), ports, strict=True):
            server.wait_until_listening(port, 60)
        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(lambda _: get(ports[0], "/many"), range(120))) == [{}] * 120
        for home in homes:  # what is held until it was looked at would go unlooked at the end
            wait_for(lambda home=home: sum(span.kind == "SERVER" for span in spans(home)) == 120, what="all is stored")
        for server in (first, second):
            assert server.stop(signal.SIGTERM) in {0, -signal.SIGTERM}
    traces, flagged = [], []
    for home in homes:
        stored = spans(home)
        traces.append({span.trace_id for span in stored})
        flagged.append({span.trace_id for span in stored if "perf.bottleneck" in span.attributes})
    assert len(traces[0]) == 120
    assert traces[1] == traces[0]
    assert flagged[1] == flagged[0]
    assert 11 < len(flagged[0]) < 61  # 36, and 5 standard deviations


SHORT = """
import sys, time
from otel_perf import stepping
from otel_perf.distro import pipeline
stepping.CALM = 0.1
limit, blocks = int(sys.argv[1]), []

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def wait_until(bottlenecks):
    deadline = time.monotonic() + 20
    while pipeline().features["bottlenecks"].on != bottlenecks and time.monotonic() < deadline:
        time.sleep(0.01)

while resident() < 0.93 * limit:
    blocks.append(b"x" * 2**20)
wait_until(bottlenecks=False)
blocks.clear()
wait_until(bottlenecks=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_when_memory_is_critical_what_is_dear_steps_down_and_comes_back(home):
    limit = 250 * 2**20
    done = programs.run(SHORT, home, str(limit), OTEL_PERF_MEMORY_LIMIT=limit)
    assert done.status == 0
    told = [entry.attributes for entry in events(home, "perf.feature.changed")]
    states = [(event["perf.feature"], event["perf.feature.state"]) for event in told]
    assert states == [("bottlenecks", "stepped down"), ("bottlenecks", "back")]
    assert told[0]["perf.feature.reason"].startswith("memory pressure is critical, after ")
    down, back = done.err.splitlines()
    assert down.startswith("otel-perf: bottlenecks stepped down: memory pressure is critical, after ")
    assert down.endswith(" MiB in use; it comes back when that is over")
    assert back == "otel-perf: bottlenecks is back"
