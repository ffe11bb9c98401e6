"""What ``opentelemetry-instrument`` calls: the distro and the configurator, and ``setup`` for by hand."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined]

from otel_perf.core.rollout import ENABLED_VARIABLE
from otel_perf.core.settings import parse_switch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.util._importlib_metadata import EntryPoint

    from otel_perf.pipeline import Pipeline

NAME: Final = "otel_perf"
_DISTRO: Final = "OTEL_PYTHON_DISTRO"
_CONFIGURATOR: Final = "OTEL_PYTHON_CONFIGURATOR"

_log = logging.getLogger("otel_perf")
_pipeline: Pipeline | None = None
_chose_configurator = False


def pipeline() -> Pipeline | None:
    """The running pipeline of this process, if there is one."""
    return _pipeline


def switched_off(environ: Mapping[str, str] = os.environ) -> str:
    """Why nothing at all is installed (``OTEL_SDK_DISABLED``, ``OTEL_PERF_ENABLED``), or an empty string."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "OTEL_SDK_DISABLED=true"
    value = environ.get(ENABLED_VARIABLE, "").strip()
    try:
        return f"{ENABLED_VARIABLE}={value}" if value and parse_switch(value) == 0.0 else ""
    except ValueError:
        return ""  # the roll-out names the wrong value


def is_own_command(words: Sequence[str] = sys.orig_argv) -> bool:
    """Whether the program is ``otel-perf`` itself, which an instrumented environment would have instrument itself.

    A health check of a container would answer its own question.
    """
    rest = iter(words[1:])
    for word in rest:
        if word == "-m":
            return next(rest, "") == "otel_perf"
        if word in {"-X", "-W"}:
            next(rest, "")
        elif not word.startswith("-"):
            return word.replace("\\", "/").rpartition("/")[2] in {"otel-perf", "otel-perf.exe"}
        elif word == "-c":
            return False
    return False


class PerfDistro(BaseDistro):  # type: ignore[misc]
    """Chooses our configurator, and leaves out the instrumentors that features of ours replace."""

    def _configure(self, **kwargs: Any) -> None:
        # Upstream chooses distro and configurator independently: with two distributions installed it
        # may take ours and somebody else's.
        global _chose_configurator
        _chose_configurator = _CONFIGURATOR not in os.environ
        chosen = os.environ.setdefault(_CONFIGURATOR, NAME)
        if chosen != NAME:
            _log.warning(
                "otel-perf: %s=%s configures another SDK than the distro otel_perf expects; set %s=%s",
                _CONFIGURATOR, chosen, _CONFIGURATOR, NAME,
            )  # fmt: skip

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Load one instrumentor, the way :mod:`otel_perf.instrumentors` says."""
        if not (switched_off() or is_own_command()):
            from otel_perf import instrumentors

            plainly = partial(super().load_instrumentor, entry_point, **kwargs)
            instrumentors.load(entry_point, _pipeline, plainly, **kwargs)


class PerfConfigurator:
    """Builds the SDK. Upstream instantiates it and calls :meth:`configure`."""

    def configure(self, *, auto_instrumentation_version: str = "", **_kwargs: Any) -> None:
        """Start the pipeline, once in a process."""
        global _pipeline
        if _chose_configurator:  # said to upstream in this process only: a child may have another distribution
            os.environ.pop(_CONFIGURATOR, None)
        if _pipeline is not None or switched_off() or is_own_command():
            return
        from otel_perf.pipeline import Pipeline

        chosen = os.environ.get(_DISTRO, NAME)
        if chosen != NAME:
            _log.warning(
                "otel-perf: %s=%s runs with the configurator of otel-perf; set %s=%s", _DISTRO, chosen, _DISTRO, NAME
            )
        from_file = _configure_from_file()
        started = Pipeline()
        _pipeline = started
        started.start(distro_version=auto_instrumentation_version, configure_from_file=from_file)
        _greet(started)


def _configure_from_file() -> bool:
    """Let upstream build the providers that ``OTEL_CONFIG_FILE`` declares; ``False`` if there are none."""
    path = os.environ.get("OTEL_CONFIG_FILE")
    if not path:
        return False
    theirs = logging.getLogger("opentelemetry.configuration")
    level = theirs.level
    theirs.setLevel(logging.CRITICAL + 1)  # it logs what it raises, over many lines
    try:
        from opentelemetry.sdk._configuration import _OTelSDKConfigurator

        _OTelSDKConfigurator().configure()  # type: ignore[no-untyped-call]
    except Exception as error:  # upstream raises what its parser and its exporters raise
        why = (str(error) or repr(error)).splitlines()[0]
        _log.warning("otel-perf: OTEL_CONFIG_FILE=%r cannot be used (%s); using the environment", path, why)
        return False
    finally:
        theirs.setLevel(level)
    return True


def _greet(started: Pipeline) -> None:
    """One line at the first start in a terminal; never into a pipe or a log file."""
    store = started.features.get("store")
    try:
        if store is None or not store.on or not sys.stderr.isatty() or started.home.path.exists():
            return
        where = os.path.relpath(started.home.path)
        print(f"otel-perf: on, store {where}; read it with: otel-perf report", file=sys.stderr)
    except (OSError, ValueError):
        pass  # stderr is closed, or the home is on another drive


def setup() -> None:
    """Do what ``opentelemetry-instrument`` does, from inside the program. Idempotent.

    Call it before the libraries that should be instrumented are used. Costs about 0.1 s.
    """
    if _pipeline is not None:
        return
    from opentelemetry.instrumentation.auto_instrumentation._load import _load_instrumentors

    distro = PerfDistro()
    distro.configure()
    PerfConfigurator().configure()
    if not switched_off():
        _load_instrumentors(distro)  # type: ignore[no-untyped-call]


def shutdown() -> None:
    """Flush, stop the SDK and undo every patch of ours. Instrumentors stay. Idempotent."""
    global _pipeline
    running, _pipeline = _pipeline, None
    if running is not None:
        running.shutdown()
