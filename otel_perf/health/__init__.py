"""Health: whether the process lives, is ready, and how its parts are. See DESIGN 3 and 4.

``perf.health`` is this module: ``@perf.health.check("db", critical=True)``, ``perf.health.asgi_app``.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any

from otel_perf.core import sequence
from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.core.health import check as check
from otel_perf.core.health import remove as remove
from otel_perf.core.records import record
from otel_perf.core.settings import Duration, Size, count

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.health.apps import asgi_app as asgi_app
    from otel_perf.health.apps import wsgi_app as wsgi_app
    from otel_perf.health.changes import Change
    from otel_perf.health.loops import Loops
    from otel_perf.health.present import on_change as on_change
    from otel_perf.health.present import status as status

_HOME_OF = {"asgi_app": "apps", "on_change": "present", "status": "present", "wsgi_app": "apps"}


@record
class HealthSettings:
    """Where it is told, and what is ill."""

    port: Annotated[int, count(0, 65535)] = field(
        default=0,
        metadata={"doc": "Port that answers `/livez`, `/readyz`, `/startupz` and `/healthz`; 0 is none."},
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"doc": "Address that the port is of; `0.0.0.0` for probes from outside of the container."},
    )
    file: bool = field(
        default=True,
        metadata={"doc": "Say in the home folder how each process is, for `otel-perf health` and for the port."},
    )
    critical: str = field(
        default="eventloop",
        metadata={
            "doc": "Names of checks, separated by commas, without which the process is not ready; those that the app"
            " calls critical are as well."
        },
    )
    lag: Duration = field(
        default=1.0,
        metadata={"doc": "An event loop that answers later is unhealthy, one that takes a quarter of it degraded (s)."},
    )
    stuck: Duration = field(
        default=30.0,
        metadata={"doc": "A process whose event loop has not answered for so long does not live any more (s)."},
    )
    disk: Size = field(
        default=256_000_000,
        metadata={"doc": "With less room on the home's disk it is degraded, with a quarter of that unhealthy (By)."},
    )


class HealthFeature(Feature[HealthSettings]):
    """Asks the checks in the background, and tells how they are."""

    name = "health"
    summary = "checks in the background; liveness, readiness and start-up on a port, as ASGI and WSGI apps, in a file"
    emits = sequence.HEALTH_MONITORING
    follows = (sequence.MEMORY_MANAGEMENT, sequence.ENHANCED_LOGGING)  # probes are answered from the start
    settings_type = HealthSettings

    def __init__(self) -> None:
        self._loops: Loops | None = None
        self._withdraw: list[Any] = []
        self._first: Callable[[], Any] | None = None

    def provide(self, settings: HealthSettings, host: Host, parts: Parts) -> None:
        """Add what sends the lag of the event loops."""
        from otel_perf.core.forks import on_fork
        from otel_perf.core.histograms import HistogramProducer
        from otel_perf.health.loops import LAG, Loops

        self._loops = loops = Loops()
        producer = HistogramProducer(LAG, loops.counted)
        parts.metric_producers.append(producer)
        on_fork(child=loops.after_fork_in_child)
        on_fork(child=producer.after_fork_in_child)

    def install(self, settings: HealthSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.core import health
        from otel_perf.core.forks import on_fork
        from otel_perf.health import present
        from otel_perf.health.publisher import Publisher
        from otel_perf.health.runner import Runner

        if self._loops is None:
            return
        server = None
        if settings.port:
            from otel_perf.health.server import Server

            server = Server(settings.host, settings.port, host.problem, lambda: host.guard(self.name))
            undo.callback(server.close)
            undo.callback(on_fork(child=server.after_fork_in_child))
        publisher = Publisher(host.home, settings.port, server, file=settings.file)

        def tell(change: Change) -> None:
            attributes: dict[str, Any] = {
                "perf.health.check": change.name,
                "perf.health.status": health.WORDS[change.status],
                "perf.health.status.before": health.WORDS[change.before],
                "perf.health.critical": change.critical,
            }
            if change.flapping:
                attributes["perf.health.flapping"] = True
            body = f"{change.name}: {health.WORDS[change.status]}{f', {change.reason}' if change.reason else ''}"
            host.event(
                health.CHANGED, attributes, body=body, severity="INFO" if change.status == health.HEALTHY else "WARN"
            )
            present.tell(change)

        names = filter(None, map(str.strip, settings.critical.split(",")))
        runner = Runner(host.service_name, names, tell, publisher.publish, lambda: host.guard(self.name))
        if server is not None:
            server.reports = (runner.report,)
            server.bind()  # now, before a program that the app starts can have the port
            host.home.fallback_with("")  # now: what it imports must not be under way when the process forks
        self._watch(self._loops, settings, host, undo)
        health.changed.append(runner.news)
        undo.callback(health.changed.remove, runner.news)
        present.running.append(runner)
        undo.callback(present.running.remove, runner)
        self._withdraw.append(publisher.withdraw)
        undo.callback(self._withdraw.remove, publisher.withdraw)
        undo.callback(publisher.withdraw, ended=True)
        undo.callback(runner.end)
        undo.callback(host.census.add(health.STATUS, runner.readings))
        undo.callback(on_fork(child=present.after_fork_in_child))
        undo.callback(on_fork(child=publisher.after_fork_in_child))
        undo.callback(on_fork(child=runner.after_fork_in_child))
        runner.start()

    def _watch(self, loops: Loops, settings: HealthSettings, host: Host, undo: ExitStack) -> None:
        """The checks of our own; other features have registered theirs."""
        from functools import partial

        from otel_perf.core import finishing, health
        from otel_perf.health.disk import room
        from otel_perf.health.loops import BEAT

        loops.install(undo)
        finishing.app_loop.append(loops.app_loop)
        undo.callback(finishing.app_loop.remove, loops.app_loop)
        lag, stuck = partial(loops.check, settings.lag), partial(loops.stuck, settings.stuck)
        disk = partial(room, host.home.path, settings.disk)
        undo.callback(health.register("eventloop", lag, every=BEAT, quick=True))
        undo.callback(health.register("eventloop.stuck", stuck, live=True, every=1.0, quick=True))
        self._first = disk
        undo.callback(health.register("disk", disk, every=15.0, quick=True))

    def prove(self) -> None:
        """Ask one check; the others are asked in the background."""
        if self._first is not None:
            self._first()

    def flush(self) -> None:
        """The process may end now; if it goes on, it says so again."""
        for withdraw in self._withdraw:
            withdraw()


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'otel_perf.health' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"otel_perf.health.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


FEATURE = HealthFeature()
