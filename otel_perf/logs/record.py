"""The published schema of a JSON log line: ``otel-perf schema log``.

Two sets of names, one line either way, UTF-8, no line break within, at most ``OTEL_PERF_LOGS_LINE`` bytes.

:class:`LogLine` has OpenTelemetry's. Its fields lie flat and are named as the semantic conventions name them, because
that is what the same record has when it comes to Loki over OTLP: ``| json`` makes ``service_name``, ``trace_id``,
``severity_text``, ``code_file_path`` and ``exception_type`` of them, and a query works for both. ``trace_id``,
``span_id`` and ``trace_flags`` are top-level and in hex, as OpenTelemetry's specification asks of JSON formats. What
the application adds (``extra={…}``) is in ``attributes``, so that no name of its own can hide a field of the line, and
so that the line's own fields are a closed set.

:class:`EcsLine` has the Elastic Common Schema's; what the application adds is in ``labels``, one level deep.

The models are what the schema is made of. Lines are not built with them (see :mod:`otel_perf.logs.json_format`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from otel_perf.logs.layouts import ECS_VERSION, VERSION

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Time = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$", description="When it was logged, RFC 3339, UTC."),
]
TraceId = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="Trace of the span in which it was logged.")]
SpanId = Annotated[str, Field(pattern="^[0-9a-f]{16}$", description="Span in which it was logged.")]
Id = Annotated[int, Field(ge=0, lt=2**63)]


class LogLine(BaseModel):
    """A log line with OpenTelemetry's names."""

    model_config = ConfigDict(extra="forbid", strict=True, title="otel-perf log line")

    timestamp: Time
    severity_text: str = Field(description="Level: DEBUG, INFO, WARN, ERROR, FATAL, or the application's own.")
    severity_number: int = Field(ge=0, le=24, description="OpenTelemetry's number of the level; 0 is unspecified.")
    body: str = Field(description="The message.")
    trace_id: TraceId | None = None
    span_id: SpanId | None = None
    trace_flags: str | None = Field(default=None, pattern="^0[01]$", description="01: the trace is sampled.")
    correlation_id: str | None = Field(
        default=None, description="The id that the work was given, by X-Request-ID for instance; else the trace id."
    )
    schema_version: Literal[1] = Field(description="Version of this schema.")
    service_name: str = Field(alias="service.name")
    scope_name: str = Field(alias="scope.name", description="Name of the logger.")
    code_file_path: str | None = Field(default=None, alias="code.file.path")
    code_line_number: Id | None = Field(default=None, alias="code.line.number")
    code_function_name: str | None = Field(default=None, alias="code.function.name")
    process_pid: Id | None = Field(default=None, alias="process.pid")
    thread_id: Id | None = Field(default=None, alias="thread.id")
    thread_name: str | None = Field(default=None, alias="thread.name")
    event_name: str | None = Field(default=None, description="Name of the event, if the line is one.")
    exception_type: str | None = Field(default=None, alias="exception.type")
    exception_message: str | None = Field(default=None, alias="exception.message")
    exception_stacktrace: str | None = Field(default=None, alias="exception.stacktrace")
    code_stacktrace: str | None = Field(default=None, alias="code.stacktrace", description="stack_info=True.")
    attributes: dict[str, Any] | None = Field(default=None, description="What the application adds: extra={…}.")
    truncated: list[str] | None = Field(
        default=None, description="Fields that were cut, or left out in part, for the size of the line."
    )


class EcsLine(BaseModel):
    """A log line with the names of the Elastic Common Schema."""

    model_config = ConfigDict(extra="forbid", strict=True, title="otel-perf log line, Elastic Common Schema")

    timestamp: Time = Field(alias="@timestamp")
    level: str = Field(alias="log.level", description="Level in lower case.")
    message: str
    trace_id: TraceId | None = Field(default=None, alias="trace.id")
    span_id: SpanId | None = Field(default=None, alias="span.id")
    correlation_id: str | None = Field(
        default=None, alias="correlation.id", description="The id that the work was given; else the trace id."
    )
    ecs_version: Literal["8.11.0"] = Field(alias="ecs.version")
    severity: int = Field(alias="event.severity", ge=0, lt=2**31, description="Number of the level, as Python has it.")
    service_name: str = Field(alias="service.name")
    logger: str = Field(alias="log.logger")
    origin_file: str | None = Field(default=None, alias="log.origin.file.name")
    origin_line: Id | None = Field(default=None, alias="log.origin.file.line")
    origin_function: str | None = Field(default=None, alias="log.origin.function")
    process_pid: Id | None = Field(default=None, alias="process.pid")
    thread_id: Id | None = Field(default=None, alias="process.thread.id")
    thread_name: str | None = Field(default=None, alias="process.thread.name")
    action: str | None = Field(default=None, alias="event.action", description="Name of the event, if the line is one.")
    error_type: str | None = Field(default=None, alias="error.type")
    error_message: str | None = Field(default=None, alias="error.message")
    error_trace: str | None = Field(default=None, alias="error.stack_trace")
    origin_trace: str | None = Field(default=None, alias="log.origin.stack_trace", description="stack_info=True.")
    labels: dict[str, str | int | float | bool | None] | None = Field(
        default=None, description="What the application adds; what is nested is JSON text."
    )
    flags: list[Literal["truncated"]] | None = Field(
        default=None, alias="log.flags", description="truncated: cut for the size of the line."
    )


MODELS: Final[dict[str, type[BaseModel]]] = {"otel": LogLine, "ecs": EcsLine}
_IDS: Final = {"otel": f"urn:otel-perf:log:{VERSION}", "ecs": f"urn:otel-perf:log:ecs-{ECS_VERSION}:{VERSION}"}


def schema(fields: str = "otel") -> dict[str, Any]:
    """The JSON Schema of a line with the names of ``fields``, ``otel`` or ``ecs``."""
    made = MODELS[fields].model_json_schema(by_alias=True)
    for of_field in made["properties"].values():
        _without_null(of_field)
    return {"$schema": DIALECT, "$id": _IDS[fields], **made}


def _without_null(of_field: dict[str, Any]) -> None:
    """A field that there is not is left out of a line, never null, as Pydantic has it for an optional one."""
    kinds = [kind for kind in of_field.get("anyOf", ()) if kind != {"type": "null"}]
    if of_field.get("default", ...) is None and len(kinds) == 1:
        del of_field["anyOf"], of_field["default"]
        described = of_field.get("description")
        of_field.update(kinds[0])
        if described:
            of_field["description"] = described
