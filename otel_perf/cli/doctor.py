"""``otel-perf doctor``: what is on and why, and what needs mending, each with its remedy."""

from __future__ import annotations

import difflib
import importlib.util
import os
import platform
import sys
from datetime import datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

import otel_perf
from otel_perf.cli import BAD, GOOD, options, text
from otel_perf.core.errors import OtelPerfError, StoreError
from otel_perf.core.exporters import OTLP, SIGNALS, exporter_names, names_endpoint
from otel_perf.core.rollout import Rollout
from otel_perf.core.settings import PREFIX, load
from otel_perf.distro import NAME, switched_off
from otel_perf.environment_variables import names
from otel_perf.features import discover

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from otel_perf.core.home import Home
    from otel_perf.store.destination import Destination

# Libraries that are here because we need them, whatever the app uses.
_OURS: Final = frozenset({"psutil", "pydantic", "requests", "urllib3"})
_ITEMS: Final = {"traces": "spans", "metrics": "collections of metrics", "logs": "log records"}


_PATIENCE: Final = 3.0  # seconds that a receiver has to answer here
_REMEDIES: Final = {
    "401": "set OTEL_EXPORTER_OTLP_HEADERS to what the receiver wants, like api-key=…",
    "403": "set OTEL_EXPORTER_OTLP_HEADERS to what the receiver wants, like api-key=…",
    "404": "correct the path: OTEL_EXPORTER_OTLP_ENDPOINT gets /v1/traces and so on appended, a signal's own does not",
}


class Finding(BaseModel):
    """Something that needs mending, and how."""

    problem: str
    remedy: str


class FeatureState(BaseModel):
    """One feature: ``on``, ``off`` or a percentage, and what decided."""

    name: str
    state: str
    because: str


class Sending(BaseModel):
    """One signal's receiver, and what it answered to an empty request."""

    signal: str
    place: str
    protocol: str
    answer: str
    taken: bool


class Diagnosis(BaseModel):
    """All that ``otel-perf doctor`` shows; the schema of its ``--json``."""

    versions: dict[str, str]
    distro: list[str]
    configurator: list[str]
    features: list[FeatureState]
    exporters: dict[str, list[str]]
    sending: list[Sending]
    home: str
    store: dict[str, Any]
    instrumentors: list[str]
    missing_here: list[str]
    findings: list[Finding]


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
    print(diagnosis.model_dump_json(indent=2) if arguments.json else render(diagnosis))
    return BAD if diagnosis.findings else GOOD


