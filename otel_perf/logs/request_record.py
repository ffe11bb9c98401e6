"""What is said of a request: its wide record, and the sums of which the summary is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry._logs import SeverityNumber
from opentelemetry.semconv.attributes import exception_attributes
from opentelemetry.trace import NonRecordingSpan, StatusCode, set_span_in_context

from otel_perf.core.census import SCOPE
from otel_perf.core.events import REQUEST
from otel_perf.core.numerals import digits
from otel_perf.logs.emit import Emitter
from otel_perf.logs.export import encodable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_perf.core.guard import Guard
    from otel_perf.logs.requests import Request

LEVELS: Final = ("debug", "info", "warn", "error", "fatal")
ROUTES: Final = 200  # summed up by name between two summaries; the others are "other"
LONGEST: Final = 1_000  # characters of a text

METHOD: Final = "http.request.method"
ROUTE: Final = "http.route"
STATUS: Final = "http.response.status_code"
PATH: Final = "url.path"
# What is copied from the span: the convention's name, and those of older conventions.
_COPIED: Final = {
    METHOD: (METHOD, "http.method"),
    ROUTE: (ROUTE,),
    STATUS: (STATUS, "http.status_code"),
    "error.type": ("error.type",),
    "rpc.system": ("rpc.system",),
    "rpc.service": ("rpc.service",),
    "rpc.method": ("rpc.method",),
    "rpc.grpc.status_code": ("rpc.grpc.status_code",),
    "messaging.system": ("messaging.system",),
    "messaging.destination.name": ("messaging.destination.name", "messaging.destination"),
    "celery.task_name": ("celery.task_name",),
    "perf.correlation.id": ("perf.correlation.id",),
    "perf.bottleneck.kinds": ("perf.bottleneck.kinds",),
    "perf.bottleneck.cost": ("perf.bottleneck.cost",),
    "perf.bottleneck.top": ("perf.bottleneck.top",),
}
_PATHS: Final = (PATH, "http.target", "url.full", "http.url")
_CALLS: Final = (
    ("db", "db_calls", "db_time"),
    ("http", "http_calls", "http_time"),
    ("other", "other_calls", "other_time"),
)


class Route:
    """Requests of one name since the last summary."""

    __slots__ = ("count", "failed", "longest", "time")

    def __init__(self) -> None:
        self.count = self.failed = 0
        self.time = self.longest = 0  # ns


class RequestRecords:
    """Counts requests and emits their records. Thread-safe; a forked child counts anew."""

    def __init__(self, guard: Callable[[], Guard]) -> None:
        self._guard = guard
        self._emitter = Emitter(SCOPE)
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """What the parent counted, the parent reports."""
        self.routes: dict[str, Route] = {}

    def take(self) -> dict[str, Route]:
        """What was counted since the last time."""
        routes, self.routes = self.routes, {}
        return routes

    def count(self, request: Request, span: Any) -> bool:
        """Add a request that has ended to its route; ``False`` if that failed."""
        try:
            attributes = attributes_of(span)
            name = _name(span, attributes)
            routes = self.routes
            route = routes.get(name)
            if route is None:
                route = routes.setdefault(name if len(routes) < ROUTES else "other", Route())
            duration = max(0, span._end_time - span._start_time)
            route.count += 1
            route.failed += _failed(span, attributes)
            route.time += duration
            route.longest = max(route.longest, duration)
            return True
        except Exception as error:
            self._guard().handle(error)
            return False

    def emit(self, request: Request, span: Any) -> None:
        """Emit its record. Never raises (but under strict). About 10 µs."""
        try:
            self._emit(request, span)
        except Exception as error:
            self._guard().handle(error)

    def _emit(self, request: Request, span: Any) -> None:
        given = attributes_of(span)
        attributes = record_of(request, span, given)
        failed = _failed(span, given)
        context = set_span_in_context(NonRecordingSpan(span.context))
        self._emitter.emit(
            REQUEST.name, attributes, context, span.context, timestamp=span._end_time,
            severity=SeverityNumber.ERROR if failed else SeverityNumber.INFO,
            severity_text="ERROR" if failed else "INFO", body=_sentence(span, given, attributes),
        )  # fmt: skip


def record_of(request: Request, span: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a request's record; what was not there, or is not known, is left out. Times in seconds."""
    found: dict[str, Any] = {
        "perf.request.name": encodable(span.name)[:LONGEST],
        "perf.request.kind": span.kind.name.lower(),
        "perf.request.duration": max(0, span._end_time - span._start_time) / 1e9,
        "perf.request.spans": request.spans,
        "perf.request.overlapping": request.overlapping,
    }
    for name, sources in _COPIED.items():
        value = next((given[source] for source in sources if source in given), None)
        if value is not None:
            found[name] = value
    if ROUTE not in found and METHOD in found:
        path = _path(given)
        if path:
            found[PATH] = path
    _count(request, found)
    exception = _exception(span) or request.error
    if exception is not None:
        found[exception_attributes.EXCEPTION_TYPE], found[exception_attributes.EXCEPTION_MESSAGE] = exception
    return found


