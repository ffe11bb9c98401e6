"""Builds the three SDK providers with their public constructors, as upstream's variables ask.

Upstream's initialiser has no hook between a metric reader and its exporter and none for the exemplar
filter. A name that cannot be loaded is one line and the default, where upstream would start nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.util._importlib_metadata import entry_points

from otel_perf.core.exporters import OTLP, exporter_names
from otel_perf.core.forks import on_fork, reset_locks
from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from otel_perf.core.feature import Parts

    Say = Callable[[str], None]

_log = logging.getLogger("otel_perf")
_GROUPS: Final = {
    "traces": "opentelemetry_traces_exporter",
    "metrics": "opentelemetry_metrics_exporter",
    "logs": "opentelemetry_logs_exporter",
}


class HashedResource(Resource):
    """A resource that computes its hash once.

    The encoders group by resource, and upstream's hash is a JSON dump of the attributes: 3 of the 21 µs that
    encoding a span costs. A resource is immutable, so one dump is enough.
    """

    @classmethod
    def of(cls, resource: Resource) -> Self:
        """The same resource, hashed."""
        return cls(resource.attributes, resource.schema_url)

    def merge(self, other: Resource) -> Resource:
        """As upstream; the SDK merges after a fork."""
        return self.of(super().merge(other))

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


class OwnRandomIdGenerator(RandomIdGenerator):
    """Random ids that leave the app's ``random`` alone: upstream's take them from there, and a seeded app changes."""

    def __init__(self) -> None:
        self._random = Random()
        on_fork(child=self._random.seed)

    def generate_span_id(self) -> int:
        """64 bits, not all zero."""
        return self._random.getrandbits(64) or self.generate_span_id()

    def generate_trace_id(self) -> int:
        """128 bits, not all zero."""
        return self._random.getrandbits(128) or self.generate_trace_id()


@record
class Providers:
    """The providers that were made or, with ``OTEL_CONFIG_FILE``, found."""

    tracer: Any
    meter: Any
    logger: Any
    own: tuple[Any, ...] = ()  # our processors and readers
    others: tuple[Any, ...] = ()  # what flushes everybody else's; not our reader, which would collect twice
    shaper: Any = None  # what spans go through on their way to the exporters
    late_readers: tuple[Any, ...] = ()  # added to a finished provider, which does not flush or stop them

    def flush_own(self, timeout: float) -> None:
        """Make safe what our own parts hold; the shaper's sinks may be somebody else's, and are not flushed here."""
        if self.shaper is not None:
            _quietly(self.shaper, "hand_on_all", timeout / 8)  # what is stored now is worth more than what is found
        for part in self.own:
            _quietly(part, "force_flush", int(timeout * 1000))

    def flush_others(self, timeout: float) -> None:
        """Have everybody else's export too: one of theirs may hang. Each failure leaves the others alone."""
        for other in self.others:
            _quietly(other, "force_flush", int(timeout * 1000))

    def shutdown(self) -> None:
        """Stop traces, then metrics (whose last counters include them), then logs."""
        for provider in (self.tracer, self.meter, *self.late_readers, self.logger):
            _quietly(provider, "shutdown")


def _quietly(provider: object, method: str, *arguments: object) -> None:
    """Call ``method`` if the provider has it: one that ``OTEL_CONFIG_FILE`` left out is the API's, without."""
    call = getattr(provider, method, None)
    try:
        if call is not None:
            call(*arguments)
    except Exception:
        _log.debug("otel-perf: flushing failed", exc_info=True)


def build(resource: Resource, parts: Parts, environ: Mapping[str, str], say: Say) -> Providers:
    """New providers with ``parts`` and the other exporters that the environment names."""
    resource = HashedResource.of(resource)
    tracer = TracerProvider(
        sampler=_sampler(environ, say),
        resource=resource,
        id_generator=_id_generator(environ, say),
        shutdown_on_exit=False,
        **_configurator("tracer", environ, say),
    )
    sinks = list(parts.span_sinks)
    for exporter in _other_exporters("traces", environ, say):
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        sinks.append(BatchSpanProcessor(exporter))
    for processor in (*parts.span_processors, *_shaped(parts.span_shaper, sinks)):
        tracer.add_span_processor(processor)
    other_readers = [_reader(exporter) for exporter in _other_exporters("metrics", environ, say)]
    readers = [*parts.metric_readers, *other_readers]
    for reader in readers:
        produce_into(reader, parts.metric_producers)
    meter = MeterProvider(
        metric_readers=readers,
        resource=resource,
        exemplar_filter=_exemplar_filter(parts, environ, say),
        shutdown_on_exit=False,
        **_configurator("meter", environ, say),
    )
    logger = LoggerProvider(resource=resource, shutdown_on_exit=False, **_configurator("logger", environ, say))
    for processor in parts.log_processors:
        logger.add_log_record_processor(processor)
    for exporter in _other_exporters("logs", environ, say):
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        logger.add_log_record_processor(BatchLogRecordProcessor(exporter))
    others = (tracer, logger, *other_readers)
    return Providers(tracer, meter, logger, own=_own(parts), others=others, shaper=parts.span_shaper)


