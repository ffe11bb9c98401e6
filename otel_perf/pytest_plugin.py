"""``pytest --otel-perf``: every test is a trace, and what is slow in it is told, or fails it.

    pytest --otel-perf                                      # findings of each test in the summary
    pytest --otel-perf-fail=n_plus_one,loop_block           # and a test that has one of these fails
    pytest --otel-perf-fail=all --otel-perf-over=100ms      # ... but only if mending it would save as much

The distribution is started in the test process with a store of its own, and sends nothing, whatever endpoint and home
the environment names: ``--otel-perf-home`` keeps the store, ``--otel-perf-send`` sends. Without these options the
plugin imports nothing and costs nothing. A test costs some milliseconds more.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import shutil
import sys
import tempfile
from collections import Counter
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from otel_perf.pipeline import Pipeline

PROPERTY: Final = "otel-perf"
MISSED: Final = "otel-perf-missed"
PLUGIN: Final = "otel-perf-session"
HOME: Final = "OTEL_PERF_HOME"
OWN: Final = "they have a tracer provider of their own"
# What says where telemetry goes, hence not where that of tests goes.
_SENDS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER",
    "OTEL_CONFIG_FILE", "OTEL_PERF_MEMORY_WEBHOOK", "OTEL_PERF_SIGNALS_URL",
)  # fmt: skip
_SAMPLES: Final = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("otel-perf", "bottlenecks found while the tests run")
    group.addoption("--otel-perf", action="store_true", help="tell what is slow in each test, why and where")
    group.addoption(
        "--otel-perf-fail", metavar="KINDS", default="",
        help="fail tests that have a bottleneck of these kinds, like n_plus_one,slow_io, or all",
    )  # fmt: skip
    group.addoption(
        "--otel-perf-over", metavar="TIME", default="0ms", help="fail only for what would save as much, like 100ms"
    )
    group.addoption("--otel-perf-home", metavar="FOLDER", default="", help="keep the store of the tests in this folder")
    group.addoption(
        "--otel-perf-send", action="store_true",
        help="send the telemetry of the tests to where OTEL_EXPORTER_OTLP_* say; it is sent nowhere otherwise",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Start, if it is asked for. Wrong options end the session before a test runs."""
    if not (config.getoption("--otel-perf") or config.getoption("--otel-perf-fail")):
        return
    sys.meta_path.insert(0, _Plainly)
    from otel_perf import distro
    from otel_perf.core.settings import parse_duration

    failing = _failing(config)
    try:
        over = parse_duration(config.getoption("--otel-perf-over"))
    except ValueError:
        raise pytest.UsageError("--otel-perf-over takes a time like 100ms") from None
    running = distro.pipeline()
    if running is not None and not config.getoption("--otel-perf-send"):
        raise pytest.UsageError(
            "--otel-perf: otel-perf runs already (opentelemetry-instrument, or otel_perf.setup() in a conftest), with a"
            " store and an endpoint that are not the tests' own; start pytest without, or add --otel-perf-send"
        )
    if running is not None and not running.features["store"].settings.keep:
        raise pytest.UsageError(
            "--otel-perf-send: otel-perf runs already, and what it sends is gone from its store before it is read here;"
            " export OTEL_PERF_STORE_KEEP=on"
        )
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if config.getoption("--otel-perf-home"):  # by its whole name, as a worker of pytest-xdist gets it
        config.option.otel_perf_home = str(config.invocation_params.dir / config.getoption("--otel-perf-home"))
    session = None
    if worker is not None or config.getoption("dist", "no") == "no":
        session = _Session(config, failing, over)
        config.pluginmanager.register(session, PLUGIN)
    else:
        config.pluginmanager.register(_Workers(), f"{PLUGIN}-workers")
    if worker is None:
        config.pluginmanager.register(_Summary(session, failing=bool(failing)), f"{PLUGIN}-summary")


def pytest_unconfigure() -> None:
    """Undo what was done to imports."""
    if _Plainly in sys.meta_path:
        sys.meta_path.remove(_Plainly)


class _Plainly:
    """Finds our modules before pytest does, which has the assertions of all plugins' packages rewritten.

    For that it parses each anew, also where a thread of ours imports it while the session imports tests: before Python
    3.11.8 (gh-106905) one of the two then ends with a SystemError, and the session with it.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As an import without pytest would find it."""
        return PathFinder.find_spec(name, path, target) if name.startswith("otel_perf.") else None


