"""Runs the test-suite of a real library plain, under us, and with the whole library watched: the results are the same.

    python tools/watch_library.py                     # jinja2 and httpx
    python tools/watch_library.py sqlalchemy --rounds 1

The library and what its suite needs are an environment of their own (``tools/environments/library-*.txt``); the suite
is that of its source distribution, kept in ``~/.cache/otel-perf/sources``. The three ways take turns, ``--rounds``
times. What is compared is the outcome of every single test; what is printed is the CPU time of the quickest round.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from environments import REQUIREMENTS, cache, ensure, locked

WAYS = ("plain", "instrumented", "watched")


@dataclass(frozen=True)
class Library:
    """Which of its functions are watched, and how its suite is run."""

    watch: str
    suite: tuple[str, ...] = ("tests",)


LIBRARIES = {
    "jinja2": Library("jinja2.*"),
    # Left out: what needs the internet, and what the newest uvicorn and trio make fail by itself, one by a race.
    "httpx": Library(
        "httpx.*",
        (
            "tests",
            "-m",
            "not network",
            "--deselect=tests/test_timeouts.py::test_write_timeout",
            "--deselect=tests/test_utils.py::test_logging_request",
            "--deselect=tests/test_utils.py::test_logging_redirect_chain",
        ),
    ),
    # Its pytest plugin and fixtures are part of the package; they are not what is watched. Left out of the suite for
    # their length: test/sql and test/orm.
    "sqlalchemy": Library("sqlalchemy.*,!sqlalchemy.testing.*", ("test/base", "test/engine", "test/ext")),
}
DEFAULT = ("jinja2", "httpx")


@dataclass
class Run:
    """What came of one run."""

    outcomes: Counter[tuple[str, str]]  # test and outcome
    cpu: float
    elapsed: float
    functions: list[dict[str, float]] = field(default_factory=list)


def sources(name: str, folder: Path) -> Path:
    """The unpacked source distribution of the release in the environment, downloaded once."""
    (version,) = re.findall(
        rf"^{name}(?:\[.*\])?==(\S+)$", (REQUIREMENTS / f"library-{name}.txt").read_text(), re.MULTILINE
    )
    target = cache() / "sources" / f"{name}-{version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                command = [folder / "bin" / "python", "-m", "pip", "download", "-q", "--no-deps", "-d", scratch]
                subprocess.run([*command, "--no-binary", name, f"{name}=={version}"], check=True)
                (archive,) = Path(scratch).glob("*.tar.gz")
                with tarfile.open(archive) as opened:
                    opened.extractall(scratch, filter="data")
                (unpacked,) = (path for path in Path(scratch).iterdir() if path.is_dir())
                unpacked.rename(target)
    return target


def run(way: str, library: Library, folder: Path, suite: Path, scratch: Path) -> Run:
    """Run the suite one way."""
    home, report = scratch / "home", scratch / "report.xml"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON", "PYTEST"))}
    environ |= {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONHASHSEED": "0"}
    environ |= {"OTEL_PERF_HOME": str(home), "OTEL_PERF_STORE_PROBE": "off", "OTEL_SERVICE_NAME": "suite"}
    if way == "watched":
        environ["OTEL_PERF_CALLS_WATCH"] = library.watch
    start = [] if way == "plain" else [str(folder / "bin" / "opentelemetry-instrument")]
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"--basetemp={scratch / 'temporary'}"]
    command = [*start, str(folder / "bin" / "python"), "-m", "pytest", *options, *library.suite]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=suite, env=environ, capture_output=True, text=True, check=False)
    elapsed, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if not report.exists():
        raise SystemExit(f"{way}: the suite did not run\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(_outcomes(report), cpu, elapsed, _functions(folder, home, environ) if way == "watched" else [])


def _outcomes(report: Path) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[f"{case.get('classname')}.{case.get('name')}", "+".join(sorted(kinds)) or "passed"] += 1
    return found


def _functions(folder: Path, home: Path, environ: dict[str, str]) -> list[dict[str, float]]:
    command = [folder / "bin" / "otel-perf", "report", "--json", "--top", "100000", "--home", home]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    found: list[dict[str, float]] = json.loads(done.stdout)["functions"]
    return found


def compare(name: str, rounds: int) -> bool:
    """Run the suite of ``name`` all ways; whether the outcomes are the same."""
    library, folder = LIBRARIES[name], ensure(f"library-{name}")
    suite = sources(name, folder)
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            with tempfile.TemporaryDirectory() as scratch:
                runs[way].append(run(way, library, folder, suite, Path(scratch)))
    plain = runs["plain"][0].outcomes
    same = True
    for way, found in runs.items():
        best = min(found, key=lambda one: one.cpu)
        slower = best.cpu / min(one.cpu for one in runs["plain"])
        counts = Counter(outcome for (_, outcome), count in best.outcomes.items() for _ in range(count))
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        print(f"{name:11} {way:13} {best.cpu:7.2f} s CPU  {best.elapsed:7.2f} s  {slower:5.2f} ×  {told}", flush=True)
        for one in found:
            for test, outcome in sorted((one.outcomes - plain) | (plain - one.outcomes)):
                same = False
                print(f"  differs: {outcome}, {'plain' if (test, outcome) in plain else way}: {test}")
    functions = runs["watched"][-1].functions
    print(f"{name:11} {len(functions)} watched functions were called, {sum(row['calls'] for row in functions):,} times")
    return same and bool(functions) and set(plain) != set()


def main() -> int:
    """Run them; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", nargs="*", default=DEFAULT, help=", ".join(LIBRARIES))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    unknown = set(arguments.library) - set(LIBRARIES)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not known; known are {', '.join(LIBRARIES)}")
    results = [compare(name, arguments.rounds) for name in arguments.library]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
