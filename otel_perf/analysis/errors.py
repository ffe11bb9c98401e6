"""The errors of a store, in groups: what was raised, and where."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from otel_perf.core.events import UNCAUGHT_ERROR
from otel_perf.core.owner import APP, owner

if TYPE_CHECKING:
    from otel_perf.analysis.otlp import LogEntry, SpanRecord

ERROR_SEVERITY: Final = 17
PARTS: Final = 2  # of a file's path that are shown

_FRAME: Final = re.compile(r'^[\s|]*File "(.+?)", line (\d+), in (.+)$', re.MULTILINE)
_TRACEBACK: Final = "Traceback (most recent call last):"
_SEPARATOR: Final = re.compile(r"[/\\]")
_STDLIB: Final = re.compile(r"[/\\]lib[/\\]python3\.\d+[/\\](?!(site|dist)-packages)")  # of another machine's Python
_OURS: Final = re.compile(r"[/\\]otel_perf[/\\]")


class ErrorGroup(BaseModel):
    """Errors of one type from one place of the app, or of one source (uncaught, in a span, logged) where none is known.

    The place is the app's innermost line, like ``shop/orders.py:12 in place``; ``source`` is that of the last one.
    """

    type: str
    source: str
    place: str
    count: int
    message: str
    trace_id: str
    last_ns: int


class Errors:
    """Groups errors. One exception passes through several spans and is logged as well: it counts once."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], ErrorGroup] = {}
        self._seen: set[tuple[str, str]] = set()  # trace and type of the exceptions that spans recorded
        self._plain: list[SpanRecord] = []  # spans that failed without an exception

    def add_span(self, span: SpanRecord) -> None:
        """Look at a span."""
        exceptions = [attributes for name, attributes in span.events if name == "exception"]
        for attributes in exceptions:
            key = (span.trace_id, short(attributes.get("exception.type")))
            if key not in self._seen:
                self._seen.add(key)
                self._add(attributes, f"span {span.name}", span.trace_id, span.end)
        if span.error and not exceptions:
            self._plain.append(span)

    def add_log(self, entry: LogEntry) -> None:
        """Look at a log record."""
        attributes, uncaught = entry.attributes, entry.event_name == UNCAUGHT_ERROR.name
        key = (entry.trace_id, short(attributes.get("exception.type")))
        if not (uncaught or entry.severity >= ERROR_SEVERITY) or (entry.trace_id and key in self._seen):
            return
        if uncaught:
            source = f"uncaught in {attributes.get('perf.error.source', '')}"
        else:
            source = f"log {entry.scope}"
            attributes = {
                "exception.type": attributes.get("exception.type") or entry.severity_text,
                "exception.message": attributes.get("exception.message") or entry.body,
                "exception.stacktrace": attributes.get("exception.stacktrace"),
            }
        self._add(attributes, source, entry.trace_id, entry.time)

    def _add(self, attributes: dict[str, object], source: str, trace_id: str, time: int) -> None:
        kind = str(attributes.get("exception.type") or "error")
        place = place_of(attributes.get("exception.stacktrace"))
        key = short(kind), place or source
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = ErrorGroup(
                type=kind, source=source, place=place, count=0, message="", trace_id="", last_ns=0
            )
        group.count += 1
        if time >= group.last_ns:
            group.last_ns, group.message = time, str(attributes.get("exception.message") or "")
            group.trace_id, group.source = trace_id, source

    def groups(self) -> list[ErrorGroup]:
        """Those with the most errors first."""
        traces = {trace_id for trace_id, _ in self._seen}
        for span in self._plain:
            if span.trace_id not in traces:
                attributes = {
                    "exception.type": span.attributes.get("error.type"),
                    "exception.message": span.status,
                }
                self._add(attributes, f"span {span.name}", span.trace_id, span.end)
        self._plain.clear()
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.type))


def short(kind: object) -> str:
    """``ValueError`` from ``builtins.ValueError``: spans qualify the name, log records do not."""
    return str(kind or "").rpartition(".")[2]


def place_of(stacktrace: object) -> str:
    """The app's innermost frame of a traceback as Python prints it, else the innermost that is not ours, or nothing.

    What we raise on the app's behalf (a signal that failed) has only our frames where its span ends: they are no place
    to look at. Of exceptions that were raised from others, those of the last one, which is the one that was seen.
    """
    text = str(stacktrace or "").rpartition(_TRACEBACK)[2]
    frames = _FRAME.findall(text)
    of_app = [frame for frame in frames if owner(frame[0]) == APP and _STDLIB.search(frame[0]) is None]
    of_others = [frame for frame in frames if not _OURS.search(frame[0])]
    if not of_app and not of_others:
        return ""
    path, line, function = (of_app or of_others)[-1]
    return f"{'/'.join(_SEPARATOR.split(path)[-PARTS:])}:{line} in {function}"
