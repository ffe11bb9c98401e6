"""Signals: readiness between agents, tasks, processes and services. See DESIGN 5.5.

``perf.signals`` is this module: :func:`emit`, :func:`wait` and the others work with the distribution off as well.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.signals.settings import SignalsSettings

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.core.errors import SignalError as SignalError
    from otel_perf.core.errors import SignalFailedError as SignalFailedError
    from otel_perf.core.errors import SignalTimeoutError as SignalTimeoutError
    from otel_perf.signals.api import Signals
    from otel_perf.signals.api import signals as _signals
    from otel_perf.signals.signal import Signal as Signal
    from otel_perf.signals.telemetry import Telemetry

    emit, emit_async = _signals.emit, _signals.emit_async
    wait, wait_sync = _signals.wait, _signals.wait_sync
    on, check, since = _signals.on, _signals.check, _signals.since
    join, close = _signals.join, _signals.close

_METHODS = frozenset({"check", "close", "emit", "emit_async", "join", "on", "since", "wait", "wait_sync"})
_ERRORS = frozenset({"SignalError", "SignalFailedError", "SignalTimeoutError"})


class SignalsFeature(Feature[SignalsSettings]):
    """Telemetry of signals; the distribution's own on the board, and those of others that it waits for."""

    name = "signals"
    summary = "readiness signals between agents, processes and services, as linked spans; who waited for whom"
    settings_type = SignalsSettings

    def __init__(self) -> None:
        self._telemetry: Telemetry | None = None

    def provide(self, settings: SignalsSettings, host: Host, parts: Parts) -> None:
        """Add what sends how long waits took."""
        from otel_perf.core.forks import on_fork
        from otel_perf.core.histograms import HistogramProducer
        from otel_perf.signals.telemetry import WAIT, Telemetry

        self._telemetry = telemetry = Telemetry(host)
        producer = HistogramProducer(WAIT, telemetry.counted)
        parts.metric_producers.append(producer)
        on_fork(child=producer.after_fork_in_child)
        on_fork(child=telemetry.after_fork_in_child)

    def install(self, settings: SignalsSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from functools import partial

        from otel_perf.core import exits, health
        from otel_perf.signals import present, telemetry
        from otel_perf.signals.checks import check
        from otel_perf.signals.mirror import Mirror

        made = self._telemetry
        if made is None:
            return
        present.give(host.home, made)
        undo.callback(present.give, host.home, None)
        for metric, source in (
            (telemetry.EMITS, made.emits),
            (telemetry.RECEIPTS, made.receipts),
            (telemetry.REFUSED, made.refusals),
            (telemetry.WAITING, lambda: [(present.waiting(), {})]),
        ):
            undo.callback(host.census.add(metric, source))
        exits.leaving.append(present.leave)
        undo.callback(exits.leaving.remove, present.leave)
        undo.callback(health.register("signals", partial(check, host.sequence, present.existing)))
        Mirror(host, partial(_load, settings), lambda: host.guard(self.name)).install(undo)


def _load(settings: SignalsSettings) -> Signals:
    """The process's signals, with all that the first use would import."""
    from otel_perf.signals.api import signals

    if not settings.url.strip():
        import_module("otel_perf.signals.sqlite_board")
    return signals


FEATURE = SignalsFeature()


def __getattr__(name: str) -> Any:
    if name in _METHODS:
        from otel_perf.signals.api import signals

        return getattr(signals, name)
    if name in _ERRORS:
        from otel_perf.core import errors

        return getattr(errors, name)
    if name == "Signal":
        from otel_perf.signals.signal import Signal

        return Signal
    raise AttributeError(f"module 'otel_perf.signals' has no attribute {name!r}")
