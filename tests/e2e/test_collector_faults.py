"""The Collector in trouble under the distribution's load: nobody behind it, killed, asked for too much. Spans are counted by id."""

import contextlib
import re
import signal
import time
import urllib.error
from collections import Counter
from pathlib import Path

import grpc
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from tests.deployment.test_collector import CONFIGS, without_load_balancing
from tests.e2e import otlp_json as otlp
from tests.e2e.bundle import Bundle
from tests.e2e.collector import ROOT, Collector
from tests.e2e.steady import made_by, made_in_order, worker
from tests.e2e.support import wait_for
from tests.stored import waiting

OUTAGE = 600  # seconds
LONG = 600  # seconds that the end of it may take
UNANSWERED = {"http/protobuf": "timed out", "grpc": "DEADLINE_EXCEEDED"}  # as the app says it
REFUSED = {"http/protobuf": 503, "grpc": grpc.StatusCode.UNAVAILABLE}  # both mean: again, later
ALL = {"OTELCOL_SAMPLE": "100", "OTELCOL_SAMPLE_WAIT": "4s", "OTELCOL_SAMPLE_SETTLE": "1s", "OTELCOL_FLUSH": "5s"}
MIB = 1 << 20
IDS = re.compile(rb'"traceId":"([0-9a-f]{32})","spanId":"([0-9a-f]{16})"')


class Arrived:
    """The ids in a Collector's file, which is read as it grows."""

    def __init__(self, file):
        self._file, self._read, self._copies = file, 0, Counter()

    def copies(self):
        """How often each came."""
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.splitlines():
                if line.startswith(b'{"resourceSpans"'):  # and not exemplars
                    self._copies.update((trace.decode(), span.decode()) for trace, span in IDS.findall(line))
        return self._copies

    def all_of(self, made):
        """Whether everything that was made is there."""
        return made <= self.copies().keys()


@pytest.fixture
def behind(tmp_path):
    """What stands for Tempo, Prometheus and Loki, or for the gateway."""
    (tmp_path / "behind").mkdir()
    return Collector(tmp_path / "behind")


def changed(folder, config, change):
    """A copy of a configuration with something else in it."""
    copy = yaml.safe_load(yaml.safe_dump(config))
    change(copy)
    file = folder / "changed.yaml"
    file.write_text(yaml.safe_dump(copy))
    return file


def sending(home, folder, number, collector, protocol="http/protobuf", **more):
    """A worker that sends to ``collector``."""
    variables = collector.variables(protocol) | {"OTEL_SERVICE_NAME": "steady", "OTEL_PERF_STORE_EXIT": "20s"}
    return worker(home, folder, number, **more, **variables)


def quiet(folder):
    """Let the workers make nothing more, as soon as they look."""
    (folder / "quiet").touch()