def adopt(parts: Parts) -> Providers:
    """The global providers that ``OTEL_CONFIG_FILE`` made, with ``parts`` added."""
    from opentelemetry import _logs, metrics, trace

    tracer, meter, logger = trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()
    added = add_late(Providers(tracer, meter, logger, others=(tracer, meter, logger)), parts)
    if isinstance(logger, LoggerProvider):
        _call_last_first(logger, len(parts.log_processors))
    return added


def _call_last_first(logger: Any, number: int) -> None:
    """Have the last processors called first: the file's exporters take their copy before others hide secrets in it.

    The SDK has no way to say so; where its insides look different, they stay the last.
    """
    try:
        processors = logger._multi_log_record_processor
        with processors._lock:
            found = processors._log_record_processors
            processors._log_record_processors = found[len(found) - number :] + found[: len(found) - number]
    except (AttributeError, TypeError):
        _log.debug("otel-perf: exporters of the configuration file come before our processors", exc_info=True)


def add_late(providers: Providers, parts: Parts) -> Providers:
    """``providers`` with ``parts`` added to those that are the SDK's."""
    if isinstance(providers.tracer, TracerProvider):
        shaper = parts.span_shaper or providers.shaper
        for processor in (*parts.span_processors, *_shaped(shaper, parts.span_sinks)):
            if processor is not providers.shaper:
                providers.tracer.add_span_processor(processor)
    if isinstance(providers.logger, LoggerProvider):
        for processor in parts.log_processors:
            providers.logger.add_log_record_processor(processor)
    late = providers.late_readers
    if isinstance(providers.meter, MeterProvider):
        for reader in parts.metric_readers:
            produce_into(reader, parts.metric_producers)
            providers.meter.add_metric_reader(reader)
        late = (*late, *parts.metric_readers)
    shaper = providers.shaper or parts.span_shaper
    return replace(providers, late_readers=late, own=(*providers.own, *_own(parts)), shaper=shaper)


def _own(parts: Parts) -> tuple[Any, ...]:
    return (*parts.span_processors, *parts.span_sinks, *parts.log_processors, *parts.metric_readers)


def _shaped(shaper: Any, sinks: Sequence[Any]) -> Sequence[Any]:
    """The processors that a provider gets for ``sinks``: themselves, or the one through which they get their spans."""
    if shaper is None:
        return sinks
    for sink in sinks:
        shaper.feed(sink)
    return [shaper]


