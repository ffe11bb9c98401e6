"""The two sets of names that a JSON line may have. What they mean is in :mod:`otel_perf.logs.record`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otel_perf.logs.line_parts import LEVELS, severity

VERSION: Final = 1  # of the schema with OpenTelemetry's names; one more for a change that a reader has to know of
ECS_VERSION: Final = "8.11.0"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of fields; ``""`` for what a line does not have."""

    time: str
    level: str
    number: str
    body: str
    trace: str
    span: str
    flags: str
    correlation: str
    event: str
    service: str
    logger: str
    file: str
    line: str
    function: str
    process: str
    thread: str
    thread_name: str
    error_type: str
    error_message: str
    error_trace: str
    stack: str
    attributes: str
    cut: str
    version: str
    version_value: int | str
    flat: bool  # attributes are one level of texts, numbers and truth values, without dots in their names

    def level_text(self, level: str) -> str:
        """The name of a level of the standard library."""
        return level.lower() if self.flat else LEVELS.get(level, level)

    def number_of(self, levelno: object) -> int:
        """The number of a level of the standard library."""
        if not self.flat:
            return severity(levelno)
        return levelno if type(levelno) is int and 0 <= levelno < 2**31 else 0

    def cut_value(self, names: list[str]) -> list[str]:
        """What tells that these fields were cut."""
        return ["truncated"] if self.flat else names


OTEL: Final = Layout(
    time="timestamp",
    level="severity_text",
    number="severity_number",
    body="body",
    trace="trace_id",
    span="span_id",
    flags="trace_flags",
    correlation="correlation_id",
    event="event_name",
    service="service.name",
    logger="scope.name",
    file="code.file.path",
    line="code.line.number",
    function="code.function.name",
    process="process.pid",
    thread="thread.id",
    thread_name="thread.name",
    error_type="exception.type",
    error_message="exception.message",
    error_trace="exception.stacktrace",
    stack="code.stacktrace",
    attributes="attributes",
    cut="truncated",
    version="schema_version",
    version_value=VERSION,
    flat=False,
)
ECS: Final = Layout(
    time="@timestamp",
    level="log.level",
    number="event.severity",
    body="message",
    trace="trace.id",
    span="span.id",
    flags="",
    correlation="correlation.id",
    event="event.action",
    service="service.name",
    logger="log.logger",
    file="log.origin.file.name",
    line="log.origin.file.line",
    function="log.origin.function",
    process="process.pid",
    thread="process.thread.id",
    thread_name="process.thread.name",
    error_type="error.type",
    error_message="error.message",
    error_trace="error.stack_trace",
    stack="log.origin.stack_trace",
    attributes="labels",
    cut="log.flags",
    version="ecs.version",
    version_value=ECS_VERSION,
    flat=True,
)
LAYOUTS: Final = {"otel": OTEL, "ecs": ECS}