def held(pid):
    """Bytes of memory that only a swap could take from a process: without its program and its queue, which are files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def refused(collector):
    return sum(collector.own("otelcol_receiver_refused_spans").values())


@pytest.mark.soak
@pytest.mark.parametrize("limit", [512 * MIB, 4 * MIB], ids=["as-it-is", "full"])
def test_nothing_is_lost_in_ten_minutes_without_a_backend(tmp_path, home, behind, limit):
    """GIVEN load WHEN the backend is away for ten minutes THEN the queue keeps its bounds, and all arrives.

    With less room than that takes, the rest waits in the app's store.
    """

    def change(config):
        queue = config["exporters"]["otlp_grpc/tempo"]["sending_queue"]
        assert queue["queue_size"] == 512 * MIB
        queue["queue_size"] = limit

    bundle = Bundle(tmp_path / "bundle", behind, changed(tmp_path, CONFIGS["config"], change), **ALL)
    storage = tmp_path / "bundle" / "storage" / "exporter_otlp_grpc_tempo_traces"
    arrived, queued, disk, left = Arrived(behind.file), [], [], []
    with bundle.running(), sending(home, tmp_path, 1, bundle) as app:
        with behind.running():
            wait_for(lambda: len(arrived.copies()) > 500, 60, "spans arrive")
        before, over = len(arrived.copies()), time.monotonic() + OUTAGE
        while time.monotonic() < over:
            queued.append(bundle.queued()["traces"])
            disk.append(storage.stat().st_size)
            left.append(waiting(home))
            time.sleep(1)
        with behind.running():
            wait_for(lambda: len(arrived.copies()) > before + 500, 120, "spans arrive again")
            quiet(tmp_path)
            wait_for(lambda: waiting(home) == bundle.queued()["traces"] == 0, LONG, "nothing waits any more")
            assert app.stop() == -15
            made = made_by(tmp_path, 1)
            wait_for(lambda: arrived.all_of(made), 60, "all that was made arrives")
            disk.append(storage.stat().st_size)
    copies = arrived.copies()
    print(
        f"{len(made):,} made, {before:,} before; queue {max(queued) / MIB:.1f} MiB, disk {max(disk) / MIB:.1f} MiB, then"
        f" {disk[-1] / MIB:.1f}; {max(left):,} in the app's store; {copies.total() - len(copies):,} came twice"
    )
    assert len(made) - before > 50 * OUTAGE
    assert 0 < max(queued) <= limit
    assert max(disk) < 3 * limit  # the file doubles when it is full
    assert copies.total() == len(copies) or "timed out" in app.output(), "only what was unanswered comes twice"


@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="once"), pytest.param(20, id="twenty-times", marks=pytest.mark.soak)]
)
def test_what_the_agent_has_acknowledged_outlives_a_kill_under_load(tmp_path, home, behind, kills):
    """GIVEN load WHEN the agent is killed THEN all arrives, and only what was under way at a kill comes twice."""
    file = changed(tmp_path, without_load_balancing(CONFIGS["agent"]), lambda _: None)
    agent = Bundle(tmp_path / "agent", behind, file, OTELCOL_GATEWAY=f"127.0.0.1:{behind.grpc}")
    arrived, under_way = Arrived(behind.file), []

    def more():
        """Let spans arrive that were sent since."""
        count = len(arrived.copies())
        wait_for(lambda: len(arrived.copies()) > count + 300, 60, "spans arrive")

    with behind.running(), sending(home, tmp_path, 1, agent) as app:
        for _ in range(kills):
            with agent.running() as process:
                more()
                there = set(arrived.copies())
                made = made_in_order(tmp_path, 1)
                answered = next((at for at, span in enumerate(made) if span not in there), len(made))
                more()
                more()  # what was there before has been answered now
                process.stop(signal.SIGKILL)
            under_way.append((answered, len(made_in_order(tmp_path, 1))))
        with agent.running():
            more()
            quiet(tmp_path)
            wait_for(lambda: waiting(home) == 0, 60, "nothing waits in the app")
            assert app.stop() == -15
            made = made_in_order(tmp_path, 1)
            wait_for(lambda: arrived.all_of(set(made)), 60, "all that was made arrives")
            wait_for(lambda: agent.queued()["traces"] == 0, 20, "nothing waits in the agent")
    copies = arrived.copies()
    twice = [at for at, span in enumerate(made) if copies[span] > 1]
    print(f"{len(made):,} made, {len(twice):,} came twice, of {under_way}")
    assert all(any(first <= at < last for first, last in under_way) for at in twice)


@pytest.mark.soak
def test_a_killed_collector_loses_no_trace_that_it_had_judged(tmp_path, home, behind):
    """GIVEN load WHEN the one that samples is killed THEN only what was in the sampler's memory is lost, as is said."""
    bundle = Bundle(tmp_path / "bundle", behind, **ALL)
    arrived = Arrived(behind.file)
    with behind.running(), sending(home, tmp_path, 1, bundle) as app:
        with bundle.running() as process:
            wait_for(lambda: bundle.judged() > 1000, 60, "traces are judged")
            judged = int(bundle.judged())
            wait_for(lambda: bundle.handed_on() >= judged, 20, "they are in the queue")
            process.stop(signal.SIGKILL)
        killed = len(made_in_order(tmp_path, 1))
        with bundle.running():
            wait_for(lambda: len(made_in_order(tmp_path, 1)) > killed + 500, 60, "it goes on")
            quiet(tmp_path)
            wait_for(lambda: waiting(home) == 0, 60, "nothing waits in the app")
            assert app.stop() == -15
            made = made_in_order(tmp_path, 1)
            wait_for(lambda: arrived.all_of({*made[:judged], *made[killed:]}), 60, "all the others arrive")
    lost = [at for at, span in enumerate(made) if span not in arrived.copies()]
    print(f"{len(made):,} made, {judged:,} judged, {killed:,} when it was killed; {len(lost):,} lost")
    assert all(judged <= at < killed for at in lost)


