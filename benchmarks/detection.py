"""Bottlenecks in real code, found by the whole distribution: how many, with the right culprit, and none elsewhere.

Each case is an operation of a program of ``programs/detection`` under ``opentelemetry-instrument``, with real queries,
requests, locks, pools, loops and memory, and one bottleneck at 1.5, 2.5 or 5 times the detector's documented bound. A
healthy twin of each kind does what looks like it. Every seed changes sizes, durations, names, depth, library and host
(main thread, other thread, FastAPI). What was found is read from the exported events, what was injected from the case.

A case of one kind counts against all others: a finding of another kind there is a false one, but for
:data:`ACCEPTED`. What the machine disturbed, by the kernel's account of the program's threads, is run again, twice at
most.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import common

from otel_perf.analysis.otlp import logs, spans
from otel_perf.store.database import StoreReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER: Final = common.PROGRAMS / "detection"
STRENGTHS: Final = (1.5, 2.5, 5.0)
CLEAN: Final = 100_000  # spans
# Kinds whose cases mostly wait, some programs at a time; those that need a CPU of their own, one at a time; and
# operations that are repeated hundreds of times, all of a program at once.
WAITING: Final = ("n_plus_one", "serial_io", "slow_io", "fan_out", "self_time", "loop_block", "pool_wait", "lock_wait")
BUSY: Final = ("cpu_bound", "cpu_starved", "gil_wait", "gc_pause", "memory_growth")
REPEATED: Final = ("regression",)
KINDS: Final = (*WAITING, *BUSY, *REPEATED)
AT_ONCE: Final = {**dict.fromkeys(WAITING, 4), **dict.fromkeys(BUSY, 1), **dict.fromkeys(REPEATED, 2)}
SCENARIOS: Final[dict[tuple[str, bool], list[str]]] = defaultdict(list)  # by kind, and whether they inject it
# What one kind cannot be without: (injected, found): why.
ACCEPTED: Final[dict[tuple[str, str], str]] = {
    ("gc_pause", "cpu_bound"): "what makes so many objects computes, too",
    ("memory_growth", "cpu_bound"): "to get, fill and give back memory is CPU time",
    ("fan_out", "loop_block"): "dozens of requests are built in one turn of the loop, 2 ms each",
}


class Wanted(NamedTuple):
    """One case."""

    id: str
    scenario: str
    strength: float
    seed: int
    kind: str
    injects: bool


@dataclass(slots=True)
class Found:
    """One finding."""

    trace: str
    kind: str
    cost: float
    culprit: str
    file: str
    line: int
    evidence: str


@dataclass(slots=True)
class Told:
    """What a program says of a case."""

    mark: str
    places: Sequence[Sequence[Any]] = ()
    names: Sequence[str] = ()
    host: str = ""


@dataclass(slots=True)
class Outcome:
    """What one program exported."""

    findings: list[Found] = field(default_factory=list)
    case_of: dict[str, str] = field(default_factory=dict)  # trace: case
    told: dict[str, Told] = field(default_factory=dict)
    spans: int = 0


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The other side of the requests, and its address."""
    command = [str(folder / "bin" / "python"), str(FOLDER / "server.py")]
    with subprocess.Popen(command, env=common.environ(folder), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def scenarios(folder: Path) -> None:
    """Ask the program what there is."""
    code = "import json, run; print(json.dumps([(s.kind, s.injects, n) for n, s in run.SCENARIOS.items()]))"
    command = [str(folder / "bin" / "python"), "-c", code]
    for kind, injects, name in json.loads(subprocess.check_output(command, cwd=FOLDER, env=common.environ(folder))):
        SCENARIOS[kind, injects].append(name)


def wanted(kind: str, seeds: int, only: str) -> list[Wanted]:
    """Every case of ``kind``: each strength with each seed, and as many healthy ones."""
    cases = []
    for injects in (True, False):
        names = [name for name in SCENARIOS[kind, injects] if only in name]
        for number, strength in enumerate(STRENGTHS):
            for seed in range(seeds if names else 0):
                name = names[(seed + number) % len(names)]
                cases.append(Wanted(f"{name}/{strength}/{seed}", name, strength, seed, kind, injects))
    random.Random(kind).shuffle(cases)
    return cases


def run(folder: Path, address: str, asked: dict[str, Any]) -> Outcome:
    """One program, and what it exported."""
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work:
        here = Path(work)
        (here / "cases.json").write_text(json.dumps(asked | {"server": address}))
        settings = {
            "OTEL_PERF_HOME": str(here / "home"),
            "TMPDIR": work,
            "OTEL_METRICS_EXPORTER": "none",
            "PYTHONFAULTHANDLER": "1",
        }
        program = [str(folder / "bin" / "python"), str(FOLDER / "run.py"), "cases.json", "told.jsonl"]
        command = [str(folder / "bin" / "opentelemetry-instrument"), *program]
        common.run(command, common.environ(folder, settings), here, timeout=900)
        outcome = read(here / "home")
        for line in (here / "told.jsonl").read_text().splitlines():
            case, *told = json.loads(line)
            outcome.told[case] = Told(*told)
    return outcome


def read(home: Path) -> Outcome:
    """What is in a store."""
    outcome = Outcome()
    reader = StoreReader(home)
    for span in spans(reader.batches(["traces"])):
        outcome.spans += 1
        if case := span.attributes.get("bench.case"):
            outcome.case_of[span.trace_id] = case
    for entry in logs(reader.batches(["logs"])):
        if entry.event_name == "perf.bottleneck":
            told = entry.attributes
            kind, cost, culprit = (told[f"perf.bottleneck.{name}"] for name in ("kind", "cost", "culprit"))
            file, line = Path(told.get("code.file.path", "")).name, int(told.get("code.line.number", 0))
            outcome.findings.append(Found(entry.trace_id, kind, cost, culprit, file, line, entry.body))
    reader.close()
    return outcome


def is_right(found: Found, told: Told) -> bool:
    """Whether the finding names what was to blame."""
    return found.culprit in told.names or any(
        file == found.file and first <= found.line <= last for file, _, first, last in told.places
    )


@dataclass(slots=True)
class Score:
    """Of one kind."""

    cases: int = 0
    hits: int = 0
    firsts: int = 0
    false: int = 0


class Judge:
    """Compares what was found with what was injected."""

    def __init__(self) -> None:
        self.scores: dict[str, Score] = {kind: Score() for kind in KINDS}
        self.wrong: list[str] = []

    def judge(self, cases: Sequence[Wanted], outcome: Outcome) -> None:
        """Count the cases of one program."""
        by_mark: dict[str, list[Found]] = defaultdict(list)
        for found in outcome.findings:
            by_mark[outcome.case_of.get(found.trace, "")].append(found)
        for case in cases:
            told = outcome.told[case.id]
            findings, before = by_mark.pop(told.mark, []), by_mark.pop(f"{case.id}/before", [])
            if case.injects:
                self._injected(case, told, findings)
            self._others(case, told, findings)
            self._others(case._replace(injects=False), told, before)
        for found in by_mark.pop("", ()):  # of no case: of what goes on around them
            self.scores[found.kind].false += 1
            self._note("FALSE", None, "", found)

    def _injected(self, case: Wanted, told: Told, findings: list[Found]) -> None:
        score = self.scores[case.kind]
        score.cases += 1
        right = [found for found in findings if found.kind == case.kind]
        score.hits += bool(right)
        traces = {found.trace for found in right}
        beside = [found for found in findings if found.trace in traces] or findings
        costliest = max(beside, key=lambda found: found.cost, default=None)
        first = costliest is not None and costliest.kind == case.kind and is_right(costliest, told)
        score.firsts += first
        if not right:
            self._note("MISSED", case, told.host, costliest)
        elif not first:
            self._note("CULPRIT", case, told.host, costliest)

    def _others(self, case: Wanted, told: Told, findings: list[Found]) -> None:
        for found in findings:
            if (found.kind == case.kind and case.injects) or (case.injects and (case.kind, found.kind) in ACCEPTED):
                continue
            self.scores[found.kind].false += 1
            self._note("FALSE", case, told.host, found)

    def _note(self, what: str, case: Wanted | None, where: str, found: Found | None) -> None:
        name = "no case" if case is None else f"{case.kind} {'' if case.injects else 'healthy '}{case.id}"
        told = "nothing" if found is None else f"{found.kind} {found.cost:.3f} s, {found.culprit}: {found.evidence}"
        self.wrong.append(f"{what} {name} ({where}): {told}")


def main() -> int:
    """Run, print and judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=50, help="of each strength (default 50)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind, and no clean run")
    parser.add_argument("--scenario", default="", help="only scenarios with this in their names")
    parser.add_argument("--clean", type=int, default=CLEAN, help=f"clean spans (default {CLEAN:,}); 0 for none")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    folder = common.ensure("bench-detection")
    scenarios(folder)
    judge = Judge()
    with server(folder) as address:
        for at_once in sorted(set(AT_ONCE.values()), reverse=True):
            kinds = [kind for kind in options.kind or KINDS if AT_ONCE[kind] == at_once]
            jobs = [part for kind in kinds for part in parts(kind, wanted(kind, options.seeds, options.scenario))]
            with ThreadPoolExecutor(at_once) as pool:
                asked = [{"cases": [case[:4] for case in job], "together": job[0].kind in REPEATED} for job in jobs]
                for job, outcome in zip(jobs, pool.map(lambda one: run(folder, address, one), asked), strict=True):
                    judge.judge(job, outcome)
                    print(f"{job[0].kind}: {len(job)} cases, {outcome.spans} spans", file=sys.stderr)
        clean = None if options.kind or not options.clean else clean_run(folder, address, options.clean)
    return finish(judge, clean, options)


def parts(kind: str, cases: list[Wanted]) -> list[list[Wanted]]:
    """Cases for one program each."""
    size = 12 if kind in REPEATED else 60  # more would fill the loop, and latency be no longer what was asked for
    return [cases[start : start + size] for start in range(0, len(cases), size)]


def clean_run(folder: Path, address: str, count: int) -> Outcome:
    """A healthy service under its ordinary load."""
    # Not those that compute, collect or fill memory: beside the traffic they do wait for the interpreter, or stop it.
    kinds = WAITING
    cases = [case for kind in kinds for case in wanted(kind, 2, "") if not case.injects]
    return run(folder, address, {"clean": {"spans": count, "cases": [case[:4] for case in cases]}})


def finish(judge: Judge, clean: Outcome | None, options: argparse.Namespace) -> int:
    """Print everything."""
    table = common.Table(
        f"{options.seeds} seeds × strengths {', '.join(map(str, STRENGTHS))}, and as many healthy twins",
        ("kind", "cases", "found", "false", "precision", "recall", "top-1 culprit"),
    )
    report = common.Report([table])
    for kind, score in judge.scores.items():
        if not score.cases:
            continue
        precision = score.hits / max(1, score.hits + score.false)
        recall, first = score.hits / score.cases, score.firsts / score.cases
        table.rows.append([kind, score.cases, score.hits, score.false, precision, recall, first])
        report.bounds += [
            common.Bound(f"{kind}, precision", precision, 0.95, at_least=True),
            common.Bound(f"{kind}, recall", recall, 0.9, at_least=True),
            common.Bound(f"{kind}, top-1 culprit", first, 0.9, at_least=True),
        ]
    if clean is not None:
        report.bounds.append(common.Bound("clean spans", clean.spans, options.clean, at_least=True))
        report.bounds.append(common.Bound("false findings in them", len(clean.findings), 1))
        judge.wrong += [f"CLEAN {found.kind} {found.culprit}: {found.evidence}" for found in clean.findings]
    print("\n".join(judge.wrong), file=sys.stderr)
    return report.finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
