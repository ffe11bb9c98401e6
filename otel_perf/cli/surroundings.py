"""What ``otel-perf doctor`` sees around the program: memory, clock, sampling, versions, servers that fork."""

from __future__ import annotations

import contextlib
import difflib
import time
from importlib import metadata
from typing import TYPE_CHECKING, Final

from otel_perf.cli import text
from otel_perf.cli.diagnosis import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_perf.cli.diagnosis import Sending

CLOCK_OFF: Final = 5.0  # seconds; HTTP's dates are of whole ones, and an answer takes a while
_USUAL: Final = "parentbased_always_on"
_SAMPLERS: Final = "opentelemetry_traces_sampler"
_ALL: Final = frozenset({"always_on", _USUAL})
_NOTHING: Final = frozenset({"always_off", "parentbased_always_off"})
_RATIO: Final = frozenset({"traceidratio", "parentbased_traceidratio"})
_FORKS: Final = ("uwsgi", "pyuwsgi")
_HOOKS_SINCE: Final = "2.0.27"  # before, its hooks told Python of a fork only afterwards


def declared(environ: Mapping[str, str], findings: list[Finding]) -> str:
    """The file that says where telemetry goes, if the program could use it; else it goes by the environment."""
    path = environ.get("OTEL_CONFIG_FILE", "")
    if not path:
        return ""
    remedy = "correct the file, or unset OTEL_CONFIG_FILE"
    try:
        from opentelemetry.configuration import load_config_file

        load_config_file(path)
    except ImportError:
        why, remedy = "opentelemetry-configuration is not installed", "pip install opentelemetry-configuration"
    except Exception as error:  # upstream raises what its parser raises
        why = (str(error) or repr(error)).splitlines()[0]
    else:
        return path
    problem = f"OTEL_CONFIG_FILE={path} cannot be used ({why}): the environment is used"
    if all(finding.problem != problem for finding in findings):
        findings.append(Finding(problem=problem, remedy=remedy))
    return ""


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


def sampling(environ: Mapping[str, str], findings: list[Finding], hints: list[Finding]) -> str:
    """Which traces are recorded."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip()
    raw = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    known = sorted({*_ALL, *_NOTHING, *_RATIO, *metadata.entry_points(group=_SAMPLERS).names})
    if name and name not in known:
        near = difflib.get_close_matches(name.lower(), known, 1) or ["parentbased_traceidratio"]
        as_well = " OTEL_TRACES_SAMPLER_ARG=0.1" if near[0] in _RATIO and _ratio(raw) is None else ""
        findings.append(
            Finding(
                problem=f"OTEL_TRACES_SAMPLER={name} is no sampler that is installed; allowed: {', '.join(known)};"
                f" {_USUAL} is used",
                remedy=f"export OTEL_TRACES_SAMPLER={near[0]}{as_well}",
            )
        )
        name = raw = ""
    name = name or _USUAL
    share = 1.0
    if name in _RATIO:
        share = _share(raw, findings)
    elif name in _NOTHING:
        share = 0.0
    elif name not in _ALL:
        return name
    elif raw:
        hints.append(
            Finding(
                problem=f"OTEL_TRACES_SAMPLER_ARG={raw} is without effect: {name} records everything",
                remedy="export OTEL_TRACES_SAMPLER=parentbased_traceidratio, or unset OTEL_TRACES_SAMPLER_ARG",
            )
        )
    if share == 0:
        findings.append(
            Finding(
                problem=f"OTEL_TRACES_SAMPLER={f'{name} {raw}'.rstrip()} records no trace: no span, no finding",
                remedy="unset OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG",
            )
        )
    return f"{name}: {text.percent(share)} of the traces that begin here"


def _share(raw: str, findings: list[Finding]) -> float:
    """The argument of a sampler that takes a ratio; everything where it is none, as upstream has it."""
    share = _ratio(raw)
    if share is not None:
        return share
    findings.append(
        Finding(
            problem=f"OTEL_TRACES_SAMPLER_ARG={raw} is no ratio; allowed: 0.0 to 1.0; everything is recorded",
            remedy="export OTEL_TRACES_SAMPLER_ARG=0.1, for every tenth trace",
        )
    )
    return 1.0


def _ratio(raw: str) -> float | None:
    with contextlib.suppress(ValueError):
        share = float(raw)
        return share if 0 <= share <= 1 else None
    return None


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
    compared = {_origin(sending.place): sending for sending in sent if sending.ahead is not None}
    differs = {place: sending for place, sending in compared.items() if abs(sending.ahead or 0.0) > CLOCK_OFF}
    for sending in differs.values():
        off = sending.ahead or 0.0
        which = "ahead of" if off > 0 else "behind"
        findings.append(
            Finding(
                problem=f"the clock is {text.seconds(abs(off))} {which} that of {sending.place}",
                remedy="set the clock: timedatectl set-ntp true",
            )
        )
    for sending in (*differs.values(), *compared.values()):
        return f"{'differs from' if differs else 'agrees with'} that of {sending.place}"
    return "not compared: no receiver says over HTTP what time it is"


def _origin(place: str) -> str:
    """Of a URL: the signals of one receiver have the same clock."""
    return "/".join(place.split("/")[:3])


def disabled(environ: Mapping[str, str], installed: list[str], findings: list[Finding]) -> None:
    """Instrumentors that are left out, and names that are nearly one of those that were to be."""
    variable = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    names = [name for name in (part.strip() for part in environ.get(variable, "").split(",")) if name]
    if "*" in names:
        findings.append(Finding(problem=f"{variable}=* leaves out every instrumentor", remedy=f"unset {variable}"))
        return
    for name in names:
        near = difflib.get_close_matches(name, installed, 1, cutoff=0.8)
        if near and name not in installed:
            problem = f"{variable}: {name} is no instrumentor that is installed, and leaves out nothing"
            findings.append(Finding(problem=problem, remedy=f"did you mean {near[0]}?"))


def servers(environ: Mapping[str, str], findings: list[Finding]) -> None:
    """Servers that fork without telling Python, so that threads and connections are not made again in the child.

    uWSGI's older ``--py-call-osafterfork`` is not enough: with it the master forks while another thread may run, and
    the worker waits for that thread, which it does not have, for ever.
    """
    from packaging.version import Version

    for name in _FORKS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
            if Version(version) < Version(_HOOKS_SINCE):
                findings.append(
                    Finding(
                        problem=f"{name} {version} is installed, and forks workers in which nothing of ours runs",
                        remedy=f"pip install --upgrade '{name}>={_HOOKS_SINCE}'",
                    )
                )
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
    for option in ("enable-threads", "py-call-uwsgi-fork-hooks"):
        if environ.get(_variable(option), "").lower() not in {"true", "1", "yes", "on"}:
            yield option


def _variable(option: str) -> str:
    return f"UWSGI_{option.upper().replace('-', '_')}"
