"""``otel-perf doctor``: what is on and why, and what needs mending, each with its remedy."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import platform
import re
import shlex
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import otel_perf
from otel_perf import environment_variables
from otel_perf.bottlenecks import detectors, frames
from otel_perf.cli import BAD, GOOD, homes, options, requirements, surroundings, tell, text
from otel_perf.cli.diagnosis import Diagnosis, FeatureState, Finding, render
from otel_perf.cli.receivers import sendings
from otel_perf.core.errors import StoreError
from otel_perf.core.exporters import OTLP, SIGNALS, exporter_names
from otel_perf.core.rollout import Rollout
from otel_perf.core.settings import PREFIX, load
from otel_perf.distro import NAME, switched_off
from otel_perf.features import discover

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from otel_perf.core.home import Home

# What brings an exporter that upstream's documents name.
_BRINGS: Final = {
    "prometheus": "opentelemetry-exporter-prometheus",
    "zipkin_json": "opentelemetry-exporter-zipkin-json",
}
# Libraries that are here because we need them, whatever the app uses.
_OURS: Final = frozenset({"grpcio", "psutil", "pydantic", "requests", "urllib3"})
# The same of the extra view, as long as nothing else that is installed needs them.
_OF_VIEW: Final = frozenset({"click", "starlette"})


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    parser.add_argument("--home", type=_path, help="home folder (default: $OTEL_PERF_HOME or .otel-perf)")
    options.add_json(parser)


def _path(value: str) -> Path:
    from pathlib import Path

    return Path(value)


def execute(arguments: argparse.Namespace) -> int:
    """Print the diagnosis; 1 if something needs mending."""
    diagnosis = diagnose(os.environ, options.home_of(arguments))
    for finding in (*diagnosis.findings, *diagnosis.hints):
        finding.remedy = requirements.installed_here(finding.remedy)
    shown = diagnosis.model_dump_json(indent=2) if arguments.json else render(diagnosis)
    return tell(shown, BAD if diagnosis.findings else GOOD)


def diagnose(environ: Mapping[str, str], home: Home) -> Diagnosis:
    """Look at the environment that a program started here would have."""
    findings: list[Finding] = []
    hints: list[Finding] = []
    _variables(environ, findings)
    for told, problems in zip((findings, hints), requirements.conflicts(), strict=True):
        told += [Finding(problem=problem, remedy=remedy) for problem, remedy in problems]
    surroundings.servers(environ, hints)
    instrumentors = _instrumentors(hints)
    surroundings.disabled(environ, instrumentors, hints)
    sending = sendings(environ, findings, hints)
    store = _store(home, findings)
    return Diagnosis(
        versions=_versions(),
        distro=_choice("opentelemetry_distro", "OTEL_PYTHON_DISTRO", environ, findings),
        configurator=_choice("opentelemetry_configurator", "OTEL_PYTHON_CONFIGURATOR", environ, findings),
        features=_features(environ, findings, hints),
        exporters={signal: _exporters(environ, signal, findings) for signal in SIGNALS},
        sending=sending,
        declared=surroundings.declared(environ, findings),
        home=str(home.path),
        store=store,
        memory_limit=surroundings.memory_limit(environ, hints),
        sampling=surroundings.sampling(environ, findings, hints),
        clock=surroundings.clock(sending, int(store.get("newest", 0)), findings),
        instrumentors=instrumentors,
        missing_here=_missing_on_this_platform(),
        findings=findings,
        hints=hints,
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "otel-perf": otel_perf.__version__}
    for name in ("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-instrumentation", "protobuf", "pydantic"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def _variables(environ: Mapping[str, str], findings: list[Finding]) -> None:
    """Names that look like ours and are none."""
    ours = [name for name in vars(environment_variables) if name.startswith(PREFIX)]
    known = [*ours, *detectors.variables()]
    for name in sorted(environ):
        if name.startswith("OTEL_") and not name.startswith(f"{PREFIX}_"):
            _upstream_variable(name, findings)
        if name.startswith(f"{PREFIX}_") and name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
            remedy = f"did you mean {near[0]}?" if near else "see docs/configuration.md for the names"
            findings.append(Finding(problem=f"{name} is no variable of otel-perf", remedy=remedy))


def _choice(group: str, variable: str, environ: Mapping[str, str], findings: list[Finding]) -> list[str]:
    """The entry points that upstream would choose from, the chosen one first."""
    names = list(dict.fromkeys(point.name for point in metadata.entry_points(group=group)))
    kind = group.removeprefix("opentelemetry_")
    # As it is written: upstream compares it with the names, also an empty one.
    raw = environ.get(variable)
    wanted = (raw or "").strip()
    if raw is not None and raw not in names:
        starts = "nothing starts" if kind == "configurator" else "instrumentors start that features of ours replace"
        findings.append(
            Finding(
                problem=f"{variable}={raw if raw and raw == wanted else repr(raw)} names no installed {kind}, so that"
                f" {starts}",
                remedy=f"export {variable}={wanted if wanted in names else NAME}",
            )
        )
    elif wanted and wanted != NAME:
        findings.append(
            Finding(problem=f"{variable}={wanted} chooses another {kind}", remedy=f"export {variable}={NAME}")
        )
    elif not wanted and len(names) > 1 and not (kind == "configurator" and environ.get("OTEL_PYTHON_DISTRO") == NAME):
        findings.append(
            Finding(
                problem=f"{len(names)} {kind}s are installed ({', '.join(names)}); which one starts is left to chance",
                remedy=f"export {variable}={NAME}, or start with: otel-perf run …",
            )
        )
    if NAME not in names:
        findings.append(
            Finding(problem=f"otel-perf's {kind} is not registered", remedy="pip install --force-reinstall otel-perf")
        )
    return sorted(names, key=lambda name: name != (wanted or NAME))


def _features(environ: Mapping[str, str], findings: list[Finding], hints: list[Finding]) -> list[FeatureState]:
    rollout = Rollout(environ)
    off = switched_off(environ)
    states = []
    for feature in discover():
        decision = rollout.decide(feature.name)
        _, problems = load(feature.settings_type, feature.name, environ)
        if feature.name == "bottlenecks":
            problems += detectors.load_all(environ)[1]
        for problem in problems:
            findings.append(Finding(problem=str(problem), remedy=f"unset {problem.variable}, or correct it"))
        share = text.percent(decision.share)
        state = "off" if off or decision.share == 0 else "on" if decision.share >= 1 else share
        if feature.name == "store" and state == "off" and not off:
            said = f"store is off by {decision.source}: nothing is kept, and nothing sent from it"
            hints.append(Finding(problem=said, remedy="turn it on there"))
        states.append(FeatureState(name=feature.name, state=state, because=off or decision.source))
    if off:
        hints.append(Finding(problem=f"everything is off by {off}", remedy=f"unset {off.partition('=')[0]}"))
    for problem in rollout.problems:
        findings.append(Finding(problem=str(problem), remedy=f"correct {problem.variable}"))
    return states


def _upstream_variable(name: str, findings: list[Finding]) -> None:
    """A name that is nearly one of OpenTelemetry's."""
    points = metadata.entry_points(group="opentelemetry_environment_variables")
    known: list[str] = []
    for point in points:
        with contextlib.suppress(Exception):  # somebody else's module
            known += [key for key in vars(point.load()) if key.startswith("OTEL_")]
    near = difflib.get_close_matches(name, known, 1, cutoff=0.93)
    if near and name not in known:
        findings.append(Finding(problem=f"{name} is no variable of OpenTelemetry", remedy=f"did you mean {near[0]}?"))


