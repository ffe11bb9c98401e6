"""The embedded store: every batch of spans, metrics and logs is committed here before it goes anywhere.

See DESIGN 5.6. What is stored survives a SIGKILL; up to ``OTEL_PERF_STORE_DELAY`` seconds of finished
spans are still in memory at any moment and do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from otel_perf.core.census import Metric
from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.core.settings import Duration, Size, count, read, variable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

    from otel_perf.core.census import Reading
    from otel_perf.store.exporter import StoreLogProcessor, StoreMetricExporter, StoreSpanProcessor
    from otel_perf.store.writer import Writer

STORE_DROPPED: Final = Metric(
    "perf.store.dropped", "{item}", "counter", "Items that were lost: the store was full, stuck or could not be written"
)
STORE_PENDING: Final = Metric("perf.store.pending", "{item}", "gauge", "Items in memory, waiting to be stored")
STORE_SIZE: Final = Metric("perf.store.size", "By", "gauge", "Bytes in use in the store's file")

EXIT_TIMEOUT: Final = 5.0  # seconds a normal exit waits for a slow disk


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Settings of the store."""

    delay: Duration = field(
        default=1.0, metadata={"doc": "How long a finished span may stay in memory before it is committed (s)."}
    )
    limit: Size = field(
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


class StoreFeature(Feature[StoreSettings]):
    """Commits every batch to SQLite before it goes anywhere else."""

    name = "store"
    summary = "the embedded store: nothing is lost, no backend is needed"
    settings_type = StoreSettings

    def __init__(self) -> None:
        self.writer: Writer | None = None
        self._parts: list[StoreSpanProcessor | StoreLogProcessor | StoreMetricExporter] = []

    def provide(self, settings: StoreSettings, host: Host, parts: Parts) -> None:
        """Add the processors."""
        from otel_perf.core.forks import on_fork
        from otel_perf.store import exporter
        from otel_perf.store.writer import Lane, Writer

        writer = self.writer = Writer(
            host.home, delay=_delay(host, settings), limit=settings.limit, fsync=settings.fsync, problem=host.problem
        )

        def lane(signal: str, prefix: str, encode: object) -> Lane:
            queue = _upstream_count(host, f"OTEL_{prefix}_MAX_QUEUE_SIZE", settings.queue)
            batch = _upstream_count(host, f"OTEL_{prefix}_MAX_EXPORT_BATCH_SIZE", settings.batch)
            made = Lane(signal, encode, limit=queue, batch=batch)  # type: ignore[arg-type]
            writer.lanes.append(made)
            return made

        if host.exports("traces"):
            spans = exporter.StoreSpanProcessor(writer, lane("traces", "BSP", exporter.encode_spans))
            parts.span_processors.append(spans)
            self._parts.append(spans)
        if host.exports("logs"):
            logs = exporter.StoreLogProcessor(writer, lane("logs", "BLRP", exporter.encode_logs))
            parts.log_processors.append(logs)
            self._parts.append(logs)
        if host.exports("metrics"):
            metrics = exporter.StoreMetricExporter(writer, lane("metrics", "", exporter.encode_metrics), host.environ)
            parts.metric_readers.append(exporter.StoreMetricReader(metrics))
            self._parts.append(metrics)
            on_fork(child=metrics.after_fork_in_child)
        on_fork(before=writer.before_fork, parent=writer.after_fork_in_parent, child=writer.after_fork_in_child)

    def install(self, settings: StoreSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        writer = self.writer
        if writer is None:
            return
        undo.callback(writer.close, EXIT_TIMEOUT)
        for part in self._parts:
            part.on = True
            undo.callback(setattr, part, "on", False)
        for metric, source in (
            (STORE_DROPPED, self._dropped),
            (STORE_PENDING, self._pending),
            (STORE_SIZE, self._size),
        ):
            undo.callback(host.census.add(metric, source))

    def _dropped(self) -> Iterable[Reading]:
        lanes = self.writer.lanes if self.writer is not None else []
        return [(lane.dropped, {"signal": lane.signal}) for lane in lanes]

    def _pending(self) -> Iterable[Reading]:
        lanes = self.writer.lanes if self.writer is not None else []
        return [(len(lane.items), {"signal": lane.signal}) for lane in lanes]

    def _size(self) -> Iterable[Reading]:
        size = self.writer.size if self.writer is not None else None
        return [] if size is None else [(size, {})]


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