def diagnose(environ: Mapping[str, str], home: Home) -> Diagnosis:
    """Look at the environment that a program started here would have."""
    findings: list[Finding] = []
    _variables(environ, findings)
    return Diagnosis(
        versions=_versions(),
        distro=_choice("opentelemetry_distro", "OTEL_PYTHON_DISTRO", environ, findings),
        configurator=_choice("opentelemetry_configurator", "OTEL_PYTHON_CONFIGURATOR", environ, findings),
        features=_features(environ, findings),
        exporters={signal: _exporters(environ, signal, findings) for signal in SIGNALS},
        sending=_destinations(environ, findings),
        home=str(home.path),
        store=_store(home, findings),
        instrumentors=_instrumentors(findings),
        missing_here=_missing_on_this_platform(),
        findings=findings,
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
    known = names()
    for name in sorted(environ):
        if name.startswith(f"{PREFIX}_") and name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
            remedy = f"did you mean {near[0]}?" if near else "see docs/configuration.md for the names"
            findings.append(Finding(problem=f"{name} is no variable of otel-perf", remedy=remedy))


def _destinations(environ: Mapping[str, str], findings: list[Finding]) -> list[Sending]:
    """Where stored telemetry goes from here, and whether somebody takes it there now."""
    from otel_perf.store.destination import resolve
    from otel_perf.store.local import LocalReceiver

    def say(line: str) -> None:
        findings.append(Finding(problem=line, remedy="correct it; see otel-perf's docs/configuration.md"))

    through_store = [signal for signal in SIGNALS if not OTLP.isdisjoint(exporter_names(environ, signal))]
    if environ.get("OTEL_CONFIG_FILE") or not through_store:
        return []
    if not names_endpoint(environ):
        receiver = LocalReceiver(environ, lambda _url: None)
        if not receiver.find():
            return []
        found = [destination for destination in receiver.destinations if destination.signal in through_store]
    else:
        resolved = [resolve(environ, signal, say) for signal in through_store]
        found = [destination for destination in resolved if destination is not None]
    sendings = [_try(destination) for destination in found]
    troubles: dict[str, list[Sending]] = {}
    for sending in sendings:
        if not sending.taken:
            troubles.setdefault(sending.answer, []).append(sending)
    for answer, failed in troubles.items():
        remedy = _REMEDIES.get(answer[:3], "start the receiver, or correct OTEL_EXPORTER_OTLP_ENDPOINT")
        if "extra" in answer:
            remedy = "pip install 'otel-perf[grpc]', or export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
        places = ", ".join(dict.fromkeys(sending.place for sending in failed))
        findings.append(Finding(problem=f"{places} does not take what is sent: {answer}", remedy=remedy))
    return sendings


def _try(destination: Destination) -> Sending:
    from otel_perf.store.sender import connect

    try:
        sender = connect(destination)
        try:
            answer = sender.send(b"", min(destination.timeout, _PATIENCE))
        finally:
            sender.close()
        detail, taken = answer.detail, answer.verdict == "accepted"
    except OtelPerfError as error:
        detail, taken = str(error), False
    return Sending(
        signal=destination.signal, place=destination.place, protocol=destination.protocol, answer=detail, taken=taken
    )


def _choice(group: str, variable: str, environ: Mapping[str, str], findings: list[Finding]) -> list[str]:
    """The entry points that upstream would choose from, the chosen one first."""
    names = list(dict.fromkeys(point.name for point in metadata.entry_points(group=group)))
    kind = group.removeprefix("opentelemetry_")
    wanted = environ.get(variable, "").strip()
    if wanted and wanted not in names:
        findings.append(
            Finding(
                problem=f"{variable}={wanted} names no installed {kind}, so that nothing starts",
                remedy=f"export {variable}={NAME}",
            )
        )
    elif wanted and wanted != NAME:
        findings.append(
            Finding(problem=f"{variable}={wanted} chooses another {kind}", remedy=f"export {variable}={NAME}")
        )
    elif not wanted and len(names) > 1:
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


def _features(environ: Mapping[str, str], findings: list[Finding]) -> list[FeatureState]:
    rollout = Rollout(environ)
    off = switched_off(environ)
    states = []
    for feature in discover():
        decision = rollout.decide(feature.name)
        _, problems = load(feature.settings_type, feature.name, environ)
        for problem in problems:
            findings.append(Finding(problem=str(problem), remedy=f"unset {problem.variable}, or correct it"))
        state = "off" if off or decision.share == 0 else "on" if decision.share >= 1 else f"{decision.share:.0%}"
        states.append(FeatureState(name=feature.name, state=state, because=off or decision.source))
    for problem in rollout.problems:
        findings.append(Finding(problem=str(problem), remedy=f"correct {problem.variable}"))
    return states


def _exporters(environ: Mapping[str, str], signal: str, findings: list[Finding]) -> list[str]:
    chosen = exporter_names(environ, signal)
    known = set(metadata.entry_points(group=f"opentelemetry_{signal}_exporter").names)
    for name in chosen:
        if name not in known and name not in OTLP:
            findings.append(
                Finding(
                    problem=f"OTEL_{signal.upper()}_EXPORTER names {name!r}, which is not installed",
                    remedy=f"pip install the package of that exporter; installed: {', '.join(sorted(known)) or 'none'}",
                )
            )
    off = switched_off(environ) or Rollout(environ).decide("store").share == 0
    kept = "nowhere (store is off)" if off else "store"
    return [kept if name in OTLP else name for name in chosen]


def _store(home: Home, findings: list[Finding]) -> dict[str, Any]:
    from otel_perf.core.home import STORE_FILE
    from otel_perf.store.database import StoreReader

    parent = home.path
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        findings.append(
            Finding(
                problem=f"{home.path} cannot be written: a temporary folder is used",
                remedy="export OTEL_PERF_HOME=/a/folder",
            )
        )
    folder = home.with_file(STORE_FILE)
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
                Finding(problem=f"the store was full and dropped {dropped}", remedy="raise OTEL_PERF_STORE_LIMIT")
            )
        pending = {signal: items for signal, (_, items) in store.pending().items()}
        refused = store.refused()
        for signal, batches, items, reason in refused:
            findings.append(
                Finding(
                    problem=f"{items} {signal} items in {batches} batches were refused: {reason}",
                    remedy=f"look at them: otel-perf export --refused --signal {signal}",
                )
            )
        return {
            "state": "ready",
            "folder": str(folder),
            "size": store.size(),
            "pending": pending,
            "dropped": dropped,
            "refused": {signal: items for signal, _, items, _ in refused},
            "deliveries": [delivery._asdict() for delivery in store.deliveries()],
        }
    finally:
        store.close()