def _exporters(environ: Mapping[str, str], signal: str, findings: list[Finding]) -> list[str]:
    chosen = exporter_names(environ, signal)
    known = set(metadata.entry_points(group=f"opentelemetry_{signal}_exporter").names)
    for name in chosen:
        if name not in known and name not in OTLP:
            variable = f"OTEL_{signal.upper()}_EXPORTER"
            brings, here = _BRINGS.get(name, "the package that has it"), ", ".join(sorted(known)) or "none"
            findings.append(
                Finding(
                    problem=f"{variable} names {name!r}, which is not installed",
                    remedy=f"pip install {brings}, or export {variable}=otlp; installed: {here}",
                )
            )
    off = switched_off(environ) or Rollout(environ).decide("store").share == 0
    kept = "nowhere (store is off)" if off else "store"
    return [kept if name in OTLP else name for name in chosen]


def _store(home: Home, findings: list[Finding]) -> dict[str, Any]:
    from otel_perf.core.home import STORE_FILE
    from otel_perf.store.database import StoreReader
    from otel_perf.store.destination import mark

    unusable = homes.unusable(home)
    findings += [unusable] if unusable else []
    try:
        folder = home.with_file(STORE_FILE)
    except OSError:  # it may not be entered
        return {"state": "unreadable"}
    _left_behind(home.fallback_with(STORE_FILE), folder, findings)
    if not (folder / STORE_FILE).exists():
        return {"state": "not made yet"}
    try:
        store = StoreReader(folder)
    except StoreError as error:
        findings.append(Finding(problem=str(error), remedy=f"move {folder / STORE_FILE} away; a new one is made"))
        return {"state": "unreadable"}
    try:
        dropped = {signal: items for signal, (_, items) in store.dropped().items()}
        if any(dropped.values()):
            findings.append(
                Finding(
                    problem=f"the store was full and dropped {_counted(dropped)}", remedy="raise OTEL_PERF_STORE_LIMIT"
                )
            )
        pending = {signal: items for signal, (_, items) in store.pending().items()}
        for place, items in store.waiting_for_others(mark(os.environ)).items():
            findings.append(
                Finding(
                    problem=f"{items:,} items wait for {place or 'an endpoint'}, which is not set here",
                    remedy="a program of that service with an endpoint set sends them",
                )
            )
        refused = store.refused()
        for signal, batches, items, reason in refused:
            findings.append(
                Finding(
                    problem=f"{items} {signal} items in {batches} batches were refused: {reason}",
                    remedy=f"look at them: otel-perf export --refused --signal {signal}{_elsewhere(home)}",
                )
            )
        return {
            "state": "ready",
            "folder": str(folder),
            "size": store.size(),
            "newest": store.newest(),
            "pending": pending,
            "dropped": dropped,
            "refused": {signal: items for signal, _, items, _ in refused},
            "deliveries": [delivery._asdict() for delivery in store.deliveries()],
        }
    finally:
        store.close()


