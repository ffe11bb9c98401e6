"""The examples in the documents work as they stand there."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

from opentelemetry import trace

import otel_perf as perf
from otel_perf.core import cleaning
from otel_perf.memory.caches import LRUCache
from otel_perf.memory.collections import BoundedDeque
from tests.e2e import programs
from tests.stored import lines, spans

ROOT = Path(__file__).resolve().parents[1]


def examples(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_readmes_app_gives_the_report_that_it_promises(home, tmp_path):
    app = examples("README.md")[0]
    (tmp_path / "app.py").write_text(app)
    environ = programs.environment(home)
    command = [programs.BIN / "opentelemetry-instrument", sys.executable, "app.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    said = [f"order {number} counted" for number in range(5)]
    assert done.stderr == "".join(f"WARNING:root:{line}\n" for line in said)
    assert [span.name for span in spans(home)] == ["CREATE", *["SELECT"] * 5]
    assert [entry.body for entry in lines(home)] == said
    report = subprocess.run(
        [programs.BIN / "otel-perf", "report"], env=environ, capture_output=True, text=True, check=True
    )
    assert "SELECT" in report.stdout


def test_the_readmes_functions_are_counted_as_it_says(home, tmp_path):
    program = examples("README.md")[1]
    programs.run(program, home, cwd=tmp_path)
    command = [programs.BIN / "otel-perf", "report", "--json", "--home", home]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found = {row["name"]: row["calls"] for row in report["functions"]}
    assert found == {"__main__.total": 100, "__main__.price": 4950}
    took = sorted(span.seconds for span in spans(home))
    assert len([each for each in took if each >= 0.02]) >= 4  # a machine that stalls makes others slow
    assert took[0] >= 0.01


def test_the_feature_of_the_contributing_guide_is_a_feature(start, monkeypatch, home):
    (code,) = [example for example in examples("CONTRIBUTING.md") if "FEATURE" in example]
    module = types.ModuleType("heartbeat")
    monkeypatch.setitem(sys.modules, "heartbeat", module)
    exec(compile(code, "heartbeat", "exec"), vars(module))
    monkeypatch.setattr("otel_perf.pipeline.discover", lambda: [module.FEATURE])
    pipeline = start(OTEL_PERF_HEARTBEAT_STEP="5")
    assert pipeline.features["heartbeat"].on
    assert pipeline.census.read(module.BEATS) == [(5, {})]
    pipeline.shutdown()
    assert pipeline.census.read(module.BEATS) == []


def test_the_names_that_a_run_emits_are_the_documented_ones(start, home):
    """docs/telemetry.md against the store: nothing undocumented of ours, nothing documented that is never there."""
    from otel_perf.core.census import SCOPE
    from tests.stored import points
    from tools.documents import declared

    pipeline = start(OTEL_PERF_LOGS_LEVELS="documented=ERROR")
    pipeline.event(pipeline_event(), {})
    import logging

    logging.getLogger("documented").warning("dropped")
    logging.getLogger("app").warning(
        "x", exc_info=ValueError("x")
    )  # metrics of a short life are stored once something else is
    call_every_way()
    tell_every_way()
    kept = clean_and_drop()
    asyncio.run(answer_a_heartbeat())
    wait_for_a_signal()
    with trace.get_tracer("app").start_as_current_span("slow"):
        time.sleep(0.25)
    pipeline.shutdown()
    del kept
    metrics, _ = declared()
    emitted = {point.name for point in points(home) if point.scope.partition(".")[0] == SCOPE}
    assert emitted == {metric.name for metric in metrics} - {"perf.store.size"} | (emitted & {"perf.store.size"})
    units = {point.name: point.unit for point in points(home)}
    assert all(units[metric.name] == metric.unit for metric in metrics if metric.name in units)


def clean_and_drop():
    """A cleanup task that ran, and a cache and a collection that dropped an entry."""
    cache = LRUCache("documented", max_entries=1)
    cache.update({1: 1, 2: 2})
    cache.get(2), cache.get(3)
    ran = threading.Event()
    undo = cleaning.register("documented", ran.set, 0.01)
    assert ran.wait(5)
    undo()
    return cache, BoundedDeque([1, 2], "documented", limit=1)


def wait_for_a_signal():
    """One that was emitted."""
    perf.signals.close()  # of a test before, whose home is another one
    perf.signals.emit("DOCUMENTED")
    perf.signals.wait_sync("DOCUMENTED", timeout=5)
    perf.signals.close()


async def answer_a_heartbeat():
    """An event loop that was asked how late it is, and whose answer was noted."""
    from otel_perf.health import FEATURE

    async with asyncio.timeout(5):
        while not list(FEATURE._loops.counted()):  # noqa: ASYNC110 - it is the loop that is waited for
            await asyncio.sleep(0.05)


def call_every_way():
    """A monitored function that returns, raises, and is only counted."""
    from otel_perf import monitored
    from otel_perf.calls.decorators import MARK
    from otel_perf.calls.function import FUNCTIONS

    work = monitored(name="work")(lambda text="1": int(text))
    work()
    with contextlib.suppress(ValueError):
        work("x")
    FUNCTIONS.step_down(getattr(work, MARK))
    work()


def tell_every_way():
    """A business event that is what was registered, and one that is not."""
    from otel_perf import business_event
    from otel_perf.core import guard

    business_event("documented")
    guard.strict(False)
    business_event("")
    guard.strict(True)


def pipeline_event():
    from otel_perf.pipeline import FEATURE_CHANGED

    return FEATURE_CHANGED


def test_what_the_documents_install_fits_together():
    """An instrumentor of the newest version brings another API than the SDK's; many have no version for the newest."""
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for line in page.read_text().splitlines():
            if re.search(r"^pip install (\. |.*opentelemetry-instrumentation-)", line):
                assert "-c constraints.txt" in line, f"{page.name}: {line}"


def test_the_pictures_are_there_small_and_show_no_path_of_the_machine_that_made_them():
    named = re.findall(r"!\[.+?\]\((docs/pictures/.+?)\)", (ROOT / "README.md").read_text())
    assert sorted(named) == sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/pictures").iterdir())
    for name in named:
        drawn = (ROOT / name).read_bytes()
        assert len(drawn) < 300_000
        if name.endswith(".svg"):
            assert not re.search(rb"/(tmp|root|home)/|@font-face", drawn)
        else:
            assert drawn.startswith(b"\x89PNG")