def _instrumentors(findings: list[Finding]) -> list[str]:
    """Instrumentors that are installed; a finding for libraries that have none."""
    installed = sorted(point.name for point in metadata.entry_points(group="opentelemetry_instrumentor"))
    missing = []
    try:
        from opentelemetry.instrumentation.bootstrap_gen import libraries
    except ImportError:
        return installed
    for entry in libraries:
        library = entry["library"].split()[0].split("=")[0].split(">")[0].split("<")[0].split("~")[0].split("[")[0]
        package = entry["instrumentation"].split("==")[0].strip()
        if library not in _OURS and _has(library) and not _has(package):
            missing.append(package)
    missing = sorted(set(missing))
    if missing:
        findings.append(
            Finding(
                problem=f"{len(missing)} libraries here have no instrumentor: no spans from them",
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
    if not hasattr(os, "register_at_fork"):
        missing.append("no fork")
    if importlib.util.find_spec("sqlite3") is None:
        missing.append("no sqlite3: nothing can be stored")
    return missing


def render(diagnosis: Diagnosis) -> str:
    """The diagnosis as text."""
    lines = [", ".join(f"{name} {version}" for name, version in diagnosis.versions.items()), ""]
    lines += [f"Distro        {', '.join(diagnosis.distro) or 'none'}"]
    lines += [f"Configurator  {', '.join(diagnosis.configurator) or 'none'}"]
    lines += [f"Instrumentors {', '.join(diagnosis.instrumentors) or 'none'}"]
    sent = ", ".join(f"{signal} → {' + '.join(names) or 'nowhere'}" for signal, names in diagnosis.exporters.items())
    lines += [f"Exporters     {sent}"]
    lines += [f"Store         {diagnosis.store.get('folder', diagnosis.home)}: {_store_line(diagnosis.store)}"]
    lines += [f"Sending       {line}" for line in _sending_lines(diagnosis)]
    lines += [f"Missing here  {item}" for item in diagnosis.missing_here]
    lines += ["", "Features"]
    lines += text.table(
        ["NAME", "STATE", "BECAUSE OF"], [[f.name, f.state, f.because] for f in diagnosis.features], left=(0, 1, 2)
    )
    if not diagnosis.findings:
        return "\n".join([*lines, "", "All is well."])
    lines += ["", f"To mend: {len(diagnosis.findings)}"]
    for finding in diagnosis.findings:
        lines += [f"  ✗ {finding.problem}", f"    {finding.remedy}"]
    return "\n".join(lines)


def _store_line(store: dict[str, Any]) -> str:
    if store["state"] != "ready":
        return str(store["state"])
    pending = ", ".join(f"{items:,} {_ITEMS[signal]}" for signal, items in store["pending"].items())
    return f"{text.size(store['size'])}, {f'{pending} to send' if pending else 'empty'}"


def _sending_lines(diagnosis: Diagnosis) -> list[str]:
    lines = [
        f"{sending.signal} → {sending.place} ({sending.protocol}): {sending.answer}" for sending in diagnosis.sending
    ]
    for delivery in diagnosis.store.get("deliveries", ()):
        when = datetime.fromtimestamp(delivery["at"] / 1e9)
        went = f"failed: {delivery['error']}" if delivery["error"] else "was taken"
        lines.append(f"since {when:%Y-%m-%d %H:%M:%S} what goes to {delivery['place']} {went}")
    return lines or ["nowhere: no endpoint is named, and no receiver answers on localhost"]