def _elsewhere(home: Home) -> str:
    """The option for a command that is to read this home, where it is not the one that it would read by itself."""
    return "" if type(home)(os.environ).path == home.path else f" --home {shlex.quote(str(home.path))}"


def _counted(items: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} items of {signal}" for signal, count in items.items() if count)


def _left_behind(fallback: Path | None, folder: Path, findings: list[Finding]) -> None:
    """What was stored while the home could not be used is not sent from there by itself."""
    from otel_perf.store.database import StoreReader

    if fallback is None or fallback == folder:
        return
    try:
        store = StoreReader(fallback)
        pending = {signal: items for signal, (_, items) in store.pending().items()}
        store.close()
    except StoreError:
        return
    if any(pending.values()):
        command = "opentelemetry-instrument python -c 'import time; time.sleep(5)'"
        findings.append(
            Finding(
                problem=f"{fallback} holds {_counted(pending)}, from when {folder} could not be used",
                remedy=f"read or send it from there: export OTEL_PERF_HOME={fallback}; otel-perf report; {command}",
            )
        )


def _instrumentors(findings: list[Finding]) -> list[str]:
    """Instrumentors that are installed; a finding for libraries that have none."""
    installed = sorted(point.name for point in metadata.entry_points(group="opentelemetry_instrumentor"))
    missing = []
    try:
        from opentelemetry.instrumentation.bootstrap_gen import libraries
    except ImportError:
        return installed
    for entry in libraries:
        library = re.split(r"[^\w.-]", entry["library"], maxsplit=1)[0]
        wanted = entry["instrumentation"].replace(" ", "")
        package = re.split(r"[^\w.-]", wanted, maxsplit=1)[0]
        if library in _OURS or not _has(library) or _has(package) or not requirements.fits(entry["library"]):
            continue  # for another version of its library it would do nothing, and be the next finding
        if library not in _OF_VIEW or requirements.needed_by(library) - {requirements.OWN, "uvicorn"}:
            # Of the version that fits what is here: the newest would bring another API than the SDK's.
            missing.append(shlex.quote(wanted))
    missing = sorted(set(missing))
    if missing:
        findings.append(
            Finding(
                problem=f"libraries here without an instrumentor, hence without spans: {len(missing)}",
                remedy=f"pip install {' '.join(missing)}",
            )
        )
    return installed


def _has(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _missing_on_this_platform() -> list[str]:
    missing = []
    if not sys.platform.startswith("linux"):
        missing.append("memory is read through psutil, not /proc")
    if not frames.SEEN:
        missing.append(
            "no stacks of other threads, so that most findings have no line: a C compiler at installation helps"
        )
    if not hasattr(os, "register_at_fork"):
        missing.append("no fork")
    if importlib.util.find_spec("sqlite3") is None:
        missing.append("no sqlite3: nothing can be stored")
    return missing