def _failing(config: pytest.Config) -> set[str]:
    """The kinds that fail a test."""
    from otel_perf.bottlenecks import detectors

    kinds = {kind.strip() for kind in config.getoption("--otel-perf-fail").split(",")} - {""}
    known = {detector.kind for detector in detectors.DETECTORS}
    if unknown := kinds - known - {"all"}:
        raise pytest.UsageError(
            f"--otel-perf-fail: no kind {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    looked_for = {detector.kind for detector in detectors.load_all(os.environ)[0]}
    if off := kinds - looked_for - {"all"}:
        variables = " ".join(f"OTEL_PERF_BOTTLENECKS_{kind.upper()}_ENABLED" for kind in sorted(off))
        raise pytest.UsageError(f"--otel-perf-fail: {', '.join(sorted(off))} is not looked for; see {variables}")
    return known if "all" in kinds else kinds


class _Session:
    """Where tests run: in this process, or in a worker of pytest-xdist."""

    def __init__(self, config: pytest.Config, failing: set[str], over: float) -> None:
        from otel_perf import distro

        self._failing = failing
        self._over = over
        self._after = 0
        self._before: dict[str, str | None] = {}  # what the environment had
        self._temporary: str | None = None
        self._pipeline: Pipeline | None = distro.pipeline()
        self._trouble = "" if self._pipeline is not None else self._of_others()
        if self._pipeline is None and not self._trouble:
            self._prepare(config)
            self._start()

    def _of_others(self) -> str:
        """Who has set up OpenTelemetry in this process already: it takes one tracer provider, once."""
        from opentelemetry import trace

        found = trace.get_tracer_provider()
        if isinstance(found, trace.ProxyTracerProvider):
            return ""
        return f"{type(found).__module__}.{type(found).__qualname__} was set up before, by a conftest or another distro"

    def _prepare(self, config: pytest.Config) -> None:
        """An environment for this process and those that tests start."""
        home, worker = config.getoption("--otel-perf-home"), getattr(config, "workerinput", {})
        if not home:  # those of workers lie in one folder, which goes even if a worker was killed
            self._temporary = home = tempfile.mkdtemp(prefix="otel-perf-", dir=worker.get("otel_perf_folder"))
        wanted: dict[str, str | None] = dict.fromkeys(_SAMPLES)  # every test is a trace
        wanted |= {HOME: home, "OTEL_SERVICE_NAME": os.environ.get("OTEL_SERVICE_NAME")}
        wanted["OTEL_SERVICE_NAME"] = wanted["OTEL_SERVICE_NAME"] or f"tests of {config.rootpath.name}"
        if config.getoption("--otel-perf-send"):
            wanted["OTEL_PERF_STORE_KEEP"] = "on"  # what was sent is read here, too
        else:
            wanted |= {**dict.fromkeys(_SENDS), "OTEL_PERF_STORE_PROBE": "off"}
        self._before = {name: os.environ.get(name) for name in wanted}
        _set(wanted)

    def _start(self) -> None:
        from otel_perf import distro

        try:
            distro.setup()
            self._pipeline = distro.pipeline()
            self._trouble = "" if self._pipeline is not None else distro.switched_off() or "otel-perf did not start"
        except Exception as error:  # the tests run without
            self._trouble = f"otel-perf could not start: {error!r}"

    def trouble(self) -> str:
        """Why tests are not looked at, or not all of them; empty if they are."""
        from otel_perf import distro

        pipeline = self._pipeline
        if self._trouble or pipeline is None:
            return self._trouble
        if distro.pipeline() is not pipeline or pipeline.providers is None:
            return "otel-perf was shut down by a test"
        for signal in ("traces", "logs"):
            if not pipeline.exports(signal):
                variable = f"OTEL_{signal.upper()}_EXPORTER"
                return f"{variable}={os.environ.get(variable)} keeps {signal} out of the store"
        for name in ("store", "bottlenecks"):
            state = pipeline.features[name]
            if not state.on:
                return f"the feature {name} is not on ({state.reason})"
        decision = pipeline.features["bottlenecks"].decision
        return "" if decision.share >= 1 else f"bottlenecks is on for {decision.share:.0%} only ({decision.source})"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """A span about the test itself, without its fixtures; then its findings."""
        from opentelemetry import trace

        providers = None if self._pipeline is None else self._pipeline.providers
        # Of a run before, where a plugin runs what failed again.
        item.user_properties[:] = [entry for entry in item.user_properties if entry[0] not in {PROPERTY, MISSED}]
        if providers is None or self._trouble:
            item.user_properties.append((MISSED, self.trouble()))
            return (yield)
        if trace.get_tracer_provider() is not providers.tracer:  # a span of ours would be one more in its exporter
            item.user_properties.append((MISSED, OWN))
            return (yield)
        found: list[dict[str, Any]] = []
        try:
            tracer = providers.tracer.get_tracer("otel_perf.pytest")
            with tracer.start_as_current_span(item.nodeid) as span, _brought(item):
                answer = yield
        finally:
            found, trouble = self._findings(providers, f"{span.get_span_context().trace_id:032x}")
            item.user_properties += [(PROPERTY, finding) for finding in found]
            item.user_properties += [(MISSED, trouble)] if trouble else []
        bad = [row for row in found if row["kind"] in self._failing and row["cost"] >= self._over]
        if bad:
            pytest.fail("\n".join(f"{row['kind']}: {row['evidence']}" for row in bad), pytrace=False)
        return answer

    def _findings(self, providers: Any, trace_id: str) -> tuple[list[dict[str, Any]], str]:
        """Those of one trace, from what was stored since the last test, and why there may be others."""
        from otel_perf.analysis import otlp
        from otel_perf.analysis.bottlenecks import Bottlenecks
        from otel_perf.core.errors import StoreError
        from otel_perf.core.home import STORE_FILE
        from otel_perf.store.database import StoreReader

        trouble = self.trouble()
        for provider in (providers.tracer, providers.logger):
            flush = getattr(provider, "force_flush", None)  # what OTEL_CONFIG_FILE leaves out has none
            if flush is not None:
                flush()
        assert self._pipeline is not None
        try:  # not where the environment says now: a test may have put in another home
            store = StoreReader(self._pipeline.home.with_file(STORE_FILE))
        except StoreError as error:
            return [], trouble or str(error)
        try:
            found, last = Bottlenecks(), store.last_id()
            for entry in otlp.logs(store.batches(["logs"], after=self._after)):
                if entry.trace_id == trace_id:
                    found.add(entry)
            self._after = last
        finally:
            store.close()
        return [row.model_dump(include={"kind", "cost", "where", "evidence"}) for row in found.rows()], trouble

    def pytest_unconfigure(self) -> None:
        """Stop, and leave nothing behind."""
        import otel_perf

        if self._before:  # else it was not started here
            otel_perf.shutdown()
            _set(self._before)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


@contextlib.contextmanager
def _brought(item: pytest.Item) -> Iterator[None]:
    """Have a coroutine's test run within the span that is current here.

    anyio runs it in the task that its first async fixture began, unittest in the context that its case was made in.
    Both are of before, and what the test does would be in traces of its own, in which nobody looks.
    """
    from opentelemetry import context

    function, here = getattr(item, "obj", None), context.get_current()
    if function is None or not inspect.iscoroutinefunction(function):
        yield
        return

    @functools.wraps(function)
    async def inside(*arguments: Any, **named: Any) -> Any:
        token = context.attach(here)
        try:
            return await function(*arguments, **named)
        finally:
            context.detach(token)

    case, cases = getattr(item, "instance", None), sys.modules.get("unittest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item, "obj", inside)
        if cases is not None and isinstance(case, cases.TestCase):  # which takes its own method
            patch.setattr(case, function.__name__, inside)
        yield


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class _Workers:
    """The process that starts the workers of pytest-xdist."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="otel-perf-")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Say where the stores of workers are."""
        node.workerinput["otel_perf_folder"] = self._folder

    def pytest_unconfigure(self) -> None:
        """Remove them."""
        shutil.rmtree(self._folder, ignore_errors=True)


class _Summary:
    """Where the results come together."""

    def __init__(self, session: _Session | None, *, failing: bool) -> None:
        self._session = session  # none where workers run the tests
        self._failing = failing
        self._told: dict[str, list[tuple[str, Any]]] = {}  # by test, of its last run

    def pytest_report_header(self) -> str:
        """Whether it looks, and if not why."""
        trouble = "" if self._session is None else self._session.trouble()
        return f"otel-perf: no bottleneck is looked for: {trouble}" if trouble else "otel-perf: looks for bottlenecks"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the findings of a test."""
        if report.when == "call":
            self._told[report.nodeid] = [entry for entry in report.user_properties if entry[0] in {PROPERTY, MISSED}]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """What was to fail on findings does not pass because nobody looked."""
        if self._fails() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _fails(self) -> bool:
        return self._failing and any(reason != OWN for reason in self._missed())

    def _missed(self) -> Counter[str]:
        """Why tests were not looked at, and how many."""
        return Counter(value for told in self._told.values() for name, value in told if name == MISSED)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was found, the costliest first."""
        from otel_perf.cli.text import seconds

        terminalreporter.section("otel-perf: bottlenecks")
        missed = self._missed()
        found = [(test, row) for test, told in self._told.items() for name, row in told if name == PROPERTY]
        for test, row in sorted(found, key=lambda pair: -pair[1]["cost"]):
            terminalreporter.line(f"{test}: {row['kind']} at {row['where']}, would save {seconds(row['cost'])}")
            terminalreporter.line(f"    {row['evidence']}")
        if not found and len(self._told) > missed.total():
            terminalreporter.line("none in the others" if missed else "none")
        for reason, tests in missed.items():
            terminalreporter.line(f"not looked at, {tests} of {len(self._told)} tests: {reason}", yellow=True)
        if self._fails():
            terminalreporter.line("the run fails: --otel-perf-fail cannot tell", red=True)
