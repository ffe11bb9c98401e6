"""The embedded store: every batch of spans, metrics and logs is committed here before it goes anywhere.

See DESIGN 5.6. What is stored survives a SIGKILL; up to ``OTEL_PERF_STORE_DELAY`` seconds of finished
spans are still in memory at any moment and do not.
"""

from __future__ import annotations

import logging
import time
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

from otel_perf.core import exits
from otel_perf.core.census import Metric
from otel_perf.core.exporters import names_endpoint
from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.core.home import STORE_FILE
from otel_perf.core.records import record
from otel_perf.core.settings import Duration, Parsed, count, parse_size, read, variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from otel_perf.core.census import Reading
    from otel_perf.store.committer import Owner
    from otel_perf.store.destination import Destination
    from otel_perf.store.drain import Drain
    from otel_perf.store.exporter import StoreLogProcessor, StoreMetricExporter, StoreSpanProcessor
    from otel_perf.store.writer import Writer

STORE_DROPPED: Final = Metric(
    "perf.store.dropped", "{item}", "counter", "Items that were lost: the store was full, stuck or could not be written"
)
STORE_DELIVERED: Final = Metric("perf.store.delivered", "{item}", "counter", "Items that a receiver took")
STORE_PENDING: Final = Metric(
    "perf.store.pending", "{item}", "gauge", "Items that wait: in memory to be stored, or in the store to be sent"
)
STORE_SIZE: Final = Metric("perf.store.size", "By", "gauge", "Bytes in use in the store's file")

EXIT_TIMEOUT: Final = exits.NORMAL

_log = logging.getLogger("otel_perf")


@record
class StoreSettings:
    """Settings of the store."""

    delay: Duration = field(
        default=1.0, metadata={"doc": "How long a finished span may stay in memory before it is committed (s)."}
    )
    limit: Annotated[int, Parsed(parse_size, "at least 1MB, with kB, MB, GB, KiB, MiB or GiB", 1_000_000)] = field(
        default=512_000_000,
        metadata={"doc": "Size of the store's file; above it the oldest is dropped and counted (By)."},
    )
    fsync: bool = field(
        default=False, metadata={"doc": "Wait for the disk at every commit: survives a power cut, not only a crash."}
    )
    queue: Annotated[int, count(16, 1_000_000)] = field(
        default=2048, metadata={"doc": "Items in memory per signal before their producer has to wait."}
    )
    batch: Annotated[int, count(1, 65_536)] = field(
        default=512, metadata={"doc": "Items of one stored batch, which is one request when it is sent."}
    )
    exit: Duration = field(
        default=0.2, metadata={"doc": "How long the end of the program may wait for sending; the rest waits (s)."}
    )
    keep: bool = field(default=False, metadata={"doc": "Keep a local copy of what was delivered."})
    probe: bool = field(
        default=True, metadata={"doc": "With no endpoint named, look for a receiver at the default port on localhost."}
    )


