"""Reads spans from files: OTLP JSON lines, Jaeger JSON, or CSV; also compressed (``.gz``, ``.xz``)."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import re
import zlib
from dataclasses import dataclass
from itertools import chain
from sys import intern
from typing import TYPE_CHECKING, Any, Final, TextIO

from otel_perf.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

HEAD: Final = 4096  # characters, and the rest of their last line, that tell the format
UNKNOWN_SERVICE: Final = "unknown_service"
COLUMNS: Final = {  # of CSV, by the letters and digits of the name in lower case
    "TraceID": ("traceid",),
    "SpanID": ("spanid",),
    "ParentID": ("parentid", "parentspanid"),
    "ServiceName or PodName": ("servicename", "service", "podname", "pod"),
    "OperationName": ("operationname", "spanname", "operation", "name"),
    "StartTimeUnixNano": ("starttimeunixnano",),
    "EndTimeUnixNano": ("endtimeunixnano",),
}
_OPENERS: Final[dict[str, Any]] = {".gz": gzip.open, ".xz": lzma.open}
_OTLP: Final = re.compile(r'"resource(Spans|Metrics|Logs)"')
# Kubernetes writes hashes with neither vowels nor 0, 1 and 3 (apimachinery, util/rand and SafeEncodeString).
_HASH: Final = "[bcdfghjklmnpqrstvwxz2456789]"
_POD_SUFFIX: Final = re.compile(rf"-({_HASH}{{6,10}}-{_HASH}{{5}}|\d+)$")
_NOT_A_SPAN: Final = (ValueError, KeyError, IndexError, TypeError, AttributeError, csv.Error)


@dataclass(slots=True, eq=False)
class Span:
    """What the analysis of whole traces needs of a span. Times in ns since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str  # of no span in the trace: a root
    service: str
    name: str
    start: int
    end: int


@dataclass(slots=True)
class Skipped:
    """How many lines (of Jaeger's JSON: spans) of a file could not be read, and why the first could not."""

    count: int = 0
    first: str = ""

    def add(self, place: str, reason: object) -> None:
        """Count one."""
        self.count += 1
        self.first = self.first or f"{place}: {reason}"


def read(path: Path, skipped: Skipped) -> Iterator[Span]:
    """The spans of a file, in its order; what cannot be read of it is counted in ``skipped``.

    Raises ``SettingError`` for a file that cannot be opened or is cut off, and for an unknown format. Lines are read as
    they are asked for, 8 to 10 µs a span; Jaeger's JSON is one document and is read at once, about 3 kB a span.
    """
    try:
        with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as stream:
            yield from _spans(path, stream, skipped)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise SettingError(f"{path} cannot be read: {error}; is it there, whole, and rightly named?") from error


def _spans(path: Path, stream: TextIO, skipped: Skipped) -> Iterator[Span]:
    head = stream.read(HEAD) + stream.readline()
    lines = chain(io.StringIO(head, newline=""), stream)  # it may be a pipe, which cannot be rewound
    if _OTLP.search(head):
        return _otlp(lines, skipped)
    if head.lstrip().startswith("{") and '"traceID"' in head:
        return _jaeger(path, "".join(lines), skipped)
    return _csv(path, lines, skipped)


def _otlp(lines: Iterable[str], skipped: Skipped) -> Iterator[Span]:
    """What the Collector's file exporter and ``otel-perf export`` write; metrics and logs are passed over."""
    for number, line in enumerate(lines, 1):
        try:
            found = list(_otlp_spans(json.loads(line))) if line.strip() else []
        except _NOT_A_SPAN as error:
            skipped.add(f"line {number}", f"no OTLP JSON: {_said(error)}")
        else:
            yield from found


def _otlp_spans(document: dict[str, Any]) -> Iterator[Span]:
    for of_resource in document.get("resourceSpans", ()):
        attributes = of_resource.get("resource", {}).get("attributes", ())
        names = [pair["value"].get("stringValue", "") for pair in attributes if pair["key"] == "service.name"]
        service = intern(names[0] if names else UNKNOWN_SERVICE)
        for of_scope in of_resource.get("scopeSpans", ()):
            for span in of_scope.get("spans", ()):
                start = int(span.get("startTimeUnixNano", 0))  # what is empty or 0 is left out in JSON
                yield Span(
                    span["traceId"], span["spanId"], span.get("parentSpanId", ""), service,
                    intern(span.get("name", "")), start, max(start, int(span.get("endTimeUnixNano", 0))),
                )  # fmt: skip


def _jaeger(path: Path, text: str, skipped: Skipped) -> Iterator[Span]:
    """What Jaeger's page and its ``/api/traces`` give. Its times are in µs."""
    try:
        traces = json.loads(text)["data"]
    except _NOT_A_SPAN as error:
        raise SettingError(f"{path}: no Jaeger JSON: {_said(error)}; export the trace again") from error
    for trace in traces:
        for number, span in enumerate(trace.get("spans", ()), 1):
            try:
                start = int(span["startTime"]) * 1000
                found = Span(
                    span["traceID"], span["spanID"], _jaeger_parent(span),
                    intern(trace["processes"][span["processID"]]["serviceName"]), intern(span["operationName"]),
                    start, start + int(span["duration"]) * 1000,
                )  # fmt: skip
            except _NOT_A_SPAN as error:
                skipped.add(f"span {number} of trace {trace.get('traceID')}", f"no span of Jaeger's: {_said(error)}")
            else:
                yield found


def _jaeger_parent(span: dict[str, Any]) -> str:
    """The span that it is a child of; one that it only follows counts where there is no other."""
    references = sorted(span.get("references", ()), key=lambda reference: reference["refType"] != "CHILD_OF")
    return str(references[0]["spanID"]) if references else ""


def _csv(path: Path, lines: Iterable[str], skipped: Skipped) -> Iterator[Span]:
    rows = csv.reader(lines)
    header = next(rows, [])
    named = {re.sub("[^a-z0-9]", "", cell.lower()): index for index, cell in enumerate(header)}
    found = [next((name for name in names if name in named), "") for names in COLUMNS.values()]
    if "" in found:
        missing = [name for name, column in zip(COLUMNS, found, strict=True) if not column]
        raise SettingError(
            f"{path}: unknown format: line 1 is {','.join(header)[:60]!r}; give OTLP JSON lines, Jaeger JSON, or CSV"
            f" with a header (no column here is {', '.join(missing)})"
        )
    trace, span, parent, service, name, start, end = (named[column] for column in found)
    of_pods = "pod" in found[3]
    while True:
        try:
            row = next(rows)
            made = Span(
                row[trace], row[span], row[parent], service_of(row[service]) if of_pods else intern(row[service]),
                intern(row[name]), int(row[start]), int(row[end]),
            )  # fmt: skip
        except StopIteration:
            return
        except _NOT_A_SPAN as error:
            skipped.add(f"line {rows.line_num}", _said(error))
        else:
            yield made


def service_of(pod: str) -> str:
    """The service of a pod of Kubernetes: its name without the hashes of a Deployment or a StatefulSet's number."""
    return intern(_POD_SUFFIX.sub("", pod))


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, IndexError):
        return "columns are missing"
    return str(error)