def produce_into(reader: Any, producers: Sequence[Any]) -> None:
    """Add what ``producers`` have to all that ``reader`` collects.

    The specification's MetricProducer, which the SDK lacks: the one method that a reader has to define is wrapped.
    """
    if not producers:
        return
    receive = reader._receive_metrics

    def receive_all(metrics_data: Any, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        for producer in producers:
            try:
                scope = producer.produce(reader)
            except Exception:
                _log.warning("otel-perf: a metric producer failed", exc_info=True)
                continue
            if scope is not None and metrics_data.resource_metrics:
                first, *others = metrics_data.resource_metrics
                first = replace(first, scope_metrics=_with(scope, first.scope_metrics))
                metrics_data = replace(metrics_data, resource_metrics=[first, *others])
        receive(metrics_data, timeout_millis=timeout_millis, **kwargs)

    reader._receive_metrics = receive_all


def _with(added: Any, scopes: Sequence[Any]) -> list[Any]:
    """``scopes`` and one more. Encoders keep only the last one of equal scopes: its metrics join the other's."""
    for place, scope in enumerate(scopes):
        if scope.scope == added.scope:
            joined = replace(scope, metrics=[*scope.metrics, *added.metrics])
            return [*scopes[:place], joined, *scopes[place + 1 :]]
    return [*scopes, added]


def _exemplar_filter(parts: Parts, environ: Mapping[str, str], say: Say) -> Any:
    """``OTEL_METRICS_EXEMPLAR_FILTER``, as the features want it."""
    from opentelemetry.sdk import metrics

    kinds: dict[str, Any] = {
        "trace_based": metrics.TraceBasedExemplarFilter,
        "always_on": metrics.AlwaysOnExemplarFilter,
        "always_off": metrics.AlwaysOffExemplarFilter,
    }
    name = environ.get("OTEL_METRICS_EXEMPLAR_FILTER", "").strip().lower() or "trace_based"
    if name not in kinds:
        say(
            f"otel-perf: OTEL_METRICS_EXEMPLAR_FILTER={name!r} is not known; allowed: {', '.join(kinds)};"
            " using trace_based"
        )
    found: Any = kinds.get(name, metrics.TraceBasedExemplarFilter)()
    for wrap in parts.exemplar_filters:
        found = wrap(found)
    return found


def survive_forks(providers: Providers, parts: Parts) -> Callable[[], None]:
    """Have a forked child begin with free locks and with nothing counted; the returned function ends it."""
    inherited: list[Any] = []
    tracer, meter = providers.tracer, providers.meter

    def before() -> None:
        inherited[:] = [getattr(tracer, "resource", None)]

    def child() -> None:
        reset_locks(meter, "opentelemetry.sdk")
        _forget_totals(meter)
        for processor in parts.span_sinks:
            if hasattr(processor, "disown") and inherited[0] is not None:
                processor.disown(inherited[0])

    return on_fork(before=before, child=child)


def _forget_totals(meter: Any) -> None:
    """In a forked child: begin every count anew. What the parent counted, the parent reports.

    The SDK has no way to say so; where its insides look different, totals are inherited as they are upstream.
    """
    try:
        for storage in meter._measurement_consumer._reader_storages.values():
            for matches in storage._instrument_view_instrument_matches.values():
                for match in matches:
                    match._attributes_aggregation.clear()
    except AttributeError:
        _log.debug("otel-perf: a child keeps its parent's totals", exc_info=True)


def _load(group: str, name: str) -> Any:
    for entry_point in entry_points(group=group, name=name):
        return entry_point.load()
    names = set(entry_points(group=group).names) | ({"otlp", "none"} if group in _GROUPS.values() else set())
    known = ", ".join(sorted(names)) or "none installed"
    raise LookupError(f"is not installed; allowed: {known}")


def _reader(exporter: Any) -> Any:
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

    return exporter if isinstance(exporter, MetricReader) else PeriodicExportingMetricReader(exporter)


def _other_exporters(signal: str, environ: Mapping[str, str], say: Say) -> list[Any]:
    """Instances of the exporters that do not go through the store."""
    made = []
    for name in exporter_names(environ, signal):
        if name in OTLP:
            continue
        try:
            made.append(_load(_GROUPS[signal], name)())
        except Exception as error:  # an exporter is somebody else's code
            say(f"otel-perf: OTEL_{signal.upper()}_EXPORTER={name!r} {_reason(error)}; going on without it")
    return made


def _sampler(environ: Mapping[str, str], say: Say) -> Any:
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip()
    if not name:
        return None
    argument: Any = environ.get("OTEL_TRACES_SAMPLER_ARG")
    try:
        factory = _load("opentelemetry_traces_sampler", name)
        if name in {"traceidratio", "parentbased_traceidratio"}:
            argument = _ratio(argument, say)
        return factory(argument)
    except Exception as error:
        say(f"otel-perf: OTEL_TRACES_SAMPLER={name!r} {_reason(error)}; using parentbased_always_on")
        from opentelemetry.sdk.trace.sampling import DEFAULT_ON

        return DEFAULT_ON


def _ratio(argument: str | None, say: Say) -> float:
    try:
        ratio = float(argument or "")
        if 0.0 <= ratio <= 1.0:
            return ratio
    except ValueError:
        pass
    say(f"otel-perf: OTEL_TRACES_SAMPLER_ARG={argument!r} is not a ratio; allowed: 0.0 to 1.0; using 1.0")
    return 1.0


def _id_generator(environ: Mapping[str, str], say: Say) -> Any:
    name = environ.get("OTEL_PYTHON_ID_GENERATOR", "").strip()
    if not name or name == "random":
        return OwnRandomIdGenerator()
    try:
        return _load("opentelemetry_id_generator", name)()
    except Exception as error:
        say(f"otel-perf: OTEL_PYTHON_ID_GENERATOR={name!r} {_reason(error)}; using random")
        return OwnRandomIdGenerator()


def _configurator(kind: str, environ: Mapping[str, str], say: Say) -> dict[str, Any]:
    """``OTEL_PYTHON_{TRACER,METER,LOGGER}_CONFIGURATOR``: upstream's own keyword is still private."""
    variable = f"OTEL_PYTHON_{kind.upper()}_CONFIGURATOR"
    name = environ.get(variable, "").strip()
    if not name:
        return {}
    try:
        return {f"_{kind}_configurator": _load(f"_opentelemetry_{kind}_configurator", name)}
    except Exception as error:
        say(f"otel-perf: {variable}={name!r} {_reason(error)}; using none")
        return {}


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, LookupError) else f"failed ({error!r})"
