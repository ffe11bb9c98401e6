"""``pytest --otel-perf``: every test is a trace, and what is slow in it is told, or fails it.

    pytest --otel-perf                                      # findings of each test in the summary
    pytest --otel-perf-fail=n_plus_one,loop_block           # and a test that has one of these fails
    pytest --otel-perf-fail=all --otel-perf-over=100ms      # ... but only if mending it would save as much

The distribution is started in the test process, with a store of its own (``OTEL_PERF_HOME`` keeps it), and sends
nothing. Without these options the plugin imports nothing and costs nothing. A test costs some milliseconds more.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

PROPERTY: Final = "otel-perf"
PLUGIN: Final = "otel-perf-session"
HOME: Final = "OTEL_PERF_HOME"


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


def pytest_configure(config: pytest.Config) -> None:
    """Start, if it is asked for. Wrong options end the session before a test runs."""
    if not (config.getoption("--otel-perf") or config.getoption("--otel-perf-fail")):
        return
    from otel_perf.bottlenecks.detectors import DETECTORS
    from otel_perf.core.settings import parse_duration

    kinds = {kind.strip() for kind in config.getoption("--otel-perf-fail").split(",")} - {""}
    known = {detector.kind for detector in DETECTORS}
    if unknown := kinds - known - {"all"}:
        raise pytest.UsageError(
            f"--otel-perf-fail: no kind {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    try:
        over = parse_duration(config.getoption("--otel-perf-over"))
    except ValueError:
        raise pytest.UsageError("--otel-perf-over takes a time like 100ms") from None
    runs_tests = hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None)
    config.pluginmanager.register(_Summary(), f"{PLUGIN}-summary")
    if runs_tests:
        config.pluginmanager.register(_Session(config, known if "all" in kinds else kinds, over), PLUGIN)


class _Session:
    """Where tests run: in this process, or in a worker of pytest-xdist."""

    def __init__(self, config: pytest.Config, failing: set[str], over: float) -> None:
        import otel_perf

        self._failing = failing
        self._over = over
        self._own = None if os.environ.get(HOME) else tempfile.mkdtemp(prefix="otel-perf-")
        os.environ.setdefault(HOME, self._own or "")
        os.environ.setdefault("OTEL_SERVICE_NAME", f"tests of {config.rootpath.name}")
        os.environ.setdefault("OTEL_PERF_STORE_PROBE", "off")
        otel_perf.setup()
        self._after = 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """A span about the test itself, without its fixtures; then its findings."""
        from opentelemetry import trace

        found: list[dict[str, Any]] = []
        try:
            with trace.get_tracer("otel_perf.pytest").start_as_current_span(item.nodeid) as span:
                answer = yield
        finally:
            found = self._findings(f"{span.get_span_context().trace_id:032x}")
            item.user_properties += [(PROPERTY, finding) for finding in found]
        bad = [row for row in found if row["kind"] in self._failing and row["cost"] >= self._over]
        if bad:
            pytest.fail("\n".join(f"{row['kind']}: {row['evidence']}" for row in bad), pytrace=False)
        return answer

    def _findings(self, trace_id: str) -> list[dict[str, Any]]:
        """Those of one trace, from what was stored since the last test."""
        from opentelemetry import trace
        from opentelemetry._logs import get_logger_provider

        from otel_perf.analysis import otlp
        from otel_perf.analysis.bottlenecks import Bottlenecks
        from otel_perf.core.errors import StoreError
        from otel_perf.store.database import StoreReader

        for provider in (trace.get_tracer_provider(), get_logger_provider()):
            flush = getattr(provider, "force_flush", None)  # a test may have put in another one
            if flush is not None:
                flush()
        try:
            store = StoreReader(Path(os.environ[HOME]))
        except StoreError:  # nothing was made yet
            return []
        try:
            found, last = Bottlenecks(), store.last_id()
            for entry in otlp.logs(store.batches(["logs"], after=self._after)):
                if entry.trace_id == trace_id:
                    found.add(entry)
            self._after = last
        finally:
            store.close()
        return [row.model_dump(include={"kind", "cost", "where", "evidence"}) for row in found.rows()]

    def pytest_unconfigure(self) -> None:
        """Stop, and leave nothing behind."""
        import otel_perf

        otel_perf.shutdown()
        if self._own is not None:
            os.environ.pop(HOME, None)
            shutil.rmtree(self._own, ignore_errors=True)


class _Summary:
    """Where the results come together."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, dict[str, Any]]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the findings of a test."""
        if report.when == "call":
            self._rows += [(report.nodeid, dict(value)) for name, value in report.user_properties if name == PROPERTY]  # type: ignore[call-overload]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was found, the costliest first."""
        from otel_perf.cli.text import seconds

        terminalreporter.section("otel-perf: bottlenecks")
        for test, row in sorted(self._rows, key=lambda pair: -pair[1]["cost"]):
            terminalreporter.line(f"{test}: {row['kind']} at {row['where']}, would save {seconds(row['cost'])}")
            terminalreporter.line(f"    {row['evidence']}")
        if not self._rows:
            terminalreporter.line("none")