class StoreFeature(Feature[StoreSettings]):
    """Commits every batch to SQLite before it goes anywhere else."""

    name = "store"
    summary = "the embedded store: nothing is lost, no backend is needed"
    settings_type = StoreSettings

    def __init__(self) -> None:
        self.writer: Writer | None = None
        self.drain: Drain | None = None
        self._make_drain: Callable[[], Drain] | None = None
        self._exit = 0.0
        self._parts: list[StoreSpanProcessor | StoreLogProcessor | StoreMetricExporter] = []

    def provide(self, settings: StoreSettings, host: Host, parts: Parts) -> None:
        """Add the processors."""
        from otel_perf.core.forks import on_fork
        from otel_perf.store import exporter
        from otel_perf.store.committer import Owner
        from otel_perf.store.writer import Lane, Writer

        # The exporters that a configuration file declares send by themselves; the store then holds a copy.
        copies = bool(host.environ.get("OTEL_CONFIG_FILE"))
        owner = Owner(host.service_name, _mark(host.environ), copies)
        writer = self.writer = Writer(
            host.home,
            delay=_delay(host, settings),
            limit=settings.limit,
            fsync=settings.fsync,
            problem=host.problem,
            owner=owner,
        )
        self._exit = settings.exit

        def lane(signal: str, prefix: str, encode: object) -> Lane:
            queue = _upstream_count(host, f"OTEL_{prefix}_MAX_QUEUE_SIZE", settings.queue)
            batch = _upstream_count(host, f"OTEL_{prefix}_MAX_EXPORT_BATCH_SIZE", settings.batch)
            made = Lane(signal, encode, limit=queue, batch=batch)  # type: ignore[arg-type]
            writer.lanes.append(made)
            return made

        if host.exports("traces"):
            spans = exporter.StoreSpanProcessor(
                writer, lane("traces", "BSP", partial(exporter.encode_spans, rest=writer.rest))
            )
            parts.span_sinks.append(spans)
            self._parts.append(spans)
        if host.exports("logs"):
            logs = exporter.StoreLogProcessor(
                writer, lane("logs", "BLRP", partial(exporter.encode_logs, rest=writer.rest))
            )
            parts.log_processors.append(logs)
            self._parts.append(logs)
        if host.exports("metrics"):
            metrics = exporter.StoreMetricExporter(writer, lane("metrics", "", exporter.encode_metrics), host.environ)
            parts.metric_readers.append(exporter.StoreMetricReader(metrics))
            self._parts.append(metrics)
            on_fork(child=metrics.after_fork_in_child)
        on_fork(before=writer.before_fork, parent=writer.after_fork_in_parent, child=writer.after_fork_in_child)
        on_fork(before=self._before_fork, parent=self._after_fork_in_parent, child=self._after_fork_in_child)
        if not copies:
            self._make_drain = _drain_of(writer, owner, settings, host)

    def install(self, settings: StoreSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        writer = self.writer
        if writer is None:
            return
        undo.callback(self._close)
        if self._make_drain is not None:
            writer.committed = self._committed
            if (host.home.with_file(STORE_FILE) / STORE_FILE).exists():
                self._committed()  # an earlier run may have left something
        for part in self._parts:
            part.on = True
            undo.callback(setattr, part, "on", False)
        for metric, source in (
            (STORE_DELIVERED, self._delivered),
            (STORE_DROPPED, self._dropped),
            (STORE_PENDING, self._pending),
            (STORE_SIZE, self._size),
        ):
            undo.callback(host.census.add(metric, source))
        self._clean(writer, host, undo)
        self._watch(writer, settings, undo)

    def _watch(self, writer: Writer, settings: StoreSettings, undo: ExitStack) -> None:
        from otel_perf.core import health
        from otel_perf.store.checks import EVERY, StoreChecks

        checks = StoreChecks(writer, lambda: self.drain, settings.limit)
        undo.callback(health.register("store", checks.store, every=EVERY, quick=True))
        undo.callback(health.register("delivery", checks.delivery, every=EVERY, quick=True))

    def _clean(self, writer: Writer, host: Host, undo: ExitStack) -> None:
        from otel_perf.core import cleaning
        from otel_perf.core.forks import on_fork
        from otel_perf.store import stale, vacuum

        old = stale.StaleStores(host.home)
        undo.callback(on_fork(before=old.before_fork, parent=old.after_fork_in_parent, child=old.after_fork_in_child))
        undo.callback(cleaning.register("otel_perf.store: stale stores", old.run, stale.EVERY))
        undo.callback(cleaning.register("otel_perf.store: vacuum", partial(vacuum.run, writer.give_back), vacuum.EVERY))

    def flush(self) -> None:
        """Store what other features had to say as they were flushed, and send what can be sent quickly.

        A container's disk may end with its process.
        """
        if self.writer is not None:
            self.writer.flush(EXIT_TIMEOUT)
        if self.drain is not None:
            self.drain.leave(self._exit)

    def _committed(self) -> None:
        """Something is there to send. The drain is made now: most short programs never need one."""
        if self.drain is None and self._make_drain is not None:
            self.drain = self._make_drain()
        if self.drain is not None:
            self.drain.poke()

    def _close(self) -> None:
        ends = time.monotonic() + self._exit
        if self.writer is not None:
            self.writer.close(EXIT_TIMEOUT)
        if self.drain is not None:
            # What was committed meanwhile is sent meanwhile; the last of it has half of the time for itself.
            self.drain.leave(max(self._exit / 2, ends - time.monotonic()))
            self.drain.end()
            self.drain = None

    def _before_fork(self) -> None:
        if self.drain is not None:
            self.drain.before_fork()

    def _after_fork_in_parent(self) -> None:
        if self.drain is not None:
            self.drain.after_fork_in_parent()

    def _after_fork_in_child(self) -> None:
        if self.drain is not None:
            self.drain.after_fork_in_child()

    def _dropped(self) -> Iterable[Reading]:
        lanes = self.writer.lanes if self.writer is not None else []
        return [(lane.dropped, {"signal": lane.signal}) for lane in lanes]

    def _pending(self) -> Iterable[Reading]:
        lanes = self.writer.lanes if self.writer is not None else []
        stored = self.drain.waiting if self.drain is not None else {}
        return [(len(lane.items) + stored.get(lane.signal, 0), {"signal": lane.signal}) for lane in lanes]

    def _delivered(self) -> Iterable[Reading]:
        lanes = self.writer.lanes if self.writer is not None else []
        delivered = self.drain.delivered if self.drain is not None else {}
        return [(delivered.get(lane.signal, 0), {"signal": lane.signal}) for lane in lanes]

    def _size(self) -> Iterable[Reading]:
        size = self.writer.size if self.writer is not None else None
        return [] if size is None else [(size, {})]


def _mark(environ: Mapping[str, str]) -> str:
    if not names_endpoint(environ):
        return ""
    from otel_perf.store.destination import mark

    return mark(environ)


def _drain_of(writer: Writer, owner: Owner, settings: StoreSettings, host: Host) -> Callable[[], Drain] | None:
    """Makes what sends, if there is, or may come to be, somewhere to send to."""
    destinations: list[Destination] = []
    if owner.destination:
        from otel_perf.store.destination import resolve

        # Now, so that a wrong variable is told when the program starts and not when it first sends.
        say = _say_through(host)
        named = [resolve(host.environ, lane.signal, say) for lane in writer.lanes]
        destinations = [destination for destination in named if destination is not None]
    if not destinations and (owner.destination or not settings.probe):
        return None

    def folder() -> Path:
        return writer.folder or host.home.with_file(STORE_FILE)

    def make() -> Drain:
        from otel_perf.store.drain import Drain
        from otel_perf.store.local import LocalReceiver

        options: dict[str, Any] = {
            "owner": owner, "keep": settings.keep, "fsync": settings.fsync, "problem": host.problem
        }  # fmt: skip
        if destinations:
            return Drain(writer, folder, lambda: destinations, **options)
        receiver = LocalReceiver(host.environ, lambda url: _log.info("otel-perf: sending to %s, which answers", url))
        return Drain(writer, folder, lambda: receiver.destinations, find=receiver.find, **options)

    return make


def _say_through(host: Host) -> Callable[[str], None]:
    """Says a line once: three signals have mostly the same settings."""
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            said.add(line)
            host.problem(f"otel-perf: {line}")

    return say


def _delay(host: Host, settings: StoreSettings) -> float:
    """Ours, or the shortest that upstream's own variables ask for (they count milliseconds)."""
    if host.environ.get(variable("store", "delay"), "").strip():
        return settings.delay
    default = int(settings.delay * 1000)
    names = ("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BLRP_SCHEDULE_DELAY")
    asked = [_upstream_count(host, name, default) for name in names if host.environ.get(name, "").strip()]
    return min(asked, default=default) / 1000


def _upstream_count(host: Host, name: str, default: int) -> int:
    """Upstream's own variable for the batch processor, if it is set, else ours."""
    raw = host.environ.get(name, "").strip()
    if not raw:
        return default
    value, problem = read(Annotated[int, count(1)], name, raw, default)
    if problem is not None:
        host.problem(f"otel-perf: {problem}")
    return int(value)


FEATURE = StoreFeature()
