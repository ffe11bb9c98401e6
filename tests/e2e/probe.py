"""Prints, as JSON, what the SDK looks like after auto-instrumentation with each set of variables.

    python probe.py '[{"OTEL_TRACES_SAMPLER": "always_off"}, …]'

Runs under any distribution; each set has a forked child of its own, since the SDK is set up once a process.
"""

import json
import os
import sys


def plain_filter(found):
    """The one that the variable names, within ours."""
    return getattr(found, "_other", found)


def describe():
    from opentelemetry import _logs, metrics, propagate, trace
    from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor

    tracer, meter, logger = trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()
    if os.environ.get("OTEL_SDK_DISABLED") == "true":  # upstream builds providers that make nothing, we build none
        return {"recording": trace.get_tracer("probe").start_span("probe").is_recording()}
    limits = {name: value for name, value in vars(tracer._span_limits).items() if not name.startswith("_")}
    resource = {name: str(value) for name, value in tracer.resource.attributes.items()}
    for name in ("service.instance.id", "process.pid", "process.parent_pid", "telemetry.distro.name"):
        resource.pop(name, None)
    for name in ("telemetry.distro.version", "process.command", "process.executable.path"):
        resource.pop(name, None)
    return {
        "sampler": tracer.sampler.get_description(),
        "ids": type(tracer.id_generator).__name__.removeprefix("Own"),  # ours draws from numbers of its own
        "limits": limits,
        "resource": resource,
        "propagators": sorted(propagate.get_global_textmap().fields - {"x-request-id"}),  # which only ours sends
        "exemplars": type(plain_filter(meter._sdk_config.exemplar_filter)).__name__,
        "spans": sorted(filter(None, map(processor, span_processors(tracer)))),
        "logs": sorted(filter(None, map(processor, logger._multi_log_record_processor._log_record_processors))),
        "metrics": sorted(map(reader, meter._metric_readers)),
        "log_limits": str(vars(logger._log_record_limits)),
        "sqlite3": SQLite3Instrumentor().is_instrumented_by_opentelemetry,
    }


def span_processors(tracer):
    """Those of the provider, and those that get their spans through ours."""
    found = tracer._active_span_processor._span_processors
    return [*found, *(sink for shaper in found for sink in getattr(shaper, "_sinks", ()))]


def processor(item):
    """Class and exporter of a processor; an OTLP exporter and our store are the same destination."""
    name = type(item).__name__
    if name.startswith("Store"):
        return "otlp"
    inner = getattr(item, "_batch_processor", None)
    if inner is None:
        return ""  # one of ours that only looks on
    exporter = type(inner._exporter).__name__
    return (
        "otlp"
        if "OTLP" in exporter
        else f"{name}({exporter}, {inner._schedule_delay_millis:g}, {inner._max_queue_size})"
    )


def reader(item):
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter = type(getattr(item, "_exporter", item)).__name__
    kind = "periodic" if isinstance(item, PeriodicExportingMetricReader) else type(item).__name__
    where = "otlp" if "OTLP" in exporter or exporter.startswith("Store") else exporter
    temporality = {key.__name__.lstrip("_"): int(value) for key, value in item._instrument_class_temporality.items()}
    aggregation = {
        key.__name__.lstrip("_"): type(value).__name__
        for key, value in item._instrument_class_aggregation.items()
        if type(value).__name__ != "DefaultAggregation"
    }
    interval = getattr(item, "_export_interval_millis", None)
    return json.dumps([kind, where, interval, temporality, aggregation], sort_keys=True)


def run(variables):
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.environ.update(variables)
        try:
            from opentelemetry.instrumentation.auto_instrumentation import initialize

            initialize()
            answer = describe()
        except BaseException as error:
            answer = {"error": repr(error)}
        with os.fdopen(send, "w") as pipe:
            json.dump(answer, pipe)
        os.kill(os.getpid(), 9)
    os.close(send)
    with os.fdopen(receive) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


if __name__ == "__main__":
    print(json.dumps([run(variables) for variables in json.loads(sys.argv[1])]))
