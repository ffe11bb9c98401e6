"""What ``otel-perf doctor`` sees around the program: memory, clock, sampling, versions, servers that fork."""

from __future__ import annotations

import contextlib
import time
from importlib import metadata
from typing import TYPE_CHECKING, Final

from otel_perf.cli import text
from otel_perf.cli.diagnosis import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_perf.cli.diagnosis import Sending

CLOCK_OFF: Final = 5.0  # seconds; HTTP's dates are of whole ones, and an answer takes a while
_NOTHING: Final = frozenset({"always_off", "parentbased_always_off"})
_RATIO: Final = frozenset({"traceidratio", "parentbased_traceidratio"})
_FORKS: Final = ("uwsgi", "pyuwsgi")


def memory_limit(environ: Mapping[str, str], findings: list[Finding]) -> str:
    """The limit that the memory feature would go by, and where it was found."""
    from otel_perf.core.settings import parse_size
    from otel_perf.memory.limits import find

    setting = None
    with contextlib.suppress(ValueError):  # told with the other settings
        raw = environ.get("OTEL_PERF_MEMORY_LIMIT", "").strip()
        setting = parse_size(raw) if raw else None
    limit = find(setting)
    if limit is None:
        return "none found"
    machine = find(None)
    if setting and machine is not None and setting > machine.size:
        findings.append(
            Finding(
                problem=f"OTEL_PERF_MEMORY_LIMIT is {text.size(setting)}, and without effect: {machine.source}"
                f" allows {text.size(machine.size)}",
                remedy="unset OTEL_PERF_MEMORY_LIMIT",
            )
        )
    return f"{text.size(limit.size)}, from {limit.source}"


def sampling(environ: Mapping[str, str], findings: list[Finding]) -> str:
    """Which traces are recorded."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip() or "parentbased_always_on"
    raw = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    share: float | None = 1.0
    if name in _RATIO:
        try:
            share = float(raw or 1)
        except ValueError:
            share = None
        if share is None or not 0 <= share <= 1:
            findings.append(
                Finding(
                    problem=f"OTEL_TRACES_SAMPLER_ARG={raw} is no share: upstream records everything",
                    remedy="export OTEL_TRACES_SAMPLER_ARG=0.1, for every tenth trace",
                )
            )
            share = 1.0
    elif name in _NOTHING:
        share = 0.0
    elif name not in {"always_on", "parentbased_always_on"}:
        return name
    if share == 0:
        findings.append(
            Finding(
                problem=f"OTEL_TRACES_SAMPLER={f'{name} {raw}'.rstrip()} records no trace: no span, no finding",
                remedy="unset OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG",
            )
        )
    return f"{name}: {share:.0%} of the traces that begin here"


def clock(sent: list[Sending], newest_ns: int, findings: list[Finding]) -> str:
    """How far the clock is from that of a receiver over HTTP, and whether it went back since something was stored."""
    ahead = newest_ns / 1e9 - time.time()
    if ahead > CLOCK_OFF:
        findings.append(
            Finding(
                problem=f"the newest that is stored is from {text.seconds(ahead)} in the future: the clock went back",
                remedy="set the clock: timedatectl set-ntp true",
            )
        )
    for sending in sent:
        off = _against(sending.place) if sending.protocol != "grpc" and sending.taken else None
        if off is None:
            continue
        if abs(off) > CLOCK_OFF:
            which = "ahead of" if off > 0 else "behind"
            findings.append(
                Finding(
                    problem=f"the clock is {text.seconds(abs(off))} {which} that of {sending.place}",
                    remedy="set the clock: timedatectl set-ntp true",
                )
            )
        return f"{'agrees with' if abs(off) <= CLOCK_OFF else 'differs from'} that of {sending.place}"
    return "not compared: no receiver over HTTP answers"


def _against(place: str) -> float | None:
    """Seconds that this machine's clock is ahead of the one behind ``place``; ``None`` where that does not say."""
    from email.utils import parsedate_to_datetime

    import urllib3

    with contextlib.suppress(Exception):  # whatever is wrong there was told by the request that was sent
        before = time.time()
        answer = urllib3.request("GET", place, timeout=2.0, retries=False, redirect=False)
        date = answer.headers.get("Date")
        if date:
            return (before + time.time()) / 2 - parsedate_to_datetime(date).timestamp() - 0.5
    return None


def conflicts(findings: list[Finding]) -> None:
    """Packages of OpenTelemetry that need another version of something than the one that is installed."""
    from packaging.requirements import InvalidRequirement, Requirement

    seen = set()
    for package in metadata.distributions():
        name = (package.metadata["Name"] or "").lower().replace("_", "-")
        if not name.startswith("opentelemetry-") or name in seen:
            continue
        seen.add(name)
        for raw in package.requires or ():
            with contextlib.suppress(InvalidRequirement, metadata.PackageNotFoundError):
                needs = Requirement(raw)
                extra = "instruments" in raw.partition(";")[2]  # the library that it instruments
                if needs.marker and not (extra or needs.marker.evaluate({"extra": ""})):
                    continue
                found = metadata.version(needs.name)
                if not needs.specifier.contains(found, prereleases=True):
                    wanted = f"{needs.name}{needs.specifier}"
                    why = ": it does not instrument it" if extra else ""
                    findings.append(
                        Finding(
                            problem=f"{name} {package.version} needs {wanted}, and {found} is installed{why}",
                            remedy=f"pip install '{wanted}'" if extra else f"pip install --upgrade {name} '{wanted}'",
                        )
                    )


def servers(environ: Mapping[str, str], findings: list[Finding]) -> None:
    """Servers that fork without telling Python, so that threads and connections are not made again in the child."""
    for name in _FORKS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(name)
            missing = list(_unset(environ))
            if missing:
                findings.append(
                    Finding(
                        problem=f"{name} is installed, and forks workers in which nothing of ours runs, and which may"
                        f" stand still, without {' and '.join(missing)}",
                        remedy=f"uwsgi {' '.join(f'--{option}' for option in missing)} …, or export"
                        f" {' '.join(f'{_variable(option)}=true' for option in missing)}",
                    )
                )


def _unset(environ: Mapping[str, str]) -> Iterator[str]:
    for option in ("enable-threads", "py-call-osafterfork"):
        if environ.get(_variable(option), "").lower() not in {"true", "1", "yes", "on"}:
            yield option


def _variable(option: str) -> str:
    return f"UWSGI_{option.upper().replace('-', '_')}"
