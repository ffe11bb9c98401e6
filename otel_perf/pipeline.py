"""Installs the features in order of need, and undoes them in reverse.

``OTEL_PERF_<FEATURE>`` decides what is installed; the flag file may turn features on and off while the
program runs. Providers are built once; a feature that is turned off leaves its processors silent.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

import otel_perf
from otel_perf.core import children, executors, exits
from otel_perf.core.adjusting import Adjustments
from otel_perf.core.census import SCOPE, Census, Metric
from otel_perf.core.events import FEATURE_CHANGED, Event
from otel_perf.core.exporters import OTLP, exporter_names
from otel_perf.core.feature import Parts
from otel_perf.core.forks import on_fork
from otel_perf.core.guard import Guard
from otel_perf.core.home import Home
from otel_perf.core.rollout import Decision, Rollout
from otel_perf.core.sequence import Sequence
from otel_perf.core.settings import load
from otel_perf.emitter import Emitter
from otel_perf.features import discover
from otel_perf.flags import FlagWatch
from otel_perf.installed import Installed, from_others, why_off
from otel_perf.stepping import Stepping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Sequence as Names

    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource

    from otel_perf.core.census import Reading
    from otel_perf.providers import Providers

INTERNAL_ERRORS: Final = Metric("perf.internal_errors", "{error}", "counter", "Errors of otel-perf itself, by feature")
FLAG_EVALUATION: Final = Event("feature_flag.evaluation", "A feature's decision or a setting changed, and why")
FORK_WAITS: Final = 0.5  # seconds at most, for a feature that is being turned on or off

_log = logging.getLogger("otel_perf")


class Pipeline:
    """The distribution in one process. It is the :class:`~otel_perf.core.feature.Host` of the features."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.environ = environ
        self.home = Home(environ)
        self.census = Census()
        self.rollout = Rollout(environ)
        self._adjustments = Adjustments(self.rollout, environ, self._tell_flag)
        self.sequence = Sequence()
        self.features: dict[str, Installed] = {}
        self.guards: dict[str, Guard] = {}
        self.providers: Providers | None = None
        self.service_name = ""
        self._identity = ""
        self._undo = ExitStack()
        self._emitter = Emitter()
        self._started = self._ending = self._turning = False
        self._installations = 0
        self._lock = threading.RLock()
        self._flags = FlagWatch(self.reload, lambda: self.guard("rollout"))
        self._stepping = Stepping(self)

    # --- what features ask of their host -----------------------------------------------------------

    def exports(self, signal: str) -> bool:
        """Whether ``signal`` goes to the OTLP path, hence to the store."""
        if self.environ.get("OTEL_CONFIG_FILE"):
            return True
        return not OTLP.isdisjoint(exporter_names(self.environ, signal))

    def guard(self, feature: str) -> Guard:
        """The guard of ``feature``, which steps down after too many errors."""
        return self.guards.setdefault(feature, Guard(feature, lambda: self._stepping.fail(feature)))

    def event(
        self, event: Event, attributes: Mapping[str, Any], *,
        body: str | None = None, severity: str = "INFO", context: Context | None = None,
    ) -> None:  # fmt: skip
        """Emit a log event; one of the start is held until all that may take it is there."""
        self._emitter.emit(event, attributes, body, severity, context)

    def problem(self, line: str) -> None:
        """Say one line through the ``otel_perf`` logger, which an unconfigured program sees on stderr."""
        _log.disabled = False  # dictConfig's default disables every logger it does not name
        _log.warning("%s", line)

    def share(self, feature: str) -> float:
        """The share of roll-out of ``feature`` as it is now."""
        return self.features[feature].decision.share

    def adjust(
        self, feature: str, settings: Any, names: Names[str], apply: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Have flags change settings while the program runs."""
        return self._adjustments.add(feature, settings, names, apply)

    # --- life cycle --------------------------------------------------------------------------------

    def start(self, *, distro_version: str = "", configure_from_file: bool = False) -> None:
        """Build or adopt the providers and install every feature that is on."""
        resource = self._resource(distro_version)
        self._undo.callback(self.census.add(INTERNAL_ERRORS, self._internal_errors))
        for feature in discover():
            settings, problems = load(feature.settings_type, feature.name, self.environ)
            for problem in problems:
                self.problem(f"otel-perf: {problem}")
            self.features[feature.name] = Installed(feature, settings, self.rollout.decide(feature.name))
        self._report_problems()
        self._expect_signals()
        parts = Parts()
        for state in self.features.values():
            if state.is_wanted(self._identity) or (state.feature.shapes and self.rollout.path is not None):
                self._provide(state, parts)
        self._set_providers(resource, parts, configure_from_file=configure_from_file)
        # Before the features: atexit runs what was registered last first, and theirs may still emit.
        exits.install(self.flush, self.shutdown, self._undo)
        executors.install(self._undo)
        children.install(self._undo)
        self._arm()
        self._started = True
        self._emitter.release()
        self._report_problems()  # of settings that features take from flags
        self._stepping.install(self._undo)
        self._flags.install(self._undo, file=self.rollout.path is not None)
        self._undo.callback(
            on_fork(before=self._turn_nothing, parent=self._turn_again, child=self._after_fork_in_child)
        )

    def flush(self, timeout: float = exits.BUDGET) -> None:
        """Make everything durable that was finished before this call; ours first, since an exporter may hang."""
        providers = self.providers
        if providers is not None:
            self._last_words()
            providers.flush_own(timeout)
            for state in self.features.values():
                if state.on:
                    with self.guard(state.feature.name):
                        state.feature.flush()
            providers.flush_others(timeout)

    def shutdown(self) -> None:
        """Stop the providers, undo the features in reverse order. Idempotent."""
        with self._lock:
            providers = self.providers
            if providers is None or self._ending:
                return
            # The providers stay until the end: a signal that comes meanwhile still has to flush them.
            self._ending = True
            self._last_words()
            providers.shutdown()
            for state in sorted(self.features.values(), key=lambda state: -state.place):
                self._undo_feature(state, "shut down")
            self._undo.close()
            self.providers = self._emitter.logger = None

    def _last_words(self) -> None:
        for state in self.features.values():
            if state.on:
                with self.guard(state.feature.name):
                    state.feature.last_words()

    def _resource(self, distro_version: str) -> Resource:
        from otel_perf import resource as resources

        resource = resources.create(distro_version)
        self.service_name = str(resource.attributes.get("service.name", ""))
        self._identity = f"{self.service_name}/{resource.attributes.get('service.instance.id', '')}"
        return resource

    def _set_providers(self, resource: Any, parts: Parts, *, configure_from_file: bool) -> None:
        from opentelemetry import _logs, metrics, trace

        from otel_perf import providers

        if configure_from_file:
            self.providers = providers.adopt(parts)
        else:
            self.providers = providers.build(resource, parts, self.environ, self.problem)
            trace.set_tracer_provider(self.providers.tracer)
            metrics.set_meter_provider(self.providers.meter)
            _logs.set_logger_provider(self.providers.logger)
        self._emitter.logger = self.providers.logger.get_logger(SCOPE, otel_perf.__version__)
        self.census.attach(self.providers.meter.get_meter(SCOPE, otel_perf.__version__))
        self._watch_forks(self.providers, parts)

    def _watch_forks(self, providers: Providers, parts: Parts) -> None:
        from otel_perf.providers import survive_forks

        self._undo.callback(on_fork(child=self._after_fork_in_child))
        self._undo.callback(survive_forks(providers, parts))

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        self.sequence.after_fork_in_child()
        if self._turning and self._started:  # in a thread that is not here, for longer than the fork waited
            self._turning = False
            self._emitter.release()
            for state in self.features.values():
                state.decision = Decision(state.decision.share, "a fork")  # the next look at the flags sees to it

    # --- features ----------------------------------------------------------------------------------

    def _provide(self, state: Installed, parts: Parts) -> None:
        try:
            state.feature.provide(state.settings, self, parts)
            state.provided = True
        except Exception as error:
            state.failed, state.reason = True, f"could not be prepared: {error!r}"
            self.guard(state.feature.name).handle(error)

    def _expect_signals(self) -> None:
        self.sequence.leave_to_others(from_others(self.features.get("signals"), self._identity, self.problem))
        for state in self.features.values():
            self.sequence.expect(state.feature.emits, state.feature.name)
        self.sequence.listeners.append(lambda _answer: self._arm())

    def _arm(self) -> None:
        """Turn on what waits for no signal any more, and say what waited to be said."""
        with self._lock:
            for state in [] if self._ending else list(self.features.values()):
                if state.settled:
                    self._answer(state)
                else:
                    self._apply(state)
                    if state.on and self._started:
                        self._tell_change(state.feature.name, "installed", state.reason)

    def _apply(self, state: Installed) -> None:
        """Turn ``state`` on or off, as its decision says."""
        name, wanted = state.feature.name, state.is_wanted(self._identity)
        missing = self.sequence.missing(state.feature.awaits)
        if wanted and missing and not state.on:
            state.settled, state.reason = False, f"waits for {', '.join(missing)}"
            with self.guard(name):
                state.feature.holds_off()
            return
        state.settled = True
        if not wanted:
            self._undo_feature(state, why_off(state.decision))
        elif state.held:
            state.reason = state.held
        elif not (state.on or state.failed or self.guard(name).tripped):
            if not state.provided:
                parts = Parts()
                self._provide(state, parts)
                self._add_late(parts)
            if state.provided:
                self._install(state)
        self._answer(state)

    def _answer(self, state: Installed) -> None:
        """Let those who wait know how it fares."""
        name = state.feature.name
        if not self.sequence.missing(state.feature.follows):
            self.sequence.answer(state.feature.emits, name, state.complaint(broken=self.guard(name).tripped))

    def _install(self, state: Installed) -> None:
        undo = ExitStack()
        try:
            state.feature.install(state.settings, self, undo)
        except Exception as error:
            undo.close()
            state.failed, state.reason = True, f"could not be installed: {error!r}"
            self.guard(state.feature.name).handle(error)
            return
        self._installations += 1
        state.undo, state.on, state.reason, state.place = undo, True, state.decision.source, self._installations
        try:
            state.feature.prove()
            state.unproven = ""
        except Exception as error:
            state.unproven = f"{type(error).__name__}: {error}"

    def _add_late(self, parts: Parts) -> None:
        """Processors of a feature that was off when the providers were built."""
        if self.providers is None:
            return
        from otel_perf.providers import add_late

        self.providers = add_late(self.providers, parts)
        self._watch_forks(self.providers, parts)

    def _undo_feature(self, state: Installed, reason: str) -> None:
        state.on, state.reason = False, reason
        undo, state.undo = state.undo, ExitStack()
        try:
            undo.close()
        except Exception as error:
            self.guard(state.feature.name).handle(error)

    def step_down(self, feature: str, reason: str) -> bool:
        """Have ``feature`` off until it steps up, whatever its decision says; ``False`` if it was off already."""
        with self._lock:
            state = self.features.get(feature)
            if state is None or self.providers is None or self._ending:
                return False
            was, state.held = state.on, f"stepped down: {reason}"
            if was:
                # First: it may be the one that takes events away.
                self._tell_change(feature, "stepped down", reason, severity="WARN")
                self._undo_feature(state, state.held)
                self._answer(state)
            return was

    def step_up(self, feature: str) -> bool:
        """Have ``feature`` be again what its decision says; whether it is on."""
        with self._lock:
            state = self.features.get(feature)
            if state is None or self.providers is None or self._ending:
                return False
            held, state.held = state.held, ""
            self.guard(feature).forgive()
            self._apply(state)
            if state.on:
                self._tell_change(feature, "back", f"it had {held}")
            return state.on

    def _tell_change(self, feature: str, what: str, reason: str, *, severity: str = "INFO") -> None:
        self.event(
            FEATURE_CHANGED,
            {"perf.feature": feature, "perf.feature.state": what, "perf.feature.reason": reason},
            body=f"{feature} {what}: {reason}",
            severity=severity,
        )

    def _internal_errors(self) -> Iterable[Reading]:
        return [(guard.errors, {"perf.feature": name}) for name, guard in self.guards.items()]

    # --- flags -------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the flags again and turn features on and off accordingly."""
        self.rollout.reload()  # under no lock: an OpenFeature provider may take long, and a fork or the end waits
        with self._lock:
            if self.providers is None or self._ending:
                return
            changed = []
            for state in self.features.values():
                decision = self.rollout.decide(state.feature.name)
                if decision != state.decision:
                    state.decision = decision
                    changed.append(state)
            if changed:
                self._turn(changed)
            self._adjustments.look()
            self._report_problems()

    def _turn(self, changed: list[Installed]) -> None:
        # Who takes events away may be among them: that others go on is told when all are, and before any goes off.
        self._turning = True
        self._emitter.hold()
        try:
            for state in changed:
                if state.is_wanted(self._identity):
                    self._changed(state)
        finally:
            self._emitter.release()
        for state in changed:
            if not state.is_wanted(self._identity):
                self._changed(state)
        self._turning = False

    def _changed(self, state: Installed) -> None:
        was = state.on
        name, decision = state.feature.name, state.decision
        self._tell_flag(f"perf.{name}", f"{decision.share:.0%}", decision.source)
        if was and state.feature.by_trace:
            self._undo_feature(state, "its share changes")
        self._apply(state)
        if state.on != was:
            self._tell_change(name, "installed" if state.on else "off", state.reason)

    def _tell_flag(self, key: str, value: str, source: str) -> None:
        result = {"feature_flag.result.value": value, "feature_flag.result.reason": source}
        self.event(FLAG_EVALUATION, {"feature_flag.key": key, **result})

    def _report_problems(self) -> None:
        for problem in self.rollout.problems:
            self.problem(f"otel-perf: {problem}")
        self.rollout.problems.clear()

    def _turn_nothing(self) -> None:
        """A fork: its child must not find a feature half turned on or off by a thread that it does not have."""
        self._lock.acquire(timeout=FORK_WAITS)

    def _turn_again(self) -> None:
        with suppress(RuntimeError):  # it took too long: the lock is another thread's
            self._lock.release()