def _count(request: Request, found: dict[str, Any]) -> None:
    """Put what was collected while it ran into its record."""
    for kind, calls, took in _CALLS:
        number = getattr(request, calls)
        if number:
            found[f"perf.request.{kind}.calls"] = number
            found[f"perf.request.{kind}.time"] = getattr(request, took) / 1e9
    for level, number in zip(LEVELS, request.lines, strict=True):
        if number:
            found[f"perf.request.logs.{level}"] = number
    if request.used >= 0:
        found["perf.request.cpu_time"] = request.used / 1e9
    if request.resident > 0:
        found["perf.request.memory.growth"] = request.grown
    looked_up = request.looked_up
    if looked_up is not None:
        found["perf.request.cache.hits"], found["perf.request.cache.misses"] = looked_up


def attributes_of(span: Any) -> Mapping[str, Any]:
    """The attributes of a span; the SDK's mapping itself takes three times as long as what it keeps them in."""
    try:
        kept: Mapping[str, Any] = span._attributes._dict
    except AttributeError:
        kept = span.attributes or {}
    return kept


def described(error: BaseException | None) -> tuple[str, str] | None:
    """Type and message of an exception. Never raises."""
    if error is None:
        return None
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = str(error)
    except Exception:
        text = f"<{kind.__name__} whose str() fails>"
    return encodable(name), encodable(text[:LONGEST])


def _exception(span: Any) -> tuple[str, str] | None:
    """The last exception that was recorded on the span itself."""
    for event in reversed(span.events):
        if event.name == "exception":
            attributes = event.attributes or {}
            kind = str(attributes.get(exception_attributes.EXCEPTION_TYPE, ""))
            message = str(attributes.get(exception_attributes.EXCEPTION_MESSAGE, ""))
            return encodable(kind), encodable(message[:LONGEST])
    return None


def _failed(span: Any, given: Mapping[str, Any]) -> bool:
    if span.status.status_code is StatusCode.ERROR:
        return True
    status = given.get(STATUS) or given.get("http.status_code")
    return isinstance(status, int) and status >= 500


def _name(span: Any, given: Mapping[str, Any]) -> str:
    """What requests are summed up by: never a path, of which there is no end."""
    method, route = given.get(METHOD) or given.get("http.method"), given.get(ROUTE)
    if method and route:
        return f"{method} {route}"
    return str(method) if method else encodable(span.name)[:120]


def _path(given: Mapping[str, Any]) -> str:
    """The path of its address, without the query, which may hold anything."""
    for name in _PATHS:
        value = given.get(name)
        if isinstance(value, str) and value:
            if "://" in value:
                value = "/" + value.partition("://")[2].partition("/")[2]
            return encodable(value.partition("?")[0].partition("#")[0])[:LONGEST]
    return ""


def _sentence(span: Any, given: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    name = _name(span, given)
    if ROUTE not in found and PATH in found:
        name = f"{name} {found[PATH]}"
    status = found.get(STATUS)
    failed = f" {found[exception_attributes.EXCEPTION_TYPE]}" if exception_attributes.EXCEPTION_TYPE in found else ""
    said = f" {status}" if status is not None else ""
    return f"{name}{said}{failed} in {digits(found['perf.request.duration'] * 1e3)} ms"