@pytest.mark.soak
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_three_times_too_much_is_refused_and_comes_later(tmp_path, behind, protocol):
    """GIVEN a load that it can bear WHEN it is three times that THEN the rest waits in the apps' stores, and all arrives.

    With a fifth of the memory of docker-compose.yml, so that it takes a fifth of the load.
    """
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["collector"]
    heap = int(service["environment"]["GOMEMLIMIT"].removesuffix("MiB")) // 5
    most = int(service["mem_limit"].removesuffix("m")) * MIB // 5

    def change(config):
        for name, limit in config["processors"].items():
            if name.startswith("memory_limiter"):
                limit |= {key: limit[key] // 5 for key in ("limit_mib", "spike_limit_mib")}

    usual = ALL | {"OTELCOL_SAMPLE_WAIT": "30s", "OTELCOL_SAMPLE_SETTLE": "10s", "GOMEMLIMIT": f"{heap}MiB"}
    bundle = Bundle(tmp_path / "bundle", behind, changed(tmp_path, CONFIGS["config"], change), **usual)
    arrived, memory = Arrived(behind.file), []
    homes = [tmp_path / f"home-{number}" for number in range(3)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(behind.running())
        process = stack.enter_context(bundle.running())
        load = {"pause": 0.004, "note": 9_000}  # larger than usual: it has to be too much on any machine
        apps = [stack.enter_context(sending(homes[0], tmp_path, 0, bundle, protocol, **load))]
        wait_for(lambda: len(arrived.copies()) > 2000, 120, "it bears one of them")
        memory.append(held(process.pid))
        assert refused(bundle) == 0
        for number in (1, 2):
            apps.append(stack.enter_context(sending(homes[number], tmp_path, number, bundle, protocol, **load)))
        answers = Counter()

        def too_much():
            """Until it has refused them for a time, so that their stores are what takes it."""
            answers[ask(bundle, protocol)] += 1
            memory.append(held(process.pid))
            stored = all(waiting(home) > 1000 for home in homes)
            return answers[REFUSED[protocol]] >= 20 and refused(bundle) > 1000 and stored

        wait_for(too_much, LONG, "it is too much")
        left = [waiting(home) for home in homes]
        quiet(tmp_path)
        wait_for(lambda: not any(waiting(home) for home in homes), LONG, "nothing waits in the apps")
        assert [app.stop() for app in apps] == [-15] * 3
        made = set().union(*(made_by(tmp_path, number) for number in range(3)))
        wait_for(lambda: arrived.all_of(made), LONG, "all that was made arrives")
        turned_away = refused(bundle)
    copies = arrived.copies()
    print(
        f"{len(made):,} made; {turned_away:,.0f} refused, {answers}, {left} in the stores at the end of the peak,"
        f" {max(memory) / MIB:.0f} MiB; {copies.total() - len(copies):,} came twice"
    )
    assert turned_away > 1000
    assert answers.keys() <= {"taken", REFUSED[protocol]}
    assert max(memory) < most
    said = "".join(app.output() for app in apps)
    assert copies.total() == len(copies) or UNANSWERED[protocol] in said, "only what was unanswered comes twice"


def ask(collector, protocol):
    """What a trace is answered that is sent now."""
    span = otlp.span("asked")
    if protocol != "grpc":
        try:
            otlp.send(collector.url(), "traces", [span])
        except urllib.error.HTTPError as error:
            return error.code
        return "taken"
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(
        trace_id=bytes.fromhex(span["traceId"]), span_id=bytes.fromhex(span["spanId"]), name="asked"
    )
    with grpc.insecure_channel(f"127.0.0.1:{collector.grpc}") as channel:
        try:
            TraceServiceStub(channel).Export(request, timeout=60)
        except grpc.RpcError as error:
            return error.code()
    return "taken"
